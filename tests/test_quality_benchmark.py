"""The quality benchmark: ranks, the table of other methods, and a run on two generated pairs."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata
from tiny import tiny_pipeline

from fusion_hub.data import PairedDataset, generated_pairs
from fusion_hub.image_processor import save_image
from fusion_hub.metrics import METRICS, evaluate_pair

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "quality.py"


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["quality"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_mean_ranks_are_those_of_scipy(quality: ModuleType) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 4, (9, 3)).astype(float)  # many ties
    names = ("SCD", "VIF", "MSE")
    rows = [quality.Row(str(i), "", dict(zip(names, row, strict=True))) for i, row in enumerate(values)]
    signed = values * [-1, -1, 1]  # of MSE the smallest is best
    expected = np.mean([rankdata(column) for column in signed.T], axis=0)
    assert np.allclose(quality.mean_ranks(rows, names), expected)


def test_a_row_without_a_metric_has_no_mean_rank_but_counts_for_the_others(quality: ModuleType) -> None:
    rows = [
        quality.Row("complete", "", {"SCD": 1.0, "VIF": 0.5}),
        quality.Row("partial", "", {"SCD": 2.0}),
        quality.Row("undefined", "", {"SCD": 0.5, "VIF": float("nan")}),
    ]
    assert quality.mean_ranks(rows, ("SCD", "VIF")) == [1.5, None, None]


def test_luminance_rounds_bt601(quality: ModuleType) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = [[int(0.299 * r + 0.587 * g + 0.114 * b + 0.5) for r, g, b in row] for row in colours.tolist()]
    assert quality.luminance(Image.fromarray(colours)).tolist() == expected
    grey = colours[..., 0]
    assert np.array_equal(quality.luminance(Image.fromarray(grey)), grey)
    assert np.array_equal(quality.luminance(Image.fromarray(np.stack([grey] * 3, -1))), grey)
    with pytest.raises(ValueError, match="I;16"):
        quality.luminance(Image.fromarray(grey.astype(np.uint16)))


def test_peers_have_unique_names_and_the_metrics_of_the_ranks(quality: ModuleType) -> None:
    peers = quality.read_peers(quality.PEERS)
    assert set(peers) == {"tno/test", "roadscene/test", "msrs/test", "mri_ct/test"}
    for rows in peers.values():
        assert len({row.method for row in rows}) == len(rows)
        for row in rows:
            assert row.source and set(quality.RANK_METRICS) <= set(row.values)
            assert all(METRICS[name].range[0] <= row.values[name] for name in quality.RANK_METRICS)
    cddfuse = peers["tno/test"][0]
    assert cddfuse.method == "CDDFuse" and cddfuse.values["VIF"] == 0.768  # of the published table: 0.77


def test_a_run_on_generated_pairs(quality: ModuleType, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    for pair in PairedDataset.open(generated_pairs(2, height=64, width=80)):
        for folder, picture in (("vis", pair.visible), ("ir", pair.infrared)):
            save_image(Image.fromarray(np.asarray(picture)), tmp_path / "data" / "toy" / folder / f"{pair.name}.png")
    out = {name: tmp_path / name for name in ("out.json", "out.md", "metrics.json", "images")}
    quality.main(
        [
            *("--model", str(tmp_path / "tiny"), "--data", str(tmp_path / "data"), "--sets", "toy"),
            *("--metrics", "EN", "SCD", "--rank-metrics", "SCD", "SF"),
            *("--json", str(out["out.json"]), "--markdown", str(out["out.md"])),
            *("--metrics-json", str(out["metrics.json"]), "--output-images", str(out["images"])),
        ]
    )
    result = json.loads(out["out.json"].read_text())
    rows = {row["method"]: row for row in result["sets"]["toy"]["rows"]}
    assert list(rows) == ["tiny", "average", "maximum", "laplacian", "guided_filter"]
    assert set(rows["tiny"]["values"]) == {"EN", "SCD", "SF"}
    assert sum(row["mean_rank"] for row in rows.values()) == pytest.approx(1 + 2 + 3 + 4 + 5)

    # The numbers are those of the pictures that were written.
    folder = out["images"] / "toy" / "tiny"
    measured = []
    for file in sorted(folder.iterdir()):
        sources = (tmp_path / "data" / "toy" / band / file.name for band in ("vis", "ir"))
        images = [quality.luminance(Image.open(path)) for path in (file, *sources)]
        measured.append(evaluate_pair(*images, names=["SCD"])["SCD"])
    assert len(measured) == 2
    assert rows["tiny"]["values"]["SCD"] == pytest.approx(np.mean(measured), abs=1e-5)

    weights = (tmp_path / "tiny" / "model" / "diffusion_pytorch_model.safetensors").read_bytes()
    hashes = result["provenance"]["checkpoints"]["tiny"]["sha256"]
    assert list(hashes.values()) == [hashlib.sha256(weights).hexdigest()]
    assert json.loads(out["metrics.json"].read_text())["sets"]["toy"]["metrics"] == rows["tiny"]["values"]
    assert out["out.md"].read_text().count("measured here") == 5
