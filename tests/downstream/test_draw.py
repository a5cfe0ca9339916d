"""Drawn pictures: new ones, right where they must be right, readable, untouched elsewhere."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion_hub.downstream import (
    COCO_CLASSES,
    MSRS_CLASSES,
    Detections,
    Segmentation,
    draw_detections,
    overlay_segmentation,
)
from fusion_hub.downstream.draw import _ink, _label_position, _shared
from fusion_hub.downstream.protocols import COLORS, color_of, palette_of

NAMES = dict(enumerate(COCO_CLASSES))
GRAY = 90


def found(size: tuple[int, int], *boxes: tuple[float, float, float, float]) -> Detections:
    return Detections.of(
        np.array(boxes).reshape(-1, 4), np.linspace(0.9, 0.5, len(boxes)), np.arange(len(boxes)) % 80, NAMES, size
    )


def labeled(size: tuple[int, int]) -> Segmentation:
    """A car left, a person right, nothing else."""
    class_map = np.zeros(size, dtype=np.int64)
    class_map[10:30, 5:40], class_map[10:50, 60:80] = 1, 2
    names = dict(enumerate(MSRS_CLASSES))
    return Segmentation(class_map, names, palette_of(names))


def luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance by WCAG 2."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))


# --- detections ---------------------------------------------------------


def test_frames_lie_on_the_edges_and_the_rest_is_untouched() -> None:
    picture = np.full((200, 300, 3), GRAY, dtype=np.uint8)
    before = picture.copy()
    drawn = draw_detections(picture, found((200, 300), (100, 80, 180, 160)))
    assert isinstance(drawn, Image.Image) and drawn.mode == "RGB" and drawn.size == (300, 200)
    assert np.array_equal(picture, before)
    pixels = np.asarray(drawn)
    color = list(color_of(0))
    for row, column in ((80, 140), (159, 140), (120, 100), (120, 179)):
        assert pixels[row, column].tolist() == color
    assert (pixels[90:150, 110:170] == GRAY).all()  # inside
    assert (pixels[165:] == GRAY).all() and (pixels[:, 190:] == GRAY).all() and (pixels[:, :95] == GRAY).all()
    label = pixels[60:79, 100:180]
    assert (label == color).all(axis=2).mean() > 0.3 and (label == _ink(color_of(0))).all(axis=2).any()


def test_emphasized_boxes_are_thick_and_the_others_bare() -> None:
    picture = np.full((200, 300), GRAY, dtype=np.uint8)
    detections = found((200, 300), (20, 60, 100, 160), (150, 60, 250, 160))
    pixels = np.asarray(draw_detections(picture, detections, emphasise=[1])).astype(int)
    thin = (pixels[120, :130] == color_of(0)).all(axis=1).sum()
    thick = (pixels[120, 130:] == color_of(1)).all(axis=1).sum()
    assert thick >= 2 * thin > 0
    assert (pixels[:58, :130] == GRAY).all()  # no label
    assert (pixels[:58, 130:] == color_of(1)).all(axis=2).any()


def test_labels_keep_clear_of_each_other_and_stay_in_the_picture() -> None:
    boxes = [(100 + 12 * i, 100, 160 + 12 * i, 180) for i in range(8)] + [(0, 0, 20, 20), (390, 290, 399, 299)]
    labels: list[tuple[int, int, int, int]] = []
    for box in boxes:
        if (label := _label_position((70, 18), box, (400, 300), labels, boxes)) is not None:
            left, top, right, bottom = label
            assert 0 <= left < right < 400 and 0 <= top < bottom < 300
            assert sum(_shared(label, other) for other in labels) <= 0.1 * (right - left + 1) * (bottom - top + 1)
            labels.append(label)
    assert len(labels) >= 4 and labels[0][3] < 100  # the best one's right above its box


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), st.lists(st.tuples(*[st.floats(-10, 70)] * 4), max_size=5))
def test_any_box_in_any_picture_can_be_drawn(size: tuple[int, int], corners: list[tuple[float, ...]]) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    drawn = draw_detections(np.zeros(size, dtype=np.uint8), found(size, *boxes))
    assert drawn.size == (size[1], size[0])


def test_nothing_found_leaves_the_picture_and_stretches_deep_gray() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    drawn = draw_detections(picture, found((40, 50)))
    assert drawn is not picture and np.array_equal(np.asarray(drawn), np.asarray(picture))
    counts = np.linspace(2600, 2700, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = np.asarray(draw_detections(counts, found((64, 64))))
    assert pixels.min() == 0 and pixels.max() == 255


def test_the_picture_must_be_the_one_that_was_searched() -> None:
    with pytest.raises(ValueError, match=r"50x40, but this image has 60x40 \(width x height\)"):
        draw_detections(np.zeros((40, 60), dtype=np.uint8), found((40, 50)))
    with pytest.raises(ValueError, match="segmentation belong to an image"):
        overlay_segmentation(np.zeros((40, 60), dtype=np.uint8), labeled((60, 90)))


# --- colors ------------------------------------------------------------


def test_letters_stand_out_from_every_color() -> None:
    for color in COLORS:
        light, dark = sorted((luminance(color), luminance(_ink(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, color  # WCAG AA


PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
TRITANOPIA = ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900))


@pytest.mark.parametrize("matrix", [np.eye(3), PROTANOPIA, DEUTERANOPIA, TRITANOPIA])
def test_colors_are_distinct_with_any_color_vision(matrix: Sequence[Sequence[float]]) -> None:
    # Machado, Oliveira and Fernandes (2009), severity 1, in linear light; differences in CIELAB.
    from skimage.color import deltaE_ciede2000, rgb2lab

    srgb = np.array(COLORS) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(matrix).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    difference = deltaE_ciede2000(lab[:, None], lab[None]) + 100 * np.eye(len(lab))
    assert difference.min() > 8, np.unravel_index(difference.argmin(), difference.shape)


# --- segmentation -------------------------------------------------------


def test_classes_get_their_color_and_the_background_none() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    segmentation = labeled((60, 90))
    clear, half, flat = (
        np.asarray(overlay_segmentation(picture, segmentation, opacity=opacity, legend=False)).astype(float)
        for opacity in (0, 0.5, 1)
    )
    background = segmentation.class_map == 0
    assert half.shape == (60, 90, 3) and (half[background] == picture[background]).all()
    for class_id, inside, edge in ((1, np.s_[11:29, 6:39], (10, 20)), (2, np.s_[11:49, 61:79], (10, 70))):
        color = np.array(segmentation.palette[class_id])
        assert np.array_equal(clear[inside], picture[inside]) and (flat[inside] == color).all()
        assert np.allclose(half[inside], (color + picture[inside]) / 2, atol=1)
        assert np.array_equal(clear[edge], color) and np.array_equal(half[edge], color)  # outlined
    with pytest.raises(ValueError, match=r"opacity must be in 0\.\.1"):
        overlay_segmentation(picture, segmentation, opacity=1.1)


@pytest.mark.parametrize("width", [90, 400])
def test_the_legend_lies_below_and_names_what_occurs(width: int) -> None:
    picture = np.full((60, width), GRAY, dtype=np.uint8)
    segmentation = labeled((60, width))
    drawn = np.asarray(overlay_segmentation(picture, segmentation))
    plain = np.asarray(overlay_segmentation(picture, segmentation, legend=False))
    assert np.array_equal(drawn[:60], plain) and drawn.shape[0] > 60 and drawn.shape[1] == width
    legend = drawn[60:]
    for class_id, color in segmentation.palette.items():
        swatch = (legend == color).all(axis=2).sum() >= 60
        assert swatch == (class_id in (1, 2)), class_id
    nothing = Segmentation(np.zeros((60, width), dtype=np.int64), segmentation.names, segmentation.palette)
    assert (np.asarray(overlay_segmentation(picture, nothing))[:60] == GRAY).all()
