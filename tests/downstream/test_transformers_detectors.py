"""Detectors of the `transformers` library, tiny and random, against the network and the formula themselves."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fusion_hub.downstream import MSRS_CLASSES, Detector, TransformersDetector, load_detector
from tests.support.tiny_transformers import SIDE, save_detector, save_segformer


@pytest.fixture(scope="module", params=["rt_detr_v2", "d_fine", "yolos"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector("rt_detr_v2", tmp_path_factory.mktemp("one"))


def picture(size: tuple[int, int] = (48, 96)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


def test_every_architecture_loads_and_detects(folder: Path) -> None:
    detector = TransformersDetector.from_pretrained(folder)
    assert isinstance(detector, Detector) and detector.names == {0: "person", 1: "car", 2: "bicycle"}
    assert type(detector.processor).__name__.endswith("Pil") and not detector.model.training
    every = detector.detect(picture(), threshold=0)
    assert len(every) > 0 and every.size == (48, 96) and (np.diff(every.scores) <= 0).all()
    assert (every.boxes >= 0).all() and (every.boxes <= [96, 48, 96, 48]).all()
    half = float(np.median(every.scores))
    again = detector.detect(picture(), threshold=half)
    assert np.array_equal(again.scores, every.above(half).scores) and len(again) < max(len(every), 2)


def test_boxes_and_scores_are_those_of_the_network(one: Path) -> None:
    detector = TransformersDetector.from_pretrained(one)
    found = detector.detect(picture(), threshold=0)
    resized = np.asarray(Image.fromarray(picture()).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    with torch.inference_mode():
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None] / 255  # RT-DETR is not normalized
        outputs = detector.model(pixel_values=pixels)
    scores = torch.sigmoid(outputs.logits[0]).numpy()
    for detection in found:
        query, class_id = np.unravel_index(np.abs(scores - detection.score).argmin(), scores.shape)
        x, y, w, h = outputs.pred_boxes[0, query].numpy() * [96, 48, 96, 48]
        edges = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [96, 48, 96, 48])
        assert detection.class_id == class_id
        assert scores[query, class_id] == pytest.approx(detection.score, abs=1e-5)
        assert np.allclose(detection.box, edges, atol=1e-2)


def test_gray_and_deep_pictures_are_accepted(one: Path) -> None:
    detector = load_detector(one)
    gray = picture()[..., 0]
    kinds = (gray, Image.fromarray(gray), np.stack([gray] * 3, axis=2))
    same = [detector.detect(image, threshold=0) for image in kinds]
    assert all(np.array_equal(found.boxes, same[0].boxes) for found in same)
    assert len(detector.detect(Image.fromarray(2600 + gray.astype(np.uint16)), threshold=0)) > 0


def test_incomplete_weights_are_an_error_not_random_numbers(one: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(one, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    names = sorted(name for name in weights if "decoder" in name and name.endswith("weight"))
    save_file({name: value for name, value in weights.items() if name != names[0]}, broken / "model.safetensors")
    with pytest.raises(ValueError, match=r"\d+ tensors .* missing .* same checkpoint"):
        TransformersDetector.from_pretrained(broken)
    weights[names[0]] = torch.full_like(weights[names[0]], torch.nan)
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(ValueError, match="NaN"):
        TransformersDetector.from_pretrained(broken).detect(picture())


def test_pickled_weights_are_not_loaded(one: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(one, tmp_path / "pickled"))
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        TransformersDetector.from_pretrained(pickled)


def test_other_folders_and_names_are_refused(one: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(one, tmp_path / "bare"))
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises((OSError, ValueError), match=r"preprocessor_config\.json"):
        TransformersDetector.from_pretrained(bare)
    with pytest.raises(ValueError, match="AutoModelForObjectDetection"):
        TransformersDetector.from_pretrained(save_segformer(tmp_path / "segformer", MSRS_CLASSES))
    for name in ("/no/such/folder", "three/parts/here"):
        with pytest.raises(FileNotFoundError, match=r"no .* named .*Hub id"):
            TransformersDetector.from_pretrained(name)
    with pytest.raises(OSError, match=r"cannot load 'nobody/nothing'"):
        TransformersDetector.from_pretrained("nobody/nothing", local_files_only=True)


def test_without_transformers_the_command_that_installs_it_is_named(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "fusion-hub\[downstream\]"'):
        TransformersDetector.from_pretrained(one)
