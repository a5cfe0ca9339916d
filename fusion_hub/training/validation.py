"""Validation: a few full-size pairs fused with the averaged weights, measured, and shown side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fusion_hub.image.luminance import quantize
from fusion_hub.training.config import Source, missing_data_explained

FuseFunction = Callable[[Tensor, Tensor], Tensor]


class Validation(Protocol):
    """What is measured while a network trains, with its averaged weights."""

    @property
    def headline(self) -> Sequence[str]:
        """Names of the numbers that the terminal shows."""
        ...

    def measure(self, model: Any, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """Numbers for the log, all of them finite, and a grey or RGB picture to look at."""
        ...


@dataclass(frozen=True)
class ValidationPair:
    """One full-size pair: `visible` and `infrared` are `(1, 1, H, W)` float32 in [0, 1]; `dataset` groups the means."""

    dataset: str
    name: str
    visible: Tensor
    infrared: Tensor


def open_validation_pairs(sources: Sequence[Source], count: int) -> list[ValidationPair]:
    """`count` evenly spaced pairs of each source (all, where it has fewer), read into memory."""
    from fusion_hub.image.processor import FusionImageProcessor

    processor = FusionImageProcessor()
    chosen = []
    for source in sources if count else ():
        with missing_data_explained():
            resolved = source.resolve()
            pairs, ranges = resolved.open(), (resolved.infrared_range, resolved.visible_range)
        for index in np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)):
            pair = pairs[int(index)]
            visible, infrared, _ = processor.preprocess(
                pair.visible_source, pair.infrared_source, infrared_range=ranges[0], visible_range=ranges[1]
            )
            chosen.append(ValidationPair(source.label, pair.name, visible, infrared))
    return chosen


@torch.no_grad()
def validate(
    fuse: FuseFunction, pairs: Sequence[ValidationPair], metrics: Sequence[str], device: torch.device
) -> tuple[dict[str, float], Image.Image]:
    """Fuse and measure.

    Args:
        fuse: visible and infrared `(1, 1, H, W)` to fused `(1, 1, H, W)`, nominally in [0, 1], not clamped.
        pairs: at least one.
        metrics: names in `fusion_hub.metrics`.
        device: where `fuse` wants its tensors.

    Returns:
        Mean values: `{"VIF": ..., "tno/VIF": ...}`, over all pairs and, where there are several, over each dataset.
        A picture with one row for each pair: visible, infrared, fused.

    Raises:
        FloatingPointError: a fused picture has values that are not finite.
    """
    from fusion_hub.metrics import evaluate_pair

    values: list[Mapping[str, float]] = []
    rows = []
    for pair in pairs:
        fused = fuse(pair.visible.to(device), pair.infrared.to(device))
        if not torch.isfinite(fused).all():
            raise FloatingPointError(f"validation pair {pair.dataset}/{pair.name}: the fused picture is not finite")
        row = [to_uint8(picture) for picture in (pair.visible, pair.infrared, fused)]
        values.append(evaluate_pair(row[2], row[0], row[1], list(metrics)))
        rows.append(row)

    def mean(name: str, chosen: Sequence[Mapping[str, float]]) -> float:
        return math.fsum(value[name] for value in chosen) / len(chosen)

    means = {name: mean(name, values) for name in metrics}
    datasets = list(dict.fromkeys(pair.dataset for pair in pairs))
    for dataset in datasets if len(datasets) > 1 else ():
        chosen = [value for value, pair in zip(values, pairs, strict=True) if pair.dataset == dataset]
        means |= {f"{dataset}/{name}": mean(name, chosen) for name in metrics}
    return means, picture_grid(rows)


def to_uint8(picture: Tensor) -> np.ndarray:
    """`(1, 1, H, W)` with 1 for white to `(H, W)` uint8: clamped and rounded."""
    return quantize(picture[0, 0].float().cpu().numpy())


def picture_grid(rows: Sequence[Sequence[np.ndarray]], cell: int = 480, gap: int = 4) -> Image.Image:
    """Rows of pictures `(H, W)` or `(H, W, 3)` uint8 on white; those wider or higher than `cell` pixels are shrunk."""
    cells = []
    for row in rows:
        images = [Image.fromarray(picture) for picture in row]
        for image in images:
            image.thumbnail((cell, cell))  # antialiased, keeps the aspect ratio
        cells.append(images)
    widths = [max(image.width for image in column) for column in zip(*cells, strict=True)]
    heights = [max(image.height for image in images) for images in cells]
    mode = "L" if all(image.mode == "L" for images in cells for image in images) else "RGB"
    size = (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1))
    grid = Image.new(mode, size, "white")
    top = 0
    for images, height in zip(cells, heights, strict=True):
        left = 0
        for image, width in zip(images, widths, strict=True):
            grid.paste(image, (left, top))
            left += width + gap
        top += height + gap
    return grid
