"""Commands that were killed at any moment go on with the same command, and leave nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.downstream.test_downstream_yolo_dataset import run as export_yolo
from tests.downstream.test_downstream_yolo_dataset import street  # noqa: F401  # a fixture
from tests.support.tiny import tiny_pipeline

COUNT = 60


def killed_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_fuse_after_sigkill(tmp_path: Path) -> None:
    random, out = np.random.default_rng(0), tmp_path / "out"
    for folder in ("vis", "ir"):
        (tmp_path / folder).mkdir()
        for index in range(COUNT):
            picture = Image.fromarray(random.integers(0, 256, (160, 160), dtype=np.uint8))
            picture.save(tmp_path / folder / f"{index}.bmp")
    tiny_pipeline().save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "fusion_hub", "fuse", tmp_path, "--output", out, "--model", tmp_path / "model"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(list(out.glob("*.png"))) < 3:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 3 <= len(list(out.glob("*.png"))) < COUNT
    (out / f".0.png.{killed_process()}-0123abcd.tmp").write_bytes(b"half a picture")  # what a kill while writing leaves
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "already there" in again.stdout, again.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted([".fusion-hub", *(f"{i}.png" for i in range(COUNT))])
    for path in out.glob("*.png"):
        Image.open(path).load()


@pytest.mark.parametrize("moment", ["folders", "aside", "description", "pictures", "labels"])
def test_export_yolo_resumes_from_any_moment(street: Path, moment: str) -> None:  # noqa: F811
    output = street / "yolo"
    words = ("--train", street / "train", "--val", street / "val", "-i", "average", "--output", output)
    assert export_yolo(*words)[0] == 0
    whole = {path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    left = f".x.{killed_process()}-0123abcd.tmp"
    if moment == "folders":
        for path in [path for path in output.rglob("*") if path.is_file()]:
            path.unlink()
    elif moment in ("aside", "description"):
        kept = (output / "fusion-hub.json").read_bytes()
        shutil.rmtree(output)
        output.mkdir()
        (output / (left if moment == "aside" else "fusion-hub.json")).write_bytes(kept)
    elif moment == "pictures":
        shutil.rmtree(output / "labels")
        (output / "images" / "train" / left).write_bytes(b"half")
    else:
        (output / "labels" / "val" / left).write_bytes(b"half")
        (output / "data.yaml").unlink()
    code, text = export_yolo(*words)
    assert code == 0, text
    assert {path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()} == whole
