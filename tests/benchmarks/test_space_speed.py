"""The speed benchmark of the page: real calls, and what it reads from the server's words."""

from dataclasses import replace
from pathlib import Path

import pytest
import space_speed
from PIL import Image
from space_load import Page

from fusion_hub.data import generate_scene


def test_fusions_are_timed_one_by_one(space_page: Page, tmp_path: Path) -> None:
    scene = generate_scene(0, 48, 64)
    pair = tmp_path / "visible.png", tmp_path / "infrared.png"
    for path, pixels in zip(pair, (scene.visible, scene.infrared), strict=True):
        Image.fromarray(pixels).save(path)
    times = space_speed.time_fusions(space_page.url, pair, "difffusenet-msrs", "all", 2, tmp_path)
    assert len(times) == 2 and min(times) > 0


def test_the_end_of_the_imports_is_found(space_page: Page, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a warning\nimported 1000.25\nRunning on local URL\n")
    assert space_speed.seconds_to_page(replace(space_page, log=log), 1002.0) == 1.75
    log.write_text("nothing")
    with pytest.raises(RuntimeError, match="did not say"):
        space_speed.seconds_to_page(replace(space_page, log=log), 1002.0)
