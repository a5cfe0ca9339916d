"""Measured numbers of one checkpoint, from `metrics.json` in either of its two forms.

`benchmarks/quality.py --metrics-json` writes means by set (`sets`); `fusion-hub evaluate` writes a `summary.json` with
one row for each method and set (`rows`). A card is rendered from them and checked against them.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.json"
NOT_SHOWN = ("SSIM_visible", "SSIM_infrared", "Qabf_visible", "Qabf_infrared")
"""Metrics that are left to the file: a card's table has room for the per-source VIF only."""
_DETAILS = ("class", "parameters", "sha256", "state_sha256", "dtype", "rescale")


@dataclass(frozen=True)
class Result:
    """Means over one set.

    Attributes:
        dataset: such as `tno/test`.
        pairs: how many the means run over; None if the file does not say.
        metrics: of the model; None where a metric is undefined on every pair.
        baselines: the same of rules without a network.
        warnings: what has to be known before the numbers are quoted.
    """

    dataset: str
    pairs: int | None
    metrics: Mapping[str, float | None]
    baselines: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Metrics that a card shows."""
        return [name for name in self.metrics if name not in NOT_SHOWN]

    @property
    def split(self) -> str:
        """The last part of the name; `all` for a set without splits."""
        return self.dataset.rpartition("/")[2] if "/" in self.dataset else "all"

    @property
    def key(self) -> str:
        """The name without the split."""
        return self.dataset.rpartition("/")[0] or self.dataset


@dataclass(frozen=True)
class Measured:
    """All results, and how they were measured: `details` of the model's run, `conventions`, `versions`."""

    results: tuple[Result, ...]
    details: Mapping[str, Any]
    conventions: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def options(self) -> dict[str, Any]:
        """What the pipeline was called with, beside `rescale`."""
        return {key: value for key, value in self.details.items() if key not in _DETAILS and value is not None}


def read_measured(folder: Path, name: str) -> Measured | None:
    """What `metrics.json` in a pipeline folder holds of its model; None without the file.

    Args:
        folder: of the pipeline.
        name: of the model, needed only if the file has several whose weights are not those of the folder.

    Raises:
        ValueError: the file is in neither form, has a number that is not finite, or does not say which of its models
            is that of the folder.
    """
    file = folder / METRICS_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("sets"), dict):
        results, provenance = _from_sets(file, content["sets"]), content.get("provenance", {})
        model = _which_model(file, folder, name, provenance.get("methods", {}), ())
    elif isinstance(content, dict) and isinstance(content.get("rows"), list):
        from fusion_hub.evaluation.leaderboard import read_evaluation

        rows, provenance = read_evaluation(file)
        models = tuple(dict.fromkeys(row.method for row in rows if row.kind == "model"))
        model = _which_model(file, folder, name, provenance.get("methods", {}), models)
        results = _from_rows(rows, model)
    else:
        raise ValueError(f"{file}: it has neither `sets` nor `rows`; write it with `fusion-hub evaluate`")
    if not results:
        raise ValueError(f"{file}: it has no numbers of the model; evaluate it on a set")
    return Measured(
        tuple(results),
        provenance.get("methods", {}).get(model, {}),
        provenance.get("conventions", {}),
        provenance.get("versions", {}),
    )


def _from_sets(file: Path, sets: Mapping[str, Any]) -> list[Result]:
    return [
        Result(
            dataset,
            content.get("n"),
            _numbers(content["metrics"], f"{file}: {dataset}"),
            {
                method: _numbers(values, f"{file}: {dataset}: {method}")
                for method, values in content.get("baselines", {}).items()
            },
        )
        for dataset, content in sets.items()
    ]


def _from_rows(rows: Any, model: str | None) -> list[Result]:
    """The rows of one model, each with the baselines on the same set."""
    return [
        Result(
            row.dataset,
            row.n,
            {name: found.mean for name, found in row.metrics.items()},
            {
                other.method: {name: found.mean for name, found in other.metrics.items()}
                for other in rows
                if other.kind == "baseline" and other.dataset == row.dataset
            },
            row.warnings,
        )
        for row in rows
        if row.kind == "model" and row.method == model
    ]


def _numbers(values: Mapping[str, Any], where: str) -> dict[str, float | None]:
    for metric, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise ValueError(f"{where}: {metric} is {value!r}: expected a finite number, or null where it is undefined")
    return dict(values)


def _which_model(
    file: Path, folder: Path, name: str, methods: Mapping[str, Any], models: tuple[str, ...]
) -> str | None:
    """The method of `metrics.json` that is the folder's model: by its weights, else by its name, else the only one."""
    models = models or tuple(methods)
    hashes = {hashlib.sha256(weights.read_bytes()).hexdigest() for weights in folder.glob("model/*.safetensors")}
    same = [model for model in models if hashes & set(methods.get(model, {}).get("sha256", {}).values())]
    named = [model for model in models if model == name]
    if len(models) <= 1:
        return models[0] if models else None
    if found := same or named:
        return found[0]
    raise ValueError(
        f"{file}: it has rows of {', '.join(models)}, and none of them has the weights of {folder} or the name "
        f"{name!r}: evaluate this checkpoint alone"
    )


def state_digest(folder: Path, dtype: str) -> str | None:
    """Hash of a model's values as `fusion-hub evaluate` notes them (`state_sha256`); None without weights.

    Args:
        folder: of the pipeline.
        dtype: name of the precision that the model was measured in: stored half precision is widened first.
    """
    import torch
    from safetensors.torch import load_file

    values: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        values.update(load_file(file))
    digest = hashlib.sha256()
    for key in sorted(values):
        digest.update(key.encode())
        value = values[key].to(getattr(torch, dtype)) if values[key].is_floating_point() else values[key]
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if values else None


def weight_files(folder: Path) -> list[Path]:
    """The weights of `model/`, all shards; those of a variant (`.fp16.`) only if there are no others."""
    files = sorted(folder.glob("model/*.safetensors"))
    return [file for file in files if file.name.count(".") == 1] or files


def count_parameters(folder: Path) -> int:
    """Number of parameters, counted in the stored weights.

    Raises:
        FileNotFoundError: there are none.
    """
    from safetensors import safe_open

    files = weight_files(folder)
    if not files:
        raise FileNotFoundError(f"no weights in {folder / 'model'}: give the folder of a complete pipeline")
    total = 0
    for file in files:
        with safe_open(file, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return total
