"""A detector from elsewhere on pairs: the same as calling it by hand, and measured by a command."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import zero_shot as benchmark

from fusion_hub.data import PairedDataset
from fusion_hub.data.annotations import find_boxes
from fusion_hub.downstream.detectors import load_detector
from fusion_hub.downstream.inputs import open_inputs
from fusion_hub.downstream.scores import DetectionResult
from fusion_hub.downstream.zero_shot import CLASSES, describe_detector, provenance, zero_shot


def test_it_is_the_detector_on_the_picture_of_each_pair(data_root: Path, tmp_path: Path) -> None:
    file = data_root / "models" / "yolox_nano.onnx"
    detector = load_detector(file, threads=1)
    boxed = find_boxes(list(PairedDataset.open(str(data_root / "data" / "msrs"), "test"))[:3], CLASSES)
    inputs = open_inputs("average")
    result = zero_shot(detector, inputs, boxed, CLASSES, "msrs/test", tmp_path)
    assert result.pictures == tuple(pair.name for pair in boxed)
    for pair, truth, (boxes, class_ids, scores) in zip(boxed, result.truth, result.found, strict=True):
        assert np.array_equal(truth[0], pair.boxes) and np.array_equal(truth[1], pair.class_ids)
        found = detector.detect(inputs.picture(pair.pair), threshold=0.001).only(CLASSES)
        assert np.array_equal(boxes, found.boxes[:100]) and np.array_equal(scores, found.scores[:100])
        assert [CLASSES[i] for i in class_ids] == [found.names[int(i)] for i in found.class_ids[:100]]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    about = provenance(inputs, describe_detector(file), "msrs/test")
    assert about["detector"] == f"yolox_nano.onnx sha256:{digest}" and about["fingerprint"] == inputs.fingerprint
    assert describe_detector("PekingU/rtdetr_v2_r18vd") == "PekingU/rtdetr_v2_r18vd"
    assert str(tmp_path.parent) not in describe_detector(tmp_path)


def test_the_benchmark_measures_once(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--detector", str(data_root / "models" / "yolox_nano.onnx"), "--data", "generated:2"]
    arguments += ["--classes", "person", "car", "--inputs", "maximum", "--annotators"]
    arguments += ["--cache", str(tmp_path / "made")]
    benchmark.main([*arguments, "--output", str(tmp_path / "out")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "| maximum |" in printed and "| infrared | visible | all |" in printed
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["infrared.json", "maximum.json", "visible.json"]
    number = DetectionResult.load(files[1]).numbers()["mAP50"]
    assert f"| maximum | {100 * number:.1f} " in printed  # no interval over two pictures

    # With the same arguments it reads the file; with another detector or other boxes it does not.
    boxed = find_boxes(list(PairedDataset.open("generated:2")), ("person", "car"))
    about = provenance(open_inputs("maximum"), describe_detector(arguments[1]), "generated:2")
    found = benchmark.stored(files[1], about, boxed)
    assert found is not None and found.numbers()["mAP50"] == number
    assert benchmark.stored(files[1], about | {"detector": "another"}, boxed) is None
    moved = [dataclasses.replace(boxed[0], boxes=boxed[0].boxes + 1), boxed[1]]
    assert benchmark.stored(files[1], about, moved) is None
    assert benchmark.stored(tmp_path / "nothing.json", about, boxed) is None
