"""Volumes from files: DICOM series, enhanced multi-frame DICOM, NIfTI, NRRD and MetaImage."""

import hashlib
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from fusion_hub.volumes.dicom_frames import has_physical_unit, read_values, sort_frames
from fusion_hub.volumes.dicom_series import Series, choose_series, is_dicom
from fusion_hub.volumes.suv import body_weight_factor
from fusion_hub.volumes.volume import (
    MAX_VOXELS,
    MODALITIES,
    Modality,
    Volume,
    VolumeError,
    check_size,
    check_values,
)

FILE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
_KINDS = {".nii": "NIfTI", ".nii.gz": "NIfTI", ".nrrd": "NRRD", ".mha": "MetaImage", ".mhd": "MetaImage"}
_PET_UNITS = {"BQML": "Bq/ml", "GML": "SUV", "CNTS": "counts"}
# The terms of the standard (PS3.3 C.11.1.1.2). Other texts are not repeated: anybody can type anything there.
_CT_UNITS = ("HU", "HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "OD", "US")
_HEADER_BYTES = 2**16
_NOT_ORTHONORMAL = 1e-3
_UNREADABLE = (
    *(OSError, EOFError, ValueError, OverflowError, zlib.error),
    *(nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError),
)
_ANATOMICAL_SPACES = (  # of NRRD; the others are those of a device
    *("left-posterior-superior", "right-anterior-superior", "left-anterior-superior"),
    *("lps", "ras", "las", "lpst", "rast", "last"),
)


def read_volume(
    place: str | os.PathLike[str],
    *,
    series: str | int | None = None,
    modality: Modality | None = None,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """Read a volume in physical values.

    DICOM slices are ordered by their position along the normal, whatever their names and numbers. Each slice has its
    own rescale slope and intercept. PET in Bq/ml becomes SUV by body weight where its tags suffice.

    Args:
        place: a folder with the files of a DICOM series, possibly shuffled and beside other files; a DICOM file, single
            or enhanced; a NIfTI (.nii, .nii.gz), NRRD (.nrrd) or MetaImage (.mha, .mhd) file.
        series: of several DICOM series, the one to read: its number, its UID, or its position in the list, `#2`. `/3`
            after it, or alone, is the third of several volumes in a series or in a file of four dimensions.
        modality: "CT", "MR", "PT" or "NM", for files that do not say.
        max_voxels: larger volumes are refused by their headers.

    Raises:
        VolumeError: it cannot be read as one regular volume; the message says why.
    """
    path = Path(place)
    if modality is not None and modality not in MODALITIES:
        raise VolumeError(f"modality={modality!r} is unknown: give one of {', '.join(MODALITIES)}")
    if not path.exists():
        raise VolumeError(
            f"{path} does not exist: give a folder of DICOM files, or a DICOM, NIfTI, NRRD or MetaImage file"
        )
    suffix = file_suffix(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes the values of tags, at their first use
        if not path.is_file() or not suffix or is_dicom(path):
            volume = _read_dicom(choose_series(path, series), modality, max_voxels)
        elif _KINDS[suffix] == "NIfTI":
            volume = _read_nifti(path, series, modality, max_voxels)
        else:
            volume = _read_file(path, _KINDS[suffix], series, modality, max_voxels)
    check_values(volume.image, f"the {volume.source}")
    return volume


def file_suffix(path: Path) -> str:
    """The suffix of a volume's file, such as ".nii.gz"; "" for other names."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(FILE_SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def _read_dicom(series: Series, modality: Modality | None, max_voxels: int) -> Volume:
    header = series.headers[0]
    stated = header.get("Modality")
    if stated in MODALITIES and modality not in (None, stated):
        raise VolumeError(f"the series says that it is {stated}, not {modality}: leave the modality out")
    grid = sort_frames(series)
    values = read_values(series, grid, max_voxels)
    found: Modality | None = stated if stated in MODALITIES else modality
    unit, notes = _dicom_unit(found, series, values)
    if header.get("PhotometricInterpretation") == "MONOCHROME1" and not has_physical_unit(header):
        notes.append("its low values are meant to be shown white (MONOCHROME1), so they were inverted")
    image = sitk.GetImageFromArray(values)
    image.SetOrigin(grid.origin)
    image.SetSpacing(grid.spacing)
    image.SetDirection(grid.direction)
    frame = str(header.get("FrameOfReferenceUID") or "")
    space = hashlib.blake2b(frame.encode(), digest_size=8).hexdigest() if frame else None
    kind = "DICOM series" if len(series.files) > 1 else "DICOM file"
    return Volume(image, found, unit, None, kind, tuple(notes), space)


def _dicom_unit(modality: Modality | None, series: Series, values: np.ndarray) -> tuple[str, list[str]]:
    """The unit of a series' values, and notes; PET values become SUV in place where the tags suffice."""
    header = series.headers[0]
    if modality == "CT":
        stated = str(header.get("RescaleType") or "HU").upper()
        if "RescaleIntercept" not in header and "SharedFunctionalGroupsSequence" not in header:
            return "", ["the CT has no RescaleIntercept, which a CT must have, so its values may not be HU"]
        return (
            (stated, []) if stated in _CT_UNITS else ("", ["the CT does not say in a term of DICOM what its unit is"])
        )
    if modality == "PT":
        stated = str(header.get("Units") or "")
        unit = _PET_UNITS.get(stated, "")
        if not unit:
            return "", ["the PET does not say in a term that is known here what its unit is"]
        if unit == "SUV" and header.get("SUVType") not in (None, "", "BW"):
            return unit, ["the SUVs of the PET are not by body weight (SUVType)"]
        if unit != "Bq/ml":
            return unit, []
        factor, why = body_weight_factor(series.headers)
        if factor is None:
            return unit, [f"the PET stays in Bq/ml, since {why}"]
        np.multiply(values, np.float32(factor), out=values)
        return "SUV", []
    return ("counts" if modality == "NM" else ""), []


def _read_file(path: Path, kind: str, series: str | int | None, modality: Modality | None, max_voxels: int) -> Volume:
    notes = _check_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO({"NRRD": "NrrdImageIO", "MetaImage": "MetaImageIO"}[kind])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(_reason(error, path, kind)) from None
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if components != 1:
        raise VolumeError(f"{path} has {components} components in each voxel, such as color: give a file with one")
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()).lower():
        raise VolumeError(f"{path} has complex values: give their magnitude")
    if len(size) < 3:
        raise VolumeError(f"{path} is a picture of two dimensions, not a volume: use fusion-hub fuse, or give a volume")
    extra = size[3:]
    number = _volume_number(path, extra, series)
    check_size(size[:3], str(path), max_voxels)
    _check_axes(np.reshape(reader.GetDirection(), (len(size),) * 2)[:3, :3], path)
    image = _voxels(reader, path, kind, number)
    return Volume(image, modality, "HU" if modality == "CT" else "", None, f"{kind} file", tuple(notes))


def _read_nifti(path: Path, series: str | int | None, modality: Modality | None, max_voxels: int) -> Volume:
    """By nibabel: SimpleITK reads NaN as 0, takes the spacing of an sform from other fields, and knows no NIfTI-2."""
    try:
        with nibabel.imageglobals.LoggingOutputSuppressor():  # of what it mends in the header
            stored: Any = nibabel.load(path)
        with nibabel.openers.Opener(str(path)) as stream:
            header = type(stored.header).from_fileobj(stream, check=False)
        shape = stored.shape
        kind = header.get_data_dtype()
    except _UNREADABLE as error:
        raise VolumeError(_reason(error, path, "NIfTI")) from None
    if kind.fields:
        raise VolumeError(
            f"{path} has {len(kind.fields)} components in each voxel, such as color: give a file with one"
        )
    if kind.kind == "c":
        raise VolumeError(f"{path} has complex values: give their magnitude")
    if len(shape) < 3:
        raise VolumeError(f"{path} is a picture of two dimensions, not a volume: use fusion-hub fuse, or give a volume")
    if min(shape) < 1:
        raise VolumeError(f"{path} states a size of {' x '.join(map(str, shape))} voxels: it is damaged")
    number = _volume_number(path, tuple(shape[3:]), series)
    check_size(shape[:3], str(path), max_voxels)
    place, notes = nifti_place(header, path)
    try:
        voxels = stored.dataobj[:, :, :, number] if number is not None else stored.dataobj[:, :, :]
    except _UNREADABLE as error:
        raise VolumeError(_reason(error, path, "NIfTI")) from None
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.reshape(voxels.shape[:3]).T, dtype=np.float32))
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    _check_axes(place[:3, :3] / spacing, path)
    u, _, v = np.linalg.svd(place[:3, :3] / spacing)  # the nearest rotation, which takes the rounding away
    image.SetOrigin(place[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((u @ v).flatten().tolist())
    return Volume(image, modality, "HU" if modality == "CT" else "", None, "NIfTI file", notes)


def nifti_place(header: Any, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine of voxels to mm, `(4, 4)`, left-posterior-superior, and notes: the sform before the qform.

    Raises:
        VolumeError: numbers that are not finite, a spacing of 0, or forms that disagree about left and right.
    """
    codes = {form: int(header[f"{form}_code"]) for form in ("sform", "qform")}
    fields = {"sform": ("srow_x", "srow_y", "srow_z"), "qform": ("quatern_b", "quatern_c", "quatern_d")}
    used = [name for form, names in fields.items() if codes[form] > 0 for name in names]
    used += ["qoffset_x", "qoffset_y", "qoffset_z"] if codes["qform"] > 0 else []
    for name in ("pixdim", *used):
        numbers = np.ravel(header[name])[:4].tolist()
        if not np.isfinite(numbers).all():
            raise VolumeError(f"{path} does not say where it lies: {name} is {numbers}")
    forms: dict[str, np.ndarray] = {}
    try:
        forms |= {"sform": header.get_sform()} if codes["sform"] > 0 else {}
        forms |= {"qform": header.get_qform()} if codes["qform"] > 0 else {}
    except ValueError:  # quaternions of no rotation
        raise VolumeError(f"{path} does not say where it lies: its qform is no rotation") from None
    scale = {"meter": 1000.0, "micron": 0.001}.get(header.get_xyzt_units()[0], 1.0)
    notes: list[str] = []
    if not forms:
        notes.append("the NIfTI file does not say how it lies in space (qform and sform are 0), so left may be right")
        forms["spacing"] = np.diag([*np.asarray(header["pixdim"][1:4], dtype=np.float64), 1.0])
        forms["spacing"][:2] *= -1  # as SimpleITK reads it: rows and columns to the left and to the back
    affines = [np.diag([scale, scale, scale, 1.0]) @ form for form in forms.values()]
    if not all(np.linalg.norm(affine[:3, :3], axis=0).min() > 0 for affine in affines):
        raise VolumeError(f"{path} has a spacing of 0 mm: give it the distances of its voxels")
    if len(affines) == 2:
        mirrored = np.linalg.det(affines[0][:3, :3]) * np.linalg.det(affines[1][:3, :3]) < 0
        if mirrored:
            raise VolumeError(
                f"{path} has a qform and an sform that disagree about left and right: correct one of them"
            )
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [
            *header.get_data_shape()[:3],
            1,
        ]
        apart = float(np.linalg.norm(corners @ (affines[0] - affines[1]).T, axis=1).max())
        if apart > 0.1 * np.linalg.norm(affines[0][:3, :3], axis=0).min():
            notes.append(
                f"the NIfTI file states two places, up to {apart:.1f} mm apart: its sform was used, not its qform"
            )
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affines[0], tuple(notes)


def _check_axes(direction: np.ndarray, path: Path) -> None:
    if np.abs(direction.T @ direction - np.eye(3)).max() > _NOT_ORTHONORMAL:
        raise VolumeError(f"{path} has axes that are not at right angles: resample it to a regular grid")


def _voxels(reader: sitk.ImageFileReader, path: Path, kind: str, number: int | None) -> sitk.Image:
    if number is not None:
        size = reader.GetSize()
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
        reader.SetExtractIndex([0, 0, 0, number, *[0] * (len(size) - 4)])
    try:
        image = sitk.Cast(reader.Execute(), sitk.sitkFloat32)
    except RuntimeError as error:
        raise VolumeError(_reason(error, path, kind)) from None
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


def _volume_number(path: Path, extra: tuple[int, ...], series: str | int | None) -> int | None:
    """Which volume of a file with more than three dimensions, from 0; None for three dimensions."""
    count = int(np.prod(extra)) if extra else 1
    if not extra:
        if series is not None:
            raise VolumeError(f"{path} is a file of one volume, but series {series} was asked for: leave it out")
        return None
    if count == 1:
        return 0
    if len(extra) > 1:
        raise VolumeError(f"{path} has {3 + len(extra)} dimensions: give a file with three")
    advice = f"choose one, /1 to /{count}, as the series"
    if series is None:
        raise VolumeError(f"{path} holds {count} volumes, as series over time or diffusion directions do: {advice}")
    named = re.fullmatch(r"(?:#?1/|/|#)?(\d{1,9})", str(series).strip())  # the file is its only series
    if not named or not 1 <= int(named[1]) <= count:
        raise VolumeError(f"{path} holds {count} volumes and none named {str(series)!r}: {advice}")
    return int(named[1]) - 1


def _check_header(path: Path) -> list[str]:
    """Refuse a text header that names other files, a unit other than mm, or no number of dimensions; give notes.

    A stranger's header could name any file of this machine, so nothing of a header may stand beyond what is checked
    here. A number of dimensions below 1 ends the process in SimpleITK 2.5.
    """
    nrrd = file_suffix(path) == ".nrrd"
    with path.open("rb") as stream:
        start = stream.read(_HEADER_BYTES)
    header, end, _ = start.replace(b"\r\n", b"\n").partition(b"\n\n") if nrrd else (start, b"", b"")
    stated = {}
    for line in re.split(rb"[\r\n]", header):
        key, *rest = re.split(rb":" if nrrd else rb"[=:]", line, maxsplit=1)
        key, named = key.strip().lower(), b"".join(rest).strip().decode("ascii", "replace")
        stated[key] = named
        if key in (b"dimension", b"ndims") and not (named.isdecimal() and 1 <= int(named[:9]) <= 10):
            number = named if re.fullmatch(r"-?\d{1,9}", named) else "no number"  # other text may name a person
            raise VolumeError(f"{path} states {number} as its number of dimensions: give a file with three")
        if key in (b"data file", b"datafile") or (
            key == b"elementdatafile" and named.upper() != "LOCAL" and not _is_beside(path, named)
        ):
            raise VolumeError(
                f"{path} keeps its voxels in another place ({named}): give one file with header and voxels"
            )
        if key == b"space units" and set(re.findall(r'"([^"]*)"', named)) - {"mm", ""}:
            raise VolumeError(f"{path} is measured in other units than mm: convert its spacing and origin")
        if key == b"elementdatafile":
            return []
    if not end:
        raise VolumeError(f"{path} has no end of its header within {_HEADER_BYTES:,} bytes: it is damaged")
    space = stated.get(b"space", "").lower().removesuffix("-time")
    if nrrd and (space not in _ANATOMICAL_SPACES or b"space directions" not in stated):
        return ["the NRRD file does not say how it lies in space (space or space directions), so left may be right"]
    return []


def _is_beside(path: Path, named: str) -> bool:
    return (
        Path(named).name == named and named.upper() != "LIST" and "%" not in named and (path.parent / named).is_file()
    )


def _reason(error: Exception, path: Path, kind: str) -> str:
    text = str(error)
    if "orthonormal" in text or "determinant" in text:
        return f"{path} has axes that are not at right angles: resample it to a regular grid"
    return f"{path} cannot be read as {kind}, it is cut short or damaged: copy it again"
