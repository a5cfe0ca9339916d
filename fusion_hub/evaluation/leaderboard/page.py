"""The leaderboard as one static page: geometry of the plots here, markup in `templates/leaderboard.html.j2`.

Every text from a file goes through the template's escaping, also inside the plots. The page asks for nothing from
outside, and its content security policy allows no script but its own.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from fusion_hub.evaluation.leaderboard import markdown
from fusion_hub.evaluation.leaderboard.board import Board, Entry, Leaderboard
from fusion_hub.evaluation.leaderboard.rows import badge
from fusion_hub.metrics import find_metric

__all__ = ["render"]

WIDTH, HEIGHT = 480.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 42.0
LABEL_HEIGHT, CHARACTER = 12.0, 5.9  # of an 11 px label
BAR, BAR_LEFT, BAR_RIGHT = 20.0, 176.0, 40.0
LONGEST_LABEL = 26
DRAWING_ORDER = ("published", "baseline", "folder", "model")  # what matters most last, on top

_SHARED = (
    *("READING", "CONVENTION", "arrow", "footnotes", "format_value", "format_difference", "format_printed"),
    *("comparisons_by_method", "images_compared", "printed_metrics", "verdict", "without_values"),
)
"""What the template uses of the Markdown page's texts and formats."""


def render(board: Leaderboard) -> str:
    """The page as one string of HTML."""
    import jinja2

    templates = files("fusion_hub") / "templates"
    css, script = ((templates / f"leaderboard.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update({name: getattr(markdown, name) for name in _SHARED}, badge=badge)
    template = environment.from_string((templates / "leaderboard.html.j2").read_text(encoding="utf-8"))
    used = dict.fromkeys(name for own in board.boards for name in own.metrics)
    page = template.render(
        board=board,
        css=css,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        bars={own.dataset: bars(own) for own in board.boards},
        scatters={own.dataset: plots(own) for own in board.boards},
        metrics=[find_metric(name) for name in used],
        significance=markdown.SIGNIFICANCE.format(better='"better"', worse='"worse"'),
        provenance={name: json.dumps(own, indent=2, ensure_ascii=False) for name, own in board.provenance.items()},
    )
    return page.lstrip() + "\n"  # what stands before the document are the lines of its macros


# --- plots -----------------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    label: str
    title: str
    style: str
    y: float
    width: float
    value: str


@dataclass(frozen=True)
class Bars:
    """Mean ranks, best on top. All lengths in units of the view box."""

    height: float
    bars: tuple[Bar, ...]


def bars(board: Board) -> Bars:
    """One bar for each ranked row."""
    ranked = [(entry, entry.rank) for entry in board.entries if entry.rank is not None]
    longest = max((rank for _, rank in ranked), default=1)
    scale = (WIDTH - BAR_LEFT - BAR_RIGHT) / longest
    drawn = [
        Bar(_label(entry.row.method), _title(entry), _style(entry), i * BAR, rank * scale, f"{rank:.2f}")
        for i, (entry, rank) in enumerate(ranked)
    ]
    return Bars(len(drawn) * BAR, tuple(drawn))


class Tick(NamedTuple):
    position: float
    text: str


@dataclass(frozen=True)
class Point:
    """A marker, its label (empty where there is no room), and for balance plots its foot on the diagonal."""

    x: float
    y: float
    style: str
    title: str
    label: str = ""
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = "start"
    foot: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scatter:
    """A plot of two metrics: what the template draws."""

    title: str
    description: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    diagonal: tuple[float, float, float, float] | None = None


def plots(board: Board) -> list[Scatter]:
    """Fidelity against edges, and the balance between the sources, for rows over the same images."""
    found = [
        _scatter(board, "VIF", "Qabf", "Information against edges", False),
        _scatter(board, "VIF_visible", "VIF_infrared", "Balance between the sources", True),
    ]
    return [plot for plot in found if plot]


def _scatter(board: Board, x_name: str, y_name: str, title: str, balance: bool) -> Scatter | None:
    entries = [e for e in board.entries if e.comparable and {x_name, y_name} <= e.row.metrics.keys()]
    if not entries:
        return None
    values = [(e.row.metrics[x_name].mean, e.row.metrics[y_name].mean) for e in entries]
    xs, ys = [x for x, _ in values], [y for _, y in values]
    if balance:
        xs = ys = [0.0, *xs, *ys]
    x_axis, y_axis = _Axis(xs, LEFT, WIDTH - RIGHT), _Axis(ys, HEIGHT - BOTTOM, TOP)
    points = []
    for entry, (x, y) in zip(entries, values, strict=True):
        detail = f"{x_name} {x:.3f}, {y_name} {y:.3f}"
        foot = None
        if balance:
            detail += f", {abs(x - y) / math.sqrt(2):.3f} from the diagonal"
            foot = (x_axis((x + y) / 2), y_axis((x + y) / 2))
        tip = f"{entry.row.method}: {detail}"
        points.append(Point(x_axis(x), y_axis(y), _style(entry), tip, _label(entry.row.method), foot=foot))
    points.sort(key=lambda point: DRAWING_ORDER.index(point.style))
    least = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
    return Scatter(
        title=title,
        description="; ".join(point.title for point in points),
        x_name=x_name,
        y_name=y_name,
        x_ticks=x_axis.ticks(),
        y_ticks=y_axis.ticks(),
        points=tuple(_place_labels(points)),
        diagonal=(x_axis(least[0]), y_axis(least[0]), x_axis(least[1]), y_axis(least[1])) if balance else None,
    )


class _Axis:
    """From values to positions, between round numbers that hold all values."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        raw = (high - low or abs(high) or 1) / 5
        power = 10 ** math.floor(math.log10(raw))
        self.step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= raw)
        self.first, self.last = math.floor(low / self.step), math.ceil(high / self.step)
        if self.first == self.last:
            self.last += 1
        self.low, self.high = self.first * self.step, self.last * self.step
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> tuple[Tick, ...]:
        digits = max(0, -math.floor(math.log10(self.step)))
        marks = [i * self.step for i in range(self.first, self.last + 1)]
        return tuple(Tick(self(mark), f"{mark:.{digits}f}") for mark in marks)


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


# Where a label may stand beside its point: shift of its anchor, and the anchor.
_PLACES = (
    *((9, 4, "start"), (-9, 4, "end"), (0, -9, "middle"), (0, 17, "middle")),
    *((7, -7, "start"), (7, 14, "start"), (-7, -7, "end"), (-7, 14, "end")),
)
_SHARE_LEFT_OF_ANCHOR = {"start": 0.0, "middle": 0.5, "end": 1.0}


def _place_labels(points: Sequence[Point]) -> list[Point]:
    """Labels where they meet no marker, no other label and no edge; dropped where there is no such place.

    Points that are drawn last choose first. The full names stay in the tooltips and in the table.
    """
    markers = [_around(point.x, point.y) for point in points]
    feet = [box for point in points for box in _foot_boxes(point)]
    placed: list[Point] = []
    taken: list[_Box] = []
    for i, point in reversed(list(enumerate(points))):
        blocked = [*taken, *feet, *(marker for j, marker in enumerate(markers) if j != i)]
        found = next(((place, box) for place, box in _candidates(point) if not any(map(box.meets, blocked))), None)
        if found:
            (x, y, anchor), box = found
            taken.append(box)
            placed.append(_with_label(point, point.label, x, y, anchor))
        else:
            placed.append(_with_label(point, "", point.x, point.y, "start"))
    return placed[::-1]


def _around(x: float, y: float, reach: float = 5.0) -> _Box:
    return _Box(x - reach, y - reach, x + reach, y + reach)


def _foot_boxes(point: Point) -> list[_Box]:
    """Small boxes along the line from a point to the diagonal; none near the point, whose own label may stand there."""
    if point.foot is None:
        return []
    dx, dy = point.foot[0] - point.x, point.foot[1] - point.y
    steps = int(math.hypot(dx, dy) / 4)
    return [_around(point.x + dx * i / steps, point.y + dy * i / steps, 1.0) for i in range(3, steps + 1)]


def _candidates(point: Point) -> list[tuple[tuple[float, float, str], _Box]]:
    width = len(point.label) * CHARACTER
    found = []
    for dx, dy, anchor in _PLACES:
        x, y = point.x + dx, point.y + dy
        left = x - _SHARE_LEFT_OF_ANCHOR[anchor] * width
        box = _Box(left, y - LABEL_HEIGHT + 2, left + width, y + 3)
        if box.left >= LEFT and box.right <= WIDTH and box.top >= 0 and box.bottom <= HEIGHT - BOTTOM:
            found.append(((x, y, anchor), box))
    return found


def _with_label(point: Point, label: str, x: float, y: float, anchor: str) -> Point:
    return Point(point.x, point.y, point.style, point.title, label, x, y, anchor, point.foot)


def _style(entry: Entry) -> str:
    """How a row is drawn: baselines as such wherever their numbers are from."""
    return "baseline" if entry.row.baseline else entry.row.kind


def _label(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def _title(entry: Entry) -> str:
    parts: list[Any] = [entry.row.method, badge(entry.row), f"mean rank {entry.rank:.2f}"]
    return ", ".join(parts)
