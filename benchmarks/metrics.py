"""Speed of the metrics, and measured examples of how they can be fooled.

    python benchmarks/metrics.py --json metrics.json                       # seconds, by image size and by metric
    python benchmarks/metrics.py --evaluator Evaluator.py    # beside CDDFuse's own program, metric by metric
    python benchmarks/metrics.py --examples --data ../shared/data/tno/test   # the table of docs/metrics.md

The speed is that of `evaluate_pair` on one 8-bit luminance pair: wall clock and seconds of the processor (of all
threads), median and minimum over the calls after a warm-up. The two differ where other programs share the cores.
Seconds per megapixel that stay equal from size to size mean a cost that is linear in the pixels.

`--evaluator` takes `utils/Evaluator.py` of a clone of CDDFuse's repository, which needs scikit-learn, scikit-image,
SciPy and OpenCV. Both programs run in turn on one pair of the second size: 8-bit arrays for ours, the same in double
precision for theirs, as its readers give them. Fastest call, seconds of the processor.
"""

import argparse
import importlib.util
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
EVALUATOR_NAMES = {"PSNR_max": "PSNR", "VIF": "VIFF", "SSIM_cddfuse": "SSIM"}
"""What CDDFuse's program calls a metric, where that is not our name."""
OF_FUSED_ALONE = ("EN", "SD", "SF", "AG")
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
    jobs += [(_second(sizes), name, (name,)) for name in METRICS if each]
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


def load_evaluator(file: Path) -> Any:
    """The class `Evaluator` of CDDFuse's program."""
    spec = importlib.util.spec_from_file_location("cddfuse_evaluator", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Newer scikit-image asks for the range that it took from the dtype when the program was written.
    module.ssim = partial(module.ssim, data_range=2)  # type: ignore[attr-defined]
    return module.Evaluator


def compare_evaluators(evaluator: Any, size: tuple[int, int], repeats: int) -> list[dict[str, Any]]:
    """A row for each of the twelve, and for all in one call of ours: seconds of both, and how far the values differ."""
    images = {name: image[0, 0].numpy() for name, image in random_images(*size).items()}
    fused, *sources = (image.astype(np.float64) for image in images.values())

    def theirs(names: Sequence[str]) -> list[float]:
        return [
            float(
                getattr(evaluator, EVALUATOR_NAMES.get(name, name))(fused, *(() if name in OF_FUSED_ALONE else sources))
            )
            for name in names
        ]

    def ours(names: Sequence[str]) -> list[float]:
        return list(evaluate_pair(**images, names=names).values())

    groups = {"all twelve": CDDFUSE_EVALUATOR} | {name: (name,) for name in CDDFUSE_EVALUATOR}
    calls: list[Callable[[], Any]] = [
        partial(program, names) for names in groups.values() for program in (ours, theirs)
    ]
    seconds = [min(processors) for _, processors in common.time_in_turn(calls, repeats, warm_up=1)]
    return [
        {
            "metric": group,
            "ours": seconds[2 * index],
            "theirs": seconds[2 * index + 1],
            "difference": max(abs(a / b - 1) for a, b in zip(ours(names), theirs(names), strict=True)),
        }
        for index, (group, names) in enumerate(groups.items())
    ]


def evaluator_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `compare_evaluators` as Markdown."""
    lines = []
    for row in rows:
        milliseconds = (f"{1e3 * row[key]:.2f}" for key in ("ours", "theirs"))
        lines.append((row["metric"], *milliseconds, f"{row['ours'] / row['theirs']:.3f}", f"{row['difference']:.0e}"))
    return markdown_table(("metric", "ms", "ms of CDDFuse's", "ratio", "relative difference of values"), lines)


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
    parser.add_argument("--evaluator", type=Path, help="CDDFuse's utils/Evaluator.py, timed beside ours")
    parser.add_argument("--examples", action="store_true", help="scores of images that are no fusion, instead of speed")
    parser.add_argument("--data", type=Path, help="pairs for --examples, a folder as for `fusion-hub evaluate`")
    parser.add_argument("--metrics", nargs="+", default=EXAMPLE_METRICS, metavar="NAME", help="columns of --examples")
    parser.add_argument("--json", type=Path, help="write the numbers and where they are from")
    arguments = common.parse_checked(parser, argv, ("threads", "repeats"))
    if arguments.examples != (arguments.data is not None):
        parser.error("--examples needs --data DIR, and --data is for --examples only")
    if arguments.evaluator is not None and not arguments.evaluator.is_file():
        parser.error(
            f"--evaluator {arguments.evaluator} is not a file: give utils/Evaluator.py of CDDFuse's repository"
        )
    return arguments


def _second(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The second size, or the only one."""
    return sizes[min(1, len(sizes) - 1)]


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
    elif arguments.evaluator is not None:
        try:
            evaluator = load_evaluator(arguments.evaluator)
        except ImportError as error:
            print(f"{arguments.evaluator} cannot be loaded: {error}", file=sys.stderr)
            return 1
        rows = compare_evaluators(evaluator, _second(arguments.sizes), arguments.repeats)
        text = evaluator_table(rows)
        content = {"rows": rows}
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
