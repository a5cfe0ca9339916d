"""Scores of a detector against annotated boxes: average precision and recall as COCO defines them (Lin et al. 2014).

- `AP` is the mean over the IoU thresholds 0.50, 0.55 ... 0.95, `AP50` that of 0.50 alone; `mAP` and `mAP50` are the
  means over the classes that have objects.
- Detections with a score of at least 0.001 count, at most 100 per image; `recall` is that of all of them, at IoU 0.5.
- `recall@0.3` and `precision@0.3` describe a detector in use: of the detections that score at least 0.3, at IoU 0.5.

pycocotools matches detections with objects. It is the slow part and independent for each image, so a bootstrap does it
once: `measure` weights the matches of each image. With all weights 1 these are the numbers of pycocotools. Intervals
resample images (and runs, if there are several), as in `segmentation_scores`.
"""

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusion_hub.data.annotations import Boxes, same_class
from fusion_hub.downstream.protocols import Detector
from fusion_hub.downstream.weights import require
from fusion_hub.evaluation.statistics import LEVEL, RESAMPLES, Interval, Resampling
from fusion_hub.files import write_aside
from fusion_hub.image.processor import ImageInput

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
MIN_SCORE = 0.001
WORKING_SCORE = 0.3
"""Score threshold where a single one is needed, as on the page."""
_RESAMPLES_AT_ONCE = 500

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Detections in one image: boxes `(N, 4)`, class ids `(N,)` and scores `(N,)`."""


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of one class in all images, best first, and which of them are correct.

    Attributes:
        scores: `(D,)` falling.
        pictures: `(D,)` int, the index of the image of each.
        hits: `(10, D)` bool: matched with an object, at each of `IOU_THRESHOLDS`.
        objects: `(P,)` int, number of objects of the class in each image.
    """

    scores: np.ndarray
    pictures: np.ndarray
    hits: np.ndarray
    objects: np.ndarray

    def average_precision(self, counts: np.ndarray, levels: Sequence[int]) -> np.ndarray:
        """Mean over IoU thresholds of the area under the precision-recall curve, sampled at 101 recalls: `(B,)`.

        Args:
            counts: `(B, P)` int: number of times each image is in each of B resamples.
            levels: indices into `IOU_THRESHOLDS`.

        Returns:
            NaN for resamples without an object of the class.
        """
        areas = np.zeros(len(counts))
        everything = np.ones(len(self.scores), dtype=bool)
        for level in levels:
            hits = self.hits[level]  # recall grows only at hits, and detections after the last hit change nothing
            found, seen = (counts @ self._up_to_each(hits, which).T for which in (hits, everything))  # (B, hits)
            precision = found / np.maximum(seen, 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = found / np.maximum(counts @ self.objects, 1)[:, None]
            reached = np.searchsorted(RECALL_LEVELS, recall, side="right")
            areas += (np.diff(reached, axis=1, prepend=0) * envelope).sum(axis=1) / len(RECALL_LEVELS)
        return np.where(counts @ self.objects > 0, areas / len(levels), np.nan)

    def recall(self, counts: np.ndarray, min_score: float = 0.0) -> np.ndarray:
        """Share of the objects found at IoU 0.5 with a score of at least `min_score`: `(B,)`, or NaN."""
        objects = counts @ self.objects
        correct = counts @ self._by_picture(self.hits[0] & (self.scores >= min_score))
        return np.where(objects > 0, correct / np.maximum(objects, 1), np.nan)

    def precision(self, counts: np.ndarray, min_score: float) -> np.ndarray:
        """Share of the detections with a score of at least `min_score` that are correct at IoU 0.5: `(B,)`, or NaN."""
        given = counts @ self._by_picture(self.scores >= min_score)
        correct = counts @ self._by_picture(self.hits[0] & (self.scores >= min_score))
        return np.where(given > 0, correct / np.maximum(given, 1), np.nan)

    def _by_picture(self, which: np.ndarray) -> np.ndarray:
        """Number of detections in each image for which `which` `(D,)` is true: `(P,)`."""
        return np.bincount(self.pictures[which], minlength=len(self.objects)).astype(np.float64)

    def _up_to_each(self, hits: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The same, counted from the best detection to each hit: `(hits, P)`."""
        next_hit = np.searchsorted(np.flatnonzero(hits), np.flatnonzero(which))
        pictures, rows = len(self.objects), int(hits.sum()) + 1
        counted = np.bincount(next_hit * pictures + self.pictures[which], minlength=rows * pictures)
        return np.cumsum(counted.reshape(rows, pictures)[:-1], axis=0).astype(np.float64)


_MEASURES = {
    "AP": lambda matches, counts: matches.average_precision(counts, range(10)),
    "AP50": lambda matches, counts: matches.average_precision(counts, [0]),
    "recall": lambda matches, counts: matches.recall(counts),
    "recall@0.3": lambda matches, counts: matches.recall(counts, WORKING_SCORE),
    "precision@0.3": lambda matches, counts: matches.precision(counts, WORKING_SCORE),
}
MEANS = {"mAP": "AP", "mAP50": "AP50", **{name: name for name in ("recall", "recall@0.3", "precision@0.3")}}
"""Scores over all classes, and the score of each class of which they are the mean."""


def statistics(classes: Sequence[str]) -> list[str]:
    """The names for `measure`: means over classes, and `AP/<class>` ... for each class."""
    return [*MEANS, *(f"{measure}/{name}" for measure in _MEASURES for name in classes)]


def measure(matches: Sequence[Matches], classes: Sequence[str], statistic: str, counts: np.ndarray) -> np.ndarray:
    """A score on each of B resamples of images: `(B,)`, NaN where it is undefined.

    Args:
        matches: of each class.
        statistic: one of `statistics(classes)`.
        counts: `(B, P)` int: number of times each image is in each resample.

    Raises:
        ValueError: unknown statistic.
    """
    if statistic not in statistics(classes):
        raise ValueError(f"{statistic!r} is not a detection score: use one of {', '.join(statistics(classes))}")
    if statistic not in MEANS:
        name, _, wanted = statistic.partition("/")
        return _MEASURES[name](matches[list(classes).index(wanted)], counts)
    return mean_over_classes(np.stack([_MEASURES[MEANS[statistic]](one, counts) for one in matches]))


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean of the defined values in `(C, B)`: `(B,)`, NaN where there are none."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan)


def match(truth: Sequence[Boxes], found: Sequence[Found], classes: int) -> list[Matches]:
    """Match the detections of each class with its objects, by pycocotools.

    From the highest score down, a detection takes the object of its image with the largest overlap, among those that
    are still free and overlap by at least the threshold; at most 100 detections of a class and image.

    Args:
        truth, found: of each image.

    Raises:
        ImportError: pycocotools is not installed.
    """
    coco = require("pycocotools.coco", "scoring a detector")
    cocoeval = require("pycocotools.cocoeval", "scoring a detector")
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its timing
        for side in (truth, found):
            index = coco.COCO()
            index.dataset = {
                "images": [{"id": number} for number in range(1, len(truth) + 1)],
                "categories": [{"id": number} for number in range(1, classes + 1)],
                "annotations": _annotations(side),
            }
            index.createIndex()
            sides.append(index)
        evaluation = cocoeval.COCOeval(*sides, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    rows = evaluation.evalImgs  # class by class, each with all images; None for no objects and no detections
    result = []
    for number in range(classes):
        pictures = rows[number * len(truth) : (number + 1) * len(truth)]
        objects = np.array([len(one["gtIds"]) if one else 0 for one in pictures], dtype=np.int64)
        having = [(index, one) for index, one in enumerate(pictures) if one and one["dtIds"]]
        scores = np.concatenate([np.zeros(0), *(one["dtScores"] for _, one in having)])
        hits = np.concatenate([np.zeros((10, 0)), *(one["dtMatches"] for _, one in having)], axis=1) > 0
        indices = np.repeat([index for index, _ in having], [len(one["dtIds"]) for _, one in having]).astype(np.int64)
        order = np.argsort(-scores, kind="stable")
        result.append(Matches(scores[order], indices[order], hits[:, order], objects))
    return result


def _annotations(side: Sequence[Boxes] | Sequence[Found]) -> list[dict[str, Any]]:
    """In COCO's format; ids start at 1, because pycocotools treats a match with id 0 as none."""
    rows: list[dict[str, Any]] = []
    for picture, (boxes, class_ids, *scores) in enumerate(side, start=1):
        for index, (left, top, right, bottom) in enumerate(np.asarray(boxes, dtype=np.float64).tolist()):
            size = right - left, bottom - top
            row: dict[str, Any] = {
                "id": len(rows) + 1,
                "image_id": picture,
                "category_id": int(class_ids[index]) + 1,
                "bbox": [left, top, *size],
                "area": size[0] * size[1],
                "iscrowd": 0,
            }
            rows.append(row | ({"score": float(scores[0][index])} if scores else {}))
    return rows


# --- a detector on a dataset -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """Detections of a detector on a dataset, with the truth.

    Attributes:
        classes: names, by class id.
        pictures: names of the images.
        truth: of each image, boxes `(N, 4)` float32 (left, top, right, bottom, pixels) and class ids `(N,)` int64.
        found: of each image, boxes, class ids and scores `(N,)` float32 of the detections, best first.
    """

    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    truth: tuple[Boxes, ...]
    found: tuple[Found, ...]

    @cached_property
    def matches(self) -> list[Matches]:
        """Which detections of each class are correct."""
        return match(self.truth, self.found, len(self.classes))

    @property
    def objects(self) -> dict[str, int]:
        """Number of objects of each class."""
        class_ids = np.concatenate([[], *(ids for _, ids in self.truth)]).astype(int)
        return dict(zip(self.classes, np.bincount(class_ids, minlength=len(self.classes)).tolist(), strict=True))

    def take(self, wanted: Callable[[str], bool]) -> "DetectionResult":
        """The images whose names `wanted` accepts, such as those taken at night."""
        chosen = [index for index, name in enumerate(self.pictures) if wanted(name)]
        parts = (tuple(column[i] for i in chosen) for column in (self.pictures, self.truth, self.found))
        return DetectionResult(self.classes, *parts)  # type: ignore[arg-type]

    def numbers(self) -> dict[str, float]:
        """The defined scores of `statistics`: mAP, mAP50, recall, `AP/<class>` ..."""
        if not self.pictures:
            return {}
        once = np.ones((1, len(self.pictures)), dtype=np.int64)
        values = {name: float(measure(self.matches, self.classes, name, once)[0]) for name in statistics(self.classes)}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def save(self, path: Path, **more: Any) -> None:
        """Write numbers, the interval of the mAP50 over images, all boxes and `more` as JSON."""
        interval = bootstrap_detection([self]) if self.pictures else Interval(math.nan)
        values = {
            **more,
            "numbers": self.numbers(),
            "mAP50_interval": {"level": LEVEL, "over": "pictures", "low": interval.low, "high": interval.high},
            "classes": self.classes,
            "pictures": [
                {
                    "name": name,
                    "truth": {"boxes": truth[0].tolist(), "class_ids": truth[1].tolist()},
                    "found": {"boxes": found[0].tolist(), "class_ids": found[1].tolist(), "scores": found[2].tolist()},
                }
                for name, truth, found in zip(self.pictures, self.truth, self.found, strict=True)
            ],
        }
        with write_aside(path) as aside:
            aside.write_text(json.dumps(values) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "DetectionResult":
        """Read a file written by `save`."""
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = values["pictures"]
        found = (
            (*_boxes(row["found"]), np.array(row["found"]["scores"], dtype=np.float32).reshape(-1)) for row in rows
        )
        names, truth = (row["name"] for row in rows), (_boxes(row["truth"]) for row in rows)
        return cls(tuple(values["classes"]), tuple(names), tuple(truth), tuple(found))


def _boxes(values: Mapping[str, Any]) -> Boxes:
    boxes = np.array(values["boxes"], dtype=np.float32).reshape(-1, 4)
    return boxes, np.array(values["class_ids"], dtype=np.int64).reshape(-1)


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
    pictures, truths, founds = [], [], []
    for name, image, boxes, class_ids in samples:
        detections = detector.detect(image, threshold=threshold)
        height, width = detections.size
        boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        if (boxes < 0).any() or (boxes > np.array([width, height] * 2) + 0.01).any():
            raise ValueError(f"{name}: a box lies outside the image of {width} x {height}: give boxes in its pixels")
        counted = detections.take(np.isin(detections.class_ids, list(to_class)))
        counted = counted.take(np.arange(min(len(counted), MAX_DETECTIONS)))
        found_ids = np.array([to_class[int(class_id)] for class_id in counted.class_ids], dtype=np.int64)
        pictures.append(name)
        truths.append((boxes, np.asarray(class_ids, dtype=np.int64)))
        founds.append((counted.boxes, found_ids, counted.scores))
    return DetectionResult(tuple(classes), tuple(pictures), tuple(truths), tuple(founds))


# --- intervals -------------------------------------------------------------------------------------------------------


def bootstrap_detection(
    results: DetectionResult | Sequence[DetectionResult],
    statistic: str = "mAP50",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % percentile interval of a score over images; for several runs, of their mean, over runs and images.

    Args:
        results: of runs, such as seeds, on the same images; each resample takes the same images of all runs. With few
            runs the interval is too narrow: two runs say little about the variation between runs.
        statistic: one of `statistics(classes)`.
        seed: of the resampling.
        resamples: number of samples with replacement, each as large as the dataset.

    Raises:
        ValueError: the runs are on different images, there is none, or the statistic is unknown.
    """
    runs = _runs(results)
    resampling = Resampling(len(runs[0].pictures), seed, resamples)
    return resampling.interval(_mean(runs, statistic), _resampled(runs, statistic, resampling.counts))


def bootstrap_detection_difference(
    first: DetectionResult | Sequence[DetectionResult],
    second: DetectionResult | Sequence[DetectionResult],
    statistic: str = "mAP50",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % percentile interval of the score of `second` minus that of `first` on the same images.

    Images that are hard for one are hard for both, so this is narrower than the two intervals suggest: use it for
    comparisons. Runs are resampled separately for each side, images jointly.
    """
    before, after = _runs(first), _runs(second)
    _runs([*before, *after])
    resampling = Resampling(len(before[0].pictures), seed, resamples)
    mean = _mean(after, statistic) - _mean(before, statistic)
    return resampling.difference(mean, *(_resampled(runs, statistic, resampling.counts) for runs in (before, after)))


def _runs(results: DetectionResult | Sequence[DetectionResult]) -> list[DetectionResult]:
    """As a list, checked to have the same images and truth."""
    runs = [results] if isinstance(results, DetectionResult) else list(results)
    if not runs or not runs[0].pictures:
        raise ValueError("there is no result, or it has no images: give runs on at least one image")
    for run in runs[1:]:
        same = (run.classes, run.pictures) == (runs[0].classes, runs[0].pictures) and all(
            np.array_equal(mine, theirs)
            for one, other in zip(run.truth, runs[0].truth, strict=True)
            for mine, theirs in zip(one, other, strict=True)
        )
        if not same:
            raise ValueError("the results differ in classes, images or true boxes: compare runs on the same dataset")
    return runs


def _mean(runs: Sequence[DetectionResult], statistic: str) -> float:
    once = np.ones((1, len(runs[0].pictures)), dtype=np.int64)
    return float(np.mean(_resampled(runs, statistic, once)))


def _resampled(runs: Sequence[DetectionResult], statistic: str, counts: np.ndarray) -> np.ndarray:
    """The statistic of each run on each resample, `(resamples, S)`."""
    parts = [counts[start : start + _RESAMPLES_AT_ONCE] for start in range(0, len(counts), _RESAMPLES_AT_ONCE)]
    return np.stack(
        [np.concatenate([measure(run.matches, run.classes, statistic, part) for part in parts]) for run in runs], axis=1
    )
