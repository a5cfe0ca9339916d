"""Which numbers a result has, what they are called, and how far each can be trusted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fusion_hub.downstream.segmentation_scores import SegmentationResult, class_iou, mean_iou
from fusion_hub.evaluation.downstream_results.runs import Task

_DRAWS_AT_ONCE = 250  # bounds the memory

TITLES: Mapping[str, str] = {
    "mIoU": "mIoU",
    "mIoU_foreground": "mIoU without background",
    "mAP50": "mAP50",
    "mAP": "mAP50:95",
    "AP": "AP50:95",
}
"""Names for people, where they are others than those of the files."""


class Measures(Protocol):
    """The numbers of one task. Every number is better when it is higher, and lies between 0 and 1.

    Attributes:
        headline: numbers over all classes; these are compared.
        families: numbers of each class, `IoU` of `IoU/car`, as tables show them.
    """

    headline: Sequence[str]
    families: Sequence[str]

    def numbers(self, result: Any) -> Mapping[str, float]:
        """All numbers of one result by name; those that are undefined are absent."""
        ...

    def drawn(self, result: Any, metrics: Sequence[str], counts: np.ndarray) -> Mapping[str, np.ndarray]:
        """Each of `metrics` on B draws of pictures, `(B,)`, NaN where undefined; `counts` `(B, P)` are the draws."""
        ...


def measures_of(task: Task) -> Measures:
    """The numbers of a task."""
    return SegmentationMeasures() if task == "segmentation" else DetectionMeasures()


class SegmentationMeasures:
    """Intersection over union; see `fusion_hub.downstream.segmentation_scores` for the conventions."""

    headline: Sequence[str] = ("mIoU", "mIoU_foreground")
    families: Sequence[str] = ("IoU",)

    def numbers(self, result: SegmentationResult) -> Mapping[str, float]:
        """mIoU, mIoU without background, and `IoU/<class>`."""
        return {name: value for name, value in result.numbers().items() if name != "pixel_accuracy"}

    def drawn(self, result: SegmentationResult, metrics: Sequence[str], counts: np.ndarray) -> Mapping[str, np.ndarray]:
        """Of the sums of the confusion matrices of each draw."""
        classes = len(result.classes)
        flat = result.confusions.reshape(-1, classes**2).astype(np.float64)
        sums = (counts.astype(np.float64) @ flat).reshape(-1, classes, classes)
        iou = class_iou(sums)
        over_all = {"mIoU": mean_iou(sums), "mIoU_foreground": mean_iou(sums, background=False)}
        by_class = {f"IoU/{name}": iou[:, index] for index, name in enumerate(result.classes)}
        return {name: value for name, value in (over_all | by_class).items() if name in metrics}


class DetectionMeasures:
    """Average precision and recall; see `fusion_hub.downstream.detection_scores` for the conventions."""

    headline: Sequence[str] = ("mAP50", "mAP", "recall")
    families: Sequence[str] = ("AP50", "AP", "recall", "recall@0.3", "precision@0.3")

    def numbers(self, result: Any) -> Mapping[str, float]:
        """Everything that `DetectionResult.numbers` has."""
        return {name: float(value) for name, value in result.numbers().items() if math.isfinite(value)}

    def drawn(self, result: Any, metrics: Sequence[str], counts: np.ndarray) -> Mapping[str, np.ndarray]:
        """Detections are matched with objects once for all draws, and means are taken of what the classes have."""
        from fusion_hub.downstream.detection_scores import MEANS, mean_over_classes, measure

        parts_of = {name: [f"{MEANS[name]}/{one}" for one in result.classes] for name in metrics if name in MEANS}
        of_classes = {name for parts in parts_of.values() for name in parts} | {name for name in metrics if "/" in name}
        pieces = [counts[start : start + _DRAWS_AT_ONCE] for start in range(0, len(counts), _DRAWS_AT_ONCE)]
        drawn = {
            name: np.concatenate([measure(result.matches, result.classes, name, piece) for piece in pieces])
            for name in sorted(of_classes)
        }
        drawn |= {name: mean_over_classes(np.stack([drawn[one] for one in parts])) for name, parts in parts_of.items()}
        return {name: drawn[name] for name in metrics}


def title(name: str) -> str:
    """A number or a family of numbers for people: `mAP` becomes `mAP50:95`."""
    return TITLES.get(name, name)
