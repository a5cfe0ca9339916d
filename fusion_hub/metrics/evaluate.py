"""Metrics of one pair or of a batch, with checks of the images."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_hub.metrics._common import require_batch
from fusion_hub.metrics.registry import METRICS, PER_SOURCE, find_metric


def evaluate_pair(fused: Any, visible: Any, infrared: Any, names: Iterable[str] | None = None) -> dict[str, float]:
    """Metrics of one fused image.

    Args:
        fused, visible, infrared: 8-bit luminance of equal size: `(H, W)` arrays, gray PIL images, or `(H, W)` or
            `(1, 1, H, W)` tensors on any device. Any real dtype, but the values must be integers 0..255: metrics are
            defined on images as they are saved, and some (Qabf, MI) change a lot with unrounded values.
        names: keys of `METRICS` or `LEGACY_METRICS`; None means all of `METRICS`. Images too small for a named metric
            are an error; with None that metric is nan.

    Returns:
        `{name: value}` in the order of `names`. Undefined values (0/0) are nan, so average with `nanmean`: VIF where
        a source has no contrast, Qabf and Qcv where both sources are black. PSNR of three equal images is inf. On
        one core and 640x480 the two FMI take about a second each, all others together half of one.

    Raises:
        ValueError: unknown name; wrong shape, size or values; image too small for a named metric.
        TypeError: not an array, tensor or gray image.

    Example:
        >>> visible = np.arange(256, dtype=np.uint8).reshape(16, 16)
        >>> evaluate_pair(visible, visible, 255 - visible, names=["EN", "CC", "MSE_visible"])
        {'EN': 8.0, 'CC': 0.0, 'MSE_visible': 0.0}
    """
    images = {"fused": fused, "visible": visible, "infrared": infrared}
    batch = {name: _single(name, image) for name, image in images.items()}
    return {name: value.item() for name, value in evaluate_batch(**batch, names=names).items()}


def evaluate_batch(
    fused: Tensor, visible: Tensor, infrared: Tensor, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """As `evaluate_pair`, for tensors `(B, 1, H, W)`: `{name: values (B,), double}` on the device of `fused`.

    >>> visible = torch.arange(256).view(1, 1, 16, 16)
    >>> evaluate_batch(visible, visible, 255 - visible, names=["EN"])
    {'EN': tensor([8.], dtype=torch.float64)}
    """
    wanted = list(METRICS) if names is None else [names] if isinstance(names, str) else list(names)
    metrics = {name: find_metric(name) for name in wanted}
    require_batch(fused, visible, infrared)
    images = [
        _checked(name, image, fused.device)
        for name, image in (("fused", fused), ("visible", visible), ("infrared", infrared))
    ]
    values: dict[str, Tensor] = {}

    def value(name: str) -> Tensor:
        metric = find_metric(name)
        if name not in values:
            if names is None and min(fused.shape[-2:]) < metric.min_side:
                values[name] = torch.full((len(fused),), math.nan, dtype=torch.float64, device=fused.device)
            elif metric.parts:
                if name in PER_SOURCE:
                    both = PER_SOURCE[name](images[0], torch.stack(images[1:]))
                    values.update(zip(metric.parts, both, strict=True))
                values[name] = torch.stack([value(part) for part in metric.parts]).sum(0)
            else:
                values[name] = metric(*images)
        return values[name]

    for name in sorted(metrics, key=lambda name: not metrics[name].parts):
        value(name)  # sums first, since they give their parts too
    return {name: values[name] for name in metrics}


def _single(name: str, image: Any) -> Tensor:
    """`(H, W)` array, gray picture or tensor, or `(1, 1, H, W)` tensor -> `(1, 1, H, W)` tensor."""
    if not isinstance(image, Tensor):
        array = np.array(image, order="C")  # a copy, since a tensor cannot share memory that is read-only
        if array.dtype.kind not in "uif":
            raise TypeError(
                f"{name} is {type(image).__name__} with dtype {array.dtype}: "
                "pass an 8-bit gray array, tensor or PIL image of mode L."
            )
        image = torch.from_numpy(array if array.dtype == np.uint8 else array.astype(np.float64))
    if image.ndim == 2:
        image = image[None, None]
    if image.ndim != 4 or image.shape[:2] != (1, 1):
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}: pass the luminance of one image as (H, W) or (1, 1, H, W); "
            "convert color to gray first, and use evaluate_batch for several images."
        )
    return image


def _checked(name: str, image: Tensor, device: torch.device) -> Tensor:
    """The image as uint8 on `device`; ValueError unless it is integers 0..255."""
    if image.dtype == torch.bool or image.is_complex():
        raise ValueError(f"{name} has dtype {image.dtype}: pass gray values 0..255.")
    if image.dtype == torch.uint8:
        return image.to(device)
    image = image.to(device, torch.float64)
    low, high = (extreme.item() for extreme in image.aminmax())
    if not math.isfinite(high - low):  # both are nan if any value is
        raise ValueError(f"{name} has nan or infinite values: metrics need finite gray values 0..255.")
    if low < 0 or high > 255:
        raise ValueError(
            f"{name} has values {low:g}..{high:g}: metrics are defined on 8-bit gray values 0..255; "
            "convert first, (image / 257).round() for a 16-bit image."
        )
    levels = image.byte()
    if bool((levels != image).any()):
        raise ValueError(
            f"{name} has values {low:g}..{high:g} that are not integers: round to 8 bit first, "
            "(image * 255).round() for an image in [0, 1]."
        )
    return levels
