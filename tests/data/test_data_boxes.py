"""Boxes beside pictures: the union of several annotators against its rule, real files against their README."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fusion_hub.data import PairedDataset
from fusion_hub.data.annotations import Boxes, find_boxes, iou, known_classes, same_class, union_boxes

MSRS = ("person", "car", "bicycle")
MSRS_TEST = {"vis": 254, "ir": 500, "fused": 411}  # of the data's README


@st.composite
def people(draw: st.DrawFn, most: int = 3, classes: int = 2) -> list[Boxes]:
    """What several people drew: boxes with whole corners, many of them nearly the same."""
    drawn = []
    for _ in range(draw(st.integers(1, most))):
        n = draw(st.integers(0, 5))
        place = draw(hnp.arrays(np.int64, (n, 2), elements=st.integers(0, 12)))
        size = draw(hnp.arrays(np.int64, (n, 2), elements=st.integers(4, 9)))
        class_ids = draw(hnp.arrays(np.int64, n, elements=st.integers(0, classes - 1)))
        drawn.append((np.concatenate([place, place + size], axis=1).astype(np.float64), class_ids))
    return drawn


def rows(boxes: Boxes) -> list[tuple[float, ...]]:
    return sorted((*box, class_id) for box, class_id in zip(boxes[0].tolist(), boxes[1].tolist(), strict=True))


def one(*corners: float, class_id: int = 0) -> Boxes:
    return np.array([corners], dtype=np.float64), np.array([class_id])


# --- the union -------------------------------------------------------------------------------------------------------


@given(people(), st.integers(-50, 50), st.integers(1, 4))
@settings(max_examples=60)
def test_properties_of_the_union(drawn: list[Boxes], by: int, scale: int) -> None:
    boxes, class_ids = union_boxes(drawn)
    assert boxes.shape == (len(class_ids), 4) and boxes.dtype == np.float32 and class_ids.dtype == np.int64
    for order in permutations(drawn):  # the order of people does not matter
        again = union_boxes(list(order))
        assert np.array_equal(again[0], boxes) and np.array_equal(again[1], class_ids)
    for class_id in range(2):  # at least the boxes of one person, at most all
        counts = [int((ids == class_id).sum()) for _, ids in drawn]
        assert max(counts) <= (class_ids == class_id).sum() <= sum(counts)
    found = rows((boxes, class_ids))
    for number, (own, ids) in enumerate(drawn):  # a box that overlaps no other person's stays
        for box, class_id in zip(own, ids, strict=True):
            others = [b[i == class_id] for k, (b, i) in enumerate(drawn) if k != number]
            if all((iou(box[None], other) < 0.5).all() for other in others):
                assert (*box.tolist(), int(class_id)) in found
    everything = np.concatenate([own for own, _ in drawn])
    for *box, _ in found:  # all lie in the hull
        assert (everything.min(0) <= np.array(box) + 1e-4).all() and (np.array(box) <= everything.max(0) + 1e-4).all()
    moved = union_boxes([(scale * own + by, ids) for own, ids in drawn])
    assert np.allclose(moved[0], scale * boxes + by, atol=1e-3) and np.array_equal(moved[1], class_ids)


@given(people(most=1), st.integers(1, 4))
@settings(max_examples=40)
def test_equal_annotators_are_as_one(drawn: list[Boxes], count: int) -> None:
    # Boxes of one person never merge, however they overlap, and equal ones find each other.
    distinct = sorted(set(rows(drawn[0])))
    boxes = np.array(distinct).reshape(-1, 5)
    assert rows(union_boxes([(boxes[:, :4], boxes[:, 4].astype(np.int64))] * count)) == distinct


def test_the_rule_by_hand() -> None:
    # IoU of the first two is 80 / 120 = 0.67, of the second and third 60 / 140 = 0.43.
    first, second, third = one(0, 0, 10, 10), one(0, 2, 10, 12), one(0, 6, 10, 16)
    assert rows(union_boxes([first, second, third])) == [(0, 1, 10, 11, 0), (0, 6, 10, 16, 0)]
    # The same places in one person's own drawing are two objects, and in two classes too.
    assert len(union_boxes([(np.concatenate([first[0], second[0]]), np.array([0, 0]))])[0]) == 2
    assert len(union_boxes([first, (second[0], np.array([1]))])[0]) == 2
    # A person's two candidates: the one that overlaps more is taken, the other stays alone.
    near = np.array([[0, 1, 10, 11], [0, 2, 10, 12]], dtype=np.float64), np.array([0, 0])
    assert rows(union_boxes([first, near])) == [(0, 0.5, 10, 10.5, 0), (0, 2, 10, 12, 0)]
    # Exactly 0.5 is the same object.
    assert len(union_boxes([one(0, 0, 10, 10), one(0, 0, 10, 5)])[0]) == 1
    assert union_boxes([])[0].shape == (0, 4) and union_boxes([(np.zeros((0, 4)), np.zeros(0))])[1].shape == (0,)


# --- real files ------------------------------------------------------------------------------------------------------


def test_msrs_has_the_boxes_that_its_readme_tells(data_root: Path) -> None:
    pairs = list(PairedDataset.open(str(data_root / "data" / "msrs"), "test"))
    alone = {name: find_boxes(pairs, MSRS, [name]) for name in MSRS_TEST}
    assert {name: sum(len(pair.boxes) for pair in boxed) for name, boxed in alone.items()} == MSRS_TEST
    union = find_boxes(pairs, MSRS)
    assert [pair.name for pair in union] == [pair.name for pair in pairs] and len(union) == 92
    for number, boxed in enumerate(union):
        each = [len(alone[name][number].boxes) for name in MSRS_TEST]
        assert max(each) <= len(boxed.boxes) <= sum(each)
        assert (boxed.boxes >= 0).all() and (boxed.boxes <= [640, 480, 640, 480]).all()
        assert (boxed.boxes[:, 2:] > boxed.boxes[:, :2]).all()
    total = sum(len(pair.boxes) for pair in union)
    assert max(MSRS_TEST.values()) < total < sum(MSRS_TEST.values()) / 1.5  # they disagree, but not on everything
    people_only = find_boxes(pairs, ["Person"])
    assert sum(len(pair.boxes) for pair in people_only) == sum(int((pair.class_ids == 0).sum()) for pair in union)


def test_m3fd_people_are_persons(data_root: Path) -> None:
    pairs = list(PairedDataset.open(str(data_root / "data" / "m3fd"), "train"))
    boxed = find_boxes(pairs, ("person", "car"))
    assert np.bincount(np.concatenate([pair.class_ids for pair in boxed])).tolist() == [90, 47]
    content = json.loads((data_root / "data/m3fd/train/boxes/boxes.json").read_text())
    left, top, width, height = content["annotations"][0]["bbox"]
    named = {pair.name: pair.boxes.tolist() for pair in boxed}
    assert [left, top, left + width, top + height] in named["00000"]


# --- small files -----------------------------------------------------------------------------------------------------


def a_set(root: Path, **files: Any) -> list[Any]:
    for band in ("vis", "ir"):
        (root / band).mkdir(parents=True)
        for name in ("a", "b.c"):
            Image.new("L", (40, 30)).save(root / band / f"{name}.png")
    if files:
        (root / "boxes").mkdir()
    for name, content in files.items():
        (root / "boxes" / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return list(PairedDataset.open(str(root)))


def coco(*annotations: tuple[int, int, list[float]], names: tuple[str, ...] = ("a", "b.c"), **more: Any) -> dict:
    return {
        "categories": [{"id": 7, "name": "People"}, {"id": 3, "name": "Bus"}],
        "images": [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "category_id": c, "bbox": box, **more} for i, c, box in annotations],
    }


def test_names_of_pictures_rounding_and_empty_pictures(tmp_path: Path) -> None:
    content = coco((1, 3, [30, 20, 11, 10.5]), (1, 7, [1, 2, 3, 4]), (1, 3, [40, 2, 1, 4]), names=("vis/a.png", "b.c"))
    pairs = a_set(tmp_path, one=content)
    empty, full = find_boxes(pairs, ("bus", "person"))
    assert empty.name == "a" and empty.boxes.shape == (0, 4) and empty.class_ids.shape == (0,)
    # Within the picture; the one without an area is gone.
    assert rows((full.boxes, full.class_ids)) == [(1, 2, 4, 6, 1), (30, 20, 40, 30, 0)]
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "boxes" / "one.json").write_text(json.dumps(content), encoding=encoding)
        assert [len(pair.boxes) for pair in find_boxes(pairs, ("bus",))] == [0, 1]
    crowd = a_set(tmp_path / "crowd", one=coco((0, 7, [1, 2, 3, 4]), iscrowd=1))
    assert [len(pair.boxes) for pair in find_boxes(crowd, ("person",))] == [0, 0]


def test_the_split_may_be_below_the_folder_of_boxes(tmp_path: Path) -> None:
    a_set(tmp_path / "set", one=coco((0, 7, [1, 2, 3, 4])))
    for folder in ("vis", "ir", "boxes"):
        (tmp_path / folder).mkdir()
        (tmp_path / "set" / folder).rename(tmp_path / folder / "val")
    (pair, _) = find_boxes(list(PairedDataset.open(str(tmp_path), "val")), ("person",))
    assert pair.boxes.tolist() == [[1, 2, 4, 6]]


PERSON = ("person",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "x.json is not a COCO file of boxes: give JSON"),
        ({"images": []}, "not a COCO file of boxes: give JSON"),
        ([], "not a COCO file of boxes"),
        (coco((0, 7, [1, 2, 3])), "not a COCO file of boxes"),
        (coco((0, 7, [1, 2, 3, float("nan")])), "give finite numbers"),
        (coco((0, 7, [20, 10, 38, 28])), "'a', which leaves the picture of 40 x 30: write left"),
        (coco((0, 7, [-9, 10, 3, 3])), "leaves the picture of 40 x 30: correct it"),
        (coco((0, 7, [9, 10, -3, 3])), "box of the size -3 x 3 in 'a': correct it"),
        (coco((9, 7, [1, 2, 3, 4])), "box of image 9 and category 7, but does not list them"),
        (coco((0, 1, [1, 2, 3, 4])), "box of image 0 and category 1"),
        (coco(names=("a", "a.png")), "lists pictures of one stem twice"),
        (
            coco() | {"images": [{"id": 0, "file_name": "a", "width": 80, "height": 60}]},
            r"a\.png is 40 x 30, but .*80 x 60",
        ),
    ],
)
def test_wrong_files_are_errors(tmp_path: Path, content: Any, message: str) -> None:
    pairs = a_set(tmp_path, x=content)
    with pytest.raises(ValueError, match=message):
        find_boxes(pairs, PERSON)


def test_wrong_requests_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no folder with boxes \(COCO JSON, Pascal.*name it one of boxes"):
        find_boxes(a_set(tmp_path / "none"), PERSON)
    pairs = a_set(tmp_path / "one", x=coco((0, 7, [1, 2, 3, 4])))
    for classes, annotations, message in (
        (("person", "lorry"), None, "knows the class 'lorry': use some of bus, person"),
        (("person", "People"), None, "each once"),
        ((), None, "at least one"),
        (PERSON, ["y"], "has the files of boxes x, but 'y' was requested"),
        (PERSON, [], "none was requested"),
    ):
        with pytest.raises(ValueError, match=message):
            find_boxes(pairs, classes, annotations)
    assert [len(pair.boxes) for pair in find_boxes(pairs, ("lorry", "person"), every_class=False)] == [1, 0]
    with pytest.raises(ValueError, match="knows the class 'lorry'"):
        find_boxes(pairs, ("lorry",), every_class=False)
    pairs = a_set(tmp_path / "two", x=coco(), y=coco(names=("a",)))
    with pytest.raises(ValueError, match=r"1 of 2 pairs are not listed in each file of boxes: b\.c"):
        find_boxes(pairs, PERSON)
    with pytest.raises(ValueError, match="give a folder of files"):
        find_boxes(list(PairedDataset.open([(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))])), PERSON)


def test_all_classes_of_the_files(tmp_path: Path, data_root: Path) -> None:
    other = coco() | {"categories": [{"id": 0, "name": "lamp"}, {"id": 1, "name": "person"}]}
    pairs = a_set(tmp_path, x=coco(), y=other)
    assert known_classes(pairs) == ["Bus", "People", "lamp"] and known_classes(pairs, ["y"]) == ["lamp", "person"]
    assert known_classes(list(PairedDataset.open("generated:2"))) == ["person", "car"]
    assert {same_class(name) for name in ("Person", "people", " Pedestrian ", "PEOPLE")} == {"person"}
    assert same_class("Traffic_Light") == same_class("traffic light") == "traffic light"
    msrs = list(PairedDataset.open(str(data_root / "data" / "msrs"), "val"))
    assert known_classes(msrs) == ["person", "bicycle", "car"]


# --- one file for each picture ---------------------------------------------------------------------------------------

VOC = (
    "<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size>{}</annotation>",
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>",
)


@pytest.mark.parametrize("place", ["Annotations", "xml", "vis"])
def test_pascal_voc(tmp_path: Path, place: str) -> None:
    pairs = a_set(tmp_path)
    (tmp_path / place).mkdir(exist_ok=True)
    objects = VOC[1].format("person", 1, 2, 4, 6) + VOC[1].format("car", 30, 20, 40, 30.5)
    (tmp_path / place / "a.xml").write_text(VOC[0].format(objects))
    (tmp_path / place / "b.c.xml").write_text(VOC[0].format(""))
    full, empty = find_boxes(pairs, ["People", "car"])
    assert rows((full.boxes, full.class_ids)) == [(1, 2, 4, 6, 0), (30, 20, 40, 30, 1)]
    assert empty.boxes.shape == (0, 4) and known_classes(pairs) == ["person", "car"]


@pytest.mark.parametrize("listed", ["classes.txt", "data.yaml"])
def test_yolo(tmp_path: Path, listed: str) -> None:
    pairs = a_set(tmp_path)
    (tmp_path / "labels").mkdir()
    text = "person\ncar\n" if listed == "classes.txt" else "names: {0: person, 1: car}\n"
    (tmp_path / ("labels" if listed == "classes.txt" else ".") / listed).write_text(text)
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.5 0.25 0.2\n\n0 0.05 0.1 0.1 0.2 0.93\n")
    full, empty = find_boxes(pairs, ["person", "car"])  # b.c has no file, so no object
    np.testing.assert_allclose(full.boxes, [[0, 0, 4, 6], [15, 12, 25, 18]], atol=1e-5)
    assert full.class_ids.tolist() == [0, 1] and empty.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", VOC[0].format(VOC[1].format("person", 30, 20, 60, 30)), r"a.xml has the box 30, 20, 60, 30 .*leaves"),
        ("a.xml", VOC[0].format("<object><name>person</name></object>"), "a.xml is not a Pascal VOC file of boxes"),
        ("a.xml", "<annotation>", "a.xml is damaged XML"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "a.xml has a document type"),
        ("a.xml", "<svg/>", "its root is 'svg'"),
        ("a.xml", VOC[0].format(VOC[1].format("person", 30, 20, 10, 25)), "exchange its ends"),
        ("a.xml", '<?xml version="1.0" encoding="GBK"?><annotation/>', "a.xml has an unknown encoding"),
        ("a.txt", "0 0.5 0.5", "a.txt, line 1 is not a YOLO box: write class"),
        ("a.txt", "0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2", r"a.txt, line 2 has the class 7: there are 0 to 0"),
        ("a.txt", "0 0.9 0.5 0.5 0.2", r"a.txt has the box .*leaves the picture"),
    ],
)
def test_wrong_files_of_single_pictures(tmp_path: Path, name: str, content: str, message: str) -> None:
    pairs = a_set(tmp_path)
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "classes.txt").write_text("person\n")
    (tmp_path / "boxes" / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        find_boxes(pairs[:1], ["person"])
    assert "\n" not in str(caught.value)


def test_yolo_outlines_scores_and_byte_order_marks(tmp_path: Path) -> None:
    pairs = a_set(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(ValueError, match=r"without names of classes: add one of classes\.txt"):
        find_boxes(pairs, PERSON)
    (tmp_path / "labels" / "classes.txt").write_text("person\n", encoding="utf-8-sig")
    outline = "0 0.25 0.4 0.5 0.2 0.75 0.2 0.8 0.6\n"  # a polygon
    (tmp_path / "labels" / "a.txt").write_text(outline, encoding="utf-16")
    (tmp_path / "labels" / "b.c.txt").write_text("0 0.5 0.5 0.5 0.2 0.97\n", encoding="utf-8-sig")  # with a score
    polygon, scored = find_boxes(pairs, ["person"])
    np.testing.assert_allclose(polygon.boxes, [[10, 6, 32, 18]], atol=1e-5)
    np.testing.assert_allclose(scored.boxes, [[10, 12, 30, 18]], atol=1e-5)
