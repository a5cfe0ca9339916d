"""Speed of the metrics, and measured examples of how they can be fooled.

    python benchmarks/metrics.py --json metrics.json                       # seconds, by image size and by metric
    python benchmarks/metrics.py --examples --data ../shared/data/tno/test   # the table of docs/metrics.md

The speed is that of `evaluate_pair` on one 8-bit luminance pair: wall clock and seconds of the processor (of all
threads), median and minimum over the calls after a warm-up. The two differ where other programs share the cores.
Seconds per megapixel that stay equal from size to size mean a cost that is linear in the pixels.
"""

import argparse
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fusion_hub import PairedDataset
from fusion_hub.data import Pair
from fusion_hub.evaluation.methods import baseline_method, source_luminance, stretch
from fusion_hub.evaluation.report import markdown_table
from fusion_hub.metrics import CDDFUSE_EVALUATOR, METRICS, evaluate_pair, find_metric

SIZES = ((240, 320), (480, 640), (720, 960), (960, 1280))
GROUPS: dict[str, tuple[str, ...]] = {
    "all twelve of CDDFuse": CDDFUSE_EVALUATOR,
    "VIF": ("VIF",),
    "every metric but FMI": tuple(name for name in METRICS if not name.startswith("FMI")),
}
EXAMPLE_METRICS = (
    *("EN", "SD", "SF", "AG", "EI_quarter", "MI", "SCD", "CC", "MSE", "VIF", "VIF_visible", "VIF_infrared"),
    *("VIFF", "Qabf", "Qabf01", "Nabf", "SSIM_cddfuse", "SSIM", "Qcb"),
)
COLUMNS = 10  # metrics side by side in one table of examples


def random_images(height: int, width: int) -> dict[str, Tensor]:
    """Smooth random sources with noise and their mean, `(1, 1, H, W)` uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, height // 16 + 2, width // 16 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic") * 255
    visible, infrared = (smooth + 8 * torch.randn(smooth.shape, generator=generator)).round().clamp(0, 255).split(1)
    fused = ((visible + infrared) / 2).floor()
    return {"fused": fused.byte(), "visible": visible.byte(), "infrared": infrared.byte()}


def measure_all(sizes: Sequence[tuple[int, int]], repeats: int, each: bool) -> Iterator[dict[str, Any]]:
    """A row for every group of metrics on every size; if `each`, also for every metric on the second size.

    `processor` is the minimum of all threads together; `per_megapixel` is of the fastest call.
    """
    jobs = [(size, group, names) for size in sizes for group, names in GROUPS.items()]
    jobs += [(sizes[min(1, len(sizes) - 1)], name, (name,)) for name in METRICS if each]
    for (height, width), group, names in jobs:
        call = partial(evaluate_pair, **random_images(height, width), names=names)
        ((walls, processors),) = common.time_in_turn([call], repeats, warm_up=1)
        timing = {"median": statistics.median(walls), "minimum": min(walls), "processor": min(processors)}
        per_megapixel = timing["minimum"] * 1e6 / (height * width)
        yield {"group": group, "height": height, "width": width, "timing": timing, "per_megapixel": per_megapixel}


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = []
    for row in rows:
        seconds = (f"{value:.4f}" for value in row["timing"].values())
        lines.append((row["group"], f"{row['width']}x{row['height']}", *seconds, f"{row['per_megapixel']:.3f}"))
    return markdown_table(("metrics", "size", "s", "minimum s", "processor s", "s per megapixel"), lines)


def fooling_images(pair: Pair, visible: np.ndarray, infrared: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Images that are no fusion, or a degraded one, by name; every image is `(H, W)` uint8."""
    average = ((visible.astype(int) + infrared + 1) // 2).astype(np.uint8)  # halves up
    maximum, laplacian = (np.asarray(baseline_method(name).fuse(pair, "")) for name in ("maximum", "laplacian"))
    noise = 10 * np.random.default_rng(0).standard_normal(average.shape)
    yield "visible image copied", visible
    yield "infrared image copied", infrared
    yield "constant 128", np.full_like(visible, 128)
    yield "average, halves to even", np.rint((visible.astype(float) + infrared) / 2).astype(np.uint8)
    for name, image in (("average", average), ("maximum", maximum)):
        yield name, image
        yield f"{name}, min-max stretched", stretch(image)
        yield f"{name}, noise of sigma 10", np.clip(np.floor(image + noise + 0.5), 0, 255).astype(np.uint8)
        yield f"{name}, moved 1 pixel", np.pad(image, ((1, 0), (1, 0)), mode="edge")[:-1, :-1]
    yield "Laplacian pyramid", laplacian


def measure_examples(pairs: PairedDataset, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """`{rule: {metric: mean over the pairs}}`; pairs for which a metric is undefined are left out of its mean."""
    collected: dict[str, list[list[float]]] = {}
    for pair in tqdm(pairs, total=len(pairs), desc=pairs.description, leave=False):
        visible, infrared = source_luminance(pair)
        for rule, fused in fooling_images(pair, visible, infrared):
            values = evaluate_pair(fused, visible, infrared, names=metrics)
            collected.setdefault(rule, []).append(list(values.values()))
    return {
        rule: dict(zip(metrics, np.nanmean(values, axis=0).tolist(), strict=True)) for rule, values in collected.items()
    }


def example_table(examples: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> str:
    """Examples as Markdown; the best value of each column in bold."""
    up = {name: find_metric(name).direction == "up" for name in metrics}
    best = {name: (max if up[name] else min)(values[name] for values in examples.values()) for name in metrics}
    lines = [
        (rule, *(f"**{number(n, values[n])}**" if values[n] == best[n] else number(n, values[n]) for n in metrics))
        for rule, values in examples.items()
    ]
    return markdown_table(("fused image", *(f"{name} {'↑' if up[name] else '↓'}" for name in metrics)), lines)


def number(metric: str, value: float) -> str:
    """Three decimals where the metric is of the size of 1, fewer where it is larger."""
    largest = find_metric(metric).range[1]
    return f"{value:.3f}" if largest <= 2 else f"{value:.0f}" if largest > 255**2 - 1 else f"{value:.2f}"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line arguments."""
    parser = common.new_parser(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="timed calls")
    parser.add_argument("--sizes", nargs="+", type=_size, default=list(SIZES), metavar="WIDTHxHEIGHT")
    parser.add_argument("--each", action="store_true", help="also each metric by itself, on the second size")
    parser.add_argument("--examples", action="store_true", help="scores of images that are no fusion, instead of speed")
    parser.add_argument("--data", type=Path, help="pairs for --examples, a folder as for `fusion-hub evaluate`")
    parser.add_argument("--metrics", nargs="+", default=EXAMPLE_METRICS, metavar="NAME", help="columns of --examples")
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    arguments = common.parse_checked(parser, argv, ("threads", "repeats"))
    if arguments.examples != (arguments.data is not None):
        parser.error("--examples needs --data DIR, and --data is for --examples only")
    return arguments


def _size(text: str) -> tuple[int, int]:
    """`640x480` -> (480, 640)."""
    width, separator, height = text.partition("x")
    if not (separator and width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 161):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT with sides of at least 161, such as 640x480")
    return int(height), int(width)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    provenance = common.versions(arguments.threads, machine=platform.processor() or platform.machine())
    content: dict[str, Any]
    if arguments.examples:
        pairs = PairedDataset.open(arguments.data)
        examples = measure_examples(pairs, arguments.metrics)
        starts = range(0, len(arguments.metrics), COLUMNS)
        tables = [example_table(examples, arguments.metrics[first : first + COLUMNS]) for first in starts]
        text = "\n\n".join([f"Means over the {len(pairs)} pairs of {pairs.description}", *tables])
        content = {"examples": {"data": pairs.description, "pairs": len(pairs), "rows": examples}}
    else:
        count = len(arguments.sizes) * len(GROUPS) + len(METRICS) * arguments.each
        measured = measure_all(arguments.sizes, arguments.repeats, arguments.each)
        rows = list(tqdm(measured, total=count, leave=False))
        text = speed_table(rows)
        content = {"rows": rows}
    common.report(provenance, text, arguments.json, **content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
