"""Load test of the page `space/app.py`: does it lose or mix up fusions of simultaneous visitors, does its memory grow?

    python benchmarks/space_load.py --json space_load.json       # 32 visitors, 200 fusions of 640 x 480
    python benchmarks/space_load.py --visitors 8 --fusions 40 --threads 1
    python benchmarks/space_load.py --url http://127.0.0.1:7860  # a running page; memory is not measured

The page runs in its own process. Each visitor is a `gradio_client` in a thread that uploads a pair of its own, fuses
it, downloads the PNG, and continues with the next pair at once. Each PNG must have exactly the pixels that the page's
pipeline computes for that pair in this process. Visitors try again when the queue is full; the table counts how often.
The resident size of the page's process is read four times a second; the first quarter of the fusions is warm-up.
Exits with 1 if anything was lost or mixed up.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image

import fusion_hub
from fusion_hub.data import generate_scene

SPACE = Path(__file__).resolve().parents[1] / "space"
MIB = 2**20
SCENES = 8  # that are drawn
SAMPLING = 0.25  # seconds between two looks at the memory
PATIENCE = 300.0  # seconds that a visitor goes on asking while the queue is full


# --- the page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """A page that answers, in a process of its own.

    Attributes:
        url: without a slash at the end.
        files: the folder that holds all its temporary files.
        log: file with what it printed.
    """

    url: str
    files: Path
    log: Path
    process: subprocess.Popen[bytes]

    def memory_mib(self) -> float:
        """Resident size of the process and of its children, now."""
        process = psutil.Process(self.process.pid)
        members = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in members) / MIB

    def disk_mib(self) -> float:
        """Size of its temporary files, now."""
        return sum(file.stat().st_size for file in self.files.rglob("*") if file.is_file()) / MIB


@contextmanager
def serve(folder: Path, threads: int | None = None, program: Sequence[str] | None = None) -> Iterator[Page]:
    """Run `space/app.py` on a free port until the block ends.

    Args:
        folder: existing folder for its log and its temporary files.
        threads: of torch; None: its default.
        program: arguments of Python to run in its place, followed by `--port`.

    Raises:
        RuntimeError: it does not answer. The message has the end of its log.
    """
    files, log = folder / "files", folder / "log.txt"
    files.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    environment |= {"GRADIO_TEMP_DIR": str(files), "TMPDIR": str(files)}
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, *(program or [str(SPACE / "app.py")]), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    page = Page(f"http://127.0.0.1:{port}", files, log, process)
    try:
        _wait_for(page)
        yield page
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(page: Page, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and page.process.poll() is None:
        try:
            if httpx.get(page.url, timeout=10).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"the page does not answer: {page.log.read_text(errors='replace').strip()[-2000:]}")


class MemoryLog:
    """Reads the memory of a page while the block runs."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.samples: list[tuple[float, float]] = []  # time.monotonic(), MiB
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemoryLog":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLING):
            self._sample()

    def _sample(self) -> None:
        self.samples.append((time.monotonic(), self.page.memory_mib()))

    def median_between(self, start: float, end: float) -> float:
        """Median of the samples between two times; of the nearest one where there is none."""
        inside = [size for moment, size in self.samples if start <= moment <= end]
        nearest = min(self.samples, key=lambda sample: abs(sample[0] - end))
        return statistics.median(inside or [nearest[1]])


# --- the pairs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A pair of pictures that no other job has, and the fingerprint of its fused pixels."""

    number: int
    visible: Path
    infrared: Path
    expected: str


def fingerprint(picture: Image.Image) -> str:
    """The same for equal pixels of equal mode and size, whatever the file."""
    head = f"{picture.mode} {picture.width}x{picture.height} ".encode()
    return hashlib.sha256(head + picture.tobytes()).hexdigest()


def prepare(count: int, size: tuple[int, int], model: str, folder: Path) -> list[Job]:
    """`count` pairs of (width, height) `size`, each fused in this process with the page's own pipeline.

    Drawing takes longer than fusing: a few scenes are drawn, and shifted sideways so that no two pairs are equal.
    """
    sys.path.insert(0, str(SPACE))
    try:
        from fuse import load_pipeline
    finally:
        sys.path.remove(str(SPACE))
    pipeline = load_pipeline(model)
    jobs = []
    scenes = [generate_scene(number, size[1], size[0]) for number in range(min(count, SCENES))]
    for number in range(count):
        scene, shift = scenes[number % SCENES], 3 * (number // SCENES)
        visible, infrared = folder / f"{number:04d}.png", folder / f"{number:04d}_infrared.png"
        for path, pixels in ((visible, scene.visible), (infrared, scene.infrared)):
            Image.fromarray(np.roll(pixels, shift, axis=1)).save(path, compress_level=1)
        fused = pipeline(Image.open(visible), Image.open(infrared)).images[0]
        jobs.append(Job(number, visible, infrared, fingerprint(fused)))
    return jobs


# --- the visitors ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What became of one job.

    Attributes:
        got: fingerprint of the PNG; None if none came.
        seconds: from the first upload to the downloaded PNG, with all waiting.
        refusals: how often the queue was full.
        ended: time.monotonic() of the end.
        error: why nothing came.
    """

    job: int
    visitor: int
    got: str | None
    seconds: float
    refusals: int
    ended: float
    error: str | None = None


def visit(
    visitor: int, jobs: Sequence[Job], url: str, model: str, folder: Path, start: threading.Barrier
) -> list[Answer]:
    """Be one visitor: open the page, wait for the others, fuse the pairs one after the other."""
    folder.mkdir()
    try:
        client = Client(url, verbose=False, download_files=str(folder), analytics_enabled=False)
    except Exception:
        start.abort()  # the others must not wait for this one
        raise
    try:
        start.wait(600)
        return [_fuse(client, visitor, job, model) for job in jobs]
    finally:
        client.close()


def _fuse(client: Client, visitor: int, job: Job, model: str) -> Answer:
    begun, refusals, got, error = time.monotonic(), 0, None, None
    while got is None and error is None:
        try:
            files = {"visible": handle_file(job.visible), "infrared": handle_file(job.infrared)}
            fused = client.predict(**files, model=model, api_name="/fuse")[0]
            with Image.open(fused) as picture:
                got = fingerprint(picture)
        except QueueError:
            refusals += 1
            if time.monotonic() - begun > PATIENCE:
                error = "the queue stayed full"
            time.sleep(random.uniform(0.2, 1.0))
        except Exception as failure:  # whatever happens to a visitor is a result
            error = f"{type(failure).__name__}: {failure}"
    ended = time.monotonic()
    return Answer(job.number, visitor, got, ended - begun, refusals, ended, error)


def visit_all(jobs: Sequence[Job], visitors: int, url: str, model: str, folder: Path) -> tuple[float, list[Answer]]:
    """All visitors at once, the jobs dealt out in turn: time of the start, and the answers in order of their end."""
    began: list[float] = []
    start = threading.Barrier(visitors, action=lambda: began.append(time.monotonic()))
    with ThreadPoolExecutor(visitors) as pool:
        runs = [
            pool.submit(visit, number, jobs[number::visitors], url, model, folder / f"visitor_{number}", start)
            for number in range(visitors)
        ]
        answers = [answer for run in runs for answer in run.result()]
    return began[0], sorted(answers, key=lambda answer: answer.ended)


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Of the page's process, MiB; `quarters` are medians while the four quarters of the fusions ended.

    Attributes:
        idle: before the first visitor.
        grown: the last quarter against the second; the first is warm-up.
        disk: temporary files at the end.
    """

    idle: float
    quarters: tuple[float, ...]
    peak: float
    grown: float
    disk: float


@dataclass(frozen=True)
class Report:
    """What the run showed; times in seconds.

    Attributes:
        right: fusions with exactly the expected pixels.
        lost: nothing came.
        mixed_up: another visitor's picture came, or another one of the same visitor.
        altered: a picture came that is nobody's.
        refusals: how often the queue was full; the visitor tried again.
    """

    visitors: int
    fusions: int
    size: str
    model: str
    right: int
    lost: int
    mixed_up: int
    altered: int
    refusals: int
    seconds: float
    median: float
    p95: float
    longest: float
    memory: Memory | None
    errors: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, mixed up or altered."""
        return self.right == self.fusions


def summarise(
    jobs: Sequence[Job], answers: Sequence[Answer], began: float, arguments: argparse.Namespace, memory: Memory | None
) -> Report:
    """Count and compare."""
    expected = {job.number: job.expected for job in jobs}
    theirs = set(expected.values())
    right = sum(answer.got == expected[answer.job] for answer in answers)
    known = sum(answer.got in theirs for answer in answers)
    came = sum(answer.got is not None for answer in answers)
    waited = sorted(answer.seconds for answer in answers)
    return Report(
        visitors=arguments.visitors,
        fusions=len(jobs),
        size="x".join(map(str, arguments.size)),
        model=arguments.model,
        right=right,
        lost=len(jobs) - came,
        mixed_up=known - right,
        altered=came - known,
        refusals=sum(answer.refusals for answer in answers),
        seconds=answers[-1].ended - began,
        median=statistics.median(waited),
        p95=waited[math.ceil(0.95 * len(waited)) - 1],
        longest=waited[-1],
        memory=memory,
        errors=sorted({answer.error for answer in answers if answer.error}),
    )


def memory_of(log: MemoryLog, answers: Sequence[Answer], began: float) -> Memory:
    """Quarter by quarter."""
    ends = [answers[math.ceil(len(answers) * share / 4) - 1].ended for share in range(1, 5)]
    quarters = tuple(log.median_between(*bounds) for bounds in pairwise([began, *ends]))
    peak = max(size for _, size in log.samples)
    return Memory(log.samples[0][1], quarters, peak, quarters[3] - quarters[1], log.page.disk_mib())


def table(report: Report) -> str:
    """The report as Markdown."""
    rows = [
        ("visitors at once", f"{report.visitors}"),
        ("fusions", f"{report.fusions} of {report.size}, {report.model}"),
        ("right", f"{report.right}"),
        ("lost", f"{report.lost}"),
        ("mixed up", f"{report.mixed_up}"),
        ("altered", f"{report.altered}"),
        ("queue full", f"{report.refusals} times"),
        ("whole run", f"{report.seconds:.1f} s, {report.fusions / report.seconds:.2f} fusions a second"),
        ("a visitor's wait", f"median {report.median:.1f} s, 95% {report.p95:.1f} s, longest {report.longest:.1f} s"),
    ]
    if report.memory:
        quarters = ", ".join(f"{size:.0f}" for size in report.memory.quarters)
        rows += [
            ("memory before", f"{report.memory.idle:.0f} MiB"),
            ("memory by quarters", f"{quarters} MiB ({report.memory.grown:+.0f} from the second to the last)"),
            ("memory at most", f"{report.memory.peak:.0f} MiB"),
            ("temporary files", f"{report.memory.disk:.0f} MiB"),
        ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"| {name.ljust(widths[0])} | {value.ljust(widths[1])} |" for name, value in rows]
    rule = f"|{'-' * (widths[0] + 2)}|{'-' * (widths[1] + 2)}|"
    return "\n".join(
        [f"| {' ' * widths[0]} | {' ' * widths[1]} |", rule, *lines, *(f"error: {e}" for e in report.errors)]
    )


def provenance(threads: int) -> dict[str, Any]:
    """Where the numbers are from."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "gradio": version("gradio"),
        "python": platform.python_version(),
        "fusion_hub": fusion_hub.__version__,
    }


def write_json(path: Path, report: Report, threads: int) -> None:
    """Report and provenance; a file is never half written."""
    content = {"provenance": provenance(threads), "report": asdict(report)}
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


# --- the command -----------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace, folder: Path) -> Report:
    """Draw, fuse alone, serve, let the visitors in, compare.

    Raises:
        RuntimeError: the page does not answer.
    """
    for name in ("pairs", "page", "visitors"):
        (folder / name).mkdir()
    torch.set_num_threads(arguments.threads)
    print(f"fusing {arguments.fusions} pairs alone, to know what must come", file=sys.stderr)
    jobs = prepare(arguments.fusions, arguments.size, arguments.model, folder / "pairs")
    print(f"letting {arguments.visitors} visitors in", file=sys.stderr)

    def let_in(url: str) -> tuple[float, list[Answer]]:
        return visit_all(jobs, arguments.visitors, url, arguments.model, folder / "visitors")

    if arguments.url:
        began, answers = let_in(arguments.url)
        return summarise(jobs, answers, began, arguments, None)
    with serve(folder / "page", arguments.threads) as page, MemoryLog(page) as log:
        began, answers = let_in(page.url)
        memory = memory_of(log, answers, began)
    return summarise(jobs, answers, began, arguments, memory)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=32, help="at once")
    parser.add_argument("--fusions", type=int, default=200, help="of all visitors together")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--model", default="difffusenet-msrs", help="name of a bundled checkpoint")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in the page and here")
    parser.add_argument("--url", help="of a page that runs already on the same versions and threads")
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    arguments = parser.parse_args(argv)
    for name in ("visitors", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.fusions < max(arguments.visitors, 4):
        parser.error(f"--fusions must be at least 4 and one for each visitor, got {arguments.fusions}")
    if min(arguments.size) < 32:
        parser.error(f"--size must be at least 32 32, got {arguments.size[0]} {arguments.size[1]}")
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        parser.error(f"--json {arguments.json}: its folder does not exist")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. 1 if the page does not answer, or if a fusion was lost, mixed up or altered."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(prefix="space_load_") as folder:
        try:
            report = run(arguments, Path(folder))
        except (RuntimeError, ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(", ".join(f"{name} {value}" for name, value in provenance(arguments.threads).items()) + "\n")
    print(table(report))
    if arguments.json:
        write_json(arguments.json, report, arguments.threads)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
