"""Load test of the page `space/app.py`: does it lose or mix up fusions of simultaneous visitors, does its memory grow?

    python benchmarks/space_load.py --json space_load.json       # 32 visitors, 200 fusions of 640 x 480
    python benchmarks/space_load.py --visitors 8 --fusions 40 --threads 1
    python benchmarks/space_load.py --url http://127.0.0.1:7860  # a running page; memory is not measured

The page runs as people run it, in a process of its own. Each visitor is a `gradio_client` in a thread: it uploads a
pair that nobody else has, fuses, downloads the PNG, and goes on with the next pair at once. Each PNG must hold exactly
the pixels that the page's pipeline gives for that pair in this process, alone. A visitor who finds the queue full
comes again; the table counts how often. The resident size of the page's process is read four times a second. The
first quarter of the fusions is taken as warm-up; the memory of the others is compared. Exit code 1 if anything was lost
or mixed up.
"""

import argparse
import hashlib
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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import common
import httpx
import numpy as np
import psutil
import torch
from common import MIB
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image

from fusion_hub.data import generate_scene
from fusion_hub.evaluation.report import markdown_table

SPACE = Path(__file__).resolve().parents[1] / "space"
sys.path.append(str(SPACE))  # for its own pipeline
from fuse import load_pipeline  # noqa: E402

SCENES = 8  # that are drawn
SAMPLING = 0.25  # seconds between two looks at the memory
PATIENCE = 300.0  # seconds that a visitor goes on asking while the queue is full


@dataclass(frozen=True)
class Page:
    """A page that answers, in a process of its own."""

    url: str  # without a slash at the end
    files: Path  # the folder of all its temporary files
    log: Path  # what it printed
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
        end = time.monotonic() + 180
        while not _answers(page.url):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"the page does not answer: {log.read_text(errors='replace').strip()[-2000:]}")
            time.sleep(0.1)
        yield page
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@contextmanager
def memory_log(page: Page) -> Iterator[list[tuple[float, float]]]:
    """time.monotonic() and the memory of the page in MiB, read while the block runs."""
    samples: list[tuple[float, float]] = []
    stop = threading.Event()

    def sample() -> None:
        samples.append((time.monotonic(), page.memory_mib()))

    def run() -> None:
        while not stop.wait(SAMPLING):
            sample()

    sample()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
        sample()


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


@dataclass(frozen=True)
class Answer:
    """What became of one job."""

    job: int
    visitor: int
    got: str | None  # fingerprint of the PNG; None if none came
    seconds: float  # from the first upload to the downloaded PNG, with all waiting
    refusals: int  # how often the queue was full
    ended: float  # time.monotonic()
    error: str | None = None  # why nothing came


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


def visit_all(jobs: Sequence[Job], url: str, visitors: int, model: str, folder: Path) -> tuple[float, list[Answer]]:
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


def summarize(
    jobs: Sequence[Job],
    answers: Sequence[Answer],
    began: float,
    arguments: argparse.Namespace,
    memory: dict[str, Any] | None,
) -> dict[str, Any]:
    """The report: counts, times in seconds, and the memory."""
    expected = {job.number: job.expected for job in jobs}
    right = sum(answer.got == expected[answer.job] for answer in answers)
    known = sum(answer.got in expected.values() for answer in answers)
    came = sum(answer.got is not None for answer in answers)
    waited = sorted(answer.seconds for answer in answers)
    return {
        "visitors": arguments.visitors,
        "fusions": len(jobs),
        "size": "x".join(map(str, arguments.size)),
        "model": arguments.model,
        "right": right,  # exactly the expected pixels
        "lost": len(jobs) - came,
        "mixed_up": known - right,  # the picture of another visitor, or another one of the same visitor
        "altered": came - known,  # a picture that is nobody's
        "refusals": sum(answer.refusals for answer in answers),
        "seconds": answers[-1].ended - began,
        "median": statistics.median(waited),
        "p95": waited[math.ceil(0.95 * len(waited)) - 1],
        "longest": waited[-1],
        "memory": memory,
        "errors": sorted({answer.error for answer in answers if answer.error}),
    }


def summarize_memory(
    samples: Sequence[tuple[float, float]], disk: float, answers: Sequence[Answer], began: float
) -> dict[str, Any]:
    """Of the page, MiB: `quarters` are medians while the four quarters of the fusions ended.

    `grown` is the last quarter against the second: the first is warm-up. `disk` are temporary files at the end.
    """
    ends = [answers[math.ceil(len(answers) * share / 4) - 1].ended for share in range(1, 5)]
    quarters = []
    for start, end in pairwise([began, *ends]):
        nearest = min(samples, key=lambda sample: abs(sample[0] - end))
        inside = [size for moment, size in samples if start <= moment <= end]
        quarters.append(statistics.median(inside or [nearest[1]]))
    peak = max(size for _, size in samples)
    return {
        "idle": samples[0][1],
        "quarters": quarters,
        "peak": peak,
        "grown": quarters[3] - quarters[1],
        "disk": disk,
    }


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    waits = f"median {report['median']:.1f} s, 95% {report['p95']:.1f} s, longest {report['longest']:.1f} s"
    rows = [
        ("visitors at once", f"{report['visitors']}"),
        ("fusions", f"{report['fusions']} of {report['size']}, {report['model']}"),
        *((name.replace("_", " "), f"{report[name]}") for name in ("right", "lost", "mixed_up", "altered")),
        ("queue full", f"{report['refusals']} times"),
        ("whole run", f"{report['seconds']:.1f} s, {report['fusions'] / report['seconds']:.2f} fusions a second"),
        ("wait of a visitor", waits),
    ]
    if memory := report["memory"]:
        quarters = ", ".join(f"{size:.0f}" for size in memory["quarters"])
        rows += [
            ("memory before", f"{memory['idle']:.0f} MiB"),
            ("memory by quarters", f"{quarters} MiB ({memory['grown']:+.0f} from the second to the last)"),
            ("memory at most", f"{memory['peak']:.0f} MiB"),
            ("temporary files", f"{memory['disk']:.0f} MiB"),
        ]
    return "\n".join([markdown_table(("", " "), rows), *(f"error: {error}" for error in report["errors"])])


def provenance(threads: int) -> dict[str, Any]:
    """Where the numbers are from."""
    return common.versions(threads, machine=platform.machine(), gradio=version("gradio"))


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Draw, fuse alone, serve, let the visitors in, compare.

    Raises:
        RuntimeError: the page does not answer.
    """
    for name in ("pairs", "page", "visitors"):
        (folder / name).mkdir()
    torch.set_num_threads(arguments.threads)
    print(f"fusing {arguments.fusions} pairs alone, to know the expected pictures", file=sys.stderr)
    jobs = prepare(arguments.fusions, arguments.size, arguments.model, folder / "pairs")
    print(f"letting {arguments.visitors} visitors in", file=sys.stderr)
    visitors, memory = (arguments.visitors, arguments.model, folder / "visitors"), None
    if arguments.url:
        began, answers = visit_all(jobs, arguments.url, *visitors)
    else:
        with serve(folder / "page", arguments.threads) as page:
            with memory_log(page) as samples:
                began, answers = visit_all(jobs, page.url, *visitors)
            memory = summarize_memory(samples, page.disk_mib(), answers, began)
    return summarize(jobs, answers, began, arguments, memory)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line arguments."""
    parser = common.new_parser(__doc__)
    parser.add_argument("--visitors", type=int, default=32, help="at once")
    parser.add_argument("--fusions", type=int, default=200, help="of all visitors together")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--model", default="difffusenet-msrs", help="name of a bundled checkpoint")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in the page and here")
    parser.add_argument("--url", help="of a page that runs already on the same versions and threads")
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    arguments = common.parse_checked(parser, argv, ("visitors", "threads"))
    if arguments.fusions < max(arguments.visitors, 4):
        parser.error(f"--fusions must be at least 4 and one for each visitor, got {arguments.fusions}")
    if min(arguments.size) < 32:
        parser.error(f"--size must be at least 32 32, got {arguments.size[0]} {arguments.size[1]}")
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
    common.report(provenance(arguments.threads), table(report), arguments.json, report=report)
    return int(report["right"] < report["fusions"])


if __name__ == "__main__":
    sys.exit(main())
