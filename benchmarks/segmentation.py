"""Score a SegFormer on visible, infrared and fused images of a dataset with labels.

    python benchmarks/segmentation.py --model segformer-b0-msrs --data ../shared/data/msrs --split val \
        --inputs visible infrared difffusenet-msrs

Prints mIoU with its interval over images, also by day and by night if the names of the images end in D and N as in
MSRS, and the IoU of each class. `--metrics-json` writes the file beside a bundled SegFormer, from which its card is
rendered; the first of `--inputs` is the one it was trained on.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from fusion_hub import PairedDataset, pretrained
from fusion_hub.data.annotations import find_labels
from fusion_hub.downstream import SegformerSegmenter
from fusion_hub.downstream.inputs import open_inputs, read_inputs
from fusion_hub.downstream.scores import LEVEL, SegmentationResult, bootstrap, evaluate_segmenter
from fusion_hub.evaluation import set_name
from fusion_hub.training.config import Source

PARTS: dict[str, Callable[[str], bool]] = {
    "day": lambda name: name.endswith("D"),
    "night": lambda name: name.endswith("N"),
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.new_parser(__doc__)
    parser.add_argument("--model", default="segformer-b0-msrs", help="bundled name, folder or Hub id of a SegFormer")
    parser.add_argument("--data", required=True, help="paired set with labels: a folder with vis/, ir/ and label/")
    parser.add_argument("--split", help="train, val ..., if there are several")
    parser.add_argument("--inputs", nargs="+", default=["visible", "infrared", "difffusenet-msrs"], metavar="INPUT")
    parser.add_argument("--cache", type=Path, default=Path("runs/inputs"), help="folder for fused images")
    parser.add_argument("--metrics-json", type=Path, help="file for the scores in full precision")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    segmenter = SegformerSegmenter.from_pretrained(arguments.model)
    labeled = find_labels(list(PairedDataset.open(arguments.data, arguments.split)))
    pairs, classes = [item.pair for item in labeled], len(segmenter.names)
    name, label = set_name(arguments.data, arguments.split), Source(arguments.data, arguments.split).label
    rows = {}
    for wanted in arguments.inputs:
        inputs = open_inputs(wanted)
        pictures = read_inputs(inputs, pairs, label, arguments.cache)
        samples = ((item.name, np.asarray(p), item.label(classes)) for item, p in zip(labeled, pictures, strict=True))
        result = evaluate_segmenter(segmenter, samples)
        rows[inputs.name] = describe(result)
        show(inputs.name, rows[inputs.name])
    if arguments.metrics_json:
        write(arguments.metrics_json, arguments.model, name, len(pairs), rows)


def describe(result: SegmentationResult) -> dict[str, Any]:
    """Scores on all images, the interval of their mIoU, and the scores of each part that has images."""
    interval = bootstrap(result)
    halves = {part: result.take(wanted) for part, wanted in PARTS.items()}
    parts = {part: half for part, half in halves.items() if half.pictures}
    return {
        "numbers": result.numbers(),
        "interval": {"level": LEVEL, "over": "pictures", "low": interval.low, "high": interval.high},
        "parts": {part: {**one.numbers(), "pictures": len(one.pictures)} for part, one in parts.items()},
    }


def show(name: str, row: dict[str, Any]) -> None:
    numbers, interval = row["numbers"], row["interval"]
    parts = "".join(f", {part} {100 * one['mIoU']:.1f}" for part, one in row["parts"].items())
    print(
        f"{name}: mIoU {100 * numbers['mIoU']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]{parts}"
    )
    print("  " + ", ".join(f"{k[4:]} {100 * v:.1f}" for k, v in numbers.items() if k.startswith("IoU/")))


def write(path: Path, model: str, dataset: str, pictures: int, rows: dict[str, Any]) -> None:
    """Write `metrics.json` for a bundled SegFormer, with the hash of its weights."""
    folder = pretrained.resolve_segmenter(model) or Path(model)
    weights = folder / "model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
    content = {"dataset": dataset, "pictures": pictures, "sha256": sha256, "inputs": rows}
    common.write_json(path, {**content, "versions": {"torch": torch.__version__}})


if __name__ == "__main__":
    main()
