"""Speed and memory of the networks: one table, each row measured in a process of its own.

    python benchmarks/speed.py --json speed.json                 # every size and every bundled checkpoint
    python benchmarks/speed.py --models base --dtypes bf16 --compile --threads 4
    python benchmarks/speed.py --device cuda                     # on a GPU
    python benchmarks/speed.py --memory-8k                       # peak memory of a pipeline on an 8192 x 8192 pair
    python benchmarks/speed.py --peers all                       # beside the networks of other methods
    python benchmarks/speed.py --profile difffusenet-msrs        # where the time goes, by kind of operation

A row times the network on one luminance pair (`model`) and the pipeline from decoded picture to picture (`pipeline`),
wall clock, after warm-up. The table also holds one plain convolution, 64 to 64 channels, 3x3, on an image of the same
size, timed in the same process in turn with the network: seconds depend on the machine, their ratio hardly does. FLOPs
count 2 for a multiply-add, in convolutions and matrix products. The process keeps its freed memory, as the command
line does (`fusion_hub/allocator.py`), except for `--memory-8k`, which shows the memory of a plain program. Peak memory
is the resident size of the whole process, interpreter and libraries included, after the calls of the pipeline; on a
GPU it is the memory of the tensors. The pipeline's time includes copies to the GPU and back.

`--peers` times the networks alone, ours and those of `peers.py` (random parameters), in turn in one process
(`speed_peers.py`): fastest of `--repeats`, ratios to the convolution in the same type and to the first of `--models` in
bfloat16, eager. A call of more than 10 s is timed once. Minutes on two cores; `--compile` takes several more.
`--profile` is for the CPU (`speed_profile.py`).
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import speed_peers
import speed_profile
import torch
from common import MIB
from networks import DTYPES, SIZE, build_pipeline, count_flops, luminance_pair, plain_convolution
from peers import PEERS
from torch import nn

from fusion_hub import list_models
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.evaluation.report import markdown_table
from fusion_hub.models import DIFFFUSENET_VARIANTS


@dataclass(frozen=True)
class Task:
    """What one process is to measure."""

    model: str  # a size of DiffFuseNet (weights do not matter for speed), a bundled checkpoint or a pipeline folder
    dtype: str = "fp32"  # or "bf16", of weights and input
    compile: bool = False  # with torch.compile
    height: int = SIZE["height"]
    width: int = SIZE["width"]
    threads: int = 2
    repeats: int = 10  # timed calls
    warm_up: int = 3  # calls before them
    whole: bool = False  # only one call of the pipeline, for its memory
    device: str = "cpu"  # or "cuda"


def measure(task: Task) -> dict[str, Any]:
    """A row, measured in this process, whose memory should be fresh. What the task does not measure is None."""
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    dtype = DTYPES[task.dtype]
    pipeline = build_pipeline(task.model).to(task.device, dtype)
    model: nn.Module = pipeline.model.to(memory_format=torch.channels_last)
    pictures = [torch.randint(256, (bands, task.height, task.width), dtype=torch.uint8) for bands in (3, 1)]
    row: dict[str, Any] = {
        "task": asdict(task),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **dict.fromkeys(("flops", "model", "pipeline", "convolution", "peak_mib", "ratio")),
    }

    def time_calls(calls: dict[str, Callable[[], Any]], repeats: int, warm_up: int) -> None:
        with torch.no_grad():
            timings = common.time_in_turn(list(calls.values()), repeats, warm_up)
        for name, (walls, _) in zip(calls, timings, strict=True):
            row[name] = {"median": statistics.median(walls), "minimum": min(walls)}

    if not task.whole:
        multiple = int(pipeline.model.multiple)
        padded = [math.ceil(side / multiple) * multiple for side in (task.height, task.width)]
        visible, infrared = luminance_pair(padded[0], padded[1], task.device, dtype)
        row["flops"] = count_flops(model, visible, infrared)
    if task.compile:
        model.compile()
    repeats, warm_up = (1, 0) if task.whole else (task.repeats, task.warm_up)
    time_calls({"pipeline": lambda: pipeline(*pictures)}, repeats, warm_up)
    row["peak_mib"] = common.peak_memory(task.device) / MIB
    if not task.whole:
        convolution = plain_convolution(task.height, task.width, task.device, dtype)
        calls = {"model": lambda: model(visible, infrared), "convolution": convolution}
        time_calls(calls, task.repeats, task.warm_up)
        row["ratio"] = row["model"]["median"] / row["convolution"]["median"]
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All rows as Markdown."""
    head = ("model", "dtype", "size", "parameters", "GFLOPs", "model s", "min", "pipeline s", "min", "conv s", "ratio")
    lines = []
    for row in rows:
        task = row["task"]
        name, size = task["dtype"] + " compiled" * task["compile"], f"{task['width']}x{task['height']}"
        flops = "-" if row["flops"] is None else f"{row['flops'] / 1e9:.1f}"
        seconds = (*_seconds(row["model"]), *_seconds(row["pipeline"]), _seconds(row["convolution"])[0])
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}"
        parameters, peak = f"{row['parameters'] / 1e6:.2f} M", f"{row['peak_mib']:.0f}"
        lines.append((task["model"], name, size, parameters, flops, *seconds, ratio, peak))
    return markdown_table((*head, "peak MiB"), lines)


def _seconds(timing: dict[str, float] | None) -> tuple[str, str]:
    if timing is None:
        return "-", "-"
    digits = 4 if timing["median"] < 0.1 else 3
    return f"{timing['median']:.{digits}f}", f"{timing['minimum']:.{digits}f}"


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
        Task(name, dtype, compiled, SIZE["height"], SIZE["width"], arguments.threads, **times, device=arguments.device)
        for name in names
        for dtype in arguments.dtypes
        for compiled in ((False, True) if arguments.compile else (False,))
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line arguments."""
    parser = common.new_parser(__doc__)
    parser.add_argument("--models", nargs="+", help="sizes, bundled names or pipeline folders; default: all there are")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls")
    parser.add_argument("--warm-up", type=int, default=3, help="calls before them")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--memory-8k", action="store_true", help="only the peak memory of a very large pair")
    kind.add_argument("--peers", nargs="+", choices=("all", *PEERS), help="beside these networks, in one process")
    kind.add_argument("--profile", metavar="MODEL", help="only the time of one network by kind of operation")
    parser.add_argument("--side", type=int, default=8192, help="of that pair, pixels")
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # a task for this process alone
    arguments = common.parse_checked(parser, argv, ("threads", "repeats", "side"))
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: torch {torch.__version__} sees no GPU here")
    if arguments.profile and arguments.device != "cpu":
        parser.error("--profile is for the CPU: leave out --device")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parse(argv)
    if arguments.row:
        task = Task(**json.loads(arguments.row))
        if not task.whole:
            keep_freed_memory()  # as the command line does
        print(json.dumps(measure(task)))
        return 0
    times = {"threads": arguments.threads, "repeats": arguments.repeats, "warm_up": arguments.warm_up, **SIZE}
    if arguments.peers:
        keep_freed_memory()
        ours = arguments.models or [name for name in ("difffusenet-msrs", "red-small-msrs") if name in default_models()]
        chosen = list(PEERS) if "all" in arguments.peers else arguments.peers
        rows = speed_peers.compare(ours, chosen, compiled=arguments.compile, device=arguments.device, **times)
        text = speed_peers.table(rows, ours[0])
    elif arguments.profile:
        keep_freed_memory()
        rows = [speed_profile.measure(arguments.profile, dtype, **times) for dtype in arguments.dtypes]
        text = "\n\n".join(map(speed_profile.table, rows))
    else:
        rows = []
        for task in plan(arguments):
            print(f"{task.model} {task.dtype} {task.width}x{task.height} ...", file=sys.stderr, flush=True)
            rows.append(common.measure_apart(__file__, task))
        text = table(rows)
    gpu = {"gpu": torch.cuda.get_device_name()} if arguments.device == "cuda" else {}
    provenance = common.versions(arguments.threads, **gpu, cpu=common.cpu_model())
    common.report(provenance, text, arguments.json, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
