"""Startup time of the page `space/app.py`, and time of one fusion through its API.

    python benchmarks/space_speed.py                               # start, and 640 x 480 by each street model
    python benchmarks/space_speed.py --models difffusenet-msrs --fusions 20 --threads 1
    python benchmarks/space_speed.py --browser /usr/bin/chromium   # also: the page and its fusions there

"Page" is the time from the end of the server's imports to the first response; the server fuses its first example
meanwhile. In a browser a fusion is timed from the click to the picture, with the browser on the same cores. Through
`gradio_client` it covers the upload of both pictures, the fusion, and the download of the PNG and of the slider's
pictures; half a second of that is TLS setup of the client. The first fusion of each model, which loads it, is separate.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common
from gradio_client import Client, handle_file
from PIL import Image
from space_load import SPACE, Page, provenance, serve

from fusion_hub.data import generate_scene
from fusion_hub.evaluation.report import markdown_table

# As `python space/app.py`, and it says when its imports are done.
PROGRAM = f"""
import sys, time
sys.path.insert(0, {str(SPACE)!r})
import app
print("imported", time.time(), flush=True)
sys.exit(app.main(sys.argv[1:]))
"""
# Whether the slider shows a fused picture, decoded, that is another than the one with this source.
SHOWN = """before => {
    const pictures = [...document.querySelectorAll("#slider img")];
    return pictures.length === 2 && pictures[1].getAttribute("src") !== before &&
        pictures.every(picture => picture.complete && picture.naturalWidth > 0);
}"""
CASES = (("difffusenet-msrs", "all"), ("red-small-msrs", "1"), ("red-small-msrs", "all"))


def seconds_to_page(page: Page, answered: float) -> float:
    """From the end of the imports to the first answer, at time.time() `answered`.

    Raises:
        RuntimeError: the server did not say when its imports were done.
    """
    found = re.search(r"^imported ([\d.]+)$", page.log.read_text(errors="replace"), re.MULTILINE)
    if found is None:
        raise RuntimeError("the server did not say when its imports were done")
    return answered - float(found[1])


def seconds_in_browser(url: str, executable: str, count: int) -> dict[str, float]:
    """Until a browser that has never seen the page can press its button and shows a result, then of `count` fusions."""
    from playwright.sync_api import sync_playwright

    seconds = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        start = time.perf_counter()
        page.goto(url)
        page.locator("#fuse").click(trial=True)
        seconds["page usable in a browser"] = time.perf_counter() - start
        page.wait_for_function(SHOWN, arg="")
        seconds["its first result seen there"] = time.perf_counter() - start
        times = []
        for _ in range(count):
            page.wait_for_timeout(1000)  # the visitor looks at it
            before = page.locator("#slider img").last.get_attribute("src")
            start = time.perf_counter()
            page.locator("#fuse").click()
            page.wait_for_function(SHOWN, arg=before)
            times.append(time.perf_counter() - start)
        seconds["from a click there to its fused 640x480 picture, median"] = statistics.median(times)
        seconds["longest"] = max(times)
        browser.close()
    return seconds


def time_fusions(url: str, pair: tuple[Path, Path], model: str, steps: str, count: int, folder: Path) -> list[float]:
    """Seconds of `count` fusions, one after the other."""
    client = Client(url, verbose=False, download_files=str(folder), analytics_enabled=False)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        files = {"visible": handle_file(pair[0]), "infrared": handle_file(pair[1])}
        fused = client.predict(**files, model=model, steps=steps, api_name="/fuse")[0]
        with Image.open(fused) as picture:
            picture.load()
        times.append(time.perf_counter() - start)
    client.close()
    return times


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line arguments."""
    parser = common.new_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["difffusenet-msrs", "red-small-msrs"])
    parser.add_argument("--fusions", type=int, default=10, help="of each model, after its first")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--browser", help="a Chromium: the page is opened there too")
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    return common.parse_checked(parser, argv, ("fusions",))


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds by what was measured.

    Raises:
        RuntimeError: the page does not answer.
    """
    width, height = arguments.size
    scene = generate_scene(0, height, width)
    pair = folder / "visible.png", folder / "infrared.png"
    for path, pixels in zip(pair, (scene.visible, scene.infrared), strict=True):
        Image.fromarray(pixels).save(path)
    (folder / "page").mkdir()
    with serve(folder / "page", arguments.threads, ["-c", PROGRAM]) as page:
        results = {"page after imports": seconds_to_page(page, time.time())}
        if arguments.browser:
            results |= seconds_in_browser(page.url, arguments.browser, arguments.fusions)
        for model, steps in CASES:
            if model in arguments.models:
                first, *others = time_fusions(page.url, pair, model, steps, arguments.fusions + 1, folder)
                name = f"{model}, steps: {steps}, {width}x{height}"
                results |= {f"{name}, first": first, f"{name}, median": statistics.median(others)}
                results[f"{name}, longest"] = max(others)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. 1 if the page does not answer."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(prefix="space_speed_") as folder:
        try:
            results = run(arguments, Path(folder))
        except (RuntimeError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    text = markdown_table(("", "seconds"), [(name, f"{seconds:.2f}") for name, seconds in results.items()])
    common.report(provenance(arguments.threads), text, arguments.json, seconds=results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
