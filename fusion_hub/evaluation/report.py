"""An evaluation as people read it: Markdown, LaTeX, CSV, and a figure."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fusion_hub.evaluation.measuring import GUARD_METRICS, EvaluationSet, Failure, image_path
from fusion_hub.evaluation.methods import as_image, luminance
from fusion_hub.evaluation.summary import Row
from fusion_hub.image.io import read_picture, to_image
from fusion_hub.metrics import find_metric

NO_VALUE = "n/a"
EXAMPLES = 4  # pairs on the contact sheet
THUMBNAIL = 240  # pixels, width


def number(metric: str, value: float | None) -> str:
    """Two decimals for metrics on a wide scale, three for those around 1; `n/a` where it is undefined."""
    if value is None or math.isnan(value):
        return NO_VALUE
    return f"{value:.2f}" if find_metric(metric).range[1] > 2 else f"{value:.3f}"


def heading(metric: str) -> str:
    """Name and direction."""
    return f"{metric} {'↑' if find_metric(metric).direction == 'up' else '↓'}"


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(
    rows: Sequence[Row],
    metrics: Sequence[str],
    notes: Sequence[str],
    failures: Sequence[Failure] = (),
    sizes: Mapping[str, int] | None = None,
) -> str:
    """The whole report: for each set the table, guard rails, warnings; what could not be measured; how it was done."""
    parts = ["# Evaluation"]
    groups = dict(by_dataset(rows))
    for dataset in sizes or groups:
        if dataset not in groups:
            parts.append(f"## {dataset}, 0 of {(sizes or {}).get(dataset, 0)} pairs")
    for dataset, group in groups.items():
        parts += [f"## {dataset}, {pairs_of(group)}", _metric_table(group, metrics), _guard_table(group)]
        warned = [f"- **{_escape(row.method)}** {_escape(text)}" for row in group for text in row.warnings]
        parts.append("\n".join(["Warnings:", "", *warned]) if warned else "No warnings.")
    if failures:
        named = [
            f"- {_escape(f.dataset)}, {_escape(f.pair)}{f' ({f.method})' if f.method else ''}: {_escape(f.reason)}"
            for f in failures
        ]
        parts.append("\n".join(["## Not measured", "", *named]))
    parts.append("\n".join(["## How it was measured", "", *(f"- {note}" for note in notes)]))
    return "\n\n".join(parts) + "\n"


def pairs_of(rows: Sequence[Row]) -> str:
    """`92 pairs`, or `90 of 92 pairs` where some could not be measured by any method."""
    most = max(rows, key=lambda row: row.n)
    return f"{most.count} pairs"


def by_dataset(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    names = list(dict.fromkeys(row.dataset for row in rows))
    return [(name, [row for row in rows if row.dataset == name]) for name in names]


def best(rows: Sequence[Row], metric: str) -> Row | None:
    """The row with the best mean; None if it is defined for none."""
    defined = [row for row in rows if not math.isnan(row.metrics[metric].mean)]
    sign = 1 if find_metric(metric).direction == "up" else -1
    return max(defined, key=lambda row: sign * row.metrics[metric].mean, default=None)


def _metric_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    winners = {metric: best(rows, metric) for metric in metrics}
    lines = [_line(["method", "n", *map(heading, metrics)]), _line(["---"] * (len(metrics) + 2))]
    for row in rows:
        cells = []
        for metric in metrics:
            found = row.metrics[metric]
            mean = number(metric, found.mean)
            shown = f"**{mean}**" if winners[metric] is row else mean
            interval = "" if mean == NO_VALUE else f" [{number(metric, found.low)}, {number(metric, found.high)}]"
            cells.append(shown + interval)
        lines.append(_line([_escape(row.method), row.count, *cells]))
    return "\n".join(["Mean over the set, 95 % bootstrap interval over images; best mean in bold.", "", *lines])


def _guard_table(rows: Sequence[Row]) -> str:
    columns = ["distance to visible", "distance to infrared", *GUARD_METRICS]
    lines = [_line(["method", *columns]), _line(["---"] * (len(columns) + 1))]
    for row in rows:
        distances = [f"{row.distances[band]:.1f}" for band in ("visible", "infrared")]
        cells = [number(metric, row.metrics[metric].mean) for metric in GUARD_METRICS]
        lines.append(_line([_escape(row.method), *distances, *cells]))
    apart = rows[0].distances["sources"]
    intro = f"Per source; distances are mean absolute differences in grey levels, the sources are {apart:.1f} apart."
    return "\n".join([intro, "", *lines])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


# --- LaTeX -----------------------------------------------------------------------------------------------------------


def latex(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """One booktabs table for each set, ready to be included in a paper."""
    return "\n".join(_latex_table(dataset, group, metrics) for dataset, group in by_dataset(rows))


def _latex_table(dataset: str, rows: Sequence[Row], metrics: Sequence[str]) -> str:
    winners = {metric: best(rows, metric) for metric in metrics}
    arrows = {"up": r"$\uparrow$", "down": r"$\downarrow$"}
    head = " & ".join(["Method", *(f"{_tex(m)} {arrows[find_metric(m).direction]}" for m in metrics)])
    body = []
    for row in rows:
        cells = [number(metric, row.metrics[metric].mean) for metric in metrics]
        shown = [rf"\textbf{{{c}}}" if winners[m] is row else c for m, c in zip(metrics, cells, strict=True)]
        body.append(" & ".join([_tex(row.method), *shown]) + r" \\")
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(dataset)}, means over {pairs_of(rows)}.{_tex(_exceptions(rows))}}}",
            rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _exceptions(rows: Sequence[Row]) -> str:
    """Which rows are over fewer pairs than the table says."""
    most = max(row.n for row in rows)
    fewer = [f"{row.method} over {row.count}" for row in rows if row.n < most]
    return f" {'; '.join(fewer)}." if fewer else ""


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


# --- CSV -------------------------------------------------------------------------------------------------------------


def per_image_csv(row: Row, expected: Sequence[str] = ()) -> str:
    """One line for each image; undefined values are empty, as are all of a pair that could not be measured."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = list(row.values)
    writer.writerow(["name", *names])
    for index, image in enumerate(row.names):
        # Every digit: the file is for other programs.
        writer.writerow([image, *("" if (v := row.values[name][index]) is None else repr(v) for name in names)])
    writer.writerows([name, *("" for _ in names)] for name in expected if name not in set(row.names))
    return stream.getvalue()


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_intervals(rows: Sequence[Row], metrics: Sequence[str], file: Path) -> None:
    """Mean and interval of every method: one panel for each metric, one line of panels for each set.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    groups = by_dataset(rows)
    tallest = max(len(group) for _, group in groups)
    width = 1.6 + 1.35 * len(metrics)
    figure = Figure(figsize=(width, (0.9 + 0.3 * tallest) * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), len(metrics), squeeze=False)
    for line, (dataset, group) in zip(panels, groups, strict=True):
        for panel, metric in zip(line, metrics, strict=True):
            for place, row in enumerate(group):
                found = row.metrics[metric]
                colour = "#888888" if row.kind == "baseline" else "#0b6e99"
                panel.plot([found.low, found.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
                panel.plot([found.mean], [place], "o", color=colour, markersize=5)
            panel.set_title(heading(metric), fontsize=9)
            panel.set_yticks(range(len(group)), [row.method for row in group] if panel is line[0] else [])
            panel.set_ylim(len(group) - 0.5, -0.5)
            panel.tick_params(labelsize=8)
            panel.grid(axis="x", alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{dataset}\n{pairs_of(group)}", fontsize=9)
    figure.savefig(file, format="png", dpi=160)


def draw_examples(rows: Sequence[Row], datasets: Sequence[EvaluationSet], images: Path, file: Path) -> None:
    """A contact sheet: a few pairs of every set, sources and every method side by side, from the saved pictures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    # A label, and title and picture of each column.
    shown: list[tuple[str, list[tuple[str, Image.Image | None]]]] = []
    for dataset in datasets:
        methods = [row for row in rows if row.dataset == dataset.name]
        step = max(1, len(dataset.pairs) // EXAMPLES)
        for pair in dataset.pairs[::step][:EXAMPLES]:
            columns: list[tuple[str, Image.Image | None]] = [
                ("visible", as_image(pair.visible)),
                ("infrared", as_image(pair.infrared)),
            ]
            for row in methods:
                path = image_path(images, row.method, pair.name, dataset.name)
                columns.append((row.method, _open(path) if path.exists() else None))
            shown.append((f"{dataset.name}\n{pair.name}", columns))
    width = max(len(columns) for _, columns in shown)
    figure = Figure(figsize=(1.9 * width + 0.5, 1.55 * len(shown) + 0.3), layout="constrained")
    panels = figure.subplots(len(shown), width, squeeze=False)
    for line, (label, columns) in zip(panels, shown, strict=True):
        for panel in line:
            panel.axis("off")
        for panel, (title, picture) in zip(line, columns, strict=False):
            if picture is not None:
                panel.imshow(_thumbnail(picture), cmap="gray", vmin=0, vmax=255)
            panel.set_title(title, fontsize=7)
        line[0].text(-0.08, 0.5, label, transform=line[0].transAxes, rotation=90, va="center", ha="right", fontsize=7)
    figure.savefig(file, format="png", dpi=160)


def _open(path: Path) -> Image.Image:
    return to_image(read_picture(path))


def _thumbnail(picture: Image.Image) -> np.ndarray:
    if picture.mode not in ("L", "RGB"):
        picture = Image.fromarray(luminance(picture))
    picture = picture.resize((THUMBNAIL, max(1, round(picture.height * THUMBNAIL / picture.width))))
    return np.asarray(picture)
