"""Checkpoints that were published before the package was reorganized, and the bundled ones, go on loading."""

import re
from pathlib import Path

import numpy as np
import pytest

from fusion_hub import FusionPipeline, pretrained
from fusion_hub.downstream import SegformerSegmenter

PUBLISHED = Path(__file__).with_name("published_0_1")
"""Two tiny checkpoints saved by version 0.1, an input pair, and what version 0.1 made of it."""


@pytest.mark.parametrize("name", ["difffusenet", "red"])
def test_version_0_1_checkpoints_give_the_pictures_of_version_0_1(name: str) -> None:
    expected = np.load(PUBLISHED / "expected.npz")
    pipeline = FusionPipeline.from_pretrained(PUBLISHED / name)
    fused = pipeline(expected["visible"], expected["infrared"], output_type="np").images[0]
    np.testing.assert_allclose(fused, expected[name], atol=1e-5)


@pytest.mark.parametrize("name", pretrained.SEGMENTERS)
def test_bundled_segmenter_loads(name: str) -> None:
    assert SegformerSegmenter.from_pretrained(name) is not None


@pytest.mark.parametrize("name", [*pretrained.PRETRAINED, *pretrained.SEGMENTERS, *pretrained.DETECTORS])
def test_configurations_name_no_folder_of_the_machine_that_trained(name: str) -> None:
    text = (Path(pretrained.__file__).parent / name / "config.yaml").read_text(encoding="utf-8")
    paths = re.findall(r"[\w./${}-]*/[\w./-]+", text)
    assert "output_dir: runs/" in text
    assert not [path for path in paths if path.startswith(("/", "..", "~")) or "/tmp/" in path]
