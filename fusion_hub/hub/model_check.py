"""What a model's repository must be before it is uploaded, checked without a network."""

import json
import re
from pathlib import Path

from fusion_hub.hub.places import find_places
from fusion_hub.hub.upload import PublishError, plan

REQUIRED = (
    *("README.md", "LICENSE", "model_index.json", "pipeline.py", "config.yaml", "training.json", "sample.png"),
    *("model/config.json", "model/modeling.py"),
)
_WEIGHTS = r"model/diffusion_pytorch_model(?:\.fp16)?(?:-\d{5}-of-\d{5})?\.safetensors"
_ALLOWED = (
    *(re.escape(name) for name in (*REQUIRED, "metrics.json", "speed.json", "scheduler/scheduler_config.json")),
    _WEIGHTS,
    r"model/diffusion_pytorch_model\.safetensors\.index(?:\.fp16)?\.json",
)
_SHIM = r"from fusion_hub import \w+(?:  # noqa: F401)?\n"
LARGEST_TEXT = 10 * 2**20
"""Bytes of a file other than weights; the Hub wants larger ones in LFS, and none of ours comes near."""

DTYPES = {None: "F32", "fp16": "F16"}
"""How the weights are stored, by variant."""


def check_model(folder: Path) -> list[str]:
    """What is wrong with a staged model, a sentence each; empty: nothing.

    Checked: the files are those that a model has, none is a pickle or foreign code, the weights fit the configuration
    in both precisions, the card is valid, no path of this machine is left.
    """
    from fusion_hub.hub.cards import validate_card

    try:
        found = {file.path: file.size for file in plan(folder)}
    except PublishError as error:
        return [str(error)]
    problems = [f"{name} is missing" for name in REQUIRED if name not in found]
    problems += [f"{name} does not belong into a model's repository" for name in found if not _is_allowed(name)]
    problems += [
        f"{name} has {size:,} bytes, more than {LARGEST_TEXT:,}"
        for name, size in found.items()
        if size > LARGEST_TEXT and not re.fullmatch(_WEIGHTS, name)
    ]
    problems += [
        f"{name} is not the one line that imports a class of this package"
        for name in found
        if name.endswith(".py") and not re.fullmatch(_SHIM, _read(folder / name))
    ]
    if problems:
        return problems  # the checks below need the files
    problems += _check_weights(folder)
    problems += [
        f"README.md: {problem}" for problem in validate_card(_read(folder / "README.md"), folder, kind="model")
    ]
    problems += _find_places(folder)
    return problems


def _is_allowed(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in _ALLOWED)


def _check_weights(folder: Path) -> list[str]:
    """Headers of the weights against the configuration and the precision that they stand for."""
    import fusion_hub
    from fusion_hub.pipelines.file_checks import check_model_folder

    name = json.loads(_read(folder / "model_index.json")).get("model", [None])[-1]
    if name not in fusion_hub.__all__:
        return [f"model_index.json names {name!r} as the model's class, which this package does not have"]
    problems = []
    for variant, dtype in DTYPES.items():
        stem = f"diffusion_pytorch_model{f'.{variant}' if variant else ''}"
        files = sorted(
            file for file in folder.glob("model/*.safetensors") if re.match(rf"{stem}[-.](?!fp16)", file.name)
        )
        try:
            if not files:
                raise FileNotFoundError(f"model/{stem}.safetensors is missing")
            check_model_folder(folder / "model", getattr(fusion_hub, name), variant)
            found = {kind for file in files for kind in _dtypes(file)}
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if found != {dtype}:
            problems.append(f"{files[0].name} holds {', '.join(sorted(found))} instead of {dtype}")
    return problems


def _dtypes(file: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        return {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118


def _find_places(folder: Path) -> list[str]:
    problems = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".yaml", ".md")):
        if places := find_places(_read(file), file.suffix):
            problems.append(f"{file.relative_to(folder).as_posix()} holds a path of this machine, {places[0]!r}")
    return problems


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")
