"""Synthetic scenes: deterministic, registered, of any size, and each kind shows its subject."""

from itertools import pairwise

import numpy as np
import pytest

from fusion_hub.data import PairedDataset, find_boxes, find_labels, generate_scene, generated_pairs
from fusion_hub.data.synthetic import KINDS, Kind

LUMA = np.array([0.299, 0.587, 0.114])


def contrast(image: np.ndarray, box: tuple) -> float:
    """Difference between the middle of a box and a strip on both sides of it, in gray levels."""
    left, top, right, bottom = (round(v) for v in box[1:])
    wide, tall = right - left, bottom - top
    inner = image[top + tall // 5 : bottom - tall // 3, left + wide // 3 : right - wide // 3]
    sides = image[top:bottom, max(left - wide // 2, 0) : left], image[top:bottom, right : right + wide // 2]
    return abs(float(inner.mean()) - float(np.concatenate([side.ravel() for side in sides]).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_determinism(kind: Kind) -> None:
    scenes = [generate_scene(seed, 120, 161, kind) for seed in range(8)]
    again = generate_scene(7, 120, 161, kind)
    for band in ("visible", "infrared", "classes"):
        assert np.array_equal(getattr(scenes[7], band), getattr(again, band))
    for scene, other in pairwise(scenes):
        assert scene.visible.shape == (120, 161, 3) and scene.visible.dtype == np.uint8
        assert scene.infrared.shape == (120, 161) and scene.infrared.dtype == np.uint8
        assert not np.array_equal(scene.infrared, other.infrared)
        assert scene.visible.std() > 15 and scene.infrared.std() > 15
        assert np.ptp(scene.visible.astype(int), axis=2).max() > 30  # it has color


@pytest.mark.parametrize("kind", KINDS)
def test_any_size(kind: Kind) -> None:
    for seed, height, width in ((0, 32, 32), (5, 33, 200), (5, 300, 90)):
        scene = generate_scene(seed, height, width, kind)
        assert scene.infrared.shape == (height, width)
        for box in scene.boxes:
            assert 0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height


@pytest.mark.parametrize("kind", ["night_street", "smoke"])
def test_people_are_seen_in_infrared_and_hidden_in_visible(kind: Kind) -> None:
    warm, seen = [], []
    for seed in range(4):
        scene = generate_scene(seed, 240, 320, kind)
        for box in (b for b in scene.boxes if b.label == "person" and b.bottom - b.top > 25):
            warm.append(contrast(scene.infrared.astype(float), box))
            seen.append(contrast(scene.visible @ LUMA, box))
    assert len(warm) >= 6
    assert np.median(warm) > 40 and np.median(warm) > 2 * np.median(seen)


def test_day_and_night() -> None:
    """By day the marks of the road and the windows are far stronger in the visible than in the infrared picture."""
    night, day = (generate_scene(0, 240, 320, kind) for kind in ("night_street", "day_road"))
    assert (day.visible @ LUMA)[200:].std() > 2 * day.infrared[200:].std()
    assert night.visible.mean() < 0.5 * day.visible.mean()
    assert abs(night.infrared.mean() - day.infrared.mean()) < 30


@pytest.mark.parametrize("size", [(160, 160), (120, 160), (160, 90)])
def test_brain_bands_show_one_whole_head(size: tuple[int, int]) -> None:
    scene = generate_scene(0, *size, "brain")
    head, active = scene.infrared > 40, scene.visible.max(axis=2) > 60
    rows, columns = np.nonzero(head)
    frame = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert rows.min() > 0 and columns.min() > 0 and rows.max() < size[0] - 1 and columns.max() < size[1] - 1
    assert head[frame].mean() > 0.6 and active.sum() == active[frame].sum() > 0.4 * head.sum()


def test_boxes_and_classes_follow_the_crop() -> None:
    for seed in range(6):
        scene = generate_scene(seed, 240, 320, "day_road")
        assert scene.classes is not None and set(np.unique(scene.classes)) == {0, 1, 2}
        for box in scene.boxes:  # an object in front of it may hide most of it
            own = scene.classes == {"car": 1, "person": 2}[box.label]
            inside = own[round(box.top) : round(box.bottom), round(box.left) : round(box.right)]
            assert inside.mean() > 0.05, (seed, box)
    labeled = find_labels(list(PairedDataset.open("generated:1")))
    assert np.array_equal(labeled[0].label(3), generate_scene(0).classes)
    (boxed,) = find_boxes([pair.pair for pair in labeled], ("car", "person"))
    assert {0, 1} == set(boxed.class_ids.tolist())


def test_generated_pairs_are_lazy_named_and_of_every_kind() -> None:
    pairs = generated_pairs(4, seed=1, height=48, width=64)
    assert [pair["name"] for pair in pairs] == ["0000_night_street", "0001_day_road", "0002_smoke", "0003_night_street"]
    dataset = PairedDataset.open(pairs)
    again = PairedDataset.open(generated_pairs(4, seed=1, height=48, width=64))
    assert dataset.check().ok and np.array_equal(dataset[3].infrared, again[3].infrared)


def test_splits_share_no_shipped_pair() -> None:
    splits = {split: PairedDataset.open("generated:30", split) for split in (None, "train", "val", "test")}
    parity = {split: {pair.visible_source.seed % 2 for pair in pairs} for split, pairs in splits.items()}
    assert parity == {None: {0}, "train": {0}, "val": {1}, "test": {1}}
    sources = [{pair.visible_source for pair in pairs} for pairs in splits.values()]
    assert sources[0] == sources[1] and len(set.union(*sources)) == 90


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"kind": "beach"}, "'beach'; choose one of night_street"), ({"seed": -1}, "seed -1"), ({"width": 8}, "width 8")],
)
def test_bad_arguments(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        generate_scene(**{"seed": 0, **arguments})
    with pytest.raises(ValueError, match="count is 0"):
        generated_pairs(0)
