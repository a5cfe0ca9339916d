"""Rows of a leaderboard, their ranks, and how equal rows from several files become one."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, Protocol

import numpy as np

from fusion_hub.metrics import find_metric

KINDS = {
    "model": "measured here",
    "folder": "images measured here",
    "baseline": "baseline",
    "published": "published",
}
"""Kinds of rows, and the badge of each."""

RANK_METRICS = ("SCD", "VIF", "Qabf", "SSIM_cddfuse", "EN", "SF")
TABLE_METRICS = (
    *("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM_cddfuse", "SSIM", "CC"),
    *("VIF_visible", "VIF_infrared"),
)
"""Columns by default, where any row has them; those of the ranks are always shown."""


class Estimate(NamedTuple):
    """Mean of a metric over a set, with its interval where there is one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One method on one set.

    Attributes:
        method, source: free text from a file: to be escaped wherever it is written.
        kind: a key of `KINDS`.
        n: number of images that the means run over.
        expected: number of pairs that the set should have; 0 where the file does not say.
        metrics: by name; metrics that are undefined on every image are left out.
        names: of the images, for rows with per-image values.
        per_image: for each metric `(len(names),)` float64, nan where undefined.
        warnings: what has to be known before the row is quoted.
        baseline: a rule without a network.
        origin: the file that it is from, for messages.
    """

    method: str
    kind: str
    source: str
    dataset: str
    n: int
    metrics: Mapping[str, Estimate]
    names: tuple[str, ...] = ()
    per_image: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    baseline: bool = False
    origin: str = ""
    expected: int = 0

    @property
    def count(self) -> str:
        """`n`, or `n of N` where pairs of the set could not be measured."""
        return f"{self.n} of {self.expected}" if self.n < self.expected else str(self.n)

    @property
    def values(self) -> dict[str, float]:
        """The means, by metric."""
        return {name: estimate.mean for name, estimate in self.metrics.items()}


def badge(row: Row) -> str:
    """What a table says about where a row is from."""
    return f"baseline, {KINDS[row.kind]}" if row.baseline and row.kind != "baseline" else KINDS[row.kind]


class HasValues(Protocol):
    """Anything with means by metric."""

    @property
    def values(self) -> Mapping[str, float]: ...


def mean_ranks(rows: Sequence[HasValues], metrics: Sequence[str] = RANK_METRICS) -> list[float | None]:
    """Mean over `metrics` of each row's rank among all rows, 1 is best; equal values share the mean of their ranks.

    None for a row that lacks one of the metrics; its other values still count for the ranks of the others.
    """
    ranks: list[list[float]] = [[] for _ in rows]
    for metric in metrics:
        sign = 1 if find_metric(metric).direction == "up" else -1
        values = [sign * row.values.get(metric, math.nan) for row in rows]
        for own, value in zip(ranks, values, strict=True):
            if not math.isnan(value):
                better, equal = sum(v > value for v in values), sum(v == value for v in values)
                own.append(1 + better + (equal - 1) / 2)
    return [sum(own) / len(metrics) if len(own) == len(metrics) else None for own in ranks]


def merge(rows: Iterable[Row]) -> list[Row]:
    """One row for each method, set, and measured or published: equal numbers from several files become one row.

    Raises:
        ValueError: two files have different numbers for one method on one set.
    """
    merged: dict[tuple[str, str, bool], Row] = {}
    for row in rows:
        key = (row.dataset, row.method, row.kind == "published")
        merged[key] = _union(merged[key], row) if key in merged else row
    return list(merged.values())


def _union(first: Row, second: Row) -> Row:
    """Both rows in one: metrics, per-image values and warnings of either."""

    def refuse(what: str) -> NoReturn:
        raise ValueError(
            f"{second.origin}: {second.method!r} on {second.dataset} differs from the row of that name in "
            f"{first.origin}: {what}; name the methods apart or leave one file out"
        )

    if first.n != second.n:
        refuse(f"n {second.n} against {first.n}")
    if first.names and second.names and set(first.names) != set(second.names):
        refuse("other images")
    for name in first.metrics.keys() & second.metrics.keys():
        one, two = first.metrics[name].mean, second.metrics[name].mean
        if not math.isclose(one, two, rel_tol=1e-4, abs_tol=1e-6):
            refuse(f"{name} {two:g} against {one:g}")
    names = first.names or second.names
    place = {name: i for i, name in enumerate(second.names)}
    order = [place[name] for name in names] if second.names else []
    return dataclasses.replace(
        first,
        metrics={**second.metrics, **first.metrics},
        names=names,
        per_image={**{name: column[order] for name, column in second.per_image.items()}, **first.per_image},
        warnings=tuple(dict.fromkeys([*first.warnings, *second.warnings])),
    )
