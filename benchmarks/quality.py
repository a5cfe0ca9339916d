"""Quality of fused images: models beside rules without a network and beside other methods, one table for each set.

    python benchmarks/quality.py --model difffusenet-msrs --data ../shared/data \
        --sets tno/test roadscene/test msrs/test --json quality.json --markdown quality.md

Each pair is fused by the pipeline as `fusion-hub fuse` does it. Measured is the picture as it would be saved: 8-bit
BT.601 full-range luminance in integers, against that of both sources; for a colour visible image the luminance of the
fused colour picture. The numbers are means over the set. The rows of other methods are read from `peers.json`; they
were measured in the same conventions, but not all by the same hands: the column `source` says where they are from.
"""

import argparse
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

import fusion_hub
from fusion_hub import FusionPipeline, PairedDataset
from fusion_hub.baselines import BASELINES
from fusion_hub.data import Pair
from fusion_hub.image_processor import save_image
from fusion_hub.metrics import CDDFUSE_METRICS, METRICS, evaluate_pair

DEFAULT_METRICS = (*CDDFUSE_METRICS, "AG", "SSIM", "CC", "VIF_visible", "VIF_infrared")
RANK_METRICS = ("SCD", "VIF", "Qabf", "SSIM_cddfuse", "EN", "SF")
BANDS = ("visible", "infrared")
PEERS = Path(__file__).with_name("peers.json")
CONVENTION = "8-bit BT.601 full-range luminance of the fused picture, integers 0..255, mean over the set"

# From a pair to the fused picture.
Method = Callable[[Pair], Image.Image]


@dataclass(frozen=True)
class Row:
    """One line of a table: `values` are means over the set, by metric."""

    method: str
    source: str
    values: Mapping[str, float]


# --- measuring -------------------------------------------------------------------------------------------------------


def luminance(image: Image.Image) -> np.ndarray:
    """`(H, W)` uint8: BT.601 full range, `floor(0.299 R + 0.587 G + 0.114 B + 0.5)`; one-channel images as they are."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "L":
        return np.asarray(image)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise ValueError(f"an image has the mode {image.mode}: the metrics are defined on 8-bit grey or colour images")
    luma = np.asarray(image.convert("RGB"), dtype=np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.clip(np.floor(luma + 0.5), 0, 255).astype(np.uint8)


def by_rule(rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Method:
    """A fusion rule without a network, on the luminance of both sources."""

    def fuse(pair: Pair) -> Image.Image:
        visible, infrared = (torch.from_numpy(luminance(_picture(pair, band)) / 255)[None, None] for band in BANDS)
        fused = rule(visible, infrared)[0, 0].clamp(0, 1)
        # Ties up, also those that the division by 255 has moved: every second pixel of the average is one.
        return Image.fromarray((fused * 255 + 0.5 + 1e-9).floor().to(torch.uint8).numpy())

    return fuse


def by_pipeline(pipeline: FusionPipeline, rescale: Literal["none", "minmax"]) -> Method:
    """The pipeline with its defaults, as `fusion-hub fuse` runs it."""

    def fuse(pair: Pair) -> Image.Image:
        return pipeline(*(_picture(pair, band) for band in BANDS), rescale=rescale).images[0]

    return fuse


def _picture(pair: Pair, band: str) -> Image.Image:
    picture = getattr(pair, band)
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def measure(
    methods: Mapping[str, Method], pairs: PairedDataset, metrics: Sequence[str], images: Path | None = None
) -> dict[str, dict[str, float]]:
    """Mean of each metric for each method; pairs for which a metric is undefined (nan) are left out of its mean.

    Args:
        methods: by name.
        pairs: a set with known length.
        metrics: names in `METRICS`.
        images: folder that gets the fused pictures as `<method>/<name>.png`.
    """
    collected: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for pair in tqdm(pairs, total=len(pairs), desc=pairs.description, leave=False):
        visible, infrared = (luminance(_picture(pair, band)) for band in BANDS)
        for name, fuse in methods.items():
            fused = fuse(pair)
            if images is not None:
                save_image(fused, images / name / f"{pair.name}.png")
            collected[name].append(evaluate_pair(luminance(fused), visible, infrared, metrics))
    return {
        name: {metric: _mean([values[metric] for values in found]) for metric in metrics}
        for name, found in collected.items()
    }


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


# --- comparing -------------------------------------------------------------------------------------------------------


def mean_ranks(rows: Sequence[Row], metrics: Sequence[str] = RANK_METRICS) -> list[float | None]:
    """Mean over `metrics` of each row's rank among all rows, 1 is best; equal values share the mean of their ranks.

    None for a row that lacks one of the metrics; its other values still count for the ranks of the others.
    """
    ranks: list[list[float]] = [[] for _ in rows]
    for metric in metrics:
        sign = 1 if METRICS[metric].direction == "up" else -1
        values = [sign * row.values.get(metric, math.nan) for row in rows]
        for own, value in zip(ranks, values, strict=True):
            if not math.isnan(value):
                better, equal = sum(v > value for v in values), sum(v == value for v in values)
                own.append(1 + better + (equal - 1) / 2)
    return [sum(own) / len(metrics) if len(own) == len(metrics) else None for own in ranks]


def read_peers(path: Path) -> dict[str, list[Row]]:
    """Rows of other methods, by set."""
    sets = json.loads(path.read_text(encoding="utf-8"))["sets"]
    return {name: [Row(**row) for row in content["rows"]] for name, content in sets.items()}


def markdown_table(title: str, rows: Sequence[Row], metrics: Sequence[str], rank_metrics: Sequence[str]) -> str:
    """Sorted by mean rank; rows without one come last."""
    ranks = mean_ranks(rows, rank_metrics)
    lines = [
        f"### {title}",
        "",
        f"| method | {' | '.join(metrics)} | mean rank | source |",
        f"|---|{'---|' * len(metrics)}---|---|",
    ]
    for rank, row in sorted(zip(ranks, rows, strict=True), key=lambda pair: math.inf if pair[0] is None else pair[0]):
        cells = [_cell(metric, row.values.get(metric)) for metric in metrics]
        lines.append(f"| {row.method} | {' | '.join(cells)} | {'' if rank is None else f'{rank:.2f}'} | {row.source} |")
    return "\n".join(lines)


def _cell(metric: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.2f}" if METRICS[metric].range[1] > 2 else f"{value:.3f}"


# --- the command -----------------------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["difffusenet-msrs"], help="bundled names, folders or Hub ids")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", required=True, help="folders below it with vis/ and ir/, such as tno/test")
    parser.add_argument("--metrics", nargs="+", default=DEFAULT_METRICS, choices=METRICS, metavar="NAME")
    parser.add_argument("--rank-metrics", nargs="+", default=RANK_METRICS, choices=METRICS, metavar="NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rescale", default="none", choices=("none", "minmax"), help="default: none")
    parser.add_argument("--limit", type=int, help="only the first pairs of each set; peers are then left out")
    parser.add_argument("--peers", type=Path, default=PEERS, help="rows of other methods")
    parser.add_argument("--json", type=Path, help="file for all numbers and where they come from")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    parser.add_argument("--metrics-json", type=Path, help="the metrics.json of a checkpoint (one --model)")
    parser.add_argument("--output-images", type=Path, help="folder for the fused pictures")
    arguments = parser.parse_args(argv)
    if arguments.metrics_json and len(arguments.model) > 1:
        parser.error("--metrics-json takes the numbers of one model: give one --model")
    # Ranks need their metrics, asked for or not.
    arguments.metrics = list(dict.fromkeys([*arguments.metrics, *arguments.rank_metrics]))
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    dtype = getattr(torch, arguments.dtype)
    diffusers.utils.logging.disable_progress_bar()
    methods: dict[str, Method] = {name: by_rule(rule) for name, rule in BASELINES.items()}
    checkpoints: dict[str, Any] = {}
    for name, label in zip(arguments.model, _labels(arguments.model), strict=True):
        pipeline = FusionPipeline.from_pretrained(name, dtype=dtype).to(arguments.device)
        pipeline.set_progress_bar_config(disable=True)
        checkpoints[label] = describe_checkpoint(pipeline)
        methods[label] = by_pipeline(pipeline, arguments.rescale)

    peers = {} if arguments.limit else read_peers(arguments.peers)
    provenance = describe_run(arguments, checkpoints)
    tables, sets = [CONVENTION[0].upper() + CONVENTION[1:] + "."], {}
    for set_name in arguments.sets:
        pairs = PairedDataset.open(arguments.data / set_name)[: arguments.limit]
        folder = arguments.output_images and arguments.output_images / set_name
        means = measure(methods, pairs, arguments.metrics, folder)
        rows = [Row(label, "measured here", means[label]) for label in (*checkpoints, *BASELINES)]
        rows += peers.get(set_name, [])
        tables.append(
            markdown_table(f"{set_name}, {len(pairs)} pairs", rows, arguments.metrics, arguments.rank_metrics)
        )
        print(f"\n{tables[-1]}", flush=True)
        sets[set_name] = {"pairs": len(pairs), "rows": list(_with_ranks(rows, arguments.rank_metrics))}
        # Written after every set, so that a run that is stopped leaves what it has.
        write_results(arguments, provenance, sets, tables)


def write_results(
    arguments: argparse.Namespace, provenance: dict[str, Any], sets: Mapping[str, Any], tables: Sequence[str]
) -> None:
    if arguments.json:
        _write(arguments.json, json.dumps({"provenance": provenance, "sets": sets}, indent=2))
    if arguments.markdown:
        _write(arguments.markdown, "\n\n".join(tables))
    if arguments.metrics_json:
        own = _labels(arguments.model)[0]
        measured = {name: _for_checkpoint(own, content) for name, content in sets.items()}
        _write(arguments.metrics_json, json.dumps({"sets": measured, "provenance": provenance}, indent=2))


def _for_checkpoint(model: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a checkpoint about one set: its own means, and those of the baselines."""
    values = {row["method"]: row["values"] for row in content["rows"]}
    return {"n": content["pairs"], "metrics": values[model], "baselines": {name: values[name] for name in BASELINES}}


def _with_ranks(rows: Sequence[Row], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    for row, rank in zip(rows, mean_ranks(rows, metrics), strict=True):
        values = {name: None if math.isnan(value) else round(value, 6) for name, value in row.values.items()}
        yield {"method": row.method, "source": row.source, "mean_rank": rank, "values": values}


def describe_run(arguments: argparse.Namespace, checkpoints: Mapping[str, Any]) -> dict[str, Any]:
    """What one has to know to get the same numbers again."""
    return {
        "convention": CONVENTION,
        "rescale": arguments.rescale,
        "rank_metrics": list(arguments.rank_metrics),
        "limit": arguments.limit,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "checkpoints": checkpoints,
        "versions": {
            "fusion_hub": fusion_hub.__version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def describe_checkpoint(pipeline: FusionPipeline) -> dict[str, Any]:
    """Class, size and hash of the weights, which is that of the file."""
    folder = Path(pipeline.config["_name_or_path"])
    files = sorted(folder.glob("model/*.safetensors"))
    return {
        "class": type(pipeline).__name__,
        "parameters": sum(parameter.numel() for parameter in pipeline.model.parameters()),
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }


def _labels(models: Sequence[str]) -> list[str]:
    """Short names for the tables, that of the folder for a path; told apart by a number where they are equal."""
    names = [Path(model).name for model in models]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, start=1)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(path)


if __name__ == "__main__":
    main()
