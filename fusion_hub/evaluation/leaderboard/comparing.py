"""Whether the images can tell two methods apart: paired bootstrap and Holm's correction."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fusion_hub.evaluation.leaderboard.rows import RANK_METRICS, Row
from fusion_hub.metrics import find_metric

RESAMPLES = 2000
LEVEL = 0.95
MIN_IMAGES = 5  # with fewer, a bootstrap interval says nothing


def paired_bootstrap(
    differences: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float, float]:
    """Mean of paired differences, its 95 % percentile interval, and a two-sided p-value (Efron, 1979).

    Args:
        differences: `(n,)` finite, one for each image, method minus reference; n at least 1.
        resamples: draws of n images with replacement.
        seed: equal n and seed use the same draws, so comparisons do not depend on what else is compared.

    Returns:
        `(mean, low, high, p)`; p is never below `2 / (resamples + 1)`.

    Raises:
        ValueError: no differences, or any of them is not finite.
    """
    if differences.ndim != 1 or len(differences) == 0 or not np.isfinite(differences).all():
        raise ValueError(f"differences has shape {differences.shape}: give one finite value for each image")
    means = _draws(len(differences), resamples, seed) @ differences / len(differences)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return float(differences.mean()), float(low), float(high), min(1.0, 2 * (beyond + 1) / (resamples + 1))


@lru_cache(maxsize=4)
def _draws(n: int, resamples: int, seed: int) -> np.ndarray:
    """`(resamples, n)` float64: how often each image is drawn."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down procedure (1979), in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """A method against the reference in one metric, over the `n` images for which both are defined."""

    method: str
    metric: str
    n: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether the 95 % interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    @property
    def confirmed(self) -> bool:
        """Whether it does so after Holm's correction over the methods, too."""
        return self.excludes_zero and self.p_holm < 1 - LEVEL

    @property
    def better(self) -> bool:
        """Whether the method's mean is the better one."""
        return (self.difference > 0) == (find_metric(self.metric).direction == "up") and self.difference != 0


def compare(
    rows: Sequence[Row], reference: Row, metrics: Sequence[str] = RANK_METRICS, seed: int = 0
) -> list[Comparison]:
    """Every other row with per-image values against `reference`, by a paired bootstrap over common images.

    Images are paired by name; those for which a metric is undefined on either side are left out. With fewer than five
    there is no comparison. The number of resamples is 2000, more where Holm's correction over many methods needs it.
    """
    others = [row for row in rows if row.per_image and row is not reference]
    resamples = max(RESAMPLES, 200 * len(others))
    found: list[Comparison] = []
    for metric in metrics:
        pairs = [(row, _differences(row, reference, metric)) for row in others]
        compared = [
            Comparison(row.method, metric, len(values), *paired_bootstrap(values, resamples, seed))
            for row, values in pairs
            if len(values) >= MIN_IMAGES
        ]
        adjusted = holm([comparison.p for comparison in compared])
        found += [dataclasses.replace(one, p_holm=p) for one, p in zip(compared, adjusted, strict=True)]
    return found


def _differences(row: Row, reference: Row, metric: str) -> np.ndarray:
    """`(n,)`: row minus reference, in the order of the reference's images; empty where either lacks the metric."""
    if metric not in row.per_image or metric not in reference.per_image:
        return np.empty(0)
    own = dict(zip(row.names, row.per_image[metric], strict=True))
    other = zip(reference.names, reference.per_image[metric], strict=True)
    values = np.array([own[name] - value for name, value in other if name in own], dtype=np.float64)
    return values[~np.isnan(values)]
