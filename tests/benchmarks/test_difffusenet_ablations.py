"""The ablations of DiffFuseNet: two short trainings on generated scenes, and the statistics of invented values."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import difffusenet_ablations as benchmark
import numpy as np
import pytest
from ablation_study import COLUMNS, FULL, RANKINGS, Study, sentences
from PIL import Image

from fusion_hub import DiffFuseNetPipeline
from fusion_hub.data import generate_scene
from fusion_hub.evaluation.statistics import mean_ranks
from fusion_hub.image.luminance import luma, quantize
from fusion_hub.metrics import evaluate_pair
from fusion_hub.training import find_config, load_config

CONFIG = """
output_dir: runs/unused
max_steps: 2
sources: ["{data}/toy"]
batch_size: 2
crop_size: 48
degrade_probability: 0.5
tracker: none
variant: tiny
noise_gain: 10
stage_one_fraction: 0.5
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set that is trained on and one that is not, of two scenes each."""
    for name, seed in (("toy", 0), ("other", 2)):
        for number in (seed, seed + 1):
            scene = generate_scene(number, 96, 112)
            for band, picture in (("vis", scene.visible), ("ir", scene.infrared)):
                file = tmp_path / "data" / name / band / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(file)
    return tmp_path / "data"


def test_two_variants_on_generated_scenes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(CONFIG.format(data=data))
    arguments = ["--data", str(data), "--sets", "other", "toy", "--config", str(config), "--output", str(out)]
    arguments += ["--seeds", "3", "--variants", "one stage", "--jobs", "2"]
    benchmark.main(arguments)
    content, printed = json.loads((out / "ablations.json").read_text()), capsys.readouterr().out
    assert "2 steps, seed 3; other (2 pairs, none trained on); toy (2 pairs, 2 of them trained on)" in printed
    assert content["pairs"] == {"other": ["2", "3"], "toy": ["0", "1"]}
    assert [(run["variant"], run["seed"]) for run in content["runs"]] == [(FULL, 3), ("one stage", 3)]
    trained = {name: out / f"{name.replace(' ', '_')}__seed_3" for name in (FULL, "one stage")}
    configs = [load_config(folder / "pipeline" / "config.yaml") for folder in trained.values()]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} == {"output_dir", "two_stage"}

    # Metrics compare with the clean sources: those of the last pair, with noise in the infrared image.
    pipeline = DiffFuseNetPipeline.from_pretrained(trained[FULL] / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    scene = generate_scene(1, 96, 112)
    clean = quantize(luma(scene.visible.astype(float)), white=255), scene.infrared
    noisy = benchmark.forms_of(*clean, "toy/1")["noisy"][0]
    fused = [np.asarray(pipeline(*planes).images[0]) for planes in (noisy, clean)]
    values = content["runs"][0]["values"][FULL]["noisy"]
    assert values["VIF"][-1] == evaluate_pair(fused[0], *clean, names=["VIF"])["VIF"]
    error = np.square(fused[0].astype(float) - fused[1]).mean()
    assert values["PSNR to clean"][-1] == pytest.approx(10 * np.log10(255**2 / error))

    # A second call trains and measures nothing; another number of steps is refused before anything is trained.
    before = {file: file.stat().st_mtime_ns for folder in trained.values() for file in folder.rglob("*.*")}
    assert any(file.name == "measured.json" for file in before)
    benchmark.main(arguments)
    assert before == {file: file.stat().st_mtime_ns for folder in trained.values() for file in folder.rglob("*.*")}
    assert json.loads((out / "ablations.json").read_text()) == content
    with pytest.raises(SystemExit, match="max_steps was 2 and is now 3"):
        benchmark.main([*arguments, "--max-steps", "3"])


def test_the_wider_network_costs_what_the_full_one_does() -> None:
    costs = {
        name: benchmark.cost(find_config("difffusenet_ablation"), benchmark.VARIANTS[name])
        for name in (FULL, benchmark.EQUAL_FLOPS)
    }
    benchmark.check_equal_flops(costs)  # within 2 %
    assert costs[FULL]["parameters"] > costs[benchmark.EQUAL_FLOPS]["parameters"]
    costs[benchmark.EQUAL_FLOPS]["flops"] *= 1.05
    with pytest.raises(SystemExit, match="change its width"):
        benchmark.check_equal_flops(costs)


def test_forms_depend_on_the_name_alone() -> None:
    visible = np.full((200, 200), 90, dtype=np.uint8)
    forms = [benchmark.forms_of(visible, visible, f"set/{number}") for number in range(40)]
    again = benchmark.forms_of(visible, visible, "set/0")
    for form, planes in again.items():
        np.testing.assert_array_equal(planes, forms[0][form])
    noise = np.stack([one["noisy"][0][1] for one in forms]).astype(float) - 90
    assert np.std(noise) == pytest.approx(benchmark.SIGMA, rel=0.01) and abs(noise.mean()) < 0.05
    assert not np.array_equal(forms[0]["noisy"][0][1], forms[1]["noisy"][0][1])
    targets = {int(one["degraded"][1][0].mean()) for one in forms}
    assert 90 in targets and min(targets) < 80 and max(targets) == 90  # dimmed for low light only


def invented(changes: dict[str, Any], seeds: int = 2) -> Study:
    """A study of 30 pairs in which all rows equal the full model, apart from `changes`, offsets by row."""
    random = np.random.default_rng(0)
    base = {(form, column): random.normal(size=(seeds, 30)) for form in COLUMNS for column in COLUMNS[form]}
    values = {
        (row, form): {column: base[form, column] + offset for column in COLUMNS[form]}
        for row, offset in {FULL: 0, **changes}.items()
        for form in COLUMNS
    }
    return Study(values, [FULL, *changes], ["a"] * 20 + ["b"] * 10)


def test_ranks_and_differences_of_known_values() -> None:
    study = invented({"worse": -3.0, "same": 0.0, "noise": np.random.default_rng(1).normal(size=(2, 30))})
    for (row, _, _), found in study.differences.items():
        if row == "worse":  # at least in the draws in which both sides have the same runs
            assert found.mean == pytest.approx(-3) and found.high < 0
        if row == "same":
            assert found.mean == 0 and not found.excludes_zero
    for ranking, (form, columns) in RANKINGS.items():
        shown = [name.removesuffix(" to clean") for name in columns]
        if len(set(shown)) == len(shown):  # an independent reference knows names of metrics only
            rows = [
                SimpleNamespace(values={name: study.mean(row, form, name) for name in columns}) for row in study.trained
            ]
            assert list(study.ranks[ranking].values()) == pytest.approx(mean_ranks(rows, columns))
        assert study.ranks[ranking]["worse"] == 4
    text = sentences(study)
    assert not any("'worse'" in sentence for sentence in text)
    assert f"The intervals do not separate 'same' from the full model by mean rank: {'; '.join(RANKINGS)}." in text


def test_pairs_without_a_value_are_left_out() -> None:
    study = invented({"one": -3.0})
    study.values[FULL, "clean"]["VIF"][:, :15] = np.nan
    assert study.mean(FULL, "clean", "VIF") == pytest.approx(study.values[FULL, "clean"]["VIF"][:, 15:].mean())
    assert np.isfinite(study.differences["one", "clean", "VIF"].high)
