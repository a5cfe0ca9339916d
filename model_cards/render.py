"""Write the card of a checkpoint from what lies beside its weights, so that card and files cannot disagree.

python model_cards/render.py difffusenet-msrs

Reads `config.yaml` and `training.json` (of the training run) and `metrics.json` (of `benchmarks/quality.py`) in the
checkpoint's folder. Writes its `README.md` and, beside this file, `<name>.md`.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fusion_hub.metrics import METRICS
from fusion_hub.pretrained import PRETRAINED, PretrainedInfo

HERE = Path(__file__).parent
SETTINGS = (
    "max_steps",
    "batch_size",
    "crop_size",
    "late_fraction",
    "late_batch_size",
    "late_crop_size",
    "learning_rate",
    "weight_decay",
    "ema_decay",
    "precision",
)
"""Fields of every configuration that the card shows."""


NOT_SHOWN = ("SSIM_visible", "SSIM_infrared", "Qabf_visible", "Qabf_infrared")
"""Metrics that are left to the files: a card's table has room for the per-source VIF only."""


class Architecture(NamedTuple):
    """What a card says of the method behind a network, and the fields of its configuration that it shows."""

    title: str
    settings: tuple[str, ...]
    citation: str


ARCHITECTURES = {
    "DiffFuseNetModel": Architecture(
        "DiffFuseNet",
        (
            "stage_one_fraction",
            "intensity",
            "gradient",
            "gradient_gain",
            "ssim",
            "structure",
            "fidelity",
            "difference_correlation",
            "decoupling",
            "diffusion",
            "consistency",
            "out_of_range",
        ),
        """@article{wang2026difffusenet,
  title   = {DiffFuseNet: Infrared-visible image fusion via diffusion-guided feature alignment and feature consistency alignment},
  author  = {Wang and Li and Yang and Xu and Lv and Liu},
  journal = {Pattern Recognition},
  volume  = {180},
  pages   = {114259},
  year    = {2026},
  doi     = {10.1016/j.patcog.2026.114259}
}""",  # noqa: E501
    ),
    "REDModel": Architecture(
        "RED",
        (
            "num_steps",
            "random_steps",
            "block_out_channels",
            "layers_per_block",
            "attention_window",
            "source_injection",
            "mae",
            "mae_target",
            "gradient",
            "gradient_target",
            "gradient_gain",
            "ssim",
            "structure",
            "fidelity",
            "difference_correlation",
            "out_of_range",
        ),
        """@article{xu2026red,
  title   = {RED: Reversible Efficient Diffusion for Image Fusion},
  author  = {Xu and Cao and Li and Hu and Zhu},
  journal = {arXiv preprint arXiv:2601.20260},
  year    = {2026}
}""",
    ),
}


class DataSource(NamedTuple):
    """A set that a checkpoint may have learned from, and what its source states of its licence."""

    title: str
    source: str
    licence: str


_UNSTATED = "not stated"
_TNO = "TNO Image Fusion Dataset, by way of github Linfeng-Tang/Evaluation-for-Image-Fusion"
_ATLAS = "Harvard Whole Brain Atlas (AANLIB), by way of github xianming-gu/Havard-Medical-Image-Fusion-Datasets"
DATA_SOURCES = {
    "msrs": DataSource("MSRS", "github Linfeng-Tang/MSRS (PIAFusion, 2022), by way of github TWNMT/CV", _UNSTATED),
    "roadscene": DataSource("RoadScene", "github hanna-xu/RoadScene (images from FLIR video)", _UNSTATED),
    "tno": DataSource("TNO", _TNO, _UNSTATED),
    "mri_ct": DataSource("MRI-CT", _ATLAS, _UNSTATED),
    "mri_pet": DataSource("MRI-PET", _ATLAS, _UNSTATED),
    "mri_spect": DataSource("MRI-SPECT", _ATLAS, _UNSTATED),
}


def render(folder: Path, info: PretrainedInfo) -> str:
    """The card of the checkpoint in `folder`, Markdown with YAML front matter.

    Raises:
        FileNotFoundError: the weights, `config.yaml` or `training.json` are missing; without `metrics.json` the card
            says that nothing was measured.
        KeyError: the training used a set that is not in `DATA_SOURCES`: its licence must be looked up.
        jinja2.UndefinedError: a value that the card needs is in none of the files.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    file = folder / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if info.parameters is None:
        raise FileNotFoundError(f"no weights in {folder}: give the folder of a complete pipeline")
    architecture = ARCHITECTURES[info.model_class]
    results = read_results(metrics, info.name)
    datasets = [_describe_set(entry) for entry in training["datasets"]]
    medical = any(entry["key"].startswith("mri") for entry in datasets)
    tags = ["medical-imaging", "mri"] if medical else ["infrared", "thermal", "visible"]
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.get_template("template.md.j2").render(
        info=info,
        parameters=info.parameters,
        config=config,
        training=training,
        architecture=architecture,
        settings=[(name, config[name]) for name in (*SETTINGS, *architecture.settings) if config.get(name) is not None],
        datasets=datasets,
        medical=medical,
        tags=tags,
        results=results,
        metric_names=sorted({name for table in results for name in table["columns"]}) or ["SCD", "VIF", "Qabf"],
        **_measured_as(metrics, info.name),
    )


def _measured_as(metrics: Mapping[str, Any], name: str) -> dict[str, str]:
    """Options of the pipeline while it was measured."""
    details = metrics["provenance"]["methods"][name] if metrics else {"rescale": "none", "dtype": "float32"}
    return {key: details[key] for key in ("rescale", "dtype")}


def read_results(metrics: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """One table for each set.

    Args:
        metrics: `metrics.json` as `benchmarks/quality.py` writes it: `sets`, each with `n`, `metrics`, `baselines`.
        name: of the model.
    """
    tables = []
    for key, content in metrics.get("sets", {}).items():
        columns = [name for name in content["metrics"] if name not in NOT_SHOWN]
        rows = {f"**{name}**": content["metrics"], **content.get("baselines", {})}
        tables.append(
            {
                "name": key,
                "pairs": content.get("n"),
                "columns": columns,
                "rows": [{"method": method, "cells": _cells(columns, values)} for method, values in rows.items()],
            }
        )
    return tables


def _cells(columns: Sequence[str], values: Mapping[str, float | None]) -> list[str]:
    return [_cell(column, values.get(column)) for column in columns]


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    wide = metric in METRICS and METRICS[metric].range[1] > 2
    return f"{value:.2f}" if wide else f"{value:.3f}"


def _describe_set(entry: Mapping[str, Any]) -> dict[str, Any]:
    key = PurePosixPath(entry["path"]).name
    if key not in DATA_SOURCES:
        raise KeyError(
            f"no source and licence known for the set {key!r}: add it to DATA_SOURCES in {Path(__file__).name}"
        )
    return {"key": key, "split": entry["split"], "pairs": entry["pairs"], **DATA_SOURCES[key]._asdict()}


def write(text: str, path: Path) -> None:
    """Write aside, then rename."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Render the cards of the named checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(PRETRAINED), help="bundled checkpoints")
    for name in parser.parse_args(argv).names:
        info = PRETRAINED[name]
        text = render(info.folder, info)
        for path in (info.folder / "README.md", HERE / f"{name}.md"):
            write(text, path)
            print(path)


if __name__ == "__main__":
    main()
