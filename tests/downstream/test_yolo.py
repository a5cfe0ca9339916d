"""YOLO: heads against boxes encoded by loops; letterbox, overlap and suppression against brute-force references."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion_hub.data.annotations import iou
from fusion_hub.downstream.protocols import COCO_CLASSES
from fusion_hub.downstream.yolo import (
    LETTERBOX_GRAY,
    Layout,
    Letterbox,
    grid,
    letterbox,
    names_for,
    nms,
    parse_names,
    recognize,
)

SIZE = (64, 96)  # height, width: their order shows
CELLS = 8 * 12 + 4 * 6 + 2 * 3


def cells_of(size: tuple[int, int], strides: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(column, row, stride) of each cell as the YOLOX paper's code goes through them."""
    return [
        (column, row, stride)
        for stride in strides
        for row in range(size[0] // stride)
        for column in range(size[1] // stride)
    ]


def random_places(count: int) -> np.ndarray:
    """Centre and size `(N, 4)` in pixels, near the cells that answer for them."""
    random = np.random.default_rng(0)
    centers = [
        ((column + random.random()) * stride, (row + random.random()) * stride)
        for column, row, stride in cells_of(SIZE, (8, 16, 32))
    ]
    repeated = np.tile(np.array(centers), (count // len(centers), 1))
    return np.concatenate([repeated, random.uniform(2, 60, (count, 2))], axis=1).astype(np.float32)


def edges(places: np.ndarray) -> np.ndarray:
    return np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in places])


@pytest.mark.parametrize(
    ("shape", "size", "family", "classes", "strides"),
    [
        ((1, 3549, 85), (416, 416), "yolox", 80, (8, 16, 32)),
        ((1, 8400, 6), (640, 640), "yolox", 1, (8, 16, 32)),
        ((1, 25200, 85), (640, 640), "yolov5", 80, (8, 16, 32)),
        ((1, 102000, 85), (1280, 1280), "yolov5", 80, (8, 16, 32, 64)),
        ((1, 84, 8400), (640, 640), "yolov8", 80, (8, 16, 32)),
        ((1, 84, 189), (96, 96), "yolov8", 80, (8, 16, 32)),
        ((1, 5, 5040), (384, 640), "yolov8", 1, (8, 16, 32)),
        ((1, 84, 34000), (1280, 1280), "yolov8", 80, (8, 16, 32, 64)),
        ((1, 84, 34000), (640, 640), "yolov8", 80, (4, 8, 16, 32)),
    ],
)
def test_families_are_recognized_by_shape(
    shape: tuple[int, ...], size: tuple[int, int], family: str, classes: int, strides: tuple[int, ...]
) -> None:
    layout = recognize(shape, size, {})
    assert (layout.family, layout.classes, layout.strides, layout.size) == (family, classes, strides, size)


def test_names_decide_where_the_shape_fits_two_families() -> None:
    # 32 x 32 has 16 + 4 + 1 cells: 21 rows of 16 + 5 classes, or 21 columns of 17 + 4.
    names = {17: repr([f"n{i}" for i in range(17)]), 16: repr([f"n{i}" for i in range(16)])}
    assert recognize((1, 21, 21), (32, 32), {"names": names[17]}).family == "yolov8"
    assert recognize((1, 21, 21), (32, 32), {"names": names[16]}).family == "yolox"


@pytest.mark.parametrize(
    ("shape", "metadata", "words"),
    [
        ((1, 300, 6), {}, "nms=False"),
        ((1, 300, 84), {}, "not a known YOLO head"),
        ((2, 84, 8400), {}, "not a known YOLO head"),
        ((1, 4, 8400), {}, "not a known YOLO head"),
        ((84, 8400), {}, "not a known YOLO head"),
        ((1, 116, 8400), {"task": "segment"}, "'segment'"),
    ],
)
def test_other_outputs_are_refused(shape: tuple[int, ...], metadata: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recognize(shape, (640, 640), metadata)


def test_the_grid_goes_row_by_row() -> None:
    cells, strides = grid(SIZE, (8, 16, 32))
    assert np.concatenate([cells, strides], axis=1).tolist() == [list(cell) for cell in cells_of(SIZE, (8, 16, 32))]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("yolox", np.float32), ("yolox decoded", np.float32), ("yolov5", np.float32), ("yolov8", "f2")],
)
def test_boxes_are_decoded_as_they_were_encoded(family: str, dtype: Any) -> None:
    count = 3 * CELLS if family == "yolov5" else CELLS
    places, scores = random_places(count), np.random.default_rng(1).random((count, 4)).astype(dtype)
    rows = np.concatenate([places, scores], axis=1)
    expected = scores[:, :1] * scores[:, 1:]  # objectness times class score
    if family == "yolox":
        for row, (column, line, stride) in zip(rows, cells_of(SIZE, (8, 16, 32)), strict=True):
            x, y, w, h = row[:4]
            row[:4] = x / stride - column, y / stride - line, math.log(w / stride), math.log(h / stride)
    elif family == "yolov8":  # columns, without objectness
        rows, expected = rows.T, scores.astype(np.float32)
    boxes, found = recognize((1, *rows.shape), SIZE, {}).decode(rows[None])
    assert np.allclose(boxes, edges(places), atol=1e-3) and np.allclose(found, expected)


def test_a_broken_network_says_so_and_a_wild_one_stays_finite() -> None:
    layout = Layout("yolox", 3, (8, 16, 32), SIZE)
    output = np.zeros((1, CELLS, 8), dtype=np.float32)
    output[0, 5, 2] = 500  # exp overflows
    assert np.isfinite(layout.decode(output)[0]).all()
    output[0, 5, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        layout.decode(output)


def test_channels_and_values_are_those_of_the_family() -> None:
    picture = np.zeros((*SIZE, 3), dtype=np.uint8)
    picture[..., 0] = 255  # red
    for family, red, value in (("yolox", 2, 255), ("yolov5", 0, 1), ("yolov8", 0, 1)):
        pixels = Layout(family, 80, (8, 16, 32), SIZE).prepare(picture)  # type: ignore[arg-type]
        assert pixels.shape == (1, 3, *SIZE) and pixels.dtype == np.float32 and pixels.flags.c_contiguous
        assert (pixels[0, red] == value).all() and pixels.sum() == value * SIZE[0] * SIZE[1]


def test_names_are_read_as_python_or_json() -> None:
    for text in ("{0: 'cat', 1: \"dog's\"}", '{"0": "cat", "1": "dog\'s"}', "['cat', \"dog's\"]", '["cat", "dog\'s"]'):
        assert parse_names({"names": text}) == {0: "cat", 1: "dog's"}
    for text in ("__import__('os').getcwd()", "{0: ", "17", "(" * 500):
        with pytest.raises(ValueError, match="class_names"):
            parse_names({"names": text})
    assert parse_names({}) == {}


def test_names_must_be_as_many_as_the_classes() -> None:
    coco = Layout("yolox", 80, (8, 16, 32), SIZE)
    assert names_for(coco, {}) == dict(enumerate(COCO_CLASSES)) and len(set(COCO_CLASSES)) == 80
    two = Layout("yolov8", 2, (8, 16, 32), SIZE)
    assert names_for(two, {"names": "['a', 'b']"}) == {0: "a", 1: "b"}
    for metadata, words in (({}, "no names"), ({"names": "['a']"}, "1 names"), ({"names": "{1: 'a', 2: 'b'}"}, "2")):
        with pytest.raises(ValueError, match=words):
            names_for(two, metadata)


def to_input(fitted: Letterbox, boxes: np.ndarray) -> np.ndarray:
    """Boxes of the image as boxes of the network's input."""
    return boxes * np.array(fitted.scale * 2) + np.array(fitted.offset * 2)


# --- letterbox, overlap and suppression -------------------------------------------------------------------------------

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


@settings(max_examples=25)
@given(SIZES, INPUTS, st.booleans(), st.data())
def test_to_input_and_back_is_the_identity(
    size: tuple[int, int], input_size: tuple[int, int], centered: bool, data: st.DataObject
) -> None:
    boxes = data.draw(some_boxes(extent=90))
    _, fitted = letterbox(np.zeros((*size, 3), dtype=np.uint8), input_size, centered=centered)
    assert np.allclose(fitted.to_image(to_input(fitted, boxes)), boxes, atol=1e-3)


@settings(max_examples=25)
@given(SIZES, INPUTS, st.booleans())
def test_the_letterbox_holds_the_whole_picture_and_gray(
    size: tuple[int, int], input_size: tuple[int, int], centered: bool
) -> None:
    canvas, fitted = letterbox(np.full((*size, 3), 255, dtype=np.uint8), input_size, centered=centered)
    assert canvas.shape == (*input_size, 3)
    whole = to_input(fitted, np.array([[0, 0, size[1], size[0]]], dtype=np.float32))[0]
    left, top, right, bottom = np.rint(whole).astype(int)
    assert np.allclose(whole, [left, top, right, bottom], atol=1e-3)  # whole pixels, none half gray
    inside = np.zeros(input_size, dtype=bool)
    inside[top:bottom, left:right] = True
    assert (canvas[inside] == 255).all() and (canvas[~inside] == LETTERBOX_GRAY).all()
    assert bottom - top == input_size[0] or right - left == input_size[1]
    if centered:
        assert abs(left - (input_size[1] - right)) <= 1 and abs(top - (input_size[0] - bottom)) <= 1
    else:
        assert left == top == 0


@settings(max_examples=25)
@given(some_boxes(), some_boxes())
def test_iou_counts_pixels(first: np.ndarray, second: np.ndarray) -> None:
    overlap = iou(first, second)
    assert overlap.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            assert overlap[i, j] == pytest.approx(slow_iou(a, b))


@settings(max_examples=25)
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
