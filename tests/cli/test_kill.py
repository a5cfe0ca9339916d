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
from typer.testing import CliRunner

from fusion_hub import cli
from tests.downstream.test_yolo_dataset import run as export_yolo
from tests.downstream.test_yolo_dataset import street  # noqa: F401  # a fixture
from tests.support.tiny import tiny_pipeline

COUNT = 120


def killed_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_fuse_resumes_after_any_signal(tmp_path: Path) -> None:
    """Each start resumes the run that the signal before it stopped."""
    random, out = np.random.default_rng(0), tmp_path / "out"
    for folder in ("vis", "ir"):
        (tmp_path / folder).mkdir()
        picture = Image.fromarray(random.integers(0, 256, (160, 160), dtype=np.uint8))
        for index in range(COUNT):
            picture.save(tmp_path / folder / f"{index}.bmp")
    tiny_pipeline().save_pretrained(tmp_path / "model")
    arguments = ["fuse", str(tmp_path), "--output", str(out), "--model", str(tmp_path / "model"), "--device", "cpu"]
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        before = len(list(out.glob("*.png")))
        process = subprocess.Popen(
            [sys.executable, "-m", "fusion_hub", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while process.poll() is None and len(list(out.glob("*.png"))) < before + 3:
                time.sleep(0.01)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        if number != signal.SIGKILL:
            assert process.returncode == 130, errors
            assert "run the same command to fuse the rest" in errors and "Traceback" not in errors
        assert before + 3 <= len(list(out.glob("*.png"))) < COUNT
        for path in out.glob("*.png"):
            Image.open(path).load()
    (out / f".0.png.{killed_process()}-0123abcd.tmp").write_bytes(b"half a picture")  # left by a kill while writing
    again = CliRunner().invoke(cli.app, arguments)
    assert again.exit_code == 0 and "already there" in again.stdout, again.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted([".fusion-hub", *(f"{i}.png" for i in range(COUNT))])


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
