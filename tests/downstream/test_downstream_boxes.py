"""Letterbox, overlap and suppression against their inverses, pixel counts and a brute-force reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion_hub.data.annotations import iou
from fusion_hub.downstream.yolo import LETTERBOX_GRAY, letterbox, nms

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
INPUTS = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda size: (32 * size[0], 32 * size[1]))


@st.composite
def some_boxes(draw: st.DrawFn, extent: int = 40, count: int = 12) -> np.ndarray:
    """`(N, 4)` boxes with whole corners, empty ones among them."""
    n = draw(st.integers(0, count))
    points = draw(hnp.arrays(np.int64, (n, 2, 2), elements=st.integers(0, extent)))
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).astype(np.float32)


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    """By counting pixels of a raster."""
    first, second = np.zeros((2, 50, 50), dtype=bool)
    for raster, (left, top, right, bottom) in ((first, a.astype(int)), (second, b.astype(int))):
        raster[top:bottom, left:right] = True
    union = (first | second).sum()
    return (first & second).sum() / union if union else 0.0


def slow_nms(boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, threshold: float) -> list[int]:
    """Each box against all that were kept before it."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(class_ids[i] != class_ids[j] or slow_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@given(SIZES, INPUTS, st.booleans(), st.data())
def test_to_input_and_back_is_the_identity(
    size: tuple[int, int], input_size: tuple[int, int], centred: bool, data: st.DataObject
) -> None:
    boxes = data.draw(some_boxes(extent=90))
    _, fitted = letterbox(np.zeros((*size, 3), dtype=np.uint8), input_size, centered=centred)
    assert np.allclose(fitted.to_image(fitted.to_input(boxes)), boxes, atol=1e-3)


@given(SIZES, INPUTS, st.booleans())
def test_the_letterbox_holds_the_whole_picture_and_grey(
    size: tuple[int, int], input_size: tuple[int, int], centred: bool
) -> None:
    canvas, fitted = letterbox(np.full((*size, 3), 255, dtype=np.uint8), input_size, centered=centred)
    assert canvas.shape == (*input_size, 3)
    whole = fitted.to_input(np.array([[0, 0, size[1], size[0]]], dtype=np.float32))[0]
    left, top, right, bottom = np.rint(whole).astype(int)
    assert np.allclose(whole, [left, top, right, bottom], atol=1e-3)  # whole pixels, none half grey
    inside = np.zeros(input_size, dtype=bool)
    inside[top:bottom, left:right] = True
    assert (canvas[inside] == 255).all() and (canvas[~inside] == LETTERBOX_GRAY).all()
    assert bottom - top == input_size[0] or right - left == input_size[1]
    if centred:
        assert abs(left - (input_size[1] - right)) <= 1 and abs(top - (input_size[0] - bottom)) <= 1
    else:
        assert left == top == 0


@pytest.mark.parametrize("centred", [True, False])
def test_a_rectangle_is_where_its_box_is(centred: bool) -> None:
    picture = np.zeros((120, 200, 3), dtype=np.uint8)
    picture[30:90, 40:160] = 255
    canvas, fitted = letterbox(picture, (96, 96), centered=centred)
    box = fitted.to_input(np.array([[40, 30, 160, 90]], dtype=np.float32))[0]
    inside = (canvas[..., 0] != LETTERBOX_GRAY) & (canvas[..., 0] > 127)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert np.allclose(box, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1)


@given(some_boxes(), some_boxes())
def test_iou_counts_pixels(first: np.ndarray, second: np.ndarray) -> None:
    overlap = iou(first, second)
    assert overlap.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            assert overlap[i, j] == pytest.approx(slow_iou(a, b))


@settings(max_examples=60)
@given(some_boxes(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.data())
def test_nms_is_the_brute_force_reference(boxes: np.ndarray, threshold: float, data: st.DataObject) -> None:
    # Few different scores, so that there are equal ones.
    scores = data.draw(hnp.arrays(np.int64, len(boxes), elements=st.integers(0, 5))) / 5
    class_ids = data.draw(hnp.arrays(np.int64, len(boxes), elements=st.integers(0, 2)))
    kept = nms(boxes, scores, class_ids, threshold)
    assert kept.tolist() == slow_nms(boxes, scores, class_ids, threshold)
    # What was kept is kept again, and cutting by score before or after is the same.
    again = nms(boxes[kept], scores[kept], class_ids[kept], threshold)
    assert again.tolist() == list(range(len(kept)))
    high = np.flatnonzero(scores >= 0.5)
    before = high[nms(boxes[high], scores[high], class_ids[high], threshold)]
    assert before.tolist() == [i for i in kept.tolist() if scores[i] >= 0.5]
