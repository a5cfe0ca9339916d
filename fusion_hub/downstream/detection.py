"""How well a detector does: average precision and recall against boxes that people drew, and how far to trust them.

Conventions, those of COCO:

- `AP` is the mean over the IoU thresholds 0.50, 0.55 ... 0.95, `AP50` that of 0.50 alone; `mAP` and `mAP50` are the
  means over the classes that have objects.
- Detections count down to the score 0.001, at most 100 in a picture; `recall` is what they reach in all, at IoU 0.5.
- `recall@0.3` and `precision@0.3` are those of a detector in use: of the detections that score 0.3 or more.

Intervals draw pictures again (and runs, where there are several), as in `segmentation`.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_hub.data.boxes import Boxes, same_class
from fusion_hub.downstream.average_precision import (
    MOST_DETECTIONS,
    Found,
    Matches,
    match,
    measure,
    statistics,
)
from fusion_hub.evaluation.statistics import LEVEL, RESAMPLES, Interval, Resampling

if TYPE_CHECKING:
    from fusion_hub.downstream.protocols import Detections, Detector
    from fusion_hub.image.processor import ImageInput

LEAST_SCORE = 0.001
_DRAWS_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """What a detector did on a set.

    Attributes:
        classes: names, by class id.
        pictures: names of the pictures.
        truth: of each picture, boxes `(N, 4)` float32 (left, top, right, bottom, pixels) and class ids `(N,)` int64.
        found: of each picture, boxes, class ids and scores `(N,)` float32 of the detections, best first.
    """

    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    truth: tuple[Boxes, ...]
    found: tuple[Found, ...]

    @cached_property
    def matches(self) -> list[Matches]:
        """Which detections of each class are right."""
        return match(self.truth, self.found, len(self.classes))

    @property
    def objects(self) -> dict[str, int]:
        """How many objects each class has."""
        counts = np.bincount(
            np.concatenate([[], *(ids for _, ids in self.truth)]).astype(int), minlength=len(self.classes)
        )
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def take(self, wanted: Callable[[str], bool]) -> "DetectionResult":
        """The part of the pictures whose names `wanted` accepts, such as those of the night."""
        chosen = [index for index, name in enumerate(self.pictures) if wanted(name)]
        parts = (tuple(column[i] for i in chosen) for column in (self.pictures, self.truth, self.found))
        return DetectionResult(self.classes, *parts)  # type: ignore[arg-type]

    def numbers(self) -> dict[str, float]:
        """mAP, mAP50, recall, `AP/<class>` ... (`average_precision.statistics`): those that are defined."""
        if not self.pictures:
            return {}
        once = np.ones((1, len(self.pictures)), dtype=np.int64)
        values = {name: float(measure(self.matches, self.classes, name, once)[0]) for name in statistics(self.classes)}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def save(self, path: Path, **more: Any) -> None:
        """Write numbers, the interval of the mAP50 over pictures, all boxes and `more` as JSON."""
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
        aside = path.with_name(path.name + ".new")
        aside.write_text(json.dumps(values) + "\n", encoding="utf-8")
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> "DetectionResult":
        """Read what `save` wrote."""
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
    detector: "Detector",
    samples: Iterable[tuple[str, "ImageInput", np.ndarray, np.ndarray]],
    classes: Sequence[str],
    *,
    names: Mapping[str, str] | None = None,
    threshold: float = LEAST_SCORE,
) -> DetectionResult:
    """Detect in pictures and compare.

    Args:
        detector: whose classes have the names of `classes` or usual synonyms; its other classes do not count.
        samples: name, picture, boxes `(N, 4)` in its pixels, and their class ids `(N,)`, index into `classes`.
        names: from the detector's names to `classes`, where they are others; then only these count.
        threshold: the least score of what counts.

    Raises:
        ValueError: the detector lacks a class, or a box lies outside its picture.
    """
    to_class = _class_of(detector.names, classes, names)
    pictures, truths, founds = [], [], []
    for name, picture, boxes, class_ids in samples:
        detections = detector.detect(picture, threshold=threshold)
        height, width = detections.size
        boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        if (boxes < 0).any() or (boxes > np.array([width, height] * 2) + 0.01).any():
            raise ValueError(
                f"{name}: a box lies outside of the picture of {width} x {height}: give boxes in pixels of the picture"
            )
        pictures.append(name)
        truths.append((boxes, np.asarray(class_ids, dtype=np.int64)))
        founds.append(_of_classes(detections, to_class))
    return DetectionResult(tuple(classes), tuple(pictures), tuple(truths), tuple(founds))


def _class_of(known: Mapping[int, str], classes: Sequence[str], names: Mapping[str, str] | None) -> dict[int, int]:
    """From the ids of the detector to those of `classes`."""
    ids = {same_class(name): number for number, name in enumerate(classes)}
    wanted = {class_id: name if names is None else names.get(name) for class_id, name in known.items()}
    to_class = {i: ids[same_class(name)] for i, name in wanted.items() if name is not None and same_class(name) in ids}
    if lacking := [name for number, name in enumerate(classes) if number not in to_class.values()]:
        raise ValueError(
            f"the detector has no class for {lacking[0]!r}: leave it out, or say with names which of its classes it is "
            f"({', '.join(list(known.values())[:8])}{', ...' if len(known) > 8 else ''})"
        )
    return to_class


def _of_classes(detections: "Detections", to_class: Mapping[int, int]) -> Found:
    """The best 100 detections of the classes that count, with the ids of these."""
    counted = detections.take(np.isin(detections.class_ids, list(to_class)))
    counted = counted.take(np.arange(min(len(counted), MOST_DETECTIONS)))
    class_ids = np.array([to_class[int(class_id)] for class_id in counted.class_ids], dtype=np.int64)
    return counted.boxes, class_ids, counted.scores


# --- intervals -------------------------------------------------------------------------------------------------------


def bootstrap_detection(
    results: DetectionResult | Sequence[DetectionResult],
    statistic: str = "mAP50",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % percentile interval of a score over pictures; of several runs, of their mean, over runs and pictures.

    Args:
        results: of runs, such as seeds, on the same pictures. Every draw takes the same pictures of all its runs. With
            few runs it is too narrow: two know little of how runs scatter.
        statistic: one of `average_precision.statistics(classes)`.
        seed: of the resampling.
        resamples: how often as many pictures as there are are drawn with replacement.

    Raises:
        ValueError: the runs are on different pictures, there is none, or the statistic is unknown.
    """
    runs = _runs(results)
    draws = Resampling(len(runs[0].pictures), seed, resamples)
    return draws.interval(_mean(runs, statistic), _on_draws(runs, statistic, draws.counts))


def bootstrap_detection_difference(
    first: DetectionResult | Sequence[DetectionResult],
    second: DetectionResult | Sequence[DetectionResult],
    statistic: str = "mAP50",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % percentile interval of the score of `second` minus that of `first` on the same pictures.

    Hard pictures are hard for both, so this is narrower than the two intervals suggest: use it to compare. Runs are
    drawn of each side by itself, pictures for both sides together.
    """
    before, after = _runs(first), _runs(second)
    _runs([*before, *after])
    draws = Resampling(len(before[0].pictures), seed, resamples)
    mean = _mean(after, statistic) - _mean(before, statistic)
    return draws.difference(mean, *(_on_draws(runs, statistic, draws.counts) for runs in (before, after)))


def _runs(results: DetectionResult | Sequence[DetectionResult]) -> list[DetectionResult]:
    """As a list, of runs on the same pictures with the same truth."""
    runs = [results] if isinstance(results, DetectionResult) else list(results)
    if not runs or not runs[0].pictures:
        raise ValueError("there is no result, or none of its pictures is left: give runs on at least one picture")
    for run in runs[1:]:
        same = (run.classes, run.pictures) == (runs[0].classes, runs[0].pictures) and all(
            np.array_equal(mine, theirs)
            for one, other in zip(run.truth, runs[0].truth, strict=True)
            for mine, theirs in zip(one, other, strict=True)
        )
        if not same:
            raise ValueError("the results differ in classes, pictures or true boxes: compare runs on the same set")
    return runs


def _mean(runs: Sequence[DetectionResult], statistic: str) -> float:
    once = np.ones((1, len(runs[0].pictures)), dtype=np.int64)
    return float(np.mean([measure(run.matches, run.classes, statistic, once)[0] for run in runs]))


def _on_draws(runs: Sequence[DetectionResult], statistic: str, counts: np.ndarray) -> np.ndarray:
    """The statistic of each run on each draw of pictures, `(resamples, S)`."""
    parts = [counts[start : start + _DRAWS_AT_ONCE] for start in range(0, len(counts), _DRAWS_AT_ONCE)]
    return np.stack(
        [np.concatenate([measure(run.matches, run.classes, statistic, part) for part in parts]) for run in runs], axis=1
    )
