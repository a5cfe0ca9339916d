"""Scores of segmenters and detectors on a dataset, with intervals over images and training runs.

Segmentation, as in the papers on MSRS and MFNet:

- All images of a dataset share one confusion matrix, and `IoU_c = TP_c / (TP_c + FP_c + FN_c)` is computed from it; it
  is not a mean over images.
- mIoU is the mean over all classes, including the background (class 0, "unlabeled"); it is also given without.
- A class that occurs neither in the labels nor in the predictions has no IoU: NaN, left out of the mean, not 0.
- Pixels with the label 255 do not count.

Detection, as COCO defines it (Lin et al. 2014):

- `AP` is the mean over the IoU thresholds 0.50, 0.55 ... 0.95, `AP50` that of 0.50 alone; `mAP` and `mAP50` are the
  means over the classes that have objects.
- Detections with a score of at least 0.001 count, at most 100 per image; `recall` is that of all of them, at IoU 0.5.
- `recall@0.3` and `precision@0.3` describe a detector in use: of the detections that score at least 0.3, at IoU 0.5.

pycocotools matches detections with objects. It is the slow part and independent for each image, so a bootstrap does it
once and weights the matches of each image. With all weights 1 these are the numbers of pycocotools.
"""

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from fusion_hub.data.annotations import IGNORED, Boxes, same_class
from fusion_hub.downstream.protocols import Detector, Segmenter
from fusion_hub.downstream.weights import require
from fusion_hub.evaluation.statistics import LEVEL, RESAMPLES, Interval, Resampling
from fusion_hub.files import write_aside
from fusion_hub.image.processor import ImageInput

MAX_DETECTIONS = 100
MIN_SCORE = 0.001
WORKING_SCORE = 0.3
"""Score threshold where a single one is needed, as on the page."""
_RESAMPLES_AT_ONCE = 250  # bounds the memory

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Detections in one image: boxes `(N, 4)`, class ids `(N,)` and scores `(N,)`."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a network found on the images of a dataset.

    Attributes:
        classes: names, by class id.
        pictures: names of the images.
        headline: the main scores over all classes.
        families: the scores of each class, such as `IoU` of `IoU/car`.
    """

    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    headline: ClassVar[tuple[str, ...]]
    families: ClassVar[tuple[str, ...]]
    over_all: ClassVar[tuple[str, ...]]

    @property
    def statistics(self) -> list[str]:
        """Names of all scores: over all classes, then `IoU/<class>` or `AP/<class>` ... of each class."""
        return [*self.over_all, *(f"{family}/{name}" for family in self.families for name in self.classes)]

    def scores(self, names: Iterable[str], counts: np.ndarray) -> dict[str, np.ndarray]:
        """Scores, by name, on each of B resamples of P images: `(B,)`, NaN where undefined.

        Args:
            names: some of `statistics`.
            counts: `(B, P)`: number of times each image is in each resample.
        """
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """The defined ones of all `statistics`."""
        if not self.pictures:
            return {}
        values = self.scores(self.statistics, np.ones((1, len(self.pictures)), dtype=np.int64))
        return {name: float(value[0]) for name, value in values.items() if math.isfinite(value[0])}

    def at(self, indices: Sequence[int]) -> Self:
        """The images at `indices`, in that order."""
        columns = [getattr(self, one.name) for one in fields(self)[1:]]
        chosen = (c[indices] if isinstance(c, np.ndarray) else tuple(c[i] for i in indices) for c in columns)
        return type(self)(self.classes, *chosen)  # type: ignore[arg-type]

    def take(self, wanted: Callable[[str], bool]) -> Self:
        """The images whose names `wanted` accepts, such as those taken at night."""
        return self.at([index for index, name in enumerate(self.pictures) if wanted(name)])

    def save(self, path: Path, **more: Any) -> None:
        """Write numbers, the interval of the first headline score over images, all images and `more` as JSON."""
        interval = bootstrap(self) if self.pictures else Interval(math.nan)
        ends = {"level": LEVEL, "over": "pictures", "low": interval.low, "high": interval.high}
        rows = [{"name": name, **row} for name, row in zip(self.pictures, self._rows(), strict=True)]
        values = {**more, "numbers": self.numbers(), f"{self.headline[0]}_interval": ends}
        with write_aside(path) as aside:
            text = json.dumps({**values, "classes": self.classes, "pictures": rows})
            aside.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file written by `save`."""
        values = json.loads(path.read_text(encoding="utf-8"))
        classes, rows = tuple(values["classes"]), values["pictures"]
        return cls(classes, tuple(row["name"] for row in rows), *cls._columns(rows, len(classes)))

    def _rows(self) -> Iterable[dict[str, Any]]:
        """What the file has for each image."""
        raise NotImplementedError

    @classmethod
    def _columns(cls, rows: Sequence[Mapping[str, Any]], classes: int) -> tuple[Any, ...]:
        """The fields of a subclass, from its `_rows`."""
        raise NotImplementedError


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the finite values along an axis; NaN where there are none."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))


# --- segmentation ----------------------------------------------------------------------------------------------------


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
    return _ratio(hits, confusion.sum(-1) + confusion.sum(-2) - hits)


@dataclass(frozen=True, eq=False)
class SegmentationResult(Result):
    """Confusion matrices of a segmenter on a dataset.

    Attributes:
        confusions: `(N, C, C)` int64, one matrix for each image.
    """

    confusions: np.ndarray
    headline = ("mIoU", "mIoU_foreground")
    families = ("IoU",)
    over_all = (*headline, "pixel_accuracy")

    def scores(self, names: Iterable[str], counts: np.ndarray) -> dict[str, np.ndarray]:
        size = len(self.classes)
        sums = (counts @ self.confusions.reshape(-1, size**2).astype(np.float64)).reshape(-1, size, size)
        iou = class_iou(sums)
        values = {
            "mIoU": _mean_of_defined(iou, -1),
            "mIoU_foreground": _mean_of_defined(iou[:, 1:], -1),
            "pixel_accuracy": _ratio(np.trace(sums, axis1=1, axis2=2), sums.sum((1, 2))),
            **{f"IoU/{name}": iou[:, index] for index, name in enumerate(self.classes)},
        }
        return {name: values[name] for name in names}

    def _rows(self) -> Iterable[dict[str, Any]]:
        return ({"confusion": matrix.tolist()} for matrix in self.confusions)

    @classmethod
    def _columns(cls, rows: Sequence[Mapping[str, Any]], classes: int) -> tuple[Any, ...]:
        matrices = np.array([row["confusion"] for row in rows], dtype=np.int64)
        return (matrices.reshape(-1, classes, classes),)


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
    return SegmentationResult(
        names, tuple(pictures), np.reshape(matrices, (-1, len(names), len(names))).astype(np.int64)
    )


# --- detection -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matches:
    """The D detections of one class in all P images, best first, and which of them are correct.

    Attributes:
        scores: `(D,)` falling.
        pictures: `(D,)` int, the index of the image of each.
        hits: `(10, D)` bool: matched with an object, at each of the IoU thresholds 0.50, 0.55 ... 0.95.
        objects: `(P,)` int, number of objects of the class in each image.

    The scores are for B resamples, `counts` `(B, P)`: number of times each image is in each. They are `(B,)`, NaN where
    undefined.
    """

    scores: np.ndarray
    pictures: np.ndarray
    hits: np.ndarray
    objects: np.ndarray

    def average_precision(self, counts: np.ndarray, levels: Sequence[int]) -> np.ndarray:
        """Mean over some IoU thresholds of the area under the precision-recall curve, sampled at 101 recalls."""
        objects, areas = counts @ self.objects, np.zeros(len(counts))
        everything = np.ones(len(self.scores), dtype=bool)
        for level in levels:
            hits = self.hits[level]  # recall grows only at hits, and detections after the last hit change nothing
            found, seen = (counts @ self._up_to_each(hits, which).T for which in (hits, everything))  # (B, hits)
            precision = found / np.maximum(seen, 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = found / np.maximum(objects, 1)[:, None]
            reached = np.searchsorted(np.linspace(0, 1, 101), recall, side="right")
            areas += (np.diff(reached, axis=1, prepend=0) * envelope).sum(axis=1) / 101
        return np.where(objects > 0, areas / len(levels), np.nan)

    def recall(self, counts: np.ndarray, min_score: float = 0.0) -> np.ndarray:
        """Share of the objects found at IoU 0.5 with a score of at least `min_score`."""
        return _ratio(counts @ self._by_picture(self.hits[0] & (self.scores >= min_score)), counts @ self.objects)

    def precision(self, counts: np.ndarray, min_score: float) -> np.ndarray:
        """Share of the detections with a score of at least `min_score` that are correct at IoU 0.5."""
        given = self.scores >= min_score
        return _ratio(counts @ self._by_picture(given & self.hits[0]), counts @ self._by_picture(given))

    def _by_picture(self, which: np.ndarray) -> np.ndarray:
        """Number of detections in each image for which `which` `(D,)` is true: `(P,)`."""
        return np.bincount(self.pictures[which], minlength=len(self.objects)).astype(np.float64)

    def _up_to_each(self, hits: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The same, counted from the best detection to each hit: `(hits, P)`."""
        next_hit = np.searchsorted(np.flatnonzero(hits), np.flatnonzero(which))
        pictures, rows = len(self.objects), int(hits.sum()) + 1
        counted = np.bincount(next_hit * pictures + self.pictures[which], minlength=rows * pictures)
        return np.cumsum(counted.reshape(rows, pictures)[:-1], axis=0).astype(np.float64)


_OF_CLASS: Mapping[str, Callable[[Matches, np.ndarray], np.ndarray]] = {
    "AP": lambda matches, counts: matches.average_precision(counts, range(10)),
    "AP50": lambda matches, counts: matches.average_precision(counts, [0]),
    "recall": Matches.recall,
    "recall@0.3": lambda matches, counts: matches.recall(counts, WORKING_SCORE),
    "precision@0.3": lambda matches, counts: matches.precision(counts, WORKING_SCORE),
}
_MEAN_OF = {"mAP": "AP", "mAP50": "AP50", **{name: name for name in ("recall", "recall@0.3", "precision@0.3")}}


@dataclass(frozen=True, eq=False)
class DetectionResult(Result):
    """Detections of a detector on a dataset, with the truth.

    Attributes:
        truth: of each image, boxes `(N, 4)` float32 (left, top, right, bottom, pixels) and class ids `(N,)` int64.
        found: of each image, boxes, class ids and scores `(N,)` float32 of the detections, best first.
    """

    truth: tuple[Boxes, ...]
    found: tuple[Found, ...]
    headline = ("mAP50", "mAP", "recall")
    families = tuple(_OF_CLASS)
    over_all = tuple(_MEAN_OF)

    @cached_property
    def matches(self) -> list[Matches]:
        """Which detections of each class are correct."""
        return _match(self.truth, self.found, len(self.classes))

    def scores(self, names: Iterable[str], counts: np.ndarray) -> dict[str, np.ndarray]:
        @cache
        def of_class(name: str) -> np.ndarray:
            family, _, wanted = name.partition("/")
            matches = self.matches[self.classes.index(wanted)]
            pieces = np.split(counts, range(_RESAMPLES_AT_ONCE, len(counts), _RESAMPLES_AT_ONCE))
            return np.concatenate([_OF_CLASS[family](matches, piece) for piece in pieces])

        def mean(family: str) -> np.ndarray:
            return _mean_of_defined(np.stack([of_class(f"{family}/{name}") for name in self.classes]), 0)

        return {name: mean(_MEAN_OF[name]) if name in _MEAN_OF else of_class(name) for name in names}

    def _rows(self) -> Iterable[dict[str, Any]]:
        for (boxes, ids), (found, found_ids, scores) in zip(self.truth, self.found, strict=True):
            yield {
                "truth": {"boxes": boxes.tolist(), "class_ids": ids.tolist()},
                "found": {"boxes": found.tolist(), "class_ids": found_ids.tolist(), "scores": scores.tolist()},
            }

    @classmethod
    def _columns(cls, rows: Sequence[Mapping[str, Any]], classes: int) -> tuple[Any, ...]:
        def boxes(values: Mapping[str, Any]) -> Boxes:
            class_ids = np.array(values["class_ids"], dtype=np.int64).reshape(-1)
            return np.array(values["boxes"], dtype=np.float32).reshape(-1, 4), class_ids

        scores = (np.array(row["found"]["scores"], dtype=np.float32).reshape(-1) for row in rows)
        found = ((*boxes(row["found"]), own) for row, own in zip(rows, scores, strict=True))
        return tuple(boxes(row["truth"]) for row in rows), tuple(found)


def _match(truth: Sequence[Boxes], found: Sequence[Found], classes: int) -> list[Matches]:
    """Match the detections of each class with its objects, by pycocotools.

    From the highest score down, a detection takes the object of its image with the largest overlap, among those that
    are still free and overlap by at least the threshold; at most 100 detections of a class and image.
    """
    coco = require("pycocotools.coco", "scoring a detector")
    cocoeval = require("pycocotools.cocoeval", "scoring a detector")
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its timing
        for side in (truth, found):
            rows: list[dict[str, Any]] = []
            for picture, (boxes, class_ids, *best) in enumerate(side, start=1):
                for i, (left, top, right, bottom) in enumerate(np.asarray(boxes, dtype=np.float64).tolist()):
                    box = [left, top, right - left, bottom - top]
                    row = {"image_id": picture, "category_id": int(class_ids[i]) + 1, "bbox": box, "iscrowd": 0}
                    row |= {"id": len(rows) + 1, "area": box[2] * box[3]}  # from 1: a match with the id 0 is none
                    rows.append(row | ({"score": float(best[0][i])} if best else {}))
            index = coco.COCO()
            index.dataset = {
                "images": [{"id": number} for number in range(1, len(truth) + 1)],
                "categories": [{"id": number} for number in range(1, classes + 1)],
                "annotations": rows,
            }
            index.createIndex()
            sides.append(index)
        evaluation = cocoeval.COCOeval(*sides, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    result = []
    for number in range(classes):  # class by class, each with all images; None for no objects and no detections
        pictures = evaluation.evalImgs[number * len(truth) : (number + 1) * len(truth)]
        objects = np.array([len(one["gtIds"]) if one else 0 for one in pictures], dtype=np.int64)
        having = [(index, one) for index, one in enumerate(pictures) if one and one["dtIds"]]
        scores = np.concatenate([np.zeros(0), *(one["dtScores"] for _, one in having)])
        hits = np.concatenate([np.zeros((10, 0)), *(one["dtMatches"] for _, one in having)], axis=1) > 0
        indices = np.repeat([index for index, _ in having], [len(one["dtIds"]) for _, one in having]).astype(np.int64)
        order = np.argsort(-scores, kind="stable")
        result.append(Matches(scores[order], indices[order], hits[:, order], objects))
    return result


def evaluate_detector(
    detector: Detector,
    samples: Iterable[tuple[str, ImageInput, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    *,
    names: Mapping[str, str] | None = None,
    threshold: float = MIN_SCORE,
) -> DetectionResult:
    """Run a detector on images with known boxes.

    Args:
        detector: its class names must include those of `classes` or usual synonyms; its other classes do not count.
        samples: name, image, boxes `(N, 4)` in its pixels, and their class ids `(N,)`, indices into `classes`.
        names: from the detector's names to `classes`, where they differ; then only these count.
        threshold: the lowest score that counts.

    Raises:
        ValueError: the detector lacks a class, or a box lies outside its image.
    """
    ids = {same_class(name): number for number, name in enumerate(classes)}
    wanted = {class_id: name if names is None else names.get(name) for class_id, name in detector.names.items()}
    to_class = {i: ids[same_class(name)] for i, name in wanted.items() if name is not None and same_class(name) in ids}
    if lacking := [name for number, name in enumerate(classes) if number not in to_class.values()]:
        known = list(detector.names.values())
        raise ValueError(
            f"the detector has no class for {lacking[0]!r}: leave it out, or map one of its classes to it with names "
            f"({', '.join(known[:8])}{', ...' if len(known) > 8 else ''})"
        )
    pictures, truth, found = [], [], []
    for name, image, boxes, class_ids in samples:
        detections = detector.detect(image, threshold=threshold)
        height, width = detections.size
        boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        if (boxes < 0).any() or (boxes > np.array([width, height] * 2) + 0.01).any():
            raise ValueError(f"{name}: a box lies outside the image of {width} x {height}: give boxes in its pixels")
        counted = detections.take(np.flatnonzero(np.isin(detections.class_ids, list(to_class)))[:MAX_DETECTIONS])
        found_ids = np.array([to_class[int(class_id)] for class_id in counted.class_ids], dtype=np.int64)
        pictures.append(name)
        truth.append((boxes, np.asarray(class_ids, dtype=np.int64)))
        found.append((counted.boxes, found_ids, counted.scores))
    return DetectionResult(tuple(classes), tuple(pictures), tuple(truth), tuple(found))


# --- intervals -------------------------------------------------------------------------------------------------------


def bootstrap(
    results: Result | Sequence[Result], name: str | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """95 % percentile interval of a score over images; for several runs, of their mean, over runs and images.

    Args:
        results: of runs, such as seeds, on the same images; each resample takes the same images of all runs. With few
            runs the interval is too narrow: two runs say little about the variation between runs.
        name: one of the `statistics` of the results; the first of their `headline` without one.
        seed: of the resampling.
        resamples: number of samples with replacement, each as large as the dataset.

    Raises:
        ValueError: the runs are on different images, there is none, or the score is unknown.
    """
    (runs,), name = _check([results], name)
    resampling = Resampling(len(runs[0].pictures), seed, resamples)
    return resampling.interval(_mean(runs, name), _resampled(runs, name, resampling.counts))


def bootstrap_difference(
    first: Result | Sequence[Result],
    second: Result | Sequence[Result],
    name: str | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % percentile interval of the score of `second` minus that of `first` on the same images; as `bootstrap`.

    Images that are hard for one are hard for both, so this is narrower than the two intervals suggest: use it for
    comparisons. Runs are resampled separately for each side, images jointly.
    """
    (before, after), name = _check([first, second], name)
    resampling = Resampling(len(before[0].pictures), seed, resamples)
    drawn = [_resampled(runs, name, resampling.counts) for runs in (before, after)]
    return resampling.difference(_mean(after, name) - _mean(before, name), *drawn)


def _check(sides: Sequence[Result | Sequence[Result]], name: str | None) -> tuple[list[list[Result]], str]:
    """Runs of each side, checked to be on the same images, and the name of a score."""
    lists = [[one] if isinstance(one, Result) else list(one) for one in sides]
    if any(not runs or not runs[0].pictures for runs in lists):
        raise ValueError("there is no result, or it has no images: give runs on at least one image")
    first = lists[0][0]
    for run in (run for runs in lists for run in runs):
        truths = (getattr(one, "truth", ()) for one in (run, first))
        if (run.classes, run.pictures) != (first.classes, first.pictures) or not all(
            np.array_equal(mine, other)
            for one, own in zip(*truths, strict=True)
            for mine, other in zip(one, own, strict=True)
        ):
            raise ValueError("the results differ in classes, images or true boxes: compare runs on the same dataset")
    if (name := name or first.headline[0]) not in first.statistics:
        raise ValueError(f"{name!r} is not a score: use one of {', '.join(first.statistics)}")
    return lists, name


def _mean(runs: Sequence[Result], name: str) -> float:
    return float(np.mean(_resampled(runs, name, np.ones((1, len(runs[0].pictures)), dtype=np.int64))))


def _resampled(runs: Sequence[Result], name: str, counts: np.ndarray) -> np.ndarray:
    """The score of each run on each resample, `(resamples, S)`."""
    return np.stack([run.scores([name], counts)[name] for run in runs], axis=1)
