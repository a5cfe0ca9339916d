"""The report engine: tables as Markdown, LaTeX and CSV by pandas, figures of intervals by matplotlib; and the report of
`evaluate`. The leaderboard and the downstream table use the same tables and figures.
"""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fusion_hub.data.pairs import ImageSource, load_picture
from fusion_hub.evaluation.methods import luminance
from fusion_hub.evaluation.records import BANDS, GUARD_METRICS, EvaluationSet, Row, slug
from fusion_hub.evaluation.statistics import Interval, arrow, format_value
from fusion_hub.files import write_aside
from fusion_hub.image.inputs import read_luminance
from fusion_hub.image.io import read_picture, to_image
from fusion_hub.image.luminance import Role, quantize
from fusion_hub.metrics import find_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fusion_hub.evaluation.run import Evaluation

TITLES = {"clamped": "Clamped, not stretched", "stretched": "Each image stretched from its minimum to its maximum"}
"""The conventions of published tables, and how a reader knows them."""
EXAMPLES = 4  # pairs on the contact sheet
THUMBNAIL = 240  # pixels, width

# --- tables ----------------------------------------------------------------------------------------------------------


def _frame(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> Any:
    import pandas

    return pandas.DataFrame(lines, columns=list(heads), dtype=object)


def markdown_table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already: `escape` text from files."""
    return str(_frame(heads, lines).to_markdown(index=False, disable_numparse=True))


def latex_table(heads: Sequence[str], lines: Iterable[Sequence[str]], caption: str) -> str:
    """A booktabs table of cells that are LaTeX already."""
    columns = "l" + "r" * (len(heads) - 1)
    table = _frame(heads, lines).to_latex(index=False, escape=False, column_format=columns, caption=caption)
    return "% needs \\usepackage{booktabs}\n" + table.replace("\\begin{table}\n", "\\begin{table}\n\\centering\n")


def csv_table(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values for other programs: every digit, undefined values empty."""
    return str(_frame(heads, lines).to_csv(index=False, lineterminator="\n"))


def write_text(file: Path, text: str) -> Path:
    """Write a whole file or none; folders are created."""
    with write_aside(file) as aside:
        aside.write_text(text, encoding="utf-8", errors="replace")
    return file


def write_figure(figure: "Figure", file: Path) -> Path:
    """The same for a figure, in the format of the suffix."""
    with write_aside(file) as aside:
        figure.savefig(aside, format=file.suffix[1:], dpi=160)
    return file


def bullets(texts: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {text}" for text in texts)


def escape(text: str) -> str:
    """Text from a file as inert Markdown on one line: no HTML, links, emphasis, code or table cells."""
    return re.sub(r"([\\`*_|~]|\](?=[(\[:]))", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def escape_latex(text: str) -> str:
    """The text with the special characters of LaTeX escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def heading(metric: str) -> str:
    """Name and direction."""
    return f"{metric} {arrow(metric)}"


# --- figures ---------------------------------------------------------------------------------------------------------

# Kinds of rows differ in shape and fill, not only in color.
STYLES: Mapping[str, Mapping[str, Any]] = {
    "source": {"marker": "s", "markerfacecolor": "white", "color": "#555555"},
    "baseline": {"marker": "o", "markerfacecolor": "#999999", "color": "#777777"},
    "method": {"marker": "o", "markerfacecolor": "#0b4f6c", "color": "#0b4f6c"},
}


@dataclass(frozen=True)
class Dot:
    """One row of a panel: its number with the interval (None: undefined), and single runs as ticks."""

    label: str
    style: str
    interval: Interval | None
    runs: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One number of all rows; `reference` is a dashed line."""

    title: str
    dots: Sequence[Dot]
    reference: float | None = None


def draw_intervals(lines: Sequence[tuple[str, Sequence[Panel]]], footnote: str = "") -> "Figure":
    """Small multiples: labeled lines of panels, one dot with its interval for each row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    heights = [1 + 0.3 * max(len(panel.dots) for panel in panels) for _, panels in lines]
    columns = max(len(panels) for _, panels in lines)
    width = 1.6 + (2.3 if columns <= 4 else 1.45) * columns
    figure = Figure(figsize=(width, sum(heights) + 0.5 * bool(footnote)), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
    for line, (label, panels) in zip(axes, lines, strict=True):
        for axis, panel in zip(line, panels, strict=False):
            _draw_panel(axis, panel)
            axis.set_yticks(range(len(panel.dots)), [d.label for d in panel.dots] if axis is line[0] else [])
        line[0].set_ylabel(label, fontsize=9)
        for axis in line[len(panels) :]:
            axis.axis("off")
    if footnote:
        figure.supxlabel(footnote, fontsize=7.5, x=0.02, ha="left")
    return figure


def _draw_panel(axis: Any, panel: Panel) -> None:
    for y, dot in enumerate(panel.dots):
        if dot.interval is None or math.isnan(dot.interval.mean):
            axis.annotate("n/a", (0.02, y), xycoords=("axes fraction", "data"), fontsize=8, va="center")
            continue
        style = STYLES[dot.style]
        if dot.interval.has_ends:
            axis.plot([dot.interval.low, dot.interval.high], [y, y], color=style["color"], linewidth=1.8)
        if len(dot.runs) > 1:
            axis.plot(dot.runs, [y] * len(dot.runs), "|", color=style["color"], markersize=9, markeredgewidth=1)
        axis.plot([dot.interval.mean], [y], markersize=6, linestyle="none", markeredgewidth=1.4, **style)
    if panel.reference is not None:
        axis.axvline(panel.reference, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axis.set_title(panel.title, fontsize=9)
    axis.set_ylim(len(panel.dots) - 0.5, -0.5)
    axis.margins(x=0.08)
    axis.tick_params(labelsize=8, length=2)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right", "left"]].set_visible(False)


# --- the report of `evaluate` ----------------------------------------------------------------------------------------


def by_dataset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each set."""
    return {name: [row for row in rows if row.dataset == name] for name in dict.fromkeys(row.dataset for row in rows)}


def pairs_of(rows: Sequence[Row]) -> str:
    """`92 pairs`, or `90 of 92 pairs` where some could not be measured by any method."""
    count = max(rows, key=lambda row: row.n).count
    return f"{count} pair{'' if count == '1' else 's'}"


def best(rows: Sequence[Row], metric: str) -> list[str]:
    """Methods with the best mean, several where means are equal; of rows over fewer images than another one, none."""
    most = max((row.metrics[metric].n for row in rows), default=0)
    means = {row.method: row.metrics[metric].mean for row in rows if row.metrics[metric].n == most > 0}
    top = (max if find_metric(metric).direction == "up" else min)(means.values(), default=math.nan)
    return [method for method, mean in means.items() if math.isclose(mean, top, rel_tol=1e-12)]


def mean_text(row: Row, metric: str) -> str:
    """A mean, with its number of images where that is not the row's."""
    found = row.metrics[metric]
    return format_value(metric, found.mean) + (f" ({found.n} of {row.n})" if 0 < found.n < row.n else "")


def by_convention(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that may be compared: those of clamped images, and those of stretched ones if there are any."""
    stretched = [row if row.was_stretched else row.as_stretched for row in rows if row.was_stretched or row.minmax]
    groups = {"clamped": [row for row in rows if not row.was_stretched], "stretched": stretched}
    return {convention: own for convention, own in groups.items() if own}


def means_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Means with their intervals as Markdown."""
    winners = {metric: best(rows, metric) for metric in metrics}
    lines = []
    for row in rows:
        lines.append([escape(row.method), row.count])
        for metric in metrics:
            found = row.metrics[metric]
            low, high = (format_value(metric, value) for value in (found.low, found.high))
            shown = mean_text(row, metric)
            shown = f"**{shown}**" if row.method in winners[metric] else shown
            lines[-1].append(f"{shown} [{low}, {high}]" if found.has_ends else shown)
    return markdown_table(["method", "n", *map(heading, metrics)], lines)


def markdown(result: "Evaluation") -> str:
    """The whole report: means, values per source and warnings of each set; failures; how it was measured."""
    parts = ["# Evaluation"]
    groups = by_dataset(result.rows)
    parts += [f"## {name}, 0 of {size} pairs" for name, size in result.sizes.items() if name not in groups]
    for dataset, rows in groups.items():
        apart = rows[0].distances["sources"]
        warned = [f"**{escape(row.method)}** {escape(text)}" for row in rows for text in row.warnings]
        guards = []
        for row in rows:
            distances = (f"{row.distances[band]:.1f}" for band in BANDS)
            per_source = (format_value(metric, row.metrics[metric].mean) for metric in GUARD_METRICS)
            guards.append([escape(row.method), *distances, *per_source])
        parts += [
            f"## {dataset}, {pairs_of(rows)}",
            "Mean over the set, 95 % bootstrap interval over images; best mean in bold.",
            *(
                part
                for convention, own in by_convention(rows).items()
                for part in (f"### {TITLES[convention]}", means_table(own, result.metrics))
            ),
            "### Per source",
            f"Per source; distances are mean absolute differences in gray levels, the sources are {apart:.1f} apart.",
            markdown_table(["method", *(f"distance to {band}" for band in BANDS), *GUARD_METRICS], guards),
            f"Warnings:\n\n{bullets(warned)}" if warned else "No warnings.",
        ]
    if result.failures:
        named = [
            f"{escape(f.dataset)}, {escape(f.pair)}{f' ({escape(f.method)})' if f.method else ''}: {escape(f.reason)}"
            for f in result.failures
        ]
        parts.append(f"## Not measured\n\n{bullets(named)}")
    parts.append(f"## How it was measured\n\n{bullets(result.notes)}")
    return "\n\n".join(parts) + "\n"


def latex(result: "Evaluation") -> str:
    """One booktabs table for each set, ready to be included in a paper."""
    tables = []
    arrows = {"up": r"$\uparrow$", "down": r"$\downarrow$"}
    heads = [f"{escape_latex(metric)} {arrows[find_metric(metric).direction]}" for metric in result.metrics]
    for dataset, convention, rows in (
        (dataset, convention, rows)
        for dataset, together in by_dataset(result.rows).items()
        for convention, rows in by_convention(together).items()
    ):
        lines = []
        for row in rows:
            cells = {metric: mean_text(row, metric) for metric in result.metrics}
            bold = (rf"\textbf{{{c}}}" if row.method in best(rows, metric) else c for metric, c in cells.items())
            lines.append([escape_latex(row.method), *bold])
        most = max(row.n for row in rows)
        fewer = "; ".join(f"{row.method} over {row.count}" for row in rows if row.n < most)
        caption = f"{dataset}, means over {pairs_of(rows)}. {TITLES[convention]}." + (f" {fewer}." if fewer else "")
        tables.append(latex_table(["Method", *heads], lines, escape_latex(caption)))
    return "\n".join(tables)


def per_image_csv(row: Row, expected: Sequence[str] = ()) -> str:
    """One line for each image; undefined values are empty, as are all of a pair that could not be measured."""
    columns: list[Sequence[Any]] = [row.names, *row.values.values()]
    lines = [*zip(*columns, strict=True), *([name] for name in expected if name not in set(row.names))]
    return csv_table(["name", *row.values], lines)


def draw_means(result: "Evaluation") -> "Figure":
    """Mean and interval of every method: one panel for each metric, one line of panels for each set."""
    lines = []
    for dataset, rows in by_dataset(result.rows).items():
        styles = ["baseline" if row.kind == "baseline" else "method" for row in rows]
        panels = [
            Panel(heading(m), [Dot(row.method, style, row.metrics[m]) for row, style in zip(rows, styles, strict=True)])
            for m in result.metrics
        ]
        lines.append((f"{dataset}\n{pairs_of(rows)}", panels))
    return draw_intervals(lines)


def image_path(images: Path, method: str, pair: str, dataset: str) -> Path:
    """Where the fused picture of a pair is kept."""
    return images / slug(dataset) / slug(method) / f"{pair}.png"


def _shown(source: ImageSource, role: Role) -> Image.Image:
    """A picture as it is, or of one that is deeper the luminance that is fused."""
    picture = load_picture(source, role)
    if isinstance(picture, Image.Image) and picture.mode in ("L", "RGB"):
        return picture
    return Image.fromarray(quantize(read_luminance(source, role)))


def draw_examples(rows: Sequence[Row], datasets: Sequence[EvaluationSet], images: Path) -> "Figure":
    """A contact sheet: a few pairs of every set, sources and all methods side by side, from the saved pictures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    lines: list[tuple[str, list[tuple[str, Any]]]] = []
    for dataset in datasets:
        own = [row for row in rows if row.dataset == dataset.name]
        pairs = [pair for pair in dataset.pairs if any(pair.name in row.names for row in own)]  # others may be damaged
        for pair in pairs[:: max(1, len(pairs) // EXAMPLES)][:EXAMPLES]:
            pictures: list[tuple[str, Any]] = [(band, _shown(source, band)) for band, source in pair.bands()]
            for row in own:
                path = image_path(images, row.method, pair.name, dataset.name)
                pictures.append((row.method, to_image(read_picture(path)) if path.exists() else None))
            lines.append((f"{dataset.name}\n{pair.name}", pictures))
    width = max(len(pictures) for _, pictures in lines)
    figure = Figure(figsize=(1.9 * width + 0.5, 1.55 * len(lines) + 0.3), layout="constrained")
    for axes, (label, pictures) in zip(figure.subplots(len(lines), width, squeeze=False), lines, strict=True):
        for axis in axes:
            axis.axis("off")
        for axis, (title, picture) in zip(axes, pictures, strict=False):
            axis.set_title(title, fontsize=7)
            if picture is not None:
                picture = picture if picture.mode in ("L", "RGB") else Image.fromarray(luminance(picture))
                size = THUMBNAIL, max(1, round(picture.height * THUMBNAIL / picture.width))
                axis.imshow(np.asarray(picture.resize(size)), cmap="gray", vmin=0, vmax=255)
        axes[0].text(-0.08, 0.5, label, transform=axes[0].transAxes, rotation=90, va="center", ha="right", fontsize=7)
    return figure
