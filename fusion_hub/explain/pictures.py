"""Pictures of maps of numbers: principal components, color scales, enlargement. Deterministic."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fusion_hub.image.color_scale import HEAT, OPPOSED, table_colors
from fusion_hub.image.luminance import quantize


class Panel(NamedTuple):
    """One picture of the inside of a network.

    Attributes:
        title: of the picture, unique in one explanation.
        image: 8-bit RGB, of the size of the fused image.
        caption: one plain sentence about the picture.
        stage: the part of the network, the same for neighboring panels: a heading.
        plain: for at most six panels, which tell what happens in order, one sentence for readers who do not know the
            network; empty for all others.
    """

    title: str
    image: Image.Image
    caption: str
    stage: str
    plain: str = ""


_SAMPLES = 2**18  # cells that percentiles and components are taken from, on a regular grid
_EDGE = 16  # cells along the border, where a network sees padding and answers with values of its own
_TAILS = (1.0, 99.0)  # percent: what lies beyond is clipped, so that a few cells do not set the scale
_HUE = 0.3  # largest share of hue in a color; more leaves the range of RGB where the picture is bright or dark


class PrincipalColors:
    """Colors for features: brightness is the first principal component, hue the second and the third.

    One instance gives like colors to like features in all the maps it was made for.

    Args:
        maps: `(C, h, w)` each, of one C.
        reference: `(1, H, W)` luminance; the first component is turned so that it rises with it.
    """

    def __init__(self, maps: Sequence[Tensor], reference: Tensor) -> None:
        cells = torch.cat([_inner(one).flatten(1) for one in maps], dim=1).double()
        self.mean = cells.mean(dim=1)
        centered = cells - self.mean[:, None]
        _, vectors = torch.linalg.eigh(centered @ centered.T)
        self.basis = vectors.flip(1)[:, :3]
        pooled = [F.adaptive_avg_pool2d(reference, (one.shape[-2], one.shape[-1])) for one in maps]
        luminance = torch.cat([_inner(one).flatten(1) for one in pooled], dim=1).double()
        # The sign of an eigenvector is arbitrary: the largest loading is made positive, the first follows brightness.
        largest = self.basis.gather(0, self.basis.abs().argmax(dim=0, keepdim=True))[0]
        signs = torch.where(largest < 0, -1.0, 1.0).double()
        covariance = float((self.basis[:, 0] @ centered) @ (luminance[0] - luminance[0].mean()))
        if covariance != 0:
            signs[0] = 1.0 if covariance > 0 else -1.0
        self.basis = self.basis * signs
        scores = (self.basis.T @ centered).numpy()
        low, high = np.percentile(scores, _TAILS, axis=1)
        # Brightness uses its full range; hue is neutral at the mean, and a weak component gets weak color.
        reach = np.maximum(np.abs(low), np.abs(high))
        self.center = np.where(np.arange(len(low)) == 0, (low + high) / 2, 0)[:, None, None].astype(np.float32)
        reach = np.maximum(np.where(np.arange(len(low)) == 0, (high - low) / 2, reach), reach[0] / 4)
        self.reach = np.maximum(reach, 1e-12)[:, None, None].astype(np.float32)

    def paint(self, features: Tensor, cell: int, size: tuple[int, int]) -> Image.Image:
        """Features `(C, h, w)`, each cell `cell` pixels wide, as an RGB picture of `size` `(H, W)`."""
        centered = features.double().flatten(1) - self.mean[:, None]
        scores = (self.basis.T @ centered).float().view(-1, *features.shape[1:])
        parts = (enlarge(scores, cell, size) - self.center) / self.reach
        parts = np.clip(np.concatenate([parts, np.zeros((3 - len(parts), *size), np.float32)]), -1, 1)
        luma, blue, red = 0.5 + 0.45 * parts[0], _HUE * parts[1], _HUE * parts[2]
        rgb = np.stack([luma + red, luma - (red + blue) / 2, luma + blue], axis=-1)
        return Image.fromarray(quantize(rgb))


def heat(values: Tensor, low: float, high: float, cell: int, size: tuple[int, int]) -> Image.Image:
    """Values `(h, w)` from `low` and less (dark) to `high` and more (bright), as an RGB picture of `size` `(H, W)`."""
    unit = (enlarge(values[None], cell, size)[0] - low) / max(high - low, 1e-12)
    return Image.fromarray(table_colors(unit, HEAT))


def opposed(values: Tensor, center: float, reach: float, cell: int, size: tuple[int, int]) -> Image.Image:
    """Values `(h, w)`: blue below `center`, black at it, orange above; full color at a distance of `reach`."""
    unit = (enlarge(values[None], cell, size)[0] - center) / (2 * max(reach, 1e-12)) + 0.5
    return Image.fromarray(table_colors(unit, OPPOSED))


def gray(values: Tensor, low: float = 0.0, high: float = 1.0) -> Image.Image:
    """Luminance `(H, W)`, `low` black and `high` white."""
    plane = (values.float().numpy() - low) / max(high - low, 1e-12)
    return Image.fromarray(quantize(plane)).convert("RGB")


def energy(features: Tensor) -> Tensor:
    """Root mean square over the channels of `(C, h, w)`: `(h, w)`."""
    return features.float().square().mean(dim=0).sqrt()


def limits(*maps: Tensor) -> tuple[float, float]:
    """Smallest and largest value of all the maps `(h, w)` together, but for 1 % on each side and the borders."""
    low, high = np.percentile(torch.cat([_inner(one).flatten() for one in maps]).numpy(), _TAILS)
    return float(low), float(high)


def enlarge(maps: Tensor, cell: int, size: tuple[int, int]) -> np.ndarray:
    """`(C, h, w)` to `(C, H, W)` float32: a cell lies over the `cell` x `cell` pixels it belongs to."""
    large = maps[None].float()
    if cell > 1:
        large = F.interpolate(large, scale_factor=float(cell), mode="bilinear", align_corners=False)
    return large[0, :, : size[0], : size[1]].numpy()


def _inner(maps: Tensor) -> Tensor:
    """The cells of `(..., h, w)` that scales are taken from: few enough, and none that sees far beyond the image."""
    for dim in (-2, -1):
        length = maps.shape[dim]
        edge = min(_EDGE, length // 8)
        maps = maps.narrow(dim, edge, length - 2 * edge)
    step = max(1, int(np.ceil(np.sqrt(maps.shape[-1] * maps.shape[-2] / _SAMPLES))))
    rows, columns = (step if length > step else 1 for length in maps.shape[-2:])
    return maps[..., ::rows, ::columns].float()
