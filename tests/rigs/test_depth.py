"""Parallax of two cameras, and its table in the docs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fusion_hub.rigs import focal_in_pixels, parallax

ROOT = Path(__file__).resolve().parents[2]


def test_parallax_against_projection() -> None:
    """Two pinhole cameras side by side; the homography of the calibrated plane is applied to a nearer point."""
    focal, baseline, calibrated, distance = 554.0, 0.07, 20.0, 3.0
    camera = np.array([[focal, 0, 320], [0, focal, 240], [0, 0, 1]])

    def project(point: np.ndarray, center: float) -> np.ndarray:
        seen = camera @ (point - [center, 0, 0])
        return seen[:2] / seen[2]

    def infrared_on_visible(point: np.ndarray) -> np.ndarray:
        ray = np.linalg.inv(camera) @ [*project(point, baseline), 1]
        return project(ray * calibrated + [baseline, 0, 0], 0)

    near, on_plane = np.array([0.4, -0.2, distance]), np.array([1.4, 0.2, calibrated])
    assert np.allclose(infrared_on_visible(on_plane), project(on_plane, 0))
    error = np.linalg.norm(infrared_on_visible(near) - project(near, 0))
    assert error == pytest.approx(parallax(baseline, focal, distance, calibrated))


def test_focal_length() -> None:
    assert focal_in_pixels(200, 90) == pytest.approx(100)
    for width, angle in ((640, 0), (640, 180)):
        with pytest.raises(ValueError, match="between 0 and 180"):
            focal_in_pixels(width, angle)
    with pytest.raises(ValueError, match="distance=0 must be above 0"):
        parallax(0.05, 500, 0)


def test_the_table_in_the_docs_is_current() -> None:
    spec = importlib.util.spec_from_file_location("parallax_table", ROOT / "docs" / "parallax_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in (ROOT / "docs" / "rigs.md").read_text(encoding="utf-8")
