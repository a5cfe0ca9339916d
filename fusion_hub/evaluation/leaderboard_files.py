"""Rows of a leaderboard, read from `summary.json` files and from `published.json`.

Every fault of a file is a ValueError that names the file and the place.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fusion_hub.evaluation.statistics import Interval, n_of

CONVENTIONS = ("clamped", "stretched")
"""How a fused image got its gray levels: cut at black and white, or stretched from its minimum to its maximum. Rows are
compared within one convention only."""

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
        convention: one of `CONVENTIONS`, or "unknown".
        minmax: the row of the same pictures after a stretch, if it was measured.
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
    convention: str = "clamped"
    minmax: "Row | None" = None

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


def merge(rows: Iterable[Row]) -> list[Row]:
    """One row for each method, set, convention, and measured or published: equal numbers from several files become one
    row.

    Raises:
        ValueError: two files have different numbers for one method on one set.
    """
    merged: dict[tuple[str, str, str, bool], Row] = {}
    for row in rows:
        key = (row.dataset, row.method, row.convention, row.kind == "published")
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
            others = wrong[0].startswith("n ") or wrong[0] == "other images"
            advice = (
                "evaluate all pairs in one run, or give each part a name of its own (--data NAME=FOLDER)"
                if others
                else "give the methods different names or leave one file out"
            )
            raise ValueError(
                f"{row.origin}: {row.method!r} on {row.dataset} differs from the row of that name in {first.origin}: "
                f"{wrong[0]}; {advice}"
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
    names: list[str] = []
    columns: dict[str, Any] = {}
    if raw.get("per_image") is not None:
        content = _get(raw, "per_image", dict, where)
        names = [_typed(name, str, f"{where}: per_image names") for name in _get(content, "names", list, where)]
        if len(set(names)) != len(names):
            _fail(where, "per_image names has a name twice: images are paired by name, so names must be unique")
        if len(names) != n:
            _fail(where, f"per_image has {len(names)} names, but n is {n}")
        columns = _get(content, "values", dict, where)
    metrics, per_image = _read_values(_get(raw, "metrics", dict, where), columns, n, where)
    row = Row(
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
        convention="stretched" if raw.get("was_stretched") else "clamped",
    )
    if row.convention == "stretched" or raw.get("minmax") is None:  # files of version 0.1 have none
        return row
    part, where = _get(raw, "minmax", dict, where), f"{where}: minmax"
    found, columns = _get(part, "metrics", dict, where), _get(part, "values", dict, where, {})
    metrics, per_image = _read_values(found, columns, n, where)
    stretched = dataclasses.replace(row, metrics=metrics, per_image=per_image, convention="stretched")
    return dataclasses.replace(row, minmax=stretched)


def _read_values(
    found: dict[str, Any], columns: dict[str, Any], n: int, where: str
) -> tuple[dict[str, Interval], dict[str, np.ndarray]]:
    """Means and per-image values by metric, which must agree."""
    metrics, per_image = {}, {}
    for name, entry in found.items():
        label = f"{where}: metrics[{name!r}]"
        if "mean" not in _typed(entry, dict, label):
            _fail(label, "'mean' is missing")
        mean, low, high = (_number(entry.get(key), f"{where}: {name} {key}") for key in ("mean", "low", "high"))
        if not math.isnan(mean):  # null: undefined on every image
            metrics[name] = Interval(mean, low, high, _get(entry, "n", int, label, n))
    for metric, column in columns.items():
        label = f"{where}: per_image values[{metric!r}]"
        per_image[metric] = np.array([_number(value, label) for value in _typed(column, list, label)], np.float64)
        if len(column) != n:
            _fail(label, f"has {len(column)} values for {n} images")
    for name in metrics.keys() & per_image.keys():
        mean, defined = metrics[name].mean, per_image[name][~np.isnan(per_image[name])]
        own = defined.mean() if len(defined) else math.nan
        if not math.isclose(mean, own, rel_tol=1e-3, abs_tol=1e-4):
            shown = f"{own:g}" if len(defined) else "undefined"
            _fail(where, f"{name}: the mean is {mean:g}, but that of the per-image values is {shown}; evaluate again")
    return metrics, per_image


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
                convention=_convention(raw, where),
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


def _convention(raw: dict[str, Any], where: str) -> str:
    found = str(_get(raw, "convention", str, where, "unknown"))
    known = (*CONVENTIONS, "unknown")
    return found if found in known else _fail(where, f"convention is {found!r}: expected one of {', '.join(known)}")


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
