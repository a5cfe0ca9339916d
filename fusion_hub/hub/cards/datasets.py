"""The sets that models learn from: where they come from, and what their sources state of their terms."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_hub.hub.cards.spec import is_hub_id

SPLITS = ("train", "training", "val", "validation", "test")
LOCAL_FOLDERS = ("data", "datasets", "dataset", "runs", "shared")
"""First parts of a path that looks like a Hub id, but is a folder of two parts."""


@dataclass(frozen=True)
class DataSource:
    """A set that a checkpoint may have learned from.

    Attributes:
        title: its name.
        source: where the pictures are from.
        licence: what the source states, as it states it.
        medical: pairs of MRI with CT, PET or SPECT.
        caveat: what numbers on its test pairs do not say, or terms that a reader must not miss; one sentence or none.
    """

    title: str
    source: str
    licence: str
    medical: bool = False
    caveat: str = ""


_UNSTATED = "not stated"
_TNO = "TNO Image Fusion Dataset, by way of github Linfeng-Tang/Evaluation-for-Image-Fusion"
_ATLAS = "Harvard Whole Brain Atlas (AANLIB), by way of github xianming-gu/Havard-Medical-Image-Fusion-Datasets"
_LLVIP = (
    '"made freely available to academic and non-academic entities for non-commercial purposes"; "may not use the '
    'dataset or any derivative work for commercial purposes"; "we prohibit you from using the Datasets in any manner '
    'to identify or invade the privacy of any person"'
)
_SLICES = "The slices are of one brain atlas, and many are neighbours of each other."
DATA_SOURCES: dict[str, DataSource] = {
    "msrs": DataSource(
        "MSRS",
        "github Linfeng-Tang/MSRS (PIAFusion, 2022), by way of github TWNMT/CV",
        _UNSTATED,
        caveat="The usual test images of MSRS come from the same drives as its train split.",
    ),
    "roadscene": DataSource(
        "RoadScene",
        "github hanna-xu/RoadScene (images from FLIR video)",
        _UNSTATED,
        caveat="The usual test images of RoadScene come from the same drives as its other pairs.",
    ),
    "tno": DataSource(
        "TNO",
        _TNO,
        _UNSTATED,
        caveat="A few of the usual test images of TNO come from the same sequences as its other pairs.",
    ),
    "vifb": DataSource(
        "VIFB", "github xingchenzhang/VIFB", 'not stated; "making these images publicly available for research"'
    ),
    "llvip": DataSource(
        "LLVIP",
        "github bupt-ai-cz/LLVIP",
        _LLVIP,
        caveat="LLVIP forbids commercial use of derivative works; judge whether these weights are one.",
    ),
    "m3fd": DataSource("M3FD", "github Beate-Suy-Zhang/DCEvo and RollingPlain/SAGE_IVIF", _UNSTATED),
    "fmb": DataSource("FMB", "github Beate-Suy-Zhang/DCEvo", _UNSTATED),
    "mri_ct": DataSource("MRI-CT", _ATLAS, _UNSTATED, medical=True, caveat=_SLICES),
    "mri_pet": DataSource(
        "MRI-PET",
        _ATLAS,
        _UNSTATED,
        medical=True,
        caveat="The train split of MRI-PET appears to be one head. Its 42 test pairs hold 21 PET pictures, each twice: "
        "they are not independent.",
    ),
    "mri_spect": DataSource("MRI-SPECT", _ATLAS, _UNSTATED, medical=True, caveat=_SLICES),
    "generated": DataSource(
        "generated",
        "scenes drawn by `fusion_hub.data.generated`, no photographs",
        "Apache-2.0, that of the package",
        caveat="Drawn scenes teach that training runs, not what real sensors see.",
    ),
}
"""By the last part of their path, as in `data/msrs`."""


@dataclass(frozen=True)
class TrainingSet(DataSource):
    """A set as one run used it: `split` and number of `pairs`; `hub_id` if it is a dataset of the Hub."""

    key: str = ""
    split: str | None = None
    pairs: int | None = None
    hub_id: str | None = None


def describe_set(entry: Mapping[str, Any], terms: Mapping[str, str]) -> TrainingSet:
    """A set of `training.json` with its source and terms.

    Args:
        entry: `path` as `PairedDataset.open` takes it, `split`, `pairs`.
        terms: for sets that are not in `DATA_SOURCES`: source and licence, in a few words, by name.

    Raises:
        ValueError: the terms of the set are not known.
    """
    path = str(entry["path"])
    hub_id = _hub_id(path)
    key = hub_id or set_key(path)
    if key in terms:
        known = DataSource(key, terms[key], "as stated beside it")
    elif hub_id is not None:
        known = DataSource(key, f"https://huggingface.co/datasets/{hub_id}", "see its card")
    elif key in DATA_SOURCES:
        known = DATA_SOURCES[key]
    else:
        raise ValueError(
            f"the card must name the terms of the training set {key!r}, which is not among {', '.join(DATA_SOURCES)}: "
            f'state them, such as "{key}=own pictures, CC-BY-4.0"'
        )
    return TrainingSet(**vars(known), key=key, split=entry["split"], pairs=entry["pairs"], hub_id=hub_id)


def set_key(path: str) -> str:
    """Name of a set from its path: its last part that is not a split; nothing of the folders above."""
    parts = [part for part in re.split(r"[/\\]", path) if part]
    while len(parts) > 1 and parts[-1].lower() in SPLITS:
        parts.pop()
    return parts[-1].split(":")[0] if parts else path


def _hub_id(path: str) -> str | None:
    """`path` if it is a Hub id, by the rule of `PairedDataset.open`: a folder of that name comes first."""
    local = path.split("/")[0] in LOCAL_FOLDERS or path.split("/")[-1] in DATA_SOURCES or Path(path).exists()
    return path if is_hub_id(path) and not local else None
