"""A set in YOLO layout, read back as its documentation says; stopping, going on, and what must not be mixed."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fusion_hub.cli import app
from fusion_hub.data import PairedDataset, generate_scene
from fusion_hub.data.annotations import find_boxes
from fusion_hub.downstream.inputs import open_inputs
from fusion_hub.downstream.yolo_dataset import label_rows


def read_label(text: str, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """Rows as documented: class, center x, center y, width, height, in parts of the picture."""
    rows = [line.split() for line in text.splitlines()]
    assert all(len(row) == 5 and row[0].isdecimal() for row in rows)
    numbers = np.array([[float(value) for value in row[1:]] for row in rows]).reshape(-1, 4)
    assert ((numbers >= 0) & (numbers <= 1)).all()
    center, half = numbers[:, :2] * size, numbers[:, 2:] * size / 2
    return np.concatenate([center - half, center + half], axis=1), [int(row[0]) for row in rows]


@settings(max_examples=40)
@given(st.integers(1, 9000), st.integers(1, 9000), st.data())
def test_boxes_come_back_within_half_a_pixel(width: int, height: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 4))
    x, y = (
        np.sort(np.array(data.draw(st.lists(st.floats(0, side), min_size=2 * n, max_size=2 * n))).reshape(n, 2))
        for side in (width, height)
    )
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    back, ids = read_label(label_rows(boxes, np.arange(n), (width, height)), (width, height))
    assert back.shape == boxes.shape and (n == 0 or np.abs(back - boxes).max() < 0.5) and ids == list(range(n))


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """`train` and `val` with pictures, and boxes of two people; the last picture of each is empty."""
    for number, part in enumerate(("train", "val")):
        files: dict[str, list[dict]] = {"vis": [], "ir": []}
        images = []
        for index, kind in enumerate(("night_street", "day_road", "smoke")):
            scene = generate_scene(10 * number + index, 96, 128, kind)
            for band, pixels in (("vis", scene.visible), ("ir", scene.infrared)):
                (tmp_path / part / band).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / part / band / f"{index}.png")
            images.append({"id": index, "file_name": f"{index}", "width": 128, "height": 96})
            for one in scene.boxes * (index < 2):
                size = [one.right - one.left, one.bottom - one.top]
                row = {"image_id": index, "category_id": 4 if one.label == "car" else 2}
                for shift, name in enumerate(files):
                    files[name].append(row | {"bbox": [one.left + shift, one.top, *size]})
        categories = [{"id": 4, "name": "Car"}, {"id": 2, "name": "person"}]
        (tmp_path / part / "boxes").mkdir()
        for name, rows in files.items():
            content = {"categories": categories, "images": images, "annotations": rows}
            (tmp_path / part / "boxes" / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def run(*arguments: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["export-yolo", *map(str, arguments)])
    return found.exit_code, " ".join(found.output.split())


def test_the_set_is_what_yolo_train_reads(street: Path) -> None:
    output = street / "yolo"
    sets = ("--train", street / "train", "--val", street / "val")
    code, text = run("--input", "average", *sets, "--output", output)
    assert code == 0 and "6 images" in text and "of person, Car" in text
    described = yaml.safe_load((output / "data.yaml").read_text())
    assert described == {"train": "images/train", "val": "images/val", "names": {0: "person", 1: "Car"}}
    average = open_inputs("average")
    for part in ("train", "val"):
        boxed = find_boxes(list(PairedDataset.open(str(street / part))), ("person", "car"))
        images = sorted((output / described[part]).iterdir())
        assert [image.name for image in images] == ["0.png", "1.png", "2.png"]
        for image, pair in zip(images, boxed, strict=True):
            # As Ultralytics finds it: the last /images/ becomes /labels/, and the ending .txt.
            label = Path(f"{os.sep}labels{os.sep}".join(str(image).rsplit(f"{os.sep}images{os.sep}", 1))[:-4] + ".txt")
            with Image.open(image) as picture:
                assert (picture.mode, picture.size) == ("RGB", (128, 96))
                assert np.array_equal(picture, average.picture(pair.pair))
            boxes, ids = read_label(label.read_text(), (128, 96))
            assert ids == pair.class_ids.tolist() and (len(ids) > 0) == (pair.name != "2")
            assert np.abs(boxes - pair.boxes).max(initial=0) < 0.5

    # Again: nothing is written. A picture that was lost, or that was made of other pixels, is made again.
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in output.rglob("*") if file.is_file()}
    assert all(not file.name.startswith(".") for file in before)
    (output / "images/train/0.png").unlink()
    Image.new("RGB", (128, 96)).save(output / "images/train/1.png")
    (output / "labels/val/0.txt").write_text("")
    assert run("--input", "average", *sets, "--output", output)[0] == 0
    after = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in output.rglob("*") if file.is_file()}
    assert {file: content for file, (_, content) in before.items()} == {f: content for f, (_, content) in after.items()}
    made_again = {file.relative_to(output).as_posix() for file, (time, _) in after.items() if time != before[file][0]}
    assert made_again == {"images/train/0.png", "images/train/1.png", "labels/val/0.txt"}

    # Another method, other boxes, other sets: refused, and remade where that is asked for.
    for more, message in (
        (("--input", "maximum", *sets), "another method (average, now maximum)"),
        (("--input", "average", "--annotations", "vis", *sets), 'another annotations (union, now ["vis"])'),
        (("--input", "average", "--class", "car", *sets), 'another classes (["person", "Car"], now ["car"])'),
    ):
        code, text = run(*more, "--output", output)
        assert code == 2 and message in text and "--overwrite" in text
    (street / "val/vis/2.png").unlink()
    code, text = run("--input", "average", *sets, "--output", output)
    assert code == 2 and "1 images that are not in these sets (val/2)" in text
    code, _ = run("--input", "maximum", "--class", "car", *sets, "--output", output, "--overwrite")
    assert code == 0 and not (output / "images/val/2.png").exists()
    assert yaml.safe_load((output / "data.yaml").read_text())["names"] == {0: "car"}


def test_several_sets_and_a_test_part(street: Path) -> None:
    both = ("--train", street / "train", "--train", street / "val")
    code, _ = run("-i", "infrared", *both, "--val", street / "val", "--test", street / "val", "-o", street / "yolo")
    assert code == 0
    names = sorted(file.stem for file in (street / "yolo/images/train").iterdir())
    assert len(names) == 6 and names[0].endswith("_train_0") and names[-1].endswith("_val_2")
    assert sorted(file.stem for file in (street / "yolo/labels/test").iterdir()) == ["0", "1", "2"]
    assert yaml.safe_load((street / "yolo/data.yaml").read_text())["test"] == "images/test"


def test_sets_with_equal_folder_names_get_different_labels(street: Path) -> None:
    for folder, part in (("a/msrs", "train"), ("b/msrs", "val"), ("b_msrs", "val"), ("b msrs", "val")):
        shutil.copytree(street / part, street / folder / "train")
    rest = ("-i", "infrared", "--val", street / "val", "-o", street / "yolo")
    names = ("a/msrs", "b/msrs", "b/../b/msrs")  # the last is the second once more
    assert run(*(word for name in names for word in ("--train", street / name / "train")), *rest)[0] == 0
    images = sorted(file.stem for file in (street / "yolo/images/train").iterdir())
    assert images == [f"{name}_msrs_train_{number}" for name in "ab" for number in range(3)]
    code, text = run("--train", street / "b_msrs/train", "--train", street / "b msrs/train", *rest)
    assert code == 1 and "two sets have the name" in text and "rename one of their folders" in text


def test_mistakes_are_one_sentence(street: Path) -> None:
    sets = ("--train", street / "train", "--val", street / "val")
    (street / "other").mkdir()
    (street / "other" / "mine.txt").write_text("important")
    (street / "small").mkdir()
    for name in "012":
        Image.new("RGB", (32, 24)).save(street / "small" / f"{name}.png")
    for arguments, code, message in (
        (("-i", "average", *sets, "-o", street / "other"), 2, "is not empty and holds no dataset of this command"),
        (("-i", "average", *sets, "-o", street / "other", "--overwrite"), 2, "is not empty"),
        (("-i", "average", *sets, "-o", street / "train/vis/0.png"), 2, "is a file: give a folder"),
        (("--train", "nowhere", "--val", "nowhere", "-o", street / "y"), 1, "no data set named 'nowhere'"),
        (("-i", "average", *sets, "--class", "lorry", "-o", street / "y"), 1, "knows the class 'lorry'"),
        (("-i", "nothing", *sets, "-o", street / "y"), 1, "nothing"),
        (("-i", str(street / "small"), *sets, "-o", street / "z"), 1, "is 32x24 pixels and its pair 128x96"),
        (("--train", street / "train", "-o", street / "y"), 2, "Missing option"),
    ):
        found, text = run(*arguments)
        assert (found, message in text) == (code, True), (arguments, text)
        assert "Traceback" not in text
    assert (street / "other" / "mine.txt").read_text() == "important"
    assert not (street / "z" / "data.yaml").exists()  # a set that is not whole cannot be trained on


def test_pairs_of_two_parts_are_named(street: Path) -> None:
    part = street / "train"
    code, text = run("-i", "visible", "--train", part, "--val", part, "-o", street / "shared")
    assert code == 0 and re.search(r"(\d+) of the \1 pairs of val are in train, too", text)
    code, text = run("-i", "visible", "--train", part, "--val", street / "val", "-o", street / "apart")
    assert code == 0 and "in train, too" not in text
