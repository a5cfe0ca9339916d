"""The speed benchmark: what it counts and reports, on small images."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import networks
import pytest
import speed
import speed_peers
import speed_profile
import torch
import torch.nn.functional as F
from torch import nn


def test_flops_are_two_for_each_multiply_add() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    assert networks.count_flops(layer, torch.zeros(1, 3, 8, 6)) == 2 * 5 * 3 * 9 * 8 * 6


def test_calls_are_timed_in_turn_after_the_warm_up() -> None:
    order: list[str] = []
    naps = iter([0.03, 0.0, 0.002, 0.004, 0.003])

    def first() -> None:
        order.append("first")
        time.sleep(next(naps))

    (walls, processors), (other, _) = common.time_in_turn([first, lambda: order.append("second")], 3, warm_up=2)
    assert order == ["first", "second"] * 5
    assert min(walls) >= 0.002 and len(walls) == len(processors) == len(other) == 3
    assert min(processors) < min(walls)  # sleeping costs no processor


def test_a_slow_call_is_timed_once() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.02)

    (once, _), (often, _) = common.time_in_turn([slow, lambda: order.append("quick")], 3, warm_up=1, once_above=0.01)
    assert order == ["slow", *["quick"] * 4] and len(once) == 1 and once[0] >= 0.02 and len(often) == 3


def test_peak_memory_counts_what_was_freed_again() -> None:
    before = common.peak_memory()
    block = torch.ones(64 * 2**20)  # 256 MiB
    del block
    after = common.peak_memory()
    assert after >= before > 10 * 2**20
    assert after - before < 400 * 2**20


gpu = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("device", ["cpu", gpu])
def test_a_row_is_measured(device: str) -> None:
    task = speed.Task("tiny", "bf16", height=40, width=64, threads=1, repeats=2, warm_up=1, device=device)
    row = speed.measure(task)
    model = networks.build_pipeline("tiny").model
    assert row["parameters"] == model.num_parameters()
    assert row["flops"] == networks.count_flops(model, *torch.zeros(2, 1, 1, 48, 64))
    assert row["ratio"] == row["model"]["median"] / row["convolution"]["median"]
    assert 0 < row["model"]["minimum"] <= row["model"]["median"] < row["pipeline"]["median"] + 10
    assert json.loads(json.dumps(row)) == row


def test_the_script_measures_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_here(script: str, task: speed.Task) -> Any:
        assert script == speed.__file__ and speed.main(["--row", json.dumps(asdict(task))]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    monkeypatch.setattr(common, "measure_apart", measure_here)  # a process of its own would take seconds
    file = tmp_path / "speed.json"
    assert speed.main(["--memory-8k", "--side", "64", "--models", "tiny", "--threads", "1", "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert content["provenance"]["threads"] == 1 and content["provenance"]["torch"] == torch.__version__
    assert content["provenance"]["cpu"]
    (row,) = content["rows"]
    assert row["task"]["whole"] and row["task"]["height"] == 64 and row["model"] is None and row["ratio"] is None
    assert row["peak_mib"] > 50
    assert "| tiny    | fp32    | 64x64  |" in capsys.readouterr().out


def test_the_plan_has_every_size_and_type() -> None:
    tasks = speed.plan(speed.parse(["--compile", "--threads", "3"]))
    assert len(tasks) == 4 * len(speed.default_models()) and len(set(tasks)) == len(tasks)
    assert {"tiny", "small", "base", "large"} <= {task.model for task in tasks}
    assert {(task.dtype, task.compile) for task in tasks} == {(d, c) for d in ("fp32", "bf16") for c in (False, True)}
    assert {(task.height, task.width, task.threads, task.whole) for task in tasks} == {(480, 640, 3, False)}
    assert {task.device for task in tasks} == {"cpu"}
    (large,) = speed.plan(speed.parse(["--memory-8k"]))
    assert (large.height, large.width, large.whole) == (8192, 8192, True)


def test_the_table_is_markdown_of_equal_columns() -> None:
    timing = {"median": 0.25, "minimum": 0.2}
    task = asdict(speed.Task("base"))
    row = {"task": task, "parameters": 843_753, "flops": 31_000_000_000, "model": timing, "pipeline": timing}
    row |= {"convolution": {"median": 0.1, "minimum": 0.1}, "ratio": 2.5, "peak_mib": 512.3}
    other = {**row, "task": task | {"dtype": "bf16", "compile": True}}
    other |= dict.fromkeys(("flops", "model", "convolution", "ratio"))
    lines = speed.table([row, other]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1 and len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        "base", "fp32", "640x480", "0.84 M", "31.0", "0.250", "0.200", "0.250", "0.200", "0.100", "2.5", "512"
    ]  # fmt: skip
    assert "bf16 compiled" in lines[3]


@pytest.mark.parametrize("device", ["cpu", gpu])
def test_peers_are_timed_beside_ours(device: str) -> None:
    rows = speed_peers.compare(
        ["tiny"], ["SDNet", "SAGE"], device=device, threads=1, repeats=1, warm_up=0, height=32, width=48
    )
    assert [(row["network"], row["dtype"], row["form"]) for row in rows] == [
        (speed_peers.CONVOLUTION, "fp32", ""),
        (speed_peers.CONVOLUTION, "bf16", ""),
        ("tiny", "fp32", "eager, channels_last"),
        ("tiny", "fp32", "folded"),
        ("tiny", "bf16", "eager, channels_last"),
        ("tiny", "bf16", "folded"),
        ("SDNet", "fp32", "as published"),
        ("SDNet", "bf16", "channels_last"),
        ("SAGE", "fp32", "as published"),
        ("SAGE", "bf16", "channels_last"),
    ]
    by_name = {(row["network"], row["dtype"], row["form"]): row for row in rows}
    reference = by_name["tiny", "bf16", "eager, channels_last"]
    assert reference["ratio"] == 1 and by_name[speed_peers.CONVOLUTION, "fp32", ""]["unit"] == 1
    row = by_name["SAGE", "bf16", "channels_last"]
    assert row["ratio"] == row["minimum"] / reference["minimum"]
    assert row["unit"] == row["minimum"] / by_name[speed_peers.CONVOLUTION, "bf16", ""]["minimum"]
    assert row["parameters"] == 135_617 and 0 < row["minimum"] <= row["median"] and row["runs"] == 1
    assert json.loads(json.dumps(rows)) == rows
    lines = speed_peers.table(rows, "tiny").splitlines()
    assert len(lines) == 12 and "x tiny" in lines[0] and "| 0.136 M" in lines[-1]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_time_is_split_by_kind(dtype: str) -> None:
    row = speed_profile.measure("tiny", dtype, threads=1, repeats=1, warm_up=0, height=32, width=48)
    kinds = row["kinds"]
    assert row["floor"]["calls"] > row["floor"]["different"] > 10
    assert all(kinds[kind] > 0 for kind in ("convolution", "norm", "element-wise", "concatenation"))
    assert row["floor"]["ms"] > 0 and json.loads(json.dumps(row)) == row
    text = speed_profile.table(row)
    assert text.startswith(f"tiny, folded, {dtype}, 48x32: ") and "| convolution " in text and "| all " in text


def test_the_floor_has_the_convolutions_and_matrix_products_only() -> None:
    weight, matrix, x = torch.rand(4, 3, 3, 3), torch.rand(8, 5), torch.rand(1, 3, 16, 8)

    def call() -> None:
        F.linear(F.gelu(F.conv2d(x, weight, padding=1)), matrix.T)
        F.conv2d(x + 1, weight, padding=1)

    with speed_profile.Recorder() as recorder, torch.no_grad():
        call()
    names = [func._schema.name for func, _ in recorder.calls]
    assert names[0] == names[-1] == "aten::convolution" and set(names[1:-1]) <= {"aten::mm", "aten::addmm", "aten::bmm"}
    with torch.no_grad():
        floor = speed_profile.time_alone(call, repeats=1, warm_up=0)
    assert floor["calls"] == len(names) and floor["different"] == len(names) - 1  # both convolutions are the same


def test_kinds_of_operations() -> None:
    assert speed_profile.kind_of("aten::mul_") == "element-wise"
    assert speed_profile.kind_of("mkldnn::_convolution_pointwise_") == "convolution"
    assert speed_profile.kind_of("aten::_softmax") == "activation"
    assert speed_profile.kind_of("aten::amax") == "other"
    operators = [operator for names in speed_profile.KINDS.values() for operator in names.split()]
    assert len(operators) == len(set(operators))


def test_the_script_compares_and_profiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "SIZE", {"height": 32, "width": 48})
    quick = ["--models", "tiny", "--threads", "1", "--repeats", "1", "--warm-up", "0"]
    file = tmp_path / "speed.json"
    assert speed.main(["--peers", "SDNet", *quick, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["rows"][-1]["network"] == "SDNet"
    assert speed.main(["--profile", "tiny", "--dtypes", "bf16", *quick[2:]]) == 0
    out = capsys.readouterr().out
    assert "| SDNet " in out and "tiny, folded, bf16, 48x32: " in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.parse(["--device", "cuda"])
    assert "sees no GPU here" in capsys.readouterr().err
