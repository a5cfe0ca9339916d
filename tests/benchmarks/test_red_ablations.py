"""The ablations of RED: one short training on generated scenes, measured on drawn pairs."""

import json
from pathlib import Path

import pytest
import red_ablations as benchmark
from PIL import Image

from fusion_hub.data import generate_scene
from fusion_hub.training import find_config, load_config


def test_a_variant_is_trained_once_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, out = generate_scene(0, 64, 80), tmp_path / "out"
    for band, picture in (("vis", scene.visible), ("ir", scene.infrared)):
        (tmp_path / "toy" / band).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "toy" / band / "a.png")
    arguments = ["--data", str(tmp_path / "toy"), "--config", str(find_config("red_tiny_ci")), "--output", str(out)]
    arguments += ["--variants", "T = 1", "--max-steps", "1"]
    benchmark.main(arguments)
    file = out / "T___1" / "pipeline" / "config.yaml"
    assert load_config(file)["num_steps"] == 1
    rows = {row["method"]: row for row in json.loads((out / "ablations.json").read_text())["rows"]}
    assert list(rows) == ["T = 1", "average", "maximum"]
    assert rows["T = 1"]["training_seconds"] > 0 and rows["average"]["training_seconds"] is None
    assert "| T = 1" in capsys.readouterr().out
    before = file.stat().st_mtime_ns
    benchmark.main(arguments)
    assert file.stat().st_mtime_ns == before
