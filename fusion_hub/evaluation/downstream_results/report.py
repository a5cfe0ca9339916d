"""The table as people and programs read it: words, Markdown, CSV. All numbers are shown in percent."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from fusion_hub.evaluation.downstream_results.measures import title
from fusion_hub.evaluation.downstream_results.published import Published
from fusion_hub.evaluation.downstream_results.runs import order
from fusion_hub.evaluation.downstream_results.table import Difference, Number, Part, Results, Row

NO_VALUE = "n/a"
TASK_TITLES = {"segmentation": "Segmentation", "detection": "Detection", "zero-shot": "Zero-shot detection"}
HOW_TO_READ = (
    "All numbers are percent; higher is better. Each is the mean over the training runs of an input; the best of a "
    "column is bold. mIoU is of one confusion matrix over all pictures. AP and recall are COCO's: recall is what "
    "detections of any score reach in all at IoU 0.5; @0.3 counts those that score 0.3 or more.",
    "Intervals of single numbers are 95 % percentiles of a bootstrap. Over pictures and seeds: pictures are drawn "
    "again, and with them the runs of the input. Two or three runs know little of how runs scatter, so it is rather "
    "too narrow. Over pictures: there is one run, or nothing was trained; another training could move the number "
    "further.",
    "Differences are on the same pictures, so their intervals are narrower than those of both numbers suggest. The "
    "second interval, over seeds, is Student's t with the scatter of runs pooled over all inputs. Higher or lower is "
    "said only where both leave out 0. Everything else is open, which is not the same as equal.",
    "Each interval is 95 % by itself and not corrected for their number: of twenty differences that are none, about "
    "one looks like one. The better single picture and the best rule are chosen by the same numbers, which favours "
    "them slightly.",
)


def percent(value: float | None, *, signed: bool = False) -> str:
    """One decimal; `n/a` for what is undefined, which is not 0."""
    if value is None:
        return NO_VALUE
    text = f"{100 * value:{'+' if signed else ''}.1f}"
    return text.replace("-0.0", "0.0").replace("+0.0", "0.0") if float(text) == 0 else text


def interval(number: Number | None, *, signed: bool = False) -> str:
    """`41.2..45.0`; empty where nothing can be said."""
    if number is None or number.low is None:
        return ""
    return f"{percent(number.low, signed=signed)}..{percent(number.high, signed=signed)}"


def part_title(part: Part) -> str:
    """Such as `Detection, 92 pictures` or `Segmentation, 46 pictures of the night`."""
    detector = f" by {detector_name(part)}" if part.detector else ""
    group = "" if part.group == "all" else f" of the {part.group}"
    return f"{TASK_TITLES[part.task]}{detector}, {part.pictures} pictures{group}"


def detector_name(part: Part) -> str:
    """File and the start of its hash, of `yolox_nano.onnx sha256:0123...`."""
    name, found, digest = part.detector.partition(" sha256:")
    return f"{name} ({digest[:8]})" if found else name


def covers(row: Row) -> str:
    """What the interval of a row is over."""
    return "pictures and seeds" if len(row.seeds) > 1 else "pictures"


def best_rows(part: Part, metric: str) -> list[str]:
    """Inputs with the highest value, as it is shown: several where they are equal to the shown digit."""
    shown = {row.input: percent(row.numbers[metric].value) for row in part.rows if metric in row.numbers}
    top = max(shown.values(), key=float, default="")
    return [name for name, text in shown.items() if text == top]


@dataclass(frozen=True)
class ClassTable:
    """The numbers of classes: with one family a column for each class, with several a line for each class and input.

    Attributes:
        heads: of the columns after those that name the line.
        lines: class (empty where the columns are the classes), row, and the names of its numbers.
    """

    heads: list[str]
    lines: list[tuple[str, Row, list[str]]]


def class_table(part: Part) -> ClassTable:
    """The numbers of each class, as tables show them."""
    if len(part.families) == 1:
        names = [f"{part.families[0]}/{name}" for name in part.classes]
        return ClassTable(list(part.classes), [("", row, names) for row in part.rows])
    lines = [
        (name, row, [f"{family}/{name}" for family in part.families]) for name in part.classes for row in part.rows
    ]
    return ClassTable([title(family) for family in part.families], lines)


def overview(results: Results) -> Iterator[tuple[Part, str]]:
    """The columns of the table over all tasks: the headline numbers of every part over all pictures."""
    for part in results.parts:
        if part.group == "all":
            yield from ((part, metric) for metric in part.headline)


def overview_inputs(results: Results) -> list[str]:
    """Rows of the table over all tasks, each once, in the order of the tables."""
    inputs = {(row.input, row.kind) for part in results.parts for row in part.rows}
    return [name for name, _ in sorted(inputs, key=lambda pair: order(*pair))]


def row_of(part: Part, name: str) -> Row | None:
    """The row of an input, if the part has it."""
    return next((row for row in part.rows if row.input == name), None)


def common_start(part: Part) -> str:
    """What the seeds do not cover: weights that all runs began with; empty for none."""
    weights = part.settings.get("initial_weights")
    if not weights:
        return ""
    return (
        f"All runs go on from one start, {weights}: seeds cover the training after it, not the start, and steps and "
        "minutes are without it."
    )


# --- what can be said ------------------------------------------------------------------------------------------------


def conclusions(part: Part) -> list[str]:
    """A sentence for each headline number and reference, no stronger than the intervals."""
    sentences = []
    for (metric, reference), found in groupby(part.differences, key=lambda one: (one.metric, one.reference)):
        group = list(found)
        role = f" ({group[0].role})" if group[0].role else ""
        by_verdict = {
            verdict: ", ".join(_said(one) for one in group if one.verdict == verdict)
            for verdict in ("higher", "lower", "open")
        }
        said = "; ".join(f"{verdict}: {names}" for verdict, names in by_verdict.items() if names)
        sentence = f"{title(metric)} against {reference}{role}: {said}."
        if any(one.these_networks_only and one.verdict != "open" for one in group):
            sentence += (
                " One run of each input: it holds for these networks; another training may order them otherwise."
            )
        sentences.append(sentence)
    return sentences


def _said(one: Difference) -> str:
    seeds = interval(one.over_seeds, signed=True)
    ends = ", ".join(filter(None, [interval(one.over_both, signed=True), f"seeds {seeds}" if seeds else ""]))
    return f"{one.input} {percent(one.over_both.value, signed=True)}" + (f" [{ends}]" if ends else "")


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """The whole report."""
    blocks = ["# What fusion buys", _bullets(HOW_TO_READ), "## All tasks", _overview_table(results)]
    for part in results.parts:
        blocks += [f"## {_escape(part_title(part))}", _part_table(part)]
        if part.differences:
            blocks += [_bullets(map(_escape, conclusions(part))), _difference_table(part)]
        else:
            blocks.append("Nothing can be compared: there is no row of visible, infrared or a rule beside others.")
        if part.group == "all" and any(row.cost for row in part.rows):
            blocks += filter(None, [_escape(common_start(part)), _cost_table(part)])
    if results.published:
        blocks += ["## As the papers print it, not comparable", _published_table(results.published)]
    if results.notes:
        blocks += ["## Notes", _bullets(map(_escape, results.notes))]
    return "\n\n".join(blocks) + "\n"


def _overview_table(results: Results) -> str:
    columns = list(overview(results))
    parts = [part for part in results.parts if part.group == "all"]
    heads = [f"{_escape(title(metric))}{' (zero-shot)' * (part.task == 'zero-shot')}" for part, metric in columns]
    lines = [_line(["input", *heads]), _line(["---"] * (len(columns) + 1))]
    for name in overview_inputs(results):
        lines.append(_line([_escape(name), *(_cell(part, row_of(part, name), metric) for part, metric in columns)]))
    seeds = "; ".join(f"{TASK_TITLES[part.task].lower()}: {_seeds_said(part)}" for part in parts)
    return "\n".join([f"Intervals: {seeds}.", "", *lines])


def _seeds_said(part: Part) -> str:
    if not any(row.seeds for row in part.rows):
        return "over pictures; nothing was trained"
    covered = {covers(row) for row in part.rows}
    if len(covered) == 1:
        return f"over {covered.pop()}"
    single = [row.input for row in part.rows if len(row.seeds) == 1]
    return f"over pictures and seeds, but of {', '.join(map(_escape, single))} over pictures (one run)"


def _part_table(part: Part) -> str:
    """Numbers over all classes, then those of each class."""
    overall = [name for name in part.metrics if "/" not in name]
    lines = [_line(["input", "seeds", *(_escape(title(name)) for name in overall)])]
    lines.append(_line(["---"] * (len(overall) + 2)))
    for row in part.rows:
        lines.append(_line([_escape(row.input), seeds_of(row), *(_cell(part, row, name) for name in overall)]))
    table = class_table(part)
    named = ["class"] * any(name for name, _, _ in table.lines)
    family = [] if named else [f"{title(part.families[0])} of each class:", ""]
    heads = [*named, "input", *map(_escape, table.heads)]
    by_class = [_line(heads), _line(["---"] * len(heads))]
    for name, row, metrics in table.lines:
        cells = [_cell(part, row, metric) for metric in metrics]
        by_class.append(_line([*([_escape(name)] * len(named)), _escape(row.input), *cells]))
    return "\n".join([f"Intervals: {_seeds_said(part)}.", "", *lines, "", *family, *by_class])


def seeds_of(row: Row) -> str:
    """How many training runs a row is the mean of."""
    return str(len(row.seeds)) if row.seeds else "none"


def _cell(part: Part, row: Row | None, metric: str) -> str:
    number = None if row is None else row.numbers.get(metric)
    if row is None or number is None:
        return NO_VALUE
    text = percent(number.value)
    text = f"**{text}**" if row.input in best_rows(part, metric) else text
    ends = interval(number)
    return f"{text}<br><sub>{ends}</sub>" if ends else text


def _difference_table(part: Part) -> str:
    heads = ["number", "input", "minus", "difference", "95 % over pictures and seeds", "95 % over seeds", "verdict"]
    if not any(row.seeds for row in part.rows):
        heads[4] = "95 % over pictures"
    lines = [_line(heads), _line(["---"] * len(heads))]
    for one in part.differences:
        seeds = interval(one.over_seeds, signed=True) or ("one run each" if one.over_seeds else "not trained")
        cells = [percent(one.over_both.value, signed=True), interval(one.over_both, signed=True) or NO_VALUE, seeds]
        lines.append(
            _line([_escape(title(one.metric)), _escape(one.input), _escape(one.reference), *cells, one.verdict])
        )
    return "\n".join(lines)


def _cost_table(part: Part) -> str:
    lines = [_line(["input", "seeds", "steps", "minutes of one run", "hardware"]), _line(["---"] * 5)]
    for row in part.rows:
        seeds = ", ".join(map(str, row.seeds))
        cost = (NO_VALUE,) * 3
        if row.cost is not None:
            cost = (str(row.cost.steps), f"{row.cost.seconds / 60:.1f}", _escape(row.cost.hardware))
        lines.append(_line([_escape(row.input), seeds, *cost]))
    return "\n".join(lines)


def _published_table(rows: Sequence[Published]) -> str:
    metrics = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [_line(["method", *map(title, metrics), "source", "note"]), _line(["---"] * (len(metrics) + 3))]
    for row in rows:
        values = [percent(row.values.get(name)) for name in metrics]
        lines.append(_line([_escape(row.method), *values, _escape(row.source), _escape(row.note)]))
    return "\n".join(lines)


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


# --- CSV -------------------------------------------------------------------------------------------------------------


def numbers_csv(results: Results) -> str:
    """One line for each number; every digit, fractions of 1, undefined ones empty."""
    head = ["task", "detector", "group", "pictures", "input", "metric", "value", "low", "high", "interval_over"]
    lines: list[Sequence[object]] = [[*head, "seeds", "by_seed", "steps", "seconds", "hardware"]]
    for part in results.parts:
        for row in part.rows:
            cost: Mapping[str, object] = {} if row.cost is None else vars(row.cost)
            for metric in part.metrics:
                number = row.numbers.get(metric)
                ends = ("", "", "") if number is None else (number.value, number.low, number.high)
                by_seed = " ".join("n/a" if v is None else repr(v) for v in row.by_seed.get(metric, ()))
                lines.append(
                    [
                        *(part.task, part.detector, part.group, part.pictures, row.input, metric, *ends, covers(row)),
                        *(" ".join(map(str, row.seeds)), by_seed),
                        *(cost.get(key, "") for key in ("steps", "seconds", "hardware")),
                    ]
                )
    return _csv(lines)


def differences_csv(results: Results) -> str:
    """One line for each difference; every digit, fractions of 1."""
    head = ["task", "detector", "group", "metric", "input", "reference", "reference_is", "difference", "low", "high"]
    lines: list[Sequence[object]] = [[*head, "over_seeds_low", "over_seeds_high", "verdict"]]
    for part in results.parts:
        for one in part.differences:
            both, seeds = one.over_both, one.over_seeds or Number(0.0)
            lines.append(
                [
                    *(part.task, part.detector, part.group, one.metric, one.input, one.reference, one.role),
                    *(both.value, both.low, both.high, seeds.low, seeds.high, one.verdict),
                ]
            )
    return _csv(lines)


def _csv(lines: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(
        ["" if value is None else repr(value) if isinstance(value, float) else value for value in line]
        for line in lines
    )
    return stream.getvalue()
