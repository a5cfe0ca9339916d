"""The small detector: samples, assignment, loss, its ONNX file, and the weights in the package."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_hub.data import generate_scene
from fusion_hub.data.annotations import iou
from fusion_hub.downstream import load_detector
from fusion_hub.downstream.convnet_detector import (
    CELLS_PER_OBJECT,
    ConvnetDetector,
    ConvnetDetectorConfig,
    assign,
    decoded,
    detection_loss,
    export_onnx,
    overlaps,
)
from fusion_hub.downstream.detectors import OnnxDetector
from fusion_hub.downstream.image_training import Augmentation
from fusion_hub.downstream.train_detector import NO_OBJECT, BoxedPicture, DetectorConfig, DetectorTask, LetterboxCrops
from fusion_hub.downstream.yolo import LETTERBOX_GRAY, grid, letterbox
from fusion_hub.training import ConfigError, Source, TrainingConfig, parse_config
from tests.support.downstream_runs import detector_config, run_config
from tests.support.training_runs import TRAIN, accelerate_on_cpu, assert_resumes  # noqa: F401  # a fixture

SIZE = 64, 96
CELLS = (8 * 12) + (4 * 6) + (2 * 3)


def small_network() -> ConvnetDetector:
    """A narrow network whose weights and statistics are all random, as after training."""
    torch.manual_seed(0)
    names = {0: "person", 1: "car"}
    model = ConvnetDetector(ConvnetDetectorConfig(channels=(8, 8, 16, 16, 16), width=16, id2label=names))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 3, *SIZE) * 255)
        for head in model.heads:
            head.box.weight.normal_(0, 0.1)
            head.score.bias.zero_()
    return model.eval()


# --- samples ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 10**6), largest=st.floats(1, 2), mosaic=st.sampled_from([0.0, 1.0]))
def test_boxes_move_with_their_views_and_with_the_parts_of_a_mosaic(number: int, largest: float, mosaic: float) -> None:
    # One white square on black: what is white in a sample lies in boxes, and each box is white.
    pixels = np.zeros((120, 200, 3), np.uint8)
    pixels[40:100, 60:130] = 255
    item = BoxedPicture("square", pixels, np.array([[60, 40, 130, 100]], np.float32), np.array([1]))
    variation = Augmentation(scale=(1.0, largest))
    crops = LetterboxCrops([[item]], [None], 3, 2, variation, shape=(96, 128), mosaic=mosaic)
    sample = crops.sample(number, 96)
    white = sample["image"][0].numpy() > 0.6
    assert white.shape == (96, 128) and sample["boxes"].shape == (4, 4)
    found = sample["classes"] != NO_OBJECT
    assert found.tolist() == sorted(found.tolist(), reverse=True), "padding last"
    outside = white.copy()
    for x, y, width, height in (sample["boxes"][found].numpy() * [128, 96, 128, 96]).tolist():
        left, top, right, bottom = (round(v) for v in (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        assert white[top + 2 : bottom - 2, left + 2 : right - 2].all()
        outside[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
    assert not outside.any() or largest > 1 or mosaic, "a cut square may be too small for a box"
    assert mosaic or len(sample["boxes"][found]) <= 1


def test_a_whole_picture_looks_as_in_use() -> None:
    scene = generate_scene(3, 120, 200, "day_road")
    item = BoxedPicture("scene", scene.visible, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    crops = LetterboxCrops([[item]], [None], 0, 2, Augmentation(), shape=(96, 128), mosaic=0.0)
    for number in range(4):
        seen = crops.sample(number, 96)["image"].numpy().transpose(1, 2, 0) * 255
        border = np.isclose(seen, LETTERBOX_GRAY, atol=1e-3).all((1, 2))
        assert 17 <= border.sum() <= 19, "three quarters of the height are picture"
        whole, _ = letterbox(scene.visible, (96, 128), centered=False)
        inner = seen[~border][1:76]
        errors = [np.abs(inner - one[1 : 1 + len(inner)]).mean() for one in (whole, whole[:, ::-1])]
        assert min(errors) < 6 < 25 < max(errors), "mirrored or not"


# --- assignment and loss ---------------------------------------------------------------------------------------------


def objects_of(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    corners = rng.uniform(0, 1, (2, count, 2, 2)).astype(np.float32)
    low, high = corners.min(2), corners.max(2)
    boxes = np.concatenate([low, np.maximum(high, low + 0.05)], 2) * np.array([96, 64, 96, 64], np.float32)
    classes = rng.integers(0, 2, (2, count))
    classes[1, count // 2 :] = NO_OBJECT
    return torch.from_numpy(boxes), torch.from_numpy(classes)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_assignment(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    objects, classes = objects_of(rng, count)
    raw = torch.from_numpy(rng.normal(0.5, 0.7, (2, CELLS, 4)).astype(np.float32))
    scores = torch.from_numpy(rng.uniform(0, 1, (2, CELLS, 2)).astype(np.float32))
    boxes, centers, strides = decoded(raw, SIZE)
    index, target = assign(boxes, scores, centers, strides, objects, classes)
    for picture in range(2):
        learned = target[picture] > 0
        owners = index[picture][learned]
        assert (classes[picture][owners] != NO_OBJECT).all(), "padding is nobody's object"
        assert (torch.bincount(owners, minlength=count) <= CELLS_PER_OBJECT).all()
        overlap = torch.from_numpy(iou(objects[picture].numpy(), boxes[picture].numpy()))
        for owner in owners.unique().tolist():
            cells = learned & (index[picture] == owner)
            best = overlap[owner][cells].max().item()
            assert target[picture][cells].max().item() == pytest.approx(best, abs=1e-4), "the best is to have its IoU"
            reach = torch.maximum((objects[picture, owner, 2:] - objects[picture, owner, :2]) / 2, strides[cells])
            middle = (objects[picture, owner, :2] + objects[picture, owner, 2:]) / 2
            assert ((centers[cells] - middle).abs() < reach).all()


def test_overlaps_are_those_of_the_evaluation() -> None:
    objects, _ = objects_of(np.random.default_rng(0), 8)
    plain, generalized = overlaps(objects[0][:, None], objects[1][None])
    np.testing.assert_allclose(plain.numpy(), iou(objects[0].numpy(), objects[1].numpy()), atol=1e-6)
    apart = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[20.0, 0, 30, 10]])
    assert overlaps(*apart)[1].item() == pytest.approx(-1 / 3) and (generalized <= plain + 1e-6).all()


def test_right_boxes_cost_nothing_and_empty_pictures_only_scores() -> None:
    cells, strides = (torch.from_numpy(values) for values in grid(SIZE, (8, 16, 32)))
    box = torch.tensor([30.0, 20.0, 50.0, 44.0])
    center, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    raw = torch.cat([center / strides - cells, (size / strides).log()], 1)[None]  # each cell predicts this box
    logits = torch.full((1, CELLS, 2), -12.0)
    _, parts = detection_loss(raw, logits, SIZE, box[None, None], torch.tensor([[1]]))
    assert parts["box"].item() == pytest.approx(0, abs=1e-5) and parts["class"] > 5, "it was not found"
    loss, parts = detection_loss(raw, logits, SIZE, torch.zeros(1, 3, 4), torch.full((1, 3), NO_OBJECT))
    assert parts["box"] == 0 and loss.item() == pytest.approx(0, abs=0.01)


def test_a_stopped_run_resumes_exactly(tmp_path: Path, drawn: Path) -> None:
    model = detector_config(tmp_path / "cache", input=["visible", "infrared"], architecture="convnet", mosaic=0.5)
    assert_resumes(DetectorTask, run_config(tmp_path, drawn), model, 5)
    assert {file.name for file in (tmp_path / "failed" / "pipeline").iterdir()} == {
        *("model.onnx", "inputs.json", "config.yaml", "training.json"),
    }
    detector = load_detector(tmp_path / "failed" / "pipeline")
    assert isinstance(detector, OnnxDetector) and list(detector.names.values()) == ["person", "car"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "pycocotools"])
def test_a_missing_package_is_named_before_the_training(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    config = run_config(tmp_path, drawn, validation_sources=[Source(str(drawn))])
    with pytest.raises(ConfigError, match=rf"needs {package}, .* pip install \"fusion-hub\[downstream\]\""):
        DetectorTask(config, detector_config(tmp_path, architecture="convnet"))


# --- the ONNX file ---------------------------------------------------------------------------------------------------


def test_the_onnx_file_gives_the_boxes_of_the_network(tmp_path: Path) -> None:
    model, file = small_network(), tmp_path / "model.onnx"
    export_onnx(model, SIZE, file)
    detector = OnnxDetector(file, iou_threshold=1.0, max_detections=10**4)
    assert detector.names == {0: "person", 1: "car"} and detector.layout.family == "yolox"
    picture = generate_scene(1, *SIZE, "day_road").visible
    found = detector.detect(picture, threshold=0.0)
    with torch.no_grad():
        raw, logits = model(torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None].float())
    boxes, _, _ = decoded(raw, SIZE)
    scores, class_ids = logits[0].sigmoid().max(1)
    expected = np.clip(boxes[0].numpy(), 0, [96, 64, 96, 64])
    inside = (expected[:, 2:] > expected[:, :2]).all(1)  # boxes outside of the picture are left out
    assert inside.sum() > 100 and scores.std() > 0.01
    np.testing.assert_allclose(found.scores, np.sort(scores[inside])[::-1], atol=1e-5)
    assert np.array_equal(np.bincount(found.class_ids), np.bincount(class_ids[inside]))
    np.testing.assert_allclose(np.sort(found.boxes, 0), np.sort(expected[inside], 0), atol=1e-2)


# --- the weights in the package --------------------------------------------------------------------------------------


def test_the_bundled_detector_finds_people_and_cars_of_synthetic_scenes() -> None:
    detector = load_detector("detector-nano-msrs")
    assert isinstance(detector, OnnxDetector) and list(detector.names.values()) == ["person", "bicycle", "car"]
    for kind, band, label in (("day_road", "visible", "car"), ("night_street", "infrared", "person")):
        scene = generate_scene(0, kind=kind)  # type: ignore[arg-type]
        picture = getattr(scene, band)
        found = detector.detect(picture, threshold=0.3)
        own = found.boxes[[detector.names[int(i)] == label for i in found.class_ids]]
        drawn = np.array([box[1:] for box in scene.boxes if box.label == label])
        large = drawn[(drawn[:, 2:] - drawn[:, :2]).prod(1) > 1500]
        assert len(large) and (iou(large, own).max(1) > 0.5).mean() >= 0.5, (kind, band)


def test_its_configuration_keeps_test_and_reserved_pairs_out() -> None:
    file = TRAIN / "configs" / "detector_bundle.yaml"
    training, model = parse_config((TrainingConfig, DetectorConfig), [], file)
    assert {source.split for source in training.sources if "generated" not in source.path} == {"train"}
    assert [bool(source.exclude) for source in training.sources if source.path.endswith("msrs")] == [True]
    assert {source.split for source in training.validation_sources} == {"val"}
    assert model.architecture == "convnet" and model.classes == ["person", "bicycle", "car"]
