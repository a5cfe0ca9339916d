"""Ablations of RED: short runs that differ in one field of the configuration, measured on one set.

    python benchmarks/red_ablations.py --data ../shared/data/msrs --split val --output runs/ablations

Trains each variant with `train/red.py` from `train/configs/red_ablation.yaml` (minutes each on a CPU core), measures it
and prints the table of the paper's Table 2 at this small scale; a variant that has been trained is not trained again.
Every variant has the same data, seed and number of optimizer steps, so deeper chains get more computation: the seconds
are in the table. With one seed small differences are not significant.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers

from fusion_hub import FusionPipeline, PairedDataset, evaluation
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.cli.common import progress_bar
from fusion_hub.evaluation import EvaluationSet, Method

ROOT = Path(__file__).parents[1]
METRICS = ("EN", "SF", "SCD", "VIF", "Qabf", "SSIM_cddfuse")
VARIANTS: dict[str, dict[str, Any]] = {
    "RED, T = 2": {},
    "without reversible fusion": {"reversible_fusion": False},
    "without reversible blocks": {"reversible_blocks": False},
    "without both": {"reversible_fusion": False, "reversible_blocks": False},
    "T = 1": {"num_steps": 1},
    "T = 4": {"num_steps": 4},
    "T = 4, early estimates": {"num_steps": 4, "early_estimates": 0.3},
    "lambda fixed at 1": {"learnable_lambda": False},
    "convolution resampling": {"resample": "convolution"},
    "without source injection": {"source_injection": False},
    "without source injection, T = 1": {"source_injection": False, "num_steps": 1},
    "without source injection, T = 4": {"source_injection": False, "num_steps": 4},
}
"""Fields of `REDConfig` by the name of the row; the paper's model has no source injection."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="set to measure on; not one that is trained on")
    parser.add_argument("--split", help="of that set")
    parser.add_argument("--limit", type=int, help="only its first pairs")
    parser.add_argument("--config", type=Path, default=ROOT / "train" / "configs" / "red_ablation.yaml")
    parser.add_argument("--max-steps", type=int, help="in place of the configuration's")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and ablations.json")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    keep_freed_memory()
    diffusers.utils.logging.disable_progress_bar()
    seconds = {name: train(name, arguments) for name in arguments.variants}
    methods = [open_variant(name, arguments.output) for name in arguments.variants]
    pairs = PairedDataset.open(arguments.data, split=arguments.split)[: arguments.limit]
    dataset = EvaluationSet.of(Path(arguments.data).name, pairs)
    with progress_bar("measuring", (len(methods) + 2) * len(pairs), shown=True) as (bar, task):
        result = evaluation.evaluate(
            methods, [dataset], METRICS, arguments.output / "evaluation", progress=lambda: bar.advance(task)
        )
    rows = [describe(row, seconds.get(row.method), arguments.output) for row in result.rows]
    (arguments.output / "ablations.json").write_text(
        json.dumps({"rows": rows, "pairs": len(pairs), "provenance": dict(result.provenance)}, indent=2) + "\n"
    )
    print(table(rows, f"{dataset.name} {arguments.split or ''}, {len(pairs)} pairs"))


def folder(name: str, output: Path) -> Path:
    return output / "".join(letter if letter.isalnum() else "_" for letter in name)


def train(name: str, arguments: argparse.Namespace) -> float:
    """Train one variant, if it is not trained yet; returns the seconds that it took."""
    run = folder(name, arguments.output)
    stamp = run / "seconds.txt"
    if not stamp.exists():
        flags = dict(VARIANTS[name])
        if arguments.max_steps:
            flags["max_steps"] = arguments.max_steps
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        script = [sys.executable, str(ROOT / "train" / "red.py"), "--config", str(arguments.config)]
        started = time.perf_counter()
        subprocess.run([*script, "--output_dir", str(run), *words], check=True)
        stamp.write_text(f"{time.perf_counter() - started:.1f}\n")
    return float(stamp.read_text())


def open_variant(name: str, output: Path) -> Method:
    pipeline = FusionPipeline.from_pretrained(str(folder(name, output) / "pipeline"))
    pipeline.set_progress_bar_config(disable=True)
    return evaluation.pipeline_method(name, pipeline, {"rescale": "none"})


def describe(row: evaluation.Row, seconds: float | None, output: Path) -> dict[str, Any]:
    means: dict[str, Any] = {
        name: {"mean": row.metrics[name].mean, "low": row.metrics[name].low, "high": row.metrics[name].high}
        for name in METRICS
    }
    found: dict[str, Any] = {"method": row.method, "metrics": means, "training_seconds": seconds}
    if row.kind == "model":
        pipeline: Any = FusionPipeline.from_pretrained(str(folder(row.method, output) / "pipeline"))
        found["coefficients"] = pipeline.model.coefficients()
    return found


def table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    lines = [f"| {title} | {' | '.join(METRICS)} | training, s |", f"|---|{'---|' * len(METRICS)}---|"]
    for row in rows:
        cells = [evaluation.report.format_value(name, row["metrics"][name]["mean"]) for name in METRICS]
        took = "" if row["training_seconds"] is None else f"{row['training_seconds']:.0f}"
        lines.append(f"| {row['method']} | {' | '.join(cells)} | {took} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
