"""The tables of metrics: name, direction, range, convention and paper of each, and which papers print which columns.

`METRICS` holds the recommended conventions, each also for one source alone where both sources enter by a sum or a
mean. `LEGACY_METRICS` holds what other evaluation suites compute under the same names; nothing computes them unless
they are named. `TABLES` says which of them a paper's table shows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fusion_hub.metrics import correlation, fidelity, gradient, information, legacy
from fusion_hub.metrics._common import require_same_shape

__all__ = ["CDDFUSE_EVALUATOR", "CDDFUSE_METRICS", "LEGACY_METRICS", "METRICS", "TABLES", "Metric", "find_metric"]

INF = math.inf
BatchFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """One metric: what it is called, what it computes, and how to read it.

    Attributes:
        name: name in tables and in `METRICS`.
        function: `(fused, visible, infrared)`, each `(B, 1, H, W)` with values 0..255 -> `(B,)` in double precision.
        direction: "up" where larger is better, "down" where smaller is better.
        range: smallest and largest possible (or, for ratios that contrast enhancement can exceed, usual) value.
        convention: which of the definitions in circulation this is.
        paper: where it comes from.
        rewards: what raises the score, in a few words.
        fooled_by: what raises the score without a better fusion, in a few words.
        min_side: both sides of the images must have at least so many pixels.
        parts: names of metrics whose sum this metric is.
    """

    name: str
    function: BatchFunction
    direction: Literal["up", "down"]
    range: tuple[float, float]
    convention: str
    paper: str
    rewards: str
    fooled_by: str
    min_side: int = 1
    parts: tuple[str, ...] = ()

    def __call__(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        """Values `(B,)`, double, of a batch `(B, 1, H, W)` with values 0..255; ValueError where the shapes differ."""
        for name, image in (("fused", fused), ("visible", visible), ("infrared", infrared)):
            if image.ndim != 4 or image.shape[1] != 1:
                raise ValueError(f"{name} has shape {tuple(image.shape)}: metrics take (B, 1, H, W) luminance tensors.")
            require_same_shape(name, image, fused)
        return self.function(fused, visible, infrared)


def _fused_only(function: Callable[[Tensor], Tensor]) -> BatchFunction:
    return lambda fused, visible, infrared: function(fused)


def _per_source(whole: Metric, function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Metric, Metric]:
    """The metric of each source alone, `NAME_visible` and `NAME_infrared`, from `function(fused, source)`."""
    visible, infrared = _halves(whole, lambda f, v, i: function(f, v), lambda f, v, i: function(f, i))
    return visible, infrared


def _halves(whole: Metric, of_visible: BatchFunction, of_infrared: BatchFunction) -> tuple[Metric, Metric]:
    share = 2 if whole.parts else 1  # one of two terms of a sum has half its range; a mean has that of its terms

    def half(source: str, function: BatchFunction) -> Metric:
        low, high = (bound / share for bound in whole.range)
        return Metric(
            name=f"{whole.name}_{source}",
            function=function,
            direction=whole.direction,
            range=(low, high),
            convention=f"{whole.convention}; the {source} image alone",
            paper=whole.paper,
            rewards=whole.rewards,
            fooled_by=f"copying the {source} image",
            min_side=whole.min_side,
        )

    return half("visible", of_visible), half("infrared", of_infrared)


def _sum(name: str) -> tuple[str, str]:
    return f"{name}_visible", f"{name}_infrared"


# --- of the fused image alone ----------------------------------------------------------------------------------------

_STRETCH = "a min-max stretch, sharpening, noise"
_NOISE = "noise, sharpening, halos; a min-max stretch"
_COPY = "copying one source; pixel-wise maximum"

_FUSED = (
    Metric(
        "EN",
        _fused_only(information.entropy),
        "up",
        (0, 8),
        "bits, 256 bins",
        "Roberts et al., 2008",
        "many grey levels, evenly used",
        "noise; histogram equalisation",
    ),
    Metric(
        "SD",
        _fused_only(correlation.standard_deviation),
        "up",
        (0, 127.5),
        "population",
        "Rao, 1997",
        "global contrast",
        "a min-max stretch; copying the source of higher contrast",
    ),
    Metric(
        "SF",
        _fused_only(gradient.spatial_frequency),
        "up",
        (0, 255 * math.sqrt(2)),
        "0..255, mean over the differences that exist",
        "Eskicioglu and Fisher, 1995",
        "large differences of neighbouring pixels",
        _NOISE,
    ),
    Metric(
        "AG",
        _fused_only(gradient.average_gradient),
        "up",
        (0, 255),
        "0..255, divided by H W",
        "Cui et al., 2015",
        "steep gradients",
        _NOISE,
    ),
    Metric(
        "EI",
        _fused_only(gradient.edge_intensity),
        "up",
        (0, 1020 * math.sqrt(2)),
        "integer Sobel weights, border replicated",
        "Rajalingam and Priya, 2018",
        "strong edges",
        _NOISE,
    ),
    Metric(
        "EI_quarter",
        _fused_only(gradient.edge_intensity_quarter),
        "up",
        (0, 255 * math.sqrt(2)),
        "EI / 4, the form of RED's table",
        "Rajalingam and Priya, 2018",
        "strong edges",
        _NOISE,
    ),
)

# --- of the fused image and both sources -----------------------------------------------------------------------------

_MI = (information.mutual_information, "Qu et al., 2002", "grey levels that predict those of a source", _COPY)
_SSIM_REWARDS = "local brightness, contrast and structure of both sources"
_MEAN = "the pixel-wise average"
_PETROVIC = ("0..255, weight 0.001 below strength 2", "Petrovic and Xydeas, 2005; Shreyamsha Kumar, 2013")
_FMI = ("3x3 windows, mean of both sources", "Haghighat and Razian, 2014", "windows that predict those of a source")

_BOTH = (
    Metric("MI", _MI[0], "up", (0, 16 * math.log(2)), "nats, sum over both sources", *_MI[1:], parts=_sum("MI")),
    Metric(
        "MI_bits",
        information.mutual_information_bits,
        "up",
        (0, 16),
        "bits, sum over both sources",
        *_MI[1:],
        parts=_sum("MI_bits"),
    ),
    Metric(
        "NMI",
        information.normalised_mutual_information,
        "up",
        (0, 2),
        "each source's information over the mean of the two entropies, sum",
        "Hossny et al., 2008",
        *_MI[2:],
        parts=_sum("NMI"),
    ),
    Metric(
        "CE",
        information.cross_entropy,
        "down",
        (-INF, INF),
        "bits, mean of both sources, levels of both images only",
        "VIFB suite, 2020",
        "a histogram like those of the sources",
        "grey levels that no source has: they are skipped, so a constant image scores below 0",
    ),
    Metric(
        "CC",
        correlation.correlation,
        "up",
        (-1, 1),
        "mean of both sources",
        "Pearson",
        "grey values linear in those of both sources",
        _MEAN,
    ),
    Metric(
        "SCD",
        correlation.correlation_of_differences,
        "up",
        (-2, 2),
        "signed differences, sum",
        "Aslantas and Bendes, 2015",
        "what one source does not explain looks like the other",
        "a stretched average",
        parts=_sum("SCD"),
    ),
    Metric(
        "VIF",
        fidelity.vif,
        "up",
        (0, 2),
        "VIFp in double precision, valid windows, four scales, sum (VIFF in CDDFuse's program)",
        "Sheikh and Bovik, 2006",
        "local contrast of the sources, kept or raised",
        f"{_COPY}; contrast enhancement can exceed 1 for each source",
        fidelity.VIF_MIN_SIDE,
        _sum("VIF"),
    ),
    Metric(
        "VIFF",
        fidelity.viff,
        "up",
        (0, 1),
        "pixel by pixel choice of the source; not the VIFp sum",
        "Han et al., 2013",
        "local contrast of the stronger source, kept or raised",
        "contrast enhancement",
        fidelity.VIF_MIN_SIDE,
    ),
    Metric(
        "Qabf",
        gradient.edge_preservation,
        "up",
        (0, 1),
        "0..255 integers, border of zeros, angle not wrapped",
        "Xydeas and Petrovic, 2000",
        "edges of the sources with their strength and direction",
        _COPY,
    ),
    Metric(
        "Nabf",
        gradient.fusion_artefacts,
        "down",
        (0, 1),
        *_PETROVIC,
        "no edge stronger than in both sources",
        "blur",
        2,
    ),
    Metric(
        "Labf",
        gradient.fusion_loss,
        "down",
        (0, 1),
        *_PETROVIC,
        "no edge weaker than in a source",
        "sharpening",
        2,
    ),
    Metric(
        "SSIM",
        fidelity.ssim,
        "up",
        (-2, 2),
        "11x11 Gaussian window of sigma 1.5, L = 255, sum over both sources",
        "Wang et al., 2004",
        _SSIM_REWARDS,
        _MEAN,
        11,
        _sum("SSIM"),
    ),
    Metric(
        "SSIM_cddfuse",
        fidelity.ssim_cddfuse,
        "up",
        (-2, 2),
        "7x7 mean filter, L = 2, as in CDDFuse's tables, sum over both sources",
        "Wang et al., 2004; Zhao et al., 2023",
        f"{_SSIM_REWARDS}, sensor noise of flat areas included",
        _MEAN,
        7,
        _sum("SSIM_cddfuse"),
    ),
    Metric(
        "MS_SSIM",
        fidelity.ms_ssim,
        "up",
        (0, 2),
        "five scales, L = 255, sum over both sources",
        "Wang, Simoncelli and Bovik, 2003",
        "structure of both sources at every scale",
        _MEAN,
        fidelity.MS_SSIM_MIN_SIDE,
        _sum("MS_SSIM"),
    ),
    Metric(
        "MSE",
        fidelity.mean_squared_error,
        "down",
        (0, 255**2),
        "0..255, mean of both sources",
        "standard",
        "grey values near those of both sources",
        "the pixel-wise average, which is its optimum",
    ),
    Metric(
        "PSNR",
        fidelity.peak_signal_to_noise,
        "up",
        (0, INF),
        "dB, peak 255, MSE of both sources",
        "standard",
        "grey values near those of both sources",
        "the pixel-wise average, which is its optimum",
    ),
    Metric("FMI_gray", information.feature_mutual_information, "up", (0, 1), *_FMI, _COPY, 3),
    Metric("FMI_dct", information.feature_mutual_information_dct, "up", (0, 1), *_FMI, _COPY, 3),
    Metric(
        "Qcv",
        fidelity.chen_varshney,
        "down",
        (0, INF),
        "16x16 blocks, alpha 5",
        "Chen and Varshney, 2007",
        "small visible differences where a source has edges",
        "copying the source of stronger edges",
    ),
    Metric(
        "Qcb",
        fidelity.chen_blum,
        "up",
        (0, 1),
        "difference-of-Gaussians filter",
        "Chen and Blum, 2009",
        "the perceived local contrast of the sources",
        "copying the source of higher local contrast",
    ),
)
_WHOLE = {metric.name: metric for metric in (*_FUSED, *_BOTH)}

# --- of the fused image and one source -------------------------------------------------------------------------------

_SOURCES = (
    *_per_source(_WHOLE["VIF"], fidelity.vif_source),
    *_per_source(_WHOLE["SSIM"], fidelity.ssim_source),
    *_per_source(_WHOLE["Qabf"], gradient.edge_preservation_source),
    *_per_source(_WHOLE["SSIM_cddfuse"], fidelity.ssim_cddfuse_source),
    *_per_source(_WHOLE["MS_SSIM"], fidelity.ms_ssim_source),
    *_per_source(_WHOLE["MI"], information.mutual_information_source),
    *_per_source(_WHOLE["MI_bits"], information.mutual_information_bits_source),
    *_per_source(_WHOLE["NMI"], information.normalised_mutual_information_source),
    *_per_source(_WHOLE["CC"], correlation.correlation_source),
    *_per_source(_WHOLE["MSE"], fidelity.mean_squared_error_source),
    *_halves(
        _WHOLE["SCD"],
        lambda f, v, i: correlation.correlation_of_difference(f, source=v, other=i),
        lambda f, v, i: correlation.correlation_of_difference(f, source=i, other=v),
    ),
)
METRICS: dict[str, Metric] = _WHOLE | {metric.name: metric for metric in _SOURCES}
"""Every metric in its recommended convention: of the fused image, of both sources, of one source."""


# --- what other suites compute ---------------------------------------------------------------------------------------


def _other_form(
    of: str,
    name: str,
    function: BatchFunction,
    range: tuple[float, float],
    convention: str,
    min_side: int | None = None,
) -> Metric:
    """Another convention of the metric `of`: its direction, paper and weaknesses, its own function and range."""
    whole = METRICS[of]
    return Metric(
        name=name,
        function=function,
        direction=whole.direction,
        range=range,
        convention=convention,
        paper=whole.paper,
        rewards=whole.rewards,
        fooled_by=whole.fooled_by,
        min_side=whole.min_side if min_side is None else min_side,
    )


_MEF = ("Ma, Zeng and Wang, 2015", "the locally stronger structure of the two sources", "a pixel-wise maximum")
_LEGACY_TABLE = (
    _other_form("SD", "SD_uint8", _fused_only(legacy.standard_deviation_uint8), (0, 16), "8-bit arithmetic, SeAFusion"),
    _other_form("SF", "SF01", _fused_only(legacy.spatial_frequency_01), (0, math.sqrt(2)), "on 0..1, SeAFusion"),
    _other_form(
        "AG", "AG_inner", _fused_only(legacy.average_gradient_inner), (0, 510), "divided by (H - 1)(W - 1), MATLAB", 2
    ),
    _other_form(
        "MI",
        "MI_merged",
        legacy.mutual_information_merged,
        (0, 16),
        "bits, levels 254 and 255 merged in the joint histogram, SeAFusion",
    ),
    _other_form("MSE", "MSE01", legacy.mean_squared_error_01, (0, 1), "on 0..1, SeAFusion"),
    _other_form("PSNR", "PSNR_plus48", legacy.peak_signal_to_noise_plus48, (48, INF), "dB, 48.13 too large, SeAFusion"),
    _other_form(
        "PSNR", "PSNR_max", legacy.peak_signal_to_noise_max, (-INF, INF), "dB, peak max(F), CDDFuse's evaluator"
    ),
    _other_form("VIF", "VIF_uint8", legacy.vif_uint8, (0, 2), "squares saturate at 255 at scale 1, SeAFusion"),
    _other_form("Qabf", "Qabf01", legacy.edge_preservation_01, (0, 1), "on 0..1, ill-conditioned, SeAFusion"),
    _other_form("Nabf", "Nabf01", legacy.fusion_artefacts_01, (0, 1), "on 0..1, ill-conditioned, SeAFusion"),
    _other_form(
        "Nabf", "Nabf_as_called", legacy.fusion_artefacts_as_called, (0, 1), "arguments in the wrong order, Tang suite"
    ),
    _other_form(
        "SSIM", "SSIM_matlab", legacy.ssim_matlab, (-1, 1), "border replicated, L = 1, mean of both, Tang suite", 1
    ),
    Metric("MEF_SSIM", legacy.mef_ssim, "up", (-1, 1), "one scale; SSIM of the SeAFusion suite", *_MEF, 11),
    Metric(
        "MEF_MS_SSIM",
        legacy.mef_ms_ssim,
        "up",
        (0, 1),
        "three scales; MS_SSIM of the MATLAB suites",
        *_MEF,
        legacy.MEF_MS_SSIM_MIN_SIDE,
    ),
    _other_form("Qabf", "Qg", legacy.edge_preservation_liu, (0, 1), "mean of per-pixel ratios, Z. Liu's toolbox"),
    _other_form("Qabf", "Qabf_P", legacy.edge_preservation_petrovic, (0, 1), "1 - Labf - Nabf, Petrovic 2005", 2),
    _other_form("Nabf", "Nabf_P", legacy.fusion_artefacts_petrovic, (0, 2), "Petrovic 2005, before its repair", 2),
)
LEGACY_METRICS: dict[str, Metric] = {metric.name: metric for metric in _LEGACY_TABLE}
"""What other suites compute under names of `METRICS`, to compare with their tables; not for new work."""


def find_metric(name: str) -> Metric:
    """The metric of that name, recommended or legacy; ValueError names the known ones."""
    metric = METRICS.get(name) or LEGACY_METRICS.get(name)
    if metric is None:
        raise ValueError(
            f"names has unknown metrics {[name]}: choose among {', '.join(METRICS)}; "
            f"or, as other suites have them, {', '.join(LEGACY_METRICS)}."
        )
    return metric


# --- which paper prints which ----------------------------------------------------------------------------------------

CDDFUSE_METRICS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_cddfuse")
"""The eight columns of CDDFuse's tables, which most later papers repeat."""

CDDFUSE_EVALUATOR = (
    *("EN", "SD", "SF", "AG", "MI", "MSE"),
    *("CC", "PSNR_max", "SCD", "VIF", "Qabf", "SSIM_cddfuse"),
)
"""All twelve numbers of CDDFuse's evaluation program. Its PSNR takes the maximum of the fused image as peak."""

RED_METRICS = ("EI_quarter", "AG", "SF", "Qabf", "VIF")
"""The columns EI, AG, SF, Qabf and VIFF of RED's tables (arXiv 2601.20260).

Its EI is 2.5 times its AG: Sobel weights divided by 4. Its VIFF of 0.93 beside a Qabf of 0.74 is the VIFp sum, not
Han's VIFF. Both are inferred from the printed numbers; its evaluation program is not public.
"""

DIFFFUSENET_METRICS = ("EN", "SF", "SCD", "VIF", "Qabf")
"""The columns EN, SF, SCD, VIF and Qabf that are known of DiffFuseNet's table (Pattern Recognition 180, 114259).

The printed 7.19, 13.91, 1.71, 0.80 and 0.63 are of the size of CDDFuse's tables, so these are that program's
conventions; inferred, since neither the program nor the data set of that row is public.
"""

SEAFUSION_METRICS = (
    *("EN", "MI_merged", "SD_uint8", "SF01", "AG_inner", "CC", "SCD", "MSE01", "PSNR_plus48", "VIF_uint8"),
    *("Qabf01", "Nabf01", "MEF_SSIM", "MEF_MS_SSIM"),
)
"""The evaluation suite of SeAFusion and PIAFusion: tables with SD 8..11, SF below 0.1 and PSNR near 60."""

TANG_METRICS = (
    *("EN", "MI_merged", "SD", "SF", "AG_inner", "CC", "SCD", "MSE01", "PSNR_plus48", "VIF"),
    *("Qabf", "Nabf_as_called", "SSIM_matlab", "MEF_MS_SSIM"),
)
"""The later MATLAB suite of the same authors (Evaluation-for-Image-Fusion) on 0..255 data."""

TABLES: dict[str, tuple[str, ...]] = {
    "cddfuse": CDDFUSE_METRICS,
    "cddfuse_evaluator": CDDFUSE_EVALUATOR,
    "red": RED_METRICS,
    "difffusenet": DIFFFUSENET_METRICS,
    "seafusion": SEAFUSION_METRICS,
    "tang": TANG_METRICS,
}
"""Columns of the tables in circulation, by names that say which convention each column has."""
