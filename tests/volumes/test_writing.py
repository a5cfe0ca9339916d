"""Volumes come back from disk where they were in space, whole, and without anything about a person."""

from collections.abc import Iterator
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from fusion_hub import volumes
from tests.support import scans

VALUES = np.random.default_rng(3).random((7, 20, 24)).astype(np.float32)
AXES = scans.rotation(-23, 41)
SPACING, ORIGIN = (0.71, 1.13, 4.4), (-101.25, 17.5, 333.125)


def volume(values: np.ndarray = VALUES) -> volumes.Volume:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(AXES.flatten())
    image.SetMetaData("0010|0010", "Plantedname^Secretia")
    return volumes.Volume(image)


def affine(image: sitk.Image) -> np.ndarray:
    """Indices `(i, j, k, 1)` to mm, left-posterior-superior."""
    found = np.eye(4)
    found[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    found[:3, 3] = image.GetOrigin()
    return found


@pytest.mark.parametrize("suffix", volumes.WRITTEN_SUFFIXES)
def test_files_keep_values_and_geometry(tmp_path: Path, suffix: str) -> None:
    file = volumes.write_volume(volume(), tmp_path / f"out{suffix}")
    again = volumes.read_volume(file)
    assert np.array_equal(again.array, VALUES) and not again.notes
    assert np.abs(affine(again.image) - affine(volume().image)).max() < 1e-4
    assert list(tmp_path.iterdir()) == [file]
    assert b"Planted" not in file.read_bytes()


def test_nibabel_and_simpleitk_agree(tmp_path: Path) -> None:
    file = volumes.write_volume(volume(), tmp_path / "out.nii.gz", dtype="uint16")
    image = nibabel.load(file)
    expected = np.diag([-1, -1, 1, 1]) @ affine(volume().image)  # right-anterior-superior
    assert np.abs(image.affine - expected).max() < 1e-4
    assert np.abs(affine(sitk.ReadImage(str(file))) - affine(volume().image)).max() < 1e-4
    assert np.array_equal(np.asarray(image.dataobj).T, np.floor(VALUES * np.float32(65535) + np.float32(0.5)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dicom_series_stack_in_space(tmp_path: Path, dtype: type[np.unsignedinteger]) -> None:
    levels = volumes.to_levels(volume(), dtype)
    folder = volumes.write_dicom(levels, tmp_path / "out.dcm", "CT + MR")
    expected = sitk.GetArrayFromImage(levels)
    other = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    ours = volumes.read_volume(folder)
    stack = highdicom.get_volume_from_series([pydicom.dcmread(file) for file in folder.iterdir()])
    assert np.array_equal(sitk.GetArrayFromImage(other), expected) and np.array_equal(ours.array, expected)
    for image in (other, ours.image):
        assert np.abs(affine(image) - affine(levels)).max() < 1e-4
    assert np.abs(np.sort(np.abs(stack.affine), axis=1) - np.sort(np.abs(affine(levels)), axis=1))[:3, :2].max() < 1e-4
    tags = pydicom.dcmread(next(folder.iterdir()))
    assert tags.SOPClassUID.name == "Secondary Capture Image Storage" and tags.ImageType == ["DERIVED", "SECONDARY"]
    assert tags.SeriesDescription == "CT + MR derived, not for diagnosis" and tags.PatientIdentityRemoved == "YES"
    assert tags.PatientID == "anonymous" and "SourceImageSequence" not in tags and not tags.StudyDate


def test_color_slices(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3)).astype(np.uint8)
    image = sitk.GetImageFromArray(colors, isVector=True)
    folder = volumes.write_dicom(image, tmp_path / "out.dcm", "PT + MR")
    first = pydicom.dcmread(folder / "00001.dcm")
    assert first.PhotometricInterpretation == "RGB" and np.array_equal(first.pixel_array, colors[0])
    volumes.write_image(image, tmp_path / "out.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz"))), colors)


def strings(place: Path) -> Iterator[bytes]:
    for file in place.rglob("*"):
        if file.is_file():
            yield file.read_bytes()


def test_identity_is_kept_with_a_reason_only(tmp_path: Path) -> None:
    source = scans.save(scans.series((VALUES * 4000).astype(np.uint16)), tmp_path / "source")
    with pytest.raises(volumes.VolumeError, match="needs a reason"):
        volumes.read_identity([(source, None)], " ")
    identity = volumes.read_identity([(source, None)], "second reading")
    levels = volumes.to_levels(volume(), np.uint16)
    folder = volumes.write_dicom(levels, tmp_path / "kept.dcm", "CT + MR", identity)
    tags, original = pydicom.dcmread(folder / "00001.dcm"), pydicom.dcmread(source / "IM0000")
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert tags.get(name) == original.get(name)
    assert tags.SeriesInstanceUID != original.SeriesInstanceUID and "second reading" in tags.ImageComments
    assert len(tags.SourceImageSequence) == len(VALUES)
    other = scans.save(scans.series((VALUES * 4000).astype(np.uint16), PatientID="X"), tmp_path / "other")
    with pytest.raises(volumes.VolumeError, match="different patient IDs"):
        volumes.read_identity([(source, None), (other, None)], "second reading")


def test_references_are_those_of_the_chosen_volume(tmp_path: Path) -> None:
    samples, uid = (VALUES * 4000).astype(np.uint16), generate_uid()
    echoes = [scans.series(samples, "MR", SeriesInstanceUID=uid, EchoTime=time) for time in (10.0, 50.0)]
    source = scans.save([image for images in echoes for image in images], tmp_path / "source")
    identity = volumes.read_identity([(source, "/2")], "second reading")
    assert {uid for _, uid in identity.references} == {str(image.SOPInstanceUID) for image in echoes[1]}
    both = volumes.read_identity([(source, "/2"), (source, "/1")], "second reading")
    assert len(both.references) == len(set(both.references)) == 2 * len(samples)
    with pytest.raises(volumes.VolumeError, match="no /7"):
        volumes.read_identity([(source, "/7")], "second reading")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(volumes.VolumeError, match="no suffix of a volume"):
        volumes.write_volume(volume(), tmp_path / "out.txt")
    (tmp_path / "out.dcm").mkdir()
    (tmp_path / "out.dcm" / "something").touch()
    with pytest.raises(volumes.VolumeError, match="exists already"):
        volumes.write_dicom(volumes.to_levels(volume(), np.uint8), tmp_path / "out.dcm", "")
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        volumes.write_volume(volume(), tmp_path / "file" / "out.nii")
    assert not [*tmp_path.rglob("*.tmp")]
