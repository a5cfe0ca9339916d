"""Several pairs at once: the same pictures, in order, and an error or an interrupt that leaves nothing behind."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fusion_hub import cli
from fusion_hub.cli import side_by_side
from fusion_hub.cli.side_by_side import count_workers, dividing_cores, map_in_order
from tests.support.tiny import picture_pair, tiny_pipeline


def test_results_come_in_order_and_items_are_taken_as_needed() -> None:
    taken: list[int] = []

    def items() -> "object":
        for number in range(40):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 if number % 3 == 0 else 0)  # later ones are ready first
        return number * number

    results = map_in_order(work, items(), 3)  # type: ignore[arg-type, var-annotated]
    assert next(results) == 0 and len(taken) <= 7
    assert list(results) == [number * number for number in range(1, 40)]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_ends_the_work_after_what_has_begun(threads: int) -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 4:
            raise OSError("disk full")
        done.append(number)
        return number

    with pytest.raises(OSError, match="disk full"):
        list(map_in_order(work, range(1000), threads))
    assert len(done) < 30 and not [thread for thread in threading.enumerate() if thread.name.startswith("pair")]


def test_each_worker_gets_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 8)
    assert (count_workers(None, 100), count_workers(None, 3), count_workers(2, None), count_workers(5, 1)) == (
        8,
        3,
        2,
        1,
    )
    before = torch.get_num_threads()
    with dividing_cores(4) as start:
        counts = list(map_in_order(lambda _: torch.get_num_threads(), range(6), 4, start))
    assert counts == [2] * 6 and torch.get_num_threads() == before


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_folder_gives_the_same_pictures(engine: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_pipeline().save_pretrained(model)
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
        assert CliRunner().invoke(cli.app, ["export", str(model), "--to", "onnx"]).exit_code == 0
    for number in range(7):
        for folder, plane in zip(("vis", "ir"), picture_pair(40 + number % 2, 56), strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.roll(plane, number, axis=0)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "ir" / "3.png").write_bytes(b"no picture")
    outputs = {}
    for workers in ("1", "3"):
        words = ["fuse", str(tmp_path / "vis"), str(tmp_path / "ir"), "--model", str(model), "--engine", engine]
        result = CliRunner().invoke(cli.app, [*words, "--output", str(tmp_path / workers), "--workers", workers])
        assert result.exit_code == 1 and "6 fused, 1 failed" in result.output, result.output
        outputs[workers] = {file.name: file.read_bytes() for file in (tmp_path / workers).glob("*.png")}
        report = (tmp_path / workers / ".fusion-hub" / "report.csv").read_text(encoding="utf-8-sig").splitlines()
        assert [line.split(",")[0] for line in report[1:]] == [str(number) for number in range(7)]
    assert outputs["1"] == outputs["3"] and len(outputs["1"]) == 6
