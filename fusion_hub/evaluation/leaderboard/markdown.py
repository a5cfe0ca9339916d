"""The leaderboard as Markdown, and the texts and number formats that both pages share."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping

from fusion_hub.evaluation.leaderboard.board import Board, Entry, Leaderboard
from fusion_hub.evaluation.leaderboard.comparing import MIN_IMAGES, Comparison
from fusion_hub.evaluation.leaderboard.reading import PrintedTable
from fusion_hub.evaluation.leaderboard.rows import badge
from fusion_hub.metrics import find_metric

READING = (
    "Bold is the best value of a column, underlined the second best; the arrow says which way is better. Small numbers "
    "in brackets are 95 % bootstrap intervals of the mean over images, as the evaluation has them.",
    "Mean rank is the mean, over the rank metrics, of a method's place among all ranked rows: 1 is best, equal values "
    "share the mean of their places. It depends on which rows are in the table. A row that lacks one of the rank "
    "metrics, or that was measured over other images, has no mean rank.",
    '"Measured here" and "baseline" rows are computed by this program from the images, in one convention. "Published" '
    "rows are numbers that others measured or printed, with the digits they gave; the source says whose. They often "
    "come from images that were stretched to 0..255 one by one on saving (min-max), which alone raises SD, SF, AG and "
    "SCD; rows for which that is known carry a mark.",
    "The average and the maximum of both sources are in every table: most of these metrics can be won without a "
    "network, and the maximum often wins VIF, Qabf and MI. A claim needs the whole row, and the balance between the "
    "sources beside it. Where the files have no such rows, the table says so.",
)
SIGNIFICANCE = (
    "Difference of the means (row minus reference) over the images that both have, and its 95 % interval by a paired "
    "bootstrap over images. {better} and {worse}: the interval excludes 0, also after Holm's correction over the "
    "methods within one metric; in brackets: without the correction only. There is no correction across metrics. "
    "With few images percentile intervals are a little too narrow."
)
CONVENTION = (
    "8-bit BT.601 full-range luminance of the picture as it is saved, integers 0..255; each number is the mean over "
    "the images of a set."
)


def format_value(metric: str, value: float) -> str:
    """As many digits as tables of the field print."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.2f}" if find_metric(metric).range[1] > 2 else f"{value:.3f}"


def format_difference(metric: str, comparison: Comparison) -> str:
    """`+0.123 [+0.100, +0.150]`."""
    digits = 3 if find_metric(metric).range[1] > 2 else 4
    difference, low, high = (
        f"{value:+.{digits}f}" for value in (comparison.difference, comparison.low, comparison.high)
    )
    return f"{difference} [{low}, {high}]"


def verdict(comparison: Comparison) -> str:
    """`better`, `(better)` without Holm's correction only, `worse`, `(worse)`, or empty."""
    if not comparison.excludes_zero:
        return ""
    word = "better" if comparison.better else "worse"
    return word if comparison.confirmed else f"({word})"


def arrow(metric: str) -> str:
    return "↑" if find_metric(metric).direction == "up" else "↓"


def _escape(text: str) -> str:
    """Text from a file as inert Markdown on one line: no HTML, links, emphasis, code or table cells."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def render(board: Leaderboard) -> str:
    """The whole page."""
    return "\n".join(_markdown(board)) + "\n"


def _markdown(board: Leaderboard) -> Iterator[str]:
    yield "# Leaderboard"
    yield f"\n{CONVENTION} Rank metrics: {', '.join(map(_escape, board.rank_metrics))}."
    for note in board.notes:
        yield f"\n> {_escape(note)}"
    for own in board.boards:
        yield from _markdown_board(own)
    if board.elsewhere:
        yield "\n## Printed tables of other sets"
        for table in board.elsewhere:
            yield from _markdown_printed(table)
    yield "\n## How to read this\n"
    yield from (f"- {sentence}" for sentence in READING)


def _markdown_board(board: Board) -> Iterator[str]:
    yield f"\n## {_escape(board.dataset)}: {_escape(board.title)} ({board.count} images)"
    for note in board.notes:
        yield f"\n> {_escape(note)}"
    heads = [f"{_escape(name)} {arrow(name)}" for name in board.metrics]
    yield f"\n| method | kind | n | mean rank ↓ | {' | '.join(heads)} | source |"
    yield f"|---|---|---|---|{'---|' * len(heads)}---|"
    notes = footnotes(board.entries)
    for entry in board.entries:
        row = entry.row
        marks = "".join(f"<sup>{notes[note]}</sup>" for note in entry.notes)
        rank = "" if entry.rank is None else f"{entry.rank:.2f}"
        cells = " | ".join(_markdown_cell(entry, name) for name in board.metrics)
        method, source = _escape(row.method) + marks, _escape(row.source)
        yield f"| {method} | {badge(row)} | {row.count} | {rank} | {cells} | {source} |"
    if notes:
        yield ""
    for note, number in notes.items():
        yield f"<sup>{number}</sup> {_escape(note)}  "
    yield from _markdown_significance(board)
    for table in board.printed:
        yield from _markdown_printed(table)


def footnotes(entries: Iterable[Entry]) -> dict[str, int]:
    """Numbers of all notes, in the order in which they appear."""
    return {note: i for i, note in enumerate(dict.fromkeys(note for e in entries for note in e.notes), start=1)}


def _markdown_cell(entry: Entry, name: str) -> str:
    if name not in entry.row.metrics:
        return ""
    mean, low, high = entry.row.metrics[name]
    text = format_value(name, mean)
    text = f"**{text}**" if name in entry.best else f"<u>{text}</u>" if name in entry.second else text
    if low is None or high is None:
        return text
    return f"{text}<br><sub>{format_value(name, low)}..{format_value(name, high)}</sub>"


def _markdown_significance(board: Board) -> Iterator[str]:
    if board.reference is None:
        yield "\nNo row has per-image values, so differences cannot be tested."
        return
    metrics = list(dict.fromkeys(comparison.metric for comparison in board.comparisons))
    yield f"\n### Differences from {_escape(board.reference)}\n"
    yield SIGNIFICANCE.format(better="*better*", worse="*worse*")
    if not metrics:
        yield f"\nNo other row shares {MIN_IMAGES} images or more with it."
        return
    yield f"\n| method | images | {' | '.join(map(_escape, metrics))} |"
    yield f"|---|---|{'---|' * len(metrics)}"
    for method, cells in comparisons_by_method(board).items():
        texts = [
            f"{format_difference(m, cells[m])} {_emphasis(verdict(cells[m]))}".rstrip() if m in cells else ""
            for m in metrics
        ]
        yield f"| {_escape(method)} | {images_compared(cells)} | {' | '.join(texts)} |"
    silent = without_values(board)
    if silent:
        yield f"\nNo per-image values: {', '.join(map(_escape, silent))}."


def _emphasis(word: str) -> str:
    return f"*{word}*" if word else ""


def comparisons_by_method(board: Board) -> dict[str, dict[str, Comparison]]:
    """By method in the order of the table, then by metric."""
    found: dict[str, dict[str, Comparison]] = {}
    for entry in board.entries:
        cells = {c.metric: c for c in board.comparisons if c.method == entry.row.method}
        if cells and entry.row.kind != "published":
            found[entry.row.method] = cells
    return found


def images_compared(cells: Mapping[str, Comparison]) -> str:
    """`25`, or `23..25` where metrics are undefined on some."""
    counts = sorted({comparison.n for comparison in cells.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}..{counts[-1]}"


def without_values(board: Board) -> list[str]:
    """Methods that cannot be compared for want of per-image values."""
    return list(dict.fromkeys(entry.row.method for entry in board.entries if not entry.row.per_image))


def _markdown_printed(table: PrintedTable) -> Iterator[str]:
    metrics = printed_metrics(table)
    yield f"\n### {_escape(table.title)}\n"
    yield _escape(table.note)
    yield f"\n| method | {' | '.join(map(_escape, metrics))} |"
    yield f"|---|{'---|' * len(metrics)}"
    for row in table.rows:
        cells = [format_printed(row.metrics[name].mean) if name in row.metrics else "" for name in metrics]
        yield f"| {_escape(row.method)} | {' | '.join(cells)} |"


def printed_metrics(table: PrintedTable) -> list[str]:
    return list(dict.fromkeys(name for row in table.rows for name in row.metrics))


def format_printed(value: float) -> str:
    """Papers print two digits."""
    return f"{value:.2f}"
