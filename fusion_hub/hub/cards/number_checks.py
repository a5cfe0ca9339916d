"""Whether the numbers of a model card are those of the evaluation: `model-index`, and the tables of its text."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusion_hub.hub.cards.results import METRICS_FILE, Measured, Result, state_digest, weight_files
from fusion_hub.hub.cards.text_checks import split_row

PAPER_SECTION = "The paper's numbers"
_RESULT_HEADING = re.compile(r"^### (?P<dataset>.+?)(?: \((?P<pairs>\d+) pairs\))?\s*$")
_Key = tuple[str, str, str]  # set, split, metric


# --- metadata --------------------------------------------------------------------------------------------------------


def check_model_index(index: Any) -> Iterator[str]:
    """Problems of `model-index` alone: each entry needs a task, a set and its split, and metrics with finite values."""
    if not isinstance(index, list) or len(index) != 1 or not isinstance(index[0], Mapping):
        yield "model-index must be a list of one model with its results"
        return
    if not index[0].get("name"):
        yield "model-index: the model has no name"
    results = index[0].get("results")
    if not isinstance(results, list) or not results:
        yield "model-index: it has no results; leave it out, or measure"
        return
    seen: set[_Key] = set()
    for i, result in enumerate(results):
        yield from _check_entry(result if isinstance(result, Mapping) else {}, f"model-index: results[{i}]", seen)


def _check_entry(result: Mapping[str, Any], where: str, seen: set[_Key]) -> Iterator[str]:
    for part, keys in (("task", ("type",)), ("dataset", ("name", "type", "split"))):
        own = result.get(part)
        for key in keys:
            if not isinstance(own, Mapping) or not isinstance(own.get(key), str) or not own[key].strip():
                yield f"{where}: {part}.{key} is missing"
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f"{where}: it has no metrics"
        return
    for metric in metrics:
        if not isinstance(metric, Mapping) or not metric.get("type"):
            yield f"{where}: a metric has no type"
            continue
        name, value = str(metric["type"]), metric.get("value")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield f"{where}: {name} is {value!r}, expected a finite number"
        entry = (*_set_of(result), name)
        if entry in seen:
            yield f"{where}: {name} stands there twice for one set"
        seen.add(entry)


def _set_of(result: Mapping[str, Any]) -> tuple[str, str]:
    dataset = result.get("dataset")
    own = dataset if isinstance(dataset, Mapping) else {}
    return str(own.get("type")), str(own.get("split"))


def compare_model_index(index: Any, measured: Measured | None) -> Iterator[str]:
    """Where `model-index` differs from the evaluation. Malformed parts are left to `check_model_index`."""
    found: dict[_Key, Any] = {}
    models = index if isinstance(index, list) else []
    for result in (r for model in models if isinstance(model, Mapping) for r in model.get("results") or []):
        for metric in (result.get("metrics") or []) if isinstance(result, Mapping) else []:
            if isinstance(metric, Mapping):
                found[(*_set_of(result), str(metric.get("type")))] = metric.get("value")
    expected = {
        (result.key, result.split, name): result.metrics[name]
        for result in (measured.results if measured else ())
        for name in result.columns
        if result.metrics[name] is not None
    }
    for key in sorted(expected.keys() - found.keys()):
        yield f"model-index lacks {_label(key)}, which {METRICS_FILE} has"
    for key in sorted(found.keys() - expected.keys()):
        yield f"model-index has {_label(key)}, which {METRICS_FILE} does not have"
    for key in sorted(found.keys() & expected.keys()):
        if found[key] != expected[key]:
            yield f"model-index says {found[key]} for {_label(key)}, but {METRICS_FILE} says {expected[key]}"


def _label(key: _Key) -> str:
    return f"{key[2]} on {key[0]} ({key[1]})"


def compare_mean_iou(index: Any, folder: Path) -> Iterator[str]:
    """Where the mIoU of a segmenter's `model-index` is not that of `metrics.json`, or of other weights."""
    file, weights = folder / METRICS_FILE, folder / "model.safetensors"
    if not file.is_file():
        yield f"there is no {METRICS_FILE} beside the card: measure with benchmarks/segmentation.py"
        return
    measured = json.loads(file.read_text(encoding="utf-8"))
    expected = next(iter(measured["inputs"].values()))["numbers"]["mIoU"]
    found = [metric["value"] for entry in index[0].get("results", []) for metric in entry["metrics"]]
    if found != [expected]:
        yield f"model-index says {found} for mIoU, but {METRICS_FILE} says {expected}"
    if weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() != measured["sha256"]:
        yield f"{METRICS_FILE} was measured with other weights than those beside it: measure again"


# --- tables ----------------------------------------------------------------------------------------------------------


def compare_tables(body: str, measured: Measured | None) -> Iterator[str]:
    """Where the result tables of the text differ from the evaluation, beyond the rounding of their digits."""
    tables = dict(_result_tables(body))
    results = {result.dataset: result for result in (measured.results if measured else ())}
    for dataset in sorted(results.keys() - tables.keys()):
        yield f"the text has no table for {dataset}, which {METRICS_FILE} has"
    for dataset in sorted(tables.keys() - results.keys()):
        yield f"the text has a table for {dataset}, which {METRICS_FILE} does not have"
    for dataset in sorted(results.keys() & tables.keys()):
        pairs, rows = tables[dataset]
        if pairs != results[dataset].pairs:
            yield f"{dataset}: the text says {pairs} pairs, {METRICS_FILE} {results[dataset].pairs}"
        yield from _compare_rows(rows, results[dataset])


def _result_tables(body: str) -> Iterator[tuple[str, tuple[int | None, list[list[str]]]]]:
    """For each heading of a set: the number of pairs and the rows below it, the head first."""
    heading: re.Match[str] | None = None
    rows: list[list[str]] = []
    for line in [*body.splitlines(), "## end"]:
        if line.startswith("#"):
            if heading and rows:
                yield heading["dataset"], (int(heading["pairs"]) if heading["pairs"] else None, rows)
            found = _RESULT_HEADING.match(line)
            heading, rows = (found if found and found["dataset"] != PAPER_SECTION else None), []
        elif heading and line.startswith("|") and (not rows or rows[0][0] == "method"):
            if not re.fullmatch(r"[\s|:-]+", line):
                rows.append(split_row(line))
        elif rows and not line.startswith("|"):
            # Only the first table below a heading is that of the set.
            yield heading["dataset"], (int(heading["pairs"]) if heading["pairs"] else None, rows)  # type: ignore[index]
            heading, rows = None, []


def _compare_rows(rows: list[list[str]], result: Result) -> Iterator[str]:
    head, *body = rows
    columns = head[1:]
    if missing := [name for name in result.columns if name not in columns]:
        yield f"{result.dataset}: the table lacks the columns {', '.join(missing)}"
    if len(set(columns)) != len(columns):
        yield f"{result.dataset}: the table has a column twice"
    own = [row for row in body if row[0].startswith("**")]
    if len(own) != 1:
        yield f"{result.dataset}: the table has {len(own)} rows in bold, expected one, that of the model"
    by_name = {row[0]: row for row in body if not row[0].startswith("**")}
    for name in sorted(by_name.keys() ^ result.baselines.keys()):
        yield f"{result.dataset}: the row {name!r} is only in {'the table' if name in by_name else METRICS_FILE}"
    pairs = [(row, result.metrics) for row in own]
    pairs += [(row, result.baselines[name]) for name, row in by_name.items() if name in result.baselines]
    for row, values in pairs:
        if len(row) != len(head):
            yield f"{result.dataset}: the row {row[0]!r} has {len(row)} cells under {len(head)} headings"
        for column, cell in zip(columns, row[1:], strict=False):
            if not _agrees(cell, values.get(column)):
                yield (
                    f"{result.dataset}: the table says {cell or 'nothing'} for {column} of {row[0].strip('*')}, but "
                    f"{METRICS_FILE} says {values.get(column)}"
                )


def _agrees(cell: str, value: float | None) -> bool:
    """Whether a cell is the value, rounded to the digits that it shows, two at least (none from 1000 on)."""
    if value is None:
        return cell == ""
    if not re.fullmatch(r"-?\d+(\.\d+)?", cell):
        return False
    digits = len(cell.partition(".")[2])
    return (digits >= 2 or abs(value) >= 1000) and abs(float(cell) - value) <= 0.5 * 10**-digits * (1 + 1e-6)


# --- weights ---------------------------------------------------------------------------------------------------------


def check_weights(folder: Path, measured: Measured | None) -> Iterator[str]:
    """Whether the evaluation was run with the weights that lie in the folder."""
    details = measured.details if measured else {}
    noted, dtype = details.get("state_sha256"), details.get("dtype")
    if noted and dtype and weight_files(folder) and state_digest(folder, str(dtype)) != noted:
        yield f"{METRICS_FILE} was measured with other weights than those in model/: evaluate again"
