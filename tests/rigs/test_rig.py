"""The rig file, the warp of the infrared picture, and fusion of pairs that are not registered."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from fusion_hub import DiffFuseNetPipeline
from fusion_hub.rigs import Confidence, Lens, Rig, RigError

HOMOGRAPHY = [[2.1, 0.05, 40.0], [-0.04, 2.0, 30.0], [1e-5, -2e-5, 1.0]]
SIZES = {"visible_size": (300, 400), "infrared_size": (120, 160)}


def rig(**changes: Any) -> Rig:
    return Rig(**({"homography": HOMOGRAPHY, **SIZES} | changes))


def scene(height: int, width: int) -> np.ndarray:
    """A smooth picture that differs at every pixel, as a function of position."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return np.sin(x / 9) + np.cos(y / 7) + x / 50


def visible_to_infrared(x: np.ndarray, y: np.ndarray, homography: Any = HOMOGRAPHY) -> tuple[np.ndarray, np.ndarray]:
    points = np.stack([x, y, np.ones_like(x)]) if np.ndim(x) else np.array([x, y, 1.0])
    moved = np.tensordot(np.linalg.inv(np.array(homography)), points, 1)
    return moved[0] / moved[2], moved[1] / moved[2]


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    lens = Lens((500.0, 510.0), (199.5, 149.5), (-0.1, 0.02, 0.001, -0.002, 0.0))
    first = rig(frames=20, confidence=Confidence(0.5, None, 1.5, 0.9), visible_lens=lens, time_offset=-0.12)
    path = first.save(tmp_path / "deep" / "rig.json")
    second = Rig.load(path)
    assert second.to_dict() == first.to_dict()
    assert json.loads(path.read_text())["visible"]["width"] == 400
    assert [file.name for file in path.parent.iterdir()] == ["rig.json"]


def test_confidence_in_words() -> None:
    text = str(Confidence(0.456, 2.13, 1.26, 0.8))
    assert text == (
        "the edges agree with a score of 0.46, 2.1 standard deviations ahead of the next best place, two halves of the "
        "material agree within 1.3 pixels (of 640), 80% of the smaller view lies in the other one"
    )
    assert str(Confidence(0.5, None, None, 1.0)).count(",") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "camera"}, "no rig file"),
        ({"version": 2}, '"version" is 2'),
        ({"homography": [[1, 0], [0, 1]]}, "three rows"),
        ({"homography": [[1, 0, 0], [0, 1, 0], [0, 0, float("nan")]]}, "finite"),
        ({"homography": [[1, 0, 0], [0, 1, 0], [0, 0, 0]]}, "is 0"),
        ({"homography": [[1, 2, 0], [2, 4, 0], [0, 0, 1]]}, "no inverse"),
        ({"homography": [[-2, 0, 330], [0, 2, 10], [0, 0, 1]]}, "mirrors"),
        ({"homography": [[2, 0, 0], [0, 2, 0], [-0.02, 0, 1]]}, "behind the camera"),
        ({"homography": [[2, 0, 900], [0, 2, 0], [0, 0, 1]]}, "outside"),
        ({"homography": "identity"}, "three rows"),
        ({"visible": {"width": 400, "height": 0}}, "whole pixels"),
        ({"visible": {"width": 400.5, "height": 300}}, "whole pixels"),
        ({"infrared": None}, '"infrared" is missing'),
        ({"infrared": {"width": 160, "height": 120, "lens": {"focal": [1, 2]}}}, '"center" of the infrared lens'),
        ({"frames": -1}, '"frames"'),
        ({"confidence": {"score": "high"}}, '"score"'),
        ({"time_offset": "late"}, '"time_offset"'),
        ({"time_offset": float("nan")}, '"time_offset"'),
        ({"time_ofset": 3}, 'the rig has the unknown entry "time_ofset"; did you mean time_offset'),
        ({"infrared": {"width": 160, "height": 120, "lense": {}}}, '"lense"; did you mean lens'),
        ({"confidence": {"score": 1, "overlap": 1, "sure": "false"}}, '"sure" of the confidence must be true or false'),
        ({"homography": [[1e-4, 0, 100], [0, 1e-4, 100], [0, 0, 1]]}, r"cover 0\.3% of the visible one's width"),
        ({"homography": [[1, 0, 398], [0, 1, 298], [0, 0, 1]]}, "at least 2% of each are needed"),
    ],
)
def test_each_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(rig().to_dict() | change))
    with pytest.raises(RigError, match=said) as error:
        Rig.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00\x01", "null", "[" * 100_000])
def test_what_is_no_rig_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rig.json"
    path.write_text(text)
    with pytest.raises(RigError, match="no rig file"):
        Rig.load(path)


def test_warp_samples_the_infrared_at_the_right_positions() -> None:
    values = rig().warp(scene(120, 160))
    mask = ~values.mask
    y, x = np.mgrid[:300, :400].astype(np.float64)
    at_x, at_y = visible_to_infrared(x, y)
    expected = np.sin(at_x / 9) + np.cos(at_y / 7) + at_x / 50
    inside = (at_x > 0) & (at_x < 159) & (at_y > 0) & (at_y < 119)
    assert np.abs(values - expected)[inside].max() < 0.01  # of the linear interpolation
    assert mask[inside].all() and not mask[(at_x < -1) | (at_y > 120)].any()


def test_counts_stay_counts_and_never_overshoot() -> None:
    infrared = np.full((120, 160), 7300, np.uint16)
    infrared[60:, 80:] = 9100
    for factor in (2.0, 0.3):  # enlarging and shrinking
        matrix = [[factor, 0, 5], [0, factor, 5], [0, 0, 1]]
        values = rig(homography=matrix).warp(infrared)
        assert values.dtype == np.uint16
        assert values.data.min() == 7300 and values.data.max() == 9100


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">u2", "i2", "u4", ">i4", "i8"])
def test_any_numbers_keep_their_type_and_values(dtype: str) -> None:
    value = 70_000_001 if np.dtype(dtype).itemsize > 2 and dtype[-2] != "f" else 1000
    values = rig().warp(np.full((120, 160), value, dtype))
    assert values.dtype == dtype and (values.data == value).all()


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = rig().save(tmp_path / "rig.json")
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert Rig.load(path).to_dict() == rig().to_dict()


def test_a_time_offset_that_no_file_may_hold_is_refused() -> None:
    with pytest.raises(RigError, match='"time_offset" must be seconds'):
        replace(rig(), time_offset=float("nan"))


def test_shrinking_averages() -> None:
    """A checkerboard of single pixels becomes gray, not a pattern."""
    board = np.indices((120, 160)).sum(0) % 2 * 1.0
    values = rig(homography=[[0.25, 0, 100], [0, 0.25, 100], [0, 0, 1]]).warp(board)
    assert np.abs(values.compressed() - 0.5).max() < 0.05


def test_missing_data_stay_missing() -> None:
    infrared = np.full((120, 160), 20.0, np.float32)
    infrared[40:60, 50:70] = np.nan
    values = rig().warp(infrared)
    mask = ~values.mask
    x, y = np.array(HOMOGRAPHY) @ [60, 50, 1] @ np.eye(3)[:, :2]
    assert not mask[round(y), round(x)]
    assert (values.compressed() == 20).all() and mask.mean() > 0.6


def test_the_same_cameras_at_another_resolution() -> None:
    """Half the visible size samples the same infrared positions at the corresponding pixel centers."""
    full, half = rig().at((300, 400), (120, 160)), rig().at((150, 200), (120, 160))
    mean = [table.reshape(150, 2, 200, 2).mean(axis=(1, 3)) for table in full.positions]
    inside = ndimage.binary_erosion(half.mask, iterations=3)  # the outermost pixels are repeated beyond their centers
    for expected, found in zip(mean, half.positions, strict=True):
        assert np.abs(expected - found)[inside].max() < 0.01
    with pytest.raises(RigError, match="for visible pictures of 400x300, but this one is 400x400"):
        rig().at((400, 400), (120, 160))
    with pytest.raises(RigError, match="infrared"):
        rig().at((300, 400), (160, 160))


def test_lens_distortion_against_opencv() -> None:
    cv2: Any = pytest.importorskip("cv2")
    lens = Lens((420.0, 430.0), (79.0, 60.0), (-0.3, 0.1, 0.002, -0.001, 0.01))
    maps = cv2.initUndistortRectifyMap(
        lens.matrix, np.array(lens.distortion), None, lens.matrix, (160, 120), cv2.CV_32F
    )
    expected = np.stack(maps, axis=-1).reshape(-1, 2)
    ideal = np.mgrid[:120, :160][::-1].reshape(2, -1).T.astype(float)
    assert np.abs(lens.distort(ideal) - expected).max() < 1e-3
    assert np.abs(lens.undistort(lens.distort(ideal)) - ideal).max() < 1e-3
    assert np.abs(lens.distort(ideal) - ideal).max() > 1

    # Both cameras without distortion see what the homography says; the tables hold it for the recorded pictures.
    both = {"visible_lens": lens.resized(2.5, 2.5), "infrared_lens": lens}
    x, y = (table[150, 200] for table in rig(**both).at((300, 400), (120, 160)).positions)
    seen = both["visible_lens"].undistort(np.array([[200.0, 150.0]]))[0]
    assert np.allclose(lens.undistort(np.array([[x, y]], dtype=float)), [visible_to_infrared(*seen)], atol=1e-3)


@pytest.fixture(scope="module")
def pipe() -> DiffFuseNetPipeline:
    return DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A dim visible street of noise and bright, warm infrared, of sizes that differ."""
    generator = np.random.default_rng(0)
    visible = generator.integers(20, 90, (300, 400, 3), dtype=np.uint8)
    infrared = (7000 + 900 * generator.random((120, 160)) ** 4).astype(np.uint16)
    infrared[40:80, 60:100] += 2000
    return visible, infrared


def test_the_result_is_the_visible_image_where_the_infrared_sees_nothing(
    pipe: DiffFuseNetPipeline, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    fused = np.asarray(pipe(*pair, rig=rig()).images[0])
    warp = rig().at((300, 400), (120, 160))
    assert fused.shape == pair[0].shape
    assert not warp.mask.all() and (fused == pair[0])[~warp.mask].all()
    assert np.abs(fused.astype(int) - pair[0])[warp.share == 1].mean() > 10
    # Inside, it is what fusion of the registered pair gives, whose infrared has the same range.
    low, high = np.percentile(pair[1], (0.5, 99.5))
    warped = warp.apply(np.clip((pair[1].astype(np.float32) - low) / (high - low), 0, 1))
    registered = np.asarray(pipe(pair[0], warped).images[0])
    difference = np.abs(fused.astype(int) - registered)[warp.share == 1]
    assert difference.max() <= 8 and difference.mean() < 0.3  # the percentiles are interpolated in another way


def test_the_border_is_soft(pipe: DiffFuseNetPipeline) -> None:
    """A flat scene whose infrared is far brighter: no step between neighboring pixels, beyond the fade's own slope."""
    visible, infrared = np.full((300, 400), 60, np.uint8), np.full((120, 160), 200, np.uint8)
    visible[::2] += 1
    infrared[::2] += 1
    fused = np.asarray(pipe(visible, infrared, rig=rig()).images[0]).astype(int)
    steps = max(np.abs(np.diff(fused, axis=axis)).max() for axis in (0, 1))
    rise = fused.max() - 60
    assert rise > 20 and steps <= 0.3 * rise


def test_a_warped_picture_is_a_registered_infrared(
    pipe: DiffFuseNetPipeline, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    warped = rig().warp(pair[1])
    fused = np.asarray(pipe(pair[0], warped).images[0])
    assert (fused == pair[0])[warped.mask].all() and (fused != pair[0])[~warped.mask].any()


def test_rig_files_batches_kinds_and_intermediates(
    pipe: DiffFuseNetPipeline, pair: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = rig().save(tmp_path / "rig.json")
    alone = np.asarray(pipe(*pair, rig=path).images[0])
    both = pipe([pair[0], pair[0][::-1].copy()], [pair[1], pair[1]], rig=str(path), batch_size=2).images
    assert (np.asarray(both[0]) == alone).all()
    large = np.tile(pair[0], (2, 2, 1))  # the rig fits other resolutions of the same view
    whole, tiled = (np.asarray(pipe(large, pair[1], rig=path, tile=tile).images[0]) for tile in (0, 704))
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    deep = pipe((pair[0][..., 0].astype(np.uint16) * 257), pair[1], rig=path).images[0]
    assert deep.mode == "I;16" and deep.size == (400, 300)
    output = pipe(*pair, rig=path, return_intermediates=True)
    assert output.intermediates.fused.shape == (1, 1, 300, 400)


def test_what_rig_refuses(pipe: DiffFuseNetPipeline, pair: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"rig='auto'.*fusion-hub calibrate"):
        pipe(*pair)
    with pytest.raises(RigError, match="calibrate the rig again"):
        pipe(pair[0], pair[1][:100], rig=rig())
    with pytest.raises(TypeError, match="rig is of type int"):
        pipe(*pair, rig=3)  # type: ignore[arg-type]
    with pytest.raises(RigError, match="could not be aligned with confidence"):
        pipe(*pair, rig="auto")


def test_only_a_join_fades() -> None:
    """The infrared view ends inside the visible picture on the left, and a few pixels outside of it elsewhere."""
    share = Rig([[2, 0, 40], [0, 2, -4], [0, 0, 1]], (96, 128), (56, 60)).at((96, 128), (56, 60)).share
    assert (share[:, :39] == 0).all() and (np.diff(share[:, 39:], axis=1) >= 0).all()
    assert (share[:, 60:] == 1).all() and share.dtype == np.float32
    assert (Rig(np.eye(3), (96, 128), (96, 128)).at((96, 128), (96, 128)).share == 1).all()
