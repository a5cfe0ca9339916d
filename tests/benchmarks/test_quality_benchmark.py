"""The quality benchmark: a run on two generated pairs, and the file that it leaves beside a checkpoint."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import quality
from PIL import Image

from fusion_hub import leaderboard
from fusion_hub.data import PairedDataset, generated_pairs
from fusion_hub.evaluation import luminance
from fusion_hub.image.processor import save_image
from fusion_hub.metrics import evaluate_pair
from tests.support.tiny import tiny_pipeline


def test_a_run_on_generated_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    for pair in PairedDataset.open(generated_pairs(2, height=64, width=80)):
        for folder, picture in (("vis", pair.visible), ("ir", pair.infrared)):
            save_image(Image.fromarray(np.asarray(picture)), tmp_path / "data" / "toy" / folder / f"{pair.name}.png")
    out, beside = tmp_path / "out", tmp_path / "metrics.json"
    quality.main(
        [
            *("--model", str(tmp_path / "tiny"), "--data", str(tmp_path / "data"), "--sets", "toy"),
            *("--metrics", "EN", "SCD", "--output", str(out), "--metrics-json", str(beside), "--save-images"),
        ]
    )
    rows = {row["method"]: row for row in json.loads((out / "summary.json").read_text())["rows"]}
    assert list(rows) == ["tiny", "average", "maximum", "laplacian", "guided_filter"]
    assert set(leaderboard.RANK_METRICS) <= set(rows["tiny"]["metrics"])
    assert "mean rank" in capsys.readouterr().out and (out / "board" / "index.html").exists()

    # The numbers are those of the pictures that were written.
    measured = []
    for file in sorted((out / "images" / "toy" / "tiny").iterdir()):
        sources = (tmp_path / "data" / "toy" / band / file.name for band in ("vis", "ir"))
        images = [luminance(Image.open(path)) for path in (file, *sources)]
        measured.append(evaluate_pair(*images, names=["SCD"])["SCD"])
    assert len(measured) == 2
    assert rows["tiny"]["metrics"]["SCD"]["mean"] == pytest.approx(np.mean(measured), rel=1e-12)

    content = json.loads(beside.read_text())
    assert content["sets"]["toy"]["n"] == 2
    assert content["sets"]["toy"]["metrics"]["SCD"] == pytest.approx(np.mean(measured), abs=1e-6)
    assert list(content["sets"]["toy"]["baselines"]) == ["average", "maximum", "laplacian", "guided_filter"]
    stretched = content["sets"]["toy"]["stretched"]
    assert stretched["metrics"]["SCD"] == pytest.approx(rows["tiny"]["minmax"]["metrics"]["SCD"]["mean"], abs=1e-6)
    assert list(stretched["baselines"]) == ["average", "maximum", "laplacian", "guided_filter"]
    weights = (tmp_path / "tiny" / "model" / "diffusion_pytorch_model.safetensors").read_bytes()
    hashes = content["provenance"]["methods"]["tiny"]["sha256"]
    assert list(hashes.values()) == [hashlib.sha256(weights).hexdigest()]
