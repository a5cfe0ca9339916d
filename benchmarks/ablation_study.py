"""Means, mean ranks and differences of an ablation study, with intervals over pairs and seeds, and its tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import rankdata

from fusion_hub.evaluation.report import markdown_table
from fusion_hub.evaluation.statistics import Interval, Resampling, percentile_interval

FULL = "full model"
METRICS = ("EN", "SD", "SF", "SCD", "VIF", "Qabf", "SSIM_cddfuse")  # all: larger is better, as the next
TO_CLEAN = ("PSNR to clean", "Qabf to clean")
CHANGE = "change"  # of the fused clean picture by another way of inference, mean absolute gray levels
COLUMNS = {"clean": (*METRICS, CHANGE), "noisy": (*METRICS, *TO_CLEAN), "degraded": (*METRICS, *TO_CLEAN)}
FIDELITY = (*METRICS[3:], *TO_CLEAN)
RANKINGS = {
    "clean": ("clean", METRICS),
    "noisy": ("noisy", METRICS),
    "noisy, fidelity": ("noisy", FIDELITY),
    "degraded": ("degraded", METRICS),
    "degraded, fidelity": ("degraded", FIDELITY),
}
"""Form of the pairs and columns of each mean rank."""


@dataclass(frozen=True, eq=False)
class Study:
    """All values, and what follows from them.

    Attributes:
        values: by row and form of the pairs, and by column: `(S, n)` for S seeds and n pairs, NaN where undefined.
        trained: the rows with a network of their own.
        sets: name of the set of each pair.
    """

    values: Mapping[tuple[str, str], Mapping[str, np.ndarray]]
    trained: Sequence[str]
    sets: Sequence[str]

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.values))

    @cached_property
    def resampling(self) -> Resampling:
        return Resampling(len(self.sets))

    def mean(self, row: str, form: str, column: str) -> float:
        """Over pairs, then over seeds."""
        values = self.values[row, form][column]
        return float(means(values, np.ones((1, values.shape[1]))).mean())

    @cached_property
    def differences(self) -> dict[tuple[str, str, str], Interval]:
        """By row, form and column: what all other rows have more than the full model, over drawn pairs and seeds."""
        found = {}
        for (row, form), columns in self.values.items():
            for column, values in columns.items():
                if row == FULL or column == CHANGE:
                    continue
                more = self.mean(row, form, column) - self.mean(FULL, form, column)
                before = means(self.values[FULL, form][column], self.resampling.counts)
                after = means(values, self.resampling.counts)
                paired = row not in self.trained  # the same networks
                found[row, form, column] = (
                    self.resampling.interval(more, after - before)
                    if paired
                    else self.resampling.difference(more, before, after)
                )
        return found

    @cached_property
    def ranks(self) -> dict[str, dict[str, float]]:
        """By ranking, and by ranking and set: the mean rank of each trained row, 1 is best."""
        names = list(dict.fromkeys(self.sets))
        parts = {"": np.ones(len(self.sets))} | {f", {name}": np.array(self.sets) == name for name in names}
        return {
            ranking + part: dict(
                zip(self.trained, self._mean_ranks(ranking, weights[None])[:, 0].tolist(), strict=True)
            )
            for ranking in RANKINGS
            for part, weights in parts.items()
            if part == "" or len(names) > 1
        }

    @cached_property
    def rank_differences(self) -> dict[tuple[str, str], Interval]:
        """By row and ranking: the mean rank minus that of the full model, over drawn pairs and seeds."""
        found = {}
        for ranking in RANKINGS:
            drawn = self._mean_ranks(ranking, self.resampling.counts, draw_seeds=True)
            first = self.trained.index(FULL)
            for number, row in enumerate(self.trained):
                if row != FULL:
                    more = self.ranks[ranking][row] - self.ranks[ranking][FULL]
                    found[row, ranking] = percentile_interval(more, drawn[number] - drawn[first])
        return found

    def _mean_ranks(self, ranking: str, counts: np.ndarray, draw_seeds: bool = False) -> np.ndarray:
        """`(trained rows, B)` for B resamples `(B, n)` of the pairs."""
        form, columns = RANKINGS[ranking]
        table = []
        for column in columns:
            sides = [means(self.values[row, form][column], counts) for row in self.trained]
            over_seeds = self.resampling.means_over_runs(*sides) if draw_seeds else (side.mean(1) for side in sides)
            table.append(np.stack(list(over_seeds)))
        return np.asarray(rankdata(-np.stack(table), axis=1).mean(0))

    def as_json(self) -> dict[str, Any]:
        return {
            "means": {
                form: {row: {column: finite(self.mean(row, form, column)) for column in columns} for row in self.rows}
                for form, columns in COLUMNS.items()
            },
            "mean_ranks": self.ranks,
            "differences": [
                {"row": row, "pairs": form, "column": column, **_as_json(found)}
                for (row, form, column), found in self.differences.items()
            ],
            "mean_rank_differences": [
                {"row": row, "ranking": ranking, **_as_json(found)}
                for (row, ranking), found in self.rank_differences.items()
            ],
        }


def finite(value: float) -> float | None:
    """The value, or None where it is undefined: JSON knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _as_json(found: Interval) -> dict[str, float | None]:
    return {name: finite(value) for name, value in asdict(found).items() if name != "n"}


def means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means `(B, S)` of the defined values `(S, n)`, with each pair as often as `counts` `(B, n)` says."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # NaN where no drawn pair has a value
        return np.asarray(counts @ np.where(defined, values, 0).T / (counts @ defined.T))


# --- report ----------------------------------------------------------------------------------------------------------


def report(study: Study, costs: Mapping[str, Mapping[str, float]], provenance: Mapping[str, Any]) -> str:
    """All tables, and what the intervals do not show, as Markdown."""
    known = provenance["pairs_trained_on"]
    sets = [
        f"{name} ({count} pairs" + (f", {known[name]} of them trained on)" if known[name] else ", none trained on)")
        for name, count in provenance["pairs"].items()
    ]
    seeds = provenance["seeds"]
    header = (
        f"{provenance['steps']} steps, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}; "
        f"{'; '.join(sets)}. Intervals (95 %) are over pairs and seeds; with so few seeds they are too narrow."
    )
    cost_lines = [
        (name, f"{one['flops'] / 1e9:.1f}", f"{one['parameters'] / 1e6:.2f} M", f"{one['training_seconds']:.0f}")
        for name, one in costs.items()
    ]
    sections = [header, markdown_table(("", "GFLOPs, 640x480", "parameters", "training, s"), cost_lines)]
    sections.append("Mean ranks (1 is best), and their differences from the full model:")
    sections.append(markdown_table(("", *RANKINGS), [(row, *_rank_cells(study, row)) for row in study.trained]))
    if by_set := [key for key in study.ranks if key not in RANKINGS]:
        lines = [(key, *(f"{study.ranks[key][row]:.2f}" for row in study.trained)) for key in by_set]
        sections.append(markdown_table(("mean ranks by set", *study.trained), lines))
    for form, columns in COLUMNS.items():
        lines = [(row, *(_shown(column, study.mean(row, form, column)) for column in columns)) for row in study.rows]
        sections.append(markdown_table((f"{form} pairs", *columns), lines))
        compared = [column for column in columns if column != CHANGE]
        lines = [
            (row, *(_difference(column, study.differences[row, form, column]) for column in compared))
            for row in study.rows
            if row != FULL
        ]
        sections.append(markdown_table((f"{form} pairs, minus the full model", *compared), lines))
    return "\n\n".join([*sections, "\n".join(f"- {sentence}" for sentence in sentences(study))])


def sentences(study: Study) -> list[str]:
    """Who is first in each ranking, and which variants the intervals do not separate from the full model."""
    found = []
    for ranking in RANKINGS:
        ranks = study.ranks[ranking]
        first = [row for row in study.trained if ranks[row] == min(ranks.values())]
        found.append(f"First by mean rank, {ranking}: {' and '.join(first)}.")
    for row in study.trained:
        between = {ranking: study.rank_differences[row, ranking] for ranking in RANKINGS if row != FULL}
        if better := [ranking for ranking, interval in between.items() if interval.high < 0]:
            found.append(f"{row!r} is better than the full model by mean rank: {'; '.join(better)}.")
        if unclear := [ranking for ranking, interval in between.items() if not interval.excludes_zero]:
            found.append(
                f"The intervals do not separate {row!r} from the full model by mean rank: {'; '.join(unclear)}."
            )
    return found


def _rank_cells(study: Study, row: str) -> list[str]:
    cells = [f"{study.ranks[ranking][row]:.2f}" for ranking in RANKINGS]
    if row == FULL:
        return cells
    differences = (study.rank_differences[row, ranking] for ranking in RANKINGS)
    return [f"{cell} ({_interval(found, 2)})" for cell, found in zip(cells, differences, strict=True)]


def _digits(column: str) -> int:
    return 2 if column in ("EN", "SD", "SF", "PSNR to clean", CHANGE) else 3


def _shown(column: str, value: float) -> str:
    return f"{value:.{_digits(column)}f}" if math.isfinite(value) else "n/a"


def _difference(column: str, found: Interval) -> str:
    """In bold where the interval leaves out 0."""
    text = _interval(found, _digits(column))
    return f"**{text}**" if found.excludes_zero else text


def _interval(found: Interval, digits: int) -> str:
    if not math.isfinite(found.mean):
        return "n/a"
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
