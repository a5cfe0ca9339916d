"""Score a detector, usually one trained elsewhere, on visible, infrared and fused images, by day and by night.

    python benchmarks/zero_shot.py --detector ../shared/models/yolox_nano.onnx --data ../shared/data/msrs --split test \
        --inputs visible infrared average maximum difffusenet-msrs --output runs/zero_shot

Writes OUTPUT/<input>.json for `fusion-hub downstream` and prints Markdown tables: each input with 95 % intervals over
images, its difference from the single images and from their average on the same images, and the scores against the
boxes of one annotator. The last letter of MSRS names separates day and night. Existing results in OUTPUT of the same
detector, images and boxes are reused.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

from fusion_hub import PairedDataset, pretrained
from fusion_hub.data.annotations import BoxedPair, find_boxes
from fusion_hub.downstream.detectors import ONNX_FILE, load_detector
from fusion_hub.downstream.inputs import SOURCES, file_name, open_inputs
from fusion_hub.downstream.scores import WORKING_SCORE, DetectionResult, bootstrap, bootstrap_difference
from fusion_hub.downstream.zero_shot import CLASSES, describe_detector, provenance, zero_shot
from fusion_hub.evaluation.report import markdown_table
from fusion_hub.evaluation.statistics import LEVEL
from fusion_hub.training.config import Source

PARTS: Mapping[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "day": lambda name: name.endswith("D"),
    "night": lambda name: name.endswith("N"),
}
Results = Mapping[str, DetectionResult]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.new_parser(__doc__)
    parser.add_argument("--detector", required=True, help="a YOLO file in ONNX, or a transformers detector")
    parser.add_argument("--data", required=True, help="a paired set with boxes/")
    parser.add_argument("--split")
    parser.add_argument(
        "--inputs", nargs="+", default=["visible", "infrared", "average"], help="sources, rules, models, folders"
    )
    parser.add_argument("--classes", nargs="+", default=list(CLASSES))
    parser.add_argument("--annotators", nargs="*", default=["vis", "ir", "fused"], help="files in boxes/, by stem")
    parser.add_argument("--cache", type=Path, default=Path("runs/inputs"), help="folder for fused images")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--metrics-json", type=Path, help="file for the scores of --inputs, beside a bundled detector")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    detector = load_detector(arguments.detector)
    pairs = list(PairedDataset.open(arguments.data, arguments.split))
    boxed = find_boxes(pairs, arguments.classes)
    label = Source(arguments.data, arguments.split).label
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in dict.fromkeys([*SOURCES, *arguments.inputs]):
        inputs = open_inputs(name)
        file = arguments.output / f"{file_name(inputs.name)}.json"
        about = provenance(inputs, describe_detector(arguments.detector), label)
        result = None if inputs.kind == "folder" else stored(file, about, boxed)  # a folder may have changed
        if result is None:
            result = zero_shot(detector, inputs, boxed, arguments.classes, label, arguments.cache)
            result.save(file, **about)
        results[inputs.name] = result
    parts = {part: {n: r.take(wanted) for n, r in results.items()} for part, wanted in PARTS.items()}
    print(by_class(results), day_and_night(parts), differences(parts), sep="\n\n", end="\n\n")
    alone = {name: find_boxes(pairs, arguments.classes, [name]) for name in arguments.annotators}
    print(by_annotator(results, {"union": boxed, **alone}))
    if arguments.metrics_json:
        rows = {name: describe(results[name]) for name in dict.fromkeys(arguments.inputs)}
        weights = (pretrained.resolve_detector(arguments.detector) or Path(arguments.detector)) / ONNX_FILE
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
        content = {"dataset": "/".join(Path(label).parts[-2:]), "pictures": len(pairs), "sha256": sha256}
        versions = {"onnxruntime": importlib.metadata.version("onnxruntime")}
        common.write_json(arguments.metrics_json, {**content, "inputs": rows, "versions": versions})


def describe(result: DetectionResult) -> dict[str, Any]:
    """Scores, the interval of mAP50, and the number of wrong boxes per image with a score of at least 0.3."""
    interval = bootstrap(result)
    wrong = sum(int(((one.scores >= WORKING_SCORE) & ~one.hits[0]).sum()) for one in result.matches)
    return {
        "numbers": result.numbers(),
        "interval": {"level": LEVEL, "over": "pictures", "low": interval.low, "high": interval.high},
        "false_boxes": wrong / len(result.pictures),
    }


def stored(file: Path, about: Mapping[str, Any], boxed: Sequence[BoxedPair]) -> DetectionResult | None:
    """The result of an earlier call with the same arguments, if there is one."""
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    result = DetectionResult.load(file)
    asked = {pair.name: (pair.boxes, pair.class_ids) for pair in boxed}
    same = {key: values.get(key) for key in about} == about and list(result.pictures) == list(asked)
    boxes = zip(result.truth, asked.values(), strict=True) if same else ()
    return result if same and all(np.array_equal(a, b) for one in boxes for a, b in zip(*one, strict=True)) else None


def by_class(results: Results) -> str:
    """AP50, recall, and recall at a score of 0.3, for each class."""
    classes = next(iter(results.values())).classes
    columns = ["mAP50", *(f"{kind}/{name}" for name in classes for kind in ("AP50", "recall", "recall@0.3"))]
    rows = [[name, *(bootstrap(result, c).percent for c in columns)] for name, result in results.items()]
    return markdown_table(["input", *(column.replace("/", " ") for column in columns)], rows)


def day_and_night(parts: Mapping[str, Results]) -> str:
    """AP50 and recall of each class by day and by night."""
    classes = next(iter(parts["all"].values())).classes
    columns = [(part, f"{kind}/{name}") for part in ("day", "night") for name in classes for kind in ("AP50", "recall")]
    rows = [[name, *(_number(parts[part][name], column) for part, column in columns)] for name in parts["all"]]
    return markdown_table(["input", *(f"{part} {column.replace('/', ' ')}" for part, column in columns)], rows)


def differences(parts: Mapping[str, Results]) -> str:
    """Differences of each input from both sources and the average, in points of AP50 and recall, paired over images."""
    columns = ("mAP50", "AP50/person", "AP50/car", "recall")
    names = list(parts["all"])
    rows = [
        [name, other, part, *(bootstrap_difference(found[other], found[name], c).percent for c in columns)]
        for number, name in enumerate(names)
        for other in (*SOURCES, "average")
        if other in names[:number]
        for part, found in parts.items()
        if found[name].pictures
    ]
    return markdown_table(["input", "minus", "pictures", *(column.replace("/", " ") for column in columns)], rows)


def by_annotator(results: Results, truths: Mapping[str, Sequence[BoxedPair]]) -> str:
    """mAP50 against each ground truth, and its difference from the visible image."""
    judged = {
        truth: {
            name: dataclasses.replace(result, truth=tuple((pair.boxes, pair.class_ids) for pair in boxed))
            for name, result in results.items()
        }
        for truth, boxed in truths.items()
    }
    rows = []
    for name in results:
        cells = []
        for found in judged.values():
            more = "" if name == "visible" else bootstrap_difference(found["visible"], found[name]).percent
            cells += [_number(found[name], "mAP50"), more]
        rows.append([name, *cells])
    heads = [f"{truth} ({sum(len(pair.boxes) for pair in boxed)} boxes)" for truth, boxed in truths.items()]
    columns = [f"{head}{more}" for head in heads for more in (": mAP50", ", minus visible")]
    return markdown_table(["input", *columns], rows)


def _number(result: DetectionResult, statistic: str) -> str:
    value = result.numbers().get(statistic)
    return "" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
