"""`fusion-hub fuse`: a pair of files, two folders or a dataset; resumable, on any number of processes."""

import errno
import hashlib
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fusion_hub import __version__, data, evaluation, files, image
from fusion_hub.cli.common import (
    FAILED,
    MODEL_HELP,
    WRONG_USE,
    CommandError,
    Device,
    DtypeName,
    choose_device,
    exit_codes,
    fail_together,
    load_pipeline,
    message_of,
    parse_steps,
    print_message,
    processes,
    progress_bar,
    terminate_as_interrupt,
    wrong_use,
)
from fusion_hub.cli.fuse_record import FolderRecord, Row

if TYPE_CHECKING:
    from accelerate import PartialState

    from fusion_hub import FusionPipeline

BFLOAT16_LEVELS = 270  # that are left of 65536 where the network computes in bfloat16

EXAMPLES = """
Examples:

  fusion-hub fuse street.png street_ir.png --output fused.png

  fusion-hub fuse visible/ infrared/ --output fused/

  fusion-hub fuse ct/ mri/ --model difffusenet-medical --output fused/

  fusion-hub fuse data/msrs --split test --output fused/

  fusion-hub fuse owner/dataset --split test --streaming --output fused/

  torchrun --nproc_per_node 2 -m fusion_hub.cli fuse visible/ infrared/ --output fused/
"""


@dataclass(frozen=True)
class Work:
    """The same for each pair of a run."""

    pipeline: "FusionPipeline"
    options: dict[str, Any]  # of its call
    output: Path  # a file for `single`, else the folder for `<name>.png`, or `<name>.tif` for float images
    single: bool
    batch_size: int
    seed: int
    record: FolderRecord | None  # None for a single pair
    metadata: bool


def fuse(
    visible: Annotated[
        str,
        typer.Argument(
            metavar="VISIBLE",
            help="Visible (CT, PET, SPECT) image or folder. Without INFRARED: a dataset, either a folder with vis/ and "
            "ir/ or metadata.csv, or a Hub id owner/name.",
            show_default=False,
        ),
    ],
    infrared: Annotated[
        str | None,
        typer.Argument(
            metavar="INFRARED", help="Infrared (MRI) image, or folder with the same file names.", show_default=False
        ),
    ] = None,
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Image file for a pair of files, otherwise a folder.", show_default=False),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)] = "difffusenet-msrs",
    device: Device = "auto",
    dtype: Annotated[
        DtypeName,
        typer.Option(
            help="Precision of the network. auto is float32: the same picture on every machine, with all 16 bits. "
            "bfloat16 is up to twice as fast on processors that support it, differs by up to 3 gray levels, and leaves "
            "about 270 levels of a 16-bit picture. The metadata of the result name the precision."
        ),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs to fuse together; more is faster on a GPU.")] = 1,
    tile: Annotated[
        int | None,
        typer.Option(
            min=0, help="Side of the tiles in pixels; 0 turns tiling off.", show_default="auto, for large images"
        ),
    ] = None,
    rescale: Annotated[
        Literal["none", "minmax"], typer.Option(help="minmax stretches each result by itself: videos flicker.")
    ] = "none",
    infrared_range: Annotated[
        str | None,
        typer.Option(
            help="Values that become black and white in the infrared: auto, dtype, minmax, percentile or LOW,HIGH.",
            show_default="the model's own",
        ),
    ] = None,
    visible_range: Annotated[
        str | None, typer.Option(help="The same for the visible image.", show_default="auto")
    ] = None,
    num_inference_steps: Annotated[
        str | None, typer.Option(help="Steps of the diffusion model, a number or auto.", show_default="the model's own")
    ] = None,
    noise_strength: Annotated[float, typer.Option(min=0, max=1, help="Noise in the features; 0 is deterministic.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    split: Annotated[str | None, typer.Option(help="Split of a dataset, for example test.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Fuse a Hub dataset while downloading it.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Fuse at most this many pairs.", show_default="all")] = None,
    metadata: Annotated[
        bool,
        typer.Option(help="Write camera, date, position (EXIF) and resolution of the visible image into the result."),
    ] = True,
    overwrite: Annotated[
        bool | None,
        typer.Option(
            "--overwrite/--no-overwrite",
            help="Overwrite existing outputs, or keep them.",
            show_default="overwrite a single file, resume a folder",
        ),
    ] = None,
) -> None:
    """Fuse a pair of images, two folders, or a dataset.

    Images are paired by name: equal stems, or stems that end in _vis and _ir, _rgb and _th, _V and _T and the like, in
    two folders or in one. The output folder records model, options and inputs in .fusion-hub/. Run the same command
    again to resume; other options are an error. A bad pair does not stop the others: it is reported at the end and in
    .fusion-hub/report.csv, and the exit code is 1.
    """
    again = "the same command without --overwrite" if overwrite else "the same command"
    with exit_codes(f"every picture in {output} is complete; run {again} to fuse the rest"):
        source, single = _choose_source(visible, infrared, output, streaming)
        if single and overwrite is False and output.exists():
            typer.echo(f"{output}: kept because of --no-overwrite")
            raise typer.Exit(0)
        options: dict[str, Any] = {"tile": tile, "rescale": rescale}
        with wrong_use():
            for name, text in (("infrared_range", infrared_range), ("visible_range", visible_range)):
                option = f"--{name.replace('_', '-')}"
                options[name] = None if text is None else image.parse_range(text, option)
        options |= {"num_inference_steps": parse_steps(num_inference_steps), "noise_strength": noise_strength}
        folder = None if single else output
        with terminate_as_interrupt(), processes(device) as state:
            dataset = fail_together(lambda: _open_dataset(source, split, streaming, limit, folder, state))
            pipeline = fail_together(lambda: load_pipeline(model, choose_device(device, state), dtype))
            fail_together(lambda: _check_options(pipeline, options, batch_size))
            record = None
            if not single:
                settings = {"model": model, "seed": seed, "metadata": metadata}
                record = fail_together(
                    lambda: _open_record(output, pipeline, settings, options, dataset, bool(overwrite), state)
                )
            work = Work(pipeline, options, output, single, batch_size, seed, record, metadata)
            rows, failures = _fuse_share(work, dataset, limit, state)
            code = _summarize(rows, failures, work, dataset, state)
    raise typer.Exit(code)


@wrong_use()
def _choose_source(visible: str, infrared: str | None, output: Path, streaming: bool) -> tuple[Any, bool]:
    """The argument of `PairedDataset.open`, and whether it is one pair of files."""
    try:
        files.check_writable(output if output.is_dir() else output.parent)
    except OSError as error:
        raise CommandError(str(error)) from error
    paths = [Path(visible)] if infrared is None else [Path(visible), Path(infrared)]
    if infrared is None and paths[0].is_file():
        raise ValueError(f"{visible} is a single image: give the INFRARED image too")
    if infrared is not None:
        if streaming:
            raise ValueError("--streaming is for a Hub dataset: give its id as VISIBLE and leave INFRARED out")
        for name, path in zip(("VISIBLE", "INFRARED"), paths, strict=True):
            if not path.exists():
                raise ValueError(f"{name}: there is no file or folder {str(path)!r}")
        if paths[0].is_dir() != paths[1].is_dir():
            raise ValueError(f"{visible} and {infrared}: give two files or two folders, not one of each")
    if infrared is None or paths[0].is_dir():
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output {output} is a file: give a folder for several pairs")
        return (visible if infrared is None else tuple(paths)), False

    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: give a file, for example {output / 'fused.png'}")
    if output.suffix.lower() not in image.SAVE_SUFFIXES:
        raise ValueError(f"--output {output}: end it with one of {', '.join(image.SAVE_SUFFIXES)}")
    if output.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"--output {output} is one of the inputs: give another name")
    pairs, notes = data.file_pair(*paths)
    for note in notes:
        print_message(f"warning: {note}")
    return pairs, True


@wrong_use()
def _check_options(pipeline: "FusionPipeline", options: dict[str, Any], batch_size: int) -> None:
    """Report options that the model refuses for every pair once, before any work."""
    checked = {name: options[name] for name in ("num_inference_steps", "noise_strength", "tile", "rescale")}
    try:
        pipeline.check_inputs(
            num_pairs=1, generator=None, tile_overlap=None, batch_size=batch_size, output_type="pil", **checked
        )
    except ValueError as error:
        raise ValueError(_with_option_names(error)) from error


def _with_option_names(error: BaseException | str) -> str:
    """A message of the library with the names of options, `--tile 3` for `tile=3`."""
    names = "infrared_range|visible_range|num_inference_steps|noise_strength|batch_size|(?:tile|rescale)(?==)"
    text = error if isinstance(error, str) else message_of(error)
    return re.sub(rf"\b({names})(=?)", lambda m: f"--{m[1].replace('_', '-')}{' ' * len(m[2])}", text)


def _open_dataset(
    source: Any, split: str | None, streaming: bool, limit: int | None, folder: Path | None, state: "PartialState"
) -> "data.PairedDataset":
    """Open the set and refuse what would destroy files; the main process prints what is wrong with it."""
    dataset = data.PairedDataset.open(source, split=split if folder else None, streaming=streaming)
    if dataset.length is None:
        if state.is_main_process:
            typer.echo(f"{dataset.description}: streamed, so it is not checked beforehand")
        return dataset
    dataset = dataset if limit is None else dataset[:limit]
    names = Counter(pair.name for pair in dataset)
    inputs = [data.source_file(source) for pair in dataset for source in (pair.visible_source, pair.infrared_source)]
    if folder and folder.resolve() in {file.parent.resolve() for file in inputs if file is not None}:
        raise CommandError(f"--output {folder} holds the inputs: give another folder", WRONG_USE)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise CommandError(
            f"several pairs have the name {repeated[0]!r} ({len(repeated)} such names), so that one picture would "
            "replace the other: give the pairs different names"
        )
    if state.is_main_process and folder:
        typer.echo(str(dataset.check()))
    return dataset


def _fuse_share(
    work: Work, dataset: "data.PairedDataset", limit: int | None, state: "PartialState"
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Fuse the pairs of this process: a row for each, and failures that belong to no pair."""
    rank, world = state.process_index, state.num_processes
    share = dataset.shard(rank, world) if world > 1 else dataset
    total = share.length
    if total is None and limit is not None:  # a stream
        total = limit // world + (rank < limit % world)
    rows: list[Row] = []
    names: set[str] = set()
    waiting: list[data.Pair] = []
    failures: list[tuple[str, str]] = []
    title = f"fusing (process 1 of {world})" if world > 1 else "fusing"
    with progress_bar(title, total, shown=state.is_main_process and not work.single) as (bar, task):
        try:
            for pair in itertools.islice(share, total):
                if pair.name in names:
                    why = "an earlier pair has the same name: give the pairs different names"
                    rows.append(Row(pair.name, "failed", notes=(why,)))
                elif work.record is not None and (done := work.record.find(pair)) is not None:
                    rows.append(Row(pair.name, "already there", done.output, tuple(done.notes)))
                else:
                    waiting.append(pair)
                names.add(pair.name)
                if len(waiting) == work.batch_size:
                    rows += _fuse_group(work, waiting)
                    waiting = []
                bar.update(task, completed=len(rows))
        except CommandError:
            raise
        except Exception as error:  # the stream broke; fuse what has arrived, report what is missing
            failures.append((f"pair {len(rows) + len(waiting) + 1} and all after it", message_of(error)))
        rows += _fuse_group(work, waiting) if waiting else []
        bar.update(task, completed=len(rows))
    return rows, failures


def _fuse_group(work: Work, pairs: "Sequence[data.Pair]") -> list[Row]:
    """Fuse and write pairs; if a group fails, try each of its pairs alone, so that only the bad one is lost."""
    import torch

    try:
        # Seeds depend on the pair alone, so that batches, processes and resumed runs give the same picture.
        hashes = [hashlib.blake2b(f"{work.seed} {pair.name}".encode(), digest_size=7).digest() for pair in pairs]
        generators = [torch.Generator().manual_seed(int.from_bytes(value, "big")) for value in hashes]
        visible, infrared = [pair.visible_source for pair in pairs], [pair.infrared_source for pair in pairs]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", image.InputWarning)  # each picture carries its own in `info["notes"]`
            output = work.pipeline(visible, infrared, generator=generators, batch_size=len(pairs), **work.options)
    except Exception as error:  # decoders, memory: whatever fails must not cost the other pairs
        if len(pairs) == 1:
            return [Row(pairs[0].name, "failed", notes=(message_of(error),))]
        return [row for pair in pairs for row in _fuse_group(work, [pair])]
    return [_save(work, pair, fused) for pair, fused in zip(pairs, output.images, strict=True)]


def _save(work: Work, pair: "data.Pair", fused: Any) -> Row:
    """Write one picture and record it. Raises `CommandError` where the disk takes no picture at all."""
    samples = getattr(fused, "samples", None)
    is_float = fused.mode == "F" or (samples is not None and samples.dtype.kind == "f")
    target = work.output if work.single else work.output / f"{pair.name}{'.tif' if is_float else '.png'}"
    notes = list(fused.info.get("notes", ()))
    if work.pipeline.model.dtype.itemsize < 4 and (fused.mode in ("I;16", "F") or samples is not None):
        notes.append(f"bfloat16 leaves about {BFLOAT16_LEVELS} gray levels of a result of 16 bits: use --dtype float32")
    try:
        image.save_image(fused, target, metadata=work.metadata)
        if work.record is not None:
            work.record.add(pair, target, notes)
    except (OSError, ValueError) as error:
        if trouble := files.disk_trouble(error, target.parent):
            raise CommandError(trouble) from error
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        why = f"the name {target.name[:40]!r}... is too long for a file: shorten it" if too_long else message_of(error)
        return Row(pair.name, "failed", notes=(why,))
    return Row(pair.name, "fused", target.name, tuple(notes))


def _open_record(
    output: Path,
    pipeline: "FusionPipeline",
    settings: dict[str, Any],
    options: dict[str, Any],
    dataset: "data.PairedDataset",
    overwrite: bool,
    state: "PartialState",
) -> FolderRecord:
    """The record of the output folder, after the first process has checked and opened it."""
    dtype = str(pipeline.model.dtype).removeprefix("torch.")
    weights = evaluation.describe_checkpoint(pipeline)["state_sha256"]
    everything = {**settings, "weights": weights, "dtype": dtype, **options, "version": __version__}
    record = FolderRecord(output, everything, state.process_index)
    if state.is_main_process:
        try:
            with wrong_use():
                record.open([] if dataset.length is None else [pair.name for pair in dataset], overwrite)
        except OSError as error:
            raise CommandError(files.disk_trouble(error, output) or message_of(error)) from error
    state.wait_for_everyone()
    record.read()
    return record


def _summarize(
    rows: list[Row], failures: list[tuple[str, str]], work: Work, dataset: "data.PairedDataset", state: "PartialState"
) -> int:
    """Gather the rows of all processes; the main one prints and reports them. Returns the exit code."""
    from accelerate.utils import gather_object

    parts: list[tuple[list[Row], list[tuple[str, str]]]] = gather_object([(rows, failures)])
    rows = [row for part, _ in parts for row in part]
    failures = [(row.name, row.notes[0]) for row in rows if row.result == "failed"]
    failures += [failure for _, part in parts for failure in part]
    # Two processes of a stream cannot see each other's names while they work.
    processes_with = Counter(name for part, _ in parts for name in {row.name for row in part})
    failures += [(name, "pairs of several processes have this name") for name, n in processes_with.items() if n > 1]
    code = FAILED if failures else 0
    if not state.is_main_process:
        return code
    notes = [_with_option_names(note) for row in rows if row.result == "fused" for note in row.notes]
    if work.single:
        for note in notes:
            print_message(f"warning: {note}")
        if failures:
            print_message(f"error: {_with_option_names(failures[0][1])}")
        else:
            typer.echo(f"{work.output}: 1 fused")
        return code
    kinds: dict[str, list[str]] = {}  # one line for each kind of warning, however many pairs have it
    for note in notes:
        kinds.setdefault(re.sub(r"'[^']*'|[\d.]+", "", note), []).append(note)
    for same in kinds.values():
        more = f" (and {len(same) - 1} more pairs, see report.csv)" if len(same) > 1 else ""
        print_message(f"warning: {same[0]}{more}")

    left_out = dataset.left_out() if dataset.length is not None else []
    rows += [Row(name, "left out", notes=(why,)) for name, why in left_out]
    assert work.record is not None
    report = work.record.write_report(sorted(rows, key=lambda row: row.name))
    results = Counter(row.result for row in rows)
    others = {"already there": results["already there"], "failed": len(failures), "files left out": len(left_out)}
    counts = [f"{results['fused']} fused", *(f"{count} {what}" for what, count in others.items() if count)]
    typer.echo(f"{work.output}: {', '.join(counts)}; see {report} for each file")
    for name, why in failures:
        typer.echo(f"failed: {name}: {_with_option_names(why)}", err=True)
    return code
