"""Evaluations and published numbers from JSON. Every fault is a ValueError that names the file and the place."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fusion_hub.evaluation.leaderboard.rows import KINDS, Estimate, Row

EVALUATION_FORMAT = "fusion-hub-evaluation/1"
PUBLISHED_FORMAT = "fusion-hub-published/1"
LARGEST = 1e15  # no metric comes near it
PUBLISHED = Path(__file__).parents[1] / "published.json"


def read_evaluation(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Rows and provenance of one evaluation.

    Args:
        path: a `summary.json`, or the folder that holds it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an evaluation of a known format, or a number in it is missing, not finite or at odds with
            the per-image values. The message names the file and the row.
    """
    path = path / "summary.json" if path.is_dir() else path
    content = _read_json(path, EVALUATION_FORMAT)
    provenance = _get(content, "provenance", dict, str(path)) if "provenance" in content else {}
    rows = []
    for i, raw in enumerate(_get(content, "rows", list, str(path))):
        where = f"{path}: rows[{i}]"
        method = _text(_typed(raw, dict, where), "method", where)
        rows.append(_read_row(raw, f"{where} ({method!r})", str(path)))
    if not rows:
        raise ValueError(f"{path}: it has no rows; evaluate at least one method")
    return rows, provenance


def _read_row(raw: dict[str, Any], where: str, origin: str) -> Row:
    kind, n = _text(raw, "kind", where), _get(raw, "n", int, where)
    if kind not in KINDS:
        _fail(where, f"kind is {kind!r}: expected one of {', '.join(KINDS)}")
    if n < 1:
        _fail(where, f"n is {n}: expected the number of images, 1 or more")
    metrics: dict[str, Estimate] = {}
    for name, entry in _get(raw, "metrics", dict, where).items():
        numbers = _typed(entry, dict, f"{where}: metrics[{name!r}]")
        _require(numbers, "mean", f"{where}: metrics[{name!r}]")
        mean, low, high = (_number(numbers.get(key), f"{where}: {name} {key}") for key in ("mean", "low", "high"))
        if mean is not None:  # null: undefined on every image
            metrics[name] = Estimate(mean, low, high)
    names, per_image = _read_per_image(raw, where, n)
    for name in metrics.keys() & per_image.keys():
        _check_mean(metrics[name].mean, per_image[name], f"{where}: {name}")
    return Row(
        method=_text(raw, "method", where),
        kind=kind,
        source=_text(raw, "source", where) if "source" in raw else KINDS[kind],
        dataset=_text(raw, "dataset", where),
        n=n,
        metrics=metrics,
        names=names,
        per_image=per_image,
        warnings=_read_warnings(raw, where),
        baseline=kind == "baseline",
        origin=origin,
        expected=_get(raw, "expected", int, where) if "expected" in raw else 0,
    )


def _read_per_image(raw: dict[str, Any], where: str, n: int) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    if raw.get("per_image") is None:
        return (), {}
    content = _get(raw, "per_image", dict, where)
    names = [_typed(name, str, f"{where}: per_image names") for name in _get(content, "names", list, where)]
    if len(set(names)) != len(names):
        _fail(where, "per_image names has a name twice: images are paired by name, so names must be unique")
    if len(names) != n:
        _fail(where, f"per_image has {len(names)} names, but n is {n}")
    values = {}
    for metric, column in _get(content, "values", dict, where).items():
        label = f"{where}: per_image values[{metric!r}]"
        numbers = [_number(value, label) for value in _typed(column, list, label)]
        if len(numbers) != n:
            _fail(label, f"has {len(numbers)} values for {n} images")
        values[metric] = np.array([math.nan if value is None else value for value in numbers], dtype=np.float64)
    return tuple(names), values


def _check_mean(mean: float, values: np.ndarray, where: str) -> None:
    defined = values[~np.isnan(values)]
    if len(defined) == 0 or not math.isclose(mean, defined.mean(), rel_tol=1e-3, abs_tol=1e-4):
        found = f"{defined.mean():g}" if len(defined) else "undefined"
        _fail(where, f"the mean is {mean:g}, but that of the per-image values is {found}; evaluate again")


def _read_warnings(raw: dict[str, Any], where: str) -> tuple[str, ...]:
    found = _get(raw, "warnings", list, where) if "warnings" in raw else []
    return tuple(_typed(warning, str, f"{where}: warnings") for warning in found)


@dataclass(frozen=True)
class PrintedTable:
    """A table as a paper prints it: shown, never ranked with other rows.

    `same_pairs` says whether its means run over the very pairs of `dataset`; `note` says what to make of it.
    """

    dataset: str | None
    title: str
    source: str
    same_pairs: bool
    note: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Published:
    """`published.json`: titles and rows by set, baselines that stand in for measured ones, and printed tables."""

    titles: Mapping[str, str]
    sets: Mapping[str, list[Row]]
    baselines: Mapping[str, list[Row]]
    printed: tuple[PrintedTable, ...]


def read_published(path: Path = PUBLISHED) -> Published:
    """Numbers of other methods, which were not measured by this program.

    Raises:
        FileNotFoundError, ValueError: as `read_evaluation`.
    """
    content = _read_json(path, PUBLISHED_FORMAT)
    titles, sets, baselines = {}, {}, {}
    for name, found in _get(content, "sets", dict, str(path)).items():
        where = f"{path}: sets[{name!r}]"
        n = _get(_typed(found, dict, where), "pairs", int, where)
        titles[name] = _text(found, "title", where)
        sets[name] = list(_published_rows(found, "rows", name, n, where))
        baselines[name] = list(_published_rows(found, "baselines", name, n, where))
    printed = [_read_printed(table, str(path)) for table in _get(content, "printed", list, str(path))]
    return Published(titles, sets, baselines, tuple(printed))


def _read_printed(raw: Any, where: str) -> PrintedTable:
    title, source = _text(_typed(raw, dict, where), "title", where), _text(raw, "source", where)
    rows = _published_rows(raw, "rows", raw.get("dataset") or title, raw.get("pairs") or 0, f"{where}: {title}", source)
    same = _get(raw, "same_pairs", bool, where)
    return PrintedTable(raw.get("dataset"), title, source, same, _text(raw, "note", where), tuple(rows))


def _published_rows(
    content: dict[str, Any], key: str, dataset: str, n: int, where: str, source: str | None = None
) -> Iterator[Row]:
    for i, raw in enumerate(_get(content, key, list, where)):
        label = f"{where}: {key}[{i}]"
        values = {
            name: _number(value, f"{label}: {name}")
            for name, value in _get(_typed(raw, dict, label), "values", dict, label).items()
        }
        yield Row(
            method=_text(raw, "method", label),
            kind="published",
            source=source or _text(raw, "source", label),
            dataset=dataset,
            n=n,
            metrics={name: Estimate(value) for name, value in values.items() if value is not None},
            warnings=_read_warnings(raw, label),
            baseline=key == "baselines",
            origin=where,
        )


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
    if not isinstance(content, dict) or content.get("format") != expected:
        found = repr(content.get("format")) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{path}: its format is {found}, expected {expected!r}")
    return content


def _fail(where: str, message: str) -> NoReturn:
    raise ValueError(f"{where}: {message}")


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        _fail(where, f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _require(content: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in content:
        _fail(where, f"{key!r} is missing")
    return content[key]


def _get(content: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    return _typed(_require(content, key, where), kind, f"{where}: {key!r}")


def _text(content: Mapping[str, Any], key: str, where: str) -> str:
    text = str(_get(content, key, str, where)).strip()
    if not text:
        _fail(where, f"{key!r} is empty")
    return text


def _number(value: Any, where: str) -> float | None:
    """A finite number, or None for null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail(where, f"expected a number or null, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) < LARGEST:
        _fail(where, f"is {number:g}: expected a finite number below {LARGEST:g}; undefined values are written as null")
    return number
