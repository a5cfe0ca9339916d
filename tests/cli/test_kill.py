"""The same command resumes a run that was killed at any moment, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusion_hub import cli, image
from tests.downstream.test_yolo_dataset import run as export_yolo
from tests.downstream.test_yolo_dataset import street  # noqa: F401  # a fixture
from tests.support.tiny import tiny_pipeline

COUNT = 100


def killed_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_fuse_resumes_after_any_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run resumes the one that the signal before it stopped."""
    random, out = np.random.default_rng(0), tmp_path / "out"
    for folder in ("vis", "ir"):
        (tmp_path / folder).mkdir()
        picture = Image.fromarray(random.integers(0, 256, (160, 160), dtype=np.uint8))
        for index in range(COUNT):
            picture.save(tmp_path / folder / f"{index}.bmp")
    tiny_pipeline().save_pretrained(tmp_path / "model")
    arguments = ["fuse", str(tmp_path), "--output", str(out), "--model", str(tmp_path / "model"), "--device", "cpu"]

    def finished() -> int:
        return len(list(out.glob("*.png")))

    process = subprocess.Popen([sys.executable, "-m", "fusion_hub", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None and finished() < 3:
        time.sleep(0.01)
    process.kill()
    process.wait()
    save = image.save_image
    for number in (signal.SIGINT, signal.SIGTERM):
        before = finished()
        assert 3 <= before < COUNT
        for path in out.glob("*.png"):
            Image.open(path).load()

        def save_then_stop(*values: Any, before: int = before, number: int = number, **options: Any) -> None:
            save(*values, **options)
            if finished() == before + 3:
                os.kill(os.getpid(), number)

        monkeypatch.setattr("fusion_hub.image.save_image", save_then_stop)
        stopped = CliRunner().invoke(cli.app, arguments)
        assert stopped.exit_code == 130 and finished() == before + 3
        assert "run the same command to fuse the rest" in stopped.stderr and "Traceback" not in stopped.stderr
    monkeypatch.setattr("fusion_hub.image.save_image", save)
    (out / f".0.png.{killed_process()}-0123abcd.tmp").write_bytes(b"half a picture")  # left by a kill while writing
    again = CliRunner().invoke(cli.app, arguments)
    assert again.exit_code == 0 and "already there" in again.stdout, again.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted([".fusion-hub", *(f"{i}.png" for i in range(COUNT))])


def test_a_single_picture_leaves_nothing_of_a_killed_run(tmp_path: Path) -> None:
    for name in ("a_vis.png", "a_ir.png"):
        Image.new("L", (64, 64), 90).save(tmp_path / name)
    left = tmp_path / f".out.png.{killed_process()}-0123abcd.tmp"
    left.write_bytes(b"half a picture")
    words = ["fuse", str(tmp_path / "a_vis.png"), str(tmp_path / "a_ir.png"), "--output", str(tmp_path / "out.png")]
    found = CliRunner().invoke(cli.app, words)
    assert found.exit_code == 0 and not left.exists() and (tmp_path / "out.png").exists(), found.output


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
