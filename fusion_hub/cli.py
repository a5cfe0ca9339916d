"""The command line: `fusion-hub fuse` and `fusion-hub models`.

Exit codes: 0 all is done; 1 something failed, a pair or the whole run; 2 the command was used wrongly; 130 stopped by
the user. Heavy libraries are imported by the functions that need them, so that `--help` answers at once.
"""

import hashlib
import itertools
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from fusion_hub import __version__, pretrained

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
    from rich.progress import Progress

    from fusion_hub.data import Pair, PairedDataset
    from fusion_hub.pipelines import FusionPipeline

FAILED, WRONG_USE, STOPPED = 1, 2, 130
LONGEST_WAIT = timedelta(days=7)  # of the processes that are done for the last one
HEADLINE_METRICS = ("SCD", "VIF", "Qabf")
MODEL_HELP = "A bundled name (see `fusion-hub models`), a pipeline folder, or a Hub id owner/name."
FUSE_EXAMPLES = """
Examples:

  fusion-hub fuse street.png street_ir.png --output fused.png

  fusion-hub fuse visible/ infrared/ --output fused/

  fusion-hub fuse ct/ mri/ --model difffusenet-medical --output fused/

  fusion-hub fuse data/msrs --split test --output fused/

  fusion-hub fuse owner/dataset --split test --streaming --output fused/

  torchrun --nproc_per_node 2 -m fusion_hub.cli fuse visible/ infrared/ --output fused/
"""

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...; auto takes a GPU where there is one.")]
DtypeName = Literal["auto", "float32", "bfloat16"]


class CommandError(Exception):
    """What the user is told, in a sentence, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Tally:
    """What became of the pairs of one process."""

    seen: int = 0
    fused: int = 0
    skipped: int = 0
    names: set[str] = field(default_factory=set)
    failures: list[tuple[str, str]] = field(default_factory=list)  # name of the pair, reason


@dataclass(frozen=True)
class Work:
    """What a process does with each pair.

    Attributes:
        pipeline: on its device, with progress bars off.
        options: arguments of its call.
        output: file for `single`, else the folder that gets `<name>.png`.
        seed: of the noise; each pair draws its own from it and from its name.
    """

    pipeline: "FusionPipeline"
    options: dict[str, Any]
    output: Path
    single: bool
    overwrite: bool
    batch_size: int
    seed: int

    def target(self, pair: "Pair") -> Path:
        return self.output if self.single else self.output / f"{pair.name}.png"


app = typer.Typer(
    name="fusion-hub",
    help="Fuse registered infrared-visible and medical image pairs.",
    epilog="Start with: fusion-hub fuse VISIBLE INFRARED --output OUT",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script."""
    app(prog_name="fusion-hub")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fusion-hub {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fuse registered infrared-visible and medical image pairs."""


# --- fuse ------------------------------------------------------------------------------------------------------------


@app.command(epilog=FUSE_EXAMPLES)
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
        typer.Option(help="auto takes bfloat16 on devices with instructions for it; published numbers are float32."),
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
    num_inference_steps: Annotated[int, typer.Option(min=1, help="Evaluations of the diffusion model.")] = 1,
    noise_strength: Annotated[float, typer.Option(min=0, max=1, help="Noise in the features; 0 is deterministic.")] = 0,
    seed: Annotated[int, typer.Option(help="Of that noise.")] = 0,
    split: Annotated[str | None, typer.Option(help="Split of a dataset, for example test.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Fuse a Hub dataset while it is downloaded.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Fuse so many pairs at most.", show_default="all")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Fuse again what is done already.")] = False,
) -> None:
    """Fuse a pair of images, two folders, or a dataset.

    Images belong together by stem, whatever their extensions. Pairs that are done already are skipped, so a run that
    was stopped goes on with the same command. A bad pair does not stop the others: it is reported at the end, and the
    exit code is 1.
    """
    code = FAILED
    try:
        source, single = _choose_source(visible, infrared, output, streaming)
        options = {
            "tile": tile,
            "rescale": rescale,
            "infrared_range": _parse_range(infrared_range),
            "num_inference_steps": num_inference_steps,
            "noise_strength": noise_strength,
        }
        with _terminate_as_interrupt(), _processes(device) as state:
            dataset = _agreed(lambda: _open_dataset(source, split, streaming, limit, output, single, state))
            pipeline = _agreed(lambda: _load_pipeline(model, _device(device, state), dtype))
            _agreed(lambda: _check_options(pipeline, options, batch_size))
            work = Work(pipeline, options, output, single, overwrite, batch_size, seed)
            tally = _fuse_share(work, _share(dataset, limit, state), state)
            code = _summary(tally, work, state)
    except CommandError as error:
        _complain(f"error: {error}")
        code = error.code
    except KeyboardInterrupt:
        again = "the same command without --overwrite" if overwrite else "the same command"
        _complain(f"stopped: every picture in {output} is whole; {again} goes on with the rest")
        code = STOPPED
    raise typer.Exit(code)


def _complain(message: str) -> None:
    """A line on stderr, of the main process only: the others know nothing that it does not."""
    if int(os.environ.get("RANK", "0")) == 0:
        typer.echo(f"fusion-hub: {message}", err=True)


def _reason(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__


# --- what is asked for -----------------------------------------------------------------------------------------------


def _choose_source(visible: str, infrared: str | None, output: Path, streaming: bool) -> tuple[Any, bool]:
    """What `PairedDataset.open` takes, and whether it is one pair of files."""
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
    else:
        _check_file(output, paths)
    return paths, paths[0].is_file()


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise CommandError(f"--output {output} is a file: give a folder for several pairs", WRONG_USE)


def _check_file(output: Path, inputs: Sequence[Path]) -> None:
    from fusion_hub.image_processor import _SAVE_FORMATS

    if output.is_dir():
        raise CommandError(f"--output {output} is a folder: give a file, for example {output / 'fused.png'}", WRONG_USE)
    if output.suffix.lower() not in _SAVE_FORMATS:
        raise CommandError(f"--output {output}: end it with one of {', '.join(_SAVE_FORMATS)}", WRONG_USE)
    if output.resolve() in [path.resolve() for path in inputs]:
        raise CommandError(f"--output {output} is one of the inputs: give another name", WRONG_USE)


def _parse_range(text: str | None) -> Any:
    """`auto` ... as it is, `LOW,HIGH` as two numbers; checked by the image processor."""
    from fusion_hub.image_processor import FusionImageProcessor

    if text is None:
        return None
    rule: Any = text
    try:
        if "," in text:
            low, high = (float(number) for number in text.split(","))
            rule = (low, high)
        FusionImageProcessor(infrared_range=rule)
    except ValueError:
        raise CommandError(
            f"--infrared-range {text}: give auto, dtype, minmax, percentile, or two rising numbers LOW,HIGH", WRONG_USE
        ) from None
    return rule


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


# --- processes and devices -------------------------------------------------------------------------------------------


@contextmanager
def _processes(device: str) -> "Iterator[PartialState]":
    """The processes of this run, by Accelerate; one if no launcher started several."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    no_accelerator = not torch.accelerator.is_available()
    on_cpu = device == "cpu" or (device == "auto" and (no_accelerator or parse_flag_from_env("ACCELERATE_USE_CPU")))
    state = PartialState(cpu=on_cpu, **({"timeout": LONGEST_WAIT} if "LOCAL_RANK" in os.environ else {}))
    try:
        yield state
    finally:
        state.destroy_process_group()


def _agreed(step: Any) -> Any:
    """Result of `step()`; if it fails in any process all of them raise, so that none waits for one that gave up."""
    from accelerate.utils import gather_object

    result, problem = None, None
    try:
        result = step()
    except CommandError as error:
        problem = (str(error), error.code)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:  # wrong files, Hub, device, memory
        problem = (_reason(error), FAILED)
    problems = [found for found in gather_object([problem]) if found is not None]
    if problems:
        raise CommandError(*problems[0])
    return result


def _device(name: str, state: "PartialState") -> "torch.device":
    import torch

    try:
        wanted = state.device if name == "auto" else torch.device(name)
        if state.num_processes > 1 and wanted.type == state.device.type:
            wanted = state.device  # each process has its own
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CommandError(
            f"--device {name} cannot be used here ({_reason(error).splitlines()[0]}): try cpu", WRONG_USE
        ) from error
    return wanted


def _dtype(name: DtypeName, device: "torch.device") -> "torch.dtype":
    """`auto`: bfloat16 where the device has instructions for it, else float32, which emulation would only slow down."""
    import torch

    if name != "auto":
        return cast("torch.dtype", getattr(torch, name))
    if device.type == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # from torch 2.9 on
        found = torch.cpu.get_capabilities()
        quick = any(found.get(kind, False) for kind in ("avx512_bf16", "amx_bf16"))
    else:
        quick = False
    return torch.bfloat16 if quick else torch.float32


def _load_pipeline(model: str, device: "torch.device", dtype: DtypeName) -> "FusionPipeline":
    from diffusers.utils import logging

    from fusion_hub.pipelines import FusionPipeline

    logging.disable_progress_bar()
    pipeline = FusionPipeline.from_pretrained(model, dtype=_dtype(dtype, device)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM, from `kill`, a scheduler or torchrun, ends as tidily as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        places |= {file.parent for file in (pair.visible_source, pair.infrared_source) if isinstance(file, Path)}
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
    with _progress(f"fusing{whose}", total, shown=state.is_main_process and not work.single) as (bar, task):
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
            tally.failures.append((f"pair {tally.seen + 1} and all after it", _reason(error)))
        _fuse_group(work, waiting, tally)
        bar.update(task, completed=tally.seen)
    return tally


def _is_done(work: Work, pair: "Pair", tally: Tally) -> bool:
    """Whether the pair needs no fusing: its picture is there, or it has the name of an earlier pair."""
    tally.seen += 1
    if pair.name in tally.names:
        tally.failures.append((pair.name, "an earlier pair has the same name: give the pairs different names"))
        return True
    tally.names.add(pair.name)
    if work.target(pair).exists() and not work.overwrite:
        tally.skipped += 1
        return True
    return False


def _fuse_group(work: Work, pairs: "Sequence[Pair]", tally: Tally) -> None:
    """Fuse and write pairs; if a group fails, each of its pairs is tried alone, so that only the bad one is lost."""
    from fusion_hub.image_processor import save_image

    # Decoders, memory, disk: whatever fails must not cost the other pairs, so every exception is caught.
    try:
        images = _fuse_pairs(work, pairs) if pairs else []
    except Exception as error:
        if len(pairs) == 1:
            tally.failures.append((pairs[0].name, _reason(error)))
            return
        for pair in pairs:
            _fuse_group(work, [pair], tally)
        return
    for pair, image in zip(pairs, images, strict=True):
        try:
            save_image(image, work.target(pair))
            tally.fused += 1
        except Exception as error:
            tally.failures.append((pair.name, _reason(error)))


def _fuse_pairs(work: Work, pairs: "Sequence[Pair]") -> list[Any]:
    import torch

    # Files are read by the pipeline itself, whose messages then name them.
    visible = [p.visible_source if isinstance(p.visible_source, Path) else p.visible for p in pairs]
    infrared = [p.infrared_source if isinstance(p.infrared_source, Path) else p.infrared for p in pairs]
    generators = [torch.Generator().manual_seed(_pair_seed(work.seed, pair.name)) for pair in pairs]
    return work.pipeline(visible, infrared, generator=generators, batch_size=len(pairs), **work.options).images


def _pair_seed(seed: int, name: str) -> int:
    """Of the pair alone, so that batches, processes and resumed runs give the same picture."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest(), "big")


@contextmanager
def _progress(title: str, total: int | None, shown: bool) -> "Iterator[tuple[Progress, Any]]":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as bar:
        yield bar, bar.add_task(title, total=total)


def _summary(own: Tally, work: Work, state: "PartialState") -> int:
    """Gather the tallies of all processes; the main one prints them. Returns the exit code."""
    from accelerate.utils import gather_object

    tallies: list[Tally] = gather_object([own])
    failures = [failure for tally in tallies for failure in tally.failures]
    # Two processes of a stream cannot see each other's names while they work.
    common = Counter(name for tally in tallies for name in tally.names)
    failures += [(name, "pairs of several processes have this name") for name, n in common.items() if n > 1]
    if state.is_main_process:
        fused, skipped = sum(tally.fused for tally in tallies), sum(tally.skipped for tally in tallies)
        if work.single and failures:
            _complain(f"error: {failures[0][1]}")
        else:
            _print_summary(fused, skipped, failures, work)
    return FAILED if failures else 0


def _print_summary(fused: int, skipped: int, failures: Sequence[tuple[str, str]], work: Work) -> None:
    parts = [f"{fused} fused"]
    if skipped:
        parts.append(f"{skipped} there already (--overwrite fuses them again)")
    if failures:
        parts.append(f"{len(failures)} failed")
    typer.echo(f"{work.output}: {', '.join(parts)}")
    for name, reason in failures:
        typer.echo(f"failed: {name}: {reason}", err=True)


# --- models ----------------------------------------------------------------------------------------------------------


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the bundled checkpoints, with the numbers measured on their test sets."""
    if as_json:
        typer.echo(json.dumps([_describe(info) for info in pretrained.list_models()], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for column in ("checkpoint", "weights", f"measured: {' '.join(HEADLINE_METRICS)}"):
        table.add_column(column, overflow="fold")
    for info in pretrained.list_models():
        known = _describe(info)
        size = f"{known['bytes'] / 2**20:.1f} MiB" if info.available else "not installed"
        parameters = f"{known['parameters'] / 1e6:.2f} M parameters" if known["parameters"] else ""
        table.add_row(
            f"{info.name}\n{info.model_class}\n{info.modality}",
            "\n".join(filter(None, (size, parameters, info.licence))),
            "\n".join(_headline(info)),
        )
    Console().print(table)


def _describe(info: pretrained.PretrainedInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "pipeline": info.pipeline_class,
        "model": info.model_class,
        "modality": info.modality,
        "datasets": list(info.datasets),
        "summary": info.summary,
        "licence": info.licence,
        "available": info.available,
        "parameters": info.parameters,
        "bytes": sum(file.stat().st_size for file in info.folder.rglob("*.safetensors")),
        "metrics": info.metrics,
    }


def _headline(info: pretrained.PretrainedInfo) -> list[str]:
    """`tno/test 1.80 0.80 0.60` of each set, from the `sets` that `benchmarks/quality.py` writes."""
    lines = []
    for name, content in info.metrics.get("sets", {}).items():
        values = content["metrics"]
        shown = [f"{values[metric]:.2f}" if metric in values else "-" for metric in HEADLINE_METRICS]
        lines.append(" ".join([name, *shown]))
    return lines


if __name__ == "__main__":
    main()
