"""`fusion-hub downstream`: what fusion buys a detector and a segmenter, as a table and a figure."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fusion_hub.cli.common import WRONG_USE, CommandError, exit_codes, message_of

if TYPE_CHECKING:
    from rich.table import Table

    from fusion_hub.evaluation.downstream_results import Part, Results

EXAMPLES = """
Examples:

  fusion-hub downstream runs/segformer runs/detector --output results

  fusion-hub downstream runs/segformer --split-by day-night --output results

  fusion-hub downstream --detector yolox_nano.onnx --data data/msrs --split test -i visible -i average -o results
"""


def downstream(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Run folders of train/segformer.py and train/detector.py, JSON files of zero-shot results, or folders "
            "that hold any of them.",
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for summary.json, report.md, numbers.csv, differences.csv, figure.png and figure.svg.",
            show_default="print only",
        ),
    ] = None,
    split_by: Annotated[
        Literal["none", "day-night"],
        typer.Option(help="day-night: also the day and the night by themselves, by the last letter of MSRS names."),
    ] = "none",
    published: Annotated[bool, typer.Option(help="Quote what the papers print, marked as not comparable.")] = True,
    detector: Annotated[
        str | None,
        typer.Option(help="Also try this detector as it is: a YOLO file in ONNX, or a transformers detector."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="SET", help="Pairs with boxes/ for --detector.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data, for example test.")] = None,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            help="What --detector sees: visible, infrared, a rule, a bundled model, a pipeline folder, a Hub id, or "
            "a folder of fused images. May be given several times.",
        ),
    ] = ["visible", "infrared", "average", "maximum"],  # noqa: B006  # typer copies it
    classes: Annotated[
        list[str],
        typer.Option("--class", help="Classes of boxes that count for --detector. May be given several times."),
    ] = ["person", "car", "bicycle"],  # noqa: B006
    cache: Annotated[Path, typer.Option(help="Fused pictures are kept here.")] = Path("runs/inputs"),
) -> None:
    """Compare what networks find in visible, infrared and fused pictures: a table, and what its intervals allow to say.

    All runs of a task must be of one configuration and differ in their input and seed only. Numbers are means over the
    seeds with 95 % intervals over pictures and seeds; every input is compared with the single pictures, and fusion
    networks with the best rule, picture by picture.
    """
    with exit_codes("no table was written"), tempfile.TemporaryDirectory(prefix="fusion-hub-") as temporary:
        if output is not None and output.exists() and not output.is_dir():
            raise CommandError(f"--output {output} is a file: give a folder", WRONG_USE)
        if (detector is None) != (data is None):
            raise CommandError("--detector and --data belong together: give both or neither", WRONG_USE)
        if not runs and detector is None:
            raise CommandError("nothing to compare: give runs, or --detector and --data", WRONG_USE)
        places = list(runs or [])
        try:
            if detector is not None and data is not None:
                folder = (Path(temporary) if output is None else output) / "zero_shot"
                places += _try_detector(detector, data, split, inputs, classes, cache, folder)
            _tell(places, output, published, by_day_and_night=split_by == "day-night")
        except (OSError, ValueError, ImportError) as error:
            raise CommandError(message_of(error)) from error


def _try_detector(
    detector: str,
    data: str,
    split: str | None,
    names: Sequence[str],
    classes: Sequence[str],
    cache: Path,
    folder: Path,
) -> list[Path]:
    """One file for each input."""
    from fusion_hub.data import PairedDataset
    from fusion_hub.data.boxes import find_boxes
    from fusion_hub.downstream.detectors import load_detector
    from fusion_hub.downstream.inputs import file_name, open_inputs
    from fusion_hub.downstream.zero_shot import describe_detector, provenance, zero_shot
    from fusion_hub.training.config import Source

    opened = [open_inputs(name) for name in dict.fromkeys(names)]  # first: a wrong name is found at once
    loaded = load_detector(detector)
    boxed = find_boxes(list(PairedDataset.open(data, split=split)), classes)
    label = Source(data, split).label  # that of training, which finds the same pictures in the cache
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for one in opened:
        files.append(folder / f"{file_name(one.name)}.json")
        result = zero_shot(loaded, one, boxed, classes, label, cache)
        result.save(files[-1], **provenance(one, describe_detector(detector), label, None))
    return files


def _tell(places: Sequence[Path], output: Path | None, published: bool, *, by_day_and_night: bool) -> None:
    from fusion_hub.evaluation import downstream_results as table

    found = table.find_runs(places)
    notes = [f"Not in the table: {text}." for text in found.left_out]
    quoted = table.read_published() if published else ()
    result = table.assemble(found.runs, by_day_and_night=by_day_and_night, published=quoted, notes=notes)
    files = [] if output is None else table.write(result, output)
    _print(result)
    if files and not any(file.name == "figure.png" for file in files):
        typer.echo("no figure: matplotlib is not installed (pip install 'fusion-hub[evaluate]')", err=True)
    if files:
        typer.echo(f"{output}: {', '.join(file.name for file in files)}")


def _print(result: "Results") -> None:
    from rich.console import Console
    from rich.markup import escape

    from fusion_hub.evaluation.downstream_results import report

    console = Console()
    console.print(_overview(result))
    for part in result.parts:
        console.print(_classes(part))
        console.print(f"[bold]{escape(report.part_title(part))}[/]")
        for sentence in filter(None, [*report.conclusions(part), report.common_start(part)]):
            console.print(f"  {escape(sentence)}", highlight=False)
    for row in result.published:
        numbers = ", ".join(f"{name} {report.percent(value)}" for name, value in row.values.items())
        told_of = f"{row.method}{': ' * bool(numbers)}{numbers} ({row.source}). {row.note}"
        console.print(f"[dim]{escape(told_of)}[/]", highlight=False)
    for note in result.notes:
        console.print(f"[yellow]{escape(note)}[/]", highlight=False)


def _new_table(title: str, *names: str) -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _overview(result: "Results") -> "Table":
    """Headline numbers of all tasks; each cell has its interval below."""
    from rich.markup import escape

    from fusion_hub.evaluation.downstream_results import report
    from fusion_hub.evaluation.downstream_results.measures import title

    table = _new_table("Percent, 95 % interval below (over pictures, and seeds where there are several)", "input")
    columns = list(report.overview(result))
    parts = [part for part in result.parts if part.group == "all"]
    for part, metric in columns:
        table.add_column(title(metric) + "\nzero-shot" * (part.task == "zero-shot"), justify="right")
    table.add_column("seeds", justify="right")
    for name in report.overview_inputs(result):
        rows = [report.row_of(part, name) for part in parts]
        seeds = "/".join(dict.fromkeys(report.seeds_of(row) for row in rows if row is not None))
        table.add_row(escape(name), *(_cell(part, name, metric, ends=True) for part, metric in columns), seeds)
    return table


def _classes(part: "Part") -> "Table":
    from rich.markup import escape

    from fusion_hub.evaluation.downstream_results import report

    found = report.class_table(part)
    family = f", {report.title(part.families[0])}" if len(part.families) == 1 else ""
    with_class = any(name for name, _, _ in found.lines)
    table = _new_table(f"{report.part_title(part)}: by class{family}", *(["class"] * with_class), "input")
    for head in found.heads:
        table.add_column(escape(head), justify="right")
    for name, row, metrics in found.lines:
        cells = [_cell(part, row.input, metric, ends=False) for metric in metrics]
        table.add_row(*([escape(name)] * with_class), escape(row.input), *cells)
    return table


def _cell(part: "Part", name: str, metric: str, *, ends: bool) -> str:
    from fusion_hub.evaluation.downstream_results import report

    row = report.row_of(part, name)
    number = None if row is None else row.numbers.get(metric)
    if number is None:
        return report.NO_VALUE
    text = report.percent(number.value)
    text = f"[bold]{text}[/]" if name in report.best_rows(part, metric) else text
    return f"{text}\n[dim]{report.interval(number)}[/]" if ends else text
