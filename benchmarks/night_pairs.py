"""What the tab "See more" of the page shows on night pairs, as a table: what a detector finds in all three pictures.

    python benchmarks/night_pairs.py --detector ../shared/models/yolox_nano.onnx --data ../shared/data/msrs --split test

The first ten pairs whose names end in N (night, in MSRS), in the order of their names. "Only fused" are detections that
neither source has at the same place; in brackets how many of them a source has with a score below the threshold. "Lost"
are those of a source that the fused picture has not. Nothing here is compared with true boxes: for that, see
`benchmarks/zero_shot.py`.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusion_hub import PairedDataset
from fusion_hub.downstream import Comparison, compare, load_detector
from fusion_hub.downstream.inputs import SOURCES, open_inputs, read_inputs
from fusion_hub.training.config import Source

LOWEST = 0.1  # as on the page: fainter detections are not looked at
COLUMNS = ("visible", "infrared", "fused", "only fused", "lost")
Counts = Mapping[str, Mapping[str, int]]  # class -> column -> number


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", required=True, help="a YOLO file in ONNX, or a transformers detector")
    parser.add_argument("--data", required=True, help="set of pairs")
    parser.add_argument("--split", help="of that set")
    parser.add_argument("--ending", default="N", help="of the names that count; '' for all")
    parser.add_argument("--limit", type=int, default=10, help="pairs")
    parser.add_argument("--model", default="difffusenet-msrs", help="what fuses")
    parser.add_argument("--threshold", type=float, default=0.3, help="the least score that counts")
    parser.add_argument("--cache", type=Path, default=Path("runs/inputs"), help="where fused pictures are kept")
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
    """Markdown: a line for each pair, and one for all together."""
    lines = [f"| pair | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    lines += [_line(name, one.counts, len(one.below_threshold)) for name, one in rows]
    together = total([one.counts for _, one in rows])
    return "\n".join([*lines, _line("all", together, sum(len(one.below_threshold) for _, one in rows))])


def total(counts: Sequence[Counts]) -> Counts:
    """The sum over pairs."""
    classes = sorted({name for one in counts for name in one})
    zeros = dict.fromkeys(COLUMNS, 0)
    rows = {name: [one.get(name, zeros) for one in counts] for name in classes}
    return {name: {column: sum(row[column] for row in rows[name]) for column in COLUMNS} for name in classes}


def _line(name: str, counts: Counts, faint: int) -> str:
    cells = []
    for column in COLUMNS:
        found = Counter({kind: numbers[column] for kind, numbers in counts.items() if numbers[column]})
        text = ", ".join(f"{kind} {count}" for kind, count in sorted(found.items())) or "-"
        cells.append(f"{text} ({faint})" if column == "only fused" and found else text)
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
