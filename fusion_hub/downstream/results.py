"""Does fusion help detection and segmentation? Reads finished runs and compares their inputs.

    runs, left_out = find_runs([Path("runs/segformer"), Path("runs/detector"), Path("runs/zero_shot")])
    results = assemble(runs, by_day_and_night=True, published=read_published())

Two kinds of 95 % intervals:

- **over pictures and seeds**: a bootstrap resamples the pictures, and with them the training runs of each input. With
  one run it is over pictures only. Two or three runs say little about their scatter: it is too narrow.
- **over seeds**, of differences only: Student's t, with the scatter of runs pooled over all inputs. Pictures are fixed.

A difference is called higher or lower where both exclude 0, and otherwise it is open.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from fusion_hub.data.pairs import some
from fusion_hub.downstream.scores import DetectionResult, Result, SegmentationResult
from fusion_hub.evaluation.statistics import Interval, Resampling, difference_over_seeds
from fusion_hub.training.config import NEUTRAL_FIELDS, load_config

Task = Literal["segmentation", "detection", "zero-shot"]
Kind = Literal["source", "rule", "method"]

FORMAT = "fusion-hub-downstream/1"
PUBLISHED_FORMAT = "fusion-hub-published-downstream/1"
PUBLISHED = Path(__file__).with_name("published_downstream.json")
TASKS: tuple[Task, ...] = ("segmentation", "detection", "zero-shot")
KINDS: tuple[Kind, ...] = ("source", "rule", "method")
SOURCES = ("visible", "infrared")
BEST_SOURCE, BEST_RULE = "the better single picture", "the best rule without a network"
DAY_NIGHT = {"D": "day", "N": "night"}
"""Last letter of the names of MSRS."""

_BY_CLASS = ("AP50", "AP", "recall", "recall@0.3", "precision@0.3")
_RESULT_FILES: Mapping[str, Task] = {"evaluation.json": "segmentation", "detection.json": "detection"}


@dataclass(frozen=True)
class Cost:
    """Optimizer steps of a training run, seconds of all parts of a resumed run, device and number of processes."""

    steps: int
    seconds: float
    hardware: str


@dataclass(frozen=True, eq=False)
class Run:
    """One network on one set.

    Attributes:
        input: `visible`, `average`, `difffusenet-msrs`, a folder.
        kind: of the input: one of both pictures, a rule without a network, or a fusion method.
        seed: of the training; None for a detector that was not trained here.
        settings: must be equal in all runs of one table, by name; None stands for an empty field.
        pictures_by: digest of the method that made its pictures; empty where it is not recorded.
        cost: None without training.
        detector: of a zero-shot result, its name; else empty.
        origin: a short name of its file, for messages.
    """

    task: Task
    input: str
    kind: Kind
    seed: int | None
    result: Result
    settings: dict[str, Any] = field(default_factory=dict)
    pictures_by: str = ""
    cost: Cost | None = None
    detector: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Published:
    """Numbers of a paper: quoted, never compared.

    Attributes:
        values: by the names of our columns, fractions of 1; empty if the paper prints none that can be quoted.
        note: why it is not comparable.
    """

    method: str
    source: str
    values: Mapping[str, float]
    note: str


@dataclass(frozen=True)
class Row:
    """One input.

    Attributes:
        seeds: of its training runs; empty where nothing was trained.
        numbers: means over the runs with their intervals over pictures and seeds; undefined ones are absent.
        by_seed: each number for each of `seeds`, None where undefined.
        cost: of one run, the mean over the seeds; None without training.
    """

    input: str
    kind: Kind
    seeds: tuple[int, ...]
    numbers: Mapping[str, Interval]
    by_seed: Mapping[str, tuple[float | None, ...]]
    cost: Cost | None


@dataclass(frozen=True)
class Difference:
    """An input minus a simpler one (`reference`), on the same pictures of the set.

    Attributes:
        role: of the reference: `BEST_SOURCE`, `BEST_RULE`, or empty.
        over_both: with the interval over pictures and seeds; over pictures where each side has one run or no training.
        over_seeds: with the interval over seeds; None where nothing was trained, without ends where each input has one
            run.
    """

    input: str
    reference: str
    metric: str
    role: str
    over_both: Interval
    over_seeds: Interval | None

    @property
    def verdict(self) -> Literal["higher", "lower", "open"]:
        """What the intervals support; with one run of each input it holds for these networks only."""
        seeds = self.over_seeds
        if not self.over_both.excludes_zero or (seeds and seeds.has_ends and not seeds.excludes_zero):
            return "open"
        return "higher" if self.over_both.mean > 0 else "lower"

    @property
    def these_networks_only(self) -> bool:
        """Whether nothing is known about other training runs."""
        return self.over_seeds is not None and not self.over_seeds.has_ends


@dataclass(frozen=True)
class Part:
    """One task on one group of pictures ("all", "day" or "night").

    Attributes:
        detector: of zero-shot parts; else empty.
        headline: numbers over all classes; these are compared.
        families: numbers of each class, such as `IoU` of `IoU/car`.
        settings: common to all runs.
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
    """The whole table, the published rows, and notes for the reader."""

    parts: tuple[Part, ...]
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Content of `summary.json`; undefined values are null."""
        content = {"format": FORMAT, "unit": "fractions of 1", **vars(self)}
        return json.dumps(content, indent=1, allow_nan=False, default=_plain) + "\n"


def _plain(value: Interval | Cost | Difference | Row | Part | Published) -> dict[str, Any]:
    if isinstance(value, Interval):
        low, high = (value.low, value.high) if value.has_ends else (None, None)
        return {"value": value.mean, "low": low, "high": high}
    return vars(value) | ({"verdict": value.verdict} if isinstance(value, Difference) else {})


# --- reading ---------------------------------------------------------------------------------------------------------


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """All results in `paths`, each file once, and what was left out of them, each with the reason.

    A training run is a folder of `train/segformer.py` or `train/detector.py`; its `pipeline/` holds results, training
    configuration, cost, and the provenance of its pictures. A zero-shot result is one JSON file for each input.

    Args:
        paths: run folders, their `pipeline/` folders, JSON files of zero-shot results, or folders that hold any of
            them. In a folder of runs, those without a result on one input are left out: they are unfinished, or were
            trained on several inputs as a start for others.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path holds no result, or a file cannot be read.
    """
    files: set[Path] = set()
    left_out: set[str] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a run folder, a folder of runs, or a zero-shot JSON")
        found, reasons = [path] if path.is_file() else [], []
        for inside in [] if path.is_file() else [path] if _is_run(path) else sorted(path.iterdir()):
            if _is_run(inside):
                pipeline = inside if inside.name == "pipeline" else inside / "pipeline"
                results = [pipeline / name for name in _RESULT_FILES if (pipeline / name).is_file()]
                if results:
                    found += results
                elif not pipeline.is_dir():
                    reasons.append(f"{_short(inside)} is not finished")
                elif any(pipeline.glob("evaluation-*.json")) or any(pipeline.glob("detection-*.json")):
                    reasons.append(f"{_short(pipeline)} was trained on several inputs at once")
                else:
                    reasons.append(f"{_short(pipeline)} was not evaluated: it was trained without an evaluation set")
            elif inside.suffix == ".json" and not inside.name.startswith("."):
                found.append(inside)
        if not found:
            why = "; ".join(reasons) or "no run of `fusion-hub train segformer` or `detector`, no zero-shot JSON"
            raise ValueError(f"{path} holds no results ({why}): give finished runs of one input each")
        files.update(file.resolve() for file in found)
        left_out.update(reasons)
    return [_read(file) for file in sorted(files)], sorted(left_out)


def _is_run(path: Path) -> bool:
    return (path / "pipeline").is_dir() or (path / "config.yaml").is_file()


def _read(file: Path) -> Run:
    try:
        run = _read_run(file)
    except (OSError, KeyError, TypeError, ValueError) as error:
        text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        if isinstance(error, TypeError):
            text = "it is not a table of results"
        raise ValueError(f"{file} cannot be read as a result: {text}") from error
    if not run.result.pictures:
        raise ValueError(f"{file} has no pictures: evaluate on a set with some")
    return run


def _read_run(file: Path) -> Run:
    folder, content = file.parent, _read_json(file)
    task = _RESULT_FILES.get(file.name, "zero-shot")
    if task == "zero-shot":
        about, detector = content, content["detector"]
        settings = {"sets of the evaluation": content.get("sources"), "annotations": content.get("annotations")}
        seed, cost, origin = None, None, _short(file)
    else:
        provenance = (folder / "segmentation.json", folder / "inputs.json")
        inputs = [one for path in provenance if path.is_file() for one in _read_json(path)["inputs"]]
        about, detector = next((one for one in inputs if one["name"] == content["input"]), {}), ""
        training, config = _read_json(folder / "training.json"), load_config(folder / "config.yaml")
        # Degradations have no effect here, and older configurations lack them.
        free = NEUTRAL_FIELDS | {"seed", "input", "degrade_probability", "degradations"}
        settings = {key: value for key, value in config.items() if key not in free}
        settings["pairs of the training sets"] = [one["pairs"] for one in training["datasets"]]
        settings["sets of the evaluation"] = content.get("sources")
        processes = training["processes"]
        hardware = f"{training['device']}, {processes} process{'es' if processes > 1 else ''}"
        cost = Cost(int(training["steps"]), float(training["seconds"]), hardware)
        seed, origin = int(content["seed"]), _short(folder)
    result: Result = (SegmentationResult if task == "segmentation" else DetectionResult).load(file)
    if len(set(result.pictures)) < len(result.pictures):
        raise ValueError("two of its pictures have the same name, so runs cannot be compared picture by picture")
    result = result.at(sorted(range(len(result.pictures)), key=result.pictures.__getitem__))
    name, settings["classes"] = content["input"], list(result.classes)
    kind: Kind = "source" if name in SOURCES else "rule" if "rule" in about.get("details", {}) else "method"
    return Run(task, name, kind, seed, result, settings, about.get("fingerprint", ""), cost, detector, origin)


def read_published(path: Path = PUBLISHED) -> tuple[Published, ...]:
    """Numbers that papers print of detection and segmentation on fused images.

    Raises:
        ValueError: the file has another format, or a value that is no fraction of 1.
    """
    content = _read_json(path)
    if content.get("format") != PUBLISHED_FORMAT:
        raise ValueError(f"{path}: its format is {content.get('format')!r}, expected {PUBLISHED_FORMAT!r}")
    rows = tuple(Published(**row) for row in content["rows"])
    for row in rows:
        if wrong := [name for name, value in row.values.items() if not 0 <= value <= 1]:
            raise ValueError(f"{path}: {row.method} has {row.values[wrong[0]]} as {wrong[0]}: give a fraction of 1")
    return rows


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _short(path: Path) -> str:
    """The last two parts that distinguish runs; no path of one machine."""
    parts = path.parent.parts if path.name == "pipeline" else path.parts
    return "/".join(parts[-2:]).lstrip("/")


# --- comparing -------------------------------------------------------------------------------------------------------


def _check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs of one task that cannot be compared; the message names both."""
    seen: dict[tuple[str, int | None], Run] = {}
    made: dict[str, Run] = {}
    for run in runs:
        if wrong := _differing(runs[0], run):
            raise ValueError(
                f"{runs[0].origin} and {run.origin} differ in {wrong}, so they cannot be in one table: give runs that "
                "differ in input and seed only"
            )
        if (twin := seen.setdefault((run.input, run.seed), run)) is not run:
            seed = "" if run.seed is None else f", seed {run.seed}"
            raise ValueError(f"{twin.origin} and {run.origin} are both of {run.input}{seed}: give each run once")
        if (same := made.setdefault(run.input, run)).pictures_by != run.pictures_by:
            raise ValueError(
                f"{same.origin} and {run.origin} are both called {run.input}, but their pictures were made by "
                "different checkpoints or options: give runs on pictures of one checkpoint"
            )


def _differing(first: Run, other: Run) -> str:
    """Settings and pictures that differ, with their values; empty if none do."""

    def shown(value: Any) -> str:
        text = "nothing" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return text if len(text) <= 120 else f"{text[:117]}..."

    settings = {name: (first.settings.get(name), other.settings.get(name)) for name in first.settings | other.settings}
    found = [f"{name} ({shown(one)} and {shown(two)})" for name, (one, two) in settings.items() if one != two]
    ours, theirs = set(first.result.pictures), set(other.result.pictures)
    if apart := sorted(ours ^ theirs):
        found.append(f"the pictures of the evaluation ({len(ours)} and {len(theirs)}, not in both: {some(apart)})")
    return ", ".join(found)


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
        ValueError: names of pictures that do not end in D or N; or runs that cannot be compared: two differ in their
            configuration, in the pictures of the evaluation or, on the same input, in the method that made its
            pictures, or have the same input and seed.
    """
    parts = []
    ordered = sorted(runs, key=lambda run: (TASKS.index(run.task), run.detector, run.origin, run.input, run.seed or 0))
    for _, same in groupby(ordered, attrgetter("task", "detector")):
        group = list(same)
        _check_comparable(group)
        parts.append(_part(group, "all", ""))
        if by_day_and_night:
            names = group[0].result.pictures
            if other := [name for name in names if name[-1:] not in DAY_NIGHT]:
                raise ValueError(
                    f"{group[0].origin}: the picture {other[0]!r} ends neither in D nor in N, the marks of day and "
                    "night in the names of MSRS: leave out the split by day and night"
                )
            letters = [letter for letter in DAY_NIGHT if any(name.endswith(letter) for name in names)]
            parts += [_part(group, DAY_NIGHT[letter], letter) for letter in letters]
    return Results(tuple(parts), tuple(published), tuple(notes))


def _part(runs: Sequence[Run], group: str, letter: str) -> Part:
    """The part of the pictures whose names end in `letter`."""
    first = runs[0]
    resampling = Resampling(sum(name.endswith(letter) for name in first.result.pictures))
    rows, drawn = [], {}
    names = [name for name, _ in sorted({(run.input, run.kind) for run in runs}, key=table_order)]
    for name in tqdm(names, desc=f"{first.task}, {group}", unit="input", leave=False, disable=None):
        own = sorted((run for run in runs if run.input == name), key=lambda run: run.seed or 0)
        row, drawn[name] = _row(own, letter, resampling)
        rows.append(row)
    return Part(
        task=first.task,
        detector=first.detector,
        group=group,
        pictures=resampling.counts.shape[1],
        classes=first.result.classes,
        headline=first.result.headline,
        families=("IoU",) if first.task == "segmentation" else _BY_CLASS,
        rows=tuple(rows),
        differences=tuple(_differences(rows, drawn, first.result.headline, resampling)),
        settings=_without_machine_paths(first.settings),
    )


def table_order(named: tuple[str, Kind]) -> tuple[int, int, str]:
    """A key that sorts inputs and their kinds as tables have them: sources, rules, then fusion methods, by name."""
    (name, kind), first = named, (*SOURCES, "average", "maximum")
    return (first.index(name) if name in first else len(first), KINDS.index(kind), name)


Drawn = Mapping[str, np.ndarray]
"""By name, the number of each run of an input on each resample of pictures: `(resamples, S)`."""


def _row(runs: Sequence[Run], letter: str, resampling: Resampling) -> tuple[Row, Drawn]:
    results = [run.result.take(lambda picture: picture.endswith(letter)) for run in runs]
    values = [{name: value for name, value in one.numbers().items() if name != "pixel_accuracy"} for one in results]
    names = list(dict.fromkeys(name for one in values for name in one))
    # A number that is undefined in one of the runs has no mean over the runs.
    means = {name: sum(one[name] for one in values) / len(values) for name in names if all(name in v for v in values)}
    single = [result.scores(means, resampling.counts) for result in results]
    drawn = {name: np.stack([one[name] for one in single], axis=1) for name in means}
    cost = None
    if costs := [run.cost for run in runs if run.cost is not None]:
        seconds = sum(one.seconds for one in costs) / len(costs)
        cost = Cost(costs[0].steps, seconds, "; ".join(dict.fromkeys(one.hardware for one in costs)))
    row = Row(
        input=runs[0].input,
        kind=runs[0].kind,
        seeds=tuple(run.seed for run in runs if run.seed is not None),
        numbers={name: resampling.interval(mean, drawn[name]) for name, mean in means.items()},
        by_seed={name: tuple(one.get(name) for one in values) for name in names},
        cost=cost,
    )
    return row, drawn


def _differences(
    rows: Sequence[Row], drawn: Mapping[str, Drawn], metrics: Sequence[str], resampling: Resampling
) -> list[Difference]:
    """Every input against visible and against the better single picture; fusion networks against the best rule too."""
    found = []
    for metric in metrics:
        able = {row.input: row for row in rows if metric in row.numbers}
        means = {name: row.numbers[metric].mean for name, row in able.items()}
        runs = {name: [value for value in row.by_seed[metric] if value is not None] for name, row in able.items()}
        sources, rules, networks = ([name for name, row in able.items() if row.kind == kind] for kind in KINDS)
        best_source, best_rule = (max(names, key=means.__getitem__, default=None) for names in (sources, rules))
        # Of one single picture nobody knows whether the other one would be better.
        comparisons = [
            (best_source, BEST_SOURCE if len(sources) > 1 else "", list(able)),
            (best_rule, BEST_RULE, networks),
        ]
        if "visible" in able and best_source != "visible":
            comparisons.insert(0, ("visible", "", list(able)))
        for reference, role, inputs in comparisons:
            for name in inputs:
                if reference is not None and name != reference:
                    sides = drawn[reference][metric], drawn[name][metric]
                    both = resampling.difference(means[name] - means[reference], *sides)
                    others = [values for key, values in runs.items() if key not in (reference, name)]
                    seeds = difference_over_seeds(runs[reference], runs[name], others) if able[name].seeds else None
                    found.append(Difference(name, reference, metric, role, both, seeds))
    return found


def _without_machine_paths(value: Any) -> Any:
    """Settings with the last two parts of each absolute path."""
    if isinstance(value, Mapping):
        return {key: _without_machine_paths(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_machine_paths(own) for own in value]
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and Path(value).is_absolute() else value
