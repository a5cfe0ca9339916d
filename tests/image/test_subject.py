"""Scans and streets are told apart by names and pixels, and a model that was trained on the other is named."""

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_hub import FusionPipeline, InputWarning, list_models
from fusion_hub.data import generate_scene
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.image.subject import find_subject
from fusion_hub.pipelines.checkpoints import PRETRAINED, RECOMMENDED, trained_on
from tests.support.tiny import tiny_pipeline

FLAT = np.full((64, 64), 0.5, np.float32)
SCAN = np.pad(FLAT[:40, :40], 12)


@pytest.mark.parametrize(
    ("names", "planes", "colored", "subject"),
    [
        (("ct/1.png", "mri/1.png"), (FLAT, FLAT), False, "medical"),
        (("data/CT/test/1.png", "data/MRI/test/1.png"), (FLAT, FLAT), False, "medical"),
        (("slice3_PET.png", "slice3_MR.png"), (FLAT, FLAT), True, "medical"),
        (("ct.png", "thermal.tif"), (FLAT, FLAT), False, None),
        (("mr_smith.png", "mr_smith_2.png"), (FLAT, FLAT), False, None),
        ((None, None), (SCAN, SCAN), True, "medical"),
        (
            ("vis/1.png", "ir/1.png"),
            (SCAN, SCAN),
            False,
            "medical",
        ),  # names are easily chosen
        ((None, None), (SCAN, FLAT), False, None),
        ((None, None), (FLAT, FLAT), True, "street"),
        ((None, None), (FLAT, FLAT), False, None),
        (("a.png", "a_ir.png"), (FLAT, FLAT), False, "street"),
        ((None, None), (FLAT * 0, FLAT * 0), True, None),
        ((None, None), (FLAT[:8, :8], FLAT[:8, :8]), True, None),
    ],
)
def test_what_tells(names: tuple, planes: tuple, colored: bool, subject: str | None) -> None:
    found = find_subject(names, *planes, colored)
    assert (found and found.subject) == subject


def test_real_pairs(data_root: Path) -> None:
    """None is taken for the other; by pixels alone only gray streets stay open."""
    with (data_root / "data" / "index.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] in ("test", "sample")]
    processor, told = FusionImageProcessor(), {"names": 0, "pixels": 0}
    for row in rows[::6]:
        files = [str(data_root / "data" / row[band]) for band in ("vis", "ir")]
        visible, infrared, (context,) = processor.preprocess(*files)
        truth = "medical" if "mri" in row["dataset"] else "street"
        for kind, names in (("names", files), ("pixels", [None, None])):
            found = find_subject(names, visible[0, 0].numpy(), infrared[0, 0].numpy(), context.rgb is not None)
            told[kind] += found is not None and found.subject == truth
            assert found is None or found.subject == truth, row
    assert told["names"] == len(rows[::6]) and told["pixels"] > 0.9 * len(rows[::6])


def test_bundled_models_and_drawn_pairs() -> None:
    scene = generate_scene(3)
    street = np.asarray(scene.visible), np.asarray(scene.infrared)
    for info in list_models():
        assert trained_on(info.folder) == ("medical" if "MRI" in info.modality else "street")
    assert all(trained_on(PRETRAINED[name].folder) == subject for subject, name in RECOMMENDED.items())
    medical = FusionPipeline.from_pretrained("difffusenet-medical")
    with pytest.warns(InputWarning, match="seems to show a street .* trained on medical scans: use difffusenet-msrs"):
        (fused,) = medical(*street).images
    assert any("difffusenet-msrs" in note for note in fused.info["notes"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        FusionPipeline.from_pretrained("difffusenet-msrs")(*street)


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """What it was trained on comes from its training.json; where that does not tell, nothing is said."""
    tiny_pipeline().save_pretrained(tmp_path)
    pixels = (SCAN * 255).astype(np.uint8)
    for paths, subject in (
        (["data/msrs", "generated"], "street"),
        (["data/mri_ct"], "medical"),
        (["mine/pet-mri"], "medical"),
        (["data/msrs", "data/mri_ct"], None),
        (["mine"], None),
    ):
        training = {"datasets": [{"path": path, "split": "train", "pairs": 1} for path in paths]}
        (tmp_path / "training.json").write_text(json.dumps(training))
        assert trained_on(tmp_path) == subject
        pipe = FusionPipeline.from_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            (fused,) = pipe(Image.fromarray(pixels), pixels).images
        notes = [note for note in fused.info["notes"] if "was trained on" in note]
        assert bool(notes) == (subject == "street") and all("use difffusenet-medical" in note for note in notes)
