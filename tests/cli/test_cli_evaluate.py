"""`fusion-hub evaluate` and `fusion-hub leaderboard`: what they print, write and refuse; with one process and two."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fusion_hub import cli
from fusion_hub.cli.evaluate import BASELINES, _pipeline_name, parse_metrics
from fusion_hub.evaluation import baselines, set_name
from fusion_hub.metrics import LEGACY_METRICS, LEGACY_NAMES, METRIC_NAMES, METRICS, TABLES
from tests.support.tiny import tiny_pipeline

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`set/test/vis`, `set/test/ir` and a model."""
    root = tmp_path_factory.mktemp("evaluate")
    random = np.random.default_rng(0)
    for band in ("vis", "ir"):
        (root / "set" / "test" / band).mkdir(parents=True)
        for name in NAMES:
            image = Image.fromarray(random.integers(0, 256, (8, 12), dtype=np.uint8))
            image.resize((60, 48), Image.Resampling.BICUBIC).save(root / "set" / "test" / band / f"{name}.png")
    tiny_pipeline().save_pretrained(root / "tiny")
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def summary(output: Path) -> dict[str, dict[str, object]]:
    rows = json.loads((output / "summary.json").read_text())["rows"]
    return {row["method"]: row for row in rows}


def test_a_model_a_baseline_and_a_folder_in_one_table(folder: Path, tmp_path: Path) -> None:
    data = ["--data", folder / "set", "--split", "test"]
    first = run("evaluate", "-m", "laplacian", *data, "-o", tmp_path / "one", "--save-images")
    assert first.exit_code == 0, first.output
    images = tmp_path / "one" / "images" / "set_test" / "laplacian"
    both = ["-m", folder / "tiny", "-m", f"theirs={images}", "-m", "laplacian"]
    second = run("evaluate", *both, *data, "-o", tmp_path / "two")
    assert second.exit_code == 0, second.output
    found = summary(tmp_path / "two")
    assert list(found) == ["tiny", "theirs", "laplacian", "average", "maximum"]
    assert [row["kind"] for row in found.values()] == ["model", "folder", "baseline", "baseline", "baseline"]
    assert found["theirs"]["metrics"] == found["laplacian"]["metrics"]
    assert {row["dataset"] for row in found.values()} == {"set/test"}
    assert "set/test, 3 pairs" in second.output and "summary.json" in second.output
    assert "the earlier report is replaced" not in second.output
    assert "the earlier report is replaced" in run("evaluate", "-m", "laplacian", *data, "-o", tmp_path / "two").output


def test_without_an_output_the_table_is_printed_and_nothing_is_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", "-m", "maximum", "--data", folder / "set" / "test", "--metrics", "scd,VIF")
    assert result.exit_code == 0, result.output
    assert "SCD" in result.output and "VIF" in result.output and "average" in result.output
    assert not list(tmp_path.iterdir())


def test_two_processes_give_the_numbers_of_one(folder: Path, tmp_path: Path) -> None:
    words = ["evaluate", "-m", str(folder / "tiny"), "--data", str(folder / "set" / "test"), "--metrics", "EN,SF", "-o"]
    assert run(*words, tmp_path / "one", "--device", "cpu").exit_code == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "fusion_hub.cli"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, *words, str(tmp_path / "two")], env=settings, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = summary(tmp_path / "one"), summary(tmp_path / "two")
    assert one == two
    assert len(list((tmp_path / "two" / "records").rglob("1.jsonl"))) == 3  # the second process took its share


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "nonsense-model"], "nonsense-model"),
        (["--metrics", "EN,bogus"], "--metrics bogus: no such metric: give cddfuse, "),
        (["--metrics", "VIFP"], "--metrics VIFP: no such metric: did you mean VIF or VIFF?"),
        (["--metrics", ","], "--metrics is empty"),
        (["--num-inference-steps", "0"], "--num-inference-steps 0"),
        (["--save-images"], "give --output"),
        (["-m", "x=average", "--data", "y"], "y"),
        (["--data", "{set}"], "two sets have the name 'set/test'"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(folder: Path, words: list[str], message: str) -> None:
    data = str(folder / "set" / "test")
    result = run("evaluate", "--data", data, *(word.format(set=data) for word in words))
    assert result.exit_code in (1, 2)
    assert message in result.output.replace("\n", " ") and "Traceback" not in result.output


def test_a_run_or_a_missing_folder_as_model_is_named(folder: Path, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "mine" / "pipeline")
    data = ("--data", folder / "set" / "test")
    found = run("evaluate", *data, "-m", f"a={tmp_path / 'mine'}")
    assert found.exit_code == 1 and f"give the pipeline in it, {tmp_path / 'mine' / 'pipeline'}" in found.output
    for model in ("mine=nofolder/", "nofolder/", "mine=nofolder"):
        found = run("evaluate", *data, "-m", model)
        assert found.exit_code == 1 and f"--model {model}: there is no folder 'nofolder" in found.output


def test_names_of_sets_and_columns(folder: Path) -> None:
    assert set_name(str(folder / "set" / "test"), None) == "set/test"
    assert set_name(str(folder / "set"), "test") == "set/test"
    assert set_name(str(folder / "set" / "test"), "test") == "set/test"
    assert set_name("owner/pairs", "test") == "owner/pairs/test"
    assert parse_metrics("cddfuse") == TABLES["cddfuse"]
    assert parse_metrics("red,SCD,scd") == (*TABLES["red"], "SCD")


def test_leaderboard_from_two_evaluations(folder: Path, tmp_path: Path) -> None:
    for name in ("laplacian", "guided-filter"):
        data = ["--data", folder / "set" / "test", "--metrics", "cddfuse", "--limit", 2]
        assert run("evaluate", "-m", name, *data, "-o", tmp_path / name).exit_code == 0
    files = [tmp_path / "laplacian" / "summary.json", tmp_path / "guided-filter"]
    result = run("leaderboard", *files, "--output", tmp_path / "board")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "board" / "index.html").read_text()
    assert "laplacian" in page and "guided_filter" in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", page)  # nothing is fetched from anywhere
    assert "mean rank" in (tmp_path / "board" / "leaderboard.md").read_text().lower()


def test_refusals_load_no_heavy_library(tmp_path: Path) -> None:
    for band in ("vis", "ir"):
        (tmp_path / "set" / band).mkdir(parents=True)
        Image.new("L", (64, 64), 90).save(tmp_path / "set" / band / "1.png")
    commands = {
        f"--data {tmp_path}/gone": "no data set named",
        f"--data {tmp_path}/set --model nowhere": "no pipeline named 'nowhere'",
        f"--data {tmp_path}/set --device warp": "--device warp cannot be used here",
        f"--data {tmp_path}/set --num-inference-steps 0": "--num-inference-steps 0: give a whole number",
    }
    script = f"""
import sys
from typer.testing import CliRunner
from fusion_hub.cli import app
heavy = {{"torch", "diffusers", "datasets", "accelerate"}}
for command in {list(commands)!r}:
    result = CliRunner().invoke(app, ["evaluate", *command.split()], catch_exceptions=False)
    print(repr(result.output), sorted(heavy & sys.modules.keys()))
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.splitlines()
    for line, message in zip(lines, commands.values(), strict=True):
        assert message in line and line.endswith("[]"), line
    assert set(BASELINES) == set(baselines.BASELINES)


def test_the_wrong_model_is_named(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64))
    picture.paste((200, 180, 160), (16, 16, 48, 48))
    for band, mode in (("vis", "RGB"), ("ir", "L")):
        (tmp_path / "set" / band).mkdir(parents=True)
        picture.convert(mode).save(tmp_path / "set" / band / "1.png")
    result = CliRunner().invoke(cli.app, ["evaluate", "--data", str(tmp_path / "set"), "--metrics", "EN"])
    assert "difffusenet-msrs on set: the pair seems to show medical scans" in result.stderr
    assert "use difffusenet-medical" in result.stderr


def test_a_pipeline_of_a_training_has_the_name_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "mine" / "pipeline").mkdir(parents=True)
    assert _pipeline_name(str(tmp_path / "mine" / "pipeline")) == "mine"
    assert _pipeline_name(str(tmp_path / "mine")) == "mine"
    assert _pipeline_name("owner/model") == "model"


def test_names_of_metrics_are_those_of_the_tables() -> None:
    assert tuple(METRICS) == METRIC_NAMES
    assert tuple(LEGACY_METRICS) == LEGACY_NAMES
