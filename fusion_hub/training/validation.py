"""Validation: a few full-size pairs fused with the averaged weights, measured, and shown side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fusion_hub.image.luminance import quantize
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.metrics import LEGACY_METRICS, METRICS, evaluate_pair, find_metric
from fusion_hub.training.config import ConfigError, Source, missing_data_explained


class Validation(Protocol):
    """What is measured while a network trains, with its averaged weights."""

    @property
    def headline(self) -> Sequence[str]:
        """Names of the numbers that the terminal shows."""
        ...

    def measure(self, model: Any, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """Numbers for the log, all of them finite, and a gray or RGB picture to look at."""
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
    processor = FusionImageProcessor()
    chosen = []
    for source in sources if count else ():
        with missing_data_explained(source):
            resolved = source.resolve()
            pairs, ranges = resolved.open(), (resolved.infrared_range, resolved.visible_range)
        for index in np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)):
            pair = pairs[int(index)]
            visible, infrared, _ = processor.preprocess(
                pair.visible_source, pair.infrared_source, infrared_range=ranges[0], visible_range=ranges[1]
            )
            chosen.append(ValidationPair(source.label, pair.name, visible, infrared))
    return chosen


def check_metrics(names: Sequence[str]) -> None:
    """Raise a `ConfigError` for a name in `validation_metrics` that is no metric."""
    for name in names:
        if name in METRICS | LEGACY_METRICS:
            continue
        by_lower = {known.lower(): known for known in METRICS}
        near = get_close_matches(name.lower(), by_lower, 1)
        advice = f"did you mean {by_lower[near[0]]}?" if near else f"known: {', '.join(METRICS)}"
        advice = "separate names by spaces, not by commas" if "," in name else advice
        raise ConfigError(f"validation_metrics has the unknown name {name!r}; {advice}")


class FusionValidation:
    """A `Validation` that fuses at least one pair, and measures the results with metrics of `fusion_hub.metrics`.

    `fuse` maps model, visible and infrared `(1, 1, H, W)` to fused `(1, 1, H, W)`, nominally in [0, 1], not clamped.
    """

    def __init__(
        self, fuse: Callable[[Any, Tensor, Tensor], Tensor], pairs: Sequence[ValidationPair], metrics: Sequence[str]
    ) -> None:
        self.fuse, self.pairs, self.headline = fuse, pairs, metrics

    @torch.no_grad()
    def measure(self, model: Any, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """Fuse and measure.

        Returns:
            Mean values: `{"VIF": ..., "tno/VIF": ...}`, over all pairs and, where there are several, over each dataset.
            Pairs for which a metric is undefined or that are too small for it are left out of its mean.
            A picture with one row for each pair: visible, infrared, fused.

        Raises:
            FloatingPointError: a fused picture has values that are not finite.
        """
        values, rows = [], []
        for pair in self.pairs:
            fused = self.fuse(model, pair.visible.to(device), pair.infrared.to(device))
            if not torch.isfinite(fused).all():
                raise FloatingPointError(f"validation pair {pair.dataset}/{pair.name}: the fused picture is not finite")
            pictures = (pair.visible, pair.infrared, fused)
            row = [quantize(picture[0, 0].float().cpu().numpy()) for picture in pictures]
            fitting = [name for name in self.headline if min(row[2].shape) >= find_metric(name).min_side]
            values.append(evaluate_pair(row[2], row[0], row[1], fitting) if fitting else {})
            rows.append(row)
        datasets, means = dict.fromkeys(pair.dataset for pair in self.pairs), {}
        for dataset in ("", *(datasets if len(datasets) > 1 else ())):
            chosen = [v for v, pair in zip(values, self.pairs, strict=True) if dataset in ("", pair.dataset)]
            for metric in self.headline:
                key = f"{dataset}/{metric}" if dataset else metric
                defined = [value[metric] for value in chosen if math.isfinite(value.get(metric, math.nan))]
                if defined:
                    means[key] = math.fsum(defined) / len(defined)
        return means, picture_grid(rows)


def picture_grid(rows: Sequence[Sequence[np.ndarray]], cell: int = 480, gap: int = 4) -> Image.Image:
    """Rows of pictures `(H, W)` or `(H, W, 3)` uint8 on white; those wider or higher than `cell` pixels are shrunk."""
    cells = [[Image.fromarray(picture) for picture in row] for row in rows]
    for image in (image for row in cells for image in row):
        image.thumbnail((cell, cell))  # antialiased, keeps the aspect ratio
    widths = [max(image.width for image in column) for column in zip(*cells, strict=True)]
    heights = [max(image.height for image in row) for row in cells]
    mode = "L" if all(image.mode == "L" for row in cells for image in row) else "RGB"
    size = (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1))
    grid = Image.new(mode, size, "white")
    for i, j in np.ndindex(len(heights), len(widths)):
        grid.paste(cells[i][j], (sum(widths[:j]) + gap * j, sum(heights[:i]) + gap * i))
    return grid
