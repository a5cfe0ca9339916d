"""Degraded inputs: each model does what its equation says, and switching it on leaves the crops of a seed alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion_hub.data import CropSource, PairCrops, degrade
from fusion_hub.data import degradations as d
from fusion_hub.training import ConfigError, TrainingConfig

FLAT = np.full((128, 160), 0.5, dtype=np.float32)
SMOOTH = (0.3 + 0.4 * np.add.outer(np.linspace(0, 0.5, 40), np.linspace(0, 0.5, 50))).astype(np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", [*d.VISIBLE, *d.INFRARED])
@pytest.mark.parametrize("shape", [(40, 50), (1, 1), (3, 200)])
def test_every_kind_keeps_shape_type_and_range_and_follows_from_its_generator(
    kind: str, shape: tuple[int, int]
) -> None:
    image = np.resize(SMOOTH, shape)
    before = image.copy()
    for seed in range(8):
        result = d._apply(kind, image, rng(seed))
        assert result.shape == shape and result.dtype == np.float32
        assert result.min() >= 0 and result.max() <= 1
        assert np.array_equal(result, d._apply(kind, image, rng(seed)))
    assert np.array_equal(image, before)
    assert shape == (1, 1) or not np.array_equal(result, image)


@pytest.mark.parametrize("sigma", [2, 10, 25])
def test_noise_has_the_stated_deviation(sigma: int) -> None:
    noise = (d.gaussian_noise(FLAT, rng(), sigma / 255) - FLAT) * 255
    assert noise.std() == pytest.approx(sigma, rel=0.02) and abs(noise.mean()) < 0.05 * sigma
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.03  # white
    offsets = (d.fixed_pattern(FLAT, rng(), sigma / 255, 0) - FLAT) * 255
    assert offsets.std() == pytest.approx(sigma, rel=0.02)
    gains = d.fixed_pattern(FLAT, rng(), 0, 0.02) / FLAT
    assert gains.std() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_are_constant_along_their_axis_and_have_the_stated_deviation(axis: int) -> None:
    wide = np.full((6, 20000)[:: 1 - 2 * axis], 0.5, dtype=np.float32)
    for slow in (0.0, 0.6, 1.0):
        offsets = np.moveaxis(d.stripes(wide, rng(), 10 / 255, axis, slow) - wide, axis, 0)
        assert np.ptp(offsets, axis=0).max() < 1e-6
        assert offsets[0].std() * 255 == pytest.approx(10, rel=0.05)
        assert np.corrcoef(offsets[0, 1:], offsets[0, :-1])[0, 1] == pytest.approx(slow, abs=0.05)


def test_shot_noise_counts_electrons() -> None:
    """In linear light its mean is the signal, and its variance `(signal + read_noise^2) / full_well` grows with it."""
    well, read_noise = 400.0, 2.0
    for light in (0.1, 0.3, 0.7):
        flat = np.full((300, 300), light ** (1 / d.GAMMA), dtype=np.float32)
        found = d.shot_noise(flat, rng(), well, read_noise).astype(np.float64) ** d.GAMMA
        assert found.mean() == pytest.approx(light, rel=0.01)
        assert found.var() == pytest.approx(light / well + (read_noise / well) ** 2, rel=0.03)


def test_low_light_is_trained_towards_the_dimmed_picture() -> None:
    assert d.dim(FLAT, 0.5).astype(np.float64) ** d.GAMMA == pytest.approx(0.5 * 0.5**d.GAMMA, rel=1e-5)
    found = [r for r in (degrade(SMOOTH, SMOOTH, rng(seed)) for seed in range(200)) if r.visible_kind == "low_light"]
    assert found
    for result in found:
        exposure = (result.clean_visible / SMOOTH) ** d.GAMMA
        assert np.ptp(exposure) < 1e-4 and 0.15 <= exposure.mean() <= 0.7
        assert not np.array_equal(result.visible, result.clean_visible)
        light = [image.astype(np.float64) ** d.GAMMA for image in (result.visible, result.clean_visible)]
        assert light[0].mean() == pytest.approx(light[1].mean(), rel=0.05)


def test_haze_mixes_image_and_airlight() -> None:
    t = d.transmission((60, 80), rng(), 0.4, 0.9)
    assert t.shape == (60, 80) and t.min() == pytest.approx(0.4) and t.max() == pytest.approx(0.9)
    assert np.abs(np.diff(t, axis=0)).max() < 0.1 and np.abs(np.diff(t, axis=1)).max() < 0.1
    image = rng().random((60, 80), dtype=np.float32)
    assert d.haze(image, t, 0.8) == pytest.approx(image * t + 0.8 * (1 - t), abs=1e-6)
    assert np.array_equal(d.haze(image, np.ones_like(t), 0.8), image)


def test_blur_spreads_a_point_as_far_as_stated() -> None:
    point = np.zeros((31, 31), dtype=np.float32)
    point[15, 15] = 1
    place = np.arange(31) - 15
    for sigma in (1.0, 1.5):
        spread = d.blur(point, sigma)
        assert spread.sum() == pytest.approx(1, abs=1e-5)
        assert (spread.sum(0) @ place**2) ** 0.5 == pytest.approx(sigma, rel=0.02)
    for length, angle in ((6.0, 0.0), (5.0, 1.1)):
        line = d.motion_blur(point, length, angle)
        assert line.sum() == pytest.approx(1, abs=1e-5)
        # A line has the variance length^2 / 12; sharing each of its points by four pixels adds at most 1/4.
        for across, direction in ((0, np.cos(angle)), (1, np.sin(angle))):
            along = line.sum(across) @ place**2
            assert 0 <= along - (length * direction) ** 2 / 12 < 0.4
    assert np.allclose(d.motion_blur(FLAT, 4, 0.3), FLAT, atol=1e-6)


def test_jpeg_differs_more_at_lower_quality() -> None:
    image = d.gaussian_noise(SMOOTH, rng(), 20 / 255)
    errors = [np.abs(d.jpeg(image, quality) - image).mean() for quality in (15, 60, 95)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_only_the_kinds_asked_for_are_drawn() -> None:
    few = ("gaussian", "blur")
    results = [degrade(SMOOTH, SMOOTH, rng(seed), few) for seed in range(200)]
    assert {kind for r in results for kind in (r.visible_kind, r.infrared_kind)} == {None, *few}
    for wrong, message in ((["snow", "blur"], "snow is not one of"), (["haze"], "no kind for the infrared image")):
        with pytest.raises(ValueError, match=message):
            d.check_kinds(wrong)
        with pytest.raises(ConfigError, match=message):
            TrainingConfig(degradations=wrong)


def test_kinds_are_as_frequent_as_stated() -> None:
    small, count = SMOOTH[:8, :8], 4000
    results = [degrade(small, small, rng(seed)) for seed in range(count)]
    pairs = Counter((r.visible_kind, r.infrared_kind) for r in results)
    assert pairs[None, "gaussian"] / count == pytest.approx(0.30, abs=0.03)
    assert sum(n for kinds, n in pairs.items() if None in kinds) / count == pytest.approx(0.75, abs=0.03)
    kinds = [kind for r in results for kind in (r.visible_kind, r.infrared_kind) if kind]
    noise = [k for k in kinds if "gaussian" in k or k in ("fixed_pattern", "low_light")]
    assert len(noise) / len(kinds) == pytest.approx(0.70, abs=0.03)
    assert set(kinds) == {*d.VISIBLE, *d.INFRARED}
    for result in results[:300]:
        assert result.clean_infrared is small and (result.clean_visible is small or result.visible_kind == "low_light")
        assert (result.infrared is small) == (result.infrared_kind is None)
        assert (result.visible is small) == (result.visible_kind is None)
    strengths = [np.std(d._apply("gaussian", FLAT, rng(s)) - FLAT) * 255 for s in range(100)]
    assert 1.9 < min(strengths) < 4 and 15 < max(strengths) < 25.5
    rounded = [np.allclose(d._apply("gaussian", FLAT, rng(s)) * 255 % 1 % 0.999, 0, atol=2e-3) for s in range(100)]
    assert 0.8 < np.mean(rounded) < 1


def pairs() -> list[dict[str, object]]:
    return [{"visible": rng(n).integers(0, 256, (40, 50), dtype=np.uint8), "name": str(n),
             "infrared": rng(n + 9).integers(0, 256, (40, 50), dtype=np.uint8)} for n in range(3)]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"scale_jitter": (0.6, 1.0), "gain_jitter": 0.2, "swap_probability": 0.5}])
def test_crops_of_a_seed_do_not_change(options: dict[str, Any]) -> None:
    plain = PairCrops([CropSource(pairs())], 16, 5, 300, **options)
    always, half = (PairCrops(plain.sources, 16, 5, 300, degrade_probability=p, **options) for p in (1.0, 0.5))
    assert set(plain[0]) == {"visible", "infrared", "sample"}
    changed = []
    for number in range(300):
        sample, clean, item = always[number], plain[number], half[number]
        assert set(sample) == set(item) == {*clean, "clean_visible", "clean_infrared"}
        assert all(one.shape == (1, 16, 16) and one.dtype == torch.float32 for k, one in item.items() if k != "sample")
        assert torch.equal(sample["clean_infrared"], clean["infrared"])
        assert not (
            torch.equal(sample["infrared"], clean["infrared"]) and torch.equal(sample["visible"], clean["visible"])
        )
        inputs = [torch.equal(item[band], item[f"clean_{band}"]) for band in ("visible", "infrared")]
        changed.append(not all(inputs))
        if all(inputs):
            assert all(torch.equal(item[band], clean[band]) for band in ("visible", "infrared"))
        assert all(torch.equal(one, half[number][name]) for name, one in item.items())
    assert 0.4 < np.mean(changed) < 0.6


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_a_probability_is_between_0_and_1(probability: float) -> None:
    with pytest.raises(ValueError, match=rf"degrade_probability is {probability}; it must be in \[0, 1\]"):
        PairCrops([CropSource(pairs())], 16, 0, 1, degrade_probability=probability)


def test_noise_of_real_crops_is_gone_from_their_targets(data_root: Path) -> None:
    source = CropSource(data_root / "data" / "tno", "train", exclude=data_root / "data" / "reserved.csv")
    noisy = PairCrops([source], 96, 0, 40, degrade_probability=1.0)
    clean = PairCrops([source], 96, 0, 40)
    for number in range(40):
        assert torch.equal(noisy[number]["clean_infrared"], clean[number]["infrared"])
        assert (noisy[number]["infrared"] - clean[number]["infrared"]).abs().mean() < 0.12
