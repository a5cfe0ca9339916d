"""ONNX detectors: small networks of known answers, and the real YOLOX-nano on real pairs."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from fusion_hub.data.annotations import iou
from fusion_hub.downstream import Detector, OnnxDetector, load_detector
from fusion_hub.downstream.yolo import Family
from tests.support.tiny_onnx import write_constant, write_yolo

FAMILIES: tuple[Family, ...] = ("yolox", "yolov5", "yolov8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module", params=FAMILIES)
def detector(request: pytest.FixtureRequest, folder: Path) -> OnnxDetector:
    return OnnxDetector(write_yolo(folder / f"{request.param}.onnx", request.param), threads=1)


def street(size: tuple[int, int] = (128, 192)) -> np.ndarray:
    """Black, with one cell of the coarsest grid red and another blue."""
    height, width = size
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, width // 3 : 2 * width // 3, 0] = 255
    picture[height // 2 :, 2 * width // 3 :, 2] = 255
    return picture


# --- small networks -----------------------------------------------------


def test_each_family_finds_the_colors_where_they_are(detector: OnnxDetector) -> None:
    found = detector.detect(street(), threshold=0.9)
    assert isinstance(detector, Detector)
    assert found.counts().keys() == {"red", "blue"} and (np.diff(found.scores) <= 0).all()
    for name, place in (("red", [64, 0, 128, 64]), ("blue", [128, 64, 192, 128])):
        boxes = found.only([name]).boxes
        assert np.allclose(boxes[:, :2].min(axis=0), place[:2], atol=2)
        assert np.allclose(boxes[:, 2:].max(axis=0), place[2:], atol=2)
        assert any(np.allclose(box, place, atol=2) for box in boxes)


def test_a_letterboxed_picture_gets_its_own_pixels_back(detector: OnnxDetector) -> None:
    # Twice as tall: half of the input is border, on both sides or at the right.
    found = detector.detect(np.full((256, 128, 3), 255, dtype=np.uint8), threshold=0.99)
    assert len(found) > 0 and found.size == (256, 128)
    assert (found.boxes >= 0).all() and (found.boxes <= [128, 256, 128, 256]).all()
    assert found.boxes[:, 3].max() > 240 and found.boxes[:, 2].max() > 110


def test_a_threshold_before_or_after_is_the_same(detector: OnnxDetector) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    low, high = detector.detect(picture, threshold=0.1), detector.detect(picture, threshold=0.5)
    again = low.above(0.5)
    assert 0 < len(high) < len(low)
    assert np.array_equal(again.boxes, high.boxes) and np.array_equal(again.scores, high.scores)


def test_every_kind_of_picture_is_accepted(folder: Path, tmp_path: Path) -> None:
    detector = OnnxDetector(write_yolo(folder / "kinds.onnx", "yolov8"), threads=1)
    gray = np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    expected = detector.detect(np.stack([gray] * 3, axis=2), threshold=0.4)
    counts = 2600 + gray.astype(np.uint16) // 2  # of a thermal camera: a small part of 16 bits
    for picture in (gray, tmp_path / "gray.png", Image.fromarray(gray), (gray / 255).astype(np.float32)):
        assert np.array_equal(detector.detect(picture, threshold=0.4).boxes, expected.boxes)
    deep = detector.detect(Image.fromarray(counts), threshold=0.4, value_range=(2600, 2600 + 127.5))
    assert len(deep) == len(expected) > 0
    assert len(detector.detect(Image.fromarray(counts), threshold=0.4)) > 0  # stretched by itself


def test_half_precision_and_open_sizes(folder: Path) -> None:
    half = OnnxDetector(write_yolo(folder / "half.onnx", "yolov8", dtype="float16"))
    whole = OnnxDetector(write_yolo(folder / "whole.onnx", "yolov8"))
    boxes = [sorted(d.detect(street(), threshold=0.9).boxes.tolist()) for d in (half, whole)]
    assert np.allclose(*boxes, atol=1e-2)
    shapes: dict[str, Any] = {"input_shape": ("batch", 3, "height", "width"), "output_shape": ("batch", 6, "anchors")}
    metadata = {"names": "['red', 'blue']", "imgsz": "[64, 96]"}
    path = write_yolo(folder / "open.onnx", "yolov8", **shapes, metadata=metadata)
    assert OnnxDetector(path).layout == OnnxDetector(path, input_size=(64, 96)).layout == whole.layout
    assert OnnxDetector(path).detect(street(), threshold=0.9).counts().keys() == {"red", "blue"}
    with pytest.raises(ValueError, match=r"cannot be run on an input of shape \(1, 3, 96, 96\)"):
        OnnxDetector(path, input_size=(96, 96))  # the boxes in this file are for one size


def test_names_of_the_caller_replace_those_of_the_file(folder: Path) -> None:
    path = write_yolo(folder / "unnamed.onnx", "yolox", metadata={})
    with pytest.raises(ValueError, match=r"2 classes, .* no names: give class_names"):
        OnnxDetector(path)
    assert OnnxDetector(path, class_names=["it's", "other"]).names == {0: "it's", 1: "other"}


def test_threads_share_one_detector(detector: OnnxDetector) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (64, 96, 3)).astype(np.uint8) for _ in range(12)]
    expected = [detector.detect(picture, threshold=0.5).boxes for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: detector.detect(picture, threshold=0.5).boxes, pictures))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_at_most_so_many_of_the_best(folder: Path) -> None:
    path = write_yolo(folder / "many.onnx", "yolov8")
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    every = OnnxDetector(path).detect(picture, threshold=0)
    assert np.array_equal(OnnxDetector(path, max_detections=5).detect(picture, threshold=0).boxes, every.boxes[:5])


HEAD = np.zeros((1, 6, 126), dtype=np.float32)  # YOLOv8 with two classes at 64 x 96


@pytest.mark.parametrize(
    ("input_shape", "outputs", "changes", "words"),
    [
        ((1, 3, 64, 96), [HEAD], {"metadata": {"task": "segment"}}, "task 'segment'"),
        ((1, 3, 64, 96), [HEAD], {"metadata": {"names": "['one']"}}, "2 classes, .* 1 names"),
        ((1, 3, 64, 96), [HEAD, HEAD], {}, "exactly one output with three dimensions"),
        ((1, 3, 64, 96), [HEAD[0]], {}, "exactly one output with three dimensions"),
        ((1, 3, 64, 96), [HEAD[:, :, :100]], {}, "not a known YOLO head"),
        ((1, 64, 96, 3), [HEAD], {}, r"one image \(1, 3, height, width\)"),
        ((1, 3), [HEAD], {}, "one image"),
        ((2, 3, 64, 96), [HEAD], {}, "batches of 2"),
        ((1, 3, 64, 100), [HEAD], {}, "multiples of 32, got 64 x 100"),
        ((1, 3, 64, 96), [HEAD], {"input_type": onnx.TensorProto.UINT8}, r"tensor\(uint8\): export it with float32"),
    ],
)
def test_files_that_are_not_recognized_say_why(
    folder: Path, input_shape: tuple[int, ...], outputs: list[np.ndarray], changes: dict[str, Any], words: str
) -> None:
    path = write_constant(folder / "strange.onnx", input_shape, *outputs, **changes)
    with pytest.raises(ValueError, match=words):
        OnnxDetector(path)


def test_settings_out_of_range_and_networks_that_return_nan_are_refused(folder: Path) -> None:
    path = write_yolo(folder / "settings.onnx", "yolov8")
    for settings, words in (
        ({"threads": 0}, "threads must be at least 1"),
        ({"iou_threshold": 1.5}, r"iou_threshold must be in 0\.\.1"),
        ({"max_detections": 0}, "max_detections must be at least 1"),
        ({"input_size": (96, 96)}, "only images of 64 x 96"),
        ({"providers": ["MadeUpProvider"]}, "no provider 'MadeUpProvider'"),
    ):
        with pytest.raises(ValueError, match=words):
            OnnxDetector(path, **settings)  # type: ignore[arg-type]
    nan = write_constant(folder / "nan.onnx", (1, 3, 64, 96), HEAD * np.nan, metadata={"names": "['a', 'b']"})
    with pytest.raises(ValueError, match="NaN"):
        OnnxDetector(nan).detect(street())
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"threshold must be in 0\.\.1"):
            OnnxDetector(path).detect(street(), threshold=threshold)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx"):
        OnnxDetector.from_pretrained(tmp_path / "gone.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ValueError, match="onnxruntime cannot load"):
        OnnxDetector.from_pretrained(tmp_path / "noise.onnx")
    with pytest.raises(ValueError, match=r"not a \.onnx file"):
        OnnxDetector.from_pretrained(__file__)


def test_without_onnxruntime_the_command_that_installs_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_yolo(folder / "whole.onnx", "yolov8")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # Python's own way to say that it cannot be imported
    for load in (OnnxDetector, OnnxDetector.from_pretrained, load_detector):
        with pytest.raises(ImportError, match=r'pip install "fusion-hub\[downstream\]"'):
            load(path)


# --- the real YOLOX-nano ------------------------------------------------


@pytest.fixture(scope="module")
def yolox(data_root: Path) -> OnnxDetector:
    path = data_root / "models" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"no YOLOX-nano at {path}")
    return OnnxDetector.from_pretrained(path, threads=1)


@pytest.mark.parametrize(("band", "least"), [("vis", 0.7), ("ir", 0.4)])
def test_yolox_nano_finds_the_van_of_a_real_pair(yolox: OnnxDetector, data_root: Path, band: str, least: float) -> None:
    assert (yolox.layout.family, yolox.layout.size, len(yolox.names)) == ("yolox", (416, 416), 80)
    found = yolox.detect(data_root / "data" / "roadscene" / "train" / band / "FLIR_00006.jpg", threshold=0.4)
    cars = found.only(["car"])
    van = np.array([296, 130, 500, 329])  # read off the picture by eye
    near = cars.scores[np.abs(cars.boxes - van).max(axis=1) < 40]
    assert near.size and near.max() > least


def test_yolox_nano_finds_what_people_marked(yolox: OnnxDetector, data_root: Path) -> None:
    # On twelve day scenes of MSRS at least a third of the marked cars, and two thirds of what it finds is marked.
    root = data_root / "data" / "msrs" / "test"
    marks = json.loads((root / "boxes" / "vis.json").read_text())
    days = [image for image in marks["images"] if image["file_name"].endswith("D")][:12]
    hits = total = marked = 0
    for image in days:
        rows = [a["bbox"] for a in marks["annotations"] if a["image_id"] == image["id"] and a["category_id"] == 2]
        truth = np.array(rows, dtype=np.float64).reshape(-1, 4)
        truth[:, 2:] += truth[:, :2]
        found = yolox.detect(root / "vis" / f"{image['file_name']}.png", threshold=0.3).only(["car"])
        overlap = iou(found.boxes, truth)
        hits += int((overlap.max(axis=1, initial=0) >= 0.5).sum())
        total, marked = total + len(found), marked + len(truth)
    assert hits >= marked / 3 and hits >= 2 * total / 3, (hits, total, marked)
