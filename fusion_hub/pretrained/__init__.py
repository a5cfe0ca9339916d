"""The bundled checkpoints: what they are and where they lie.

Each is a complete folder `fusion_hub/pretrained/<name>/` with its card: a pipeline that fuses, or a SegFormer for what
comes after. The tables are data; numbers are read from the files beside the weights, so that they cannot disagree with
them.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Bundled:
    """What lies in the folder `<name>` beside this file.

    Attributes:
        name: what `from_pretrained` takes.
        datasets: sets whose train splits it learned from.
        licence: SPDX id of the licence of the weights.
        summary: one sentence.
    """

    name: str
    datasets: tuple[str, ...]
    licence: str
    summary: str

    _complete: ClassVar[str]  # a file that is there where the weights are
    _weights: ClassVar[str]

    @property
    def folder(self) -> Path:
        """What `save_pretrained` wrote, and the card."""
        return ROOT / self.name

    @property
    def available(self) -> bool:
        """Whether this installation holds the weights."""
        return (self.folder / self._complete).is_file()

    @property
    def parameters(self) -> int | None:
        """Number of parameters, counted in the stored weights; None if they are not here."""
        files = sorted(self.folder.glob(self._weights))
        return sum(_count_parameters(file) for file in files) if files else None

    @property
    def metrics(self) -> dict[str, Any]:
        """Contents of `metrics.json`, the measured numbers; empty if there is none."""
        file = self.folder / "metrics.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


@dataclass(frozen=True)
class PretrainedInfo(Bundled):
    """One bundled checkpoint.

    Attributes:
        pipeline_class: name of its pipeline in `fusion_hub`.
        model_class: name of its network in `fusion_hub`.
        modality: what the two inputs are, visible first.
    """

    pipeline_class: str
    model_class: str
    modality: str

    _complete = "model_index.json"
    _weights = "model/*.safetensors"


PRETRAINED: dict[str, PretrainedInfo] = {
    info.name: info
    for info in (
        PretrainedInfo(
            name="difffusenet-msrs",
            pipeline_class="DiffFuseNetPipeline",
            model_class="DiffFuseNetModel",
            modality="visible + infrared",
            datasets=("MSRS", "RoadScene", "TNO"),
            licence="Apache-2.0",
            summary="Visible and thermal infrared images of streets and landscapes, day and night.",
        ),
        PretrainedInfo(
            name="difffusenet-medical",
            pipeline_class="DiffFuseNetPipeline",
            model_class="DiffFuseNetModel",
            modality="CT, PET or SPECT + MRI",
            datasets=("MRI-CT", "MRI-PET", "MRI-SPECT"),
            licence="Apache-2.0",
            summary="Brain slices: MRI with CT, PET or SPECT. For research, not for diagnosis.",
        ),
        PretrainedInfo(
            name="red-small-msrs",
            pipeline_class="REDPipeline",
            model_class="REDModel",
            modality="visible + infrared",
            datasets=("MSRS", "RoadScene", "TNO"),
            licence="Apache-2.0",
            summary="Visible and thermal infrared images by a narrow RED: two reversible diffusion steps.",
        ),
    )
}
"""The table, by name."""


@dataclass(frozen=True)
class SegmenterInfo(Bundled):
    """One bundled SegFormer.

    Attributes:
        classes: how many classes it tells apart.
    """

    classes: int

    _complete = "model.safetensors"
    _weights = "model.safetensors"


SEGMENTERS: dict[str, SegmenterInfo] = {
    info.name: info
    for info in (
        SegmenterInfo(
            name="segformer-b0-msrs",
            classes=9,
            datasets=("MSRS",),
            licence="Apache-2.0",
            summary="Gives each pixel of a visible, infrared or fused street picture one of the nine classes of MSRS.",
        ),
    )
}
"""The table of what comes after fusion, by name."""


def list_models() -> list[PretrainedInfo]:
    """The bundled checkpoints, in the order of the table."""
    return list(PRETRAINED.values())


def resolve(name: str) -> Path | None:
    """Folder of a bundled pipeline; None if none has this name.

    Raises:
        FileNotFoundError: if the name is in the table but this installation lacks the weights.
    """
    return _folder_of(PRETRAINED.get(name))


def resolve_segmenter(name: str) -> Path | None:
    """Folder of a bundled SegFormer; None if none has this name.

    Raises:
        FileNotFoundError: if the name is in the table but this installation lacks the weights.
    """
    return _folder_of(SEGMENTERS.get(name))


def _folder_of(info: Bundled | None) -> Path | None:
    if info is None:
        return None
    if not info.available:
        raise FileNotFoundError(
            f"the weights of {info.name!r} are missing from {info.folder}: install fusion-hub again, or load from a "
            "folder or a Hub id 'owner/name'"
        )
    return info.folder


def _count_parameters(file: Path) -> int:
    """Sum of tensor sizes in a safetensors header: 8 bytes with its length, then JSON."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
