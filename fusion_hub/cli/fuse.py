"""`fusion-hub fuse`: a pair of files, two folders or a dataset; resumable, on any number of processes."""

import errno
import hashlib
import itertools
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from fusion_hub import __version__, data, files, image, pipelines, pretrained
from fusion_hub.cli.common import (
    FAILED,
    MODEL_HELP,
    WRONG_USE,
    Align,
    CommandError,
    Denoise,
    Device,
    DtypeName,
    InfraredRange,
    RigFile,
    State,
    Steps,
    Tile,
    VisibleRange,
    check_device,
    exit_codes,
    fail_together,
    gather,
    launched,
    message_of,
    parse_denoise,
    parse_ranges,
    parse_rig,
    parse_steps,
    print_message,
    processes,
    progress_bar,
    terminate_as_interrupt,
    with_option_names,
    wrong_use,
)
from fusion_hub.cli.engine import Engine, EngineName, choose_engine, load_engine, pixels
from fusion_hub.cli.fuse_inputs import check_output, describe, find_source, open_dataset
from fusion_hub.cli.fuse_record import Done, FolderRecord, Row
from fusion_hub.cli.input_notes import warn_of_overlay, warn_of_stretch
from fusion_hub.cli.photos import find_photos
from fusion_hub.cli.side_by_side import cores_of_each, count_workers, dividing_cores, map_in_order
from fusion_hub.cli.thermal_options import (
    AtmosphericTemperature,
    Counts,
    Distance,
    Emissivity,
    Highlight,
    Humidity,
    Palette,
    ReflectedTemperature,
    SaveTemperatures,
    Thermal,
    alone,
    check_thermal,
    describe_temperatures,
    draw_alone,
    store_temperatures,
    temperatures_file,
)
from fusion_hub.pipelines.limits import WHOLE_IMAGE_LIMIT

if TYPE_CHECKING:
    from fusion_hub import FusionPipeline
    from fusion_hub.onnx import FusionSession

TURNS = threading.Lock()  # of pairs too large to be fused side by side
BFLOAT16_LEVELS = 270  # that are left of 65536 where the network computes in bfloat16

EXAMPLES = """
\b
Examples:
  fusion-hub fuse street.png street_ir.png --output fused.png
  fusion-hub fuse visible/ infrared/ --output fused/
  fusion-hub fuse 'night/*_vis.png' 'night/*_ir.png' --output fused/
  fusion-hub fuse ct/ mri/ --model difffusenet-medical --output fused/
  fusion-hub fuse pet.png mri.png --model difffusenet-medical --colors overlay --output overlay.png
  fusion-hub fuse photo.jpg photo_ir.png --align auto --output fused.png
  fusion-hub fuse visible/ infrared/ --rig rig.json --output fused/
  fusion-hub fuse photo.jpg --palette iron --highlight '>60C' --output fused.png
  fusion-hub fuse data/msrs --split test --output fused/
  fusion-hub fuse owner/dataset --split test --streaming --output fused/
  torchrun --nproc_per_node 2 -m fusion_hub.cli fuse visible/ infrared/ --output fused/
"""


@dataclass(frozen=True)
class Work:
    """The same for each pair of a run."""

    pipeline: "FusionPipeline | FusionSession | None"  # None if all pictures are there already
    options: dict[str, Any]  # of its call
    output: Path  # a file for `single`, else the folder for `<name>.png`, or `<name>.tif` for float images
    single: bool
    batch_size: int
    seed: int
    record: FolderRecord | None  # None for a single pair
    metadata: bool
    overlaid: bool
    done: Mapping[str, Done] | None  # pictures of earlier runs; None for a stream, which is looked up pair by pair
    thermal: Thermal
    engine: EngineName
    bfloat16: bool
    threads: int  # pairs that are fused side by side

    def find(self, pair: "data.Pair") -> Done | None:
        """The picture of an earlier run."""
        if self.done is not None:
            return self.done.get(pair.name)
        return None if self.record is None else self.record.find(pair)


def fuse(
    visible: Annotated[
        str,
        typer.Argument(
            metavar="VISIBLE",
            help="Visible (CT, PET, SPECT) image, folder, or quoted pattern such as 'night/*_vis.png'. Without "
            "INFRARED: a radiometric photo of FLIR that holds both; or a dataset: a folder with vis/ and ir/, with "
            "metadata.csv, or with both images of each pair, or a Hub id owner/name.",
            show_default=False,
        ),
    ],
    infrared: Annotated[
        str | None,
        typer.Argument(
            metavar="INFRARED", help="Infrared (MRI) image, folder or pattern, with the same names.", show_default=False
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="MORE", help="More files, as a shell expands patterns.", show_default=False),
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
    engine: Engine = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs to fuse together; more is faster on a GPU.")] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pairs that are fused side by side on the CPU. Each needs memory of its own; pairs of more than "
            "2.4 megapixels take turns.",
            show_default="one for each core",
        ),
    ] = None,
    tile: Tile = None,
    rescale: Annotated[
        Literal["none", "minmax"], typer.Option(help="minmax stretches each result by itself: videos flicker.")
    ] = "none",
    colors: Annotated[
        Literal["fused", "overlay"],
        typer.Option(help="overlay keeps the colors of a PET or SPECT readable: laid over the MRI, with their scale."),
    ] = "fused",
    infrared_range: InfraredRange = None,
    visible_range: VisibleRange = None,
    rig: RigFile = None,
    align: Align = None,
    emissivity: Emissivity = None,
    distance: Distance = None,
    reflected_temperature: ReflectedTemperature = None,
    atmospheric_temperature: AtmosphericTemperature = None,
    humidity: Humidity = None,
    counts: Counts = "auto",
    palette: Palette = None,
    highlight: Highlight = None,
    save_temperatures: SaveTemperatures = False,
    num_inference_steps: Steps = None,
    denoise: Denoise = "auto",
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

    Images are paired by name: equal names, or names that end in _vis and _ir, _rgb and _th, _V and _T and the like, in
    two folders or in one. The output folder records model, options and inputs in .fusion-hub/. Run the same command
    again to resume; other options are an error. A bad pair does not stop the others: it is reported at the end and in
    .fusion-hub/report.csv, and the exit code is 1.
    """
    again = "the same command without --overwrite" if overwrite else "the same command"
    stopped = f"every picture in {output} is complete; run {again} to fuse the rest"
    if infrared is not None and not more and Path(visible).is_file() and Path(infrared).is_file():
        stopped = "nothing was written"
    with exit_codes(stopped):
        words = [visible, *filter(None, [infrared]), *(more or [])]
        source, single = find_photos(words, palette is not None) or find_source(words, streaming)
        check_output(output, single, words, [temperatures_file(output)] if save_temperatures else [])
        if single and overwrite is False and output.exists():
            typer.echo(f"{output}: kept because of --no-overwrite")
            raise typer.Exit(0)
        options: dict[str, Any] = {"tile": tile, "rescale": rescale}
        options |= parse_ranges(infrared_range, visible_range)
        options |= {"num_inference_steps": parse_steps(num_inference_steps), "noise_strength": noise_strength}
        options["denoise"] = parse_denoise(denoise)
        conditions = {"emissivity": emissivity, "distance": distance, "reflected_temperature": reflected_temperature}
        conditions |= {"atmospheric_temperature": atmospheric_temperature, "humidity": humidity}
        thermal = check_thermal(
            conditions, counts, palette, highlight, save_temperatures, options["infrared_range"], colors
        )
        info = pretrained.PRETRAINED.get(model)
        if colors == "overlay" and info is not None and "MRI" not in info.modality:
            raise CommandError(
                "--colors overlay is for PET or SPECT with MRI: add --model difffusenet-medical", WRONG_USE
            )
        registration, registered_by = parse_rig(rig, align)
        if registration is not None:
            options["rig"] = registration
        check_device(device)
        if single:
            files.sweep_leftovers(output.parent)  # of a run that was killed
        if single and palette is not None and (file := alone(source)) is not None:
            draw_alone(thermal, file, output, metadata)
            raise typer.Exit(0)
        with terminate_as_interrupt(), processes(device) as state, ExitStack() as run:
            # What can be refused without torch comes first: it takes seconds to import.
            dataset = fail_together(
                lambda: open_dataset(source, split, streaming, limit, None if single else output, registration, thermal)
            )
            checkpoint, weights = fail_together(lambda: _find_checkpoint(model))
            with wrong_use():
                pipelines.check_stored(
                    checkpoint, options["num_inference_steps"], noise_strength, tile, options["denoise"]
                )
            if colors == "overlay":
                warn_of_overlay(dataset)
            if state.is_main_process and not single:
                describe(dataset, registered=registration is None)
                if dataset.length and (text := describe_temperatures(dataset[0], thermal)):
                    typer.echo(f"temperatures by the constants of each file, such as {text}")
            if infrared_range is None:
                warn_of_stretch(dataset, "--infrared-range", pipeline=checkpoint)
            share = dataset.shard(state.process_index, state.num_processes) if state.num_processes > 1 else dataset
            begun_with = None if single or overwrite else FolderRecord.engine_of(output)
            runs_on = choose_engine(engine, checkpoint, dataset, options, device, dtype, begun_with)
            record, done = None, None if dataset.length is None else dict[str, Done]()
            if not single:
                settings = {"model": model, "weights": weights, "seed": seed}
                settings |= thermal.recorded() | {
                    "dtype": "float32" if dtype == "auto" else dtype,
                    "engine": runs_on,
                    "metadata": metadata,
                    **options,
                    "colors": colors,
                }
                settings |= {} if registered_by is None else {"rig": registered_by}
                record = FolderRecord(output, settings | {"version": __version__}, state.process_index)
                done = fail_together(lambda: _find_done(record, dataset, share, overwrite, state))
            to_do = done is None or any(pair.name not in done for pair in share)
            threads = 1
            if any(gather(to_do)) and not single and not launched() and device in ("auto", "cpu"):
                threads = count_workers(workers, dataset.length)
            pipeline = None
            if any(gather(to_do)):
                show_steps = None if not state.is_main_process or threads > 1 else 0 if single else 1
                load = partial(load_engine, runs_on, checkpoint, device, dtype, options, batch_size, show_steps)
                pipeline = fail_together(partial(load, cores_of_each(threads) if threads > 1 else None, state))
                if runs_on == "torch" and cast("FusionPipeline", pipeline).device.type != "cpu":
                    threads = 1
            if record is not None:
                fail_together(lambda: _begin(record, bool(overwrite), run if pipeline is not None else None, state))
            state.wait_for_everyone()
            work = Work(
                pipeline,
                options,
                output,
                single,
                batch_size,
                seed,
                record,
                metadata,
                colors == "overlay",
                done,
                thermal,
                runs_on,
                dtype == "bfloat16",
                threads,
            )
            rows, failures = _fuse_share(work, share, limit, state)
            code = _summarize(rows, failures, work, dataset, state)
    raise typer.Exit(code)


def _begin(record: FolderRecord, overwrite: bool, run: ExitStack | None, state: "State") -> None:
    """Start the record in the first process; a `run` that fuses keeps others out of the folder."""
    if state.is_main_process:
        if run is not None:
            record.lock(run)
        with wrong_use():
            record.open(overwrite)


def _find_checkpoint(model: str) -> tuple[Path, str]:
    """Its folder, and a hash of all that the pictures depend on in it."""
    folder = pipelines.locate(model, onnx=find_spec("onnxruntime") is not None)
    return folder, pipelines.hash_checkpoint(folder)


def _fuse_share(
    work: Work, share: "data.PairedDataset", limit: int | None, state: "State"
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Fuse the pairs of this process: a row for each, and failures that belong to no pair."""
    rank, world = state.process_index, state.num_processes
    total = share.length
    if total is None and limit is not None:  # a stream
        total = limit // world + (rank < limit % world)
    rows: list[Row] = []
    failures: list[tuple[str, str]] = []

    def groups() -> "Iterator[Row | Sequence[data.Pair]]":
        """Pairs to fuse together, and the row of each pair that is not fused."""
        names: set[str] = set()
        waiting: list[data.Pair] = []
        seen = 0
        try:
            for pair in itertools.islice(share, total):
                seen += 1
                if pair.name in names:
                    why = "an earlier pair has the same name: give the pairs different names"
                    yield Row(pair.name, "failed", notes=(why,))
                elif (done := work.find(pair)) is not None:
                    yield Row(pair.name, "already there", done.output, tuple(done.notes))
                else:
                    waiting.append(pair)
                names.add(pair.name)
                if len(waiting) == work.batch_size:
                    yield waiting
                    waiting = []
        except CommandError:
            raise
        except Exception as error:  # the stream broke; fuse what has arrived, report what is missing
            failures.append((f"pair {seen + 1} and all after it", message_of(error)))
        if waiting:
            yield waiting

    def fuse_group(group: "Row | Sequence[data.Pair]") -> list[Row]:
        return [group] if isinstance(group, Row) else _fuse_group(work, group)

    title = f"fusing (process 1 of {world})" if world > 1 else "fusing"
    with progress_bar(title, total, shown=state.is_main_process and not work.single) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", image.InputWarning)  # each picture carries its own in `info["notes"]`
        with dividing_cores(1 if work.engine == "onnx" else work.threads) as start:
            for found in map_in_order(fuse_group, groups(), work.threads, start):
                rows += found
                bar.update(len(rows) - bar.n)
    return rows, failures


def _fuse_group(work: Work, pairs: "Sequence[data.Pair]") -> list[Row]:
    """Fuse and write pairs; if a group fails, try each of its pairs alone, so that only the bad one is lost."""
    try:
        with TURNS if work.threads > 1 and max(map(pixels, pairs)) > WHOLE_IMAGE_LIMIT else nullcontext():
            images = _run(work, pairs)
        if work.overlaid:
            images = [
                _lay_over(fused, pair.visible_source, pair.infrared_source)
                for fused, pair in zip(images, pairs, strict=True)
            ]
    except Exception as error:  # decoders, memory: whatever fails must not cost the other pairs
        if len(pairs) == 1:
            return [Row(pairs[0].name, "failed", notes=(message_of(error),))]
        return [row for pair in pairs for row in _fuse_group(work, [pair])]
    return [_save(work, pair, fused) for pair, fused in zip(pairs, images, strict=True)]


def _run(work: Work, pairs: "Sequence[data.Pair]") -> list[Any]:
    """The fused pictures."""
    assert work.pipeline is not None
    if any(work.thermal.concerns(pair) for pair in pairs):
        return [work.thermal.fuse(work.pipeline, pair, batch_size=1, **_call(work, [pair])) for pair in pairs]
    visible, infrared = [pair.visible_source for pair in pairs], [pair.infrared_source for pair in pairs]
    return list(work.pipeline(visible, infrared, batch_size=len(pairs), **_call(work, pairs)).images)


def _call(work: Work, pairs: "Sequence[data.Pair]") -> dict[str, Any]:
    """Arguments of the call, of those that the engine has."""
    if work.options["noise_strength"] == 0:
        absent = ("num_inference_steps", "noise_strength") if work.engine == "onnx" else ()
        return {name: value for name, value in work.options.items() if name not in absent}
    import torch

    # Seeds depend on the pair alone, so that batches, processes and resumed runs give the same picture.
    hashes = [hashlib.blake2b(f"{work.seed} {pair.name}".encode(), digest_size=7).digest() for pair in pairs]
    generators = [torch.Generator().manual_seed(int.from_bytes(value, "big")) for value in hashes]
    return work.options | {"generator": generators}


def _lay_over(fused: Any, scan: Any, anatomy: Any) -> Any:
    """The overlay in place of the fused picture, with its notes and metadata."""
    laid = image.overlay_pair(scan, anatomy)
    laid.info.update(fused.info)
    return laid


def _save(work: Work, pair: "data.Pair", fused: Any) -> Row:
    """Write one picture and record it. Raises `CommandError` where the disk takes no picture at all."""
    samples = getattr(fused, "samples", None)
    is_float = fused.mode == "F" or (samples is not None and samples.dtype.kind == "f")
    target = work.output if work.single else work.output / f"{pair.name}{'.tif' if is_float else '.png'}"
    notes = list(fused.info.get("notes", ()))
    if work.bfloat16 and (fused.mode in ("I;16", "F") or samples is not None):
        notes.append(f"bfloat16 leaves about {BFLOAT16_LEVELS} gray levels of a result of 16 bits: use --dtype float32")
    try:
        store_temperatures(fused, target, work.metadata)
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


def _find_done(
    record: FolderRecord,
    dataset: "data.PairedDataset",
    share: "data.PairedDataset",
    overwrite: bool | None,
    state: "State",
) -> dict[str, Done] | None:
    """The pictures that an earlier run of the same options has left complete, None for a stream; writes nothing."""
    if not overwrite:
        if state.is_main_process:
            with wrong_use():
                record.check([] if dataset.length is None else [pair.name for pair in dataset])
        record.read()
    if share.length is None:
        return None
    found = {}
    with progress_bar("checking", share.length, shown=state.is_main_process) as bar, wrong_use():
        for pair in share:
            if (done := record.find(pair, keep=overwrite is False)) is not None:
                found[pair.name] = done
            bar.update()
    return found


def _summarize(
    rows: list[Row], failures: list[tuple[str, str]], work: Work, dataset: "data.PairedDataset", state: "State"
) -> int:
    """Gather the rows of all processes; the main one prints and reports them. Returns the exit code."""
    parts = gather((rows, failures))
    rows = [row for part, _ in parts for row in part]
    failures = [(row.name, row.notes[0]) for row in rows if row.result == "failed"]
    failures += [failure for _, part in parts for failure in part]
    # Two processes of a stream cannot see each other's names while they work.
    processes_with = Counter(name for part, _ in parts for name in {row.name for row in part})
    failures += [(name, "pairs of several processes have this name") for name, n in processes_with.items() if n > 1]
    code = FAILED if failures else 0
    if not state.is_main_process:
        return code
    notes = [with_option_names(note) for row in rows if row.result == "fused" for note in row.notes]
    if work.single:
        for note in notes:
            print_message(f"warning: {note}")
        if failures:
            print_message(f"error: {with_option_names(failures[0][1])}")
        else:
            if text := describe_temperatures(dataset[0], work.thermal):
                typer.echo(text)
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
    others = {"already there": results["already there"], "failed": len(failures)}
    others[f"file{'s' * (len(left_out) != 1)} left out"] = len(left_out)
    counts = [f"{results['fused']} fused", *(f"{count} {what}" for what, count in others.items() if count)]
    typer.echo(f"{work.output}: {', '.join(counts)}; see {report} for each file")
    for name, why in failures:
        typer.echo(f"failed: {name}: {with_option_names(why)}", err=True)
    return code
