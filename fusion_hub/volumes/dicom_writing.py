"""Fused volumes as a DICOM series of secondary captures that keep their place in space."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from highdicom.sc import SCImage
from pydicom import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from fusion_hub import __version__, files
from fusion_hub.volumes.dicom_frames import sort_frames
from fusion_hub.volumes.dicom_series import Series, choose_series
from fusion_hub.volumes.volume import VolumeError

_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName")
_SERIES_NUMBER = 9000  # far from those of scanners


@dataclass(frozen=True)
class Identity:
    """Whom and which images a result was derived from; only made on request."""

    reason: str
    tags: Dataset
    references: tuple[tuple[str, str], ...]  # SOP class and instance of each source image


def read_identity(sources: Sequence[tuple[Path, str | int | None]], reason: str) -> Identity:
    """Patient, study and images of DICOM sources, each a place and its series; the first is the one whose grid is kept.

    Raises:
        VolumeError: no reason is given, a source is not DICOM, or they belong to different patients.
    """
    if not reason.strip():
        raise VolumeError("keeping the identity needs a reason, which is stored with the result: state it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes the values of tags
        return _identity([choose_series(place, wanted) for place, wanted in sources], reason)


def _identity(series: list[Series], reason: str) -> Identity:
    first = series[0].headers[0]
    if len({str(one.headers[0].get("PatientID")) for one in series}) > 1:
        raise VolumeError(
            "the two series have different patient IDs: a result cannot keep both, so leave the identity out"
        )
    tags = Dataset()
    for name in (*_PATIENT, *_STUDY, "FrameOfReferenceUID"):
        if name in first:
            setattr(tags, name, first.get(name))
    used = [one.headers[number] for one in series for number in sorted({f.file for f in sort_frames(one).frames})]
    images = dict.fromkeys((str(header.SOPClassUID), str(header.SOPInstanceUID)) for header in used)
    return Identity(reason.strip(), tags, tuple(images))


def write_dicom(image: sitk.Image, folder: Path, description: str, identity: Identity | None = None) -> Path:
    """Write a volume as single-frame secondary captures, one file for each slice.

    Secondary Capture, since fused gray levels are neither HU nor a signal of MR; with the Image Plane and Frame of
    Reference modules, so that viewers stack the slices in space. Without `identity` all UIDs are new and nothing refers
    to the sources.

    Args:
        image: uint8 or uint16 gray, or RGB of uint8.
        folder: a new or empty folder, written as a whole.
        description: of the series, such as "CT + MR"; the note "derived, not for diagnosis" is added.
        identity: of the sources, to be kept.

    Raises:
        VolumeError: the folder holds something. OSError: it cannot be written.
    """
    check_folder(folder)
    slices = sitk.GetArrayViewFromImage(image)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    study = identity.tags.get("StudyInstanceUID") if identity else None
    uids = {"study": study or generate_uid(), "series": generate_uid()}
    frame = (identity.tags.get("FrameOfReferenceUID") if identity else None) or generate_uid()
    with files.write_aside(folder) as aside:
        aside.mkdir()
        for number, pixels in enumerate(slices, 1):
            single = _slice(pixels, number, uids, description, identity)
            single.FrameOfReferenceUID, single.PositionReferenceIndicator = frame, ""
            position = image.TransformIndexToPhysicalPoint((0, 0, number - 1))
            single.ImagePositionPatient = [_decimal(value) for value in position]
            single.ImageOrientationPatient = [_decimal(value) for value in direction[:, :2].T.flat]
            across, down, through = image.GetSpacing()
            single.PixelSpacing = [_decimal(down), _decimal(across)]
            single.SliceThickness = single.SpacingBetweenSlices = _decimal(through)
            single.save_as(aside / f"{number:05d}.dcm", enforce_file_format=True)
    return folder


def check_folder(folder: Path) -> None:
    """Refuse a file, and a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VolumeError(f"{folder} exists already: give a new folder")


def _slice(
    pixels: np.ndarray, number: int, uids: dict[str, str], description: str, identity: Identity | None
) -> SCImage:
    kept = identity.tags if identity else Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names of one component
        single = SCImage(
            np.array(pixels),
            photometric_interpretation="RGB" if pixels.ndim == 3 else "MONOCHROME2",
            bits_allocated=8 * pixels.dtype.itemsize,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=number,
            manufacturer="Fusion Hub",
            software_versions=__version__,
            series_description=f"{description} derived, not for diagnosis"[-64:],
            patient_id=str(kept.get("PatientID") or "anonymous"),
            patient_name=str(kept.get("PatientName") or "Anonymous^"),
            patient_birth_date=_readable(DA, kept.get("PatientBirthDate")),
            patient_sex=kept.get("PatientSex") if kept.get("PatientSex") in ("M", "F", "O") else None,
            study_id=kept.get("StudyID") or None,
            accession_number=kept.get("AccessionNumber") or None,
            study_date=_readable(DA, kept.get("StudyDate")),
            study_time=_readable(TM, kept.get("StudyTime")),
            referring_physician_name=str(kept.get("ReferringPhysicianName") or "") or None,
            study_instance_uid=uids["study"],
            series_instance_uid=uids["series"],
        )
    single.SpecificCharacterSet = "ISO_IR 192"
    single.ImageType = ["DERIVED", "SECONDARY"]
    del single.PatientOrientation  # the Image Plane module says it in numbers
    single.DerivationDescription = f"{description} fused by Fusion Hub {__version__}, not for diagnosis"
    if identity is None:
        single.PatientIdentityRemoved = "YES"
        single.DeidentificationMethod = "Fusion Hub: only voxels and geometry of the sources were used"
    else:
        single.PatientIdentityRemoved = "NO"
        single.ImageComments = f"identity kept: {identity.reason}"
        single.SourceImageSequence = [_reference(*one) for one in identity.references]
    return single


def _readable(kind: type[DA] | type[TM], value: Any) -> Any:
    """A date or time; None where it is missing or none of DICOM."""
    try:
        return kind(value) if value else None
    except ValueError:
        return None


def _reference(kind: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, instance
    return item


def _decimal(value: float) -> str:
    """At most 16 characters, which DICOM allows, with all the precision that fits."""
    return next(text for digits in range(15, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)
