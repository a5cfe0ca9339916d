"""A matching network of transformers in place of the search; a tiny one with random weights, and exact matches."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
from transformers import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, EfficientLoFTRImageProcessorPil

from fusion_hub.data import sample_pairs
from fusion_hub.image.inputs import read_luminance
from fusion_hub.rigs import KeypointMatcher, RigCalibrator, RigError

SHIFT = np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0, 0, 1]])  # of a picture of half the size, between pixel centers


@pytest.fixture(scope="module")
def tiny_matcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matcher")
    config = EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 1, 1],
        out_features=[16, 16, 32, 64],
        hidden_size=64,
        num_attention_layers=1,
        coarse_matching_threshold=0.0,
    )
    EfficientLoFTRForKeypointMatching(config).save_pretrained(folder)
    EfficientLoFTRImageProcessorPil(size={"height": 96, "width": 128}).save_pretrained(folder)
    return folder


def test_a_network_is_loaded_and_run(tiny_matcher: Path) -> None:
    matcher = KeypointMatcher(tiny_matcher)
    assert matcher.size == (96, 128)
    picture = np.random.default_rng(0).random((96, 128), dtype=np.float32)
    seen, warm = matcher.match(picture, picture)
    assert seen.shape == warm.shape and seen.shape[1] == 2
    assert (seen >= 0).all() and (seen[:, 0] <= 128).all() and (seen[:, 1] <= 96).all()


def test_random_matches_are_not_trusted(tiny_matcher: Path) -> None:
    calibrator = RigCalibrator(matcher=tiny_matcher)
    random = np.random.default_rng(0)
    calibrator.add(random.random((96, 128)), random.random((48, 64)))
    with pytest.raises(RigError, match="could not be aligned with confidence"):
        calibrator.estimate()


def test_matches_of_resized_pictures_give_the_homography(tiny_matcher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the matches is wrong; sizes and the half pixel of a resize are taken into account."""
    random = np.random.default_rng(0)
    points = random.uniform([4, 4], [124, 92], (200, 2))
    wrong = points.copy()
    wrong[::10] = random.uniform([4, 4], [124, 92], (20, 2))
    # Both pictures show the same view, so that they are equal at the input of the network.
    monkeypatch.setattr(KeypointMatcher, "match", lambda *_: (wrong, points))
    pair = next(pair for pair in sample_pairs() if pair.name == "day")
    infrared = read_luminance(pair.infrared, "infrared")
    height, width = infrared.shape
    small = infrared.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    calibrator = RigCalibrator(matcher=tiny_matcher)
    calibrator.add(infrared, small)
    rig = calibrator.estimate()
    corners = np.array([[0, 0, 1], [width / 2 - 1, 0, 1], [width / 2 - 1, height / 2 - 1, 1], [0, height / 2 - 1, 1]])
    found = corners @ rig.homography.T
    assert np.abs(found[:, :2] / found[:, 2:] - (corners @ SHIFT.T)[:, :2]).max() < 0.5


def test_what_is_refused(tiny_matcher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no matcher named 'loftr': give a Hub id"):
        KeypointMatcher("loftr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot load the matcher 'empty'"):
        KeypointMatcher("empty")
    with pytest.raises(ValueError, match="needs no fov_ratio"):
        RigCalibrator(0.8, matcher=tiny_matcher)
