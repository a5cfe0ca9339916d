"""Scaling, luminance, rounding and padding happen in `fusion_hub/image` only, so that no two parts disagree."""

import re
from pathlib import Path

import analysis
import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub import evaluate_pair
from fusion_hub.data.crops import luminance as crop_luminance
from fusion_hub.data.pairs import Pair
from fusion_hub.evaluation import methods
from fusion_hub.image.luminance import quantize
from fusion_hub.image.processor import FusionImageProcessor

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "fusion_hub/evaluation/baselines.py": ("padding",),  # filters pad as their papers say
    "fusion_hub/rigs/refine.py": ("padding",),  # features, for a search beyond the border
    "fusion_hub/video/frames.py": ("padding",),  # encoders want even sizes
}
PIXEL_WORK = {
    "padding": r"np\.pad\(|F\.pad\(.*reflect|mode = \"reflect",
    "luma weights": r"0\.(299|587|114)\s*[,*\]]",
    "rounding": r"\+ 0\.5\)\.(floor|astype)|np\.floor\([^)]*\+ 0\.5\)|rint\([^)]*255|(\* 255|mul\(255)\)\.round\(",
}


def hot_spot_frame(hot: float = 60000) -> np.ndarray:
    """14-bit counts of a thermal camera, a small part of their scale, with one hot spot."""
    frame = np.random.default_rng(0).integers(7000, 7200, (48, 64)).astype(np.uint16)
    frame[20:22, 30:32] = hot
    return frame


def test_a_hot_spot_gives_the_same_luminance_in_training_and_in_the_pipeline() -> None:
    frame = hot_spot_frame()
    _, unit, _ = FusionImageProcessor().preprocess(np.zeros((48, 64), np.uint8), frame)
    levels = crop_luminance(frame, stretch=True)
    np.testing.assert_array_equal(levels, quantize(unit[0, 0].numpy()))
    assert 100 < levels.mean() < 160  # by minimum and maximum the scene would be black


def test_average_has_the_same_entropy_on_the_page_and_from_evaluate(tmp_path: Path, night_pair: Pair) -> None:
    rows, _ = analysis.measure(night_pair.visible_source, night_pair.infrared_source, "difffusenet-msrs")
    shown = next(row for row in rows if row[0].startswith("EN"))[analysis.MEASURED.index("Average")]
    fused = methods.luminance(methods.baseline_method("average").fuse(night_pair, "pair"))
    entropy = evaluate_pair(fused, *methods.source_luminance(night_pair), ("EN",))["EN"]
    assert shown == analysis.format_value("EN", entropy)


@pytest.fixture
def night_pair(tmp_path: Path) -> Pair:
    rng = np.random.default_rng(1)
    for name in ("visible", "infrared"):
        levels = rng.integers(0, 256, (9, 13)).astype(np.uint8)
        Image.fromarray(levels).resize((96, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    return Pair("night", tmp_path / "visible.png", tmp_path / "infrared.png")


def test_nothing_else_scales_rounds_or_pads() -> None:
    found = []
    for file in (*ROOT.glob("fusion_hub/**/*.py"), *ROOT.glob("space/*.py")):
        name = file.relative_to(ROOT).as_posix()
        if not name.startswith(("fusion_hub/image/", "fusion_hub/metrics/", "fusion_hub/models/")):
            code = re.sub(r'"""[\s\S]*?"""', '""', file.read_text(encoding="utf-8"))
            kinds = [kind for kind, pattern in PIXEL_WORK.items() if re.search(pattern, code)]
            found += [f"{name}: {kind}" for kind in kinds if kind not in ALLOWED.get(name, ())]
    assert found == []


def test_levels_are_rounded_half_up_whatever_the_last_bit() -> None:
    exact = (np.arange(255) + 0.5) / 255
    for unit in (exact, np.nextafter(exact, 0)):
        np.testing.assert_array_equal(quantize(unit), np.arange(1, 256))
        np.testing.assert_array_equal(quantize(unit, ties="even"), np.rint(np.arange(255) + 0.5))
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantize(levels / np.float32(255)), levels)
    np.testing.assert_array_equal(quantize(levels * np.uint16(257)), levels)
    deep = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(quantize(deep), (deep.astype(int) + 128) // 257)
    np.testing.assert_array_equal(quantize(torch.tensor([-1.0, 2.0]).numpy(), np.uint16), [0, 65535])
