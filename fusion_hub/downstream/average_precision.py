"""Average precision and recall as COCO defines them (Lin et al. 2014), of a whole set and of any draw of its pictures.

pycocotools matches detections with objects, picture by picture; `Matches` keeps what it matched. Matching is the slow
part and knows of one picture only, so a bootstrap does it once: `measure` sums matches with a weight for each picture.
With every weight 1 these are the numbers of pycocotools.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_hub.data.boxes import Boxes
from fusion_hub.downstream.weights import require

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
MOST_DETECTIONS = 100
WORKING_SCORE = 0.3
"""The score from which a detection counts where one threshold has to be chosen, as on the page."""

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Detections in one picture: boxes `(N, 4)`, class ids `(N,)` and scores `(N,)`."""


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of one class in all pictures, best first, and which of them are right.

    Attributes:
        scores: `(D,)` falling.
        pictures: `(D,)` int, the index of the picture of each.
        hits: `(10, D)` bool: it is matched with an object, at each of `IOU_THRESHOLDS`.
        objects: `(P,)` int, how many objects of the class each picture has.
    """

    scores: np.ndarray
    pictures: np.ndarray
    hits: np.ndarray
    objects: np.ndarray

    def average_precision(self, counts: np.ndarray, levels: Sequence[int]) -> np.ndarray:
        """Mean over IoU thresholds of the area below the precision-recall curve, read at 101 recalls: `(B,)`.

        Args:
            counts: `(B, P)` int: how often each picture is in each of B draws.
            levels: which of `IOU_THRESHOLDS`, by index.

        Returns:
            NaN for draws without an object of the class.
        """
        areas = np.zeros(len(counts))
        everything = np.ones(len(self.scores), dtype=bool)
        for level in levels:
            hits = self.hits[level]  # recall grows at hits only, and what comes after the last changes nothing
            found, seen = (counts @ self._up_to_each(hits, which).T for which in (hits, everything))  # (B, hits)
            precision = found / np.maximum(seen, 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            reached = np.searchsorted(RECALL_LEVELS, self._share(found, counts), side="right")
            areas += (np.diff(reached, axis=1, prepend=0) * envelope).sum(axis=1) / len(RECALL_LEVELS)
        return np.where(counts @ self.objects > 0, areas / len(levels), np.nan)

    def recall(self, counts: np.ndarray, least_score: float = 0.0) -> np.ndarray:
        """Share of the objects that are found at IoU 0.5 with a score of `least_score` or more: `(B,)`, or NaN."""
        right = counts @ self._by_picture(self.hits[0] & (self.scores >= least_score))
        return np.where(counts @ self.objects > 0, self._share(right[:, None], counts)[:, 0], np.nan)

    def precision(self, counts: np.ndarray, least_score: float) -> np.ndarray:
        """Share of the detections with a score of `least_score` or more that are right at IoU 0.5: `(B,)`, or NaN."""
        given = counts @ self._by_picture(self.scores >= least_score)
        right = counts @ self._by_picture(self.hits[0] & (self.scores >= least_score))
        return np.where(given > 0, right / np.maximum(given, 1), np.nan)

    def _by_picture(self, which: np.ndarray) -> np.ndarray:
        """How many detections, where `which` `(D,)` is true, each picture has: `(P,)`."""
        return np.bincount(self.pictures[which], minlength=len(self.objects)).astype(np.float64)

    def _up_to_each(self, hits: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The same, counted from the best detection to each hit: `(hits, P)`."""
        after = np.searchsorted(
            np.flatnonzero(hits), np.flatnonzero(which)
        )  # number of the next hit, itself one or not
        pictures, rows = len(self.objects), int(hits.sum()) + 1
        counted = np.bincount(after * pictures + self.pictures[which], minlength=rows * pictures)
        return np.cumsum(counted.reshape(rows, pictures)[:-1], axis=0).astype(np.float64)

    def _share(self, found: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return found / np.maximum(counts @ self.objects, 1)[:, None]


_MEASURES = {
    "AP": lambda matches, counts: matches.average_precision(counts, range(10)),
    "AP50": lambda matches, counts: matches.average_precision(counts, [0]),
    "recall": lambda matches, counts: matches.recall(counts),
    "recall@0.3": lambda matches, counts: matches.recall(counts, WORKING_SCORE),
    "precision@0.3": lambda matches, counts: matches.precision(counts, WORKING_SCORE),
}
MEANS = {"mAP": "AP", "mAP50": "AP50", **{name: name for name in ("recall", "recall@0.3", "precision@0.3")}}
"""Numbers over all classes, and of which number of each class they are the mean."""


def statistics(classes: Sequence[str]) -> list[str]:
    """The names that `measure` knows: means over classes, and `AP/<class>` for each class."""
    return [*MEANS, *(f"{measure}/{name}" for measure in _MEASURES for name in classes)]


def measure(matches: Sequence[Matches], classes: Sequence[str], statistic: str, counts: np.ndarray) -> np.ndarray:
    """A number on each of B draws of pictures: `(B,)`, NaN where it is undefined.

    Args:
        matches: of each class.
        statistic: one of `statistics(classes)`.
        counts: `(B, P)` int: how often each picture is in each draw.

    Raises:
        ValueError: for another statistic.
    """
    if statistic not in statistics(classes):
        raise ValueError(f"{statistic!r} is no score of detection: use one of {', '.join(statistics(classes))}")
    if statistic not in MEANS:
        name, _, wanted = statistic.partition("/")
        return _MEASURES[name](matches[list(classes).index(wanted)], counts)
    return mean_over_classes(np.stack([_MEASURES[MEANS[statistic]](one, counts) for one in matches]))


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean of what is defined in `(C, B)`: `(B,)`, NaN where nothing is."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan)


# --- pycocotools -----------------------------------------------------------------------------------------------------


def match(truth: Sequence[Boxes], found: Sequence[Found], classes: int) -> list[Matches]:
    """Match the detections of each class with its objects.

    From the best score down, a detection takes the object of its picture that it overlaps most, of those that are still
    free and that it overlaps by the threshold; at most 100 detections of a class and picture.

    Args:
        truth, found: of each picture.

    Raises:
        ImportError: pycocotools is not installed.
    """
    coco = require("pycocotools.coco", "the score of a detector")
    cocoeval = require("pycocotools.cocoeval", "the score of a detector")
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it tells how long it took
        for side in (truth, found):
            index = coco.COCO()
            index.dataset = {  # pictures and classes numbered from 1
                "images": [{"id": number} for number in range(1, len(truth) + 1)],
                "categories": [{"id": number} for number in range(1, classes + 1)],
                "annotations": _annotations(side),
            }
            index.createIndex()
            sides.append(index)
        evaluation = cocoeval.COCOeval(*sides, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.evaluate()
    rows = evaluation.evalImgs  # class by class, each with all pictures
    return [_matches_of(rows[number * len(truth) : (number + 1) * len(truth)]) for number in range(classes)]


def _annotations(side: Sequence[Boxes] | Sequence[Found]) -> list[dict[str, Any]]:
    """As COCO writes them; numbered from 1, as pycocotools takes a match with number 0 for none."""
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


def _matches_of(pictures: Sequence[dict[str, Any] | None]) -> Matches:
    """From what pycocotools found in each picture, None where it has neither objects nor detections."""
    objects = np.array([len(one["gtIds"]) if one else 0 for one in pictures], dtype=np.int64)
    found = [(index, one) for index, one in enumerate(pictures) if one and one["dtIds"]]
    scores = np.concatenate([np.zeros(0), *(one["dtScores"] for _, one in found)])
    hits = np.concatenate([np.zeros((10, 0)), *(one["dtMatches"] for _, one in found)], axis=1) > 0
    picture = np.repeat([index for index, _ in found], [len(one["dtIds"]) for _, one in found]).astype(np.int64)
    order = np.argsort(-scores, kind="stable")
    return Matches(scores[order], picture[order], hits[:, order], objects)
