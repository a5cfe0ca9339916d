"""The two pictures of a radiometric photo: the camera's own geometry, corrected for the distance of the scene."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fusion_hub.image import read_radiometric
from fusion_hub.image.radiometric import Thermogram
from fusion_hub.rigs import RigError, photo_rig
from tests.support import flir_file as ff


def thermogram(data: bytes) -> Thermogram:
    return read_radiometric({"bytes": data, "path": None})


def street(seed: int = 0) -> np.ndarray:
    """Rectangles of several levels, `(240, 320)` float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    scene = np.full((240, 320), 0.4, np.float32)
    for _ in range(60):
        top, left = rng.integers(0, 220), rng.integers(0, 300)
        scene[top : top + rng.integers(8, 60), left : left + rng.integers(8, 60)] = rng.random()
    return cv2.GaussianBlur(scene, (0, 0), 0.8)


def photo_of(offset: tuple[int, int], stated: tuple[int, int]) -> Thermogram:
    """A photo whose infrared, 120 x 90, lies at an offset, while the file states another one."""
    scene, scale = street(), 320 / (120 * 1.25)
    x, y = (319 / 2 + offset[0] - scale * 119 / 2, 239 / 2 + offset[1] - scale * 89 / 2)
    truth = np.array([[scale, 0, x], [0, scale, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warm = cv2.warpAffine(1 - cv2.GaussianBlur(scene, (0, 0), 1.0), truth, (120, 90), flags=flags)
    visible = np.repeat((scene * 255).astype(np.uint8)[..., None], 3, axis=2)
    counts = (14000 + 900 * warm).astype(np.uint16)
    return thermogram(ff.photo(visible=visible, counts=counts, overlay=(1.25, *stated)))


@pytest.mark.parametrize("parallax", [(0, 0), (6, 0), (-5, 4)])
def test_a_near_scene_is_shifted_back(parallax: tuple[int, int]) -> None:
    offset = (3 + parallax[0], -2 + parallax[1])
    rig = photo_rig(photo_of(offset, (3, -2)))
    center = rig.homography @ [119 / 2, 89 / 2, 1]
    np.testing.assert_allclose(center[:2] / center[2], [319 / 2 + offset[0], 239 / 2 + offset[1]], atol=1.5)
    assert rig.visible_size == (240, 320) and rig.infrared_size == (90, 120)


def test_without_structure_the_camera_is_believed() -> None:
    visible = np.full((60, 80, 3), 90, np.uint8)
    photo = thermogram(ff.photo(visible=visible, counts=np.full((24, 32), 14000, np.uint16)))
    rig = photo_rig(photo)
    assert rig.frames == 0 and rig.confidence is None
    np.testing.assert_allclose(rig.homography, photo.overlay_homography((60, 80)))


def test_a_photo_without_visible_picture_or_geometry() -> None:
    with pytest.raises(RigError, match="holds no visible picture"):
        photo_rig(thermogram(ff.jpeg(ff.block())))
    flat = np.full((60, 80, 3), 90, np.uint8)
    for overlay in ((float("nan"), 0, 0), (1.25, 30000, 0)):  # missing; outside of the visible picture
        with pytest.raises(RigError, match="could not be aligned with confidence"):
            photo_rig(thermogram(ff.photo(visible=flat, overlay=overlay)))


@pytest.mark.parametrize("name", ["FLIR_B60", "FLIR_AX8"])
def test_real_photos_stay_near_the_cameras_geometry(data_root: Path, name: str) -> None:
    photo = read_radiometric(data_root / "data" / "rigs" / "radiometric" / f"{name}.jpg")
    with Image.open(io.BytesIO(photo.visible or b"")) as image:
        size = image.height, image.width
    rig, stated = photo_rig(photo), photo.overlay_homography(size)
    assert stated is not None and rig.frames == 1
    center = np.array([(photo.counts.shape[1] - 1) / 2, (photo.counts.shape[0] - 1) / 2, 1])
    found, given = rig.homography @ center, stated @ center
    assert np.hypot(*(found / found[2] - given / given[2])[:2]) < 0.04 * size[1]
