"""`fusion-hub evaluate`: methods x sets x metrics; resumable, on any number of processes."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fusion_hub import data as pairs
from fusion_hub import evaluation, pipelines, pretrained
from fusion_hub import metrics as metric_tables
from fusion_hub.cli import common
from fusion_hub.cli.common import FAILED, WRONG_USE, CommandError, Device, DtypeName, fail_together
from fusion_hub.cli.input_notes import warn_of_stretch
from fusion_hub.files import disk_trouble
from fusion_hub.repositories import is_hub_id

if TYPE_CHECKING:
    from fusion_hub import FusionPipeline
    from fusion_hub.evaluation import Evaluation, EvaluationSet, Failure, Method, Row

MOST_FAILURES = 20  # lines on the terminal
BASELINES = ("average", "maximum", "laplacian", "guided_filter")  # of `evaluation.baselines`, which imports torch

EXAMPLES = """
\b
Examples:
  fusion-hub evaluate --data data/tno/test
  fusion-hub evaluate --model difffusenet-msrs --model laplacian --data data/tno/test --data data/msrs/test -o results
  fusion-hub evaluate --model CDDFuse=downloads/cddfuse_tno --data data/tno/test --output results
  fusion-hub evaluate --model runs/mine/pipeline --data mine=data/mine --metrics red --output results
  torchrun --nproc_per_node 2 -m fusion_hub.cli evaluate --data data/msrs/test --output results
"""


def evaluate(
    *,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]METHOD",
            help="What to evaluate: a bundled name, a pipeline folder, a Hub id owner/name; a baseline (average, "
            "maximum, laplacian, guided-filter); or a folder of images that any method has fused, with the stems of "
            "the pairs. May be given several times.",
        ),
    ] = ["difffusenet-msrs"],  # noqa: B006  # typer copies it
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            metavar="[NAME=]SET",
            help="A folder of pairs as `fusion-hub fuse` reads it, or a Hub id. May be given several times.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for summary.json, report.md, table.tex, per_image/*.csv, figure.png. Run the same command "
            "again to resume.",
            show_default="print the tables only",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of every set, for example test.")] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="Columns: the table of a paper (cddfuse, difffusenet, red, seafusion, tang), all, or names such as "
            "SCD,VIF,Qabf."
        ),
    ] = "cddfuse",
    device: Device = "auto",
    dtype: Annotated[DtypeName, typer.Option(help="Published numbers are float32.")] = "float32",
    rescale: Annotated[
        Literal["none", "minmax"],
        typer.Option(help="minmax stretches each result of a model to 0..255, as some programs do on saving."),
    ] = "none",
    stretched: Annotated[
        bool,
        typer.Option(
            help="Also measure each picture stretched from its minimum to its maximum, as many published tables are. "
            "--no-stretched saves that time."
        ),
    ] = True,
    num_inference_steps: common.Steps = None,
    denoise: common.Denoise = "auto",
    tile: common.Tile = None,
    infrared_range: common.InfraredRange = None,
    visible_range: common.VisibleRange = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs of each set.")] = None,
    save_images: Annotated[
        bool, typer.Option("--save-images", help="Keep the fused pictures in OUTPUT/images.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Measure everything again.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Measure fused images: a table with 95% intervals, warnings, and everything needed to repeat it.

    The picture is measured as it would be saved: 8-bit BT.601 luminance, original size, clamped; and, in a table of its
    own, stretched from its minimum to its maximum. Every table has the rows of average and maximum. A warning says if
    a result is close to one source, or if a stretch explains its gain.
    """
    with (
        common.exit_codes("run the same command with the same --output again to resume"),
        _folder(output, save_images) as folder,
    ):
        columns = parse_metrics(metrics)
        common.check_device(device)
        steps = common.parse_steps(num_inference_steps)
        options: dict[str, Any] = {"rescale": rescale, "tile": tile, "num_inference_steps": steps}
        options = {key: value for key, value in options.items() if value is not None}
        if (amount := common.parse_denoise(denoise)) != "auto":
            options["denoise"] = amount
        ranges = common.parse_ranges(infrared_range, visible_range)
        ranges = {name: value for name, value in ranges.items() if value is not None}
        options |= ranges
        with common.terminate_as_interrupt(), common.processes(device) as state:
            main, process, count = state.is_main_process, state.process_index, state.num_processes
            # What can be refused without torch comes first: it takes seconds to import.
            opened = fail_together(lambda: [pairs.PairedDataset.open(_named(text)[1], split=split) for text in data])
            fail_together(lambda: _check_methods(model))
            datasets = fail_together(
                lambda: _name_sets(list(zip(data, opened, strict=True)), split, limit, ranges, main)
            )
            methods = fail_together(
                lambda: _open_methods(model, datasets, options, common.choose_device(device, state), dtype)
            )
            images = folder / "images" if save_images else None
            share = sum(len(dataset.pairs.shard(process, count)) for dataset in datasets)
            try:
                if overwrite and main:
                    evaluation.forget(folder)
                state.wait_for_everyone()
                with common.progress_bar("evaluating", share * len(methods), shown=main) as bar:
                    failures = evaluation.measure_share(
                        methods,
                        datasets,
                        columns,
                        folder,
                        process=process,
                        processes=count,
                        stretched=stretched,
                        images=images,
                        progress=bar.update,
                    )
                failures = [failure for part in common.gather(failures) for failure in part]
                result = evaluation.collect(methods, datasets, columns, folder, failures, seed, stretched=stretched)
                if main:
                    replaced = (folder / "summary.json").is_file()
                    files = evaluation.write(result, datasets, folder, images)
                    _print(result, files, output, replaced)
                state.wait_for_everyone()
                if not result.rows:
                    raise CommandError("no pair could be measured: the lines above say why")
            except OSError as error:
                raise CommandError(disk_trouble(error, folder) or common.message_of(error)) from error
    raise typer.Exit(FAILED if any(failure.method for failure in result.failures) else 0)


@contextmanager
def _folder(output: Path | None, save_images: bool) -> Iterator[Path]:
    """The output folder; without one a temporary folder that all processes of this run share."""
    common.refuse_file(output)
    if output is not None:
        yield output
        return
    if save_images:
        raise CommandError("--save-images needs a folder to save them in: give --output", WRONG_USE)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CommandError("several processes need a folder that they share: give --output", WRONG_USE)
    with tempfile.TemporaryDirectory(prefix="fusion-hub-") as folder:
        yield Path(folder)


def parse_metrics(text: str) -> tuple[str, ...]:
    """`cddfuse`, `difffusenet`, `red`, `all`, or names of metrics separated by commas; combinations too."""
    names = [*metric_tables.METRIC_NAMES, *metric_tables.LEGACY_NAMES]
    known = {
        **{name.lower(): (name,) for name in names},
        **metric_tables.TABLES,
        "all": metric_tables.METRIC_NAMES,
    }
    found: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word.lower() not in known:
            near = [
                known[key][0] if key in map(str.lower, names) else key for key in get_close_matches(word.lower(), known)
            ]
            advice = f"did you mean {' or '.join(near)}?" if near else f"give {', '.join(metric_tables.TABLES)} or all;"
            raise CommandError(f"--metrics {word}: no such metric: {advice} docs/metrics.md has every name", WRONG_USE)
        found += known[word.lower()]
    if not found:
        raise CommandError("--metrics is empty: give cddfuse, all, or names such as SCD,VIF,Qabf", WRONG_USE)
    return tuple(dict.fromkeys(found))


def _named(text: str) -> tuple[str | None, str]:
    """`NAME=VALUE` in two; a path that holds an equals sign is one value."""
    name, equals, value = text.partition("=")
    return (name, value) if equals and name and not Path(text).exists() else (None, text)


def _check_methods(sources: Sequence[str]) -> None:
    """Refuse a name that is none of a baseline, a folder and a pipeline."""
    for text in sources:
        name, source = _named(text)
        folder = Path(source).expanduser()
        if folder.is_dir() and (note := pipelines.run_note(folder)):
            raise CommandError(note)
        if source.replace("-", "_") in BASELINES or folder.is_dir():
            continue
        is_path = name or len(folder.parts) > 1 or source.endswith(("/", os.sep))
        if is_path and not is_hub_id(source) and source not in pretrained.PRETRAINED:
            raise CommandError(f"--model {text}: there is no folder {source!r}: give one that exists")
        try:
            pipelines.locate(source)
        except (OSError, ValueError) as error:
            rules = ", ".join(rule.replace("_", "-") for rule in BASELINES)
            more = f"a baseline ({rules}), or NAME=FOLDER for images that another program has fused"
            raise CommandError(f"{common.message_of(error)}, {more}") from error


def _name_sets(
    sources: "Sequence[tuple[str, pairs.PairedDataset]]",
    split: str | None,
    limit: int | None,
    ranges: dict[str, Any],
    shown: bool,
) -> "list[EvaluationSet]":
    found: dict[str, EvaluationSet] = {}
    for text, opened in sources:
        name, source = _named(text)
        name = name or evaluation.set_name(source, split)
        if name in found:
            raise CommandError(f"two sets have the name {name!r}: name one of them, --data NAME={source}", WRONG_USE)
        complete = limit is None or (opened.length is not None and limit >= opened.length)
        found[name] = evaluation.EvaluationSet.of(
            name, opened if complete else opened[:limit], complete=complete, ranges=ranges
        )
        if shown:
            typer.echo(str(found[name].pairs.check()))
            if "infrared_range" not in ranges:
                warn_of_stretch(opened, "--infrared-range", name)
    return list(found.values())


def _open_methods(
    sources: Sequence[str], datasets: "Sequence[EvaluationSet]", options: dict[str, Any], device: Any, dtype: DtypeName
) -> "list[Method]":
    names = {dataset.name: dataset.names for dataset in datasets}
    found = []
    for text in sources:
        name, source = _named(text)
        folder = Path(source).expanduser()
        if source.replace("-", "_") in BASELINES:
            found.append(evaluation.baseline_method(source, options["rescale"], datasets[0].ranges))
        elif folder.is_dir() and not (folder / "model_index.json").is_file():
            method = evaluation.folder_method(name or folder.resolve().name, folder, names)
            for dataset in datasets:
                evaluation.check_sizes(method, dataset)
            found.append(method)
        else:
            pipeline = common.load_pipeline(source, device, dtype)
            name = name or _pipeline_name(source)
            _warn_of_wrong_model(pipeline, name, datasets)
            found.append(evaluation.pipeline_method(name, pipeline, options))
    return evaluation.with_baselines(found, datasets[0].ranges)


def _pipeline_name(source: str) -> str:
    """The last part of a path or Hub id; of the `pipeline` folder of a training, the name of its run."""
    path = Path(source).expanduser()
    path = path.resolve() if path.is_dir() else path
    return path.parent.name if path.name == "pipeline" and path.parent.name else path.name


def _warn_of_wrong_model(pipeline: "FusionPipeline", name: str, datasets: "Sequence[EvaluationSet]") -> None:
    """Warn, by the first pair of each set, of a street model on scans or the other way round."""
    for dataset in datasets:
        pair = next(iter(dataset.pairs))
        with contextlib.suppress(ValueError, OSError):  # such a pair is reported when it is measured
            if note := pipeline.wrong_model_note(pair.visible_source, pair.infrared_source):
                common.print_message(f"warning: {name} on {dataset.name}: {note}")


def _print(result: "Evaluation", files: Sequence[Path], output: Path | None, replaced: bool) -> None:
    """Print tables, warnings and failures, and where the report is; `replaced`: an earlier one was there."""
    report, console = evaluation.report, Console()
    for dataset, rows in report.by_dataset(result.rows).items():
        head = f"{dataset}, {report.pairs_of(rows)}"
        for convention, own in report.by_convention(rows).items():
            title, head = f"{head}. {report.TITLES[convention]}", dataset
            for table in tables(title, own, result.metrics, console.width):
                console.print(table)
        most = max(row.n for row in rows)
        for row in rows:
            for warning in row.warnings:
                if row.n < most or not warning.startswith("measured on "):  # what all methods lack is in the title
                    console.print(f"[yellow]warning:[/] {escape(row.method)} on {escape(dataset)}: {escape(warning)}")
    # Files without a partner are named before the run, in the line on their set, as by `fusion-hub fuse`.
    for line in failure_lines([failure for failure in result.failures if failure.method]):
        typer.echo(line, err=True)
    for dataset, expected in result.sizes.items():
        if all(row.dataset != dataset for row in result.rows):
            common.print_message(f"warning: {dataset}: 0 of {expected} pairs were measured")
    if result.rows and not any(file.name == "figure.png" for file in files):
        typer.echo(common.NO_FIGURE, err=True)
    if output is not None:
        listed = ", ".join(dict.fromkeys(_listed(file.relative_to(output)) for file in files))
        typer.echo(f"{output}: {listed}{' (the earlier report is replaced)' * replaced}")


def _listed(file: Path) -> str:
    return "per_image/*.csv" if file.parent.name == "per_image" else str(file)


def failure_lines(failures: "Sequence[Failure]") -> list[str]:
    """One line for each pair and reason; what all methods share, such as a damaged source, is one line."""
    methods: dict[tuple[str, str, str], list[str]] = {}
    for failure in failures:
        methods.setdefault((failure.dataset, failure.pair, failure.reason), []).append(failure.method)
    lines = []
    for (dataset, pair, reason), names in methods.items():
        method = "" if len(names) > 1 or not names[0] else f"{names[0]}, "
        lines.append(f"failed: {method}{dataset}, {pair}: {reason}")
    more = [f"and {len(lines) - MOST_FAILURES} more; --output lists them in report.md"]
    return lines[:MOST_FAILURES] + more * (len(lines) > MOST_FAILURES)


def tables(title: str, rows: "Sequence[Row]", metrics: Sequence[str], width: int) -> list[Table]:
    """As many tables as `width` characters need: means with their 95% intervals below them, best mean in bold."""
    report = evaluation.report
    most = max(row.n for row in rows)
    counted = [row.method if row.n == most else f"{row.method} ({row.count})" for row in rows]
    names = short_names(counted, max(12, width // 5))
    columns = {}
    for metric in metrics:
        cells = []
        for row in rows:
            found = row.metrics[metric]
            low, high = (report.format_value(metric, value) for value in (found.low, found.high))
            cells.append((report.mean_text(row, metric), f"[{low},{high}]" if found.has_ends else ""))
        columns[metric] = cells
    room = width - 3 - max(map(len, ["method", *names]))  # one for the edge, two after the names
    groups: list[list[str]] = []
    left = 0
    for metric, cells in columns.items():
        needed = 2 + max(len(report.heading(metric)), *(len(text) for cell in cells for text in cell))
        if not groups or left < needed:
            groups.append([])
            left = room
        groups[-1].append(metric)
        left -= needed
    made: list[Table] = []
    for group in groups:
        first = not made
        table = Table(
            title=escape(f"{title}; mean and 95% interval") if first else None,
            title_justify="left",
            box=box.SIMPLE,
            padding=(0, 1, 0, 0),
        )
        table.add_column("method", no_wrap=True)
        for metric in group:
            table.add_column(report.heading(metric), justify="right", no_wrap=True)
        for index, (row, name) in enumerate(zip(rows, names, strict=True)):
            shown = []
            for metric in group:
                mean, interval = columns[metric][index]
                mean = f"[bold]{mean}[/]" if row.method in report.best(rows, metric) else mean
                shown.append(f"{mean}\n[dim]{escape(interval)}[/]" if interval else mean)
            table.add_row(escape(name), *shown)
        made.append(table)
    return made


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Names of at most `most` characters, shortened in the middle; as they are where two would become the same."""
    tail = most // 2
    short = [name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}" for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)
