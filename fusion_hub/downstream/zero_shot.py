"""A detector that was trained elsewhere, on pictures that are new to it: visible, infrared or fused.

    detector = load_detector("yolox_nano.onnx")
    pairs = list(PairedDataset.open("data/msrs", "test"))
    boxed = find_boxes(pairs, CLASSES)
    result = zero_shot(detector, open_inputs("difffusenet-msrs"), boxed, CLASSES, "msrs/test", Path("runs/inputs"))
    print(result.numbers())

Nothing is trained, so nothing has adapted to fused pictures either: the detector prefers what looks like the daylight
photographs it was made for.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_hub.data.boxes import BoxedPair
from fusion_hub.downstream.detection import DetectionResult, evaluate_detector
from fusion_hub.downstream.inputs import Inputs, read_inputs

if TYPE_CHECKING:
    from PIL import Image

    from fusion_hub.downstream.protocols import Detector

CLASSES = ("person", "car", "bicycle")
"""What MSRS has boxes of; COCO knows all three."""


def zero_shot(
    detector: "Detector",
    inputs: Inputs,
    boxed: Sequence[BoxedPair],
    classes: Sequence[str],
    label: str,
    cache: Path,
    names: Mapping[str, str] | None = None,
) -> DetectionResult:
    """Detect in one picture of each pair, and compare with the boxes.

    Pictures are given in their own size; what a detector does with it (a letterbox of 416 x 416 in YOLOX-nano) is its.

    Args:
        detector: from `load_detector`.
        inputs: which picture of each pair, from `open_inputs`.
        boxed: pairs and their boxes, from `find_boxes` with the same `classes`.
        label: of the set; fused pictures are kept in `cache` under it, and are made only if they are not there.
        names: from the detector's names to `classes`, where they are others.

    Raises:
        ValueError, OSError: a picture cannot be read or made, or the detector lacks a class.
    """
    return evaluate_detector(detector, _samples(inputs, boxed, label, cache), classes, names=names)


def _samples(
    inputs: Inputs, boxed: Sequence[BoxedPair], label: str, cache: Path
) -> "Iterator[tuple[str, Image.Image, np.ndarray, np.ndarray]]":
    from tqdm import tqdm

    pictures = read_inputs(inputs, [pair.pair for pair in boxed], label, cache)
    together = zip(boxed, pictures, strict=True)
    for pair, picture in tqdm(together, desc=f"detecting {inputs.name}: {label}", total=len(boxed), unit="picture"):
        yield pair.name, picture, pair.boxes, pair.class_ids


def describe_detector(name_or_path: str | os.PathLike[str]) -> str:
    """What tells detectors apart in files: of an ONNX file its name and hash, else the Hub id or the folder's name."""
    path = Path(name_or_path)
    if path.is_file():
        return f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return path.resolve().name if path.is_dir() else str(name_or_path)


def provenance(inputs: Inputs, detector: str, label: str, annotations: Sequence[str] | None) -> dict[str, Any]:
    """What `DetectionResult.save` should write beside the numbers.

    Args:
        detector: from `describe_detector`.
        annotations: the files of boxes that were used; None: the union of all.
    """
    return {
        "input": inputs.name,
        "fingerprint": inputs.fingerprint,
        "details": dict(inputs.details),
        "sources": [label],
        "annotations": "union" if annotations is None else list(annotations),
        "detector": detector,
    }
