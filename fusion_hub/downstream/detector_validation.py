"""Validation of a detector while it trains: whole pictures, as a user would have them searched."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from fusion_hub.downstream.detector_samples import BoxedPicture
from fusion_hub.training.validation import picture_grid

if TYPE_CHECKING:
    from fusion_hub.downstream.detection_scores import DetectionResult
    from fusion_hub.downstream.protocols import Detector

SHOWN = 4  # pictures in the grid
SHOWN_SCORE = 0.3  # the least score of the boxes drawn there


class DetectionValidation:
    """A `Validation` of the loop.

    Args:
        detector: makes one of a network.
        pictures: by the name of the input, in their own size.
        classes: names of the classes, by id.
    """

    def __init__(
        self,
        detector: "Callable[[Any], Detector]",
        pictures: Mapping[str, Sequence[BoxedPicture]],
        classes: Sequence[str],
    ) -> None:
        self.detector, self.pictures, self.classes = detector, pictures, classes

    @property
    def headline(self) -> list[str]:
        """The average precision at an overlap of 0.5 on each input."""
        return [f"{start}mAP50" for start in self._starts().values()]

    def evaluate(self, model: Any, name: str) -> "DetectionResult":
        """What was found in each picture of the input `name`, beside what is there."""
        from fusion_hub.downstream.detection_scores import evaluate_detector

        samples = ((item.name, item.picture, item.boxes, item.class_ids) for item in self.pictures[name])
        return evaluate_detector(self.detector(model), samples, self.classes)

    def measure(self, model: Any, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """COCO's numbers, of several inputs as `visible/mAP50`; and of some pictures: what is there, what was found."""
        numbers = {
            f"{start}{key}": value
            for name, start in self._starts().items()
            for key, value in self.evaluate(model, name).numbers().items()
        }
        return numbers, self._grid(self.detector(model))

    def _starts(self) -> dict[str, str]:
        return {name: f"{name}/" if len(self.pictures) > 1 else "" for name in self.pictures}

    def _grid(self, detector: "Detector") -> Image.Image:
        from fusion_hub.downstream.draw import draw_detections
        from fusion_hub.downstream.protocols import Detections

        names = dict(enumerate(self.classes))
        rows = []
        pictures = [item for items in self.pictures.values() for item in items]
        for index in np.unique(np.linspace(0, len(pictures) - 1, SHOWN).round().astype(int)):
            item = pictures[int(index)]
            scores = np.ones(len(item.boxes), np.float32)
            truth = Detections.of(item.boxes, scores, item.class_ids, names, item.picture.shape[:2])
            found = detector.detect(item.picture, threshold=SHOWN_SCORE)
            rows.append([np.asarray(draw_detections(item.picture, one)) for one in (truth, found)])
        return picture_grid(rows)
