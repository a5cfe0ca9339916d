"""Detections in night pairs that only the fused picture has, as on the page: a Markdown table.

    python benchmarks/night_pairs.py --detector ../shared/models/yolox_nano.onnx --data ../shared/data/msrs --split test

Uses the first ten pairs whose names end in N (night, in MSRS), in the order of their names. "Only fused" counts
detections that neither source has at the same position; the number in brackets counts those that a source has with a
score below the threshold. "Lost" counts detections of a source that the fused picture lacks. No annotations are used;
for those see `benchmarks/zero_shot.py`.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import common

from fusion_hub import PairedDataset
from fusion_hub.downstream import Comparison, compare, load_detector
from fusion_hub.downstream.inputs import SOURCES, open_inputs, read_inputs
from fusion_hub.evaluation.report import markdown_table
from fusion_hub.training.config import Source

LOWEST = 0.1  # as on the page: fainter detections are ignored
COLUMNS = ("visible", "infrared", "fused", "only fused", "lost")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.new_parser(__doc__)
    parser.add_argument("--detector", required=True, help="a YOLO file in ONNX, or a transformers detector")
    parser.add_argument("--data", required=True, help="set of pairs")
    parser.add_argument("--split", help="split of that set")
    parser.add_argument("--ending", default="N", help="ending of the names to use; '' for all")
    parser.add_argument("--limit", type=int, default=10, help="number of pairs")
    parser.add_argument("--model", default="difffusenet-msrs", help="model that fuses")
    parser.add_argument("--threshold", type=float, default=0.3, help="minimum score")
    parser.add_argument("--cache", type=Path, default=Path("runs/inputs"), help="folder for fused pictures")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    detector = load_detector(arguments.detector)
    pairs = [
        pair for pair in PairedDataset.open(arguments.data, arguments.split) if pair.name.endswith(arguments.ending)
    ]
    pairs = sorted(pairs, key=lambda pair: pair.name)[: arguments.limit]
    label = Source(arguments.data, arguments.split).label
    pictures = [read_inputs(open_inputs(name), pairs, label, arguments.cache) for name in (*SOURCES, arguments.model)]
    rows: list[tuple[str, Comparison]] = []
    for pair, *three in zip(pairs, *pictures, strict=True):
        visible, infrared, fused = (detector.detect(picture, threshold=LOWEST) for picture in three)
        rows.append((pair.name, compare(fused, visible, infrared, threshold=arguments.threshold)))
    print(table(rows))


def table(rows: Sequence[tuple[str, Comparison]]) -> str:
    """Markdown: one line for each pair, and one for their sum."""
    lines = []
    total: dict[str, Counter[str]] = {column: Counter() for column in COLUMNS}
    for name, one in rows:
        counts = {column: Counter({kind: n[column] for kind, n in one.counts.items()}) for column in COLUMNS}
        lines.append(_line(name, counts, len(one.below_threshold)))
        for column in COLUMNS:
            total[column] += counts[column]
    lines.append(_line("all", total, sum(len(one.below_threshold) for _, one in rows)))
    return markdown_table(("pair", *COLUMNS), lines)


def _line(name: str, counts: Mapping[str, Counter[str]], faint: int) -> list[str]:
    cells = [", ".join(f"{kind} {n}" for kind, n in sorted((+counts[column]).items())) or "-" for column in COLUMNS]
    only_fused = COLUMNS.index("only fused")
    if cells[only_fused] != "-":
        cells[only_fused] += f" ({faint})"
    return [name, *cells]


if __name__ == "__main__":
    main()
