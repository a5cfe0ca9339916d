"""What the benchmarks share: options, timing in turn, peak memory, rows in processes of their own, the report."""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import fusion_hub
from fusion_hub.files import write_aside

MIB = 2**20


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a module's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parse_checked(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, at_least_one: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse; numbers of the options `at_least_one` must be, and the folders of `--json` and `--figure` must exist."""
    arguments = parser.parse_args(argv)
    for name in at_least_one:
        value = getattr(arguments, name)
        lowest = min(value) if isinstance(value, list) else value
        if lowest is not None and lowest < 1:
            parser.error(f"--{name} must be at least 1, got {lowest}")
    for name in ("json", "figure"):
        path = getattr(arguments, name, None)
        if path and not path.resolve().parent.is_dir():
            parser.error(f"--{name} {path}: its folder does not exist")
    return arguments


def time_in_turn(
    calls: Sequence[Callable[[], Any]], repeats: int, warm_up: int, once_above: float = math.inf
) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Wall clock and processor seconds of each call after the warm-up; in turn, so that other load meets all equally.

    The processor's seconds are those of all threads together. A call whose first run takes more than `once_above`
    seconds is not repeated: that run is its value.
    """
    seconds: list[list[tuple[float, float]]] = [[] for _ in calls]
    for _ in range(warm_up + repeats):
        for call, values in zip(calls, seconds, strict=True):
            if values and values[0][0] > once_above:
                continue
            wall, processor = time.perf_counter(), time.process_time()
            call()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            values.append((time.perf_counter() - wall, time.process_time() - processor))
    columns = [zip(*(values[warm_up:] or values), strict=True) for values in seconds]
    return [(walls, processors) for walls, processors in columns]


def peak_memory(device: str = "cpu") -> int:
    """Largest size so far, bytes: what tensors took on a GPU, else the resident size of this process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had before it started us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_memory() -> int:
    """Resident size of this process now, bytes; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure_apart(script: str, task: Any) -> dict[str, Any]:
    """The JSON line that a benchmark prints for the dataclass `task` with `--row`, in a new process of `task.threads`.

    Raises:
        SystemExit: the process failed; its last words are in the message.
    """
    command = [sys.executable, script, "--row", json.dumps(asdict(task))]
    environment = os.environ | {"OMP_NUM_THREADS": str(task.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: measuring {task} ended with code {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def versions(threads: int, **more: Any) -> dict[str, Any]:
    """Where the numbers are from: cores, threads, versions, and what the benchmark adds."""
    return {
        **more,
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "fusion_hub": fusion_hub.__version__,
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(provenance: Mapping[str, Any], text: str, path: Path | None, **content: Any) -> None:
    """Print where the numbers are from and the numbers; write both as JSON if there is a path."""
    print(", ".join(f"{name} {value}" for name, value in provenance.items()), text, sep="\n\n")
    if path:
        write_json(path, {"provenance": provenance, **content})


def write_json(path: Path, content: Any) -> None:
    """A file is never half written."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
