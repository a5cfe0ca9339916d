"""From records to rows: means, bootstrap intervals, and warnings where a number does not mean what it seems to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusion_hub.evaluation.measuring import CONTRAST_METRICS, Record
from fusion_hub.evaluation.methods import Method
from fusion_hub.evaluation.statistics import Interval, bootstrap_mean
from fusion_hub.metrics import find_metric

# Thresholds of the guard rails; docs/metrics.md shows what the trivial rules reach.
NEAR_SOURCE = 0.15  # of the distance between the sources; the average of both lies at 0.5
ONE_SIDED = 0.5  # of the smaller per-source VIF of the average
FULL_RANGE_SHARE = 0.9  # of the images touch both ends of the grey scale


@dataclass(frozen=True)
class Row:
    """One method on one set."""

    method: str
    kind: str
    dataset: str
    n: int
    metrics: Mapping[str, Interval]
    names: Sequence[str]
    values: Mapping[str, Sequence[float | None]]
    stretched: Mapping[str, float]  # mean of the contrast metrics after a min-max stretch of every image
    distances: Mapping[str, float]  # visible, infrared, sources: mean absolute difference in grey levels
    full_range: float  # share of the images that reach from (nearly) 0 to (nearly) 255
    was_stretched: bool | None = None  # each image to the full range; None: unknown
    source: str = "measured here"
    warnings: Sequence[str] = field(default_factory=tuple)
    expected: int = 0  # pairs that the set should have, those that could not be paired too; 0: not known

    @property
    def count(self) -> str:
        """`n`, or `n of N` where pairs are missing."""
        return f"{self.n} of {self.expected}" if self.n < self.expected else str(self.n)

    def as_json(self) -> dict[str, Any]:
        """As in `summary.json`; undefined values are null."""
        return {
            "method": self.method,
            "kind": self.kind,
            "source": self.source,
            "dataset": self.dataset,
            "n": self.n,
            "expected": max(self.n, self.expected),
            "metrics": {name: _statistic_json(found, self.n) for name, found in self.metrics.items()},
            "distances": dict(self.distances),
            "stretched": dict(self.stretched),
            "full_range": self.full_range,
            "was_stretched": self.was_stretched,
            "warnings": list(self.warnings),
            "per_image": {"names": list(self.names), "values": {name: list(v) for name, v in self.values.items()}},
        }


def _statistic_json(found: Interval, n: int) -> dict[str, float | int | None]:
    numbers: dict[str, float | int | None] = {
        key: None if math.isnan(value) else value
        for key, value in (("mean", found.mean), ("low", found.low), ("high", found.high))
    }
    return numbers if found.n == n else {**numbers, "n": found.n}


def summarise(
    method: Method,
    dataset: str,
    records: Mapping[str, Record],
    metrics: Sequence[str],
    seed: int = 0,
    expected: int = 0,
) -> Row:
    """One row from the records of its images, in the order of `records`; `expected` is the size of the whole set."""
    columns = list(dict.fromkeys([*metrics, *(name for r in records.values() for name in r["values"])]))
    values = {name: [record["values"].get(name) for record in records.values()] for name in columns}
    return Row(
        method=method.name,
        kind=method.kind,
        dataset=dataset,
        n=len(records),
        metrics={name: bootstrap_mean(column, seed) for name, column in values.items()},
        names=list(records),
        values=values,
        stretched={
            name: _mean([record["stretched"].get(name) for record in records.values()])
            for name in CONTRAST_METRICS
            if any(name in record["stretched"] for record in records.values())
        },
        distances={
            key: _mean([record[f"distance_{key}"] for record in records.values()])
            for key in ("visible", "infrared", "sources")
        },
        was_stretched=method.stretched,
        full_range=_mean([float(r["range"][0] <= 2 and r["range"][1] >= 253) for r in records.values()]),
        expected=expected,
    )


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else math.nan


# --- guard rails -----------------------------------------------------------------------------------------------------


def warnings_of(row: Row, average: Row, maximum: Row) -> list[str]:
    """What a reader must know before quoting the row: see docs/metrics.md, "How to fool a table".

    Args:
        row: any row.
        average, maximum: the rows of these baselines on the same set.
    """
    if row.kind == "baseline":
        return []
    return [*_near_one_source(row), *_one_sided(row, average), *_stretched(row, average, maximum)]


def _near_one_source(row: Row) -> list[str]:
    apart = row.distances["sources"]
    if not apart > 0:
        return []
    found = []
    for band in ("visible", "infrared"):
        share = row.distances[band] / apart
        if share < NEAR_SOURCE:
            found.append(
                f"near the {band} source: {row.distances[band]:.1f} grey levels from it, where the sources are "
                f"{apart:.1f} apart (the average of both: {apart / 2:.1f})"
            )
    return found


def _one_sided(row: Row, average: Row) -> list[str]:
    own = {band: row.metrics[f"VIF_{band}"].mean for band in ("visible", "infrared")}
    band = min(own, key=lambda name: own[name])
    least = min(average.metrics[f"VIF_{name}"].mean for name in own)
    if not own[band] < ONE_SIDED * least:
        return []
    return [
        f"keeps little of the {band} source: VIF_{band} {own[band]:.3f}, while plain averaging keeps {least:.3f} of "
        "each source at least"
    ]


def _stretched(row: Row, average: Row, maximum: Row) -> list[str]:
    """Contrast that lies above both baselines, but not above the same baselines stretched in the same way."""
    looks_stretched = row.full_range >= FULL_RANGE_SHARE if row.was_stretched is None else row.was_stretched
    if not looks_stretched:
        return []
    explained = []
    for name in row.stretched:
        plain = max(average.metrics[name].mean, maximum.metrics[name].mean)
        stretched = max(average.stretched[name], maximum.stretched[name])
        if plain < row.metrics[name].mean <= stretched:
            explained.append(f"{name} {_short(name, row.metrics[name].mean)} (stretched: {_short(name, stretched)})")
    if not explained:
        return []
    known = "its images were stretched" if row.was_stretched else f"{row.full_range:.0%} of its images span 0 to 255"
    return [
        f"{known}, and a min-max stretch explains the gain: above average and maximum, but not above them once they "
        f"are stretched too: {', '.join(explained)}"
    ]


def _short(name: str, value: float) -> str:
    return f"{value:.2f}" if find_metric(name).range[1] > 2 else f"{value:.3f}"
