"""From runs to a table: rows by input, numbers with intervals, differences from what is simpler to have.

Two intervals are told apart everywhere:

- **over pictures and seeds** (95 %, percentiles of a bootstrap): pictures are drawn again, and with them the training
  runs of each input. With one run it is over pictures only; with two or three it is too narrow, since so few runs know
  little of how runs scatter.
- **over seeds** (95 %, Student's t), of differences only: from the scatter of the runs around the mean of their input,
  pooled over all inputs. Pictures stay.

A difference is called higher or lower where both leave out 0, and otherwise it is open.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fusion_hub.evaluation.downstream_results.alike import check_alike
from fusion_hub.evaluation.downstream_results.measures import Measures, measures_of
from fusion_hub.evaluation.downstream_results.published import Published
from fusion_hub.evaluation.downstream_results.runs import TASKS, Cost, Kind, Run, Task, order
from fusion_hub.evaluation.statistics import Interval, Resampling, difference_over_seeds

FORMAT = "fusion-hub-downstream/1"
BEST_SOURCE, BEST_RULE = "the better single picture", "the best rule without a network"
DAY_NIGHT = {"D": "day", "N": "night"}
"""Last letter of the stems of MSRS, and what it stands for."""


@dataclass(frozen=True)
class Number:
    """A number in [0, 1] (a difference in [-1, 1]) and the ends of its interval; None where nothing can be said."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, interval: Interval) -> "Number":
        """The same with None in place of NaN."""
        return cls(interval.mean, *((interval.low, interval.high) if interval.has_ends else (None, None)))

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and it leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Row:
    """One input.

    Attributes:
        kind: of the input.
        seeds: of its training runs; empty where nothing was trained.
        numbers: means over the runs with their intervals over pictures and seeds; undefined ones are absent.
        by_seed: each number for each of `seeds`, None where undefined.
        cost: of one run, the mean over the seeds; None without training.
    """

    input: str
    kind: Kind
    seeds: tuple[int, ...]
    numbers: Mapping[str, Number]
    by_seed: Mapping[str, tuple[float | None, ...]]
    cost: Cost | None


@dataclass(frozen=True)
class Difference:
    """An input minus one that is simpler to have, on the same pictures of the set.

    Attributes:
        input, reference: names of rows.
        role: what the reference is beside its name: `BEST_SOURCE`, `BEST_RULE`, or nothing.
        over_both: with the interval over pictures and seeds; over pictures where each side has one run or no training.
        over_seeds: with the interval over seeds; None where nothing was trained, without ends where each input has one
            run.
    """

    input: str
    reference: str
    metric: str
    role: str
    over_both: Number
    over_seeds: Number | None

    @property
    def verdict(self) -> Literal["higher", "lower", "open"]:
        """What the intervals allow to say; with one run of each input it holds for these networks only."""
        seeds = self.over_seeds
        if not self.over_both.excludes_zero or (seeds and seeds.low is not None and not seeds.excludes_zero):
            return "open"
        return "higher" if self.over_both.value > 0 else "lower"

    @property
    def these_networks_only(self) -> bool:
        """Whether nothing is known of what another training run would give."""
        return self.over_seeds is not None and self.over_seeds.low is None


@dataclass(frozen=True)
class Part:
    """One task on one group of pictures.

    Attributes:
        detector: of zero-shot parts; else empty.
        group: "all", "day" or "night".
        pictures: how many.
        classes: their names.
        headline, families: as in `Measures`.
        settings: what all runs have in common.
    """

    task: Task
    detector: str
    group: str
    pictures: int
    classes: tuple[str, ...]
    headline: tuple[str, ...]
    families: tuple[str, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    settings: Mapping[str, Any]

    @property
    def metrics(self) -> list[str]:
        """Names of all numbers, defined or not: over all classes, the headline first, then of each class."""
        over_all = [name for row in self.rows for name in row.numbers if "/" not in name]
        by_class = [f"{family}/{name}" for family in self.families for name in self.classes]
        return list(dict.fromkeys([*self.headline, *over_all, *by_class]))


@dataclass(frozen=True)
class Results:
    """The whole table, its quoted rows, and what a reader has to know."""

    parts: tuple[Part, ...]
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, undefined ones null; `from_json` reads it."""
        values = {"format": FORMAT, "unit": "fractions of 1", **dataclasses.asdict(self)}
        for part, plain in zip(self.parts, values["parts"], strict=True):
            for one, difference in zip(part.differences, plain["differences"], strict=True):
                difference["verdict"] = one.verdict
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Results":
        """Read what `as_json` wrote. Raises ValueError for another format."""
        if values.get("format") != FORMAT:
            raise ValueError(f"the format is {values.get('format')!r}, expected {FORMAT!r}")
        return cls(
            tuple(_part(part) for part in values["parts"]),
            tuple(Published(**one) for one in values["published"]),
            tuple(values["notes"]),
        )


def assemble(
    runs: Sequence[Run],
    *,
    by_day_and_night: bool = False,
    published: Sequence[Published] = (),
    notes: Sequence[str] = (),
) -> Results:
    """The table of runs, in whatever order they come.

    Args:
        by_day_and_night: add parts for the pictures of the day and of the night, by the last letter of their names.

    Raises:
        ValueError: runs that do not belong in one table, or names of pictures that do not end in D or N.
    """
    parts = []
    for key in sorted({(TASKS.index(run.task), run.detector) for run in runs}):
        group = [run for run in runs if (TASKS.index(run.task), run.detector) == key]
        group.sort(key=lambda run: (run.origin, run.input, run.seed or 0))  # what is refused names the same two runs
        check_alike(group)
        parts += [_part_of(group, name, wanted) for name, wanted in _groups(group[0], by_day_and_night)]
    return Results(tuple(parts), tuple(published), tuple(notes))


def _groups(run: Run, by_day_and_night: bool) -> list[tuple[str, Callable[[str], bool] | None]]:
    groups: list[tuple[str, Callable[[str], bool] | None]] = [("all", None)]
    if by_day_and_night:
        if other := [name for name in run.result.pictures if name[-1:] not in DAY_NIGHT]:
            raise ValueError(
                f"{run.origin}: the picture {other[0]!r} ends neither in D nor in N, which tell day from night in the "
                "names of MSRS: leave the split out"
            )
        letters = [letter for letter in DAY_NIGHT if any(name.endswith(letter) for name in run.result.pictures)]
        groups += [(DAY_NIGHT[letter], lambda name, letter=letter: name.endswith(letter)) for letter in letters]  # type: ignore[misc]
    return groups


def _part_of(runs: Sequence[Run], group: str, wanted: Callable[[str], bool] | None) -> Part:
    from tqdm import tqdm

    measures = measures_of(runs[0].task)
    pictures = [name for name in runs[0].result.pictures if wanted is None or wanted(name)]
    draws = Resampling(len(pictures))
    rows, drawn = [], {}
    title = f"{runs[0].task}, {group}"
    inputs = sorted({(run.input, run.kind) for run in runs}, key=lambda pair: order(*pair))
    for name, _ in tqdm(inputs, desc=title, unit="input", leave=False, disable=None):
        own = sorted((run for run in runs if run.input == name), key=lambda run: run.seed or 0)
        results = [run.result if wanted is None else run.result.take(wanted) for run in own]
        row, drawn[name] = _row(own, results, measures, draws)
        rows.append(row)
    return Part(
        task=runs[0].task,
        detector=runs[0].detector,
        group=group,
        pictures=len(pictures),
        classes=tuple(runs[0].result.classes),
        headline=tuple(measures.headline),
        families=tuple(measures.families),
        rows=tuple(rows),
        differences=tuple(_differences(rows, drawn, measures.headline, draws)),
        settings=_placeless(runs[0].settings),
    )


Drawn = Mapping[str, np.ndarray]
"""By name, what each run of an input has on each draw of pictures: `(resamples, S)`."""


def _row(runs: Sequence[Run], results: Sequence[Any], measures: Measures, draws: Resampling) -> tuple[Row, Drawn]:
    values = [measures.numbers(result) for result in results]
    names = list(dict.fromkeys(name for one in values for name in one))
    # A number that is undefined in one of the runs has no mean over the runs.
    means = {name: sum(one[name] for one in values) / len(values) for name in names if all(name in v for v in values)}
    single = [measures.drawn(result, list(means), draws.counts) for result in results]
    drawn = {name: np.stack([one[name] for one in single], axis=1) for name in means}
    row = Row(
        input=runs[0].input,
        kind=runs[0].kind,
        seeds=tuple(run.seed for run in runs if run.seed is not None),
        numbers={name: Number.of(draws.interval(mean, drawn[name])) for name, mean in means.items()},
        by_seed={name: tuple(one.get(name) for one in values) for name in names},
        cost=_cost([run.cost for run in runs if run.cost is not None]),
    )
    return row, drawn


def _cost(costs: Sequence[Cost]) -> Cost | None:
    """The mean over runs."""
    if not costs:
        return None
    hardware = "; ".join(dict.fromkeys(one.hardware for one in costs))
    return Cost(costs[0].steps, sum(one.seconds for one in costs) / len(costs), hardware)


def _differences(
    rows: Sequence[Row], drawn: Mapping[str, Drawn], metrics: Sequence[str], draws: Resampling
) -> list[Difference]:
    """Every input against visible and against the better single picture; fusion networks against the best rule too."""
    found = []
    for metric in metrics:
        able = {row.input: row for row in rows if metric in row.numbers}
        for reference, role, inputs in _comparisons(list(able.values()), metric):
            for name in inputs:
                value = able[name].numbers[metric].value - able[reference].numbers[metric].value
                both = Number.of(draws.difference(value, drawn[reference][metric], drawn[name][metric]))
                seeds = _over_seeds(able, reference, name, metric)
                found.append(Difference(name, reference, metric, role, both, seeds))
    return found


def _comparisons(rows: Sequence[Row], metric: str) -> list[tuple[str, str, list[str]]]:
    """References, their roles, and the inputs that are compared with each."""

    def best(kind: Kind) -> str | None:
        able = [row for row in rows if row.kind == kind]
        return max(able, key=lambda row: row.numbers[metric].value).input if able else None

    source, rule = best("source"), best("rule")
    everything = [row.input for row in rows]
    found = []
    if "visible" in everything and source != "visible":
        found.append(("visible", "", everything))
    if source is not None:
        found.append((source, BEST_SOURCE, everything))
    if rule is not None:
        found.append((rule, BEST_RULE, [row.input for row in rows if row.kind == "method"]))
    return [(name, role, [other for other in inputs if other != name]) for name, role, inputs in found]


def _over_seeds(rows: Mapping[str, Row], reference: str, name: str, metric: str) -> Number | None:
    if not rows[name].seeds:
        return None
    numbers = {key: [value for value in row.by_seed[metric] if value is not None] for key, row in rows.items()}
    others = [values for key, values in numbers.items() if key not in (reference, name)]
    return Number.of(difference_over_seeds(numbers[reference], numbers[name], others))


def _placeless(value: Any) -> Any:
    """Settings without places of one machine: of an absolute path the last two parts."""
    if isinstance(value, Mapping):
        return {key: _placeless(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_placeless(own) for own in value]
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and Path(value).is_absolute() else value


def _part(values: Mapping[str, Any]) -> Part:
    rows = tuple(
        Row(
            **{key: value for key, value in row.items() if key not in ("seeds", "numbers", "by_seed", "cost")},
            seeds=tuple(row["seeds"]),
            numbers={name: Number(**number) for name, number in row["numbers"].items()},
            by_seed={name: tuple(own) for name, own in row["by_seed"].items()},
            cost=None if row["cost"] is None else Cost(**row["cost"]),
        )
        for row in values["rows"]
    )
    differences = tuple(
        Difference(
            **{key: value for key, value in one.items() if key not in ("over_both", "over_seeds", "verdict")},
            over_both=Number(**one["over_both"]),
            over_seeds=None if one["over_seeds"] is None else Number(**one["over_seeds"]),
        )
        for one in values["differences"]
    )
    changed = {"rows": rows, "differences": differences}
    tuples = {key: tuple(values[key]) for key in ("classes", "headline", "families")}
    return Part(**{**values, **tuples, **changed})
