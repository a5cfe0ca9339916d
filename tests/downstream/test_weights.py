"""Weights by path and from the Hub: the local Hub of the tests, one process that knows only it."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from fusion_hub.downstream import OnnxDetector, load_detector
from fusion_hub.downstream.weights import find_weights
from tests.support.hub_server import HubServer
from tests.support.tiny_onnx import write_yolo
from tests.support.tiny_transformers import save_detector


@pytest.fixture(scope="module")
def hub_answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """The result of each call, made once: the class and its names, or the error."""
    root = tmp_path_factory.mktemp("hub")
    for repo in ("one", "two"):
        (root / repo / "onnx").mkdir(parents=True)
        write_yolo(root / repo / "onnx" / "small.onnx", "yolox")
    write_yolo(root / "two" / "large.onnx", "yolov8")
    save_detector("rt_detr_v2", root / "detr")
    calls: dict[str, tuple[str, str, dict]] = {
        "before": ("onnx", "tester/one", {"local_files_only": True}),
        "only file": ("onnx", "tester/one", {}),
        "cached": ("onnx", "tester/one", {"local_files_only": True}),
        "several": ("onnx", "tester/two", {}),
        "filename": ("onnx", "tester/two", {"filename": "large.onnx"}),
        "address": ("any", "tester/two/onnx/small.onnx", {}),
        "no such file": ("onnx", "tester/two/other.onnx", {}),
        "transformers": ("any", "tester/detr", {}),
        "no onnx": ("onnx", "tester/detr", {}),
        "no repository": ("onnx", "tester/nothing", {}),
        "no revision": ("onnx", "tester/one", {"revision": "v7"}),
    }
    answers: dict[str, list] = {}
    with HubServer() as hub, pytest.MonkeyPatch.context() as patch:
        hub.redirect(patch, root)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        for repo in ("one", "two", "detr"):
            HfApi().create_repo(f"tester/{repo}")
            HfApi().upload_folder(repo_id=f"tester/{repo}", folder_path=root / repo)
        for call, (loader, name, settings) in calls.items():
            load = OnnxDetector.from_pretrained if loader == "onnx" else load_detector
            try:
                detector = load(name, cache_dir=root / "cache", **settings)
                answers[call] = [type(detector).__name__, list(detector.names.values())]
            except (OSError, ValueError) as error:
                answers[call] = ["refused", type(error).__name__, str(error)]
    return answers


def test_detectors_load_from_the_hub(hub_answers: dict[str, list]) -> None:
    for call in ("only file", "cached", "filename", "address"):
        assert hub_answers[call] == ["OnnxDetector", ["red", "blue"]], call
    assert hub_answers["transformers"] == ["TransformersDetector", ["person", "car", "bicycle"]]


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ("before", "OSError", "cannot be loaded from the Hub"),
        ("several", "ValueError", "2 .onnx files in the repository 'tester/two'"),
        ("no such file", "FileNotFoundError", "no 'other.onnx'"),
        ("no onnx", "FileNotFoundError", "no .onnx file in the repository 'tester/detr'"),
        ("no repository", "OSError", "check the path, or the id"),
        ("no revision", "OSError", "the revision"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(hub_answers: dict[str, list], call: str, kind: str, words: str) -> None:
    refused, found_kind, sentence = hub_answers[call]
    assert (refused, found_kind) == ("refused", kind) and words in sentence and "\n" not in sentence


def test_files_and_folders(tmp_path: Path) -> None:
    file = write_yolo(tmp_path / "a.onnx", "yolox")
    assert find_weights(file, ".onnx") == find_weights(str(tmp_path), ".onnx") == file
    shutil.copy(file, tmp_path / "b.onnx")
    assert find_weights(tmp_path, ".onnx", "b.onnx").name == "b.onnx"
    with pytest.raises(ValueError, match=r"choose one with filename= \(a\.onnx, b\.onnx\)"):
        find_weights(tmp_path, ".onnx")
    with pytest.raises(FileNotFoundError, match=r"no 'c\.onnx' in"):
        find_weights(tmp_path, ".onnx", "c.onnx")
    with pytest.raises(ValueError, match="leads out of the folder"):
        find_weights(tmp_path, ".onnx", "../x.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.onnx file in"):
        find_weights(tmp_path / "empty", ".onnx")
    for name in ("weights/gone.onnx", "https://example.org/x.onnx", "gone"):
        with pytest.raises(FileNotFoundError, match=r"no .* named .*Hub id"):
            find_weights(name, ".onnx")


def test_load_detector_chooses_by_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "yolo").mkdir()
    write_yolo(tmp_path / "yolo" / "model.onnx", "yolov8")
    assert isinstance(load_detector(tmp_path / "yolo"), OnnxDetector)
    assert isinstance(load_detector(tmp_path / "yolo" / "model.onnx", threads=1), OnnxDetector)
