"""Ablations of RED: short runs that differ in one field of the configuration, measured on one set.

    python benchmarks/red_ablations.py --data ../shared/data/msrs --split val --output runs/ablations

Trains each variant with `train/configs/red_ablation.yaml` (minutes each on a CPU core), measures it and prints the
table of the paper's Table 2 at this small scale; a variant that has been trained is not trained again.
Every variant has the same data, seed and number of optimizer steps, so deeper chains get more computation: the seconds
are in the table. With one seed small differences are not significant.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import diffusers
import trainings
from tqdm import tqdm

from fusion_hub import FusionPipeline, PairedDataset, evaluation
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.evaluation import EvaluationSet
from fusion_hub.evaluation.report import markdown_table
from fusion_hub.evaluation.statistics import format_value
from fusion_hub.training import REDConfig, find_config

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
    parser = common.new_parser(__doc__)
    parser.add_argument("--data", required=True, help="set to measure on; not one that is trained on")
    parser.add_argument("--split", help="of that set")
    parser.add_argument("--limit", type=int, help="only its first pairs")
    parser.add_argument("--config", type=Path, default=find_config("red_ablation"))
    parser.add_argument("--max-steps", type=int, help="in place of the configuration's")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and ablations.json")
    return common.parse_checked(parser, argv, ("jobs",))


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    keep_freed_memory()
    diffusers.utils.logging.disable_progress_bar()
    steps = {"max_steps": arguments.max_steps} if arguments.max_steps else {}
    folders = {name: trainings.run_folder(arguments.output, name) for name in arguments.variants}
    runs = {folder: VARIANTS[name] | steps for name, folder in folders.items()}
    seconds = trainings.train("red", REDConfig, arguments.config, runs, arguments.jobs)
    pipelines: dict[str, Any] = {
        name: FusionPipeline.from_pretrained(str(folder / "pipeline")) for name, folder in folders.items()
    }
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
    methods = [evaluation.pipeline_method(name, each, {"rescale": "none"}) for name, each in pipelines.items()]
    pairs = PairedDataset.open(arguments.data, split=arguments.split)[: arguments.limit]
    dataset = EvaluationSet.of(Path(arguments.data).name, pairs)
    with tqdm(desc="measuring", total=(len(methods) + 2) * len(pairs)) as bar:
        result = evaluation.evaluate(methods, [dataset], METRICS, arguments.output / "evaluation", progress=bar.update)
    rows: list[dict[str, Any]] = []
    for row in result.rows:
        found = {name: row.metrics[name] for name in METRICS}
        means = {name: {"mean": one.mean, "low": one.low, "high": one.high} for name, one in found.items()}
        rows.append({"method": row.method, "metrics": means, "training_seconds": None})
        if row.kind == "model":
            rows[-1]["training_seconds"] = seconds[folders[row.method]]
            rows[-1]["coefficients"] = pipelines[row.method].model.coefficients()
    content = {"rows": rows, "pairs": len(pairs), "provenance": dict(result.provenance)}
    common.write_json(arguments.output / "ablations.json", content)
    print(table(rows, f"{dataset.name} {arguments.split or ''}, {len(pairs)} pairs"))


def table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    lines = []
    for row in rows:
        cells = [format_value(name, row["metrics"][name]["mean"]) for name in METRICS]
        took = "" if row["training_seconds"] is None else f"{row['training_seconds']:.0f}"
        lines.append((row["method"], *cells, took))
    return markdown_table((title, *METRICS, "training, s"), lines)


if __name__ == "__main__":
    main()
