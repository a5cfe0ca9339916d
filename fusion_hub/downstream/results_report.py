"""The table of `results` as sentences, Markdown, CSV and a figure. All numbers are shown in percent."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_hub.downstream.results import Part, Results, Row, table_order
from fusion_hub.evaluation.report import (
    Dot,
    Panel,
    bullets,
    csv_table,
    draw_intervals,
    escape,
    markdown_table,
    write_figure,
    write_text,
)
from fusion_hub.evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_VALUE = "n/a"
TASK_TITLES = {"segmentation": "Segmentation", "detection": "Detection", "zero-shot": "Zero-shot detection"}
METRIC_TITLES = {"mIoU_foreground": "mIoU without background", "mAP": "mAP50:95", "AP": "AP50:95"}
STYLES = {"source": "source", "rule": "baseline", "method": "method"}
HOW_TO_READ = (
    "All numbers are percent; higher is better. Each is the mean over the training runs of an input; the best of a "
    "column is bold. mIoU is computed from one confusion matrix over all pictures. AP and recall are those of COCO: "
    "recall counts detections of any score at IoU 0.5; @0.3 counts those with a score of at least 0.3.",
    "Intervals of single numbers are 95 % percentiles of a bootstrap. Over pictures and seeds: pictures are resampled, "
    "and with them the runs of the input. Two or three runs say little about the scatter of runs, so the interval is "
    "somewhat too narrow. Over pictures: there is one run, or nothing was trained; another training could move the "
    "number further.",
    "Differences are on the same pictures, so their intervals are narrower than those of both numbers suggest. The "
    "second interval, over seeds, is Student's t with the scatter of runs pooled over all inputs. The verdict is "
    "higher or lower only where both exclude 0. Everything else is open, which does not mean equal.",
    "Each interval is 95 % on its own, without a correction for their number: of twenty differences that are zero, "
    "about one looks different from zero. The better single picture and the best rule are chosen by the same numbers, "
    "which favors them slightly.",
)
LEGEND = (
    "Percent. Dot or square: mean. Dashed: the better single picture.\n{}\nSquare: a single picture. Gray dot: a rule "
    "without a network. Dark dot: a fusion network.\nAll inputs share their pictures: compare them by the differences "
    "in the report, not by overlap."
)


def title(name: str) -> str:
    """A number or a family of numbers for people: `mAP` becomes `mAP50:95`."""
    return METRIC_TITLES.get(name, name)


def percent(value: float | None, *, signed: bool = False) -> str:
    """One decimal; `n/a` for undefined values, which are not 0."""
    if value is None:
        return NO_VALUE
    text = f"{100 * value:{'+' if signed else ''}.1f}"
    return "0.0" if float(text) == 0 else text


def ends(found: Interval | None, *, signed: bool = False) -> str:
    """`41.2..45.0`; empty without an interval."""
    if found is None or not found.has_ends:
        return ""
    return f"{percent(found.low, signed=signed)}..{percent(found.high, signed=signed)}"


def part_title(part: Part) -> str:
    """Such as `Detection, 92 pictures` or `Segmentation, 46 pictures of the night`."""
    detector = f" by {detector_name(part)}" if part.detector else ""
    group = "" if part.group == "all" else f" of the {part.group}"
    return f"{TASK_TITLES[part.task]}{detector}, {part.pictures} pictures{group}"


def detector_name(part: Part) -> str:
    """File and the start of its hash, of `yolox_nano.onnx sha256:0123...`."""
    name, found, digest = part.detector.partition(" sha256:")
    return f"{name} ({digest[:8]})" if found else name


def row_of(part: Part, name: str) -> Row | None:
    """The row of an input, if the part has it."""
    return next((row for row in part.rows if row.input == name), None)


def seeds_of(row: Row) -> str:
    """How many training runs a row is the mean of."""
    return str(len(row.seeds)) if row.seeds else "none"


def cell(part: Part, row: Row | None, metric: str, bold: str, interval: str) -> str:
    """A number: in `bold` if it is the highest as shown, which several rows may share, and with its `interval`."""
    if row is None or metric not in row.numbers:
        return NO_VALUE
    shown = {one.input: percent(one.numbers[metric].mean) for one in part.rows if metric in one.numbers}
    best = float(shown[row.input]) == max(map(float, shown.values()))
    text = bold.format(shown[row.input]) if best else shown[row.input]
    return interval.format(text, ends(row.numbers[metric])) if row.numbers[metric].has_ends else text


Cell = Callable[[Part, Row | None, str], str]
Table = tuple[list[str], list[list[str]]]
"""Heads and lines."""


def overview(results: Results, cell: Cell) -> Table:
    """The table over all tasks: the headline numbers of every part over all pictures."""
    columns = [(part, metric) for part in results.parts if part.group == "all" for metric in part.headline]
    inputs = sorted({(row.input, row.kind) for part in results.parts for row in part.rows}, key=table_order)
    heads = [title(metric) + " (zero-shot)" * (part.task == "zero-shot") for part, metric in columns]
    lines = [[name, *(cell(part, row_of(part, name), metric) for part, metric in columns)] for name, _ in inputs]
    return ["input", *heads], lines


def class_table(part: Part, cell: Cell) -> Table:
    """The numbers of each class: with one family a column for each class, else a line for each class and input."""
    if len(part.families) == 1:
        names = [f"{part.families[0]}/{name}" for name in part.classes]
        return ["input", *part.classes], [[row.input, *(cell(part, row, one) for one in names)] for row in part.rows]
    return ["class", "input", *map(title, part.families)], [
        [name, row.input, *(cell(part, row, f"{family}/{name}") for family in part.families)]
        for name in part.classes
        for row in part.rows
    ]


def common_start(part: Part) -> str:
    """Weights that all runs began with, which the seeds do not cover; empty for none."""
    weights = part.settings.get("initial_weights")
    covered = "seeds cover only the training after that, and so do steps and minutes."
    return f"All runs start from the same weights, {weights}: {covered}" if weights else ""


def conclusions(part: Part) -> list[str]:
    """A sentence for each headline number and reference, no stronger than the intervals."""
    sentences = []
    for (metric, reference, role), found in groupby(part.differences, attrgetter("metric", "reference", "role")):
        named: dict[str, list[str]] = {"higher": [], "lower": [], "open": []}
        single = False
        for one in found:
            both, seeds = (ends(interval, signed=True) for interval in (one.over_both, one.over_seeds))
            known = ", ".join(filter(None, [both, f"seeds {seeds}" if seeds else ""]))
            text = f"{one.input} {percent(one.over_both.mean, signed=True)}" + (f" [{known}]" if known else "")
            named[one.verdict].append(text)
            single |= one.these_networks_only and one.verdict != "open"
        text = "; ".join(f"{verdict}: {', '.join(texts)}" for verdict, texts in named.items() if texts)
        sentence = f"{title(metric)} against {reference}{f' ({role})' if role else ''}: {text}."
        if single:
            sentence += (
                " One run of each input: it holds for these networks; another training may order them differently."
            )
        sentences.append(sentence)
    return sentences


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """The whole report."""
    covered = "; ".join(
        f"{TASK_TITLES[part.task].lower()}: {_intervals_over(part)}" for part in results.parts if part.group == "all"
    )
    blocks = ["# Does fusion help detection and segmentation?", bullets(HOW_TO_READ)]
    blocks += ["## All tasks", f"Intervals: {covered}.", _table(*overview(results, _cell))]
    for part in results.parts:
        over_all = [name for name in part.metrics if "/" not in name]
        lines = [[row.input, seeds_of(row), *(_cell(part, row, name) for name in over_all)] for row in part.rows]
        blocks += [f"## {escape(part_title(part))}", f"Intervals: {_intervals_over(part)}."]
        blocks.append(_table(["input", "seeds", *map(title, over_all)], lines))
        if len(part.families) == 1:
            blocks.append(f"{title(part.families[0])} of each class:")
        blocks.append(_table(*class_table(part, _cell)))
        if part.differences:
            blocks += [bullets(map(escape, conclusions(part))), _difference_table(part)]
        else:
            blocks.append("Nothing can be compared: there is no row of visible, infrared or a rule beside others.")
        if part.group == "all" and any(row.cost for row in part.rows):
            blocks += filter(None, [escape(common_start(part)), _cost_table(part)])
    if results.published:
        metrics = list(dict.fromkeys(name for row in results.published for name in row.values))
        lines = []
        for row in results.published:
            values = (percent(row.values.get(name)) for name in metrics)
            lines.append([escape(row.method), *values, escape(row.source), escape(row.note)])
        table = markdown_table(["method", *map(title, metrics), "source", "note"], lines)
        blocks += ["## As the papers print it, not comparable", table]
    if results.notes:
        blocks += ["## Notes", bullets(map(escape, results.notes))]
    return "\n\n".join(blocks) + "\n"


_cell = partial(cell, bold="**{}**", interval="{}<br><sub>{}</sub>")


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose columns up to `input` are names from files; its other cells are Markdown."""
    names = list(heads).index("input") + 1
    escaped = [[*map(escape, line[:names]), *line[names:]] for line in lines]
    return markdown_table([escape(head) for head in heads], escaped)


def _intervals_over(part: Part) -> str:
    single = [row.input for row in part.rows if len(row.seeds) == 1]
    if not any(row.seeds for row in part.rows):
        return "over pictures; nothing was trained"
    if all(_covers(row) == "pictures" for row in part.rows):
        return "over pictures"
    rest = f", but for {', '.join(map(escape, single))} over pictures (one run)" if single else ""
    return f"over pictures and seeds{rest}"


def _covers(row: Row) -> str:
    return "pictures and seeds" if len(row.seeds) > 1 else "pictures"


def _difference_table(part: Part) -> str:
    over = "pictures and seeds" if any(row.seeds for row in part.rows) else "pictures"
    lines = []
    for one in part.differences:
        seeds = ends(one.over_seeds, signed=True) or ("one run each" if one.over_seeds else "not trained")
        both = [percent(one.over_both.mean, signed=True), ends(one.over_both, signed=True) or NO_VALUE]
        lines.append([title(one.metric), escape(one.input), escape(one.reference), *both, seeds, one.verdict])
    heads = ["number", "input", "minus", "difference", f"95 % over {over}", "95 % over seeds", "verdict"]
    return markdown_table(heads, lines)


def _cost_table(part: Part) -> str:
    lines = []
    for row in part.rows:
        cost = [NO_VALUE] * 3
        if row.cost is not None:
            cost = [str(row.cost.steps), f"{row.cost.seconds / 60:.1f}", escape(row.cost.hardware)]
        lines.append([escape(row.input), ", ".join(map(str, row.seeds)), *cost])
    return markdown_table(["input", "seeds", "steps", "minutes of one run", "hardware"], lines)


# --- files -----------------------------------------------------------------------------------------------------------


def numbers_csv(results: Results) -> str:
    """One line for each number; every digit, fractions of 1, undefined ones empty."""
    lines = []
    for part in results.parts:
        for row in part.rows:
            cost = (row.cost.steps, row.cost.seconds, row.cost.hardware) if row.cost else (None,) * 3
            for metric in part.metrics:
                found = row.numbers.get(metric)
                interval = (found.mean, found.low, found.high) if found else (None,) * 3
                by_seed = " ".join(NO_VALUE if value is None else repr(value) for value in row.by_seed.get(metric, ()))
                runs = (_covers(row), " ".join(map(str, row.seeds)), by_seed)
                names = (part.task, part.detector, part.group, part.pictures, row.input, metric)
                lines.append([*names, *interval, *runs, *cost])
    heads = ["task", "detector", "group", "pictures", "input", "metric", "value", "low", "high", "interval_over"]
    return csv_table([*heads, "seeds", "by_seed", "steps", "seconds", "hardware"], lines)


def differences_csv(results: Results) -> str:
    """One line for each difference; every digit, fractions of 1."""
    lines = []
    for part in results.parts:
        for one in part.differences:
            both, seeds = one.over_both, one.over_seeds or Interval(0.0)
            names = (part.task, part.detector, part.group, one.metric, one.input, one.reference, one.role)
            lines.append([*names, both.mean, both.low, both.high, seeds.low, seeds.high, one.verdict])
    heads = ["task", "detector", "group", "metric", "input", "reference", "reference_is", "difference", "low", "high"]
    return csv_table([*heads, "over_seeds_low", "over_seeds_high", "verdict"], lines)


def draw(results: Results) -> "Figure":
    """One line of panels for each part, one panel for each of its headline numbers, one dot for each input.

    Raises:
        ImportError: matplotlib is not installed.
    """
    lines = []
    for part in results.parts:
        panels = []
        for metric in part.headline:
            dots = []
            for row in part.rows:
                found = row.numbers.get(metric)
                interval = Interval(100 * found.mean, 100 * found.low, 100 * found.high) if found else None
                runs = [100 * value for value in row.by_seed.get(metric, ()) if value is not None]
                dots.append(Dot(row.input, STYLES[row.kind], interval, runs))
            sources = [dot.interval.mean for dot in dots if dot.style == "source" and dot.interval]
            panels.append(Panel(title(metric), dots, max(sources, default=None)))
        detector = f"\n{detector_name(part)}" if part.detector else ""
        group = "" if part.group == "all" else f", {part.group}"
        lines.append((f"{TASK_TITLES[part.task]}{detector}\n{part.pictures} pictures{group}", panels))
    bars = "Bar: 95 % over pictures."
    if any(len(row.seeds) > 1 for part in results.parts for row in part.rows):
        bars = "Bar: 95 % over pictures and seeds; without ticks over pictures only. Ticks: single runs."
    return draw_intervals(lines, LEGEND.format(bars))


def write(results: Results, folder: Path) -> list[Path]:
    """Write `summary.json`, `report.md`, `numbers.csv`, `differences.csv`, `figure.png` and `figure.svg`.

    Returns:
        The files. The figure needs matplotlib (`pip install "fusion-hub[evaluate]"`) and is left out without it.
    """
    texts = {
        "summary.json": results.to_json(),
        "report.md": markdown(results),
        "numbers.csv": numbers_csv(results),
        "differences.csv": differences_csv(results),
    }
    files = [write_text(folder / name, text) for name, text in texts.items()]
    try:
        figure = draw(results)
    except ImportError:
        return files
    return [*files, *(write_figure(figure, folder / f"figure.{kind}") for kind in ("png", "svg"))]
