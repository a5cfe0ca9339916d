"""The examples in the docstrings of image and pipelines run."""

import doctest
import importlib

import pytest

MODULES = (
    *("image.io", "image.luminance", "image.palettes", "image.processor", "image.radiometric", "image.tiling"),
    *("pipelines.checkpoints", "pipelines.difffusenet", "pipelines.fusion_pipeline", "pipelines.red"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctest.testmod(importlib.import_module(f"fusion_hub.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0 and found.failed == 0
