"""Metrics of image fusion, in the conventions that the field's tables use.

Pure functions on `(B, 1, H, W)` tensors of grey values 0..255 live in `information`, `gradient`, `fidelity` and
`correlation`. The table `METRICS` gives each of them its name, direction, range, convention and paper.

    >>> evaluate_pair(fused, visible, infrared)                      # every metric of one pair
    >>> evaluate_pair(fused, visible, infrared, names=CDDFUSE_METRICS)
    >>> METRICS["VIF"](fused, visible, infrared)                     # a batch of tensors -> (B,)
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fusion_hub.metrics import correlation, fidelity, gradient, information
from fusion_hub.metrics._common import require_same_shape

__all__ = ["CDDFUSE_METRICS", "METRICS", "Metric", "evaluate_batch", "evaluate_pair"]

INF = math.inf


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
        min_side: both sides of the images must have at least so many pixels.
        parts: names of metrics whose sum this metric is.
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    direction: Literal["up", "down"]
    range: tuple[float, float]
    convention: str
    paper: str
    min_side: int = 1
    parts: tuple[str, ...] = ()

    def __call__(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        """Values `(B,)`, double, of a batch `(B, 1, H, W)` with values 0..255; ValueError where the shapes differ."""
        for name, image in (("fused", fused), ("visible", visible), ("infrared", infrared)):
            if image.ndim != 4 or image.shape[1] != 1:
                raise ValueError(f"{name} has shape {tuple(image.shape)}: metrics take (B, 1, H, W) luminance tensors.")
            require_same_shape(name, image, fused)
        return self.function(fused, visible, infrared)


def _fused_only(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda fused, visible, infrared: function(fused)


def _with_visible(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda fused, visible, infrared: function(fused, visible)


def _with_infrared(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda fused, visible, infrared: function(fused, infrared)


_SSIM = ("11x11 Gaussian window of sigma 1.5, L = 255", "Wang et al., 2004", 11)
_VIF = ("VIFp in double precision, valid windows, four scales", "Sheikh and Bovik, 2006", fidelity.VIF_MIN_SIDE)
_VIF_SUM = ("sum of the VIFp values of both sources (VIFF in CDDFuse's program)", *_VIF[1:])
_QABF = ("0..255 integers, border of zeros, angle not wrapped", "Xydeas and Petrovic, 2000")
_PETROVIC = ("0..255, weight 0.001 below strength 2", "Petrovic and Xydeas, 2005; Shreyamsha Kumar, 2013", 2)
_FMI = ("3x3 windows, mean of both sources", "Haghighat and Razian, 2014", 3)

# Fused image alone, then both sources, then one source.
_TABLE = (
    Metric("EN", _fused_only(information.entropy), "up", (0, 8), "bits, 256 bins", "Roberts et al., 2008"),
    Metric("SD", _fused_only(correlation.standard_deviation), "up", (0, 127.5), "population", "Rao, 1997"),
    Metric(
        "SF",
        _fused_only(gradient.spatial_frequency),
        "up",
        (0, 255 * math.sqrt(2)),
        "0..255, mean over the differences that exist",
        "Eskicioglu and Fisher, 1995",
    ),
    Metric("AG", _fused_only(gradient.average_gradient), "up", (0, 255), "0..255, divided by H W", "Cui et al., 2015"),
    Metric(
        "EI",
        _fused_only(gradient.edge_intensity),
        "up",
        (0, 1020 * math.sqrt(2)),
        "integer Sobel weights, border replicated",
        "Rajalingam and Priya, 2018",
    ),
    Metric(
        "EI_quarter",
        _fused_only(gradient.edge_intensity_quarter),
        "up",
        (0, 255 * math.sqrt(2)),
        "EI / 4, the form of RED's table",
        "Rajalingam and Priya, 2018",
    ),
    Metric("MI", information.mutual_information, "up", (0, 16 * math.log(2)), "nats, sum", "Qu et al., 2002"),
    Metric("MI_bits", information.mutual_information_bits, "up", (0, 16), "bits, sum", "Qu et al., 2002"),
    Metric(
        "NMI",
        information.normalised_mutual_information,
        "up",
        (0, 2),
        "each source's information over the mean of the two entropies",
        "Hossny et al., 2008",
    ),
    Metric("CE", information.cross_entropy, "down", (-INF, INF), "bits, mean of both sources", "VIFB suite, 2020"),
    Metric("CC", correlation.correlation, "up", (-1, 1), "mean of both sources", "Pearson"),
    Metric(
        "SCD",
        correlation.correlation_of_differences,
        "up",
        (-2, 2),
        "signed differences, sum",
        "Aslantas and Bendes, 2015",
    ),
    Metric("VIF", fidelity.vif, "up", (0, 2), *_VIF_SUM, parts=("VIF_visible", "VIF_infrared")),
    Metric(
        "VIFF",
        fidelity.viff,
        "up",
        (0, 1),
        "pixel by pixel choice of the source; not the VIFp sum",
        "Han et al., 2013",
        fidelity.VIF_MIN_SIDE,
    ),
    Metric("Qabf", gradient.edge_preservation, "up", (0, 1), *_QABF),
    Metric("Nabf", gradient.fusion_artefacts, "down", (0, 1), *_PETROVIC),
    Metric("Labf", gradient.fusion_loss, "down", (0, 1), *_PETROVIC),
    Metric(
        "SSIM",
        fidelity.ssim,
        "up",
        (-2, 2),
        "sum over both sources; " + _SSIM[0],
        *_SSIM[1:],
        parts=("SSIM_visible", "SSIM_infrared"),
    ),
    Metric(
        "SSIM_cddfuse",
        fidelity.ssim_cddfuse,
        "up",
        (-2, 2),
        "sum over both sources; 7x7 mean filter, L = 2, as in CDDFuse's tables",
        "Wang et al., 2004; Zhao et al., 2023",
        7,
    ),
    Metric(
        "MS_SSIM",
        fidelity.ms_ssim,
        "up",
        (0, 2),
        "sum over both sources; five scales, L = 255",
        "Wang, Simoncelli and Bovik, 2003",
        fidelity.MS_SSIM_MIN_SIDE,
    ),
    Metric("MSE", fidelity.mean_squared_error, "down", (0, 255**2), "0..255, mean of both sources", "standard"),
    Metric("PSNR", fidelity.peak_signal_to_noise, "up", (0, INF), "dB, peak 255, MSE of both sources", "standard"),
    Metric("FMI_gray", information.feature_mutual_information, "up", (0, 1), *_FMI),
    Metric("FMI_dct", information.feature_mutual_information_dct, "up", (0, 1), *_FMI),
    Metric("Qcv", fidelity.chen_varshney, "down", (0, INF), "16x16 blocks, alpha 5", "Chen and Varshney, 2007"),
    Metric("Qcb", fidelity.chen_blum, "up", (0, 1), "difference-of-Gaussians filter", "Chen and Blum, 2009"),
    Metric("VIF_visible", _with_visible(fidelity.vif_source), "up", (0, 1), *_VIF),
    Metric("VIF_infrared", _with_infrared(fidelity.vif_source), "up", (0, 1), *_VIF),
    Metric("SSIM_visible", _with_visible(fidelity.ssim_source), "up", (-1, 1), *_SSIM),
    Metric("SSIM_infrared", _with_infrared(fidelity.ssim_source), "up", (-1, 1), *_SSIM),
    Metric("Qabf_visible", _with_visible(gradient.edge_preservation_source), "up", (0, 1), *_QABF),
    Metric("Qabf_infrared", _with_infrared(gradient.edge_preservation_source), "up", (0, 1), *_QABF),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}

CDDFUSE_METRICS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM_cddfuse")
"""The eight columns of CDDFuse's tables, which most later papers repeat."""


def evaluate_pair(fused: Any, visible: Any, infrared: Any, names: Iterable[str] | None = None) -> dict[str, float]:
    """Metrics of one fused image.

    Args:
        fused, visible, infrared: 8-bit luminance of equal size: `(H, W)` arrays, grey PIL images, or `(H, W)` or
            `(1, 1, H, W)` tensors on any device. Any real dtype, but the values must be integers 0..255: metrics are
            defined on images as they are saved, and some (Qabf, MI) change a lot with unrounded values.
        names: keys of `METRICS`; None means all of them. Images too small for a named metric are an error; with None
            that metric is nan.

    Returns:
        `{name: value}` in the order of `names`. Undefined values (0/0, such as VIF of a source without any contrast)
        are nan, so average with `nanmean`. On one core and 640x480 the two FMI take a few seconds, all others
        together about one.

    Raises:
        ValueError: unknown name; wrong shape, size or values; image too small for a named metric.
        TypeError: not an array, tensor or grey image.
    """
    images = {"fused": fused, "visible": visible, "infrared": infrared}
    batch = {name: _single(name, image) for name, image in images.items()}
    return {name: value.item() for name, value in evaluate_batch(**batch, names=names).items()}


def evaluate_batch(
    fused: Tensor, visible: Tensor, infrared: Tensor, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """As `evaluate_pair`, for tensors `(B, 1, H, W)`: `{name: values (B,), double}` on the device of `fused`."""
    wanted = _check_names(names)
    for name, image in (("fused", fused), ("visible", visible), ("infrared", infrared)):
        if image.ndim != 4 or image.shape[1] != 1 or image.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(image.shape)}: pass non-empty luminance tensors (B, 1, H, W).")
        require_same_shape(name, image, fused)
        _require_8_bit(name, image)
    visible, infrared = visible.to(fused.device), infrared.to(fused.device)

    values: dict[str, Tensor] = {}

    def value(name: str) -> Tensor:
        metric = METRICS[name]
        if name not in values:
            if names is None and min(fused.shape[-2:]) < metric.min_side:
                values[name] = torch.full((len(fused),), math.nan, dtype=torch.float64, device=fused.device)
            elif metric.parts:
                values[name] = torch.stack([value(part) for part in metric.parts]).sum(0)
            else:
                values[name] = metric(fused, visible, infrared)
        return values[name]

    return {name: value(name) for name in wanted}


def _check_names(names: Iterable[str] | None) -> list[str]:
    wanted = list(METRICS) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise ValueError(f"names has unknown metrics {unknown}: choose among {', '.join(METRICS)}.")
    return wanted


def _single(name: str, image: Any) -> Tensor:
    """`(H, W)` array, grey picture or tensor, or `(1, 1, H, W)` tensor -> `(1, 1, H, W)` tensor."""
    if not isinstance(image, Tensor):
        array = np.asarray(image)
        if array.dtype.kind not in "uif":
            raise TypeError(
                f"{name} is {type(image).__name__} with dtype {array.dtype}: "
                "pass an 8-bit grey array, tensor or PIL image of mode L."
            )
        image = torch.from_numpy(array.astype(np.float64))
    if image.ndim == 2:
        image = image[None, None]
    if image.ndim != 4 or image.shape[:2] != (1, 1):
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}: pass the luminance of one image as (H, W) or (1, 1, H, W); "
            "convert colour to grey first, and use evaluate_batch for several images."
        )
    return image


def _require_8_bit(name: str, image: Tensor) -> None:
    if image.dtype == torch.bool or image.is_complex():
        raise ValueError(f"{name} has dtype {image.dtype}: pass grey values 0..255.")
    if image.dtype == torch.uint8:
        return
    if not bool(torch.isfinite(image).all()):
        raise ValueError(f"{name} has nan or infinite values: metrics need finite grey values 0..255.")
    low, high = image.min().item(), image.max().item()
    if low < 0 or high > 255:
        raise ValueError(f"{name} has values {low:g}..{high:g}: metrics need 8-bit grey values 0..255; scale it first.")
    if image.is_floating_point() and bool((image != image.round()).any()):
        raise ValueError(
            f"{name} has values {low:g}..{high:g} that are not integers: round to 8 bit first, "
            "(image * 255).round() for an image in [0, 1]."
        )
