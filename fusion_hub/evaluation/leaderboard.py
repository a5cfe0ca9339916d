"""One page from many evaluations: which method leads on which set, by how much, and is the difference significant?

    board = build([Path("ours/summary.json"), Path("theirs/summary.json")], Path("leaderboard"))

`build` merges the `summary.json` files of `fusion-hub evaluate` with the numbers that other methods have published on
the same pairs (`published.json`), ranks, compares by a paired bootstrap, and writes `leaderboard.md` and one static
`index.html`. Rows over other images are shown, but neither ranked nor marked.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fusion_hub.evaluation import leaderboard_page, report
from fusion_hub.evaluation.statistics import (
    LEVEL,
    MIN_IMAGES,
    RANK_METRICS,
    RESAMPLES,
    Interval,
    holm,
    mean_ranks,
    n_of,
    paired_bootstrap,
)
from fusion_hub.metrics import LEGACY_METRICS, METRICS, find_metric

__all__ = [
    "PUBLISHED", "RANK_METRICS", "TABLE_METRICS", "Board", "Comparison", "Entry", "Estimate", "Leaderboard",
    "PrintedTable", "Published", "Row", "assemble", "build", "compare", "holm", "mean_ranks", "merge",
    "paired_bootstrap", "read_evaluation", "read_published",
]  # fmt: skip

TABLE_METRICS = (
    "EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM_cddfuse", "SSIM", "CC", "VIF_visible", "VIF_infrared",
)  # fmt: skip
"""Default columns, where any row has them; those of the ranks are always shown."""

KINDS = {"model": "measured here", "folder": "images measured here", "baseline": "baseline", "published": "published"}
"""Kinds of rows, and the badge of each."""

EVALUATION_FORMAT = "fusion-hub-evaluation/1"
PUBLISHED_FORMAT = "fusion-hub-published/1"
PUBLISHED = Path(__file__).with_name("published.json")
LARGEST = 1e15  # no metric comes near it
JSON_KINDS: dict[type, str] = {
    **{dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"},
    **{bool: "true or false", type(None): "null"},
}
Estimate = Interval


@dataclass(frozen=True)
class Row:
    """One method on one set.

    Attributes:
        method, source: free text from a file: to be escaped wherever it is written.
        kind: a key of `KINDS`.
        n: number of images that the means run over.
        expected: number of pairs that the set should have; 0 where the file does not say.
        metrics: by name; metrics that are undefined on every image are left out.
        names, per_image: names of images, and for each metric `(len(names),)` float64, NaN where undefined; or empty.
        warnings: what a reader must know before quoting the row.
        baseline: a rule without a network.
        origin: its file, for messages.
    """

    method: str
    kind: str
    source: str
    dataset: str
    n: int
    metrics: Mapping[str, Interval]
    names: tuple[str, ...] = ()
    per_image: Mapping[str, np.ndarray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    baseline: bool = False
    origin: str = ""
    expected: int = 0

    @property
    def count(self) -> str:
        """`n`, or `n of N` where pairs of the set could not be measured."""
        return n_of(self.n, self.expected)

    @property
    def values(self) -> dict[str, float]:
        """The means, by metric."""
        return {name: found.mean for name, found in self.metrics.items()}

    @property
    def badge(self) -> str:
        """Where the row is from."""
        return f"baseline, {KINDS[self.kind]}" if self.baseline and self.kind != "baseline" else KINDS[self.kind]

    @property
    def style(self) -> str:
        """How it is drawn: baselines as such wherever their numbers are from."""
        return "baseline" if self.baseline else self.kind


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

    @property
    def verdict(self) -> str:
        """`better` or `worse`, in brackets if only without Holm's correction, or empty."""
        word = "better" if self.better else "worse"
        return "" if not self.excludes_zero else word if self.confirmed else f"({word})"


@dataclass(frozen=True)
class Entry:
    """A row with its rank, None for rows that cannot be ranked; `notes` say why, after all warnings."""

    row: Row
    rank: float | None
    comparable: bool
    notes: tuple[str, ...]
    best: frozenset[str] = frozenset()
    second: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PrintedTable:
    """A table as a paper prints it: shown, never ranked. `same_pairs`: its means run over the pairs of `dataset`."""

    dataset: str | None
    title: str
    source: str
    same_pairs: bool
    note: str
    rows: tuple[Row, ...]

    @property
    def metrics(self) -> list[str]:
        """Columns, in the order of the rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))


@dataclass(frozen=True)
class Published:
    """`published.json`: titles and rows by set, baselines that stand in for measured ones, and printed tables."""

    titles: Mapping[str, str]
    sets: Mapping[str, list[Row]]
    baselines: Mapping[str, list[Row]]
    printed: tuple[PrintedTable, ...]


@dataclass(frozen=True)
class Board:
    """Everything about one set: entries best first, comparisons with `reference`, printed tables."""

    dataset: str
    title: str
    n: int
    metrics: tuple[str, ...]
    entries: tuple[Entry, ...]
    reference: str | None
    comparisons: tuple[Comparison, ...]
    printed: tuple[PrintedTable, ...]
    notes: tuple[str, ...]

    @property
    def count(self) -> str:
        """`n`, or `n of N` where pairs of the set could not be measured."""
        return n_of(self.n, max((entry.row.expected for entry in self.entries if entry.row.n == self.n), default=0))


@dataclass(frozen=True)
class Leaderboard:
    """All sets: a board for each, in the order of the evaluations.

    `elsewhere` are printed tables of sets that no evaluation has; `provenance` is that of each evaluation, by a short
    name of its file.
    """

    boards: tuple[Board, ...]
    rank_metrics: tuple[str, ...]
    elsewhere: tuple[PrintedTable, ...]
    provenance: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The tables as GitHub-flavored Markdown; text from files is escaped."""
        return leaderboard_page.markdown(self)

    def html(self) -> str:
        """One self-contained page: no external request, text from files is escaped."""
        return leaderboard_page.html(self)


# --- from rows to boards ---------------------------------------------------------------------------------------------


def build(
    evaluations: Sequence[Path],
    output: Path,
    *,
    published: bool = True,
    rank_metrics: Sequence[str] = RANK_METRICS,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> Leaderboard:
    """Merge evaluations and published numbers; write `output/leaderboard.md` and `output/index.html`.

    Args:
        evaluations: `summary.json` files of `fusion-hub evaluate`, or the folders that hold them.
        output: folder; created if it does not exist.
        published: add the rows that other methods have published on the same pairs.
        rank_metrics: the metrics of the mean rank and of the significance tests.
        metrics: columns of the tables; None means `TABLE_METRICS` where any row has them. Those of the ranks are added.
        seed: seed of the bootstrap.

    Raises:
        FileNotFoundError: an evaluation does not exist.
        ValueError: no evaluations, an unknown metric, or a file that is malformed or contradicts another; the message
            names the file. Nothing is written then.
    """
    if not evaluations:
        raise ValueError("evaluations is empty: give at least one summary.json of `fusion-hub evaluate`")
    unknown = [name for name in (*rank_metrics, *(metrics or ())) if name not in (METRICS | LEGACY_METRICS)]
    if unknown:
        raise ValueError(f"unknown metrics {', '.join(map(repr, unknown))}: choose among {', '.join(METRICS)}")
    if not rank_metrics:
        raise ValueError("rank_metrics is empty: give at least one metric to rank by")
    found = [read_evaluation(Path(path)) for path in evaluations]
    board = assemble(
        [row for rows, _ in found for row in rows],
        read_published() if published else None,
        rank_metrics=rank_metrics,
        metrics=metrics,
        provenance=dict(zip(_short_names(evaluations), (own for _, own in found), strict=True)),
        seed=seed,
    )
    for name, text in {"leaderboard.md": board.markdown(), "index.html": board.html()}.items():
        report.write_text(output / name, text)
    return board


def assemble(
    rows: Iterable[Row],
    published: Published | None = None,
    *,
    rank_metrics: Sequence[str] = RANK_METRICS,
    metrics: Sequence[str] | None = None,
    provenance: Mapping[str, dict[str, Any]] | None = None,
    seed: int = 0,
) -> Leaderboard:
    """As `build`, from rows in memory, and without writing."""
    measured, published = list(rows), published or Published({}, {}, {}, ())
    names = list(dict.fromkeys(row.dataset for row in measured))
    merged = merge([*measured, *(row for name in names for row in published.sets.get(name, []))])
    columns = tuple(dict.fromkeys([*(TABLE_METRICS if metrics is None else metrics), *rank_metrics]))
    boards = [
        _board(name, [r for r in merged if r.dataset == name], columns, tuple(rank_metrics), published, seed)
        for name in names
    ]
    elsewhere = tuple(table for table in published.printed if table.dataset not in names)
    notes = tuple(_differing_provenance(provenance or {}))
    return Leaderboard(tuple(boards), tuple(rank_metrics), elsewhere, provenance or {}, notes)


def _board(
    dataset: str,
    rows: list[Row],
    columns: Sequence[str],
    rank_metrics: tuple[str, ...],
    published: Published,
    seed: int,
) -> Board:
    present = {row.method for row in rows}
    rows = rows + [row for row in published.baselines.get(dataset, []) if row.method not in present]
    notes = []
    missing = [name for name in ("average", "maximum") if all(row.method != name for row in rows)]
    if missing:
        notes.append(
            f"No row of {' or '.join(missing)}: without it, the table cannot show the benefit of a network. Evaluate "
            "again with the baselines."
        )
    # The images that most measured rows are over: how many, and their names where known. Other rows are not ranked.
    counts = Counter((r.n, frozenset(r.names)) for r in [r for r in rows if r.kind != "published"] or rows)
    n, names = max(counts, key=lambda images: (counts[images], images[0], len(images[1])))

    def obstacle(row: Row) -> str:
        if row.n != n:
            return f"Not ranked: its means run over {row.n} images, those of the table over {n}."
        others = len(set(row.names) - names) if names else 0
        return f"Not ranked: {others} of its {n} images are not among those of the table." if others else ""

    same = [row for row in rows if not obstacle(row)]
    ranks = {id(row): rank for row, rank in zip(same, mean_ranks(same, rank_metrics), strict=True)}
    levels = {}  # the best and the second best value of each metric; equal values share a mark
    for name in columns:
        own = {row.metrics[name].mean for row in same if name in row.metrics}
        levels[name] = sorted(own, reverse=find_metric(name).direction == "up")[:2]
    entries = []
    for row in rows:
        comparable = id(row) in ranks
        best, second = (
            frozenset(name for name, found in levels.items() if comparable and row.values.get(name) in found[i : i + 1])
            for i in (0, 1)
        )
        reasons = () if comparable else (obstacle(row),)
        entries.append(Entry(row, ranks.get(id(row)), comparable, (*row.warnings, *reasons), best, second))
    entries.sort(key=lambda e: (e.rank is None, not e.comparable, e.rank or 0))
    if entries[0].rank is None:
        notes.append(f"No row has all of the rank metrics ({', '.join(rank_metrics)}), so there is no mean rank.")
    # The reference: the best-ranked row with per-image values; without ranks the first model, else the first such row.
    able = [entry for entry in entries if entry.row.per_image and entry.comparable]
    first = min(able, key=lambda e: (e.rank is None, e.rank or 0, e.row.kind != "model"), default=None)
    measured = [entry.row for entry in entries if entry.row.kind != "published"]
    return Board(
        dataset=dataset,
        title=published.titles.get(dataset, dataset),
        n=n,
        metrics=tuple(name for name in columns if any(name in row.metrics for row in rows)),
        entries=tuple(entries),
        reference=first.row.method if first else None,
        comparisons=tuple(compare(measured, first.row, rank_metrics, seed)) if first else (),
        printed=tuple(table for table in published.printed if table.dataset == dataset),
        notes=tuple(notes),
    )


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
        compared = []
        for row in others:
            own = dict(zip(row.names, row.per_image.get(metric, ()), strict=False))
            other = zip(reference.names, reference.per_image.get(metric, ()), strict=False)
            values = np.array([own[name] - value for name, value in other if name in own], dtype=np.float64)
            values = values[~np.isnan(values)]
            if len(values) >= MIN_IMAGES:
                tested = paired_bootstrap(values, resamples, seed)
                compared.append(Comparison(row.method, metric, len(values), *tested))
        adjusted = holm([comparison.p for comparison in compared])
        found += [dataclasses.replace(one, p_holm=p) for one, p in zip(compared, adjusted, strict=True)]
    return found


def merge(rows: Iterable[Row]) -> list[Row]:
    """One row for each method, set, and measured or published: equal numbers from several files become one row.

    Raises:
        ValueError: two files have different numbers for one method on one set.
    """
    merged: dict[tuple[str, str, bool], Row] = {}
    for row in rows:
        key = (row.dataset, row.method, row.kind == "published")
        first = merged.setdefault(key, row)
        if first is row:
            continue
        wrong = [f"n {row.n} against {first.n}"] if first.n != row.n else []
        if first.names and row.names and set(first.names) != set(row.names):
            wrong.append("other images")
        for name in first.metrics.keys() & row.metrics.keys():
            one, two = first.metrics[name].mean, row.metrics[name].mean
            if not math.isclose(one, two, rel_tol=1e-4, abs_tol=1e-6):
                wrong.append(f"{name} {two:g} against {one:g}")
        if wrong:
            raise ValueError(
                f"{row.origin}: {row.method!r} on {row.dataset} differs from the row of that name in {first.origin}: "
                f"{wrong[0]}; give the methods different names or leave one file out"
            )
        names = first.names or row.names
        position = {name: i for i, name in enumerate(row.names)}
        order = [position[name] for name in names] if position else []
        merged[key] = dataclasses.replace(
            first,
            metrics={**row.metrics, **first.metrics},
            names=names,
            per_image={**{name: column[order] for name, column in row.per_image.items()}, **first.per_image},
            warnings=tuple(dict.fromkeys([*first.warnings, *row.warnings])),
        )
    return list(merged.values())


def _differing_provenance(provenance: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Conventions and images (by their hash) that differ between evaluations in one table."""
    for topic, consequence in (("conventions", "rows are not comparable"), ("datasets", "images are not the same")):
        found: dict[str, dict[str, list[str]]] = {}
        for file, own in provenance.items():
            part = own.get(topic)
            for key, value in part.items() if isinstance(part, dict) else ():
                found.setdefault(key, {}).setdefault(json.dumps(value, sort_keys=True), []).append(file)
        for key, files in found.items():
            if len(files) > 1:
                groups = " against ".join(", ".join(group) for group in files.values())
                yield f"The evaluations differ in {topic}, {key!r} ({groups}): their {consequence}."


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last two parts of each path, numbered where they are equal: no page shows a path of one machine."""
    short = ["/".join((path / "summary.json" if path.is_dir() else path).parts[-2:]).lstrip("/") for path in paths]
    return [name if short.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(short, start=1)]


# --- reading: every fault is a ValueError that names the file and the place -------------------------------------------


def read_evaluation(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Rows and provenance of one evaluation: a `summary.json`, or the folder that holds it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its format is unknown, or a number in it is missing, not finite or at odds with the per-image
            values. The message names the file and the row.
    """
    path = path / "summary.json" if path.is_dir() else path
    content = _read_json(path, EVALUATION_FORMAT)
    found = _get(content, "rows", list, str(path))
    if not found:
        raise ValueError(f"{path}: it has no rows; evaluate at least one method")
    rows = [_read_row(raw, f"{path}: rows[{i}]", str(path)) for i, raw in enumerate(found)]
    return rows, _get(content, "provenance", dict, str(path), {})


def _read_row(raw: Any, where: str, origin: str) -> Row:
    method = _text(_typed(raw, dict, where), "method", where)
    where = f"{where} ({method!r})"
    kind, n = _text(raw, "kind", where), _get(raw, "n", int, where)
    if kind not in KINDS:
        _fail(where, f"kind is {kind!r}: expected one of {', '.join(KINDS)}")
    if n < 1:
        _fail(where, f"n is {n}: expected the number of images, 1 or more")
    metrics = {}
    for name, entry in _get(raw, "metrics", dict, where).items():
        label = f"{where}: metrics[{name!r}]"
        if "mean" not in _typed(entry, dict, label):
            _fail(label, "'mean' is missing")
        mean, low, high = (_number(entry.get(key), f"{where}: {name} {key}") for key in ("mean", "low", "high"))
        if not math.isnan(mean):  # null: undefined on every image
            metrics[name] = Interval(mean, low, high)
    names: list[str] = []
    per_image = {}
    if raw.get("per_image") is not None:
        content = _get(raw, "per_image", dict, where)
        names = [_typed(name, str, f"{where}: per_image names") for name in _get(content, "names", list, where)]
        if len(set(names)) != len(names):
            _fail(where, "per_image names has a name twice: images are paired by name, so names must be unique")
        if len(names) != n:
            _fail(where, f"per_image has {len(names)} names, but n is {n}")
        for metric, column in _get(content, "values", dict, where).items():
            label = f"{where}: per_image values[{metric!r}]"
            per_image[metric] = np.array([_number(value, label) for value in _typed(column, list, label)], np.float64)
            if len(column) != n:
                _fail(label, f"has {len(column)} values for {n} images")
    for name in metrics.keys() & per_image.keys():
        mean, defined = metrics[name].mean, per_image[name][~np.isnan(per_image[name])]
        found = defined.mean() if len(defined) else math.nan
        if not math.isclose(mean, found, rel_tol=1e-3, abs_tol=1e-4):
            own = f"{found:g}" if len(defined) else "undefined"
            _fail(where, f"{name}: the mean is {mean:g}, but that of the per-image values is {own}; evaluate again")
    return Row(
        method=method,
        kind=kind,
        source=_text(raw, "source", where) if "source" in raw else KINDS[kind],
        dataset=_text(raw, "dataset", where),
        n=n,
        metrics=metrics,
        names=tuple(names),
        per_image=per_image,
        warnings=_read_warnings(raw, where),
        baseline=kind == "baseline",
        origin=origin,
        expected=_get(raw, "expected", int, where, 0),
    )


def read_published(path: Path = PUBLISHED) -> Published:
    """Numbers of other methods, which were not measured by this program; raises as `read_evaluation` does."""
    content, where = _read_json(path, PUBLISHED_FORMAT), str(path)
    sets = {name: _get(found, "pairs", int, where) for name, found in _get(content, "sets", dict, where).items()}

    def rows(found: dict[str, Any], key: str, dataset: str, n: int) -> list[Row]:
        return [
            Row(
                method=_text(raw, "method", where),
                kind="published",
                source=_text({**raw, **found}, "source", where),
                dataset=dataset,
                n=n,
                metrics={k: Interval(_number(v, f"{where}: {k}")) for k, v in raw["values"].items() if v is not None},
                warnings=_read_warnings(raw, where),
                baseline=key == "baselines",
                origin=where,
            )
            for raw in _get(found, key, list, where)
        ]

    printed = []
    for raw in _get(content, "printed", list, where):
        title, source, note = (_text(raw, key, where) for key in ("title", "source", "note"))
        own = tuple(rows(raw, "rows", raw.get("dataset") or title, raw.get("pairs") or 0))
        same_pairs = _get(raw, "same_pairs", bool, where)
        printed.append(PrintedTable(raw.get("dataset"), title, source, same_pairs, note, own))
    return Published(
        titles={name: _text(content["sets"][name], "title", where) for name in sets},
        sets={name: rows(content["sets"][name], "rows", name, n) for name, n in sets.items()},
        baselines={name: rows(content["sets"][name], "baselines", name, n) for name, n in sets.items()},
        printed=tuple(printed),
    )


def _read_warnings(raw: dict[str, Any], where: str) -> tuple[str, ...]:
    return tuple(_typed(warning, str, f"{where}: warnings") for warning in _get(raw, "warnings", list, where, []))


def _read_json(path: Path, expected: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"it holds {constant}, which is not JSON; undefined values are written as null")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give a summary.json of `fusion-hub evaluate`") from None
    except (ValueError, RecursionError) as error:
        what = str(error) if str(error).startswith("it holds") else "it is damaged and cannot be read as JSON"
        raise ValueError(f"{path}: {what}; run `fusion-hub evaluate` again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != expected:
        raise ValueError(
            f"{path}: its format is {found or 'unknown'}, not {expected}: give a summary.json of `fusion-hub evaluate`"
        )
    return dict(content)


def _fail(where: str, message: str) -> NoReturn:
    raise ValueError(f"{where}: {message}")


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        _fail(where, f"expected {JSON_KINDS[kind]}, got {JSON_KINDS.get(type(value), 'another value')}")
    return value


def _get(content: Mapping[str, Any], key: str, kind: type, where: str, *default: Any) -> Any:
    if key not in content:
        return default[0] if default else _fail(where, f"{key!r} is missing")
    return _typed(content[key], kind, f"{where}: {key!r}")


def _text(content: Mapping[str, Any], key: str, where: str) -> str:
    return str(_get(content, key, str, where)).strip() or _fail(where, f"{key!r} is empty")


def _number(value: Any, where: str) -> float:
    """A finite number, or NaN for null."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail(where, f"expected a number or null, got {JSON_KINDS.get(type(value), 'another value')}")
    if not abs(value) < LARGEST:
        found = str(value)[:20]
        _fail(where, f"is {found}: expected a finite number below {LARGEST:g}; undefined values are written as null")
    return float(value)
