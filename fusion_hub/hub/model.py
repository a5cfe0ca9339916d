"""Publish a trained pipeline: stage, check, one commit and a tag, download and compare."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import fusion_hub
from fusion_hub.data.synthetic import GeneratedPair, generate_scene
from fusion_hub.hub.card_checks import (
    TEMPLATES,
    class_name,
    find_local_paths,
    is_local_path,
    read_config,
    read_json,
)
from fusion_hub.hub.cards import describe_set, find_origin, find_trained, render_model_card, set_key, validate_card
from fusion_hub.hub.upload import Published, PublishError, check_repo_id, find_checkpoint, plan, progress_bars, upload
from fusion_hub.image.luminance import quantize
from fusion_hub.pipelines import FusionPipeline, export
from fusion_hub.pipelines.file_checks import check_model_folder

HALF = "fp16"
"""The variant beside the full weights."""
REPORTS = ("training.json", "metrics.json", "speed.json")
"""JSON files beside the weights that are published with them; only the first one is required."""
SAMPLE_SEED, SAMPLE_HEIGHT, SAMPLE_WIDTH, SAMPLE_GAP = 0, 240, 320, 8
REQUIRED = (
    *("README.md", "LICENSE", "model_index.json", "pipeline.py", "config.yaml", "training.json", "sample.png"),
    *("model/config.json", "model/modeling.py"),
)
LARGEST_TEXT = 10 * 2**20
"""Bytes of a file other than weights; the Hub wants larger ones in LFS."""
DTYPES = {None: "F32", HALF: "F16"}
"""How the weights are stored, by variant."""

_WEIGHTS = r"model/diffusion_pytorch_model(?:\.fp16)?(?:-\d{5}-of-\d{5})?\.safetensors"
_OPTIONAL = (
    *(r"metrics\.json", r"speed\.json", r"scheduler/scheduler_config\.json", _WEIGHTS),
    r"model/diffusion_pytorch_model\.safetensors\.index(?:\.fp16)?\.json",
    r"model\.onnx",
)
_SHIM = r"from fusion_hub import \w+(?:  # noqa: F401)?\n"


@dataclass(frozen=True)
class StagedModel:
    """A repository in a temporary folder.

    Attributes:
        expected: the pair of the sample picture, fused: `(H, W, 3)` in [0, 1].
        trained_on: sets whose numbers are on the card although the model was trained on their pairs.
    """

    folder: Path
    name: str
    sample: GeneratedPair
    expected: np.ndarray
    trained_on: Sequence[str] = ()


def publish_model(
    checkpoint: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    tag: str | None = None,
    token: str | None = None,
    evaluation: Path | None = None,
    summary: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    data_terms: Mapping[str, str] | None = None,
    onnx: bool = False,
) -> Published:
    """Publish a checkpoint in one commit, tag it, download it again and compare.

    Args:
        checkpoint: a bundled name, or the pipeline folder of a finished run.
        repo_id: `owner/name`; created if it does not exist.
        private: create a private repository.
        tag: name of this version, such as `v1`.
        token: Hub token; by default that of the login or of `HF_TOKEN`.
        evaluation: folder or `summary.json` of `fusion-hub evaluate --output`; by default `metrics.json` in the folder
            of the checkpoint, if it exists.
        summary, licence, base_model, data_terms: see `fusion_hub.hub.cards.render_model_card`.
        onnx: export the network to `model.onnx`; a file of this name beside the weights is published in any case.

    Raises:
        PublishError: a check fails, the Hub refuses or cannot be reached, or the download differs from the upload. No
            new tag is left then, and the same call resumes.
    """
    card: dict[str, Any] = {"summary": summary, "licence": licence, "base_model": base_model, "data_terms": data_terms}
    with staged_model(checkpoint, repo_id, evaluation=evaluation, onnx=onnx, **card) as staged:
        return upload_model(staged, repo_id, private=private, tag=tag, token=token)


@contextmanager
def staged_model(
    checkpoint: str | os.PathLike[str],
    repo_id: str,
    *,
    evaluation: Path | None = None,
    summary: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    data_terms: Mapping[str, str] | None = None,
    onnx: bool = False,
) -> Iterator[StagedModel]:
    """A temporary folder with the repository: weights in both precisions, card, license, configuration, reports.

    Args: see `publish_model`.

    Raises:
        PublishError: the checkpoint is incomplete or damaged, or `check_model` finds a problem.
    """
    check_repo_id(repo_id)
    source, info = find_checkpoint(checkpoint)
    if info:
        licence, summary = licence or info.license, summary or info.summary
    name = info.name if info else repo_id.rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="fusion_hub_model_") as temporary:
        folder = Path(temporary)
        try:
            with progress_bars(False):
                pipeline = FusionPipeline.from_pretrained(source)
                pipeline.save_pretrained(folder)
            _stage_reports(source, folder, evaluation)
            datasets = read_json(folder / "training.json").get("datasets", [])
            medical = any(describe_set(entry, data_terms or {}).medical for entry in datasets)
            sample = generate_scene(SAMPLE_SEED, SAMPLE_HEIGHT, SAMPLE_WIDTH, "brain" if medical else "night_street")
            expected = fuse_sample(pipeline, sample)
            gap = np.full((SAMPLE_HEIGHT, SAMPLE_GAP, 3), 255, np.uint8)
            infrared = np.repeat(sample.infrared[..., None], 3, axis=2)
            row = np.concatenate([sample.visible, gap, infrared, gap, quantize(expected)], axis=1)
            Image.fromarray(row).save(folder / "sample.png", optimize=True)
            pipeline.model.half()
            for key, value in pipeline.model.state_dict().items():
                if not torch.isfinite(value).all():
                    raise ValueError(f"the weight {key} has values beyond half precision: train with weight decay")
            pipeline.save_pretrained(folder, variant=HALF)
            license_id = find_origin(read_config(folder), licence, base_model).license
            _stage_onnx(source, folder, repo_id, license_id, onnx)
            terms = TEMPLATES / f"LICENSE.{license_id}.txt"  # other licenses are in the checkpoint's folder
            if not terms.is_file() and not (terms := source / "LICENSE").is_file():
                raise FileNotFoundError(f"the text of the license {license_id} is not known here: put it into {terms}")
            shutil.copyfile(terms, folder / "LICENSE")
            if (notes := source / "notes.md").is_file():  # becomes a part of the card
                shutil.copyfile(notes, folder / "notes.md")
            options: dict[str, Any] = {"licence": licence, "base_model": base_model, "data_terms": data_terms}
            card = render_model_card(folder, name=name, repo_id=repo_id, summary=summary, **options)
            (folder / "notes.md").unlink(missing_ok=True)
            (folder / "README.md").write_text(card, encoding="utf-8")
        except (ValueError, OSError, export.ExportError) as error:
            raise PublishError(f"{checkpoint} cannot be published: {error}") from error
        if problems := check_model(folder):
            raise PublishError(f"{checkpoint} cannot be published: " + "; ".join(problems))
        yield StagedModel(folder, name, sample, expected, find_trained(folder, name, data_terms or {}))


def upload_model(staged: StagedModel, repo_id: str, *, token: str | None = None, **options: Any) -> Published:
    """Upload what `staged_model` made, download it into a new cache and compare; `options` as in `upload`."""
    options |= {"message": f"{staged.name}, by fusion_hub {fusion_hub.__version__}", "token": token}
    return upload(staged.folder, repo_id, verify=partial(compare, staged, token=token), **options)


def compare(staged: StagedModel, published: Published, token: str | None = None) -> None:
    """Download a published model into a new cache, in both precisions, and fuse the sample; PublishError on a fault."""
    repo_id, revision = published.repo_id, published.tag or published.commit
    for variant in DTYPES:
        with tempfile.TemporaryDirectory(prefix="fusion_hub_cache_") as cache:
            where: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache}
            try:
                found = fuse_sample(FusionPipeline.from_pretrained(repo_id, variant=variant, **where), staged.sample)
            except (ValueError, OSError) as error:
                raise PublishError(
                    f"{repo_id} is on the Hub at {revision} but cannot be loaded from there: {error}"
                ) from error
        expected = staged.expected
        if variant is not None:
            expected = fuse_sample(FusionPipeline.from_pretrained(staged.folder, variant=variant), staged.sample)
        if not np.array_equal(found, expected):
            largest = float(np.abs(found - expected).max()) if found.shape == expected.shape else "its size"
            raise PublishError(
                f"the {variant or 'full'} weights of {repo_id} at {revision} give another image than the local ones "
                f"(largest difference: {largest})"
            )


def fuse_sample(pipeline: FusionPipeline, sample: GeneratedPair) -> np.ndarray:
    """The fused sample: `(H, W, 3)` float32 in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(sample.visible, sample.infrared, output_type="np").images[0]


# --- staging ---------------------------------------------------------------------------------------------------------


def _stage_reports(source: Path, folder: Path, evaluation: Path | None) -> None:
    """The configuration and the reports, without local paths."""
    for name in ("config.yaml", REPORTS[0]):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source / name} is missing: give the pipeline folder that training wrote")
    if evaluation is not None:
        evaluation = evaluation / "summary.json" if evaluation.is_dir() else evaluation
        if not evaluation.is_file():
            raise FileNotFoundError(f"there is no {evaluation}: give the folder that `fusion-hub evaluate` wrote")
    config = yaml.safe_dump(without_local_paths(read_config(source)), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    for name in REPORTS:
        file = evaluation if evaluation is not None and name == "metrics.json" else source / name
        if file.is_file():
            content = without_local_paths(json.loads(file.read_text(encoding="utf-8")))
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _stage_onnx(source: Path, folder: Path, repo_id: str, license_id: str, wanted: bool) -> None:
    """`model.onnx`, exported if wanted, else that beside the weights, which must be of these weights."""
    file = source / "model.onnx"
    if wanted:
        export.export(folder, "onnx", folder / file.name, license=license_id, source=repo_id)
    elif file.is_file():
        found = export.read_onnx_metadata(file).get("weights_sha256")
        if found != export.hash_weights(source):
            raise ValueError(f"{file} was not exported from the weights beside it: export again, or remove it")
        shutil.copyfile(file, folder / file.name)


def without_local_paths(value: Any) -> Any:
    """The same value, as JSON and YAML can hold it, without paths of this machine.

    Paths below `FUSION_HUB_DATA` become `${FUSION_HUB_DATA}/...`, those below the working folder relative, and others
    the name alone.
    """
    if isinstance(value, Mapping):
        return {key: without_local_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_local_paths(entry) for entry in value]
    if not isinstance(value, str) or not is_local_path(value):
        return value
    if PureWindowsPath(value).is_absolute() and not Path(value).is_absolute():
        return set_key(value)  # of another machine
    path = Path(os.path.abspath(Path(value).expanduser()))
    roots = {"": Path.cwd()}
    if data := os.environ.get("FUSION_HUB_DATA"):
        roots = {"${FUSION_HUB_DATA}": Path(os.path.abspath(data)), **roots}
    for prefix, root in roots.items():
        if path != root and path.is_relative_to(root):
            return (PurePosixPath(prefix) / path.relative_to(root).as_posix()).as_posix()
    return set_key(value)


# --- checks ----------------------------------------------------------------------------------------------------------


def check_model(folder: Path) -> list[str]:
    """Problems of a staged model, found without a network; empty if there are none.

    The files must be those of a model, without pickles or foreign code. The weights must fit the configuration in both
    precisions, the card must be valid, and no local path may be left.
    """
    try:
        found = {file.path: file.size for file in plan(folder)}
    except PublishError as error:
        return [str(error)]
    problems = [f"{name} is missing" for name in REQUIRED if name not in found]
    for name, size in found.items():
        if name not in REQUIRED and not any(re.fullmatch(pattern, name) for pattern in _OPTIONAL):
            problems.append(f"{name} does not belong in a model's repository")
        elif size > LARGEST_TEXT and not re.fullmatch(_WEIGHTS, name) and name != "model.onnx":
            problems.append(f"{name} has {size:,} bytes, more than {LARGEST_TEXT:,}")
        elif name.endswith(".py") and not re.fullmatch(_SHIM, (folder / name).read_text(encoding="utf-8")):
            problems.append(f"{name} is not the one line that imports a class of this package")
    if problems:
        return problems  # the checks below need the files
    problems += _check_weights(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    problems += [f"README.md: {problem}" for problem in validate_card(card, folder)]
    for name in (name for name in found if name.endswith((".json", ".yaml"))):
        if paths := find_local_paths((folder / name).read_text(encoding="utf-8"), Path(name).suffix):
            problems.append(f"{name} holds a path of this machine, {paths[0]!r}")
    return problems


def _check_weights(folder: Path) -> list[str]:
    """Compare the headers of the weights with the configuration and with the precision of each variant."""
    name = class_name(read_json(folder / "model_index.json"), "model")
    if name not in fusion_hub.__all__:
        return [f"model_index.json names {name!r} as the model's class, which this package does not have"]
    problems = []
    for variant, dtype in DTYPES.items():
        stem = f"diffusion_pytorch_model{f'.{variant}' if variant else ''}"
        weights = [file for file in folder.glob("model/*.safetensors") if re.match(rf"{stem}[-.](?!fp16)", file.name)]
        try:
            if not weights:
                raise FileNotFoundError(f"model/{stem}.safetensors is missing")
            check_model_folder(folder / "model", getattr(fusion_hub, name), variant)
            found = set()
            for file in weights:
                with safe_open(file, framework="np") as tensors:
                    found |= {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
            if found != {dtype}:
                problems.append(f"{weights[0].name} holds {', '.join(sorted(found))} instead of {dtype}")
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return problems
