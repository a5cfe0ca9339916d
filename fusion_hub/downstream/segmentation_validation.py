"""Validation of a segmenter while it trains: whole pictures, segmented as a user would have it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from fusion_hub.data.labels import IGNORED
from fusion_hub.downstream.segmentation_samples import LabelledPicture
from fusion_hub.downstream.segmentation_scores import SegmentationResult, evaluate_segmenter
from fusion_hub.training.validation import picture_grid

if TYPE_CHECKING:
    from fusion_hub.downstream.protocols import Segmenter

SHOWN = 4  # pictures in the grid


class SegmentationValidation:
    """A `Validation` of the loop.

    Args:
        segmenter: makes one of a network.
        pictures: by the name of the input, in their own size.
    """

    def __init__(
        self, segmenter: "Callable[[Any], Segmenter]", pictures: Mapping[str, Sequence[LabelledPicture]]
    ) -> None:
        self.segmenter, self.pictures = segmenter, pictures

    @property
    def headline(self) -> list[str]:
        """The mIoU on each input."""
        return [f"{start}mIoU" for start in self._starts().values()]

    def evaluate(self, model: Any, name: str) -> SegmentationResult:
        """A confusion matrix for each picture of the input `name`."""
        samples = ((item.name, item.picture, item.label) for item in self.pictures[name])
        return evaluate_segmenter(self.segmenter(model), samples)

    def measure(self, model: Any, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """IoUs, of several inputs as `visible/mIoU`; and of some pictures: the picture, its labels, the prediction."""
        numbers = {
            f"{start}{key}": value
            for name, start in self._starts().items()
            for key, value in self.evaluate(model, name).numbers().items()
        }
        return numbers, self._grid(self.segmenter(model))

    def _starts(self) -> dict[str, str]:
        return {name: f"{name}/" if len(self.pictures) > 1 else "" for name in self.pictures}

    def _grid(self, segmenter: "Segmenter") -> Image.Image:
        from fusion_hub.downstream.draw import overlay_segmentation
        from fusion_hub.downstream.protocols import Segmentation

        rows = []
        pictures = [item for items in self.pictures.values() for item in items]
        for index in np.unique(np.linspace(0, len(pictures) - 1, SHOWN).round().astype(int)):
            item = pictures[int(index)]
            classes = np.where(item.label == IGNORED, 0, item.label).astype(np.int64)
            truth = Segmentation(classes, segmenter.names, segmenter.palette)
            both = (truth, segmenter.segment(item.picture))
            overlays = [overlay_segmentation(item.picture, one, opacity=0.7, legend=False) for one in both]
            rows.append([item.picture, *(np.asarray(overlay) for overlay in overlays)])
        return picture_grid(rows)
