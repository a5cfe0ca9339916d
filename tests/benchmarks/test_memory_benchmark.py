"""The memory benchmark: what it counts, and RED's claim on a tiny network."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import common
import memory
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TINY = ["--variant", "tiny", "--crop", "32", "--batch", "1", "--threads", "1", "--repeats", "1", "--device", "cpu"]
KIB = 1024  # of a (1, 1, 16, 16) float32 tensor


def count(function: Callable[[Tensor], Tensor], x: Tensor, *ignored: Tensor) -> tuple[int, int]:
    """Peak and what is kept for the backward pass of the sum of `function(x)`."""
    saved = memory.SavedBytes(ignored)
    with saved.counting():
        loss = function(x).sum()
        kept = saved.now
        loss.backward()
    del loss
    assert saved.now == 0  # all graphs are gone
    return saved.peak, kept


def test_each_storage_counts_once_and_whole() -> None:
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    assert count(lambda x: x.exp(), x, x) == (KIB, KIB)  # its result
    assert count(lambda x: x.exp().exp(), x, x) == (2 * KIB, 2 * KIB)
    assert count(lambda x: (2 * x).square(), x, x) == (KIB, KIB)  # its input
    assert count(lambda x: torch.stack([row.square() for row in (2 * x)[0, 0]]), x, x) == (KIB, KIB)  # views


def test_what_is_ignored_does_not_count() -> None:
    layer, x = nn.Linear(16, 16), torch.rand(1, 1, 16, 16, requires_grad=True)
    assert count(lambda x: layer(x.exp()), x, x, *layer.parameters()) == (KIB, KIB)
    assert count(lambda x: layer(x[..., :]), x, x, *layer.parameters()) == (0, 0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_recomputes_counts(reentrant: bool) -> None:
    x = torch.rand(1, 1, 16, 16, requires_grad=True)

    def twice(x: Tensor) -> Tensor:
        return checkpoint(lambda x: x.exp().exp().exp(), 2 * x, use_reentrant=reentrant)

    peak, kept = count(twice, x, x)
    assert kept == KIB  # the input of the checkpoint
    assert 4 * KIB <= peak <= 5 * KIB  # and three results beside it


def test_counting_changes_no_gradient() -> None:
    task = memory.Task("reversible", 2, "tiny", crop=32, batch=1)
    training = memory.build_training(task)
    batch = {"visible": torch.rand(1, 1, 32, 32), "infrared": torch.rand(1, 1, 32, 32)}
    memory.compute_loss(training, batch, "float32").backward()
    expected = [parameter.grad for parameter in training.parameters()]
    training.zero_grad()
    with memory.SavedBytes([]).counting():
        memory.compute_loss(training, batch, "float32").backward()
    for parameter, grad in zip(training.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=0)
    assert all(grad.abs().max() > 0 for grad in expected if grad.ndim > 1)


def test_memory_of_the_reversible_chain_does_not_grow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process for each row would take a minute.
    monkeypatch.setattr(common, "measure_apart", lambda _, task: memory.measure(replace(task, warm_up=0)))
    file, figure = tmp_path / "memory.json", tmp_path / "memory.png"
    assert memory.main([*TINY, "--steps", "2", "4", "8", "--json", str(file), "--figure", str(figure)]) == 0
    content = json.loads(file.read_text())
    rows = {(row["mode"], row["steps"]): row for row in content["rows"]}
    assert list(rows) == [(m, t) for m in ("none", "checkpoint", "reversible") for t in (2, 4, 8)]
    assert all({"mode", "steps", "saved_bytes", "peak_bytes", "step_seconds"} <= row.keys() for row in rows.values())
    assert all(row["step_seconds"] > 0 and row["peak_bytes"] > 2**20 for row in rows.values())

    saved = {cell: row["saved_bytes"] for cell, row in rows.items()}
    assert all((row["mode"] == "none") == (row["times_none"] == 1) for row in rows.values())
    assert saved["none", 4] > 1.7 * saved["none", 2]
    assert saved["reversible", 8] <= 1.05 * saved["reversible", 2]
    assert saved["reversible", 8] <= 0.15 * saved["none", 4]
    assert saved["checkpoint", 8] <= 0.15 * saved["none", 4]
    assert all(row["kept_bytes"] <= row["saved_bytes"] for row in rows.values())

    said = content["provenance"]
    assert said["variant"] == "tiny" and said["crop"] == 32 and said["batch"] == 1 and said["dtype"] == "float32"
    assert said["seconds"] == "processor" and said["torch"] == torch.__version__ and said["device_name"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.tmp"))
    printed = capsys.readouterr().out
    assert "| reversible | 8   |" in printed
    assert "reversible at T = 8 saves 0." in printed


def test_a_row_is_measured_in_a_process_of_its_own() -> None:
    (task,) = memory.plan(memory.parse([*TINY, "--modes", "stored", "--steps", "2", "--dtype", "bfloat16"]))
    row = common.measure_apart(memory.__file__, task)
    assert (row["mode"], row["steps"]) == ("stored", 2)
    assert row["peak_bytes"] > row["start_bytes"] > 50 * 2**20
    assert row["saved_bytes"] >= row["kept_bytes"] > 0


def test_a_failed_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        return CompletedProcess(command, 1, "", "ValueError: something to read\n")

    monkeypatch.setattr(common.subprocess, "run", run)
    with pytest.raises(SystemExit, match="ended with code 1:\nValueError: something to read"):
        memory.main([*TINY, "--modes", "none", "--steps", "1"])


def test_the_plan() -> None:
    tasks = memory.plan(memory.parse(["--threads", "3", "--device", "cpu"]))
    cells = [(m, t) for m in ("none", "checkpoint", "reversible") for t in (1, 2, 4, 8)]
    assert [(task.mode, task.steps) for task in tasks] == cells
    assert {(task.variant, task.crop, task.batch, task.dtype) for task in tasks} == {("narrow", 64, 2, "float32")}
    assert not tasks[0].processor_time  # three threads
    (step,) = memory.plan(memory.parse(["--full-width-step", "--threads", "1", "--device", "cpu"]))
    assert (step.mode, step.steps, step.variant, step.crop, step.batch) == ("reversible", 2, "paper", 128, 1)
    assert step.dtype == "bfloat16" and not step.compare and step.processor_time


def test_the_table_is_markdown_of_equal_columns() -> None:
    mib = 2**20
    keys = ("mode", "steps", "saved_bytes", "kept_bytes", "peak_bytes", "start_bytes", "step_seconds", "times_none")
    rows = [
        dict(zip(keys, values, strict=True))
        for values in (
            ("none", 2, 160 * mib, 159 * mib, 900 * mib, 400 * mib, 0.5, None),
            ("reversible", 2, 14 * mib, mib, 500 * mib, 400 * mib, 0.8, 1.6),
            ("reversible", 8, 14 * mib, mib, 500 * mib, 400 * mib, 3.2, None),
        )
    ]
    lines = memory.table(rows).splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1 and len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells == ["reversible", "2", "14.00", "1.00", "500", "100", "0.800", "1.60"]
    assert [cell.strip() for cell in lines[4].strip("|").split("|")][-1] == "-"
    assert memory.findings(rows) == [
        "reversible: saved bytes at T = 8 are 1.000 x those at T = 2",
        "reversible takes 1.60 to 1.60 x the time of none",
    ]
