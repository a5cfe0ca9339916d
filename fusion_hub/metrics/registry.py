"""The tables of metrics: name, direction, range, convention and paper of each, and which papers print which columns.

`METRICS` holds the recommended conventions, each also for one source alone where both sources enter by a sum or a
mean. `LEGACY_METRICS` holds what other evaluation suites compute under the same names; nothing computes them unless
they are named. `TABLES` of `tables.py` says which of them a paper's table shows. Equations are in the docstrings of
the functions.

To add a metric, write its function and one entry of `_WHOLE`. Where both sources enter, add one entry of `PER_SOURCE`,
and `parts=_of_each(NAME)` where the metric is their sum. Add its names to `tables.py`. CONTRIBUTING.md has a checklist.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fusion_hub.metrics import correlation, fidelity, gradient, information, legacy
from fusion_hub.metrics._common import require_batch

BatchFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its function, and how to read it.

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
        require_batch(fused, visible, infrared)
        return self.function(fused, visible, infrared)


def _alone(function: Callable[[Tensor], Tensor]) -> BatchFunction:
    return lambda fused, visible, infrared: function(fused)


def _sum(function: Callable[[Tensor, Tensor], Tensor], divisor: float = 1) -> BatchFunction:
    """Sum of `function(fused, sources)` over both sources, divided by `divisor`."""
    return lambda fused, visible, infrared: function(fused, torch.stack([infrared, visible])).sum(0) / divisor


def _mean(function: Callable[[Tensor, Tensor], Tensor]) -> BatchFunction:
    return _sum(function, 2)


def _apart(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """`function` of one source, for several: one after the other, so that it needs no more memory."""
    return lambda fused, sources: torch.stack([function(fused, source) for source in sources])


def _of_source(function: Callable[[Tensor, Tensor], Tensor], index: int) -> BatchFunction:
    return lambda *images: function(images[0], images[index])


def _of_each(name: str) -> tuple[str, str]:
    return f"{name}_visible", f"{name}_infrared"


INF, LN2, ROOT2 = math.inf, math.log(2), math.sqrt(2)
_NOISE = "noise, sharpening, halos; a min-max stretch"
_COPY = "copying one source; pixel-wise maximum"
_STRETCHED_COPY = f"{_COPY}; contrast enhancement can exceed 1 for each source"
_MEAN = "the pixel-wise average"
_OPTIMUM = "the pixel-wise average, which is its optimum"
_LEVELS = "gray levels that predict those of a source"
_WINDOWS = "windows that predict those of a source"
_NEAR = "gray values near those of both sources"
_SSIM = "local brightness, contrast and structure of both sources"
_PETROVIC = ("0..255, weight 0.001 below strength 2", "Petrovic and Xydeas, 2005; Shreyamsha Kumar, 2013")
_FMI = ("3x3 windows, mean of both sources", "Haghighat and Razian, 2014", _WINDOWS, _COPY, 3)
_SCD = correlation.correlation_of_difference

# fmt: off
_WHOLE: dict[str, Metric] = {metric.name: metric for metric in (
    # Name, function, direction, range, convention,
    # paper, what raises the score, what raises it without a better fusion, smallest side, parts.
    #
    # Of the fused image alone
    Metric("EN", _alone(information.entropy), "up", (0, 8), "bits, 256 bins",
           "Roberts et al., 2008", "many gray levels, evenly used", "noise; histogram equalization"),
    Metric("SD", _alone(correlation.standard_deviation), "up", (0, 127.5), "population",
           "Rao, 1997", "global contrast", "a min-max stretch; copying the source of higher contrast"),
    Metric("SF", _alone(gradient.spatial_frequency), "up", (0, 255 * ROOT2),
           "0..255, mean over the differences that exist",
           "Eskicioglu and Fisher, 1995", "large differences of neighboring pixels", _NOISE),
    Metric("AG", _alone(gradient.average_gradient), "up", (0, 255), "0..255, divided by H W",
           "Cui et al., 2015", "steep gradients", _NOISE),
    Metric("EI", _alone(gradient.edge_intensity), "up", (0, 1020 * ROOT2), "integer Sobel weights, border replicated",
           "Rajalingam and Priya, 2018", "strong edges", _NOISE),
    Metric("EI_quarter", _alone(lambda f: gradient.edge_intensity(f) / 4), "up", (0, 255 * ROOT2),
           "EI / 4, the form of RED's table", "Rajalingam and Priya, 2018", "strong edges", _NOISE),
    # Of the fused image and both sources
    Metric("MI", _sum(information.mutual_information), "up", (0, 16 * LN2), "nats, sum over both sources",
           "Qu et al., 2002", _LEVELS, _COPY, parts=_of_each("MI")),
    Metric("MI_bits", _sum(information.mutual_information, LN2), "up", (0, 16), "bits, sum over both sources",
           "Qu et al., 2002", _LEVELS, _COPY, parts=_of_each("MI_bits")),
    Metric("NMI", _sum(information.normalized_mutual_information), "up", (0, 2),
           "each source's information over the mean of the two entropies, sum",
           "Hossny et al., 2008", _LEVELS, _COPY, parts=_of_each("NMI")),
    Metric("CE", _mean(information.cross_entropy), "down", (-INF, INF),
           "bits, mean of both sources, levels of both images only",
           "VIFB suite, 2020", "a histogram like those of the sources",
           "gray levels that no source has: they are skipped, so a constant image scores below 0"),
    Metric("CC", _mean(correlation.correlation), "up", (-1, 1), "mean of both sources",
           "Pearson", "gray values linear in those of both sources", _MEAN),
    Metric("SCD", lambda f, v, i: _SCD(f, i, v) + _SCD(f, v, i), "up", (-2, 2), "signed differences, sum",
           "Aslantas and Bendes, 2015", "what one source does not explain looks like the other",
           "a stretched average", parts=_of_each("SCD")),
    Metric("VIF", _sum(fidelity.vif), "up", (0, 2),
           "VIFp in double precision, valid windows, four scales, sum (VIFF in CDDFuse's program)",
           "Sheikh and Bovik, 2006", "local contrast of the sources, kept or raised", _STRETCHED_COPY,
           fidelity.VIF_MIN_SIDE, _of_each("VIF")),
    Metric("VIFF", fidelity.viff, "up", (0, 1), "pixel by pixel choice of the source; not the VIFp sum",
           "Han et al., 2013", "local contrast of the stronger source, kept or raised", "contrast enhancement",
           fidelity.VIF_MIN_SIDE),
    Metric("Qabf", gradient.edge_preservation, "up", (0, 1), "0..255 integers, border of zeros, angle not wrapped",
           "Xydeas and Petrovic, 2000", "edges of the sources with their strength and direction", _COPY),
    Metric("Nabf", gradient.fusion_artifacts, "down", (0, 1), *_PETROVIC,
           "no edge stronger than in both sources", "blur", 2),
    Metric("Labf", gradient.fusion_loss, "down", (0, 1), *_PETROVIC,
           "no edge weaker than in a source", "sharpening", 2),
    Metric("SSIM", _sum(fidelity.ssim), "up", (-2, 2),
           "11x11 Gaussian window of sigma 1.5, L = 255, sum over both sources",
           "Wang et al., 2004", _SSIM, _MEAN, 11, _of_each("SSIM")),
    Metric("SSIM_cddfuse", _sum(fidelity.ssim_cddfuse), "up", (-2, 2),
           "7x7 mean filter, L = 2, as in CDDFuse's tables, sum over both sources",
           "Wang et al., 2004; Zhao et al., 2023", f"{_SSIM}, sensor noise of flat areas included", _MEAN, 7,
           _of_each("SSIM_cddfuse")),
    Metric("MS_SSIM", _sum(fidelity.ms_ssim), "up", (0, 2), "five scales, L = 255, sum over both sources",
           "Wang, Simoncelli and Bovik, 2003", "structure of both sources at every scale", _MEAN,
           fidelity.MS_SSIM_MIN_SIDE, _of_each("MS_SSIM")),
    Metric("MSE", _mean(fidelity.mean_squared_error), "down", (0, 255**2), "0..255, mean of both sources",
           "standard", _NEAR, _OPTIMUM),
    Metric("PSNR", fidelity.peak_signal_to_noise, "up", (0, INF), "dB, peak 255, MSE of both sources",
           "standard", _NEAR, _OPTIMUM),
    Metric("FMI_gray", _mean(_apart(information.feature_mutual_information)), "up", (0, 1), *_FMI),
    Metric("FMI_dct", _mean(_apart(information.feature_mutual_information_dct)), "up", (0, 1), *_FMI),
    Metric("Qcv", fidelity.chen_varshney, "down", (0, INF), "16x16 blocks, alpha 5",
           "Chen and Varshney, 2007", "small visible differences where a source has edges",
           "copying the source of stronger edges"),
    Metric("Qcb", fidelity.chen_blum, "up", (0, 1), "difference-of-Gaussians filter",
           "Chen and Blum, 2009", "the perceived local contrast of the sources",
           "copying the source of higher local contrast"),
)}
# fmt: on

PER_SOURCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "VIF": fidelity.vif,
    "SSIM": fidelity.ssim,
    "Qabf": gradient.edge_preservation_source,
    "SSIM_cddfuse": fidelity.ssim_cddfuse,
    "MS_SSIM": fidelity.ms_ssim,
    "MI": information.mutual_information,
    "MI_bits": lambda fused, source: information.mutual_information(fused, source) / LN2,
    "NMI": information.normalized_mutual_information,
    "CC": correlation.correlation,
    "MSE": fidelity.mean_squared_error,
}
"""`function(fused, source)` of the metrics that are also reported for one source alone.

Both sources at once, `(2, B, 1, H, W)`, give `(2, B)`, and what depends on the fused image alone is computed only once.
"""


def _half(whole: Metric, source: str, function: BatchFunction) -> dict[str, Metric]:
    share = 2 if whole.parts else 1  # one of two terms of a sum has half its range; a mean has that of its terms
    name, (low, high) = f"{whole.name}_{source}", whole.range
    facts: dict[str, Any] = {"range": (low / share, high / share), "fooled_by": f"copying the {source} image"}
    facts["convention"] = f"{whole.convention}; the {source} image alone"
    return {name: replace(whole, name=name, function=function, parts=(), **facts)}


METRICS: dict[str, Metric] = dict(_WHOLE)
"""Every metric in its recommended convention: of the fused image, of both sources, of one source."""
for _name, _function in PER_SOURCE.items():
    METRICS |= _half(_WHOLE[_name], "visible", _of_source(_function, 1))
    METRICS |= _half(_WHOLE[_name], "infrared", _of_source(_function, 2))
METRICS |= _half(_WHOLE["SCD"], "visible", lambda f, v, i: _SCD(f, v, i))
METRICS |= _half(_WHOLE["SCD"], "infrared", lambda f, v, i: _SCD(f, i, v))


def _form(of: str, name: str, function: BatchFunction, range: tuple[float, float], text: str, side: int = 0) -> Metric:
    """Another convention of the metric `of`: its direction, paper and weaknesses, its own function and range."""
    whole = METRICS[of]
    facts: dict[str, Any] = {"range": range, "convention": text, "min_side": side or whole.min_side, "parts": ()}
    return replace(whole, name=name, function=function, **facts)


def _on_01(function: BatchFunction) -> BatchFunction:
    """`function` of images on 0..1.

    Ill-conditioned for Qabf and Nabf: equality of strengths, which counts as almost lost, and the strength 2 of the
    weights are decided by rounding. Published values of Qabf01 are met within 1 %, two programs of Nabf01 within 3 %.
    """
    return lambda *images: function(*(image.double() / 255 for image in images))


_MEF = ("Ma, Zeng and Wang, 2015", "the locally stronger structure of the two sources", "a pixel-wise maximum")
# fmt: off
LEGACY_METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    _form("SD", "SD_uint8", _alone(legacy.standard_deviation_uint8), (0, 16), "8-bit arithmetic, SeAFusion"),
    _form("SF", "SF01", _alone(lambda f: gradient.spatial_frequency(f) / 255), (0, ROOT2), "on 0..1, SeAFusion"),
    _form("AG", "AG_inner", _alone(legacy.average_gradient_inner), (0, 510), "divided by (H - 1)(W - 1), MATLAB", 2),
    _form("MI", "MI_merged", legacy.mutual_information_merged, (0, 16),
          "bits, levels 254 and 255 merged in the joint histogram, SeAFusion"),
    _form("MSE", "MSE01", lambda *images: METRICS["MSE"](*images) / 255**2, (0, 1), "on 0..1, SeAFusion"),
    _form("PSNR", "PSNR_plus48", lambda *images: METRICS["PSNR"](*images) + 20 * math.log10(255), (48, INF),
          "dB, 48.13 too large, SeAFusion"),
    _form("PSNR", "PSNR_max", legacy.peak_signal_to_noise_max, (-INF, INF), "dB, peak max(F), CDDFuse's evaluator"),
    _form("VIF", "VIF_uint8", _sum(lambda f, x: fidelity.vif(f, x, ceiling=255)), (0, 2),
          "squares saturate at 255 at scale 1, SeAFusion"),
    _form("Qabf", "Qabf01", _on_01(gradient.edge_preservation), (0, 1), "on 0..1, ill-conditioned, SeAFusion"),
    _form("Nabf", "Nabf01", _on_01(gradient.fusion_artifacts), (0, 1), "on 0..1, ill-conditioned, SeAFusion"),
    _form("Nabf", "Nabf_as_called", lambda f, v, i: gradient.fusion_artifacts(i, v, f), (0, 1),
          "arguments in the wrong order, Tang suite"),
    _form("SSIM", "SSIM_matlab", _mean(_apart(legacy.ssim_matlab)), (-1, 1),
          "border replicated, L = 1, mean of both, Tang suite", 1),
    Metric("MEF_SSIM", legacy.mef_ssim, "up", (-1, 1), "one scale; SSIM of the SeAFusion suite", *_MEF, 11),
    Metric("MEF_MS_SSIM", legacy.mef_ms_ssim, "up", (0, 1), "three scales; MS_SSIM of the MATLAB suites", *_MEF,
           legacy.MEF_MS_SSIM_MIN_SIDE),
    _form("Qabf", "Qg", legacy.edge_preservation_liu, (0, 1), "mean of per-pixel ratios, Z. Liu's toolbox"),
    _form("Qabf", "Qabf_P", legacy.edge_preservation_petrovic, (0, 1), "1 - Labf - Nabf, Petrovic 2005", 2),
    _form("Nabf", "Nabf_P", legacy.fusion_artifacts_petrovic, (0, 2), "Petrovic 2005, before its repair", 2),
)}
# fmt: on
"""What other suites compute under names of `METRICS`, to compare with their tables; not for new work."""


def find_metric(name: str) -> Metric:
    """The metric of that name, recommended or legacy; ValueError names the known ones.

    >>> find_metric("VIF").paper
    'Sheikh and Bovik, 2006'
    """
    metric = METRICS.get(name) or LEGACY_METRICS.get(name)
    if metric is None:
        raise ValueError(
            f"names has unknown metrics {[name]}: choose among {', '.join(METRICS)}; "
            f"or, as other suites have them, {', '.join(LEGACY_METRICS)}."
        )
    return metric
