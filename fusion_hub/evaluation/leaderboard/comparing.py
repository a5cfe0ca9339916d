"""Whether the images can tell two methods apart: paired bootstrap and Holm's correction."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion_hub.evaluation.leaderboard.rows import RANK_METRICS, Row
from fusion_hub.evaluation.statistics import LEVEL, RESAMPLES, holm, paired_bootstrap
from fusion_hub.metrics import find_metric

MIN_IMAGES = 5  # with fewer, a bootstrap interval says nothing


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
