"""Training memory of RED against the number of diffusion steps T, for every memory mode.

    python benchmarks/memory.py --json memory.json --figure memory.png
    python benchmarks/memory.py --variant small --dtype bfloat16 --batch 4 --modes none checkpoint stored reversible
    python benchmarks/memory.py --full-width-step            # one training step of the paper's full-width network

Each row is one training step (forward, SSIM + MAE + gradient losses, backward) in its own process, with random weights
and images. The modes are those of `REDModel`; `stored` is `reversible` that keeps the states of the chain, which are of
the size of the images, and inverts only the blocks of the network. `bfloat16` is autocast, with weights in float32.

- Saved bytes: what autograd holds for the backward pass at the worst moment of the step, recomputation included. Each
  storage counts once and whole, from the moment it is saved until it is freed; parameters and images do not count.
  "Between" is the part that waits between the forward and the backward pass, losses included.
- Peak bytes: on a CPU the largest resident size of the process; "growth" is the part above its size before the first
  step. On a GPU `max_memory_allocated`.
- Step seconds: median after the warm-up, of the processor with one thread on a CPU, otherwise wall clock. "x none" is
  the median ratio to plain autograd, timed in turn in the same process, so that other load affects both.
"""

import argparse
import contextlib
import json
import statistics
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import common
import diffusers
import torch
import torch.utils.checkpoint
from common import MIB
from torch import Tensor

from fusion_hub.evaluation.report import markdown_table
from fusion_hub.files import write_aside
from fusion_hub.models.red import RED_VARIANTS, REDModel
from fusion_hub.training.red import REDConfig, REDTraining

VARIANTS: dict[str, dict[str, Any]] = {
    "narrow": RED_VARIANTS["small"] | {"block_out_channels": (32, 64), "num_attention_heads": (1, 2)},
    **RED_VARIANTS,
}
MODES: dict[str, tuple[str, bool]] = {
    "none": ("none", False),
    "checkpoint": ("checkpoint", False),
    "stored": ("reversible", True),
    "reversible": ("reversible", False),
}
"""Name to `memory` and `store_states` of `REDModel`."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COLORS = {"none": "#b03a2e", "checkpoint": "#7d7d7d", "stored": "#5b9f5b", "reversible": "#0b6e99"}
TITLES = {"none": "plain autograd", "checkpoint": "checkpoint", "stored": "stored states", "reversible": "reversible"}


@dataclass(frozen=True)
class Task:
    """What one process is to measure."""

    mode: str  # one of `MODES`
    steps: int  # T
    variant: str = "narrow"
    crop: int = 64  # side of the images, pixels
    batch: int = 2
    dtype: str = "float32"  # in which the network computes
    device: str = "cpu"
    threads: int = 1
    repeats: int = 5  # timed steps
    warm_up: int = 1  # steps before them
    compare: bool = True  # time mode `none` in turn with this one, after everything else

    @property
    def processor_time(self) -> bool:
        """Whether seconds are those of the processor; with several threads their sum would not mean much."""
        return self.threads == 1 and self.device == "cpu"


Row = dict[str, Any]


class SavedBytes:
    """Bytes of the distinct storages that were saved for the backward pass and live: now, and at the worst moment.

    Args:
        ignored: tensors whose storages do not count.
    """

    def __init__(self, ignored: Sequence[Tensor]) -> None:
        self.now = self.peak = 0
        self._ignored = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in ignored)}
        self._alive: set[int] = set()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved within; the forward and the backward pass both belong here."""
        original = torch.utils.checkpoint._recomputation_hook

        def recomputation_hook(*args: Any) -> Any:
            hooks = original(*args)
            keep = hooks.pack_hook

            def pack(tensor: Tensor) -> Any:
                self.add(tensor)
                return keep(tensor)

            hooks.pack_hook = pack
            return hooks

        # torch's checkpoint has hooks of its own for what it recomputes, and only the innermost hooks are called.
        recomputing = mock.patch.object(torch.utils.checkpoint, "_recomputation_hook", recomputation_hook)
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor), recomputing:
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        self.add(tensor)
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, unless it is counted already, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._ignored or key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def build_training(task: Task) -> REDTraining:
    """The network with random weights and the paper's three losses."""
    torch.manual_seed(0)
    memory, store_states = MODES[task.mode]
    fields = VARIANTS[task.variant] | {"num_steps": task.steps, "memory": memory, "store_states": store_states}
    model = REDModel(**fields)
    model.unet.conv_out.reset_parameters()  # it starts at zero, and no gradient would pass
    return REDTraining(model, REDConfig(), seed=0).to(task.device).train()


def compute_loss(training: REDTraining, batch: Mapping[str, Tensor], dtype: str) -> Tensor:
    """The forward pass of a training step."""
    with torch.autocast(batch["visible"].device.type, DTYPES[dtype], enabled=dtype != "float32"):
        loss, _ = training(batch, 0)
    return loss


def count_saved(training: REDTraining, batch: Mapping[str, Tensor], dtype: str) -> tuple[int, int]:
    """`saved_bytes` and `kept_bytes` of one training step."""
    saved = SavedBytes([*training.parameters(), *training.buffers(), *batch.values()])
    with saved.counting():
        loss = compute_loss(training, batch, dtype)
        kept = saved.now
        loss.backward()
    training.zero_grad()
    return saved.peak, kept


def measure(task: Task) -> Row:
    """A row, measured in this process, whose memory should be fresh.

    `saved_bytes` are saved for the backward pass at the worst moment, `kept_bytes` wait between the forward and the
    backward pass, `peak_bytes` are of the process or the GPU, `start_bytes` the same before the first step.
    `times_none` is the median ratio to the seconds of mode `none`.
    """

    def step_of(training: REDTraining) -> Callable[[], None]:
        def step() -> None:
            compute_loss(training, batch, task.dtype).backward()
            training.zero_grad()

        return step

    torch.set_num_threads(task.threads)
    training = build_training(task)
    images = torch.rand(2, task.batch, 1, task.crop, task.crop).to(task.device)
    batch = {"visible": images[0].clone(), "infrared": images[1].clone()}
    start = common.peak_memory(task.device)
    clock = 1 if task.processor_time else 0
    (seconds,) = common.time_in_turn([step_of(training)], task.repeats, task.warm_up)
    peak = common.peak_memory(task.device)
    saved, kept = count_saved(training, batch, task.dtype)
    times_none = 1.0 if task.mode == "none" else None
    if task.compare and task.mode != "none":
        steps = [step_of(training), step_of(build_training(replace(task, mode="none")))]
        own, plain = (timed[clock] for timed in common.time_in_turn(steps, task.repeats, task.warm_up))
        times_none = statistics.median(a / b for a, b in zip(own, plain, strict=True))
    return {
        "mode": task.mode,
        "steps": task.steps,
        "saved_bytes": saved,
        "kept_bytes": kept,
        "peak_bytes": peak,
        "start_bytes": start,
        "step_seconds": statistics.median(seconds[clock]),
        "times_none": times_none,
    }


def provenance(task: Task) -> dict[str, Any]:
    """Where the numbers are from; `task` is any of the rows'."""
    shared = {name: value for name, value in asdict(task).items() if name not in ("mode", "steps", "threads")}
    on_gpu = task.device != "cpu"
    return common.versions(
        task.threads,
        device_name=torch.cuda.get_device_name(task.device) if on_gpu else common.cpu_model(),
        seconds="processor" if task.processor_time else "wall clock",
        peak="max_memory_allocated" if on_gpu else "resident size",
        diffusers=diffusers.__version__,
        **shared,
    )


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown."""
    lines = []
    for row in rows:
        sizes = (row["saved_bytes"], row["kept_bytes"], row["peak_bytes"], row["peak_bytes"] - row["start_bytes"])
        relative = "-" if row["times_none"] is None else f"{row['times_none']:.2f}"
        numbers = [f"{size / MIB:.{digits}f}" for size, digits in zip(sizes, (2, 2, 0, 0), strict=True)]
        lines.append((row["mode"], str(row["steps"]), *numbers, f"{row['step_seconds']:.3f}", relative))
    return markdown_table(("mode", "T", "saved MiB", "between", "peak MiB", "growth", "step s", "x none"), lines)


def findings(rows: Sequence[Row]) -> list[str]:
    """The sentences that the paper's claim comes down to, as far as the rows tell."""
    cells = {(row["mode"], row["steps"]): row for row in rows}
    said = []
    for mode in MODES:
        steps = sorted(row["steps"] for row in rows if row["mode"] == mode)
        if len(steps) > 1:
            many = steps[-1]
            few = 2 if 2 in steps[:-1] else steps[0]  # the paper's default
            ratio = cells[mode, many]["saved_bytes"] / cells[mode, few]["saved_bytes"]
            said.append(f"{mode}: saved bytes at T = {many} are {ratio:.3f} x those at T = {few}")
    if ("reversible", 8) in cells and ("none", 4) in cells:
        ratio = cells["reversible", 8]["saved_bytes"] / cells["none", 4]["saved_bytes"]
        said.append(f"reversible at T = 8 saves {ratio:.3f} x what none does at T = 4")
    slower = [row["times_none"] for row in rows if row["mode"] == "reversible" and row["times_none"]]
    if slower:
        said.append(f"reversible takes {min(slower):.2f} to {max(slower):.2f} x the time of none")
    return said


def draw(path: Path, rows: Sequence[Row], task: Task) -> None:
    """Saved memory and time of a step against T, one line for each mode.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    memory, seconds = figure.subplots(1, 2)
    _draw_lines(memory, {(row["mode"], row["steps"]): row["saved_bytes"] / MIB for row in rows}, "{:.0f} MiB")
    memory.set_title("Memory saved for the backward pass (MiB)", fontsize=10, loc="left")
    _draw_lines(seconds, {(row["mode"], row["steps"]): row["step_seconds"] for row in rows}, "{:.2g} s")
    clock = "processor" if task.processor_time else "wall clock"
    seconds.set_title(f"Time of a training step (s, {clock})", fontsize=10, loc="left")
    settings = f"RED {task.variant}, {task.batch} x {task.crop} x {task.crop} pixels, {task.dtype}"
    figure.suptitle(settings, fontsize=9, color="#555555", x=0.01, ha="left")
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=160)


def _draw_lines(panel: Any, values: Mapping[tuple[str, int], float], label: str) -> None:
    steps = sorted({count for _, count in values})
    apart = 0.08 * max(values.values())
    ends: list[tuple[float, str, int]] = []
    for mode in MODES:
        points = [(count, values[mode, count]) for count in steps if (mode, count) in values]
        if points:
            panel.plot(*zip(*points, strict=True), "o-", color=COLORS[mode], linewidth=2, markersize=5)
            ends.append((points[-1][1], mode, points[-1][0]))
    height = -0.4 * apart
    for value, mode, count in sorted(ends):
        height = max(value, height + apart)  # labels do not lie on each other
        text = f"{TITLES[mode]}, {label.format(value)}"
        panel.annotate(text, (count, height), (8, 0), textcoords="offset points", va="center", color=COLORS[mode])
    panel.set_ylim(0, height + apart)
    panel.set_xticks(steps)
    span = max(steps[-1] - steps[0], 1)
    panel.set_xlim(steps[0] - 0.05 * span, steps[-1] + 0.78 * span)
    panel.set_xlabel("diffusion steps T", loc="left")
    panel.grid(axis="y", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def plan(arguments: argparse.Namespace) -> list[Task]:
    """The rows that were asked for."""
    shared = {name: getattr(arguments, name) for name in ("dtype", "device", "threads", "repeats")}
    if arguments.full_width_step:
        modes, counts = arguments.modes or ["reversible"], arguments.steps or [2]
        shared |= {"variant": "paper", "crop": 128, "batch": 1, "dtype": "bfloat16", "repeats": 1, "warm_up": 0}
        shared["compare"] = False  # a second network of this size
    else:
        modes, counts = arguments.modes or ["none", "checkpoint", "reversible"], arguments.steps or [1, 2, 4, 8]
        shared |= {name: getattr(arguments, name) for name in ("variant", "crop", "batch")}
    return [Task(mode, steps, **shared) for mode in modes for steps in counts]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line arguments."""
    parser = common.new_parser(__doc__)
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: none checkpoint reversible")
    parser.add_argument("--steps", nargs="+", type=int, help="values of T; default: 1 2 4 8")
    parser.add_argument("--variant", choices=VARIANTS, default="narrow", help="narrow: small with widths 32 and 64")
    parser.add_argument("--crop", type=int, default=64, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="in which the network computes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="timed steps")
    parser.add_argument(
        "--full-width-step",
        action="store_true",
        help="one step of the paper's network, bfloat16, one image of 128 x 128; T = 2 and reversible unless given",
    )
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    parser.add_argument("--figure", type=Path, help="draw a PNG; needs matplotlib")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # a task for this process alone
    return common.parse_checked(parser, argv, ("crop", "batch", "threads", "repeats", "steps"))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parse(argv)
    if arguments.row:
        print(json.dumps(measure(Task(**json.loads(arguments.row)))))
        return 0
    rows: list[Row] = []
    tasks = plan(arguments)
    for task in tasks:
        print(f"{task.variant} {task.mode} T = {task.steps} ...", file=sys.stderr, flush=True)
        rows.append(common.measure_apart(__file__, task))
    text = "\n".join([table(rows), "", *findings(rows)])
    common.report(provenance(tasks[0]), text, arguments.json, rows=rows)
    if arguments.figure:
        draw(arguments.figure, rows, tasks[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
