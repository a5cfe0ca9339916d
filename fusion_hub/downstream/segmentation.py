"""How well a segmenter does: confusion matrices, IoU, mIoU, and how far these numbers can be trusted.

Conventions, as in the papers on MSRS and MFNet:

- All pictures of a set share one confusion matrix, and `IoU_c = TP_c / (TP_c + FP_c + FN_c)` is of that matrix; it is
  no mean over pictures.
- mIoU is the mean over all classes, the background (class 0, "unlabelled") among them; it is also given without.
- A class that occurs neither in the labels nor in the predictions has no IoU: NaN, left out of the mean, and not 0.
- Pixels with the label 255 do not count.

Intervals: `bootstrap` draws pictures again, so it says how much another set of such pictures would change the number;
`over_seeds` says how much another training run would; `bootstrap_runs` both at once. Two networks are compared with
`bootstrap_difference` and `difference_over_seeds`.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_hub.data.labels import IGNORED

if TYPE_CHECKING:
    from fusion_hub.downstream.protocols import Segmenter
    from fusion_hub.image.processor import ImageInput

LEVEL = 0.95
RESAMPLES = 2000

Statistic = Callable[[np.ndarray], np.ndarray]
"""From confusion matrices `(..., C, C)` to numbers `(...)`, NaN where undefined."""


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """`(C, C)` int64: how many pixels of the class of each row were given the class of each column.

    Args:
        label, prediction: integers of one shape, below `classes`; labels may be `IGNORED`.
        classes: C.

    Raises:
        ValueError: for other shapes and values.
    """
    label, prediction = np.asarray(label), np.asarray(prediction)
    if label.shape != prediction.shape:
        raise ValueError(f"the labels are {label.shape} and the predictions {prediction.shape}: give one shape")
    counted = label != IGNORED
    truth, guess = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, values in (("labels", truth), ("predictions", guess)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"the {name} reach from {values.min()} to {values.max()}: classes are 0 to {classes - 1}")
    return np.bincount(classes * truth + guess, minlength=classes**2).reshape(classes, classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class `(..., C)` float64 of confusion matrices `(..., C, C)`; NaN for classes that never occur."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray, *, background: bool = True) -> np.ndarray:
    """Mean of the defined IoUs `(...)` of confusion matrices `(..., C, C)`, of class 0 only if `background`."""
    iou = class_iou(confusion)[..., 0 if background else 1 :]
    defined = np.isfinite(iou)
    count = defined.sum(-1)
    total = np.where(defined, iou, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def pixel_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of the pixels `(...)` with the right class."""
    pixels = confusion.sum((-2, -1)).astype(np.float64)
    hits = np.trace(confusion, axis1=-2, axis2=-1)
    return np.divide(hits, pixels, out=np.full(pixels.shape, np.nan), where=pixels > 0)


# --- intervals -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A number and where it may lie: NaN at the ends where nothing can be said, as with one seed."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = "" if math.isnan(self.low) else f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.value:.1f}{ends}"


def bootstrap(
    confusions: np.ndarray, statistic: Statistic = mean_iou, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """95 % percentile interval over the pictures of one run.

    Args:
        confusions: `(N, C, C)`, one matrix for each picture.
        statistic: of their sum.
        seed: of the resampling.
        resamples: how often N pictures are drawn with replacement.
    """
    return bootstrap_runs(confusions[None], statistic, seed=seed, resamples=resamples)


def bootstrap_runs(
    confusions: np.ndarray, statistic: Statistic = mean_iou, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """95 % percentile interval of the mean over several runs, that draws runs and pictures again.

    Args:
        confusions: `(S, N, C, C)`: S runs, such as seeds, on the same N pictures. Every draw takes the same pictures of
            all its runs. With few runs it is too narrow: S = 2 knows little of how runs scatter.
    """
    confusions = np.asarray(confusions)
    if confusions.ndim != 4 or not confusions.shape[1]:
        raise ValueError(f"confusions are {confusions.shape}: give (runs, pictures, classes, classes)")
    rng = np.random.default_rng(seed)
    means = _resampled(confusions, statistic, draw_pictures(rng, confusions.shape[1], resamples), rng)
    return percentile_interval(float(np.mean(statistic(confusions.sum(1)))), means)


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, statistic: Statistic = mean_iou, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """95 % percentile interval of `statistic(second) - statistic(first)` on the same pictures.

    Hard pictures are hard for both, so this is narrower than the two intervals suggest: use it to compare.

    Args:
        first, second: each `(N, C, C)`, one run; or `(S, N, C, C)`, S runs, not the same S for both. Of several runs it
            is the difference of the means, and runs are drawn again, of each side by itself, as in `bootstrap_runs`.
    """
    first, second = (one[None] if one.ndim == 3 else one for one in (np.asarray(first), np.asarray(second)))
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"the matrices are {first.shape} and {second.shape}: compare runs on the same pictures")
    rng = np.random.default_rng(seed)
    counts = draw_pictures(rng, first.shape[1], resamples)
    before, after = (_resampled(one, statistic, counts, rng) for one in (first, second))
    value = np.mean(statistic(second.sum(1))) - np.mean(statistic(first.sum(1)))
    return percentile_interval(float(value), after - before)


def draw_pictures(rng: np.random.Generator, pictures: int, resamples: int) -> np.ndarray:
    """`(resamples, pictures)`: how often each picture was drawn, with replacement."""
    return rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)


def _resampled(
    confusions: np.ndarray, statistic: Statistic, counts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Means of the statistic over runs that are drawn again, on the pictures of `counts`: `(resamples,)`."""
    runs, pictures, classes = confusions.shape[:3]
    flat = confusions.reshape(runs, pictures, classes**2).astype(np.float64)
    sums = np.tensordot(counts.astype(np.float64), flat, axes=(1, 1))
    values = statistic(sums.reshape(len(counts), runs, classes, classes))
    chosen = rng.integers(runs, size=(len(counts), runs))
    return np.take_along_axis(values, chosen, axis=1).mean(1)


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of Student's t over training runs that differ in their seed only."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size < 2:
        return Interval(float(numbers.mean()) if numbers.size else math.nan, math.nan, math.nan)
    half = _student(numbers.size - 1) * numbers.std(ddof=1) / math.sqrt(numbers.size)
    return Interval(float(numbers.mean()), float(numbers.mean() - half), float(numbers.mean() + half))


def difference_over_seeds(
    first: Sequence[float], second: Sequence[float], others: Iterable[Sequence[float]] = ()
) -> Interval:
    """Mean of `second` minus that of `first`, numbers of training runs, and its 95 % interval of Student's t.

    Args:
        others: numbers of runs on other inputs. Two or three runs say little of how much runs scatter; that of all
            inputs together says more, and is taken to be the same for all.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in (first, second, *others)]
    before, after = groups[:2]
    value = float(after.mean() - before.mean())
    freedom = sum(group.size - 1 for group in groups if group.size)
    if not freedom or not math.isfinite(value):
        return Interval(value, math.nan, math.nan)
    variance = sum(float(np.square(group - group.mean()).sum()) for group in groups if group.size) / freedom
    half = _student(freedom) * math.sqrt(variance * (1 / before.size + 1 / after.size))
    return Interval(value, value - half, value + half)


def percentile_interval(value: float, values: np.ndarray) -> Interval:
    """`value` with the middle 95 % of its resampled `values`; undefined ones (NaN) are left out."""
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _student(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t, by integrating its density: t = tan(a) turns it into cos(a)^(f - 1)."""
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(LEVEL * area[-1], area, angles)))


# --- a segmenter on a set --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """What a segmenter did on a set.

    Attributes:
        classes: names, by class id.
        pictures: names of the pictures.
        confusions: `(N, C, C)` int64, one matrix for each of them.
    """

    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    confusions: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """`(C, C)`, of all pictures."""
        return self.confusions.sum(0)

    def take(self, wanted: Callable[[str], bool]) -> "SegmentationResult":
        """The part of the pictures whose names `wanted` accepts, such as those of the night."""
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
        """Write numbers, the interval of the mIoU over pictures, all matrices and `more` as JSON."""
        interval = bootstrap(self.confusions) if self.pictures else Interval(math.nan, math.nan, math.nan)
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
        aside = path.with_name(path.name + ".new")
        aside.write_text(json.dumps(values) + "\n", encoding="utf-8")
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> "SegmentationResult":
        """Read what `save` wrote."""
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        count = len(values["classes"])
        matrices = np.array([row["confusion"] for row in values["pictures"]], dtype=np.int64)
        names = tuple(row["name"] for row in values["pictures"])
        return cls(tuple(values["classes"]), names, matrices.reshape(-1, count, count))


def evaluate_segmenter(
    segmenter: "Segmenter", samples: Iterable[tuple[str, "ImageInput", np.ndarray]]
) -> SegmentationResult:
    """Segment pictures and compare.

    Args:
        segmenter: its classes must be 0 ... C - 1, the classes of the labels.
        samples: name, picture, and label `(H, W)` in the picture's size.

    Raises:
        ValueError: a label has another size than its picture, or classes that the segmenter does not know.
    """
    names = tuple(segmenter.names[index] for index in range(len(segmenter.names)))
    pictures, matrices = [], []
    for name, picture, label in samples:
        class_map = segmenter.segment(picture).class_map
        try:
            matrices.append(confusion_matrix(label, class_map, len(names)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        pictures.append(name)
    stacked = np.stack(matrices) if matrices else np.zeros((0, len(names), len(names)), np.int64)
    return SegmentationResult(names, tuple(pictures), stacked)
