"""SegFormer, tiny and random, against the network itself; windows against whole pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub.downstream import MSRS_CLASSES, MSRS_PALETTE, SegformerSegmenter, Segmenter
from tests.support.tiny_transformers import SIDE, save_detector, save_segformer

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_segformer(tmp_path_factory.mktemp("segformer"), MSRS_CLASSES)


@pytest.fixture(scope="module")
def unresized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_segformer(tmp_path_factory.mktemp("unresized"), MSRS_CLASSES, do_resize=False)


def picture(size: tuple[int, int]) -> np.ndarray:
    """Blocks of random colors, so that a network with random weights sees more than noise."""
    blocks = np.random.default_rng(0).integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3)).astype(np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]]


def by_hand(segmenter: SegformerSegmenter, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Classes `(H, W)` of pixels that already have the size in which the network sees them."""
    normalized = torch.from_numpy(((pixels / 255 - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = segmenter.model(pixel_values=normalized).logits
    return torch.nn.functional.interpolate(logits, size=size, mode="bilinear")[0].argmax(0).numpy()


def test_the_whole_picture_is_resized_as_the_processor_says(folder: Path) -> None:
    segmenter = SegformerSegmenter.from_pretrained(folder)
    found = segmenter.segment(picture((50, 77)))
    assert isinstance(segmenter, Segmenter) and not segmenter.model.training
    assert found.class_map.shape == found.size == (50, 77) and found.class_map.dtype == np.int64
    resized = np.asarray(Image.fromarray(picture((50, 77))).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert (found.class_map == by_hand(segmenter, resized, (50, 77))).mean() > 0.999  # rounding may turn a tie
    assert len(found.shares()) > 1 and sum(found.shares().values()) == pytest.approx(1)


def test_a_processor_that_does_not_resize_gets_whole_pixels(unresized: Path) -> None:
    segmenter = SegformerSegmenter.from_pretrained(unresized)
    found = segmenter.segment(picture((64, 96))).class_map
    assert (found == by_hand(segmenter, picture((64, 96)), (64, 96))).mean() > 0.999
    odd = segmenter.segment(picture((45, 101)))  # padded by reflection to 64 x 128 inside
    assert odd.size == (45, 101)
    padded = np.pad(picture((45, 101)), ((0, 19), (0, 27), (0, 0)), mode="reflect")
    assert np.array_equal(odd.class_map, segmenter.segment(padded).class_map[:45, :101])


def test_windows_agree_with_whole_pictures(folder: Path, unresized: Path) -> None:
    slide = SegformerSegmenter.from_pretrained(folder, inference="slide", window=64)
    whole = SegformerSegmenter.from_pretrained(unresized)
    small = picture((64, 60))
    assert np.array_equal(slide.segment(small).class_map, whole.segment(small).class_map)  # one window
    large = picture((96, 96))
    found = slide.segment(large).class_map
    assert found.shape == (96, 96)
    for inside, part in ((slice(0, 32), slice(0, 64)), (slice(64, 96), slice(32, 96))):  # seen by one window only
        alone = np.full((96, 96), -1)
        alone[part, part] = whole.segment(large[part, part]).class_map
        assert np.array_equal(found[inside, inside], alone[inside, inside])


def test_names_and_colors_of_msrs(folder: Path) -> None:
    segmenter = SegformerSegmenter.from_pretrained(folder)
    assert tuple(segmenter.names.values()) == MSRS_CLASSES
    assert tuple(segmenter.palette.values()) == MSRS_PALETTE and len(set(MSRS_PALETTE)) == 9
    found = segmenter.segment(picture((32, 32)))
    assert found.is_background(0) and not found.is_background(1)


def test_gray_and_deep_pictures_are_accepted(folder: Path) -> None:
    segmenter = SegformerSegmenter.from_pretrained(folder)
    gray = picture((40, 40))[..., 0]
    expected = segmenter.segment(np.stack([gray] * 3, axis=2)).class_map
    assert np.array_equal(segmenter.segment(Image.fromarray(gray)).class_map, expected)
    counts = 2600 + gray.astype(np.uint16)
    deep = segmenter.segment(Image.fromarray(counts), value_range=(2600, 2855))
    assert np.array_equal(deep.class_map, expected)


def test_settings_and_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    for settings, words in (({"inference": "crop"}, "'resize' or 'slide'"), ({"window": 100}, "multiple of 32")):
        with pytest.raises(ValueError, match=words):
            SegformerSegmenter.from_pretrained(folder, **settings)
    with pytest.raises(ValueError, match="it is a yolos, not a segformer"):
        SegformerSegmenter.from_pretrained(save_detector("yolos", tmp_path / "yolos"))
