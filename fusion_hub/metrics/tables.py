"""Names of the metrics and columns of papers' tables, without torch, so that a wrong name is refused at once."""

# fmt: off
METRIC_NAMES = (
    "EN", "SD", "SF", "AG", "EI", "EI_quarter", "MI", "MI_bits", "NMI", "CE", "CC", "SCD", "VIF", "VIFF", "Qabf",
    "Nabf", "Labf", "SSIM", "SSIM_cddfuse", "MS_SSIM", "MSE", "PSNR", "FMI_gray", "FMI_dct", "Qcv", "Qcb",
    "VIF_visible", "VIF_infrared", "SSIM_visible", "SSIM_infrared", "Qabf_visible", "Qabf_infrared",
    "SSIM_cddfuse_visible", "SSIM_cddfuse_infrared", "MS_SSIM_visible", "MS_SSIM_infrared", "MI_visible",
    "MI_infrared", "MI_bits_visible", "MI_bits_infrared", "NMI_visible", "NMI_infrared", "CC_visible", "CC_infrared",
    "MSE_visible", "MSE_infrared", "SCD_visible", "SCD_infrared",
)
"""Keys of `METRICS`, in its order."""

LEGACY_NAMES = (
    "SD_uint8", "SF01", "AG_inner", "MI_merged", "MSE01", "PSNR_plus48", "PSNR_max", "VIF_uint8", "Qabf01", "Nabf01",
    "Nabf_as_called", "SSIM_matlab", "MEF_SSIM", "MEF_MS_SSIM", "Qg", "Qabf_P", "Nabf_P",
)
# fmt: on
"""Keys of `LEGACY_METRICS`, in its order."""

CDDFUSE_METRICS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_cddfuse")
"""The eight columns of CDDFuse's tables, which most later papers repeat."""

CDDFUSE_EVALUATOR = (
    *("EN", "SD", "SF", "AG", "MI", "MSE"),
    *("CC", "PSNR_max", "SCD", "VIF", "Qabf", "SSIM_cddfuse"),
)
"""All twelve numbers of CDDFuse's evaluation program. Its PSNR takes the maximum of the fused image as peak."""

TABLES: dict[str, tuple[str, ...]] = {
    "cddfuse": CDDFUSE_METRICS,
    "cddfuse_evaluator": CDDFUSE_EVALUATOR,
    # EI, AG, SF, Qabf and VIFF of RED's tables (arXiv 2601.20260). Its EI is 2.5 times its AG: Sobel weights divided
    # by 4. Its VIFF of 0.93 beside a Qabf of 0.74 is the VIFp sum, not Han's VIFF. Both are inferred from the printed
    # numbers; its evaluation program is not public.
    "red": ("EI_quarter", "AG", "SF", "Qabf", "VIF"),
    # The columns that are known of DiffFuseNet's table (Pattern Recognition 180, 114259). The printed 7.19, 13.91,
    # 1.71, 0.80 and 0.63 are of the size of CDDFuse's tables, so these are that program's conventions; inferred, since
    # neither the program nor the data set of that row is public.
    "difffusenet": ("EN", "SF", "SCD", "VIF", "Qabf"),
    # The suite of SeAFusion and PIAFusion: tables with SD 8..11, SF below 0.1 and PSNR near 60.
    "seafusion": (
        *("EN", "MI_merged", "SD_uint8", "SF01", "AG_inner", "CC", "SCD", "MSE01", "PSNR_plus48", "VIF_uint8"),
        *("Qabf01", "Nabf01", "MEF_SSIM", "MEF_MS_SSIM"),
    ),
    # The later MATLAB suite of the same authors (Evaluation-for-Image-Fusion) on 0..255 data.
    "tang": (
        *("EN", "MI_merged", "SD", "SF", "AG_inner", "CC", "SCD", "MSE01", "PSNR_plus48", "VIF", "Qabf"),
        *("Nabf_as_called", "SSIM_matlab", "MEF_MS_SSIM"),
    ),
}
"""Columns of the tables in circulation, by names that say which convention each column has."""
