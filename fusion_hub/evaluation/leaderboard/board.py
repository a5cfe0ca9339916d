"""From rows to boards: one for each set, ranked, marked and compared; and the files that are written."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_hub.evaluation.leaderboard.comparing import Comparison, compare
from fusion_hub.evaluation.leaderboard.reading import PrintedTable, Published, read_evaluation, read_published
from fusion_hub.evaluation.leaderboard.rows import RANK_METRICS, TABLE_METRICS, Row, mean_ranks, merge
from fusion_hub.files import write_aside
from fusion_hub.metrics import LEGACY_METRICS, METRICS, find_metric


@dataclass(frozen=True)
class Entry:
    """A row with its place: `rank` is None for rows that cannot be ranked; `notes` say why, with all warnings."""

    row: Row
    rank: float | None
    comparable: bool
    notes: tuple[str, ...]
    best: frozenset[str] = frozenset()
    second: frozenset[str] = frozenset()


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
        expected = max((entry.row.expected for entry in self.entries if entry.row.n == self.n), default=0)
        return f"{self.n} of {expected}" if self.n < expected else str(self.n)


@dataclass(frozen=True)
class Leaderboard:
    """All sets.

    Attributes:
        boards: one for each set, in the order of the evaluations.
        rank_metrics: what the mean rank is over.
        elsewhere: printed tables of sets that no evaluation here has.
        provenance: of each evaluation, by a short name of its file.
        notes: what holds for all sets.
    """

    boards: tuple[Board, ...]
    rank_metrics: tuple[str, ...]
    elsewhere: tuple[PrintedTable, ...]
    provenance: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The tables as GitHub-flavoured Markdown; text from files is escaped."""
        from fusion_hub.evaluation.leaderboard.markdown import render

        return render(self)

    def html(self) -> str:
        """One self-contained page: no external request, text from files is escaped."""
        from fusion_hub.evaluation.leaderboard.page import render

        return render(self)


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
        output: folder; made if it is missing.
        published: add the rows that other methods have published on the same pairs.
        rank_metrics: what the mean rank and the significance are over.
        metrics: columns of the tables; None means `TABLE_METRICS` where any row has them. Those of the ranks are added.
        seed: of the bootstrap.

    Raises:
        FileNotFoundError: an evaluation is not there.
        ValueError: no evaluations, an unknown metric, or a file that is malformed or contradicts another; the message
            names the file. Nothing is written then.
    """
    if not evaluations:
        raise ValueError("evaluations is empty: give at least one summary.json of `fusion-hub evaluate`")
    _check_metrics(rank_metrics, metrics)
    found = [read_evaluation(Path(path)) for path in evaluations]
    provenance = dict(zip(_short_names(evaluations), (own for _, own in found), strict=True))
    board = assemble(
        [row for rows, _ in found for row in rows],
        read_published() if published else None,
        rank_metrics=rank_metrics,
        metrics=metrics,
        provenance=provenance,
        seed=seed,
    )
    pages = {"leaderboard.md": board.markdown(), "index.html": board.html()}
    output.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        _write(output / name, text)
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
    measured = list(rows)
    names = list(dict.fromkeys(row.dataset for row in measured))
    extra = [row for name in names for row in published.sets.get(name, [])] if published else []
    merged = merge([*measured, *extra])
    columns = tuple(dict.fromkeys([*(TABLE_METRICS if metrics is None else metrics), *rank_metrics]))
    boards = [
        _board(name, [r for r in merged if r.dataset == name], columns, tuple(rank_metrics), published, seed)
        for name in names
    ]
    printed = published.printed if published else ()
    return Leaderboard(
        tuple(boards),
        tuple(rank_metrics),
        tuple(table for table in printed if table.dataset not in names),
        provenance or {},
        tuple(_differing_provenance(provenance or {})),
    )


def _check_metrics(rank_metrics: Sequence[str], metrics: Sequence[str] | None) -> None:
    unknown = [name for name in (*rank_metrics, *(metrics or ())) if name not in (METRICS | LEGACY_METRICS)]
    if unknown:
        raise ValueError(f"unknown metrics {', '.join(map(repr, unknown))}: choose among {', '.join(METRICS)}")
    if not rank_metrics:
        raise ValueError("rank_metrics is empty: give at least one metric to rank by")


def _board(
    dataset: str,
    rows: list[Row],
    columns: Sequence[str],
    rank_metrics: tuple[str, ...],
    extra: Published | None,
    seed: int,
) -> Board:
    present = {row.method for row in rows}
    notes: list[str] = []
    if extra:
        rows = rows + [row for row in extra.baselines.get(dataset, []) if row.method not in present]
    missing = [name for name in ("average", "maximum") if name not in {row.method for row in rows}]
    if missing:
        notes.append(
            f"No row of {' or '.join(missing)}: what a network adds cannot be told without it. Evaluate again with "
            "the baselines."
        )
    n, names = _reference_images(rows)
    entries = _entries(rows, columns, rank_metrics, n, names)
    reference = _reference(entries)
    if not any(entry.rank is not None for entry in entries):
        notes.append(f"No row has all of the rank metrics ({', '.join(rank_metrics)}), so there is no mean rank.")
    comparable = [entry.row for entry in entries if entry.row.kind != "published"]
    return Board(
        dataset=dataset,
        title=extra.titles.get(dataset, dataset) if extra else dataset,
        n=n,
        metrics=tuple(name for name in columns if any(name in row.metrics for row in rows)),
        entries=tuple(entries),
        reference=reference.method if reference else None,
        comparisons=tuple(compare(comparable, reference, rank_metrics, seed)) if reference else (),
        printed=tuple(table for table in extra.printed if table.dataset == dataset) if extra else (),
        notes=tuple(notes),
    )


def _reference_images(rows: Sequence[Row]) -> tuple[int, frozenset[str]]:
    """The images that most measured rows are over: how many, and their names where known."""
    measured = [row for row in rows if row.kind != "published"] or rows
    counts = Counter((row.n, frozenset(row.names)) for row in measured)
    return max(counts, key=lambda images: (counts[images], images[0], len(images[1])))


def _entries(
    rows: Sequence[Row], columns: Sequence[str], rank_metrics: Sequence[str], n: int, names: frozenset[str]
) -> list[Entry]:
    """All rows, best first; then those without a rank: rows over the same images before others."""
    reasons = [_other_images(row, n, names) for row in rows]
    same = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    ranks = {id(row): rank for row, rank in zip(same, mean_ranks(same, rank_metrics), strict=True)}
    best, second = _marks(same, columns)
    entries = []
    for row, reason in zip(rows, reasons, strict=True):
        own = (*row.warnings, reason) if reason else row.warnings
        marks = (frozenset(c for c in columns if id(row) in mark.get(c, ())) for mark in (best, second))
        entries.append(Entry(row, ranks.get(id(row)), reason is None, own, *marks))
    return sorted(entries, key=lambda e: (e.rank is None, not e.comparable, e.rank or 0))


def _other_images(row: Row, n: int, names: frozenset[str]) -> str | None:
    if row.n != n:
        return f"Not ranked: its means run over {row.n} images, those of the table over {n}."
    if row.names and names and frozenset(row.names) != names:
        return f"Not ranked: {len(frozenset(row.names) - names)} of its {n} images are others than those of the table."
    return None


def _marks(rows: Sequence[Row], columns: Sequence[str]) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """For each metric the ids of the rows with the best and with the second best value; equal values share a mark."""
    best: dict[str, set[int]] = {}
    second: dict[str, set[int]] = {}
    for name in columns:
        own = {id(row): row.metrics[name].mean for row in rows if name in row.metrics}
        levels = sorted(set(own.values()), reverse=find_metric(name).direction == "up")
        for mark, level in zip((best, second), levels, strict=False):
            mark[name] = {key for key, value in own.items() if value == level}
    return best, second


def _reference(entries: Sequence[Entry]) -> Row | None:
    """The best-ranked row with per-image values; without ranks the first model, else the first such row."""
    able = [entry for entry in entries if entry.row.per_image and entry.comparable]
    if not able:
        return None
    return min(able, key=lambda e: (e.rank is None, e.rank or 0, e.row.kind != "model")).row


def _differing_provenance(provenance: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Where evaluations that stand in one table must agree and do not: conventions, and images by their hash."""
    for topic, advice in (("conventions", "rows are not alike"), ("datasets", "images are not the same")):
        found: dict[str, dict[str, list[str]]] = {}
        for file, own in provenance.items():
            part = own.get(topic)
            for key, value in part.items() if isinstance(part, dict) else ():
                found.setdefault(key, {}).setdefault(json.dumps(value, sort_keys=True), []).append(file)
        for key, files in found.items():
            if len(files) > 1:
                said = " against ".join(", ".join(group) for group in files.values())
                yield f"The evaluations differ in {topic}, {key!r} ({said}): their {advice}."


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last two parts of each path, told apart by a number where they are equal: no page shows a machine's path."""
    short = ["/".join((path / "summary.json" if path.is_dir() else path).parts[-2:]).lstrip("/") for path in paths]
    return [name if short.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(short, start=1)]


def _write(path: Path, text: str) -> None:
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="replace")
