"""`fusion-hub fuse`: a pair of files, two folders or a dataset; resumable, on any number of processes."""

import errno
import hashlib
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

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
)

if TYPE_CHECKING:
    from accelerate import PartialState

    from fusion_hub.cli.fuse_record import FolderRecord, Row
    from fusion_hub.data import Pair, PairedDataset
    from fusion_hub.image.luminance import ValueRange
    from fusion_hub.pipelines import FusionPipeline

BFLOAT16_LEVELS = 270
"""Gray levels that are left of 65536 where the network computes in bfloat16."""

EXAMPLES = """
Examples:

  fusion-hub fuse street.png street_ir.png --output fused.png

  fusion-hub fuse visible/ infrared/ --output fused/

  fusion-hub fuse ct/ mri/ --model difffusenet-medical --output fused/

  fusion-hub fuse data/msrs --split test --output fused/

  fusion-hub fuse owner/dataset --split test --streaming --output fused/

  torchrun --nproc_per_node 2 -m fusion_hub.cli fuse visible/ infrared/ --output fused/
"""


@dataclass
class Tally:
    """What became of the pairs of one process."""

    seen: int = 0
    fused: int = 0
    skipped: int = 0
    names: set[str] = field(default_factory=set)
    failures: list[tuple[str, str]] = field(default_factory=list)  # name of the pair, cause
    notes: list[tuple[str, str]] = field(default_factory=list)  # name of the pair, warning
    rows: "list[Row]" = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What a process does with each pair.

    Attributes:
        pipeline: on its device, with progress bars off.
        options: arguments of its call.
        output: file for `single`, else the folder that gets `<name>.png`, of float images `<name>.tif`.
        seed: of the noise; each pair draws its own from it and from its name.
        record: of the output folder; None for a single pair.
        metadata: whether camera, date, position and resolution of the visible image are written.
    """

    pipeline: "FusionPipeline"
    options: dict[str, Any]
    output: Path
    single: bool
    batch_size: int
    seed: int
    record: "FolderRecord | None"
    metadata: bool

    def target(self, pair: "Pair", image: Any) -> Path:
        if self.single:
            return self.output
        is_float = image.mode == "F" or (hasattr(image, "samples") and image.samples.dtype.kind == "f")
        return self.output / f"{pair.name}{'.tif' if is_float else '.png'}"


def fuse(
    visible: Annotated[
        str,
        typer.Argument(
            metavar="VISIBLE",
            help="Visible (CT, PET, SPECT) image or folder. Alone: a dataset, that is a folder with vis/ and ir/ or "
            "metadata.csv, or a Hub id owner/name.",
            show_default=False,
        ),
    ],
    infrared: Annotated[
        str | None,
        typer.Argument(
            metavar="INFRARED", help="Infrared (MRI) image, or folder with the same stems.", show_default=False
        ),
    ] = None,
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Image file for a pair of files, else a folder.", show_default=False),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)] = "difffusenet-msrs",
    device: Device = "auto",
    dtype: Annotated[
        DtypeName,
        typer.Option(
            help="Precision of the network. auto is float32, which gives the same picture on every machine and keeps "
            "16 bits. bfloat16 is up to twice as quick on processors with instructions for it, differs by up to 3 gray "
            "levels, and leaves about 270 levels of a 16-bit picture. The file says which was used."
        ),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in one evaluation; more is quicker on a GPU.")] = 1,
    tile: Annotated[
        int | None,
        typer.Option(min=0, help="Side of the tiles in pixels; 0: never tiles.", show_default="auto, for large images"),
    ] = None,
    rescale: Annotated[
        Literal["none", "minmax"], typer.Option(help="minmax stretches every result by itself; video then flickers.")
    ] = "none",
    infrared_range: Annotated[
        str | None,
        typer.Option(
            help="What is black and white in the infrared: auto, dtype, minmax, percentile or LOW,HIGH.",
            show_default="the model's own",
        ),
    ] = None,
    visible_range: Annotated[
        str | None,
        typer.Option(help="The same for the visible image.", show_default="auto"),
    ] = None,
    num_inference_steps: Annotated[
        str | None, typer.Option(help="Steps of the diffusion model, a number or auto.", show_default="the model's own")
    ] = None,
    noise_strength: Annotated[float, typer.Option(min=0, max=1, help="Noise in the features; 0 is deterministic.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    split: Annotated[str | None, typer.Option(help="Split of a dataset, for example test.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Fuse a Hub dataset while it is downloaded.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Fuse this many pairs at most.", show_default="all")] = None,
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
    two folders or in one. The output folder remembers model, options and inputs in .fusion-hub/: the same command
    resumes a stopped run, other options are refused. A bad pair does not stop the others: it is reported at the end and
    in .fusion-hub/report.csv, and the exit code is 1.
    """
    again = "the same command without --overwrite" if overwrite else "the same command"
    with exit_codes(f"every picture in {output} is whole; run {again} to fuse the rest"):
        source, single = _choose_source(visible, infrared, output, streaming)
        if single and overwrite is False and output.exists():
            typer.echo(f"{output}: kept, as --no-overwrite asks")
            raise typer.Exit(0)
        options = {
            "tile": tile,
            "rescale": rescale,
            "infrared_range": _parse_range(infrared_range, "--infrared-range"),
            "visible_range": _parse_range(visible_range, "--visible-range"),
            "num_inference_steps": parse_steps(num_inference_steps),
            "noise_strength": noise_strength,
        }
        with terminate_as_interrupt(), processes(device) as state:
            dataset = fail_together(lambda: _open_dataset(source, split, streaming, limit, output, single, state))
            pipeline = fail_together(lambda: load_pipeline(model, choose_device(device, state), dtype))
            fail_together(lambda: _check_options(pipeline, options, batch_size))
            record = None
            if not single:
                settings = {"model": model, "options": options, "seed": seed, "metadata": metadata}
                record = fail_together(
                    lambda: _open_record(output, pipeline, settings, dataset, bool(overwrite), state)
                )
            work = Work(pipeline, options, output, single, batch_size, seed, record, metadata)
            tally = _fuse_share(work, _share(dataset, limit, state), state)
            code = _summary(tally, work, dataset, state)
    raise typer.Exit(code)


# --- what is asked for -----------------------------------------------------------------------------------------------


def _choose_source(visible: str, infrared: str | None, output: Path, streaming: bool) -> tuple[Any, bool]:
    """What `PairedDataset.open` takes, and whether it is one pair of files."""
    _check_place(output)
    if infrared is None:
        if Path(visible).is_file():
            raise CommandError(f"{visible} is a single image: give the INFRARED image too", WRONG_USE)
        _check_folder(output)
        return visible, False
    if streaming:
        raise CommandError("--streaming is for a Hub dataset: give its id as VISIBLE and leave INFRARED out", WRONG_USE)
    paths = (Path(visible), Path(infrared))
    for name, path in zip(("VISIBLE", "INFRARED"), paths, strict=True):
        if not path.exists():
            raise CommandError(f"{name}: there is no file or folder {str(path)!r}", WRONG_USE)
    if paths[0].is_dir() != paths[1].is_dir():
        raise CommandError(f"{visible} and {infrared}: give two files or two folders, not one of each", WRONG_USE)
    if paths[0].is_dir():
        _check_folder(output)
        return paths, False
    _check_file(output, paths)
    return _single_pair(*paths), True


def _single_pair(visible: Path, infrared: Path) -> Any:
    """What `PairedDataset.open` takes for two files; one file given twice must hold both images."""
    from fusion_hub.data.layouts import file_pair

    try:
        pairs, notes = file_pair(visible, infrared)
    except ValueError as error:
        raise CommandError(str(error), WRONG_USE) from error
    for note in notes:
        print_message(f"warning: {note}")
    return pairs


def _check_place(output: Path) -> None:
    from fusion_hub.files import check_writable

    try:
        check_writable(output if output.is_dir() else output.parent)
    except OSError as error:
        raise CommandError(str(error)) from error


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise CommandError(f"--output {output} is a file: give a folder for several pairs", WRONG_USE)


def _check_file(output: Path, inputs: Sequence[Path]) -> None:
    from fusion_hub.image.io import SAVE_SUFFIXES

    if output.is_dir():
        raise CommandError(f"--output {output} is a folder: give a file, for example {output / 'fused.png'}", WRONG_USE)
    if output.suffix.lower() not in SAVE_SUFFIXES:
        raise CommandError(f"--output {output}: end it with one of {', '.join(SAVE_SUFFIXES)}", WRONG_USE)
    if output.resolve() in [path.resolve() for path in inputs]:
        raise CommandError(f"--output {output} is one of the inputs: give another name", WRONG_USE)


def _parse_range(text: str | None, option: str) -> "ValueRange | None":
    from fusion_hub.image.luminance import parse_range

    try:
        return None if text is None else parse_range(text, option)
    except ValueError as error:
        raise CommandError(str(error), WRONG_USE) from error


def _check_options(pipeline: "FusionPipeline", options: dict[str, Any], batch_size: int) -> None:
    """What the model refuses for every pair is said once, before any work."""
    try:
        pipeline.check_inputs(
            num_pairs=1,
            num_inference_steps=options["num_inference_steps"],
            noise_strength=options["noise_strength"],
            generator=None,
            tile=options["tile"],
            tile_overlap=None,
            batch_size=batch_size,
            rescale=options["rescale"],
            output_type="pil",
        )
    except ValueError as error:
        raise CommandError(str(error), WRONG_USE) from error


# --- the pairs -------------------------------------------------------------------------------------------------------


def _open_dataset(
    source: Any,
    split: str | None,
    streaming: bool,
    limit: int | None,
    output: Path,
    single: bool,
    state: "PartialState",
) -> "PairedDataset":
    """Open the set and refuse what would destroy files; the main process reports what is wrong with it."""
    from fusion_hub.data import PairedDataset
    from fusion_hub.data.pictures import source_file

    dataset = PairedDataset.open(source, split=None if single else split, streaming=streaming)
    if dataset.length is None:
        if state.is_main_process:
            typer.echo(f"{dataset.description}: streamed, so it is not checked beforehand")
        return dataset
    dataset = dataset if limit is None else dataset[:limit]
    names: Counter[str] = Counter()
    places: set[Path] = set()
    for pair in dataset:
        names[pair.name] += 1
        files = map(source_file, (pair.visible_source, pair.infrared_source))
        places |= {file.parent for file in files if file is not None}
    if not single and output.resolve() in {place.resolve() for place in places}:
        raise CommandError(f"--output {output} holds the inputs: give another folder", WRONG_USE)
    _refuse_repeated(names)
    if state.is_main_process and not single:
        typer.echo(str(dataset.check()))
    return dataset


def _refuse_repeated(names: Counter[str]) -> None:
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise CommandError(
            f"several pairs have the name {repeated[0]!r} ({len(repeated)} such names), so that one picture would "
            "replace the other: give the pairs different names"
        )


def _share(dataset: "PairedDataset", limit: int | None, state: "PartialState") -> "tuple[Iterable[Pair], int | None]":
    """The pairs of this process, and their number if it is known."""
    rank, world = state.process_index, state.num_processes
    share = dataset.shard(rank, world) if world > 1 else dataset
    if share.length is not None:
        return share, share.length
    if limit is None:
        return share, None
    own = limit // world + (rank < limit % world)
    return itertools.islice(share, own), own


def _fuse_share(work: Work, share: "tuple[Iterable[Pair], int | None]", state: "PartialState") -> Tally:
    pairs, total = share
    tally = Tally()
    whose = f" (process 1 of {state.num_processes})" if state.num_processes > 1 else ""
    with progress_bar(f"fusing{whose}", total, shown=state.is_main_process and not work.single) as (bar, task):
        waiting: list[Pair] = []
        try:
            for pair in pairs:
                if not _is_done(work, pair, tally):
                    waiting.append(pair)
                if len(waiting) == work.batch_size:
                    _fuse_group(work, waiting, tally)
                    waiting = []
                bar.update(task, completed=tally.seen - len(waiting))
        except Exception as error:  # the stream broke; what has arrived is fused, what is missing reported
            tally.failures.append((f"pair {tally.seen + 1} and all after it", message_of(error)))
        _fuse_group(work, waiting, tally)
        bar.update(task, completed=tally.seen)
    return tally


def _is_done(work: Work, pair: "Pair", tally: Tally) -> bool:
    """Whether the pair needs no fusing: its picture is there, or it has the name of an earlier pair."""
    from fusion_hub.cli.fuse_record import Row

    tally.seen += 1
    if pair.name in tally.names:
        _fail(tally, pair.name, "an earlier pair has the same name: give the pairs different names")
        return True
    tally.names.add(pair.name)
    done = work.record.find(pair) if work.record is not None else None
    if done is None:
        return False
    tally.skipped += 1
    tally.rows.append(Row(pair.name, "already there", done.output, "; ".join(done.notes)))
    return True


def _fail(tally: Tally, name: str, why: str) -> None:
    from fusion_hub.cli.fuse_record import Row

    tally.failures.append((name, why))
    tally.rows.append(Row(name, "failed", note=why))


def _fuse_group(work: Work, pairs: "Sequence[Pair]", tally: Tally) -> None:
    """Fuse and write pairs; if a group fails, each of its pairs is tried alone, so that only the bad one is lost."""
    # Decoders, memory, other people's files: whatever fails must not cost the other pairs, so everything is caught.
    try:
        images = _fuse_pairs(work, pairs) if pairs else []
    except Exception as error:
        if len(pairs) == 1:
            _fail(tally, pairs[0].name, message_of(error))
            return
        for pair in pairs:
            _fuse_group(work, [pair], tally)
        return
    for pair, image in zip(pairs, images, strict=True):
        _save(work, pair, image, tally)


def _save(work: Work, pair: "Pair", image: Any, tally: Tally) -> None:
    """Write one picture and record it. Raises `CommandError` where the disk takes none, which holds for all."""
    from fusion_hub.cli.fuse_record import Row
    from fusion_hub.files import disk_trouble
    from fusion_hub.image.processor import save_image

    notes = [*image.info.get("notes", ()), *_depth_notes(work, image)]
    target = work.target(pair, image)
    try:
        save_image(image, target, metadata=work.metadata)
        if work.record is not None:
            work.record.add(pair, target, notes)
    except (OSError, ValueError) as error:
        if trouble := disk_trouble(error, target.parent):
            raise CommandError(trouble) from error
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        why = f"the name {target.name[:40]!r}... is too long for a file: shorten it" if too_long else message_of(error)
        _fail(tally, pair.name, why)
        return
    tally.fused += 1
    tally.notes += [(pair.name, note) for note in notes]
    tally.rows.append(Row(pair.name, "fused", target.name, "; ".join(notes)))


def _depth_notes(work: Work, image: Any) -> list[str]:
    import torch

    if work.pipeline.model.dtype is torch.float32 or (
        image.mode not in ("I;16", "F") and not hasattr(image, "samples")
    ):
        return []
    return [f"bfloat16 leaves about {BFLOAT16_LEVELS} gray levels of a result of 16 bits: use --dtype float32"]


def _fuse_pairs(work: Work, pairs: "Sequence[Pair]") -> list[Any]:
    import torch

    from fusion_hub.image.processor import InputWarning

    generators = [torch.Generator().manual_seed(_pair_seed(work.seed, pair.name)) for pair in pairs]
    visible, infrared = [pair.visible_source for pair in pairs], [pair.infrared_source for pair in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # each picture carries its own in `info["notes"]`
        return work.pipeline(visible, infrared, generator=generators, batch_size=len(pairs), **work.options).images


def _pair_seed(seed: int, name: str) -> int:
    """Of the pair alone, so that batches, processes and resumed runs give the same picture."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest(), "big")


# --- what became of them ---------------------------------------------------------------------------------------------


def _open_record(
    output: Path,
    pipeline: "FusionPipeline",
    settings: dict[str, Any],
    dataset: "PairedDataset",
    overwrite: bool,
    state: "PartialState",
) -> "FolderRecord":
    """The record of the output folder, after the first process has checked and opened it."""
    from fusion_hub import __version__
    from fusion_hub.cli.fuse_record import FolderRecord
    from fusion_hub.evaluation.methods import describe_checkpoint
    from fusion_hub.files import disk_trouble

    everything = {
        **{key: value for key, value in settings.items() if key != "options"},
        "weights": describe_checkpoint(pipeline)["state_sha256"],
        "dtype": str(pipeline.model.dtype).removeprefix("torch."),
        **settings["options"],
        "version": __version__,
    }
    record = FolderRecord(output, everything, state.process_index)
    if state.is_main_process:
        names = [] if dataset.length is None else [pair.name for pair in dataset]
        try:
            record.open(names, overwrite)
        except OSError as error:
            raise CommandError(disk_trouble(error, output) or message_of(error)) from error
        except ValueError as error:
            raise CommandError(str(error), WRONG_USE) from error
    state.wait_for_everyone()
    record.read()
    return record


def _summary(own: Tally, work: Work, dataset: "PairedDataset", state: "PartialState") -> int:
    """Gather the tallies of all processes; the main one prints them. Returns the exit code."""
    from accelerate.utils import gather_object

    tallies: list[Tally] = gather_object([own])
    failures = [failure for tally in tallies for failure in tally.failures]
    # Two processes of a stream cannot see each other's names while they work.
    common = Counter(name for tally in tallies for name in tally.names)
    failures += [(name, "pairs of several processes have this name") for name, n in common.items() if n > 1]
    if state.is_main_process:
        notes = [note for tally in tallies for note in tally.notes]
        if work.single and failures:
            print_message(f"error: {failures[0][1]}")
        elif work.single:
            for _, note in notes:
                print_message(f"warning: {note}")
            typer.echo(f"{work.output}: 1 fused")
        else:
            _print_notes(notes)
            _print_summary(tallies, failures, work, dataset)
    return FAILED if failures else 0


def _print_notes(notes: Sequence[tuple[str, str]]) -> None:
    """One line for each kind of warning, however many pairs have it."""
    kinds: dict[str, list[str]] = {}
    for _, note in notes:
        kinds.setdefault(re.sub(r"'[^']*'|[\d.]+", "", note), []).append(note)
    for same in kinds.values():
        more = f" (and {len(same) - 1} more pairs, see report.csv)" if len(same) > 1 else ""
        print_message(f"warning: {same[0]}{more}")


def _print_summary(
    tallies: Sequence[Tally], failures: Sequence[tuple[str, str]], work: Work, dataset: "PairedDataset"
) -> None:
    from fusion_hub.cli.fuse_record import Row

    fused, skipped = sum(tally.fused for tally in tallies), sum(tally.skipped for tally in tallies)
    parts = [f"{fused} fused"]
    if skipped:
        parts.append(f"{skipped} already there")
    if failures:
        parts.append(f"{len(failures)} failed")
    rows = [row for tally in tallies for row in tally.rows]
    if dataset.length is not None:
        left_out = dataset.left_out()
        rows += [Row(name, "left out", note=why) for name, why in left_out]
        if left_out:
            parts.append(f"{len(left_out)} files left out")
    assert work.record is not None
    report = work.record.write_report(sorted(rows, key=lambda row: row.name))
    typer.echo(f"{work.output}: {', '.join(parts)}; {report} says what became of each")
    for name, why in failures:
        typer.echo(f"failed: {name}: {why}", err=True)
