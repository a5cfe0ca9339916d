"""The benchmark of the automatic number of steps, on drawn pairs and a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import red_auto_steps as benchmark
from PIL import Image

from fusion_hub.data import PairedDataset, generated_pairs
from fusion_hub.image.processor import save_image
from tests.support.tiny import red_pipeline


def test_rows_of_fixed_and_automatic_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    red_pipeline().save_pretrained(tmp_path / "red")
    for pair in PairedDataset.open(generated_pairs(2, height=66, width=80)):
        for folder, picture in (("vis", pair.visible), ("ir", pair.infrared)):
            save_image(Image.fromarray(np.asarray(picture)), tmp_path / "toy" / folder / f"{pair.name}.png")
    file = tmp_path / "auto.json"
    arguments = ["--model", str(tmp_path / "red"), "--data", str(tmp_path / "toy"), "--json", str(file)]
    benchmark.main([*arguments, "--tolerances", "0", "255"])
    rows = {row["run"]: row for row in json.loads(file.read_text())["rows"]}
    # No change is below 0: all steps, and then the result is that of all steps. Every change is below 255 levels.
    assert [row["steps"] for row in rows.values()] == [1, 2, 3, 3, 2]
    assert {**rows["auto, 0 levels"], "run": ""} == {**rows["3 steps"], "run": ""}
    assert "| auto, 255 levels | 2.00         |" in capsys.readouterr().out


def test_a_model_of_two_steps_is_refused() -> None:
    with pytest.raises(SystemExit, match="trained with 2 steps"):
        benchmark.ways_to_run(red_pipeline(num_steps=2).model, [1.0])
