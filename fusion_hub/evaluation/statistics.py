"""Intervals and tests of all tables: bootstrap over images and training runs, Student's t over runs, Holm, ranks,
and the digits that tables print.

The bootstraps resample with NumPy. `scipy.stats.bootstrap` draws the same images for a mean, but differs in the
last digit, and has neither a paired p-value nor a second level of resampling (training runs).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special, stats

from fusion_hub.metrics import find_metric

LEVEL = 0.95
RESAMPLES = 2000
MIN_IMAGES = 5  # with fewer, a bootstrap interval means little
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
RANK_METRICS = ("EN", "SD", "SF", "SCD", "VIF", "Qabf", "SSIM_cddfuse")
"""The columns of CDDFuse's table but MI, which the pixel maximum wins by far."""


@dataclass(frozen=True)
class Interval:
    """A mean (or a difference of means) with its 95 % interval.

    Attributes:
        mean: NaN where undefined.
        low, high: ends; NaN where nothing is known, such as for published numbers or for a single training run.
        n: number of images that it is over; 0 where it is not known.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    @property
    def has_ends(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and it leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def percent(self) -> str:
        """`45.1 [40.0, 50.3]`, or `45.1` without an interval."""
        ends = f" [{100 * self.low:.1f}, {100 * self.high:.1f}]" if self.has_ends else ""
        return f"{100 * self.mean:.1f}{ends}"


Statistic = Interval
"""The public name of `Interval` since version 0.1."""


def percentile_interval(mean: float, samples: np.ndarray, n: int = 0) -> Interval:
    """`mean` with the middle 95 % of its resampled values `samples`; undefined ones (NaN) are left out."""
    samples = samples[np.isfinite(samples)]
    if not samples.size:
        return Interval(mean, n=n)
    low, high = np.quantile(samples, TAILS)
    return Interval(mean, float(low), float(high), n)


def bootstrap_mean(values: Sequence[float | None], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of the defined values and its percentile bootstrap interval (Efron, 1979), by resampling images.

    Undefined values (None) are left out; without any defined value all numbers are NaN. Fewer than `MIN_IMAGES` have a
    mean without an interval.
    """
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if len(defined) == 0:
        return Interval(math.nan)
    mean = float(defined.mean())
    if len(defined) < MIN_IMAGES:
        return Interval(mean, n=len(defined))
    drawn = np.random.default_rng(seed).integers(0, len(defined), (resamples, len(defined)))
    return percentile_interval(mean, defined[drawn].mean(1), len(defined))


@lru_cache(maxsize=4)
def _counts(n: int, seed: int, resamples: int) -> tuple[np.ndarray, dict]:
    """How often each of `n` images is drawn, `(resamples, n)` float64, and the state of the generator afterwards."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    return counts, dict(rng.bit_generator.state)


def paired_bootstrap(
    differences: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float, float]:
    """Mean of paired differences, its 95 % percentile interval, and a two-sided p-value (Efron, 1979).

    Args:
        differences: `(n,)` finite, one for each image, method minus reference; n at least 1, else ValueError.
        resamples: how often n images are drawn with replacement; p is never below `2 / (resamples + 1)`.
        seed: comparisons of equal n and seed use the same draws, so they do not depend on what else is compared.

    Returns:
        `(mean, low, high, p)`.
    """
    if differences.ndim != 1 or len(differences) == 0 or not np.isfinite(differences).all():
        raise ValueError(f"differences has shape {differences.shape}: give one finite value for each image")
    means = _counts(len(differences), seed, resamples)[0] @ differences / len(differences)
    found = percentile_interval(float(differences.mean()), means)
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return found.mean, found.low, found.high, min(1.0, 2 * (beyond + 1) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down procedure (1979), in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[i]))
        adjusted[i] = largest
    return adjusted


class Resampling:
    """Images and training runs drawn with replacement; every run is measured on the same drawn images.

    `counts`, `(resamples, images)` float64, is how often each image is drawn.
    """

    def __init__(self, images: int, seed: int = 0, resamples: int = RESAMPLES) -> None:
        self.counts, self._state = _counts(images, seed, resamples)

    def interval(self, mean: float, drawn: np.ndarray) -> Interval:
        """Interval of `mean`, the mean over S runs, from `drawn`, `(resamples, S)`: each run on the drawn images.

        Runs are drawn again as well: with two or three the interval is too narrow, as they say little of their scatter.
        """
        return self._percentiles(mean, next(self.means_over_runs(drawn)))

    def difference(self, mean: float, first: np.ndarray, second: np.ndarray) -> Interval:
        """Interval of `mean`, that of `second` minus that of `first`; the runs of each side are drawn separately."""
        before, after = self.means_over_runs(first, second)
        return self._percentiles(mean, after - before)

    def _percentiles(self, mean: float, samples: np.ndarray) -> Interval:
        """No interval over fewer than `MIN_IMAGES` images."""
        return percentile_interval(mean, samples) if self.counts.shape[1] >= MIN_IMAGES else Interval(mean)

    def means_over_runs(self, *sides: np.ndarray) -> Iterator[np.ndarray]:
        """Means over drawn runs, `(resamples,)`, of each side `(resamples, S)`; each side draws its own runs."""
        rng = np.random.default_rng()
        rng.bit_generator.state = self._state
        for drawn in sides:
            chosen = rng.integers(drawn.shape[1], size=drawn.shape)
            yield np.take_along_axis(drawn, chosen, axis=1).mean(1)


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of Student's t over training runs that differ in their seed only."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size < 2:
        return Interval(float(numbers.mean()) if numbers.size else math.nan)
    half = float(special.stdtrit(numbers.size - 1, TAILS[1])) * numbers.std(ddof=1) / math.sqrt(numbers.size)
    return Interval(float(numbers.mean()), float(numbers.mean() - half), float(numbers.mean() + half))


def difference_over_seeds(
    first: Sequence[float], second: Sequence[float], others: Iterable[Sequence[float]] = ()
) -> Interval:
    """Mean of `second` minus that of `first`, numbers of training runs, and its 95 % interval of Student's t.

    Args:
        first, second: one number for each run.
        others: numbers of runs on other inputs. Two or three runs say little about the scatter of runs, so it is pooled
            over all inputs and taken to be the same for all.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in (first, second, *others)]
    before, after = groups[:2]
    mean = float(after.mean() - before.mean())
    freedom = sum(group.size - 1 for group in groups if group.size)
    if not freedom or not math.isfinite(mean):
        return Interval(mean)
    variance = sum(float(np.square(group - group.mean()).sum()) for group in groups if group.size) / freedom
    half = float(special.stdtrit(freedom, TAILS[1])) * math.sqrt(variance * (1 / before.size + 1 / after.size))
    return Interval(mean, mean - half, mean + half)


def mean_ranks(rows: Sequence[Any], metrics: Sequence[str] = RANK_METRICS) -> list[float | None]:
    """Mean over `metrics` of each row's rank among all rows, 1 is best; equal values share the mean of their ranks.

    Rows have a mapping `values` by metric. None for a row that lacks one of the metrics; its other values still count
    for the ranks of the others.
    """
    signs = [-1 if find_metric(metric).direction == "up" else 1 for metric in metrics]
    values = [
        [sign * row.values.get(name, math.nan) for name, sign in zip(metrics, signs, strict=True)] for row in rows
    ]
    ranks = stats.rankdata(np.reshape(values, (len(rows), len(metrics))), axis=0, nan_policy="omit")
    return [None if np.isnan(own).any() else sum(own.tolist()) / len(metrics) for own in ranks]


def format_value(metric: str, value: float | None) -> str:
    """Two decimals for metrics on a wide scale, three for those around 1, none from 1000; `n/a` where undefined."""
    if value is None or math.isnan(value):
        return "n/a"
    return f"{value:.{0 if abs(value) >= 1000 else 2 if find_metric(metric).range[1] > 2 else 3}f}"


def arrow(metric: str) -> str:
    """The direction that is better."""
    return "↑" if find_metric(metric).direction == "up" else "↓"


def n_of(n: int, expected: int) -> str:
    """`90`, or `90 of 92` where some of those that were expected are missing."""
    return f"{n} of {expected}" if n < expected else str(n)
