"""A volume: physical values on a grid in space, without anything that identifies a person."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import SimpleITK as sitk

Modality: TypeAlias = Literal["CT", "MR", "PT", "NM"]
MODALITIES: tuple[Modality, ...] = ("CT", "MR", "PT", "NM")
MAX_VOXELS = 2**28
"""512 x 512 x 1024, 1 GiB as float32."""


class VolumeError(ValueError):
    """A volume that cannot be read or used, in one sentence."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Physical values on a grid in space.

    Attributes:
        image: three dimensions, float32; origin, spacing and direction in mm, left-posterior-superior.
        modality: "CT", "MR", "PT" (PET), "NM" (SPECT), or None where the file does not say.
        unit: of the values: "HU", "SUV", "Bq/ml", or "" where they are arbitrary.
        window: the values that become black and white; None for the modality's default.
        source: what it was read from, such as "DICOM series"; no name of a file.
        notes: what a user should know, one sentence each, without a full stop.
        space: a hash of the DICOM frame of reference; volumes that share it need no registration. None where unknown.
    """

    image: sitk.Image
    modality: Modality | None = None
    unit: str = ""
    window: tuple[float, float] | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    space: str | None = None

    @cached_property
    def array(self) -> np.ndarray:
        """Values `(S, R, C)` float32: slices, rows, columns; read only.

        A copy, as SimpleITK's views show freed memory once their image is gone.
        """
        values = sitk.GetArrayFromImage(self.image)
        values.flags.writeable = False
        return values


def check_values(image: sitk.Image, name: str) -> None:
    """Raise a `VolumeError` for values that are not finite or all the same."""
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise VolumeError(f"{name} has {bad} voxels that are NaN or infinite: replace them by a number")
    if low == high:
        raise VolumeError(f"{name} is constant (value {low:g} everywhere): check that it holds the right data")


def check_size(size: tuple[int, ...], name: str, most: int = MAX_VOXELS) -> None:
    """Raise a `VolumeError` for a volume of more than `most` voxels."""
    if np.prod(size, dtype=np.float64) > most:
        shape = " x ".join(map(str, size))
        raise VolumeError(f"{name} has {shape} voxels, more than {most:,}: crop it or reduce its resolution")


def from_array(
    values: np.ndarray, origin: Sequence[float], spacing: Sequence[float], direction: Sequence[float], **known: Any
) -> Volume:
    """A volume of values `(S, R, C)` with its geometry in mm, left-posterior-superior.

    Args:
        values: stored as float32.
        origin, spacing: along columns, rows and slices, 3 numbers each.
        direction: 9 numbers, row by row, whose columns are the axes.
        known: other attributes of the volume, such as `modality`.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(values, dtype=np.float32))
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return Volume(image, **known)


def upright(volume: Volume) -> Volume:
    """The same volume with slices from feet to head, rows from front to back, columns from right to left."""
    return replace(volume, image=sitk.DICOMOrient(volume.image, "LPS"))
