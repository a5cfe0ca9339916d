"""`fusion-hub downstream`: does fusion help detection and segmentation? A table and a figure."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fusion_hub import downstream as networks
from fusion_hub.cli.common import (
    NO_FIGURE,
    WRONG_USE,
    CommandError,
    check_exists,
    exit_codes,
    message_of,
    refuse_file,
)

if TYPE_CHECKING:
    from fusion_hub.downstream.results import Results

EXAMPLES = """
\b
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
            help="Run folders of `fusion-hub train segformer` and `train detector`, JSON files of zero-shot results, "
            "or folders that hold any of them.",
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
        typer.Option(help="day-night: also separate tables for day and night, by the last letter of MSRS names."),
    ] = "none",
    published: Annotated[bool, typer.Option(help="Quote what the papers print, marked as not comparable.")] = True,
    detector: Annotated[
        str | None,
        typer.Option(help="Also evaluate this detector, untrained: a YOLO file in ONNX, or a transformers detector."),
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
            help="Input of --detector: visible, infrared, a rule, a bundled model, a pipeline folder, a Hub id, or "
            "a folder of fused images. May be given several times.",
        ),
    ] = ["visible", "infrared", "average", "maximum"],  # noqa: B006  # typer copies it
    classes: Annotated[
        list[str],
        typer.Option("--class", help="Classes of boxes that count for --detector. May be given several times."),
    ] = ["person", "car", "bicycle"],  # noqa: B006
    cache: Annotated[Path, typer.Option(help="Cache of fused pictures.")] = Path("runs/inputs"),
) -> None:
    """Compare detection and segmentation on visible, infrared and fused pictures: a table with conclusions.

    All runs of a task must have the same configuration and differ only in input and seed. Numbers are means over the
    seeds with 95% intervals over pictures and seeds. Every input is compared with the single pictures, and fusion
    networks with the best rule, picture by picture.
    """
    with exit_codes("no table was written"), tempfile.TemporaryDirectory(prefix="fusion-hub-") as temporary:
        refuse_file(output)
        if (detector is None) != (data is None):
            raise CommandError("--detector and --data belong together: give both or neither", WRONG_USE)
        if not runs and detector is None:
            raise CommandError("nothing to compare: give runs, or --detector and --data", WRONG_USE)
        paths = list(runs or [])
        check_exists(paths, "a run folder, a folder of runs, or a zero-shot JSON")
        try:
            if detector is not None and data is not None:
                folder = (Path(temporary) if output is None else output) / "zero_shot"
                paths += networks.zero_shot.zero_shot_files(detector, data, split, inputs, classes, cache, folder)
            found, left_out = networks.results.find_runs(paths)
            result = networks.results.assemble(
                found,
                by_day_and_night=split_by == "day-night",
                published=networks.results.read_published() if published else (),
                notes=[f"Not in the table: {text}." for text in left_out],
            )
            files = [] if output is None else networks.results_report.write(result, output)
            _print(result)
        except (OSError, ValueError, ImportError) as error:
            raise CommandError(message_of(error)) from error
        if files and not any(file.name == "figure.png" for file in files):
            typer.echo(NO_FIGURE, err=True)
        if files:
            typer.echo(f"{output}: {', '.join(file.name for file in files)}")


def _print(result: "Results") -> None:
    report, console = networks.results_report, Console()
    cell = partial(report.cell, bold="[bold]{}[/]", interval="{}")
    heads, lines = report.overview(result, partial(cell, interval="{}\n[dim]{}[/]"))
    for line in lines:
        rows = [report.row_of(part, line[0]) for part in result.parts if part.group == "all"]
        line.append("/".join(dict.fromkeys(report.seeds_of(row) for row in rows if row is not None)))
    heads = [head.replace(" (zero-shot)", "\nzero-shot") for head in heads]
    title = "Percent, 95% interval below (over pictures, and seeds where there are several)"
    console.print(_table(title, [*heads, "seeds"], lines))
    for part in result.parts:
        family = f", {report.title(part.families[0])}" if len(part.families) == 1 else ""
        console.print(_table(f"{report.part_title(part)}: by class{family}", *report.class_table(part, cell)))
        console.print(f"[bold]{escape(report.part_title(part))}[/]")
        for sentence in filter(None, [*report.conclusions(part), report.common_start(part)]):
            console.print(f"  {escape(sentence)}", highlight=False)
    for row in result.published:
        numbers = ", ".join(f"{name} {report.percent(value)}" for name, value in row.values.items())
        quoted = f"{row.method}{': ' * bool(numbers)}{numbers} ({row.source}). {row.note}"
        console.print(f"[dim]{escape(quoted)}[/]", highlight=False)
    for note in result.notes:
        console.print(f"[yellow]{escape(note)}[/]", highlight=False)


def _table(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table whose columns up to `input` are names from files."""
    names = list(heads).index("input") + 1
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(escape(head), no_wrap=index < names, justify="left" if index < names else "right")
    for line in lines:
        table.add_row(*map(escape, line[:names]), *line[names:])
    return table
