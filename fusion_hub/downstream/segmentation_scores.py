"""Scores of a segmenter: confusion matrices, IoU and mIoU, with intervals.

Conventions, as in the papers on MSRS and MFNet:

- All images of a dataset share one confusion matrix, and `IoU_c = TP_c / (TP_c + FP_c + FN_c)` is computed from it; it
  is not a mean over images.
- mIoU is the mean over all classes, including the background (class 0, "unlabelled"); it is also given without.
- A class that occurs neither in the labels nor in the predictions has no IoU: NaN, left out of the mean, not 0.
- Pixels with the label 255 do not count.

Intervals: `bootstrap` resamples images: how much would another set of such images change the score? For several
training runs it resamples the runs as well; `evaluation.statistics.over_seeds` varies only the runs. Compare two
networks with `bootstrap_difference` and `evaluation.statistics.difference_over_seeds`.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_hub.data.annotations import IGNORED
from fusion_hub.downstream.protocols import Segmenter
from fusion_hub.evaluation.statistics import LEVEL, RESAMPLES, Interval, Resampling
from fusion_hub.files import write_aside
from fusion_hub.image.processor import ImageInput

Statistic = Callable[[np.ndarray], np.ndarray]
"""From confusion matrices `(..., C, C)` to numbers `(...)`, NaN where undefined."""


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """`(C, C)` int64: number of pixels with the true class of each row and the predicted class of each column.

    Args:
        label, prediction: integers of one shape, below `classes`; labels may be `IGNORED`.
        classes: C.

    Raises:
        ValueError: other shapes or values.
    """
    label, prediction = np.asarray(label), np.asarray(prediction)
    if label.shape != prediction.shape:
        raise ValueError(f"the labels are {label.shape} and the predictions {prediction.shape}: give one shape")
    counted = label != IGNORED
    truth, guess = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, values in (("labels", truth), ("predictions", guess)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"the {name} range from {values.min()} to {values.max()}: classes are 0 to {classes - 1}")
    return np.bincount(classes * truth + guess, minlength=classes**2).reshape(classes, classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class `(..., C)` float64 of confusion matrices `(..., C, C)`; NaN for classes that never occur."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray, *, background: bool = True) -> np.ndarray:
    """Mean of the defined IoUs `(...)` of confusion matrices `(..., C, C)`; class 0 counts only if `background`."""
    iou = class_iou(confusion)[..., 0 if background else 1 :]
    defined = np.isfinite(iou)
    count = defined.sum(-1)
    total = np.where(defined, iou, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def pixel_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of the pixels `(...)` with the correct class."""
    pixels = confusion.sum((-2, -1)).astype(np.float64)
    hits = np.trace(confusion, axis1=-2, axis2=-1)
    return np.divide(hits, pixels, out=np.full(pixels.shape, np.nan), where=pixels > 0)


# --- intervals -------------------------------------------------------------------------------------------------------


def bootstrap(
    confusions: np.ndarray, statistic: Statistic = mean_iou, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """95 % percentile interval of a score over images; for several runs, of their mean, over runs and images.

    Args:
        confusions: `(N, C, C)`, one matrix for each image; or `(S, N, C, C)`: S runs, such as seeds, on the same N
            images. Each resample takes the same images of all runs. With few runs the interval is too narrow: two runs
            say little about the variation between runs.
        statistic: of the sum over images.
        seed: of the resampling.
        resamples: number of samples of N images with replacement.
    """
    confusions = _runs(confusions)
    resampling = Resampling(confusions.shape[1], seed, resamples)
    mean = float(np.mean(statistic(confusions.sum(1))))
    return resampling.interval(mean, _resampled(confusions, statistic, resampling.counts))


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, statistic: Statistic = mean_iou, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """95 % percentile interval of `statistic(second) - statistic(first)` on the same images.

    Images that are hard for one are hard for both, so this is narrower than the two intervals suggest: use it for
    comparisons.

    Args:
        first, second: as in `bootstrap`; the numbers of runs may differ. For several runs it is the difference of the
            means, and the runs of each side are resampled separately.
    """
    first, second = _runs(first), _runs(second)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"the matrices are {first.shape} and {second.shape}: compare runs on the same images")
    resampling = Resampling(first.shape[1], seed, resamples)
    mean = float(np.mean(statistic(second.sum(1))) - np.mean(statistic(first.sum(1))))
    return resampling.difference(mean, *(_resampled(one, statistic, resampling.counts) for one in (first, second)))


def _runs(confusions: np.ndarray) -> np.ndarray:
    """As `(S, N, C, C)`."""
    confusions = np.asarray(confusions)
    runs = confusions[None] if confusions.ndim == 3 else confusions
    if runs.ndim != 4 or not runs.shape[1]:
        raise ValueError(f"confusions are {confusions.shape}: give ([runs,] images, classes, classes)")
    return runs


def _resampled(confusions: np.ndarray, statistic: Statistic, counts: np.ndarray) -> np.ndarray:
    """The statistic of each run on each resample, `(resamples, S)`."""
    runs, images, classes = confusions.shape[:3]
    sums = np.tensordot(counts, confusions.reshape(runs, images, classes**2).astype(np.float64), axes=(1, 1))
    return statistic(sums.reshape(len(counts), runs, classes, classes))


# --- a segmenter on a dataset ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """Confusion matrices of a segmenter on a dataset.

    Attributes:
        classes: names, by class id.
        pictures: names of the images.
        confusions: `(N, C, C)` int64, one matrix for each image.
    """

    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    confusions: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """`(C, C)`, of all images."""
        return self.confusions.sum(0)

    def take(self, wanted: Callable[[str], bool]) -> "SegmentationResult":
        """The images whose names `wanted` accepts, such as those taken at night."""
        chosen = [index for index, name in enumerate(self.pictures) if wanted(name)]
        return SegmentationResult(self.classes, tuple(self.pictures[i] for i in chosen), self.confusions[chosen])

    def numbers(self) -> dict[str, float]:
        """mIoU, mIoU without background, pixel accuracy and `IoU/<class>`: those that are defined."""
        values = {
            "mIoU": mean_iou(self.total),
            "mIoU_foreground": mean_iou(self.total, background=False),
            "pixel_accuracy": pixel_accuracy(self.total),
            **{f"IoU/{name}": value for name, value in zip(self.classes, class_iou(self.total), strict=True)},
        }
        return {name: float(value) for name, value in values.items() if math.isfinite(value)}

    def save(self, path: Path, **more: Any) -> None:
        """Write numbers, the interval of the mIoU over images, all matrices and `more` as JSON."""
        interval = bootstrap(self.confusions) if self.pictures else Interval(math.nan)
        values = {
            **more,
            "numbers": self.numbers(),
            "mIoU_interval": {"level": LEVEL, "over": "pictures", "low": interval.low, "high": interval.high},
            "classes": self.classes,
            "pictures": [
                {"name": name, "confusion": matrix.tolist()}
                for name, matrix in zip(self.pictures, self.confusions, strict=True)
            ],
        }
        with write_aside(path) as aside:
            aside.write_text(json.dumps(values) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "SegmentationResult":
        """Read a file written by `save`."""
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        count = len(values["classes"])
        matrices = np.array([row["confusion"] for row in values["pictures"]], dtype=np.int64)
        names = tuple(row["name"] for row in values["pictures"])
        return cls(tuple(values["classes"]), names, matrices.reshape(-1, count, count))


def evaluate_segmenter(
    segmenter: Segmenter, samples: Iterable[tuple[str, ImageInput, np.ndarray]]
) -> SegmentationResult:
    """Run a segmenter on images with known labels.

    Args:
        segmenter: its classes must be 0 ... C - 1, the classes of the labels.
        samples: name, image, and label `(H, W)` in the size of the image.

    Raises:
        ValueError: a label differs from its image in size, or has classes that the segmenter does not know.
    """
    names = tuple(segmenter.names[index] for index in range(len(segmenter.names)))
    pictures, matrices = [], []
    for name, image, label in samples:
        class_map = segmenter.segment(image).class_map
        try:
            matrices.append(confusion_matrix(label, class_map, len(names)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        pictures.append(name)
    stacked = np.stack(matrices) if matrices else np.zeros((0, len(names), len(names)), np.int64)
    return SegmentationResult(names, tuple(pictures), stacked)
