"""The bundled checkpoints: name, paper, training data, license, and the folder that holds them.

Each is a complete folder `fusion_hub/pretrained/<name>/` with its card: a fusion pipeline, a SegFormer that segments
fused images, or a detector in ONNX. Numbers are read from the files beside the weights, so that they cannot disagree
with them.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors import safe_open

from fusion_hub.image.subject import SCANS, Subject
from fusion_hub.pipelines.file_checks import run_note
from fusion_hub.repositories import Unavailable, check_hub_id, download

ROOT = Path(__file__).parents[1] / "pretrained"
DIFFFUSENET = 'Wang et al., "DiffFuseNet", Pattern Recognition 180, 2026, 114259'
RED = '"RED: Reversible Efficient Diffusion for image fusion", arXiv 2601.20260'
TOOD = 'Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021, arXiv 2108.07755'
SEGFORMER = 'Xie et al., "SegFormer", NeurIPS 2021, arXiv 2105.15203'


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A folder of weights that is installed with the package.

    Attributes:
        name: the name that `from_pretrained` accepts.
        datasets: sets whose train splits it was trained on.
        license: SPDX id of the license of the weights.
        summary: one sentence.
        paper: the method; the implementation and the weights are independent of the authors.
    """

    name: str
    datasets: tuple[str, ...]
    summary: str
    paper: str = ""
    license: str = "Apache-2.0"

    task: ClassVar[str]
    score: ClassVar[str] = ""  # the main number in `metrics.json`, for other tasks than fusion
    _complete: ClassVar[str] = "model.safetensors"  # a file that exists where the weights do
    _weights: ClassVar[str] = "model.safetensors"

    @property
    def folder(self) -> Path:
        """The folder that `save_pretrained` wrote, with the card."""
        return ROOT / self.name

    @property
    def available(self) -> bool:
        """Whether this installation holds the weights."""
        return (self.folder / self._complete).is_file()

    @property
    def parameters(self) -> int | None:
        """Number of parameters in the stored weights, from their headers; None if they are not installed."""
        total, files = 0, sorted(self.folder.glob(self._weights))
        for file in files:
            with safe_open(file, framework="np") as weights:
                total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        return total if files else None

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return sum(file.stat().st_size for file in self.folder.glob(self._weights))

    @property
    def metrics(self) -> dict[str, Any]:
        """Contents of `metrics.json`, the measured numbers; empty if there is none."""
        file = self.folder / "metrics.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @property
    def licence(self) -> str:
        """Former name of `license`."""
        return self.license


@dataclass(frozen=True, kw_only=True)
class PretrainedInfo(Bundled):
    """One bundled fusion checkpoint.

    Attributes:
        pipeline_class: name of its pipeline in `fusion_hub`.
        model_class: name of its network in `fusion_hub`.
        modality: the two inputs, visible first.
    """

    pipeline_class: str
    model_class: str
    modality: str

    task = "fusion"
    _complete = "model_index.json"
    _weights = "model/*.safetensors"


@dataclass(frozen=True, kw_only=True)
class SegmenterInfo(Bundled):
    """One bundled SegFormer, of so many `classes`."""

    classes: int
    task, score = "segmentation", "mIoU"


@dataclass(frozen=True, kw_only=True)
class DetectorInfo(Bundled):
    """One bundled detector in ONNX, of so many `classes`."""

    classes: int
    task, score = "detection", "mAP50"
    _complete = _weights = "model.onnx"

    @property
    def parameters(self) -> int | None:
        """Number of parameters, from the file with the inputs; None if the weights are not installed."""
        file = self.folder / "inputs.json"
        return json.loads(file.read_text(encoding="utf-8"))["parameters"] if self.available else None


PRETRAINED: dict[str, PretrainedInfo] = {
    info.name: info
    for info in (
        PretrainedInfo(
            name="difffusenet-msrs",
            pipeline_class="DiffFuseNetPipeline",
            model_class="DiffFuseNetModel",
            modality="visible + infrared",
            datasets=("MSRS", "RoadScene", "TNO"),
            paper=DIFFFUSENET,
            summary="Visible and thermal infrared images of streets and landscapes, day and night.",
        ),
        PretrainedInfo(
            name="difffusenet-medical",
            pipeline_class="DiffFuseNetPipeline",
            model_class="DiffFuseNetModel",
            modality="CT, PET or SPECT + MRI",
            datasets=("MRI-CT", "MRI-PET", "MRI-SPECT"),
            paper=DIFFFUSENET,
            summary="Brain slices: MRI with CT, PET or SPECT. For research, not for diagnosis.",
        ),
        PretrainedInfo(
            name="red-small-msrs",
            pipeline_class="REDPipeline",
            model_class="REDModel",
            modality="visible + infrared",
            datasets=("MSRS", "RoadScene", "TNO"),
            paper=RED,
            summary="Visible and thermal infrared images by a narrow RED: two reversible diffusion steps.",
        ),
        PretrainedInfo(
            name="red-small-medical",
            pipeline_class="REDPipeline",
            model_class="REDModel",
            modality="CT, PET or SPECT + MRI",
            datasets=("MRI-CT", "MRI-PET", "MRI-SPECT"),
            paper=RED,
            summary="Brain slices by a narrow RED: MRI with CT, PET or SPECT. For research, not for diagnosis.",
        ),
    )
}
"""The fusion checkpoints, by name."""

_TRAINING_SETS: dict[str, Subject] = {
    name.lower(): "medical" if "MRI" in info.modality else "street"
    for info in PRETRAINED.values()
    for name in info.datasets
}


RECOMMENDED: dict[Subject, str] = {"street": "difffusenet-msrs", "medical": "difffusenet-medical"}
"""The bundled checkpoint for each kind of pair."""


def trained_on(folder: Path) -> Subject | None:
    """What all training sets of a checkpoint show, by its `training.json`; None where that is not known."""
    try:
        paths = [str(entry["path"]) for entry in json.loads((folder / "training.json").read_bytes())["datasets"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    subjects: set[Subject | None] = set()
    for path in paths:
        name = re.split(r"[/\\]", path.rstrip("/\\"))[-1].lower()
        words = set(re.findall("[a-z]+", name))
        scans = any(words & group for group in SCANS)
        found = "street" if name.startswith("generated") else _TRAINING_SETS.get(name.replace("_", "-"))
        subjects.add("medical" if scans else found)
    return subjects.pop() if len(subjects) == 1 else None


SEGMENTERS: dict[str, SegmenterInfo] = {
    "segformer-b0-msrs": SegmenterInfo(
        name="segformer-b0-msrs",
        classes=9,
        datasets=("MSRS",),
        paper=SEGFORMER,
        summary="Gives each pixel of a visible, infrared or fused street picture one of the nine classes of MSRS.",
    )
}
"""The segmentation checkpoints, by name."""

DETECTORS: dict[str, DetectorInfo] = {
    "detector-nano-msrs": DetectorInfo(
        name="detector-nano-msrs",
        classes=3,
        datasets=("MSRS", "M3FD", "RoadScene", "M3SVD"),
        paper=TOOD,
        summary="Finds persons, bicycles and cars in visible, infrared and fused street pictures.",
    )
}
"""The detection checkpoints, by name."""


def list_models() -> list[PretrainedInfo]:
    """The bundled fusion checkpoints, in the order of the table.

    Examples:
        >>> [info.name for info in list_models()]
        ['difffusenet-msrs', 'difffusenet-medical', 'red-small-msrs', 'red-small-medical']
    """
    return list(PRETRAINED.values())


def resolve(name: str, table: Mapping[str, Bundled] = PRETRAINED) -> Path | None:
    """Folder of a bundled pipeline, or of another table; None if none has this name.

    Raises:
        FileNotFoundError: if the name is in the table but this installation lacks the weights.
    """
    info = table.get(name)
    if info is not None and not info.available:
        raise FileNotFoundError(
            f"the weights of {info.name!r} are missing from {info.folder}: install fusion-hub again, or load from a "
            "folder or a Hub id 'owner/name'"
        )
    return None if info is None else info.folder


def locate(
    name: str | os.PathLike[str],
    variant: str | None = None,
    onnx: bool = False,
    **hub: Any,
) -> Path:
    """The folder of a pipeline: of a bundled name, of a path, or downloaded from the Hub; looked up in this order.

    Of a repository come the JSON and safetensors files, never its code.

    Args:
        name: of the pipeline.
        variant: of the weights, `"fp16"`.
        onnx: download the exported network, too, where there is one.
        hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, as in huggingface_hub.

    Raises:
        ValueError: the name is none of the three.
        OSError: the repository cannot be reached or read, or a file arrived damaged.
    """
    text = os.fspath(name)
    if (bundled := resolve(text)) is not None:
        return bundled
    if text and (folder := Path(text).expanduser()).is_dir():
        if note := run_note(folder):
            raise ValueError(note)
        return folder
    other = f"a bundled name ({', '.join(PRETRAINED)})"
    check_hub_id(text, "pipeline", f"{other}, an existing folder, or a Hub id 'owner/name'", ValueError)
    patterns = ["*.json", f"*/*.{variant}*.safetensors" if variant else "*/*.safetensors"]
    ignored = None if variant else ["*/*.*.safetensors"]
    try:
        if onnx:
            with suppress(Unavailable):  # a cache may have all but this file
                return download(text, [*patterns, "model.onnx"], ignored, **hub)
        return download(text, patterns, ignored, **hub)
    except Unavailable as error:
        raise OSError(
            f"cannot load {text!r} from the Hub ({error}): check id, revision, token and connection, or give an "
            f"existing folder or {other}"
        ) from error


def resolve_segmenter(name: str) -> Path | None:
    """As `resolve`, for a bundled SegFormer."""
    return resolve(name, SEGMENTERS)


def resolve_detector(name: str) -> Path | None:
    """As `resolve`, for a bundled detector."""
    return resolve(name, DETECTORS)
