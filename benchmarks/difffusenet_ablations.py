"""Ablations of DiffFuseNet: short trainings that differ in one field, measured on clean and on degraded pairs.

    python benchmarks/difffusenet_ablations.py --data ../shared/data --sets msrs/val roadscene/train tno/train \
        --limit 24 --seeds 0 1 --jobs 2 --output runs/difffusenet_ablations

Trains each variant with each seed from `train/configs/difffusenet_ablation.yaml`, with the same data, order of samples
and number of optimizer steps, measures every run and prints the tables. Run the same command again to resume: what has
been trained or measured is kept.

Pairs are measured as 8-bit luminance, in three forms: clean; noisy, with Gaussian noise of sigma 10 of 255 on the
infrared image; and degraded, by `fusion_hub.data.degrade`, as in training. The metrics compare with the clean sources
(low light with the dimmed visible image: fusion does not invent an exposure). PSNR and Qabf "to clean" compare with
what the same network makes of the clean pair. Noise raises EN, SD and SF, so on such pairs there is a second mean rank,
of fidelity, without these three and with the two "to clean". Two more rows have the full model with D2FE switched off
at inference, and with OpenCV's non-local means of both images in its place; they take no part in the ranks.
"""

import argparse
import json
import warnings
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import common
import cv2
import diffusers
import numpy as np
import torch
import trainings
from ablation_study import CHANGE, COLUMNS, FULL, METRICS, Study, finite, report
from networks import count_flops
from tqdm import tqdm

import fusion_hub
from fusion_hub import FusionPipeline, PairedDataset
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.data import Pair, degrade, source_file
from fusion_hub.data.degradations import gaussian_noise
from fusion_hub.evaluation import EvaluationSet
from fusion_hub.evaluation.contributions import non_local_means
from fusion_hub.evaluation.methods import describe_checkpoint, source_luminance
from fusion_hub.image.luminance import quantize
from fusion_hub.image.processor import InputWarning
from fusion_hub.metrics import evaluate_pair
from fusion_hub.training import (
    ConfigError,
    DiffFuseNetConfig,
    DiffFuseNetTask,
    TrainingConfig,
    find_config,
    missing_data_explained,
    parse_config,
)

EQUAL_FLOPS = "without D2FE, equal FLOPs"
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "without D2FE": {"use_d2fe": False},
    "without EDFD": {"use_edfd": False},
    "no frequency bands": {"frequency": "none"},
    "Haar without coupling": {"frequency": "haar"},
    "bands added": {"cross_frequency": "add"},
    "one stage": {"two_stage": False},
    # Even widths are too coarse: 38 has 4 % less and 40 has 6 % more, so a third coupling step makes up the difference.
    EQUAL_FLOPS: {"use_d2fe": False, "feature_channels": 36, "num_coupling": 3},
}
"""Fields of `DiffFuseNetConfig` by the name of the row: the article's Table 1, and a wider network without D2FE."""

OFF, NLM = "full model, D2FE off", "full model, NLM instead of D2FE"
FLOPS_TOLERANCE = 0.02
SIGMA = 10  # of 255

Levels = np.ndarray  # (H, W) uint8
Planes = tuple[Levels, Levels]  # visible, infrared


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.new_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", required=True, help="folders below it with vis/ and ir/, such as msrs/val")
    parser.add_argument("--limit", type=int, help="pairs of each set, evenly spaced; default: all")
    parser.add_argument("--config", type=Path, default=find_config("difffusenet_ablation"))
    parser.add_argument("--max-steps", type=int, help="in place of the configuration's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="trainings or pairs at a time, one thread each")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and ablations.json")
    return common.parse_checked(parser, argv, ("limit", "jobs"))


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    keep_freed_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    diffusers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", InputWarning)  # what is wrong with degraded inputs is intended
    variants = dict.fromkeys([FULL, *arguments.variants])  # all are compared with the full model
    steps = {} if arguments.max_steps is None else {"max_steps": arguments.max_steps}
    config = configure(arguments.config, steps)[0]
    sets = [open_set(arguments.data, name, arguments.limit) for name in arguments.sets]
    known = count_known(sets, config)
    costs = {name: cost(arguments.config, VARIANTS[name]) for name in variants}
    check_equal_flops(costs)

    folders = {
        (name, seed): trainings.run_folder(arguments.output, f"{name}, seed {seed}")
        for name in variants
        for seed in arguments.seeds
    }
    runs = {folder: {**VARIANTS[name], **steps, "seed": seed} for (name, seed), folder in folders.items()}
    seconds = trainings.train("difffusenet", DiffFuseNetConfig, arguments.config, runs, arguments.jobs)
    for name in variants:
        costs[name]["training_seconds"] = float(np.mean([seconds[folders[name, seed]] for seed in arguments.seeds]))
    total = len(folders) * sum(len(one.pairs) for one in sets)
    with tqdm(desc="measuring", total=total, unit="pair") as bar:
        measured = {
            run: measure_run(folder, [FULL, OFF, NLM] if run[0] == FULL else [run[0]], sets, arguments.jobs, bar)
            for run, folder in folders.items()
        }
    rows = [*variants, OFF, NLM]
    values = {
        (row, form): {
            column: np.array([one[row][form][column] for one in measured.values() if row in one], dtype=float)
            for column in columns
        }
        for row in rows
        for form, columns in COLUMNS.items()
    }
    study = Study(values, list(variants), [one.name for one in sets for _ in one.pairs])

    provenance = common.versions(
        1,
        cpu=common.cpu_model(),
        steps=config.max_steps,
        seeds=arguments.seeds,
        pairs={one.name: len(one.pairs) for one in sets},
        pairs_trained_on=known,
        digests={one.name: one.digest for one in sets},
    )
    content = {
        "provenance": provenance,
        "variants": {name: {"fields": VARIANTS[name], **costs[name]} for name in variants},
        "pairs": {one.name: one.names for one in sets},
        "runs": [{"variant": name, "seed": seed, "values": measured[name, seed]} for name, seed in folders],
        **study.as_json(),
    }
    common.write_json(arguments.output / "ablations.json", content)
    print(report(study, costs, provenance))


# --- what is trained -------------------------------------------------------------------------------------------------


def configure(config: Path, changes: Mapping[str, Any]) -> tuple[TrainingConfig, DiffFuseNetConfig]:
    flags = [str(word) for key, value in changes.items() for word in (f"--{key}", value)]
    try:
        training, own = parse_config((TrainingConfig, DiffFuseNetConfig), flags, config)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    return training, own


def cost(config: Path, changes: Mapping[str, Any]) -> dict[str, float]:
    """Parameters, and floating-point operations for a pair of 640x480 pixels."""
    model = DiffFuseNetTask(*configure(config, changes)).build_model()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "flops": count_flops(model, *torch.zeros(2, 1, 1, 480, 640))}


def check_equal_flops(costs: Mapping[str, Mapping[str, float]]) -> None:
    """Raise SystemExit where the wider network is not as expensive as the full one."""
    if EQUAL_FLOPS in costs:
        wide, full = (costs[name]["flops"] / 1e9 for name in (EQUAL_FLOPS, FULL))
        if abs(wide / full - 1) > FLOPS_TOLERANCE:
            raise SystemExit(
                f"error: {EQUAL_FLOPS!r} has {wide:.1f} GFLOPs and the full model {full:.1f}: change its width in "
                "VARIANTS, or leave it out with --variants"
            )


# --- what is measured ------------------------------------------------------------------------------------------------


def open_set(data: Path, name: str, limit: int | None) -> EvaluationSet:
    """A set, or `limit` pairs of it, evenly spaced."""
    try:
        pairs = PairedDataset.open(data / name)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    count = min(limit or len(pairs), len(pairs))
    chosen = [pairs[int(number)] for number in np.linspace(0, len(pairs) - 1, count).round()]
    return EvaluationSet.of(name, PairedDataset(chosen, pairs.description), complete=False)


def count_known(sets: Sequence[EvaluationSet], config: TrainingConfig) -> dict[str, int]:
    """How many pairs of each set the networks are trained on."""
    trained = set()
    try:
        for source in config.sources:
            with missing_data_explained(source):
                trained |= {_file(pair) for pair in source.resolve().open()}
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    return {one.name: sum(_file(pair) in trained for pair in one.pairs if _file(pair)) for one in sets}


def _file(pair: Pair) -> Path | None:
    file = source_file(pair.visible_source)
    return None if file is None else file.resolve()


def measure_run(
    folder: Path, rows: Sequence[str], sets: Sequence[EvaluationSet], jobs: int, bar: tqdm
) -> dict[str, Any]:
    """Values of a run by row, form of the pairs and column, one for each pair, None where undefined.

    They are kept in the folder of the run, and read from there if network and pairs are the same.
    """
    pipeline: Any = FusionPipeline.from_pretrained(str(folder / "pipeline"))
    pipeline.set_progress_bar_config(disable=True)
    key = {
        "network": describe_checkpoint(pipeline)["state_sha256"],
        "sets": {one.name: one.digest for one in sets},
        "columns": {form: list(columns) for form, columns in COLUMNS.items()},
        "version": fusion_hub.__version__,
    }
    file = folder / "measured.json"
    pairs = [(one.name, pair) for one in sets for pair in one.pairs]
    if file.exists() and (content := json.loads(file.read_text(encoding="utf-8")))["key"] == key:
        bar.update(len(pairs))
        return content["values"]
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        for record in pool.map(partial(measure_pair, pipeline, rows), pairs):
            found.append(record)
            bar.update()
    values = {
        row: {
            form: {column: [finite(one[row][form][column]) for one in found] for column in columns}
            for form, columns in COLUMNS.items()
        }
        for row in rows
    }
    common.write_json(file, {"key": key, "values": values})
    return values


def measure_pair(pipeline: Any, rows: Sequence[str], named: tuple[str, Pair]) -> dict[str, dict[str, dict[str, float]]]:
    """Values by row, form of the pair and column."""
    dataset, pair = named
    clean = source_luminance(pair)
    found: dict[str, dict[str, dict[str, float]]] = {row: {} for row in rows}
    of_clean = fuse(pipeline, *clean)
    for form, (inputs, target) in forms_of(*clean, f"{dataset}/{pair.name}").items():
        reference = of_clean if target[0] is clean[0] else fuse(pipeline, *target)
        for row in rows:
            if row in (OFF, NLM):
                planes = map(non_local_means, inputs) if row == NLM else inputs
                fused = fuse(pipeline, *planes, denoise=0)
            else:
                fused = of_clean if form == "clean" else fuse(pipeline, *inputs)
            values = evaluate_pair(fused, *target, METRICS)
            if form == "clean":
                values[CHANGE] = float(np.abs(fused.astype(float) - reference).mean())
            else:
                to_clean = evaluate_pair(fused, reference, reference, ("PSNR", "Qabf"))
                values |= {f"{name} to clean": value for name, value in to_clean.items()}
            found[row][form] = values
    return found


def forms_of(visible: Levels, infrared: Levels, name: str) -> dict[str, tuple[Planes, Planes]]:
    """By form, the pair that is fused and the clean pair that the result is compared with; random by `name` alone."""
    seed = zlib.crc32(name.encode())
    seen, warm = (np.divide(levels, 255, dtype=np.float32) for levels in (visible, infrared))
    noisy = gaussian_noise(warm, np.random.default_rng([seed, 1]), SIGMA / 255)
    poor = degrade(seen, warm, np.random.default_rng([seed, 2]))
    dimmed = quantize(poor.clean_visible) if poor.visible_kind == "low_light" else visible
    clean = (visible, infrared)
    return {
        "clean": (clean, clean),
        "noisy": ((visible, quantize(noisy)), clean),
        "degraded": ((quantize(poor.visible), quantize(poor.infrared)), (dimmed, infrared)),
    }


def fuse(pipeline: Any, visible: Levels, infrared: Levels, **options: Any) -> Levels:
    return np.asarray(pipeline(visible, infrared, infrared_range="dtype", **options).images[0])


if __name__ == "__main__":
    main()
