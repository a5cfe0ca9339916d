"""Volumes are read in physical values and in their place in space, or refused in a sentence."""

import gzip
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import MPEG2MPML, JPEG2000Lossless, JPEGLosslessSV1, RLELossless, generate_uid

from fusion_hub import volumes
from fusion_hub.volumes.dicom_series import find_series
from tests.support import scans

RANDOM = np.random.default_rng(7)
SAMPLES = RANDOM.integers(0, 4096, (9, 12, 16)).astype(np.uint16)
OBLIQUE = scans.rotation(17, -31)


def by_hand(images: list[Dataset]) -> np.ndarray:
    """pydicom and rescale, in the order in which the slices were made."""
    return np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in images])


def test_a_shuffled_series_with_gaps_in_numbering_is_exact(tmp_path: Path) -> None:
    images = scans.series(SAMPLES, axes=OBLIQUE)
    volume = volumes.read_volume(scans.save(images, tmp_path / "ct"))
    assert np.array_equal(volume.array, by_hand(images).astype(np.float32))
    assert (volume.modality, volume.unit, volume.source) == ("CT", "HU", "DICOM series")
    assert np.allclose(volume.image.GetOrigin(), (-20, 31.5, 7.25), atol=1e-9)
    assert np.allclose(volume.image.GetSpacing(), (0.8, 1.2, 3.0), atol=1e-6)
    assert np.allclose(volume.image.GetDirection(), OBLIQUE.flatten(), atol=1e-6)
    assert not volume.image.GetMetaDataKeys()


def test_simpleitk_reads_the_same_series_the_same_way(tmp_path: Path) -> None:
    folder = scans.save(scans.series(SAMPLES, axes=OBLIQUE), tmp_path / "ct")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    other, volume = sitk.ReadImage(names), volumes.read_volume(folder)
    assert np.array_equal(sitk.GetArrayFromImage(other), volume.array)
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(other, name)(), getattr(volume.image, name)(), atol=1e-6)


def test_each_slice_of_pet_has_its_own_slope(tmp_path: Path) -> None:
    slopes = list(RANDOM.uniform(0.5, 4, len(SAMPLES)))
    images = scans.series(SAMPLES, "PT", slopes=slopes, intercept=0.0, Units="CNTS")
    volume = volumes.read_volume(scans.save(images, tmp_path / "pet"))
    assert np.allclose(volume.array, by_hand(images), rtol=1e-6) and volume.unit == "counts"


def pet(tmp_path: Path, **tags: Any) -> volumes.Volume:
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = 3.7e8, 6586.2
    tracer.RadiopharmaceuticalStartTime = "235000"
    wanted = {
        "Units": "BQML",
        "CorrectedImage": ["DECY", "ATTN"],
        "DecayCorrection": "START",
        "PatientWeight": 70.0,
        "SeriesDate": "20190518",
        "SeriesTime": "005000.00",
        "AcquisitionDate": "20190518",
        "AcquisitionTime": "005000.00",
        "RadiopharmaceuticalInformationSequence": [tracer],
    }
    images = scans.series(SAMPLES, "PT", intercept=0.0, **(wanted | tags))
    return volumes.read_volume(scans.save(images, tmp_path / "pet"))


def test_suv_by_body_weight_across_midnight(tmp_path: Path) -> None:
    volume = pet(tmp_path)
    remaining = 3.7e8 * 0.5 ** (3600 / 6586.2)  # Bq, an hour after the injection
    assert volume.unit == "SUV" and not volume.notes
    assert np.allclose(volume.array, SAMPLES * 7e4 / remaining, rtol=1e-5)
    assert volumes.choose_window(volume) == (0, 10)


def test_suv_of_values_corrected_to_the_injection(tmp_path: Path) -> None:
    assert np.allclose(pet(tmp_path, DecayCorrection="ADMIN").array, SAMPLES * 7e4 / 3.7e8, rtol=1e-5)


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"PatientWeight": None}, "weight"),
        ({"CorrectedImage": ["ATTN"]}, "not corrected"),
        ({"DecayCorrection": "NONE"}, "start of the scan"),
        ({"SeriesTime": "015000"}, "processed later"),
        ({"RadiopharmaceuticalInformationSequence": []}, "dose"),
        ({"SeriesTime": "nonsense"}, "cannot be read"),
    ],
)
def test_pet_stays_in_becquerel_where_tags_are_missing(tmp_path: Path, tags: dict[str, Any], why: str) -> None:
    volume = pet(tmp_path, **tags)
    assert volume.unit == "Bq/ml" and why in volume.notes[0] and np.array_equal(volume.array, SAMPLES)


@pytest.mark.parametrize(
    ("stated", "zone", "hours"),
    [("20190517234000", "", 1), ("20190517224000+0000", "+0100", 1), ("20190517224000+0000", "", None)],
)
def test_the_injection_has_a_time_zone(tmp_path: Path, stated: str, zone: str, hours: float | None) -> None:
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = 3.7e8, 6586.2
    tracer.RadiopharmaceuticalStartDateTime = stated
    tags = {"TimezoneOffsetFromUTC": zone} if zone else {}
    volume = pet(tmp_path, RadiopharmaceuticalInformationSequence=[tracer], SeriesTime="004000", **tags)
    if hours is None:
        assert volume.unit == "Bq/ml" and "cannot be read" in volume.notes[0]
    else:
        factor = 70_000 / (3.7e8 * 2 ** (-3600 * hours / 6586.2))
        assert volume.unit == "SUV" and np.allclose(volume.array, SAMPLES * factor, rtol=1e-6)


def test_units_that_are_not_known_for_certain_are_not_stated(tmp_path: Path) -> None:
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = 3.7e8, 109.77  # minutes
    tracer.RadiopharmaceuticalStartTime = "235000"
    minutes = pet(tmp_path / "1", RadiopharmaceuticalInformationSequence=[tracer])
    assert minutes.unit == "Bq/ml" and "half-life of 109.77 s is that of no nuclide" in minutes.notes[0]
    lean = pet(tmp_path / "2", Units="GML", SUVType="LBM")
    assert "not by body weight" in lean.notes[0]
    unknown = pet(tmp_path / "3", Units="PROPCPS")
    assert unknown.unit == "" and "does not say" in unknown.notes[0]
    images = scans.series(SAMPLES)
    for image in images:
        del image.RescaleSlope, image.RescaleIntercept
    raw = volumes.read_volume(scans.save(images, tmp_path / "4"))
    assert raw.unit == "" and "no RescaleIntercept" in raw.notes[0]


def test_slices_with_one_identifier_are_no_copies(tmp_path: Path) -> None:
    """As programs leave them that take identities away."""
    images = scans.series(SAMPLES)
    for image in images:
        image.SOPInstanceUID = images[0].SOPInstanceUID
    assert np.array_equal(volumes.read_volume(scans.save(images, tmp_path / "ct")).array, SAMPLES - 1024.0)


@pytest.mark.parametrize("length", [300, 500, 700])
def test_a_slice_that_is_cut_short_is_not_left_out(tmp_path: Path, length: int) -> None:
    folder = scans.save(scans.series(SAMPLES), tmp_path / "ct")
    last = [file for file in sorted(folder.iterdir()) if file.stat().st_size > 700][-1]
    last.write_bytes(last.read_bytes()[:length])
    with pytest.raises(volumes.VolumeError, match="1 DICOM file that is cut short or damaged"):
        volumes.read_volume(folder)


def test_no_warning_quotes_a_tag(tmp_path: Path) -> None:
    images = scans.series(SAMPLES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for image in images:
            image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.840.99.0019530417.01.05", "1.2.PLANTED.9"
        folder = scans.save(images, tmp_path / "ct")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert volumes.read_volume(folder).array.shape == SAMPLES.shape
        volumes.read_identity([(folder, None)], "a reason")


def test_twelve_signed_bits_below_an_overlay(tmp_path: Path) -> None:
    values = RANDOM.integers(-2048, 2048, (4, 8, 10))
    overlay = RANDOM.integers(0, 16, values.shape) << 12
    stored = ((values & 0xFFF) | overlay).astype(np.uint16).view(np.int16)
    images = scans.series(stored, "MR", intercept=0.0, BitsStored=12, HighBit=11)
    assert np.array_equal(volumes.read_volume(scans.save(images, tmp_path / "mr")).array, values)


def test_monochrome1_inverts_a_signal_and_no_hounsfield_units(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    signal = volumes.read_volume(scans.save(scans.series(SAMPLES, "MR", intercept=0.0, **tags), tmp_path / "mr"))
    assert np.array_equal(signal.array, 4095 - SAMPLES.astype(int)) and "MONOCHROME1" in signal.notes[0]
    units = volumes.read_volume(scans.save(scans.series(SAMPLES, **tags), tmp_path / "ct"))
    assert np.array_equal(units.array, SAMPLES - 1024.0)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_enhanced_files(tmp_path: Path, modality: str) -> None:
    slopes, file = np.linspace(1, 2, len(SAMPLES)), tmp_path / "enhanced.dcm"
    order = RANDOM.permutation(len(SAMPLES))
    made = scans.enhanced(SAMPLES, modality, spacing=(1, 2, 4), origin=(1, 2, 3), slopes=slopes)
    made.PerFrameFunctionalGroupsSequence = [made.PerFrameFunctionalGroupsSequence[i] for i in order]
    made.PixelData = SAMPLES[order].tobytes()
    made.save_as(file, enforce_file_format=True)
    volume = volumes.read_volume(file)
    assert np.allclose(volume.array, SAMPLES * slopes[:, None, None] - 5, rtol=1e-6)
    assert volume.image.GetSpacing() == (1, 2, 4) and volume.image.GetOrigin() == (1, 2, 3)


@pytest.mark.parametrize("distance", [4.0, -4.0])
def test_spect_is_stacked_along_its_normal(tmp_path: Path, distance: float) -> None:
    scans.spect(SAMPLES, distance).save_as(tmp_path / "nm.dcm", enforce_file_format=True)
    volume = volumes.read_volume(tmp_path / "nm.dcm")
    assert np.array_equal(volume.array, SAMPLES if distance > 0 else SAMPLES[::-1])
    assert volume.image.GetOrigin()[2] == (12 if distance > 0 else 12 - 4 * (len(SAMPLES) - 1))


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_series(tmp_path: Path, syntax: Any, signed: bool) -> None:
    samples = (SAMPLES.astype(np.int16) - 2000) if signed else SAMPLES
    images = scans.series(samples)
    for one, plane in zip(images, samples, strict=True):
        if syntax == JPEGLosslessSV1:
            one.file_meta.TransferSyntaxUID = syntax
            one.PixelData = encapsulate([imagecodecs.ljpeg_encode(plane.view(np.uint16), bitspersample=16)])
            one["PixelData"].VR = "OB"
        else:
            one.file_meta.TransferSyntaxUID = syntax
            one.PixelData = encapsulate([imagecodecs.jpeg2k_encode(plane, level=0, codecformat="j2k")])
            one["PixelData"].VR = "OB"
    volume = volumes.read_volume(scans.save(images, tmp_path / "ct"))
    assert np.array_equal(volume.array, samples - 1024.0)


def scanner_files() -> list[Path]:
    """pydicom's own files that hold a CT, MR, PT or NM image; only those that came with it."""
    package = Path(pydicom.__file__).parent
    files = map(Path, get_testdata_files())
    found = [file for file in files if file.is_relative_to(package) and file.is_file()]
    return [file for file in found if pydicom.dcmread(file, force=True, stop_before_pixels=True).get("Rows")]


def test_files_of_pydicom() -> None:
    """Each is read equal to pydicom and rescale, or refused for what it lacks; docs/volumes.md has the table."""
    read = refused = 0
    for file in scanner_files():
        tags = pydicom.dcmread(file, force=True)
        if tags.get("Modality") not in volumes.MODALITIES:
            continue
        try:
            volume = volumes.read_volume(file)
        except volumes.VolumeError as error:
            lacks = "ImagePositionPatient" not in tags or file.name == "MR_truncated.dcm"
            assert lacks and "\n" not in str(error), file
            refused += 1
        else:
            expected = tags.pixel_array * float(tags.get("RescaleSlope", 1)) + float(tags.get("RescaleIntercept", 0))
            assert np.array_equal(volume.array[0], expected.astype(np.float32)), file
            read += 1
    assert read >= 35 and refused >= 5, (read, refused)


def refusal(tmp_path: Path, images: list[Dataset]) -> str:
    with pytest.raises(volumes.VolumeError) as error:
        volumes.read_volume(scans.save(images, tmp_path / "refused"))
    message = str(error.value)
    assert "\n" not in message and not any(value in message for value in scans.PLANTED.values())
    return message


def shifted(image: Dataset, along: float = 0.0, across: float = 0.0) -> Dataset:
    image.ImagePositionPatient = list(np.add(image.ImagePositionPatient, [across, 0, along]))
    return image


def sheared(images: list[Dataset]) -> list[Dataset]:
    return [shifted(image, across=0.4 * number) for number, image in enumerate(images)]


def with_tags(image: Dataset, **tags: Any) -> Dataset:
    for name, value in tags.items():
        setattr(image, name, value)
    return image


def with_smaller_slice(images: list[Dataset]) -> list[Dataset]:
    small = scans.series(SAMPLES[:1, :6, :8], SeriesInstanceUID=images[0].SeriesInstanceUID)
    return [*images[1:], *small]


def with_scout(images: list[Dataset]) -> list[Dataset]:
    scout = with_tags(deepcopy(images[0]), ImageOrientationPatient=[0.0, 1, 0, 0, 0, -1], SOPInstanceUID="1.2")
    return [*images, scout]


def without(image: Dataset, name: str) -> Dataset:
    delattr(image, name)
    return image


def again(images: list[Dataset]) -> list[Dataset]:
    return [*images, *(with_tags(deepcopy(image), SOPInstanceUID=generate_uid()) for image in images)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s[:4] + s[5:], "1 of the series' slices is missing: between 16.25 and 22.25 mm"),
        (lambda s: s[:3] + s[4:6] + s[8:], "3 of the series' slices are missing"),
        (lambda s: [*s[:-1], shifted(s[-1], 1.1)], "unevenly spaced"),
        (sheared, "tilted gantry"),
        (with_smaller_slice, "mixes sizes"),
        (lambda s: [*s[:-1], with_tags(s[-1], Modality="MR")], "mixes modalities of images (CT, MR)"),
        (with_scout, "mixes 2 orientations (9 and 1 images)"),
        (again, "2 images at each of 9 positions, and no tag tells"),
        (lambda s: [with_tags(i, ImageOrientationPatient=[1.0, 0, 0, 0.5, 1, 0]) for i in s], "not orthonormal"),
        (lambda s: [with_tags(i, ImageOrientationPatient=[0.0] * 6) for i in s], "not orthonormal"),
        (lambda s: [with_tags(i, PixelSpacing=[0.0, 1.0]) for i in s], "out of range"),
        (lambda s: [with_tags(i, PixelData=i.PixelData[:-20]) for i in s], "cannot be decoded"),
        (lambda s: [with_tags(i, PhotometricInterpretation="PALETTE COLOR") for i in s], "color"),
        (lambda s: [with_tags(i, PixelData=bytes(len(i.PixelData))) for i in s], "constant (value -1024 everywhere)"),
        (lambda s: [with_tags(i, RescaleSlope=0.0) for i in s], "out of range"),
        (lambda s: [with_tags(i, BitsStored=12, HighBit=15) for i in s], "upper bits (HighBit), which is retired"),
        (lambda s: [with_tags(i, ModalityLUTSequence=[Dataset()]) for i in s], "Modality LUT"),
        (lambda s: [*s[:-1], without(s[-1], "RescaleSlope")], "have a RescaleSlope and others have none"),
        (
            lambda s: [with_tags(i, Modality="PT", Units=u) for i, u in zip(s, ["BQML", *["CNTS"] * 8], strict=True)],
            "differ in Units",
        ),
    ],
)
def test_what_is_no_regular_stack_is_refused(
    tmp_path: Path, change: Callable[[list[Dataset]], list[Dataset]], words: str
) -> None:
    assert words in refusal(tmp_path, change(scans.series(SAMPLES)))


def test_damaged_pixels_are_not_taken_for_an_unknown_compression(tmp_path: Path) -> None:
    images = scans.series(SAMPLES)
    for image in images:
        image.compress(RLELossless)
        [frame] = generate_frames(image.PixelData, number_of_frames=1)
        image.PixelData = encapsulate([frame[: len(frame) // 4 * 2]])
    message = refusal(tmp_path / "1", images)
    assert "(RLE Lossless), they are shorter than its tags say or damaged" in message
    for image in images:
        image.file_meta.TransferSyntaxUID = MPEG2MPML
    assert "no decoder is installed" in refusal(tmp_path / "2", images)
    for image in images:
        image.file_meta.TransferSyntaxUID = "1.2.840.113619.5.2"
    folder = tmp_path / "3"
    folder.mkdir()
    for number, image in enumerate(images):
        pydicom.dcmwrite(folder / str(number), image, implicit_vr=True, little_endian=True, enforce_file_format=True)
    with pytest.raises(volumes.VolumeError, match="private transfer syntax"):
        volumes.read_volume(folder)


def test_images_without_pixels_or_place(tmp_path: Path) -> None:
    images = scans.series(SAMPLES)
    for image in images:
        del image.PixelData
    assert "without pixels" in refusal(tmp_path / "1", images)
    images = scans.series(SAMPLES)
    for image in images:
        del image.ImagePositionPatient
    assert "ImagePositionPatient is missing" in refusal(tmp_path / "2", images)
    structures = scans.header("RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", SAMPLES[0])
    del structures.Rows, structures.Columns, structures.PixelData
    assert "RT Structure Set" in refusal(tmp_path / "3", [structures])
    assert "RECON TOMO" in refusal(
        tmp_path / "4", [scans.spect(SAMPLES, 4, ImageType=["ORIGINAL", "PRIMARY", "WHOLE BODY"])]
    )


def test_several_series_are_listed_and_chosen(tmp_path: Path) -> None:
    first, second = scans.series(SAMPLES), scans.series(SAMPLES[:5], "MR", SeriesNumber=12, intercept=0.0)
    message = refusal(tmp_path, [*first, *second])
    assert "has 2 series" in message and "#1 number 3, CT, 9 images of 16x12; #2 number 12, MR, 5 images" in message
    folder = tmp_path / "refused"
    for name in ("12", "#2", second[0].SeriesInstanceUID):
        assert volumes.read_volume(folder, series=name).modality == "MR"
    assert volumes.read_volume(folder, series=3).modality == "CT"
    with pytest.raises(volumes.VolumeError, match="no series named '99'"):
        volumes.read_volume(folder, series="99")
    assert len(find_series(folder)) == 2


def volumes_of_one_series(*changes: dict[str, Any], numbers: str = "in turn", **tags: Any) -> list[Any]:
    """A volume `SAMPLES + n` for each of the changes of tags, with equal positions."""
    uid, images = generate_uid(), []
    for n, change in enumerate(changes):
        for slice_, image in enumerate(scans.series(SAMPLES + n, "MR", intercept=0.0, SeriesInstanceUID=uid, **tags)):
            number = {"in turn": slice_ * len(changes) + n, "restart": slice_}.get(numbers)
            image.InstanceNumber = 1 + (int(RANDOM.integers(10**6)) if number is None else number)
            images.append(with_tags(image, **change))
    return images


def number_read(folder: Path, name: str) -> list[int]:
    """Which of the volumes each slice is of."""
    return [int(n) for n in (volumes.read_volume(folder, series=name).array - SAMPLES)[:, 0, 0]]


def test_one_of_several_volumes_of_a_series_is_chosen(tmp_path: Path) -> None:
    images = volumes_of_one_series(*({"EchoTime": time} for time in (90.0, 10.0, 50.0)), numbers="random")
    message = refusal(tmp_path, images)
    assert (
        "has 3 images at each of 9 positions: choose one as the series, /1 (echo time 10 ms), /2 (echo time" in message
    )
    folder = tmp_path / "refused"
    for name, number in (("/1", 1), ("3/2", 2), ("#1/3", 0)):
        assert number_read(folder, name) == [number] * len(SAMPLES)
    for name, words in (
        ("/4", "9 positions, so there is no /4: choose one, /1"),
        ("/x", "no number from 1 after its /"),
    ):
        with pytest.raises(volumes.VolumeError, match=words):
            volumes.read_volume(folder, series=name)


@pytest.mark.parametrize(
    ("changes", "shown", "order"),
    [
        (
            [{"TemporalPositionIdentifier": 2}, {"TemporalPositionIdentifier": 1}],
            "/1 (time point 1), /2 (time point",
            [1, 0],
        ),
        (
            [{"EchoTime": e, "TemporalPositionIdentifier": t} for t in (1, 2) for e in (90.0, 10.0)],
            "/1 (time point 1, echo time 10 ms), /2 (time point 1, echo time 90 ms), /3 (time point 2, echo",
            [1, 0, 3, 2],
        ),
        ([{"ImageType": ["ORIGINAL", "PRIMARY", part]} for part in "PM"], "/1 (magnitude), /2 (phase)", [1, 0]),
        ([{"AcquisitionTime": t} for t in ("120130.5", "120110")], "/1 to /2 in the order of their times", [1, 0]),
        (
            [{"AcquisitionTime": t, "AcquisitionDate": d} for d, t in (("20260102", "000010"), ("20260101", "235950"))],
            "in the order of their times",
            [1, 0],
        ),
        ([{}, {}, {}], "/1 to /3 in the order of their numbers", [0, 1, 2]),
    ],
)
def test_what_tells_volumes_apart(tmp_path: Path, changes: list[dict[str, Any]], shown: str, order: list[int]) -> None:
    assert shown in refusal(tmp_path, volumes_of_one_series(*changes))
    for place, number in enumerate(order, 1):
        assert number_read(tmp_path / "refused", f"/{place}") == [number] * len(SAMPLES)


def test_trigger_times_may_differ_from_slice_to_slice(tmp_path: Path) -> None:
    images = volumes_of_one_series({}, {}, numbers="restart")
    for n, image in enumerate(images):
        image.TriggerTime = 100.0 * (n < len(SAMPLES)) + n % len(SAMPLES)
    folder = scans.save(images, tmp_path / "cine")
    assert number_read(folder, "/1") == [1] * len(SAMPLES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: [with_tags(s[0], EchoTime=30.0), *s[1:]], "differ from position to position in echo time"),
        (lambda s: [with_tags(s[0], EchoTime=None), *s[1:]], "differ from position to position"),
        (lambda s: [with_tags(i, EchoTime=None) if n % 9 == 0 else i for n, i in enumerate(s)], "differ from position"),
        (lambda s: s[1:], "17 images at 9 positions, 1 to 2 at each"),
        (lambda s: [with_tags(i, EchoTime=10.0) for i in s], "no tag tells for certain"),
        (
            lambda s: [with_tags(i, EchoTime=9.0, InstanceNumber=(n * 5) % 19) for n, i in enumerate(s)],
            "no tag tells for certain",
        ),
        (lambda s: [*s[:9], *(shifted_aside(i) for i in s[9:])], "2 stacks beside each other"),
    ],
)
def test_volumes_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, change: Callable[[list[Dataset]], list[Dataset]], words: str
) -> None:
    images = volumes_of_one_series({"EchoTime": 10.0}, {"EchoTime": 50.0}, numbers="restart")
    folder = scans.save(change(images), tmp_path / "series")
    for name in (None, "/1"):
        with pytest.raises(volumes.VolumeError, match=words):
            volumes.read_volume(folder, series=name)


def shifted_aside(image: Dataset) -> Dataset:
    x, y, z = image.ImagePositionPatient
    return with_tags(image, ImagePositionPatient=[x + 100.0, y, z])


def test_a_series_of_one_volume_needs_no_number(tmp_path: Path) -> None:
    one = scans.save(scans.series(SAMPLES), tmp_path / "one")
    assert volumes.read_volume(one, series="/1").array.shape == SAMPLES.shape
    with pytest.raises(volumes.VolumeError, match="one image at each position, so there is no /2"):
        volumes.read_volume(one, series="3/2")
    thin = scans.save(scans.series(SAMPLES, spacing=(0.01, 0.01, 0.01)), tmp_path / "thin")
    assert volumes.read_volume(thin).array.shape == SAMPLES.shape


@pytest.mark.parametrize("jitter", [0.0, 0.002])
def test_one_of_several_volumes_of_an_enhanced_file(tmp_path: Path, jitter: float) -> None:
    both = np.concatenate([SAMPLES, SAMPLES + 1])
    image = scans.enhanced(both, "MR", spacing=(1, 1, 2), origin=(0, 0, 0), slopes=[1.0] * len(both))
    groups = image.PerFrameFunctionalGroupsSequence
    for number, group in enumerate(groups):
        place = 2.0 * (number % len(SAMPLES)) + RANDOM.uniform(-jitter, jitter)
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, place]
    folder = scans.save([image], tmp_path / "plain")
    assert np.array_equal(volumes.read_volume(folder, series="/2").array, SAMPLES + 1 - 5.0)
    for number, group in enumerate(groups):
        diffusion = Dataset()
        diffusion.DiffusionBValue = 1000.0 if number < len(SAMPLES) else 0.0
        group.MRDiffusionSequence = [diffusion]
    folder = scans.save([image], tmp_path / "diffusion")
    with pytest.raises(volumes.VolumeError, match=r"/1 \(b value 0 s/mm.\), /2 \(b value 1000 s/mm.\)"):
        volumes.read_volume(folder)
    assert np.array_equal(volumes.read_volume(folder, series="/2").array, SAMPLES - 5.0)


def test_copies_of_a_file_count_once(tmp_path: Path) -> None:
    folder = scans.save(scans.series(SAMPLES), tmp_path / "ct")
    scans.save(scans.series(SAMPLES[:0]), folder / "more")
    (folder / "more" / "copy").write_bytes((folder / "IM0003").read_bytes())
    assert volumes.read_volume(folder).array.shape == SAMPLES.shape


AFFINE = np.array([[-0.9, 0.2, 0.1, 14], [0.1, 1.1, -0.3, -3], [0, 0.3, 2.6, 40], [0, 0, 0, 1]])


def orthogonal_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE * [0.7, 1.3, 4.1]
    affine[:3, 3] = [12.5, -7.25, 31]
    return affine


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_with_a_slope_is_where_nibabel_puts_it(tmp_path: Path, suffix: str) -> None:
    image = nibabel.Nifti1Image(SAMPLES.astype(np.int16), orthogonal_affine())
    image.header.set_slope_inter(0.5, -100)
    nibabel.save(image, tmp_path / f"v{suffix}")
    volume = volumes.read_volume(tmp_path / f"v{suffix}", modality="CT")
    expected = nibabel.load(tmp_path / f"v{suffix}").get_fdata()
    assert np.allclose(volume.array, expected.T, rtol=1e-6) and volume.unit == "HU" and not volume.notes
    corner = volume.image.TransformIndexToPhysicalPoint((8, 5, 7))
    assert np.allclose(corner * np.array([-1, -1, 1]), (orthogonal_affine() @ [8, 5, 7, 1])[:3], atol=1e-4)


@pytest.mark.parametrize("field", ["srow_y", "quatern_c", "qoffset_x", "pixdim"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nifti_in_no_place(tmp_path: Path, field: str, value: float) -> None:
    """SimpleITK does not return from reading some of these, so they are refused before."""
    image = nibabel.Nifti1Image(SAMPLES.astype(np.int16), AFFINE)
    image.set_qform(np.diag([1, 2, 3, 1]), 1)
    nibabel.save(image, tmp_path / "v.nii")
    header = nibabel.load(tmp_path / "v.nii").header.copy()
    header[field] = np.where(np.arange(header[field].size) == 1, value, header[field]) if header[field].ndim else value
    content = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "v.nii").write_bytes(header.binaryblock + content[len(header.binaryblock) :])
    code = "from fusion_hub import volumes; volumes.read_volume('v.nii')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert f"v.nii does not say where it lies: {field} is" in done.stderr


def test_nifti_with_two_places(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(SAMPLES.T.astype(np.int16), None)
    image.set_sform(np.diag([1.2, 1.1, 3, 1]), 1)
    image.header["pixdim"][1:4] = 1  # SimpleITK takes the spacing from here
    nibabel.save(image, tmp_path / "spacing.nii")
    assert np.allclose(volumes.read_volume(tmp_path / "spacing.nii").image.GetSpacing(), (1.2, 1.1, 3))
    moved = np.diag([1.2, 1.1, 3, 1])
    moved[:3, 3] = 5, 0, 0
    image.set_qform(moved, 1)
    nibabel.save(image, tmp_path / "moved.nii")
    volume = volumes.read_volume(tmp_path / "moved.nii")
    assert "two places, up to 5.0 mm apart" in volume.notes[0] and volume.image.GetOrigin() == (0, 0, 0)
    image.set_qform(np.diag([-1.2, 1.1, 3, 1]), 1)
    nibabel.save(image, tmp_path / "mirrored.nii")
    with pytest.raises(volumes.VolumeError, match="disagree about left and right"):
        volumes.read_volume(tmp_path / "mirrored.nii")
    image.set_qform(None, 0), image.set_sform(np.zeros((4, 4)), 1)
    nibabel.save(image, tmp_path / "flat.nii")
    with pytest.raises(volumes.VolumeError, match="spacing of 0 mm"):
        volumes.read_volume(tmp_path / "flat.nii")


@pytest.mark.parametrize(
    ("place", "values", "words"),
    [(42, (-16,), "states a size"), (70, (999,), "cut short or damaged"), (80, (0.0,) * 3, "spacing of 0")],
)
def test_nifti_headers_that_nibabel_mends_or_trips_over(
    tmp_path: Path, place: int, values: tuple[float, ...], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    image = nibabel.Nifti1Image(SAMPLES.astype(np.int16), None)
    image.set_qform(np.diag([1, 2, 3, 1]), 1)
    nibabel.save(image, tmp_path / "v.nii")
    content = bytearray((tmp_path / "v.nii").read_bytes())
    struct.pack_into(f"<{len(values)}{'f' if place == 80 else 'h'}", content, place, *values)
    (tmp_path / "v.nii").write_bytes(content)
    with pytest.raises(volumes.VolumeError, match=words):
        volumes.read_volume(tmp_path / "v.nii")
    assert capfd.readouterr().err == ""


def test_nifti_2(tmp_path: Path) -> None:
    place = np.diag([-1.5, 2, 3, 1])
    place[:3, :3] = scans.rotation(20, 30) @ place[:3, :3]
    nibabel.save(nibabel.Nifti2Image(SAMPLES.T.astype(np.int16), place), tmp_path / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(SAMPLES.T.astype(np.int16), place), tmp_path / "w.nii.gz")
    second, first = (volumes.read_volume(tmp_path / name) for name in ("v.nii.gz", "w.nii.gz"))
    assert np.array_equal(second.array, SAMPLES) and np.allclose(
        second.image.GetDirection(), first.image.GetDirection()
    )


NRRD = (
    b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nspace: left-posterior-superior\n"
    b"space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (4,5,6)\n"
)


def test_the_place_of_nrrd(tmp_path: Path) -> None:
    file, voxels = tmp_path / "v.nrrd", bytes(range(8))
    file.write_bytes(NRRD + b'space units: "mm" "mm" "mm"\n\n' + voxels)
    volume = volumes.read_volume(file)
    assert volume.notes == () and volume.image.GetSpacing() == (1, 2, 3) and volume.image.GetOrigin() == (4, 5, 6)
    file.write_bytes(NRRD + b'space units: "m" "m" "m"\n\n' + voxels)
    with pytest.raises(volumes.VolumeError, match="other units than mm"):
        volumes.read_volume(file)
    file.write_bytes(NRRD.replace(b"(0,2,0)", b"(1,2,0)") + b"\n" + voxels)
    with pytest.raises(volumes.VolumeError, match="not at right angles"):
        volumes.read_volume(file)
    for header in (NRRD.split(b"space:")[0], NRRD.replace(b"left-posterior-superior", b"scanner-xyz")):
        file.write_bytes(header + b"\n" + voxels)
        assert "does not say how it lies" in volumes.read_volume(file).notes[0]


def test_nifti_that_does_not_say_how_it_lies(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(SAMPLES.astype(np.float32), None)
    nibabel.save(image, tmp_path / "v.nii")
    assert "left may be right" in volumes.read_volume(tmp_path / "v.nii").notes[0]


def test_refused_files(tmp_path: Path) -> None:
    def why(name: str, **options: Any) -> str:
        with pytest.raises(volumes.VolumeError) as error:
            volumes.read_volume(tmp_path / name, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    nibabel.save(nibabel.Nifti1Image(SAMPLES.astype(np.float32), AFFINE), tmp_path / "sheared.nii")
    assert "right angles" in why("sheared.nii")
    series = np.stack([SAMPLES, SAMPLES[::-1]], axis=-1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(series, np.eye(4)), tmp_path / "series.nii.gz")
    assert "2 volumes" in why("series.nii.gz") and "2 volumes" in why("series.nii.gz", series=3)
    for name in (2, "2", "/2", "#2", "1/2", "#1/2"):
        assert np.array_equal(volumes.read_volume(tmp_path / "series.nii.gz", series=name).array, SAMPLES[::-1].T)
    for name in ("//2", "2/1", "/0", "x"):
        with pytest.raises(volumes.VolumeError, match=f"none named '{name}': choose one, /1 to /"):
            volumes.read_volume(tmp_path / "series.nii.gz", series=name)
    values = SAMPLES.astype(np.float32)
    values[1, 2, 3:6] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "nan.nii")
    assert "3 voxels that are NaN" in why("nan.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), tmp_path / "empty.nii")
    assert "constant (value 0 everywhere)" in why("empty.nii")
    picture = sitk.GetImageFromArray(SAMPLES[0])
    sitk.WriteImage(picture, str(tmp_path / "flat.nrrd"))
    assert "two dimensions" in why("flat.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(tmp_path / "rgb.mha"))
    assert "3 components" in why("rgb.mha")
    (tmp_path / "cut.nii").write_bytes((tmp_path / "nan.nii").read_bytes()[:700])
    assert "cut short" in why("cut.nii")
    for name in ("cut.mha", "cut.nrrd"):
        sitk.WriteImage(sitk.GetImageFromArray(SAMPLES), str(tmp_path / name))
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-900])
        assert "cut short" in why(name)
    (tmp_path / "text.nii.gz").write_text("hello")
    assert "cannot be read as NIfTI" in why("text.nii.gz")
    (tmp_path / "no.txt").write_text("hello")
    assert "no DICOM file" in why("no.txt") and "does not exist" in why("absent.nii")
    (tmp_path / "empty").mkdir()
    assert "no DICOM images" in why("empty")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = nibabel.Nifti1Image(SAMPLES[:2], np.eye(4)).header.binaryblock
    huge = bytearray(header)
    struct.pack_into("<4h", huge, 40, 3, 30000, 30000, 30000)
    with gzip.open(tmp_path / "bomb.nii.gz", "wb") as stream:
        stream.write(bytes(huge) + bytes(4 + 2**22))
    with pytest.raises(volumes.VolumeError, match="30000 x 30000 x 30000 voxels"):
        volumes.read_volume(tmp_path / "bomb.nii.gz")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("v.mhd", b"ElementDataFile = /etc/hostname"),
        ("v.mha", b"ElementDataFile : /etc/hostname"),
        ("v.mha", b"\r  ElementDataFile: /etc/hostname"),
        ("v.nrrd", b"data file: ../secret.raw"),
    ],
)
def test_headers_that_name_other_files_are_refused(tmp_path: Path, name: str, line: bytes) -> None:
    start = (
        b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n" if name == "v.nrrd" else b"NDims = 3\n"
    )
    (tmp_path / name).write_bytes(start + line + b"\n\n" + bytes(8))
    with pytest.raises(volumes.VolumeError, match="keeps its voxels in another place"):
        volumes.read_volume(tmp_path / name)


@pytest.mark.parametrize(("name", "comment"), [("v.mha", b"Comment = x\n"), ("v.nrrd", b"# comment\n")])
def test_nothing_of_a_header_stands_beyond_what_is_checked(tmp_path: Path, name: str, comment: bytes) -> None:
    start = b"NRRD0004\ntype: uchar\ndimension: 3\n" if name == "v.nrrd" else b"NDims = 3\n"
    line = b"data file: /etc/hostname\n\n" if name == "v.nrrd" else b"ElementDataFile = /etc/hostname\n"
    (tmp_path / name).write_bytes(start + comment * 8000 + line)
    with pytest.raises(volumes.VolumeError, match="no end of its header within 65,536 bytes"):
        volumes.read_volume(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "stated"),
    [
        ("v.mha", scans.CRASH, "-1"),
        ("v.mha", scans.CRASH.replace(b"NDims = -1", b"NDims = 0"), "0"),
        ("v.mha", scans.CRASH.replace(b"NDims = -1", b"NDims ="), "no number"),
        ("v.mha", scans.CRASH.replace(b"NDims = -1", b"NDims = Plantedname"), "no number"),
        ("v.nrrd", b"NRRD0004\ntype: uchar\ndimension: -3\nsizes: 2 2 2\nencoding: raw\n\n" + bytes(8), "-3"),
    ],
)
def test_numbers_of_dimensions_below_1_are_refused(tmp_path: Path, name: str, content: bytes, stated: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        volumes.VolumeError, match=f"states {stated} as its number of dimensions: give a file with three"
    ):
        volumes.read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nii.gz"])
def test_files_of_simpleitk(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(SAMPLES.astype(np.int16))
    image.SetSpacing((0.5, 0.75, 2.5))
    image.SetOrigin((3, -4, 5))
    image.SetDirection(OBLIQUE.flatten())
    sitk.WriteImage(image, str(tmp_path / f"v{suffix}"))
    volume = volumes.read_volume(tmp_path / f"v{suffix}")
    assert np.array_equal(volume.array, SAMPLES)
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(image, name)(), getattr(volume.image, name)(), atol=1e-5)


def test_the_values_outlive_the_volume(tmp_path: Path) -> None:
    folder = scans.save(scans.series(SAMPLES), tmp_path / "ct")
    kept = volumes.read_volume(folder).array
    volumes.read_volume(folder)
    assert np.array_equal(kept, SAMPLES - 1024.0)
