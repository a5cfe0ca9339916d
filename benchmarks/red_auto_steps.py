"""Benefit and cost of `num_inference_steps="auto"`: steps and quality by tolerance, on one set.

    python benchmarks/red_auto_steps.py --model runs/ablations/T___4/pipeline --data ../shared/data/msrs --split val

Needs a model with at least 3 steps: two estimates are needed before a further step can be judged. Prints one row
for each fixed number of steps and one for each tolerance.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fusion_hub import PairedDataset, REDPipeline
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.evaluation.methods import source_luminance
from fusion_hub.evaluation.report import markdown_table
from fusion_hub.image.luminance import quantize
from fusion_hub.metrics import evaluate_pair
from fusion_hub.models.red import REDModel, REDOutput

SHOWN = ("SCD", "VIF", "Qabf", "SSIM_cddfuse")
TOLERANCES = (0.5, 1.0, 2.0, 4.0, 8.0)  # gray levels

Fuse = Callable[[Tensor, Tensor], REDOutput]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.new_parser(__doc__)
    parser.add_argument("--model", required=True, help="bundled name, pipeline folder or Hub id of a RED pipeline")
    parser.add_argument("--data", required=True, help="set to measure on; not one that is trained on")
    parser.add_argument("--split", help="of that set")
    parser.add_argument("--limit", type=int, help="only its first pairs")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES, metavar="LEVELS")
    parser.add_argument("--json", type=Path, help="write the rows there")
    return common.parse_checked(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    keep_freed_memory()
    pipeline: Any = REDPipeline.from_pretrained(arguments.model)
    ways = ways_to_run(pipeline.model, arguments.tolerances)
    pairs = PairedDataset.open(arguments.data, split=arguments.split)[: arguments.limit]
    sums = {name: np.zeros(1 + len(SHOWN)) for name in ways}
    for pair in tqdm(pairs, total=len(pairs), desc="measuring"):
        sources = source_luminance(pair)
        for name, fuse in ways.items():
            sums[name] += measure(fuse, pipeline.model.multiple, sources)
    columns = ("steps", *SHOWN)
    rows = [
        {"run": name, **dict(zip(columns, (total / len(pairs)).tolist(), strict=True))} for name, total in sums.items()
    ]
    if arguments.json:
        common.write_json(arguments.json, {"model": arguments.model, "pairs": len(pairs), "rows": rows})
    lines = [(row["run"], f"{row['steps']:.2f}", *(f"{row[name]:.3f}" for name in SHOWN)) for row in rows]
    print(markdown_table((f"{len(pairs)} pairs", "mean steps", *SHOWN), lines))


def ways_to_run(model: REDModel, tolerances: Sequence[float]) -> dict[str, Fuse]:
    """All fixed numbers of steps, and `"auto"` at each tolerance (in gray levels).

    Raises:
        SystemExit: the model has too few steps.
    """
    last = model.config["num_steps"]
    if last < 3:
        raise SystemExit(f"the model was trained with {last} steps: 'auto' can only save some of 3 or more")

    def run(steps: int | str, tolerance: float = 0.0) -> Fuse:
        return lambda visible, infrared: model(visible, infrared, steps, tolerance, return_intermediates=True)

    fixed = {f"{steps} steps": run(steps) for steps in range(1, last + 1)}
    return fixed | {f"auto, {level:g} levels": run("auto", level / 255) for level in tolerances}


@torch.no_grad()
def measure(fuse: Fuse, multiple: int, sources: tuple[Any, Any]) -> list[float]:
    """Steps taken and the metrics of one pair, which is cropped to a multiple of `multiple` and fused whole."""
    height, width = (side - side % multiple for side in sources[0].shape)
    visible, infrared = (plane[:height, :width] for plane in sources)
    output = fuse(*(torch.from_numpy(plane / 255.0).float()[None, None] for plane in (visible, infrared)))
    fused = quantize(output.fused[0, 0].numpy())
    values = evaluate_pair(fused, visible, infrared, SHOWN)
    return [float(output.steps), *(values[name] for name in SHOWN)]


if __name__ == "__main__":
    main()
