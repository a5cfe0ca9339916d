"""The leaderboard as Markdown, and as one static page with the markup in `templates/leaderboard.html.j2`.

The template escapes every text from a file, also inside the plots. The page requests nothing from outside, and its
content security policy allows no script but its own.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2

from fusion_hub.evaluation.report import TITLES, bullets, escape, heading, markdown_table
from fusion_hub.evaluation.statistics import MIN_IMAGES, Interval, arrow, format_value
from fusion_hub.metrics import find_metric

if TYPE_CHECKING:
    from fusion_hub.evaluation.leaderboard import Board, Comparison, Entry, Leaderboard, PrintedTable

CONVENTION = (
    "8-bit BT.601 full-range luminance of the picture as it is saved, integers 0..255; each number is the mean over "
    "the images of a set."
)
READING = (
    "The best value of a column is bold, the second best underlined; the arrow shows which direction is better. Small "
    "numbers in brackets are 95 % bootstrap intervals of the mean over images, as in the evaluation.",
    "The mean rank is the mean, over the rank metrics, of a method's rank among all ranked rows: 1 is best, equal "
    "values share the mean of their ranks. It depends on the rows in the table. A row that lacks one of the rank "
    "metrics, or that was measured over other images, has no mean rank.",
    '"Measured here" and "baseline" rows are computed by this program from the images, in one convention. "Published" '
    "rows are numbers that others measured or printed, with the digits they gave; the source names them.",
    "Many programs stretch each fused image from its minimum to its maximum on saving, which alone raises SD, SF, AG "
    "and SCD. Rows of clamped and of stretched images therefore have a table each, with ranks of its own: rows "
    "measured here are in both, published rows in the one of their images. EN rises where the image was stretched "
    "before it was rounded to 8 bits, as programs do; images of a folder can only be stretched afterward.",
    "The average and the maximum of both sources are in every table: most of these metrics can be won without a "
    "network, and the maximum often wins VIF, Qabf and MI. A claim needs the whole row, together with the balance "
    "between the sources. If the files have no such rows, the table says so.",
)
SIGNIFICANCE = (
    "Difference of the means (row minus reference) over common images, with its 95 % interval from a paired bootstrap "
    "over images. {0}better{0} and {0}worse{0}: the interval excludes 0, also after Holm's correction over "
    "the methods within one metric; in brackets: without the correction only. There is no correction across metrics. "
    "With few images percentile intervals are a little too narrow."
)


def format_difference(found: "Comparison") -> tuple[str, str]:
    """`+0.123` and its interval, `[+0.100, +0.150]`."""
    digits = 3 if find_metric(found.metric).range[1] > 2 else 4
    return f"{found.difference:+.{digits}f}", f"[{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def footnotes(entries: Iterable["Entry"]) -> dict[str, int]:
    """Numbers of all notes, in the order in which they appear."""
    return {note: i for i, note in enumerate(dict.fromkeys(note for e in entries for note in e.notes), start=1)}


def comparisons_by_method(board: "Board") -> dict[str, dict[str, "Comparison"]]:
    """By method in the order of the table, then by metric."""
    methods = dict.fromkeys(entry.row.method for entry in board.entries if entry.row.kind != "published")
    found = {method: {c.metric: c for c in board.comparisons if c.method == method} for method in methods}
    return {method: cells for method, cells in found.items() if cells}


def images_compared(cells: dict[str, "Comparison"]) -> str:
    """`25`, or `23..25` where metrics are undefined on some."""
    counts = sorted({comparison.n for comparison in cells.values()})
    return "..".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))


def without_values(board: "Board") -> list[str]:
    """Methods that cannot be compared because they have no per-image values."""
    return list(dict.fromkeys(entry.row.method for entry in board.entries if not entry.row.per_image))


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(board: "Leaderboard") -> str:
    """The whole leaderboard."""
    parts = ["# Leaderboard", f"{CONVENTION} Rank metrics: {', '.join(map(escape, board.rank_metrics))}."]
    parts += [f"> {escape(note)}" for note in board.notes]
    for name, group in board.sets.items():
        parts.append(f"## {escape(name)}: {escape(group[0].title)}")
        for own in group:
            parts += [*_markdown_board(own), *_markdown_differences(own)]
        parts += _markdown_printed(group[0].printed)
    if board.elsewhere:
        parts += ["## Printed tables of other sets", *_markdown_printed(board.elsewhere)]
    return "\n\n".join([*parts, "## How to read this", bullets(READING)]) + "\n"


def _markdown_board(board: "Board") -> Iterator[str]:
    yield f"### {TITLES[board.convention]} ({board.count} images)"
    yield from (f"> {escape(note)}" for note in board.notes)
    notes = footnotes(board.entries)
    lines = []
    for entry in board.entries:
        row = entry.row
        method = escape(row.method) + "".join(f"<sup>{notes[note]}</sup>" for note in entry.notes)
        line = [method, row.badge, row.count, "" if entry.rank is None else f"{entry.rank:.2f}"]
        for name in board.metrics:
            found = row.metrics.get(name, Interval(math.nan))
            mean, low, high = (format_value(name, value) for value in (found.mean, found.low, found.high))
            text = f"**{mean}**" if name in entry.best else f"<u>{mean}</u>" if name in entry.second else mean
            text += f" ({found.n} of {row.n})" if 0 < found.n < row.n else ""
            text += f"<br><sub>{low}..{high}</sub>" if found.has_ends else ""
            line.append(text if name in row.metrics else "")
        lines.append([*line, escape(row.source)])
    heads = ["method", "kind", "n", "mean rank ↓", *(escape(heading(name)) for name in board.metrics), "source"]
    yield markdown_table(heads, lines)
    if notes:
        yield "\n".join(f"<sup>{number}</sup> {escape(note)}  " for note, number in notes.items())


def _markdown_differences(board: "Board") -> Iterator[str]:
    if board.reference is None:
        yield "No row has per-image values, so differences cannot be tested."
        return
    yield f"#### Differences from {escape(board.reference)}"
    yield SIGNIFICANCE.format("*")
    compared = comparisons_by_method(board)
    if not compared:
        yield f"No other row shares at least {MIN_IMAGES} images with it."
        return
    metrics = list(dict.fromkeys(comparison.metric for comparison in board.comparisons))
    lines = []
    for method, cells in compared.items():
        texts = {c.metric: " ".join([*format_difference(c), f"*{c.verdict}*"]) for c in cells.values()}
        columns = (texts.get(metric, "").removesuffix(" **") for metric in metrics)  # " **" is an empty verdict
        lines.append([escape(method), images_compared(cells), *columns])
    yield markdown_table(["method", "images", *map(escape, metrics)], lines)
    if silent := without_values(board):
        yield f"No per-image values: {', '.join(map(escape, silent))}."


def _markdown_printed(tables: Iterable["PrintedTable"]) -> Iterator[str]:
    for table in tables:
        yield f"### {escape(table.title)}"
        yield escape(table.note)
        lines = [
            [
                escape(row.method),
                row.convention,
                *(f"{row.values[name]:.2f}" if name in row.values else "" for name in table.metrics),
            ]
            for row in table.rows
        ]
        yield markdown_table(["method", "images", *map(escape, table.metrics)], lines)


# --- HTML ------------------------------------------------------------------------------------------------------------


def html(board: "Leaderboard") -> str:
    """The page as one string of HTML."""
    templates = files("fusion_hub") / "templates"
    page, css, script = (
        (templates / f"leaderboard.{suffix}").read_text(encoding="utf-8") for suffix in ("html.j2", "css", "js")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shared = (arrow, footnotes, format_value, format_difference, comparisons_by_method, images_compared)
    environment.globals.update({f.__name__: f for f in (*shared, without_values, scatter_plots)})
    text = environment.from_string(page).render(
        board=board,
        css=css,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        convention=CONVENTION,
        reading=READING,
        titles=TITLES,
        significance=SIGNIFICANCE.format('"'),
        metrics=[find_metric(name) for name in dict.fromkeys(name for own in board.boards for name in own.metrics)],
        provenance={name: json.dumps(own, indent=2, ensure_ascii=False) for name, own in board.provenance.items()},
    )
    return text.lstrip() + "\n"  # the lines before the document are those of its macros


WIDTH, HEIGHT = 480.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 42.0
LABEL_HEIGHT, CHARACTER, WIDE, LONGEST_LABEL = 12.0, 6.6, 4.0, 26  # of an 11 px label; m and w are wider
DRAWING_ORDER = ("published", "baseline", "folder", "model")  # what matters most last, on top
LABEL_POSITIONS = (  # shift from the marker, anchor, share of the text left of the anchor
    *((9, 4, "start", 0), (-9, 4, "end", 1), (0, -9, "middle", 0.5), (0, 17, "middle", 0.5)),
    *((7, -7, "start", 0), (7, 14, "start", 0), (-7, -7, "end", 1), (-7, 14, "end", 1)),
)
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass
class Point:
    """A marker; `label_at` (x, y, anchor) is None where its label has no room; `foot` lies on the diagonal."""

    x: float
    y: float
    style: str
    title: str
    label: str
    foot: tuple[float, float] | None = None
    label_at: tuple[float, float, str] | None = None


class Axis:
    """From values to positions, between round numbers that hold all values."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        raw = (high - low or abs(high) or 1) / 5
        power = 10 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= raw)
        first = math.floor(low / step)
        last = max(math.ceil(high / step), first + 1)
        self.low, self.high = first * step, last * step
        self.start, self.end = start, end
        digits = max(0, -math.floor(math.log10(step)))
        self.ticks = [(self(i * step), f"{i * step:.{digits}f}") for i in range(first, last + 1)]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scatter_plots(board: "Board") -> Iterator[dict[str, Any]]:
    """Fidelity against edges, and the balance between the sources, for rows over the same images."""
    for x_name, y_name, title in (
        ("VIF", "Qabf", "Information against edges"),
        ("VIF_visible", "VIF_infrared", "Balance between the sources"),
    ):
        balance = x_name == "VIF_visible"
        rows = [e.row for e in board.entries if e.comparable and {x_name, y_name} <= e.row.metrics.keys()]
        if not rows:
            continue
        xs, ys = ([row.values[name] for row in rows] for name in (x_name, y_name))
        if balance:
            xs = ys = [0.0, *xs, *ys]
        x_axis, y_axis = Axis(xs, LEFT, WIDTH - RIGHT), Axis(ys, HEIGHT - BOTTOM, TOP)
        points = []
        for row in sorted(rows, key=lambda row: DRAWING_ORDER.index(row.style)):
            x, y = row.values[x_name], row.values[y_name]
            title_of = f"{row.method}: {x_name} {x:.3f}, {y_name} {y:.3f}"
            label = row.method if len(row.method) <= LONGEST_LABEL else row.method[: LONGEST_LABEL - 1] + "…"
            point = Point(x_axis(x), y_axis(y), row.style, title_of, label)
            if balance:
                point.title += f", {abs(x - y) / math.sqrt(2):.3f} from the diagonal"
                point.foot = x_axis((x + y) / 2), y_axis((x + y) / 2)
            points.append(point)
        place_labels(points)
        low, high = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
        yield {
            "title": title,
            "description": "; ".join(point.title for point in points),
            "names": (x_name, y_name),
            "ticks": (x_axis.ticks, y_axis.ticks),
            "points": points,
            "diagonal": (x_axis(low), y_axis(low), x_axis(high), y_axis(high)) if balance else None,
        }


def place_labels(points: Sequence[Point]) -> None:
    """Place labels, those drawn last first, where they meet no marker, label or edge; the others get none."""
    taken = []
    for point in points:  # small boxes along the lines to the diagonal; none near the point, for its own label
        if point.foot:
            dx, dy = point.foot[0] - point.x, point.foot[1] - point.y
            steps = int(math.hypot(dx, dy) / 4)
            taken += [_square(point.x + dx * i / steps, point.y + dy * i / steps, 1) for i in range(3, steps + 1)]
    for point in reversed(points):
        markers = [_square(other.x, other.y, 5) for other in points if other is not point]
        for position, box in label_boxes(point):
            if not any(overlap(box, other) for other in (*taken, *markers)):
                point.label_at = position
                taken.append(box)
                break


def label_boxes(point: Point) -> Iterator[tuple[tuple[float, float, str], Box]]:
    """Positions for a label beside its marker, inside the plot, each with the box of the text."""
    width = len(point.label) * CHARACTER + sum(letter in "mwMW" for letter in point.label) * WIDE
    for dx, dy, anchor, share in LABEL_POSITIONS:
        x, y = point.x + dx, point.y + dy
        left, top, right, bottom = x - share * width, y - LABEL_HEIGHT + 2, x + (1 - share) * width, y + 3
        if left >= LEFT and right <= WIDTH and top >= 0 and bottom <= HEIGHT - BOTTOM:
            yield (x, y, anchor), (left, top, right, bottom)


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes `(left, top, right, bottom)`, in pixels of the plot, share any area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _square(x: float, y: float, reach: float) -> Box:
    return x - reach, y - reach, x + reach, y + reach
