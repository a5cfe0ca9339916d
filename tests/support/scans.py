"""Small DICOM series made by pydicom, with planted identity."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "NM": "1.2.840.10008.5.1.4.1.1.20",
}
ENHANCED = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.130",
}
PLANTED = {
    "PatientName": "Plantedname^Secretia",
    "PatientID": "PLANTEDID4711",
    "PatientBirthDate": "19330207",
    "PatientAddress": "Plantedstreet 5",
    "AccessionNumber": "PLANTEDACC",
    "InstitutionName": "Plantedhospital",
    "ReferringPhysicianName": "Planteddoctor^Hidden",
    "StudyDescription": "Plantedstudy",
    "SeriesDescription": "Plantedseries",
    "ProtocolName": "Plantedprotocol",
    "StudyDate": "20190517",
    "DeviceSerialNumber": "PLANTEDSERIAL",
}

CRASH = (
    b"ObjectType = Image\nNDims = -1\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
    b"DimSize = 11 10 9\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
) + bytes(1980)
"""A MetaImage file at which SimpleITK 2.5.7 crashes."""


def rotation(about_x: float, about_z: float) -> np.ndarray:
    """Of angles in degrees, `(3, 3)`."""
    x, z = np.deg2rad([about_x, about_z])
    tilt = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return turn @ tilt


def header(modality: str, kind: str, samples: np.ndarray, **tags: Any) -> Dataset:
    """Tags of an image of `(rows, columns)` or `(frames, rows, columns)` integer samples, with its pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = UID(kind), generate_uid(), modality
    ds.StudyInstanceUID = ds.SeriesInstanceUID = ds.FrameOfReferenceUID = generate_uid()
    for name, value in PLANTED.items():
        setattr(ds, name, value)
    ds.Rows, ds.Columns = samples.shape[-2:]
    if samples.ndim == 3:
        ds.NumberOfFrames = len(samples)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * samples.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(samples.dtype.kind == "i")
    ds.PixelData = samples.tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def series(
    samples: np.ndarray,
    modality: str = "CT",
    *,
    spacing: Sequence[float] = (0.8, 1.2, 3.0),
    origin: Sequence[float] = (-20.0, 31.5, 7.25),
    axes: np.ndarray | None = None,
    slopes: Sequence[float] | None = None,
    intercept: float = -1024.0,
    **tags: Any,
) -> list[Dataset]:
    """Slices `(S, R, C)` as images in space; `spacing` is between columns, rows, slices; `axes` has them as columns."""
    axes = np.eye(3) if axes is None else axes
    shared = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), "SeriesNumber": 3, **tags}
    shared.setdefault("FrameOfReferenceUID", generate_uid())
    images = []
    for number, plane in enumerate(samples):
        one = header(modality, CLASSES[modality], plane, **shared)
        one.InstanceNumber = 1000 - 7 * number  # not in order of position, with gaps
        one.ImagePositionPatient = [float(v) for v in np.asarray(origin) + number * spacing[2] * axes[:, 2]]
        one.ImageOrientationPatient = [float(v) for v in axes[:, :2].T.flat]
        one.PixelSpacing, one.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        one.RescaleSlope, one.RescaleIntercept = 1.0 if slopes is None else slopes[number], intercept
        images.append(one)
    return images


def enhanced(
    samples: np.ndarray, modality: str, *, spacing: Sequence[float], origin: Sequence[float], slopes: Sequence[float]
) -> Dataset:
    """One file with functional groups."""
    ds = header(modality, ENHANCED[modality], samples, SeriesNumber=4)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    plane.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([plane])
    groups = []
    for number, slope in enumerate(slopes):
        group, position, rescale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [origin[0], origin[1], origin[2] + number * spacing[2]]
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slope, -5.0, "US"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Items([position]), Items([rescale])
        groups.append(group)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Items([shared]), Items(groups)
    return ds


def spect(samples: np.ndarray, distance: float, **tags: Any) -> Dataset:
    """A reconstructed SPECT: frames stacked along the normal."""
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [-50.0, -40.0, 12.0], [1.0, 0, 0, 0, 1.0, 0]
    ds = header("NM", CLASSES["NM"], samples, ImageType=["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"])
    ds.DetectorInformationSequence = Items([detector])
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [4.0, 4.0], abs(distance), distance
    ds.SliceVector = list(range(1, len(samples) + 1))
    for name, value in tags.items():
        setattr(ds, name, value)
    return ds


def save(images: Sequence[Dataset], folder: Path, seed: int = 0) -> Path:
    """Write images under names in random order, beside files that are no DICOM."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(seed).permutation(len(images))
    for name, image in zip(names, images, strict=True):
        image.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    (folder / "readme.txt").write_text("not an image")
    (folder / "Thumbs.db").write_bytes(bytes(200))
    return folder
