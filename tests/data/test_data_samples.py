"""Sample pairs: registered pictures of the promised kinds, for every bundled model's modality."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_hub.data import (
    SAMPLE_FOLDERS,
    PairedDataset,
    find_boxes,
    find_labels,
    generated_pairs,
    sample_pairs,
    write_samples,
)
from fusion_hub.pipelines.checkpoints import PRETRAINED


def test_sample_pairs() -> None:
    pairs = {pair.name: pair for pair in sample_pairs()}
    assert list(pairs) == ["night", "day", "smoke", "glare", "raw16", "ct", "pet", "spect"]
    for pair in pairs.values():
        visible, infrared = Image.open(pair.visible), Image.open(pair.infrared)
        assert visible.size == infrared.size
        assert visible.mode == ("L" if pair.name == "ct" else "RGB")
        assert infrared.mode == ("I;16" if pair.name == "raw16" else "L")
        assert pair.model in PRETRAINED and pair.description.endswith(".")
    counts = np.asarray(Image.open(pairs["raw16"].infrared))
    assert 7000 <= counts.min() < counts.max() <= 9000 and len(np.unique(counts)) > 1000


def test_a_folder_of_samples(tmp_path: Path) -> None:
    root = tmp_path / "sample"
    write_samples(root)
    assert {folder.name for folder in root.iterdir()} == set(SAMPLE_FOLDERS)
    assert len(PairedDataset.open(root / "street")) == 5 and len(PairedDataset.open(root / "medical")) == 3
    for name, count in (("clip", 10), ("dataset/train", 9), ("dataset/val", 6)):
        pairs = PairedDataset.open(root / name)
        assert len(pairs) == count and pairs.check().ok
    boxed = find_boxes(list(PairedDataset.open(root / "dataset", split="train")), ["person", "car"])
    drawn = find_boxes(list(PairedDataset.open(generated_pairs(9, 0, 240, 320))), ["person", "car"])
    for one, other in zip(boxed, drawn, strict=True):
        assert len(one.boxes) == len(other.boxes) > 0
    assert all(pair.label(3).any() for pair in find_labels(list(PairedDataset.open(root / "dataset", split="val"))))
    first, last = (np.asarray(Image.open(root / f"clip/infrared/{number:04d}.png"), int) for number in (0, 9))
    assert abs(first - last)[60:, :].max() > 80, "people and cars move"
    assert Image.open(root / "unregistered/visible.jpg").size != Image.open(root / "unregistered/infrared.png").size


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    write_samples(tmp_path)
    (tmp_path / "street" / "day.jpg").unlink()
    write_samples(tmp_path)  # what is missing comes back
    scan = tmp_path / "medical" / "brain1_ct.png"
    scan.write_bytes(b"mine")
    (tmp_path / "street" / "day.jpg").unlink()
    with pytest.raises(FileExistsError, match="exists and is not the sample"):
        write_samples(tmp_path)
    assert scan.read_bytes() == b"mine" and not (tmp_path / "street" / "day.jpg").exists()
