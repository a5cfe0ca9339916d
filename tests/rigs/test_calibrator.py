"""`RigCalibrator`: what counts as overlap, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_hub.data import sample_pairs
from fusion_hub.rigs import RigCalibrator, RigError

TRUTH = np.array([[2.1, 0.03, -90.0], [-0.03, 2.1, -70.0], [0, 0, 1]])  # the infrared camera sees more on all sides


def wide_pair(name: str) -> tuple[Image.Image, Image.Image]:
    """A drawn street of which the visible picture (320x240) shows the middle and the infrared one (240x180) all."""
    pair = next(pair for pair in sample_pairs() if pair.name == name)
    with Image.open(pair.visible) as visible, Image.open(pair.infrared) as infrared:
        seen = visible.convert("RGB").crop((150, 110, 470, 350))
        (a, b, c), (d, e, f) = (TRUTH @ [[1, 0, 0], [0, 1, 0], [0, 0, 1]])[:2]
        # Pillow maps the corners of pixels, the homography their centers.
        to_street = (a, b, c + 150 + 0.5 - (a + b) / 2, d, e, f + 110 + 0.5 - (d + e) / 2)
        return seen, infrared.convert("L").transform(
            (240, 180), Image.Transform.AFFINE, to_street, Image.Resampling.BICUBIC
        )


def test_an_infrared_camera_may_see_more_than_the_visible_one() -> None:
    """The overlap is that of the smaller view: a wide infrared picture is no reason to refuse."""
    calibrator = RigCalibrator()
    calibrator.add(*wide_pair("day"))
    rig = calibrator.estimate()
    corners = np.array([[60, 50, 1], [180, 50, 1], [180, 130, 1], [60, 130, 1]]).T
    found, expected = rig.homography @ corners, TRUTH @ corners
    assert np.abs(found[:2] / found[2] - expected[:2]).max() < 4
    assert rig.confidence is not None and rig.confidence.overlap > 0.95


def test_real_pairs_of_a_wide_infrared_camera(data_root: Path) -> None:
    raw = data_root / "data" / "roadscene" / "raw"
    for name in ("FLIR_06763", "FLIR_06892"):
        calibrator = RigCalibrator()
        calibrator.add(raw / "vis" / f"{name}.jpg", raw / "ir" / f"{name}.png")
        assert calibrator.estimate().confidence.overlap > 0.9  # type: ignore[union-attr]


def test_pairs_of_different_scenes_are_no_rig() -> None:
    calibrator = RigCalibrator()
    for one, other in (("day", "smoke"), ("smoke", "night"), ("night", "glare"), ("glare", "day")):
        calibrator.add(wide_pair(one)[0], np.asarray(wide_pair(other)[1])[:, ::-1])
    with pytest.raises(RigError, match=r"could not be aligned with confidence: .*; check that the pairs"):
        calibrator.estimate()


def test_nothing_was_added() -> None:
    with pytest.raises(RigError, match="add at least one pair"):
        RigCalibrator().estimate()
