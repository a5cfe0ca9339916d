"""A trained pipeline becomes a repository: stage, check, one commit and a tag, download and compare.

with staged_model("runs/street/pipeline", "me/street") as staged:
    published = upload_model(staged, "me/street", tag="v1")
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fusion_hub
from fusion_hub import pretrained
from fusion_hub.hub.places import without_places
from fusion_hub.hub.upload import Published, PublishError, check_repo_id, progress_bars, upload, withdraw_tag
from fusion_hub.image.luminance import quantize

if TYPE_CHECKING:
    from fusion_hub.data.generated import GeneratedPair
    from fusion_hub.pipelines import FusionPipeline

HALF = "fp16"
"""The variant beside the full weights."""

REPORTS = ("training.json", "metrics.json", "speed.json")
"""JSON files beside the weights that are published with them; the first one is needed."""

NOTES = "notes.md"
"""What the card says beyond the files; read from the checkpoint's folder, not published itself."""

LICENCE_TEXTS = ("apache-2.0", "creativeml-openrail-m")
"""Licences whose text comes with the package; that of another one lies in the checkpoint's folder, as `LICENSE`."""

SAMPLE_SEED, SAMPLE_HEIGHT, SAMPLE_WIDTH, SAMPLE_GAP = 7, 240, 320, 8


@dataclass(frozen=True)
class StagedModel:
    """A repository as it will be on the Hub, in a temporary folder.

    Attributes:
        folder: where it lies.
        name: of the model.
        sample: the generated pair that its picture shows.
        expected: `sample` fused by the local weights in float32, `(H, W, 3)` in [0, 1].
    """

    folder: Path
    name: str
    sample: "GeneratedPair"
    expected: np.ndarray


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
) -> Iterator[StagedModel]:
    """A temporary folder that holds the repository: weights in both precisions, card, licence, what they rest on.

    Args:
        checkpoint: a bundled name, or the pipeline folder of a finished run.
        repo_id: `owner/name` under which it will be published.
        evaluation: `summary.json` of `fusion-hub evaluate`; by default `metrics.json` in the folder, if there is one.
        summary, licence, base_model, data_terms: see `fusion_hub.hub.cards.render_model_card`.

    Raises:
        PublishError: the checkpoint is not complete or not sound, or a check fails; see `check_model`.
    """
    from fusion_hub.hub.model_check import check_model

    check_repo_id(repo_id)
    source, info = _locate(checkpoint)
    licence = licence or (info.license if info else None)
    name = info.name if info else repo_id.rpartition("/")[2]
    card = {"licence": licence, "base_model": base_model, "data_terms": data_terms}
    card["summary"] = summary or (info.summary if info else None)
    with tempfile.TemporaryDirectory(prefix="fusion_hub_model_") as temporary, _quiet_diffusers():
        folder = Path(temporary)
        try:
            pipeline = _load(source)
            pipeline.save_pretrained(folder)
            _stage_reports(source, folder, evaluation)
            sample = _draw_sample(folder, data_terms)
            expected = fuse_sample(pipeline, sample)
            _save_sample(sample, expected, folder / "sample.png")
            _save_half(pipeline, folder)
            _stage_licence(source, folder, licence, base_model)
            _stage_card(source, folder, name=name, repo_id=repo_id, **card)
        except (ValueError, OSError) as error:
            raise PublishError(f"{checkpoint} cannot be published: {error}") from error
        if problems := check_model(folder):
            raise PublishError(f"{checkpoint} cannot be published: " + "; ".join(problems))
        yield StagedModel(folder, name, sample, expected)


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
) -> Published:
    """Publish a checkpoint in one commit, tag it, download it again and compare.

    Args:
        checkpoint, evaluation, summary, licence, base_model, data_terms: see `staged_model`.
        repo_id: `owner/name`; made if it does not exist.
        private: for a new repository: only for its owner.
        tag: name of this version, such as `v1`.
        token: of the Hub; by default that of the login or of `HF_TOKEN`.

    Raises:
        PublishError: a check fails, the Hub refuses or cannot be reached, or what it gives back is not what was sent.
            Then no new tag is left, and the same call goes on.
    """
    with staged_model(
        checkpoint,
        repo_id,
        evaluation=evaluation,
        summary=summary,
        licence=licence,
        base_model=base_model,
        data_terms=data_terms,
    ) as staged:
        return upload_model(staged, repo_id, private=private, tag=tag, token=token)


def upload_model(
    staged: StagedModel,
    repo_id: str,
    *,
    private: bool = False,
    tag: str | None = None,
    token: str | None = None,
    progress: bool = False,
) -> Published:
    """Upload what `staged_model` made, download it into a new cache and compare; see `publish_model`."""
    published = upload(
        staged.folder,
        repo_id,
        private=private,
        tag=tag,
        message=f"{staged.name}, by fusion_hub {fusion_hub.__version__}",
        token=token,
        progress=progress,
    )
    try:
        with progress_bars(progress):
            compare(staged, published, token)
    except PublishError as error:
        raise PublishError(f"{error}; {withdraw_tag(published, token)}") from error
    return published


def compare(staged: StagedModel, published: Published, token: str | None = None) -> None:
    """Download a published model into a new cache, in both precisions, and fuse the sample with it.

    Raises:
        PublishError: it cannot be loaded, or one pixel differs.
    """
    where = {"revision": published.tag or published.commit, "token": token}
    with tempfile.TemporaryDirectory(prefix="fusion_hub_cache_") as cache, _quiet_diffusers():
        try:
            full = fuse_sample(_load(published.repo_id, cache_dir=cache, **where), staged.sample)
            half = fuse_sample(_load(published.repo_id, cache_dir=cache, variant=HALF, **where), staged.sample)
        except (ValueError, OSError) as error:
            raise PublishError(
                f"{published.repo_id} is on the Hub at {where['revision']} but cannot be loaded from there: {error}"
            ) from error
        expected_half = fuse_sample(_load(staged.folder, variant=HALF), staged.sample)
    for title, found, expected in (("full", full, staged.expected), (HALF, half, expected_half)):
        if not np.array_equal(found, expected):
            furthest = float(np.abs(found - expected).max()) if found.shape == expected.shape else "its size"
            raise PublishError(
                f"the {title} weights of {published.repo_id} at {where['revision']} give another image than those here "
                f"(largest difference: {furthest})"
            )


def fuse_sample(pipeline: "FusionPipeline", sample: "GeneratedPair") -> np.ndarray:
    """The sample fused: `(H, W, 3)` float32 in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(sample.visible, sample.infrared, output_type="np").images[0]


# --- staging ---------------------------------------------------------------------------------------------------------


def _locate(checkpoint: str | os.PathLike[str]) -> tuple[Path, pretrained.PretrainedInfo | None]:
    """Folder of a checkpoint; its entry in the table if it is a bundled one."""
    name = os.fspath(checkpoint)
    if name in pretrained.PRETRAINED:
        try:
            return pretrained.resolve(name) or Path(name), pretrained.PRETRAINED[name]
        except FileNotFoundError as error:
            raise PublishError(str(error)) from error
    folder = Path(name)
    if (folder / "model_index.json").is_file():
        return folder, None
    bundled = ", ".join(pretrained.PRETRAINED)
    if (folder / "pipeline" / "model_index.json").is_file():
        raise PublishError(f"{name} is the folder of a run: give the pipeline in it, {folder / 'pipeline'}")
    raise PublishError(
        f"{name} is no checkpoint, it has no model_index.json: give the pipeline folder of a finished run, or a "
        f"bundled name ({bundled})"
    )


def _load(source: str | Path, **settings: Any) -> "FusionPipeline":
    from fusion_hub.pipelines import FusionPipeline

    return FusionPipeline.from_pretrained(source, **settings)


def _save_half(pipeline: "FusionPipeline", folder: Path) -> None:
    """Add the weights in half precision; the pipeline's own become those."""
    import torch

    pipeline.model.half()
    too_large = [name for name, value in pipeline.model.state_dict().items() if not torch.isfinite(value).all()]
    if too_large:
        raise ValueError(f"the weight {too_large[0]} has values beyond half precision: train with weight decay")
    pipeline.save_pretrained(folder, variant=HALF)


def _stage_reports(source: Path, folder: Path, evaluation: Path | None) -> None:
    """The configuration and the reports, without the places of this machine."""
    import yaml

    for name in ("config.yaml", REPORTS[0]):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source / name} is missing: give the pipeline folder that training wrote")
    config = yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(without_places(config), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    reports = {name: source / name for name in REPORTS}
    if evaluation is not None:
        reports["metrics.json"] = evaluation
    for name, file in reports.items():
        if file.is_file():
            content = without_places(json.loads(file.read_text(encoding="utf-8")))
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        elif file == evaluation:
            raise FileNotFoundError(f"{evaluation} is no file: give the summary.json of an evaluation")


def _draw_sample(folder: Path, data_terms: Mapping[str, str] | None) -> "GeneratedPair":
    """A generated pair of the kind that the model was trained on."""
    from fusion_hub.data.generated import generate_scene
    from fusion_hub.hub.cards.datasets import describe_set

    training = json.loads((folder / REPORTS[0]).read_text(encoding="utf-8"))
    medical = any(describe_set(entry, data_terms or {}).medical for entry in training.get("datasets", []))
    return generate_scene(SAMPLE_SEED, SAMPLE_HEIGHT, SAMPLE_WIDTH, "brain" if medical else "night_street")


def _save_sample(sample: "GeneratedPair", fused: np.ndarray, file: Path) -> None:
    """Visible, infrared and fused side by side."""
    from PIL import Image

    infrared = np.repeat(sample.infrared[..., None], 3, axis=2)
    pictures = (sample.visible, infrared, quantize(fused))
    gap = np.full((sample.visible.shape[0], SAMPLE_GAP, 3), 255, np.uint8)
    row = np.concatenate([pictures[0], gap, pictures[1], gap, pictures[2]], axis=1)
    Image.fromarray(row).save(file, optimize=True)


def _stage_licence(source: Path, folder: Path, licence: str | None, base_model: str | None) -> None:
    """The text of the licence that the card names."""
    import yaml

    from fusion_hub.hub.cards.render import find_origin

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    name = find_origin(config, licence, base_model).licence
    if name in LICENCE_TEXTS:
        text = (files("fusion_hub") / "templates" / f"LICENSE.{name}.txt").read_text(encoding="utf-8")
    elif (source / "LICENSE").is_file():
        text = (source / "LICENSE").read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(f"the text of the licence {name} is not known here: put it into {source / 'LICENSE'}")
    (folder / "LICENSE").write_text(text, encoding="utf-8")


def _stage_card(source: Path, folder: Path, **settings: Any) -> None:
    from fusion_hub.hub.cards import render_model_card

    if (source / NOTES).is_file():
        shutil.copyfile(source / NOTES, folder / NOTES)
    text = render_model_card(folder, **settings)
    (folder / NOTES).unlink(missing_ok=True)
    (folder / "README.md").write_text(text, encoding="utf-8")


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Without diffusers' bars; ours say what goes on."""
    from diffusers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
