"""Shared by the commands: exit codes, processes, devices, the pipeline, the progress bar."""

import hashlib
import json
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, cast

import typer

import fusion_hub
from fusion_hub import image, rigs
from fusion_hub.allocator import keep_freed_memory

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
    from tqdm import tqdm

T = TypeVar("T")
FAILED, WRONG_USE, STOPPED = 1, 2, 130
MAX_WAIT = timedelta(days=7)  # of finished processes for the last one
NO_FIGURE = "no figure: matplotlib is not installed (pip install 'fusion-hub[evaluate]')"
MODEL_HELP = "A bundled name (see `fusion-hub models`), a pipeline folder, or a Hub id owner/name."

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...; auto uses a GPU where there is one.")]
Steps = Annotated[
    str | None, typer.Option(help="Steps of the diffusion model, a number or auto.", show_default="the model's own")
]
Denoise = Annotated[
    str,
    typer.Option(
        help="Sensor noise to remove: 0 (none) to 1 (strong), or auto: as much as each image shows. DiffFuseNet only."
    ),
]
InfraredRange = Annotated[
    str | None,
    typer.Option(
        help="Values that become black and white in the infrared: auto, dtype, minmax, percentile or LOW,HIGH, in "
        "degrees C for radiometric files.",
        show_default="the model's own",
    ),
]
VisibleRange = Annotated[str | None, typer.Option(help="The same for the visible image.", show_default="auto")]
RigFile = Annotated[
    Path | None,
    typer.Option(
        "--rig",
        metavar="FILE",
        help="Two fixed cameras, a file from `fusion-hub calibrate`: the infrared is brought onto the visible image.",
        show_default="the pairs are registered",
    ),
]
Align = Annotated[
    Literal["auto"] | None,
    typer.Option(
        help="auto aligns each pair by itself; for fixed cameras, --rig is quicker and more certain.",
        show_default="off",
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        min=0, help="Largest side of the tiles in pixels; 0 turns tiling off.", show_default="auto, for large images"
    ),
]
DtypeName = Literal["auto", "float32", "bfloat16"]


class CommandError(Exception):
    """An error for the user, one sentence, with the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def print_message(message: str) -> None:
    """Print a line on stderr, in the first process of each machine."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        typer.echo(f"fusion-hub: {message}", err=True)


def show_warnings_in_words() -> None:
    """Print what Python warns of as lines of ours, without the path and the line of code.

    Those of other libraries too, as they may say why a GPU is not used; but not what only concerns programmers.
    """

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
            print_message(f"warning: {with_option_names(' '.join(str(message).split()))}")

    warnings.showwarning = show


def refuse_file(output: Path | None) -> None:
    """Refuse an `--output` that is a file where a folder is needed."""
    if output is not None and output.exists() and not output.is_dir():
        raise CommandError(f"--output {output} is a file: give a folder", WRONG_USE)


def check_exists(paths: Iterable[Path], wanted: str) -> None:
    """Refuse a path that does not exist; `wanted` says what to give."""
    for path in paths:
        if not path.exists():
            raise CommandError(f"{path} does not exist: give {wanted}")


def message_of(error: BaseException) -> str:
    """The text of an error, without the stack that PyTorch appends; its class name where it has none."""
    if isinstance(error, MemoryError):
        return "the memory is not enough: give smaller tiles or a smaller batch"
    text = str(error).strip()
    return (text.splitlines()[0] if text and isinstance(error, RuntimeError) else text) or type(error).__name__


def with_option_names(text: str) -> str:
    """A message of the library with the names of options, `--tile 3` for `tile=3`."""
    text = text.replace("rig='auto'", "--align auto")
    always = "fov_ratio|infrared_range|visible_range|num_inference_steps|noise_strength|batch_size"
    thermal = "emissivity|distance|humidity|reflected_temperature|atmospheric_temperature|counts"
    names = rf"\b({always}|(?:tile|rescale|split|streaming|denoise|{thermal})(?==))(=?)(?=([^\s:,;.)])?)"
    text = re.sub(names, lambda m: f"--{m[1].replace('_', '-')}{' ' if m[2] and m[3] else ''}", text)
    return text.replace("(low, high)", "LOW,HIGH")


def load_rig(file: Path, option: str = "--rig") -> "rigs.Rig":
    """The rig of a file that an option names."""
    with wrong_use():
        try:
            rig = rigs.Rig.load(file)
        except OSError as error:
            raise ValueError(f"{option} {file} cannot be read: {error.strerror or message_of(error)}") from error
    if rig.confidence is not None and not rig.confidence.sure:
        print_message(f"{file} holds an estimate that was not sure (--accept-unsure): look at the results")
    return rig


def parse_rig(file: Path | None, align: str | None) -> "tuple[rigs.Rig | str | None, str | None]":
    """`--rig` and `--align` as a pipeline takes them, and a text that stands for them; None where not given."""
    if file is None:
        return align, align
    if align is not None:
        raise CommandError("--rig and --align exclude each other: the rig aligns all pairs", WRONG_USE)
    rig = load_rig(file)
    return rig, name_rig(file, rig)


def name_rig(file: Path, rig: "rigs.Rig") -> str:
    """A rig as the records of a folder name it: by its file and a hash of its content."""
    return f"{file.name} ({hashlib.blake2b(json.dumps(rig.to_dict()).encode(), digest_size=4).hexdigest()})"


@contextmanager
def exit_codes(when_stopped: str) -> Iterator[None]:
    """Turn `CommandError` and Ctrl-C into one line on stderr and an exit code, without a traceback."""
    try:
        yield
    except CommandError as error:
        print_message(f"error: {with_option_names(str(error))}")
        raise typer.Exit(error.code) from error
    except KeyboardInterrupt:
        print_message(f"stopped: {when_stopped}")
        raise typer.Exit(STOPPED) from None


@contextmanager
def wrong_use() -> Iterator[None]:
    """Turn a `ValueError` into a `CommandError` with the exit code of wrong use."""
    try:
        yield
    except ValueError as error:
        raise CommandError(str(error), WRONG_USE) from error


def parse_ranges(infrared: str | None, visible: str | None) -> dict[str, Any]:
    """`--infrared-range` and `--visible-range` as a pipeline takes them; None where not given."""
    with wrong_use():
        return {
            f"{name}_range": None if text is None else image.parse_range(text, f"--{name}-range")
            for name, text in (("infrared", infrared), ("visible", visible))
        }


def parse_steps(text: str | None) -> int | Literal["auto"] | None:
    """`--num-inference-steps`: a number from 1, `auto`, or None for the model's own."""
    if text is None or text == "auto":
        return cast(Literal["auto"] | None, text)
    if not text.isdecimal() or int(text) < 1:
        raise CommandError(f"--num-inference-steps {text}: give a whole number from 1, or auto", WRONG_USE)
    return int(text)


def parse_denoise(text: str) -> float | Literal["auto"]:
    """`--denoise`: a number from 0 to 1, or `auto`."""
    try:
        value = "auto" if text == "auto" else float(text)
    except ValueError:
        value = -1
    if value != "auto" and not 0 <= cast(float, value) <= 1:
        raise CommandError(f"--denoise {text}: give auto, or a number from 0 (none) to 1 (strong noise)", WRONG_USE)
    return cast(float | Literal["auto"], value)


class OneProcess:
    """Of a run that no launcher started, what the commands use of accelerate's `PartialState`.

    torch and accelerate are imported only for its device, so that a refusal does not wait for them.
    """

    is_main_process, process_index, num_processes = True, 0, 1

    def __init__(self, device: str) -> None:
        self._wanted = device

    @property
    def device(self) -> "torch.device":
        return _start_processes(self._wanted).device

    def wait_for_everyone(self) -> None:
        """There is no other."""


State: TypeAlias = "OneProcess | PartialState"


def launched() -> bool:
    """Whether torchrun, accelerate or MPI started this process, as accelerate finds out."""
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return "LOCAL_RANK" in os.environ or any(os.environ.get(name, "1") != "1" for name in sizes)


@contextmanager
def processes(device: str) -> "Iterator[State]":
    """The processes of this run, by Accelerate; one if no launcher started several."""
    if not launched():
        yield OneProcess(device)
        return
    state = _start_processes(device)
    try:
        yield state
    finally:
        state.destroy_process_group()


def _start_processes(device: str) -> "PartialState":
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    no_accelerator = not torch.accelerator.is_available()
    on_cpu = device == "cpu" or (device == "auto" and (no_accelerator or parse_flag_from_env("ACCELERATE_USE_CPU")))
    return PartialState(cpu=on_cpu, **({"timeout": MAX_WAIT} if "LOCAL_RANK" in os.environ else {}))


def gather(value: T) -> list[T]:
    """The value of each process, in their order."""
    if not launched():
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def fail_together(step: Callable[[], T]) -> T:
    """Result of `step()`. If it fails in one process all of them raise, so that none waits for one that gave up."""
    result, problem = None, None
    try:
        result = step()
    except CommandError as error:
        problem = (str(error), error.code)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:  # wrong files, Hub, device, memory
        problem = (message_of(error), FAILED)
    problems = [found for found in gather(problem) if found is not None]
    if problems:
        raise CommandError(*problems[0])
    return cast(T, result)


def check_device(name: str) -> None:
    """Refuse what cannot be the name of a device, without torch."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu|npu|hpu|xla|mlu|musa)(:\d+)?", name):
        raise CommandError(f"--device {name} cannot be used here: give auto, cpu, cuda, cuda:1 or mps", WRONG_USE)
    if name not in ("auto", "cpu") and find_spec("torch") is None:
        raise CommandError(f"--device {name} cannot be used here (PyTorch is not installed): try cpu", WRONG_USE)
    if not name.startswith("cuda"):
        return
    from importlib.metadata import version  # imports much

    if version("torch").endswith("+cpu"):
        raise CommandError(
            f"--device {name} cannot be used here (this PyTorch is a build for CPUs): try cpu", WRONG_USE
        )


def choose_device(name: str, state: "State") -> "torch.device":
    """The device of this process for `--device`."""
    check_device(name)
    import torch

    try:
        wanted = state.device if name == "auto" else torch.device(name)
        if state.num_processes > 1 and wanted.type == state.device.type:
            wanted = state.device  # each process has its own
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, ValueError) as error:
        text = f"--device {name} cannot be used here ({message_of(error).splitlines()[0]}): try cpu"
        raise CommandError(text, WRONG_USE) from error
    return wanted


def load_pipeline(model: str | Path, device: "torch.device", dtype: DtypeName) -> "fusion_hub.FusionPipeline":
    """The pipeline on its device, without progress bars of its own.

    `auto` is float32: the precision of the published numbers, and the same picture on every machine.
    """
    import torch
    from diffusers.utils import logging

    if device.type == "cpu":
        keep_freed_memory()
    logging.disable_progress_bar()
    precision = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    pipeline = fusion_hub.FusionPipeline.from_pretrained(model, dtype=precision).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM, from `kill`, a scheduler or torchrun, like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress_bar(title: str, total: int | None, shown: bool, unit: str = "pair") -> "Iterator[tqdm[Any] | _HiddenBar]":
    """A bar with elapsed and remaining time on stderr, if that is a terminal; `total` is None for streams."""
    if not shown or not sys.stderr.isatty():
        yield _HiddenBar()
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit=unit, dynamic_ncols=True) as bar:
        yield bar


class _HiddenBar:
    """What the commands use of tqdm's bar, which takes a while to import."""

    n = 0

    def update(self, count: float = 1) -> None:
        self.n += int(count)

    def write(self, text: str) -> None:
        typer.echo(text)
