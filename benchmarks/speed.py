"""Speed and memory of the networks: one table, each row measured in a process of its own.

    python benchmarks/speed.py --json speed.json                 # every size and every bundled checkpoint
    python benchmarks/speed.py --models base --dtypes bf16 --compile --threads 4
    python benchmarks/speed.py --device cuda                     # on a GPU
    python benchmarks/speed.py --memory-8k                       # peak memory of a pipeline on an 8192 x 8192 pair

A row times the network on one luminance pair (`model`) and the pipeline from decoded picture to picture (`pipeline`),
wall clock, after warm-up. The table also holds one plain convolution, 64 to 64 channels, 3x3, on an image of the same
size, timed in the same process in turn with the network: seconds depend on the machine, their ratio hardly does. FLOPs
count 2 for a multiply-add, in convolutions and matrix products. The process keeps its freed memory, as the command
line does (`fusion_hub/allocator.py`), except for `--memory-8k`, which shows the memory of a plain program. Peak memory
is the resident size of the whole process, interpreter and libraries included, after the calls of the pipeline; on a
GPU it is the memory of the tensors. The pipeline's time includes copies to the GPU and back.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fusion_hub
from fusion_hub import DiffFuseNetModel, DiffFuseNetPipeline, FusionPipeline, list_models
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.models import DIFFFUSENET_VARIANTS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIB = 2**20


@dataclass(frozen=True)
class Task:
    """What one process is to measure.

    Attributes:
        model: a size of DiffFuseNet (weights do not matter for speed), a bundled checkpoint or a pipeline folder.
        dtype: `"fp32"` or `"bf16"`, of weights and input.
        compile: whether the network goes through torch.compile.
        height, width: of the pair, pixels.
        threads: torch's.
        repeats: timed calls.
        warm_up: calls before them.
        whole: only one call of the pipeline, for its memory; nothing else is timed.
        device: `"cpu"` or `"cuda"`.
    """

    model: str
    dtype: str = "fp32"
    compile: bool = False
    height: int = 480
    width: int = 640
    threads: int = 2
    repeats: int = 10
    warm_up: int = 3
    whole: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Timing:
    """Seconds of a call."""

    median: float
    minimum: float


@dataclass(frozen=True)
class Row:
    """One line of the table; what a task does not measure is None."""

    task: Task
    parameters: int
    flops: int | None
    model: Timing | None
    pipeline: Timing
    convolution: Timing | None
    peak_mib: float

    @property
    def ratio(self) -> float | None:
        """The network's time over that of the convolution, both medians."""
        return self.model.median / self.convolution.median if self.model and self.convolution else None


# --- measuring one row -----------------------------------------------------------------------------------------------


def build_pipeline(name: str) -> Any:
    """A pipeline from a name of `Task.model`, on the CPU, in eval mode."""
    pipeline: FusionPipeline
    if name in DIFFFUSENET_VARIANTS:
        torch.manual_seed(0)
        model = DiffFuseNetModel(**DIFFFUSENET_VARIANTS[name]).eval()
        pipeline = DiffFuseNetPipeline(model, model.build_scheduler())
    else:
        pipeline = FusionPipeline.from_pretrained(name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def count_flops(model: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of one call, 2 for each multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops()


@torch.no_grad()
def time_in_turn(calls: Sequence[Callable[[], Any]], repeats: int, warm_up: int) -> list[Timing]:
    """Time several calls in turn, so that other load on the machine affects all of them equally."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(warm_up + repeats):
        for call, values in zip(calls, seconds, strict=True):
            begun = time.perf_counter()
            call()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if turn >= warm_up:
                values.append(time.perf_counter() - begun)
    return [Timing(statistics.median(values), min(values)) for values in seconds]


def peak_memory(device: str = "cpu") -> float:
    """Largest size so far, MiB: of this process, or of its tensors on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had before it started us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / MIB
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def random_pictures(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A colour picture `(3, H, W)` and a grey one `(1, H, W)`, uint8."""
    torch.manual_seed(0)
    visible = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return visible, torch.randint(256, (1, height, width), dtype=torch.uint8)


def measure(task: Task) -> Row:
    """Measure in this process. Its memory should be fresh: see `measure_apart`."""
    torch.set_num_threads(task.threads)
    dtype = DTYPES[task.dtype]
    pipeline = build_pipeline(task.model).to(task.device, dtype)
    model: nn.Module = pipeline.model.to(memory_format=torch.channels_last)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    pictures = random_pictures(task.height, task.width)
    if task.whole:
        begun = time.perf_counter()
        pipeline(*pictures)
        seconds = time.perf_counter() - begun
        return Row(task, parameters, None, None, Timing(seconds, seconds), None, peak_memory(task.device))

    multiple = int(pipeline.model.multiple)
    padded = [math.ceil(side / multiple) * multiple for side in (task.height, task.width)]
    visible, infrared = torch.rand(2, 1, 1, *padded).to(task.device, dtype)
    flops = count_flops(model, visible, infrared)
    if task.compile:
        model.compile()
    (whole,) = time_in_turn([lambda: pipeline(*pictures)], task.repeats, task.warm_up)
    peak = peak_memory(task.device)

    layer = nn.Conv2d(64, 64, 3, padding=1, device=task.device, dtype=dtype)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = torch.rand(1, 64, task.height, task.width).to(task.device, dtype, memory_format=torch.channels_last)
    network, convolution = time_in_turn(
        [lambda: model(visible, infrared), lambda: layer(features)], task.repeats, task.warm_up
    )
    return Row(task, parameters, flops, network, whole, convolution, peak)


# --- one process for each row ----------------------------------------------------------------------------------------


def measure_apart(task: Task) -> Row:
    """`measure` in a new process.

    Raises:
        RuntimeError: it failed; its last words are in the message.
    """
    command = [sys.executable, __file__, "--row", json.dumps(asdict(task))]
    environment = os.environ | {"OMP_NUM_THREADS": str(task.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {task} ended with code {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return row_from_json(json.loads(done.stdout.splitlines()[-1]))


def row_from_json(values: dict[str, Any]) -> Row:
    """Inverse of `dataclasses.asdict`."""

    def timing(name: str) -> Timing | None:
        return Timing(**values[name]) if values[name] else None

    numbers = {name: values[name] for name in ("parameters", "flops", "peak_mib")}
    return Row(
        task=Task(**values["task"]),
        model=timing("model"),
        pipeline=Timing(**values["pipeline"]),
        convolution=timing("convolution"),
        **numbers,
    )


# --- the report ------------------------------------------------------------------------------------------------------


def provenance(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Where the numbers are from."""
    return {
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "fusion_hub": fusion_hub.__version__,
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown."""
    head = ("model", "dtype", "size", "parameters", "GFLOPs", "model s", "min", "pipeline s", "min", "conv s", "ratio")
    lines = [(*head, "peak MiB")]
    for row in rows:
        task = row.task
        lines.append(
            (
                task.model,
                task.dtype + " compiled" * task.compile,
                f"{task.width}x{task.height}",
                f"{row.parameters / 1e6:.2f} M",
                "-" if row.flops is None else f"{row.flops / 1e9:.1f}",
                *_seconds(row.model),
                *_seconds(row.pipeline),
                _seconds(row.convolution)[0],
                "-" if row.ratio is None else f"{row.ratio:.1f}",
                f"{row.peak_mib:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths)
    return "\n".join(line + " |" for line in (text[0], *text[1:])).replace("\n", f"\n{rule}|\n", 1)


def _seconds(timing: Timing | None) -> tuple[str, str]:
    if timing is None:
        return "-", "-"
    digits = 4 if timing.median < 0.1 else 3
    return f"{timing.median:.{digits}f}", f"{timing.minimum:.{digits}f}"


def write_json(path: Path, rows: Sequence[Row], threads: int, device: str = "cpu") -> None:
    """Rows and provenance; a file is never half written."""
    content = {"provenance": provenance(threads, device), "rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


def default_models() -> list[str]:
    """Every size, and the checkpoints that this installation holds."""
    return [*DIFFFUSENET_VARIANTS, *(info.name for info in list_models() if info.available)]


def plan(arguments: argparse.Namespace) -> list[Task]:
    """The rows that were asked for."""
    names = arguments.models or default_models()
    if arguments.memory_8k:
        bundled = [name for name in names if name not in DIFFFUSENET_VARIANTS]
        chosen = arguments.models or bundled[:1] or ["base"]
        side = arguments.side
        fixed = {"threads": arguments.threads, "device": arguments.device}
        return [Task(name, "fp32", False, side, side, whole=True, **fixed) for name in chosen]
    times = {"repeats": arguments.repeats, "warm_up": arguments.warm_up}
    return [
        Task(name, dtype, compiled, 480, 640, arguments.threads, **times, device=arguments.device)
        for name in names
        for dtype in arguments.dtypes
        for compiled in ((False, True) if arguments.compile else (False,))
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="sizes, bundled names or pipeline folders; default: all there are")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls")
    parser.add_argument("--warm-up", type=int, default=3, help="calls before them")
    parser.add_argument("--memory-8k", action="store_true", help="only the peak memory of a very large pair")
    parser.add_argument("--side", type=int, default=8192, help="of that pair, pixels")
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # a task for this process alone
    arguments = parser.parse_args(argv)
    for name in ("threads", "repeats", "side"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: torch {torch.__version__} sees no GPU here")
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        parser.error(f"--json {arguments.json}: its folder does not exist")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. 1 if a row could not be measured."""
    arguments = parse(argv)
    if arguments.row:
        values = json.loads(arguments.row)
        task = Task(**{field.name: values[field.name] for field in fields(Task)})
        if not task.whole:
            keep_freed_memory()  # as the command line does
        print(json.dumps(asdict(measure(task))))
        return 0
    rows: list[Row] = []
    for task in plan(arguments):
        print(f"{task.model} {task.dtype} {task.width}x{task.height} ...", file=sys.stderr, flush=True)
        try:
            rows.append(measure_apart(task))
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(
        ", ".join(f"{name} {value}" for name, value in provenance(arguments.threads, arguments.device).items()) + "\n"
    )
    print(table(rows))
    if arguments.json:
        write_json(arguments.json, rows, arguments.threads, arguments.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
