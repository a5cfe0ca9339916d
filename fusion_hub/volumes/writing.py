"""Volumes to NIfTI, NRRD and MetaImage files: voxels and geometry, and nothing else of the sources."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from fusion_hub import files
from fusion_hub.image.luminance import quantize
from fusion_hub.volumes.reading import FILE_SUFFIXES, file_suffix
from fusion_hub.volumes.volume import Volume, VolumeError

NOTICE = "derived by Fusion Hub, not for diagnosis"
WRITTEN_SUFFIXES = tuple(suffix for suffix in FILE_SUFFIXES if suffix != ".mhd")
_GEOMETRY = 1e-4  # mm


def write_volume(
    volume: Volume, target: str | os.PathLike[str], *, dtype: Literal["uint8", "uint16", "float32"] = "float32"
) -> Path:
    """Write a volume with its geometry.

    Args:
        volume: to write.
        target: a .nii, .nii.gz, .nrrd or .mha file, replaced as a whole.
        dtype: "float32" keeps the values; "uint8" and "uint16" store [0, 1], as fused volumes have, as the whole range.

    Returns:
        The file.

    Raises:
        VolumeError: another suffix. OSError: it cannot be written.
    """
    image = volume.image if dtype == "float32" else to_levels(volume, np.uint8 if dtype == "uint8" else np.uint16)
    return write_image(image, Path(target))


def to_levels(volume: Volume, dtype: type[np.unsignedinteger] = np.uint16) -> sitk.Image:
    """Values in [0, 1] as 8- or 16-bit levels."""
    values = volume.array
    levels = quantize(np.ascontiguousarray(values).reshape(len(values), -1), dtype).reshape(values.shape)
    image = sitk.GetImageFromArray(levels)
    image.CopyInformation(volume.image)
    return image


def write_image(image: sitk.Image, target: Path) -> Path:
    """Write an image and read its header back: SimpleITK may report nothing where a disk is full."""
    suffix = check_target(target)
    plain = sitk.Image(image)
    for key in plain.GetMetaDataKeys():
        plain.EraseMetaData(key)
    plain.SetMetaData("ITK_FileNotes", NOTICE)
    with files.write_aside(target) as aside:
        named = aside.with_name(
            f"{aside.name.removesuffix('.tmp')}{suffix}"
        )  # SimpleITK chooses the format by the name
        try:
            sitk.WriteImage(plain, str(named), useCompression=suffix != ".nii")
            _check_written(plain, named)
            os.replace(named, aside)
        except RuntimeError as error:
            raise OSError(f"{target} cannot be written: check the free space of the disk") from error
        finally:
            named.unlink(missing_ok=True)
    return target


def check_target(target: Path) -> str:
    """The suffix of a file to write.

    Raises:
        VolumeError: it is none that volumes are written to.
    """
    suffix = file_suffix(target)
    if suffix not in WRITTEN_SUFFIXES:
        names = ", ".join(WRITTEN_SUFFIXES)
        raise VolumeError(f"{target} has no suffix of a volume: end it with one of {names}, or .dcm for a DICOM folder")
    return suffix


def _check_written(image: sitk.Image, file: Path) -> None:
    again = sitk.ReadImage(str(file))
    geometry = [np.array([*one.GetOrigin(), *one.GetSpacing(), *one.GetDirection()]) for one in (image, again)]
    rounding = _GEOMETRY + 1e-7 * np.abs(geometry[0]).max()  # of NIfTI, whose numbers are float32
    same = again.GetSize() == image.GetSize() and np.abs(geometry[0] - geometry[1]).max() <= rounding
    if not same or not np.array_equal(sitk.GetArrayViewFromImage(again), sitk.GetArrayViewFromImage(image)):
        raise OSError(f"{file.name} does not hold what was written: check the free space of the disk")
