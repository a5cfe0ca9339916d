"""Alignment of an infrared with a visible camera: real pairs, known warps, and frames that must be refused."""

import json
from pathlib import Path

import alignment as benchmark  # benchmarks/alignment.py
import numpy as np
import pytest

from fusion_hub.rigs import align
from fusion_hub.rigs.features import scaling, transform, valid_pixels, warp
from fusion_hub.rigs.views import Views

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra `rigs`)")


@pytest.fixture(scope="module")
def pair(data_root: Path) -> tuple[benchmark.Picture, benchmark.Picture]:
    folder = data_root / "data" / "rigs" / "landmarks"
    return benchmark.read(folder / "VI_7_a.png"), benchmark.read(folder / "VI_7_b.png")


@pytest.fixture(scope="module")
def registered(data_root: Path) -> tuple[benchmark.Picture, benchmark.Picture]:
    folder = data_root / "data" / "llvip" / "test"
    return benchmark.read(folder / "vis" / "190001.jpg"), benchmark.read(folder / "ir" / "190001.jpg")


def rig_of(pair: tuple[benchmark.Picture, benchmark.Picture], seed: int, share: float) -> benchmark.Rig:
    visible, infrared = pair
    truth, size, ratio = benchmark.random_warp(np.random.default_rng(seed), visible.shape, (share, share))
    return benchmark.Rig("", visible, warp(infrared, np.linalg.inv(truth), size), truth, ratio)


@pytest.mark.parametrize("number", [1, 10])
def test_hand_landmarks(data_root: Path, number: int) -> None:
    folder = data_root / "data" / "rigs" / "landmarks"
    points = json.loads((folder / f"VIS_IR_{number}.json").read_text())
    visible, infrared = benchmark.read(folder / f"VI_{number}_a.png"), benchmark.read(folder / f"VI_{number}_b.png")
    found = align([(visible, infrared)])
    moved = transform(np.array(points["landmarks_moving"]), found.homography)
    errors = np.linalg.norm(moved - np.array(points["landmarks_fixed"]), axis=1) * 640 / visible.shape[1]
    assert np.median(errors) < 4
    assert found.sure and not found.why and found.homography[2, 2] == 1


@pytest.mark.parametrize("contrast", [lambda p: p, lambda p: 1 - p, lambda p: p**2.2])
def test_one_camera_is_exact(pair: tuple[benchmark.Picture, benchmark.Picture], contrast: object) -> None:
    visible = pair[0]
    height, width = visible.shape
    truth = np.array([[0.9, 0.1, 20.0], [-0.1, 0.9, 60.0], [2e-5, -1e-5, 1.0]])
    second = cv2.warpPerspective(contrast(visible), np.linalg.inv(truth), (width, height))  # type: ignore[operator]
    found = align([(visible, second)])
    rig = benchmark.Rig("", visible, second, truth, 0.9)
    assert benchmark.corner_error(found.homography, truth, rig) < 0.2
    assert found.sure and found.agreement < 0.5


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_other_field_of_view(registered: tuple[benchmark.Picture, benchmark.Picture], share: float) -> None:
    rig = rig_of(registered, 3, share)
    for ratio in (None, share * 1.09):
        found = align([(rig.visible, rig.infrared)], fov_ratio=ratio)
        assert benchmark.corner_error(found.homography, rig.truth, rig) < 10
        assert found.sure and found.overlap > 0.9


def test_sizes_do_not_matter(pair: tuple[benchmark.Picture, benchmark.Picture]) -> None:
    """An infrared picture 160 pixels wide, a large visible picture and one on its side give the same place."""
    visible, infrared = pair
    reference = align([(visible, infrared)]).homography
    height, width = visible.shape
    rig = benchmark.Rig("", visible, infrared, reference, 1.0)
    factor = 3000 / width
    large = cv2.resize(visible, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(infrared, (160, 120), interpolation=cv2.INTER_AREA)
    found = align([(large, small)]).homography
    back = np.linalg.inv(scaling(large.shape[1] / width, large.shape[0] / height)) @ found
    back = back @ scaling(160 / infrared.shape[1], 120 / infrared.shape[0])
    assert benchmark.corner_error(back, reference, rig) < 4
    turned = align([(np.ascontiguousarray(visible.T), np.ascontiguousarray(infrared.T))]).homography
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert benchmark.corner_error(swap @ turned @ swap, reference, rig) < 4


def test_frames_of_one_rig_are_joined(data_root: Path) -> None:
    pairs = benchmark.clips(data_root / "data")["msrs night"]
    rigs = benchmark.rig_of_frames(pairs, range(0, 40, 5), np.random.default_rng(1))
    reports: list[float] = []
    found = align([(rig.visible, rig.infrared) for rig in rigs], progress=reports.append)
    assert benchmark.corner_error(found.homography, rigs[0].truth, rigs[0]) < 15
    assert found.sure
    assert reports == sorted(reports) and reports[-1] == 1


def test_what_is_refused(
    pair: tuple[benchmark.Picture, benchmark.Picture], registered: tuple[benchmark.Picture, benchmark.Picture]
) -> None:
    visible, infrared = pair
    random = np.random.default_rng(0)
    noise = random.normal(0.5, 0.2, infrared.shape).astype(np.float32)
    even = np.full_like(infrared, 0.3)
    for frames, reason in (
        ([(visible, even)], "the infrared picture is one even area"),
        ([(even, infrared)], "the visible picture is one even area"),
        ([(visible, noise)], "by chance"),
        ([(visible, registered[1])], "by chance"),
        ([(visible, benchmark.ramp(infrared.shape))], "by chance"),
    ):
        found = align(frames)
        assert not found.sure and reason in found.why
    wrong = np.array([[1.5, 0, 200], [0, 1.5, -100], [0, 0, 1]])
    assert not align([(visible, infrared)], start=wrong).sure


def test_a_rig_that_moves_is_refused(registered: tuple[benchmark.Picture, benchmark.Picture]) -> None:
    rig = rig_of(registered, 3, 0.7)
    height, width = rig.infrared.shape
    moved = warp(rig.infrared, np.array([[1, 0, 0.1 * width], [0, 1, 0.05 * height], [0, 0, 1]]), (height, width))
    found = align([(rig.visible, rig.infrared)] * 2 + [(rig.visible, moved)] * 2, fov_ratio=0.7)
    assert not found.sure and "halves of the frames" in found.why


def test_start_is_refined(registered: tuple[benchmark.Picture, benchmark.Picture]) -> None:
    rig = rig_of(registered, 5, 0.6)
    shift = np.array([[1, 0, 0.04 * rig.visible.shape[1]], [0, 1, 0], [0, 0, 1]])
    found = align([(rig.visible, rig.infrared)], start=shift @ rig.truth)
    assert found.sure and benchmark.corner_error(found.homography, rig.truth, rig) < 8


def test_a_border_without_data_is_no_edge() -> None:
    picture = np.random.default_rng(0).random((120, 160), np.float32)
    border = warp(picture, np.eye(3), (120, 160))
    border[:, :30] = 0
    border[100:] = 0
    mask = valid_pixels(border)
    assert not mask[:, :28].any() and not mask[103:].any() and mask[5:95, 35:155].all()
    assert valid_pixels(picture).all()


def test_frames_of_different_sizes() -> None:
    one, other = np.zeros((8, 8), np.float32), np.zeros((8, 9), np.float32)
    with pytest.raises(ValueError, match="one size"):
        Views([(one, one), (one, other)])
    with pytest.raises(ValueError, match="no frames"):
        align([])


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion_hub.rigs.features.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"fusion-hub\[rigs\]"):
        align([(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32))])
