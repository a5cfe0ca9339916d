"""Radiometric photos that hold both pictures of a pair."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_hub import data, image, rigs
from fusion_hub.cli.common import wrong_use

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class VisiblePart:
    """The visible picture inside a radiometric photo, as a source of a pair."""

    file: Path

    def __call__(self) -> "np.ndarray":
        """`(H, W[, 3])` uint8. Raises a `ValueError` where there is none."""
        visible = image.read_radiometric(self.file, "the photo").visible
        if visible is None:
            raise ValueError(no_visible(self.file))
        return image.read_picture({"bytes": visible, "path": None}, f"the visible picture in {self.file}").pixels

    def exists(self) -> bool:
        """Whether the file is radiometric and holds a visible picture."""
        return is_photo(self.file) and image.read_radiometric(self.file, "the photo").visible is not None

    def rig(self) -> "rigs.Rig":
        """How the infrared picture lies in it."""
        return rigs.photo_rig(image.read_radiometric(self.file, "the photo"))

    def inherit(self, fused: Any) -> None:
        """Give a result camera, date and position of the photo, which its inner picture lacks."""
        metadata = image.read_picture(self.file, role="visible").metadata
        fused.info.update({key: value for key, value in vars(metadata).items() if value and key != "icc_profile"})


def no_visible(file: Path) -> str:
    """The sentence for a photo without a visible picture."""
    return f"{file} holds no visible picture: give one beside it, or draw its temperatures alone with --palette iron"


def why_alone(file: Path) -> str:
    """Why a file without a partner cannot be fused."""
    try:
        image.read_radiometric(file)
    except ValueError as error:
        if "holds no radiometric data" not in str(error):
            return str(error)
    return f"{file} is a single image: give the INFRARED image too, or a radiometric photo of FLIR, which holds both"


def is_photo(file: Path) -> bool:
    """Whether a file has radiometric data; also of a damaged one, whose reader says what is wrong."""
    if not file.is_file():
        return False
    try:
        return image.read_header(file, role="infrared").format == "FLIR"
    except ValueError as error:
        return "FLIR block" in str(error)


@wrong_use()
def find_photos(words: Sequence[str], alone: bool) -> "tuple[list[data.Pair], bool] | None":
    """A pair for each radiometric photo, and whether it is a single one; None where the words name something else.

    Args:
        words: a file, a folder of photos, a quoted pattern, or more than two files.
        alone: take a file that is no photo, too.

    Raises a `ValueError` for one file that is no photo.
    """
    paths = [Path(word) for word in dict.fromkeys(words)]  # one photo may be given as both of its pictures
    if len(words) == 2 and len(paths) == 1 and not is_photo(paths[0]):
        return None
    if len(paths) == 1 and paths[0].is_file():
        if not alone and not is_photo(paths[0]):
            raise ValueError(why_alone(paths[0]))
        return _pairs(paths), True
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(file for file in paths[0].iterdir() if file.suffix.lower() in image.EXTENSIONS)
    elif len(paths) == 1:
        paths = [Path(name) for name in sorted(glob.glob(words[0], recursive=True))]
    elif len(paths) == 2:  # a pair
        return None
    return (_pairs(paths), False) if paths and all(map(is_photo, paths)) else None


def _pairs(files: Sequence[Path]) -> "list[data.Pair]":
    """A pair of each photo."""
    return [data.Pair(file.stem, VisiblePart(file), file) for file in files]
