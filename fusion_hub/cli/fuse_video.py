"""`fusion-hub fuse-video`: two recordings or streams into a video, or into a folder of pictures that can be resumed."""

import warnings
from collections import Counter
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion_hub import __version__, data, files, image, pipelines, rigs, video
from fusion_hub.cli.common import (
    FAILED,
    MODEL_HELP,
    STOPPED,
    WRONG_USE,
    CommandError,
    Denoise,
    Device,
    DtypeName,
    InfraredRange,
    OneProcess,
    RigFile,
    Steps,
    Tile,
    VisibleRange,
    check_device,
    choose_device,
    exit_codes,
    fail_together,
    load_pipeline,
    load_rig,
    message_of,
    name_rig,
    parse_denoise,
    parse_ranges,
    parse_steps,
    print_message,
    progress_bar,
    terminate_as_interrupt,
    with_option_names,
    wrong_use,
)
from fusion_hub.cli.fuse_record import FolderRecord, Row

if TYPE_CHECKING:
    import torch

EXAMPLES = """
\b
Examples:
  fusion-hub fuse-video visible.mp4 infrared.mp4 --output fused.mp4
  fusion-hub fuse-video visible.mp4 infrared.mkv --rig rig.json --time-offset 0.12 --output fused.mp4
  fusion-hub fuse-video frames/visible frames/infrared --frame-rate 9 --output fused.mkv
  fusion-hub fuse-video visible.mp4 infrared.mp4 --output frames/
  fusion-hub fuse-video rtsp://camera/visible rtsp://camera/infrared --output fused.mkv
"""


def fuse_video(
    visible: Annotated[
        str,
        typer.Argument(
            metavar="VISIBLE",
            help="Video file, folder or quoted pattern of pictures, rtsp:// stream, or camera (/dev/video0).",
            show_default=False,
        ),
    ],
    infrared: Annotated[
        str,
        typer.Argument(metavar="INFRARED", help="The same of the infrared; 16-bit gray is kept.", show_default=False),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="An .mp4 file (8 bits, plays everywhere), an .mkv file (bits and chroma of the visible video; "
            "lossless for 16-bit gray), or a folder for one picture a frame.",
            show_default=False,
        ),
    ],
    rig: RigFile = None,
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)] = "difffusenet-msrs",
    device: Device = "auto",
    dtype: Annotated[
        DtypeName,
        typer.Option(
            help="Precision of the network. auto is bfloat16 where the processor computes in it, which differs by up "
            "to 3 gray levels, and float32 elsewhere and for a visible video of more than 8 bits."
        ),
    ] = "auto",
    infrared_range: InfraredRange = None,
    visible_range: VisibleRange = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest difference in time of the two frames of a pair, seconds. Visible frames without an infrared "
            "frame so near are left out.",
            show_default="half of the shorter frame interval",
        ),
    ] = None,
    time_offset: Annotated[
        float | None,
        typer.Option(help="Seconds by which the infrared recording is late.", show_default="that of the rig, else 0"),
    ] = None,
    frame_rate: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1000, help="Of folders of pictures.", show_default="that of the other source, else 25"
        ),
    ] = None,
    audio: Annotated[bool, typer.Option(help="Copy the sound of the visible video.")] = True,
    tile: Tile = None,
    num_inference_steps: Steps = None,
    denoise: Denoise = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Fuse at most this many frames.", show_default="all")] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds without data after which a stream counts as stopped.")
    ] = 10,
    metadata: Annotated[
        bool, typer.Option(help="In a folder: write camera, date and position of the visible pictures.")
    ] = True,
    overwrite: Annotated[
        bool | None,
        typer.Option(
            "--overwrite/--no-overwrite",
            help="Overwrite existing outputs, or keep them.",
            show_default="overwrite a file, resume a folder",
        ),
    ] = None,
) -> None:
    """Fuse a visible with an infrared video, frame by frame.

    Each visible frame is fused with the infrared frame nearest in time. Time stamps, colors and sound are those of the
    visible video. With --infrared-range auto, black and white of 16-bit infrared follow the scene so slowly that
    nothing flickers; LOW,HIGH fixes them, and percentile and minmax set them frame by frame. Ctrl-C ends the video
    early; it is complete up to there. A folder is resumed by the same command. The exit code is 1 if a source was
    damaged or a stream stopped; what had arrived by then is fused.
    """
    with exit_codes("nothing was written"), terminate_as_interrupt():
        is_file = output.suffix.lower() in video.VIDEO_SUFFIXES
        if is_file and overwrite is False and output.exists():
            typer.echo(f"{output}: kept because of --no-overwrite")
            raise typer.Exit(0)
        options = parse_ranges(infrared_range, visible_range)
        options |= {"tile": tile, "num_inference_steps": parse_steps(num_inference_steps)}
        options["denoise"] = parse_denoise(denoise)
        check_device(device)
        _check_output(output, is_file)
        sources = _open_sources(visible, infrared, frame_rate, timeout)
        if visible == infrared or (sources[0].files and _resolved(sources[0]) == _resolved(sources[1])):
            raise CommandError(
                f"{visible} was given as both recordings: give the visible and the infrared one", WRONG_USE
            )
        calibrated = _fitting_rig(rig, *sources)
        if calibrated is not None:
            options["rig"] = calibrated
        if time_offset is None:
            time_offset = 0.0 if calibrated is None else calibrated.time_offset
        _check_inputs_stay(output, sources)
        checkpoint = fail_together(lambda: pipelines.locate(model))
        with wrong_use():
            pipelines.check_stored(checkpoint, options["num_inference_steps"], 0, tile, options["denoise"])
            if is_file:  # a first time before torch is imported
                video.VideoWriter(output, sources[0], audio)

        chosen = choose_device(device, OneProcess(device))
        precision = _choose_precision(dtype, chosen, sources[0].deep)
        if precision == "bfloat16" and sources[0].deep:
            print_message("warning: bfloat16 leaves about 270 gray levels of 16 bits: use --dtype float32")
        comment = f"Fusion Hub {__version__} ({Path(model).name}, {precision})"
        writer: video.VideoWriter | video.FolderWriter
        folder = None
        if is_file:
            files.sweep_leftovers(output.parent)  # of a run that was killed: a video may be large
            writer = video.VideoWriter(output, sources[0], audio, comment)
        else:
            settings: dict[str, Any] = {
                "model": model,
                "weights": pipelines.hash_checkpoint(checkpoint),
                "dtype": precision,
            }
            settings |= {name: value for name, value in options.items() if name != "rig"}
            settings |= {"rig": name_rig(rig, calibrated) if rig and calibrated else None, "metadata": metadata}
            settings |= {"tolerance": tolerance, "time_offset": time_offset, "frame_rate": frame_rate}
            folder = _Folder(output, settings, sources, overwrite)
            writer = video.FolderWriter(output, comment, metadata, folder.add)
        pipeline = fail_together(lambda: load_pipeline(checkpoint, chosen, precision))
        with ExitStack() as run:
            if folder is not None:
                folder.record.lock(run)
                with wrong_use():
                    folder.record.open(bool(overwrite))
            report = _run(sources, writer, pipeline, folder, limit, tolerance, time_offset, options)
        code = _summarize(report, writer, output, folder)
    raise typer.Exit(code)


def _check_output(output: Path, is_file: bool) -> None:
    with wrong_use():
        if is_file and output.is_dir():
            raise ValueError(f"--output {output} is a folder: give another name for the video")
        if not is_file and output.suffix and not output.is_dir():
            raise ValueError(f"--output {output}: end it with .mp4 or .mkv, or give a folder")
        if not is_file and output.exists() and not output.is_dir():
            raise ValueError(f"--output {output} is a file: give a folder, or a name that ends with .mp4 or .mkv")
        try:
            files.check_writable(output.parent if is_file else output)
        except OSError as error:
            raise ValueError(str(error)) from error


def _open_sources(
    visible: str, infrared: str, frame_rate: float | None, timeout: float
) -> "tuple[video.Source, video.Source]":
    try:
        return video.open_sources(visible, infrared, frame_rate, timeout)
    except FileNotFoundError as error:
        raise CommandError(str(error), WRONG_USE) from error
    except (ValueError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error


def _fitting_rig(path: Path | None, visible: "video.Source", infrared: "video.Source") -> "rigs.Rig | None":
    """The rig, if it fits the sources; without one they must have one size."""
    sizes = [f"{source.size[1]}x{source.size[0]}" for source in (visible, infrared)]
    if path is None:
        if visible.size != infrared.size:
            raise CommandError(
                f"{visible.label} is {sizes[0]} but {infrared.label} is {sizes[1]} (width x height): align the cameras "
                "with fusion-hub calibrate and add --rig rig.json",
                WRONG_USE,
            )
        return None
    rig = load_rig(path)
    with wrong_use():
        rig.at(visible.size, infrared.size)
    return rig


def _resolved(source: "video.Source") -> set[Path]:
    return {file.resolve() for file in source.files}


def _check_inputs_stay(output: Path, sources: "tuple[video.Source, video.Source]") -> None:
    place = output.resolve()
    inputs = _resolved(sources[0]) | _resolved(sources[1])
    if place in inputs:
        raise CommandError(f"--output {output} is one of the inputs: give another name", WRONG_USE)
    if place in {file.parent for file in inputs if file.suffix.lower() in image.EXTENSIONS}:
        raise CommandError(f"--output {output} holds the inputs: give another folder", WRONG_USE)


def _choose_precision(dtype: DtypeName, device: "torch.device", deep: bool) -> DtypeName:
    """bfloat16 for `auto` where the hardware computes in it and 8 bits are wanted."""
    if dtype != "auto":
        return dtype
    import torch

    if deep:
        fast = False
    elif device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
        fast = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))
    return "bfloat16" if fast else "float32"


class _Folder:
    """The record of a folder of results, and what is done there."""

    def __init__(
        self,
        output: Path,
        settings: dict[str, Any],
        sources: "tuple[video.Source, video.Source]",
        overwrite: bool | None,
    ) -> None:
        self.record = FolderRecord(output, {**settings, "version": __version__}, 0)
        self.rows: list[Row] = []
        self._keep = overwrite is False
        self._files = [{file.stem: file for file in source.files} for source in sources]
        self._infrared: dict[str, str] = {}  # names of the frames that the frames under way are fused with
        if repeated := [name for name, n in Counter(f.stem for f in sources[0].files).items() if n > 1]:
            raise CommandError(f"several pictures of VISIBLE have the name {repeated[0]!r}: give them different names")
        if sources[0].live and output.is_dir() and any(output.iterdir()):
            raise CommandError(f"--output {output} is not empty: give a new folder for a live stream", WRONG_USE)
        if not overwrite:
            with wrong_use():
                self.record.check(file.stem for file in sources[0].files)
            self.record.read()

    def is_done(self, visible: "video.Frame", infrared: "video.Frame") -> bool:
        self._infrared[visible.name] = infrared.name
        with wrong_use():
            done = self.record.find(self._pair(visible.name), self._keep)
        if done is not None:
            self.rows.append(Row(visible.name, "already there", done.output))
            self._infrared.pop(visible.name)
        return done is not None

    def add(self, frame: "video.Frame", target: Path) -> None:
        self.record.add(self._pair(frame.name), target, [])
        self.rows.append(Row(frame.name, "fused", target.name))
        self._infrared.pop(frame.name)

    def _pair(self, name: str) -> "data.Pair":
        """Of files: those of the pair, or the two videos."""
        names = (name, self._infrared[name])
        found = [
            by_stem.get(one) or next(iter(by_stem.values()), None)
            for by_stem, one in zip(self._files, names, strict=True)
        ]
        return data.Pair(name, *found)  # type: ignore[arg-type]


def _run(
    sources: "tuple[video.Source, video.Source]",
    writer: "video.VideoWriter | video.FolderWriter",
    pipeline: Any,
    folder: _Folder | None,
    limit: int | None,
    tolerance: float | None,
    time_offset: float,
    options: dict[str, Any],
) -> "video.Report":
    counts = [count for count in (sources[0].count, limit) if count is not None]
    with progress_bar("fusing", min(counts, default=None), shown=True, unit="frame") as bar, warnings.catch_warnings():
        warnings.simplefilter("always", image.InputWarning)
        warnings.showwarning = lambda message, *_: bar.write(f"fusion-hub: warning: {with_option_names(str(message))}")
        try:
            return video.fuse_video(
                *sources,
                writer,
                pipeline,
                tolerance=None if tolerance is None else Fraction(str(tolerance)),
                time_offset=Fraction(str(time_offset)),
                limit=limit,
                is_done=None if folder is None else folder.is_done,
                on_frame=lambda report: bar.update(report.visible_read - bar.n),
                **options,
            )
        except Exception as error:  # the disk, memory, an encoder
            place = writer.target if isinstance(writer, video.VideoWriter) else writer.folder
            raise CommandError(files.disk_trouble(error, place) or message_of(error)) from error


def _summarize(
    report: "video.Report", writer: "video.VideoWriter | video.FolderWriter", output: Path, folder: _Folder | None
) -> int:
    """Print what was done; returns the exit code."""
    for note in writer.notes:
        print_message(f"warning: {note}")
    pairing = report.pairing
    within = f"within {float(report.tolerance):.3g} s (--tolerance)"
    counts = [f"{report.fused} frames fused"]
    if folder is None:
        counts[0] += f", {float(report.end):.1f} s"
    others = {
        "already there": report.kept,
        "failed": len(report.failed),
        f"visible frames left out without an infrared frame {within}": pairing.visible_alone,
        "infrared frames not used": pairing.infrared_alone,
        "frames dropped because they came faster than they can be fused": report.dropped,
    }
    text = "; ".join(counts + [f"{count} {what}" for what, count in others.items() if count])
    if folder is not None:
        rows = folder.rows + [Row(name, "failed", notes=(why,)) for name, why in report.failed]
        text += f"; see {folder.record.write_report(sorted(rows, key=lambda row: row.name))}"
    problems = [*report.problems, *(f"frame {name}: {why}" for name, why in report.failed[:3])]
    if not report.fused and not report.kept:
        if report.stopped:
            raise KeyboardInterrupt
        why = problems[0] if problems else f"no visible frame has an infrared frame {within}: set --time-offset"
        raise CommandError(f"{why}; nothing was written")
    if report.stopped:
        rest = "it is complete up to there" if folder is None else "run the same command to fuse the rest"
        print_message(f"stopped: {output}: {text}; {rest}")
        return STOPPED
    typer.echo(f"{output}: {text}")
    for problem in problems:
        print_message(f"error: {with_option_names(problem)}")
    return FAILED if problems else 0
