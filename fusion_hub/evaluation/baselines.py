"""Fusion rules without a network, shown with every model: average, maximum, Laplacian pyramid, guided filter.

Every function takes the luminance pair `visible`, `infrared`: `(B, 1, H, W)` float tensors in [0, 1] of equal shape,
any size from 1x1 up, and returns the fused `(B, 1, H, W)` in [0, 1] with the dtype and device of the input.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.image.luminance import quantize

__all__ = ["BASELINES", "average", "fuse_levels", "fuse_plane", "guided_filter", "laplacian", "maximum"]


def average(visible: Tensor, infrared: Tensor) -> Tensor:
    """Mean of the two sources, pixel by pixel."""
    _check(visible, infrared)
    return (visible + infrared) / 2


def maximum(visible: Tensor, infrared: Tensor) -> Tensor:
    """Brighter of the two sources, pixel by pixel."""
    _check(visible, infrared)
    return torch.maximum(visible, infrared)


def laplacian(visible: Tensor, infrared: Tensor, levels: int = 4) -> Tensor:
    """Laplacian pyramid (Burt and Adelson, 1983): at each of `levels` levels the detail of larger magnitude
    (infrared on ties), at the top the mean. Small images get fewer levels: none below 2 pixels a side.
    """
    _check(visible, infrared)
    a, b = infrared, visible
    details = []
    for _ in range(levels):
        if min(a.shape[-2:]) < 2:
            break
        small_a, small_b = (_smooth(x)[..., ::2, ::2] for x in (a, b))
        detail_a, detail_b = a - _expand(small_a, a), b - _expand(small_b, b)
        details.append(torch.where(detail_a.abs() >= detail_b.abs(), detail_a, detail_b))
        a, b = small_a, small_b
    fused = (a + b) / 2
    for detail in reversed(details):
        fused = detail + _expand(fused, detail)
    return fused.clamp(0, 1)


def guided_filter(visible: Tensor, infrared: Tensor) -> Tensor:
    """GFF: base and detail weighted by guided-filtered saliency maps (Li, Kang and Hu, 2013), the paper's values.

    Base: mean filter 31x31 (eq. 6). Saliency: Gaussian 11x11, sigma 5, of |Laplacian| (eqs. 8, 9). Weights: 1 where
    the source is the more salient one (eq. 10), then guided by that source with r 45, eps 0.3 for the base and r 7,
    eps 1e-6 for the detail (eqs. 11, 12), and normalized to sum 1 (eqs. 13 to 15).
    """
    _check(visible, infrared)
    a, b = infrared.double(), visible.double()  # eps 1e-6 needs exact local variances
    a_wins = (_saliency(a) >= _saliency(b)).double()
    fused = torch.zeros_like(a)
    base_a, base_b = _box_mean(a, 15), _box_mean(b, 15)
    for (x, y), radius, eps in (((base_a, base_b), 45, 0.3), ((a - base_a, b - base_b), 7, 1e-6)):
        # Guided weights may leave [0, 1] by a little; clamped they cannot cancel each other.
        weight_a = _guided(a, a_wins, radius, eps).clamp(0, 1)
        weight_b = _guided(b, 1 - a_wins, radius, eps).clamp(0, 1)
        share = weight_a / (weight_a + weight_b).clamp(min=1e-12)
        fused = fused + share * x + (1 - share) * y
    return fused.clamp(0, 1).to(visible.dtype)


BASELINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "average": average,
    "maximum": maximum,
    "laplacian": laplacian,
    "guided_filter": guided_filter,
}


def fuse_levels(rule: str, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """A rule of [`BASELINES`] on 8-bit luminance `(H, W)`, in float64, as `(H, W)` uint8.

    Exact halves, which every second pixel of an average is, go to the even level, as in published tables.

    Examples:
        >>> fuse_levels("average", np.array([[1, 2]], dtype=np.uint8), np.array([[2, 3]], dtype=np.uint8))
        array([[2, 2]], dtype=uint8)
    """
    return quantize(fuse_plane(rule, visible, infrared), ties="even")


def fuse_plane(rule: str, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """The same before it is rounded: `(H, W)` float64 in [0, 1]."""
    unit = (torch.from_numpy(levels / 255)[None, None] for levels in (visible, infrared))
    return BASELINES[rule](*unit)[0, 0].numpy()


def _check(visible: Tensor, infrared: Tensor) -> None:
    if visible.shape != infrared.shape or visible.ndim != 4 or visible.shape[1] != 1:
        raise ValueError(
            f"visible has shape {tuple(visible.shape)} and infrared {tuple(infrared.shape)}: "
            "pass two luminance tensors of one shape (B, 1, H, W)."
        )


def _smooth(x: Tensor) -> Tensor:
    """Separable [1 4 6 4 1] / 16 with a mirrored border, replicated where a side is too short to mirror."""
    kernel = x.new_tensor([1, 4, 6, 4, 1]) / 16
    mode = "reflect" if min(x.shape[-2:]) > 2 else "replicate"
    x = F.pad(x, (2, 2, 2, 2), mode=mode)
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, 5, 1)), kernel.view(1, 1, 1, 5))


def _expand(x: Tensor, like: Tensor) -> Tensor:
    """Twice the size (that of `like`): zeros in between, smoothed, and divided by the share of non-zeros."""
    spread = torch.zeros_like(like)
    spread[..., ::2, ::2] = 4 * x
    return _smooth(spread)


def _box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over a square of side 2 radius + 1, over the part inside the image; cost independent of the radius."""
    for dim in (-2, -1):
        n = x.shape[dim]
        edges = torch.arange(-radius, n + radius + 1, device=x.device).clamp(0, n)
        sums = torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x.cumsum(dim)], dim).index_select(dim, edges)
        window = sums.narrow(dim, 2 * radius + 1, n) - sums.narrow(dim, 0, n)
        count = edges[2 * radius + 1 :] - edges[:n]
        x = window / (count.view(-1, 1) if dim == -2 else count)
    return x


def _guided(guide: Tensor, weight: Tensor, radius: int, eps: float) -> Tensor:
    """Guided filter of `weight` (He, Sun and Tang, 2010, eqs. 5, 6, 8)."""
    mean_g, mean_w = _box_mean(guide, radius), _box_mean(weight, radius)
    covariance = _box_mean(guide * weight, radius) - mean_g * mean_w
    variance = _box_mean(guide.square(), radius) - mean_g.square()
    slope = covariance / (variance + eps)
    return _box_mean(slope, radius) * guide + _box_mean(mean_w - slope * mean_g, radius)


def _saliency(x: Tensor) -> Tensor:
    """Gaussian-smoothed magnitude of the 3x3 Laplacian, border replicated."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    edges = p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:] - 4 * x
    gaussian = torch.exp(-torch.arange(-5, 6, dtype=x.dtype, device=x.device).square() / 50)
    gaussian = gaussian / gaussian.sum()
    p = F.pad(edges.abs(), (5, 5, 5, 5), mode="replicate")
    return F.conv2d(F.conv2d(p, gaussian.view(1, 1, 11, 1)), gaussian.view(1, 1, 1, 11))
