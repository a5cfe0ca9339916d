"""The README's commands run as pasted: in order, in an empty folder, offline, from an installed wheel."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {"fusion_hub": "fusion_hub", "space": "fusion_hub/space", "train/configs": "fusion_hub/training/configs"}
FILES = ("pyproject.toml", "README.md", "LICENSE")
CACHES = ("__pycache__", ".*_cache")  # of Python and of its tools
NOT_RUN = {
    "installs packages",
    "installs packages, or needs Docker",
    "needs an account on the Hub",
    "needs a radiometric photo",
    "needs volumes of one head",
}
"""The reasons that the README may give, in a comment before a block, for what cannot run here."""


class Block(NamedTuple):
    """A fenced block of code, and the reason why it cannot run here."""

    language: str
    code: str
    not_run: str | None


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^(?:<!-- not run: (.*?) -->\n)?```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(language, code, reason or None) for reason, language, code in found]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, installed from its wheel; built from a copy, which leaves no files in the checkout."""
    root = tmp_path_factory.mktemp("wheel")
    for folder in SHIPPED:
        ignored = shutil.ignore_patterns(*CACHES)
        shutil.copytree(ROOT / folder, root / "source" / folder, copy_function=os.link, ignore=ignored)
    for file in FILES:
        shutil.copyfile(ROOT / file, root / "source" / file)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(root / "source")]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = root.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(root / "site"), str(wheel)], check=True)
    return root / "site"


def test_the_wheel_is_complete(installed: Path) -> None:
    for folder, place in SHIPPED.items():
        for file in (ROOT / folder).rglob("*"):
            cached = any(fnmatch(part, cache) for part in file.parts for cache in CACHES)
            if file.is_file() and not cached:
                assert (installed / place / file.relative_to(ROOT / folder)).is_file(), f"{file} is not in the wheel"


def test_the_image_is_built_from_what_the_wheel_needs() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {name for names in copied for name in names.split()} == {*SHIPPED, *FILES, "requirements.txt"}
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {folder.split("/")[0] for folder in SHIPPED} | {*FILES, "requirements.txt"} == set(kept)


def test_the_readme_runs_as_pasted(installed: Path, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"  # nothing listens there: the network is out of reach
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "FUSION_HUB_"))}
    environment |= {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "NO_PROXY": "127.0.0.1,localhost"}
    environment |= {"PYTHONPATH": str(installed), "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join(
        [str(installed / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    work = tmp_path / "work"
    for folder in (work, tmp_path / "home"):
        folder.mkdir()

    def run(*command: str, code: str) -> str:
        done = subprocess.run(
            command, input=code, cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    place = run("python", "-", code="import fusion_hub; print(fusion_hub.__file__)")
    assert Path(place.strip()).is_relative_to(installed)
    printed = ""
    for language, code, not_run in blocks():
        if not_run:
            assert not_run in NOT_RUN
        elif code.startswith("fusion-hub demo"):
            serve(code.split()[:2], work, environment)
        elif language == "python":
            printed += run("python", "-", code=code)
        else:
            assert language == "bash"
            printed += run("bash", "-euo", "pipefail", "-s", code=code.replace("--max_steps 20", "--max_steps 2"))

    night = np.asarray(Image.open(work / "sample/street/night.jpg"))
    fused = np.asarray(Image.open(work / "fused.png"))
    assert fused.shape == night.shape and abs(fused.astype(float) - night).mean() > 5
    for folder, count in (("fused", 5), ("clip", 10), ("medical", 3), ("yolo/images/train", 9)):
        assert len([*(work / folder).glob("*.png")]) == count, folder
    assert (work / "results/figure.png").is_file() and (work / "board/index.html").is_file()
    assert "nothing was uploaded" in printed
    others = [path.name for path in work.iterdir() if path.suffix in (".tmp", ".log")]
    assert not others and not any((tmp_path / "home").rglob("*.lock"))


def serve(command: list[str], work: Path, environment: dict[str, str]) -> None:
    """Start the page, look at it, stop it with Ctrl-C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = environment | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(work / "page")}
    page = subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert page.stdout is not None
    address = f"http://127.0.0.1:{port}/"
    try:
        printed = next((line for line in page.stdout if address in line and "stops it" in line), "")
        assert printed, "the address is printed once the page answers"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as answer:
            assert "Fusion Hub" in answer.read().decode()
        page.send_signal(signal.SIGINT)
        assert page.wait(60) == 0
    finally:
        page.kill()


def test_what_is_not_run_has_a_reason() -> None:
    reasons = [block.not_run for block in blocks() if block.not_run]
    assert set(reasons) == NOT_RUN and len(reasons) == len(NOT_RUN)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, flags=re.MULTILINE)) == 2 * len(blocks()), "each fence is read by this test"
