"""The table as a figure: small multiples of dots and intervals, readable in grey."""

from typing import TYPE_CHECKING, Any

from fusion_hub.evaluation.downstream_results.measures import title
from fusion_hub.evaluation.downstream_results.report import TASK_TITLES, detector_name
from fusion_hub.evaluation.downstream_results.table import Part, Results, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Kinds of inputs differ in form and filling, not in colour alone.
STYLES: dict[str, dict[str, Any]] = {
    "source": {"marker": "s", "markerfacecolor": "white", "color": "#555555"},
    "rule": {"marker": "o", "markerfacecolor": "#999999", "color": "#777777"},
    "method": {"marker": "o", "markerfacecolor": "#0b4f6c", "color": "#0b4f6c"},
}
PANEL, LINE, MARGIN = 2.3, 0.3, 1.0  # inches: width of a panel, height of an input, what is above and below


def draw(results: Results) -> "Figure":
    """One line of panels for each part, one panel for each of its headline numbers, one dot for each input.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    heights = [MARGIN + LINE * len(part.rows) for part in results.parts]
    columns = max(len(part.headline) for part in results.parts)
    figure = Figure(figsize=(1.6 + PANEL * columns, sum(heights) + 0.5), layout="constrained")
    lines = figure.subplots(len(results.parts), columns, squeeze=False, height_ratios=heights)
    for line, part in zip(lines, results.parts, strict=True):
        for panel, metric in zip(line, part.headline, strict=False):
            _draw_panel(panel, part, metric, named=panel is line[0])
        for panel in line[len(part.headline) :]:
            panel.axis("off")
    figure.supxlabel(_legend(results), fontsize=7.5, x=0.02, ha="left")
    return figure


def _draw_panel(panel: Any, part: Part, metric: str, *, named: bool) -> None:
    for place, row in enumerate(part.rows):
        _draw_row(panel, place, row, metric)
    sources = [row.numbers[metric].value for row in part.rows if row.kind == "source" and metric in row.numbers]
    if sources:
        panel.axvline(100 * max(sources), color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    panel.set_title(title(metric), fontsize=9)
    panel.set_yticks(range(len(part.rows)), [row.input for row in part.rows] if named else [])
    panel.set_ylim(len(part.rows) - 0.5, -0.5)
    panel.margins(x=0.08)
    panel.tick_params(labelsize=8, length=2)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", alpha=0.25)
    panel.spines[["top", "right", "left"]].set_visible(False)
    if named:
        panel.set_ylabel(_label(part), fontsize=9)


def _draw_row(panel: Any, place: int, row: Row, metric: str) -> None:
    number = row.numbers.get(metric)
    if number is None:
        panel.annotate("n/a", (0.02, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")
        return
    style = STYLES[row.kind]
    if number.low is not None and number.high is not None:
        ends = [100 * number.low, 100 * number.high]
        panel.plot(ends, [place, place], color=style["color"], linewidth=1.6, solid_capstyle="butt")
    single = [100 * value for value in row.by_seed[metric] if value is not None]
    if len(single) > 1:
        panel.plot(single, [place] * len(single), "|", color=style["color"], markersize=9, markeredgewidth=1)
    panel.plot([100 * number.value], [place], markersize=6, linestyle="none", markeredgewidth=1.4, **style)


def _label(part: Part) -> str:
    detector = f"\n{detector_name(part)}" if part.detector else ""
    group = "" if part.group == "all" else f", {part.group}"
    return f"{TASK_TITLES[part.task]}{detector}\n{part.pictures} pictures{group}"


def _legend(results: Results) -> str:
    several = any(len(row.seeds) > 1 for part in results.parts for row in part.rows)
    lines = [
        "Percent. Dot or square: mean. Dashed: the better single picture.",
        "Bar: 95 % over pictures and seeds; without ticks over pictures only. Ticks: single runs."
        if several
        else "Bar: 95 % over pictures.",
        "Square: a single picture. Grey dot: a rule without a network. Dark dot: a fusion network.",
        "All inputs share their pictures: compare them by the differences in the report, not by overlap.",
    ]
    return "\n".join(lines)
