"""One page from many evaluations: which method leads on which set, by how much, and is the difference significant?

    board = build([Path("ours/summary.json"), Path("theirs/summary.json")], Path("leaderboard"))

`build` merges the `summary.json` files of `fusion-hub evaluate` with the numbers that other methods have published on
the same pairs (`published.json`), ranks, compares by a paired bootstrap, and writes `leaderboard.md` and one static
`index.html`. Rows of clamped and of stretched images have a table each: a stretch alone raises most contrast metrics.
Rows over other images are shown, but neither ranked nor marked.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_hub.evaluation import leaderboard_page, report
from fusion_hub.evaluation.leaderboard_files import (
    CONVENTIONS,
    PUBLISHED,
    Estimate,
    PrintedTable,
    Published,
    Row,
    merge,
    read_evaluation,
    read_published,
)
from fusion_hub.evaluation.statistics import (
    LEVEL,
    MIN_IMAGES,
    RANK_METRICS,
    RESAMPLES,
    format_value,
    holm,
    mean_ranks,
    n_of,
    paired_bootstrap,
)
from fusion_hub.metrics import LEGACY_METRICS, METRICS, find_metric

__all__ = [
    "CONVENTIONS", "PUBLISHED", "RANK_METRICS", "TABLE_METRICS", "Board", "Comparison", "Entry", "Estimate",
    "Leaderboard", "PrintedTable", "Published", "Row", "assemble", "build", "compare", "holm", "mean_ranks", "merge",
    "paired_bootstrap", "read_evaluation", "read_published",
]  # fmt: skip

TABLE_METRICS = (
    "EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM_cddfuse", "SSIM", "CC", "VIF_visible", "VIF_infrared",
)  # fmt: skip
"""Default columns, where any row has them; those of the ranks are always shown."""

UNKNOWN = "It is not known whether these images were stretched."
ABSENT = {
    "clamped": "Their images are stretched: the other table has them.",
    "stretched": "Their stretched images were not measured: evaluate again, without --no-stretched.",
}


SAME_PICTURES = ("EN", "SD", "SF", "AG", "MSE")
"""Metrics of the average of both images that tell other pictures from the published ones."""
SAME_VALUE = 0.01


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
class Board:
    """Everything about one set in one convention: entries best first, comparisons with `reference`, printed tables."""

    dataset: str
    convention: str
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
    """All sets: a board for each and for each of `CONVENTIONS` in which it has rows, in the order of the evaluations.

    `elsewhere` are printed tables of sets that no evaluation has; `provenance` is that of each evaluation, by a short
    name of its file.
    """

    boards: tuple[Board, ...]
    rank_metrics: tuple[str, ...]
    elsewhere: tuple[PrintedTable, ...]
    provenance: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...] = ()

    @property
    def sets(self) -> dict[str, list[Board]]:
        """The boards of each set."""
        names = dict.fromkeys(own.dataset for own in self.boards)
        return {name: [own for own in self.boards if own.dataset == name] for name in names}

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
    measured += [row.minmax for row in measured if row.minmax]
    merged = merge([*measured, *(row for name in names for row in published.sets.get(name, []))])
    columns = tuple(dict.fromkeys([*(TABLE_METRICS if metrics is None else metrics), *rank_metrics]))
    boards: list[Board] = []
    for name in names:
        own = [row for row in merged if row.dataset == name]
        boards += _boards(name, own, columns, tuple(rank_metrics), published, seed)
    elsewhere = tuple(table for table in published.printed if table.dataset not in names)
    notes = tuple(_differing_provenance(provenance or {}))
    return Leaderboard(tuple(boards), tuple(rank_metrics), elsewhere, provenance or {}, notes)


def _boards(
    dataset: str,
    rows: list[Row],
    columns: Sequence[str],
    rank_metrics: tuple[str, ...],
    published: Published,
    seed: int,
) -> Iterator[Board]:
    """A board for each convention in which there are rows; the first has the printed tables."""
    printed = tuple(table for table in published.printed if table.dataset == dataset)
    stand_ins, title, warnings = published.baselines.get(dataset, []), published.titles.get(dataset, dataset), []
    if other := _other_pictures(rows, stand_ins):
        rows, stand_ins, title, printed = [row for row in rows if row.kind != "published"], [], dataset, ()
        warnings.append(f"No published rows, since these are other pictures under the same name: {other}.")
    for convention in CONVENTIONS:
        own = [row for row in rows if _shown_as(row) == convention]
        if not own:
            continue
        present = {row.method for row in own}
        measured = {row.method for row in own if row.kind != "published"}
        absent = dict.fromkeys(r.method for r in rows if r.kind != "published" and r.method not in measured)
        own += [row for row in stand_ins if _shown_as(row) == convention and row.method not in present]
        board = _board(dataset, convention, own, columns, rank_metrics, seed)
        notes = [f"Not in this table: {', '.join(absent)}. {ABSENT[convention]}"] if absent else []
        yield dataclasses.replace(board, title=title, printed=printed, notes=(*warnings, *notes, *board.notes))
        printed = ()


def _other_pictures(rows: Sequence[Row], stand_ins: Sequence[Row]) -> str:
    """How the measured average of both images differs from that of as many published pairs; empty if it does not."""
    clamped = [row for row in (*rows, *stand_ins) if row.method == "average" and _shown_as(row) == "clamped"]
    here = next((row for row in clamped if row.kind != "published" and row not in stand_ins), None)
    there = next((row for row in clamped if row in stand_ins), None)
    if here is None or there is None or here.n != there.n:
        return ""
    for name in [name for name in SAME_PICTURES if name in here.values and name in there.values]:
        if not math.isclose(here.values[name], there.values[name], rel_tol=SAME_VALUE):
            known = format_value(name, there.values[name])
            return f"the {name} of the average is {format_value(name, here.values[name])} here and {known} there"
    return ""


def _shown_as(row: Row) -> str:
    """The convention of the table that shows the row: few programs stretch, so an unknown row is taken as clamped."""
    return row.convention if row.convention in CONVENTIONS else "clamped"


def _board(
    dataset: str,
    convention: str,
    rows: list[Row],
    columns: Sequence[str],
    rank_metrics: tuple[str, ...],
    seed: int,
) -> Board:
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

    def over_all(row: Row, name: str) -> bool:  # of some images a metric is undefined, such as the PSNR of equal ones
        return name in row.metrics and row.metrics[name].n in (0, row.n)

    levels = {}  # the best and the second best value of each metric; equal values share a mark
    for name in columns:
        own = {row.metrics[name].mean for row in same if over_all(row, name)}
        levels[name] = sorted(own, reverse=find_metric(name).direction == "up")[:2]
    entries = []
    for row in rows:
        comparable = id(row) in ranks
        best, second = (
            frozenset(
                name
                for name, found in levels.items()
                if comparable and over_all(row, name) and row.values[name] in found[i : i + 1]
            )
            for i in (0, 1)
        )
        reasons: tuple[str, ...] = () if comparable else (obstacle(row),)
        reasons += (UNKNOWN,) if row.convention == "unknown" else ()
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
        convention=convention,
        title=dataset,
        n=n,
        metrics=tuple(name for name in columns if any(name in row.metrics for row in rows)),
        entries=tuple(entries),
        reference=first.row.method if first else None,
        comparisons=tuple(compare(measured, first.row, rank_metrics, seed)) if first else (),
        printed=(),
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
