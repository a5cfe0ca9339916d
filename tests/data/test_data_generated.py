"""Generated scenes: deterministic, registered, and each kind shows what it is there to show."""

import numpy as np
import pytest

from fusion_hub.data import PairedDataset, generate_scene, generated_pairs
from fusion_hub.data.generated import KINDS

LUMA = np.array([0.299, 0.587, 0.114])


def contrast(image: np.ndarray, box: tuple) -> float:
    """Difference between the middle of a box and a strip on both sides of it, in grey levels."""
    left, top, right, bottom = (round(v) for v in box[1:])
    wide, tall = right - left, bottom - top
    inner = image[top + tall // 5 : bottom - tall // 3, left + wide // 3 : right - wide // 3]
    outer = np.concatenate(
        [
            image[top:bottom, max(left - wide // 2, 0) : left].ravel(),
            image[top:bottom, right : right + wide // 2].ravel(),
        ]
    )
    return abs(float(inner.mean()) - float(outer.mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_determinism(kind) -> None:
    scene, again, other = (generate_scene(seed, 120, 161, kind) for seed in (3, 3, 4))
    assert scene.visible.shape == (120, 161, 3) and scene.visible.dtype == np.uint8
    assert scene.infrared.shape == (120, 161) and scene.infrared.dtype == np.uint8
    assert np.array_equal(scene.visible, again.visible) and np.array_equal(scene.infrared, again.infrared)
    assert not np.array_equal(scene.infrared, other.infrared)
    assert scene.visible.std() > 15 and scene.infrared.std() > 15
    assert np.ptp(scene.visible.astype(int), axis=2).max() > 30  # it has colour


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 200), (300, 90)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size(kind, height: int, width: int) -> None:
    scene = generate_scene(0, height, width, kind)
    assert scene.infrared.shape == (height, width)
    for box in scene.boxes:
        assert 0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height


@pytest.mark.parametrize("kind", ["night_street", "smoke"])
def test_people_are_seen_in_infrared_and_hidden_in_visible(kind) -> None:
    warm, seen = [], []
    for seed in range(3):
        scene = generate_scene(seed, 240, 320, kind)
        luminance = scene.visible @ LUMA
        for box in (b for b in scene.boxes if b.label == "person" and b.bottom - b.top > 25):
            warm.append(contrast(scene.infrared.astype(float), box))
            seen.append(contrast(luminance, box))
    assert len(warm) >= 6
    assert np.median(warm) > 40 and np.median(warm) > 2 * np.median(seen)


def test_visible_carries_what_infrared_lacks() -> None:
    """By day the road's marks and the windows are far stronger in the visible than in the infrared picture."""
    scene = generate_scene(0, 240, 320, "day_road")
    road = np.s_[200:, :]
    assert (scene.visible @ LUMA)[road].std() > 2 * scene.infrared[road].std()


def test_night_is_dark_and_its_infrared_is_not() -> None:
    night, day = generate_scene(1, 240, 320, "night_street"), generate_scene(1, 240, 320, "day_road")
    assert night.visible.mean() < 0.5 * day.visible.mean()
    assert abs(night.infrared.mean() - day.infrared.mean()) < 30


def test_brain_bands_show_one_head() -> None:
    scene = generate_scene(2, 160, 160, "brain")
    head, active = scene.infrared > 40, scene.visible.max(axis=2) > 60
    assert 0.3 < head.mean() < 0.8 and 0.2 < active.mean() < 0.6
    ys, xs = np.nonzero(head)
    inside = np.zeros_like(head)
    inside[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    assert not (active & ~inside).any()


def test_generated_pairs_are_lazy_named_and_of_every_kind() -> None:
    pairs = generated_pairs(4, seed=1, height=48, width=64)
    assert [pair["name"] for pair in pairs] == [
        "0000_night_street",
        "0001_day_road",
        "0002_smoke",
        "0003_night_street",
    ]
    dataset = PairedDataset.open(pairs)
    assert dataset.check().ok
    again = PairedDataset.open(generated_pairs(4, seed=1, height=48, width=64))
    assert not dataset.find_overlap(PairedDataset.open(generated_pairs(1, seed=2, height=48, width=64)))
    assert np.array_equal(dataset[3].infrared, again[3].infrared)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"kind": "beach"}, "'beach'; choose one of night_street"), ({"seed": -1}, "seed -1"), ({"width": 8}, "width 8")],
)
def test_bad_arguments(arguments, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        generate_scene(**{"seed": 0, **arguments})
    with pytest.raises(ValueError, match="count is 0"):
        generated_pairs(0)
