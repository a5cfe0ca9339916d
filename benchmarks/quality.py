"""Quality of bundled checkpoints: `fusion-hub evaluate` on several sets with every baseline, and the leaderboard of it.

    python benchmarks/quality.py --model difffusenet-msrs --data ../shared/data \
        --sets tno/test roadscene/test msrs/test --output results

Writes what `fusion-hub evaluate` writes, and `OUTPUT/board` with the rows that other methods have published; prints the
tables with mean ranks, of clamped and of stretched images. `--metrics-json` writes the file that stands beside a
checkpoint: means, and those of the baselines, from which cards and `fusion-hub models` take their numbers.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import diffusers
import torch
from tqdm import tqdm

from fusion_hub import FusionPipeline, PairedDataset, evaluation, leaderboard
from fusion_hub.evaluation import Evaluation, EvaluationSet, Method
from fusion_hub.evaluation.baselines import BASELINES
from fusion_hub.metrics import CDDFUSE_METRICS, METRICS

DEFAULT_METRICS = (*CDDFUSE_METRICS, "AG", "EI_quarter", "SSIM", "CC")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.new_parser(__doc__)
    parser.add_argument("--model", nargs="+", default=["difffusenet-msrs"], help="bundled names, folders or Hub ids")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", required=True, help="folders below it with vis/ and ir/, such as tno/test")
    parser.add_argument("--metrics", nargs="+", default=DEFAULT_METRICS, choices=METRICS, metavar="NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rescale", default="none", choices=("none", "minmax"), help="default: none")
    parser.add_argument("--limit", type=int, help="only the first pairs of each set")
    parser.add_argument("--output", type=Path, required=True, help="folder; run the same command again to resume")
    parser.add_argument("--save-images", action="store_true", help="keep the fused pictures in OUTPUT/images")
    parser.add_argument("--metrics-json", type=Path, help="the metrics.json of a checkpoint (one --model)")
    arguments = parser.parse_args(argv)
    if arguments.metrics_json and len(arguments.model) > 1:
        parser.error("--metrics-json takes the numbers of one model: give one --model")
    # Ranks need their metrics.
    arguments.metrics = list(dict.fromkeys([*arguments.metrics, *leaderboard.RANK_METRICS]))
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    diffusers.utils.logging.disable_progress_bar()
    models = [open_model(name, arguments) for name in arguments.model]
    methods = evaluation.with_baselines([*models, *map(evaluation.baseline_method, BASELINES)])
    datasets = [
        EvaluationSet.of(name, PairedDataset.open(arguments.data / name)[: arguments.limit]) for name in arguments.sets
    ]
    total = len(methods) * sum(len(dataset.pairs) for dataset in datasets)
    with tqdm(desc="evaluating", total=total) as bar:
        result = evaluation.evaluate(
            methods,
            datasets,
            arguments.metrics,
            arguments.output,
            save_images=arguments.save_images,
            progress=bar.update,
        )
    board = leaderboard.build([arguments.output], arguments.output / "board", metrics=arguments.metrics)
    print(board.markdown())
    if arguments.metrics_json:
        common.write_json(arguments.metrics_json, for_checkpoint(result, models[0].name))


def open_model(name: str, arguments: argparse.Namespace) -> Method:
    pipeline = FusionPipeline.from_pretrained(name, dtype=getattr(torch, arguments.dtype)).to(arguments.device)
    pipeline.set_progress_bar_config(disable=True)
    return evaluation.pipeline_method(Path(name).name, pipeline, {"rescale": arguments.rescale})


def for_checkpoint(result: Evaluation, model: str) -> dict[str, Any]:
    """What stands beside a checkpoint: for each set its own means, those of the baselines, and the provenance."""
    sets: dict[str, dict[str, Any]] = {}
    for row in result.rows:
        content = sets.setdefault(row.dataset, {"n": row.n, "metrics": {}, "baselines": {}})
        content.setdefault("stretched", {"metrics": {}, "baselines": {}})
        for part, intervals in ((content, row.metrics), (content["stretched"], row.minmax)):
            means = {
                name: None if math.isnan(found.mean) else round(found.mean, 6) for name, found in intervals.items()
            }
            if row.method == model:
                part["metrics"] = means
            elif row.kind == "baseline":
                part["baselines"][row.method] = means
    own = {model: result.provenance["methods"][model]}
    return {"sets": sets, "provenance": {**result.provenance, "methods": own}}


if __name__ == "__main__":
    main()
