"""Zero-shot detection: a detector trained elsewhere, on visible, infrared or fused images.

    detector = load_detector("yolox_nano.onnx")
    pairs = list(PairedDataset.open("data/msrs", "test"))
    boxed = find_boxes(pairs, CLASSES)
    result = zero_shot(detector, open_inputs("difffusenet-msrs"), boxed, CLASSES, "msrs/test", Path("runs/inputs"))
    print(result.numbers())

The detector has not adapted to fused images, so it prefers images that resemble the daylight photographs it was trained
on.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from fusion_hub.data import PairedDataset
from fusion_hub.data.annotations import BoxedPair, find_boxes
from fusion_hub.downstream.detectors import load_detector
from fusion_hub.downstream.inputs import Inputs, file_name, open_inputs, read_inputs
from fusion_hub.downstream.protocols import Detector
from fusion_hub.downstream.scores import DetectionResult, evaluate_detector
from fusion_hub.training.config import Source

CLASSES = ("person", "car", "bicycle")
"""The classes that have boxes in MSRS; all three are also classes of COCO."""


def zero_shot(
    detector: Detector,
    inputs: Inputs,
    boxed: Sequence[BoxedPair],
    classes: Sequence[str],
    label: str,
    cache: Path,
) -> DetectionResult:
    """Run a detector on one image of each pair and compare with the boxes.

    Images have their own size; the detector resizes them as it was trained (YOLOX-nano to 416 x 416).

    Args:
        detector: from `load_detector`.
        inputs: image of each pair, from `open_inputs`.
        boxed: pairs and their boxes, from `find_boxes` with the same `classes`.
        label: of the dataset; fused images are kept in `cache` under it and computed only if they are missing.

    Raises:
        ValueError, OSError: an image cannot be read or computed, or the detector lacks a class.
    """

    def samples() -> Iterator[tuple[str, Image.Image, np.ndarray, np.ndarray]]:
        images = read_inputs(inputs, [one.pair for one in boxed], label, cache)
        title = f"detecting {inputs.name}: {label}"
        for one, image in tqdm(zip(boxed, images, strict=True), desc=title, total=len(boxed), unit="image"):
            yield one.name, image, one.boxes, one.class_ids

    return evaluate_detector(detector, samples(), classes)


def describe_detector(name_or_path: str | os.PathLike[str]) -> str:
    """Identify a detector in result files: name and hash of an ONNX file, name of a folder, or the Hub id."""
    path = Path(name_or_path)
    if path.is_file():
        return f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return path.resolve().name if path.is_dir() else str(name_or_path)


def provenance(inputs: Inputs, detector: str, label: str) -> dict[str, Any]:
    """Further arguments for `DetectionResult.save`; `detector` is from `describe_detector`."""
    return {
        "input": inputs.name,
        "fingerprint": inputs.fingerprint,
        "details": dict(inputs.details),
        "sources": [label],
        "annotations": "union",
        "detector": detector,
    }


def zero_shot_files(
    detector: str,
    data: str,
    split: str | None,
    inputs: Sequence[str],
    classes: Sequence[str],
    cache: Path,
    folder: Path,
) -> list[Path]:
    """`zero_shot` for each of `inputs` on a set, given by names; writes one JSON file for each to `folder`."""
    opened = [open_inputs(name) for name in dict.fromkeys(inputs)]  # first, so that a wrong name fails at once
    loaded = load_detector(detector)
    boxed = find_boxes(list(PairedDataset.open(data, split=split)), classes)
    label = Source(data, split).label  # as in training, which finds the same pictures in the cache
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for one in opened:
        files.append(folder / f"{file_name(one.name)}.json")
        result = zero_shot(loaded, one, boxed, classes, label, cache)
        result.save(files[-1], **provenance(one, describe_detector(detector), label))
    return files
