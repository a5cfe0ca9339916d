"""Pairs with a class for each pixel: where the maps of classes lie beside the pictures, and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from fusion_hub.data.generated import DrawnPicture
from fusion_hub.data.layouts import EXTENSIONS, folder_beside
from fusion_hub.data.pictures import READ_ERRORS, ImageSource, Pair, load_picture
from fusion_hub.data.report import some

LABEL_NAMES = ("label", "labels", "segmentation", "segmentation_labels", "seg", "mask", "masks", "annotations")
IGNORED = 255
"""The value of pixels that count neither in training nor in a score."""


@dataclass(frozen=True)
class LabelledPair:
    """A pair of pictures and the class of each of their pixels."""

    pair: Pair
    label_source: ImageSource

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.pair.name

    def label(self, classes: int) -> np.ndarray:
        """The class of each pixel, `(H, W)` uint8, below `classes` or `IGNORED`.

        Raises:
            ValueError: the file cannot be read, has colours in place of class numbers, or has other values.
        """
        try:
            picture = load_picture(self.label_source)
        except READ_ERRORS as error:
            raise ValueError(f"the map of classes of {self.name!r} cannot be read: {error}") from error
        if isinstance(picture, Image.Image) and picture.mode not in ("L", "P", "1", "I;16", "I"):
            raise ValueError(
                f"the map of classes of {self.name!r} has the mode {picture.mode}: give one channel of class numbers"
            )
        values = np.asarray(picture)
        if wrong := [int(v) for v in np.unique(values) if v != IGNORED and not 0 <= v < classes]:
            raise ValueError(
                f"the map of classes of {self.name!r} has the value {wrong[0]}: give classes 0 to {classes - 1}, and "
                f"{IGNORED} where a pixel is to count for nothing"
            )
        return values.astype(np.uint8)


def find_labels(pairs: Sequence[Pair]) -> list[LabelledPair]:
    """The maps of classes that belong to pairs.

    Of files they lie in a folder beside that of the visible pictures (`label/`, `labels/`, `masks/` ..., also with the
    split below it: `label/train/`), by stem. Drawn scenes know their own.

    Raises:
        ValueError: a pair has no map, or several.
    """
    folders: dict[Path, dict[str, list[Path]]] = {}
    labelled, missing = [], []
    for pair in pairs:
        source = pair.visible_source
        if isinstance(source, DrawnPicture):
            labelled.append(LabelledPair(pair, replace(source, band="classes")))
            continue
        if not isinstance(source, Path):
            raise ValueError(f"{pair.name!r} is no file, so it has no folder of labels: give a folder of files")
        if source.parent not in folders:
            folders[source.parent] = _files_by_stem(
                folder_beside(source.parent, LABEL_NAMES, "with the class of each pixel")
            )
        files = folders[source.parent].get(source.stem, [])
        if len(files) > 1:
            raise ValueError(f"{files[0].parent} has several files named {source.stem!r}: leave one")
        if files:
            labelled.append(LabelledPair(pair, files[0]))
        else:
            missing.append(pair.name)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pairs)} pairs have no map of classes: {some(missing)}. Add them, or leave these "
            "pairs out with exclude"
        )
    return labelled


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith("."):
            stems.setdefault(file.stem, []).append(file)
    return stems
