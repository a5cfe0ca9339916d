"""The tab Volumes through its functions: what is read, fused and shown, what is refused, and that no identity stays.

In a browser it is tested in `test_space_browser.py`.
"""

import base64
import gzip
import html
import io
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import app as space
import examples
import fuse
import gradio as gr
import nibabel
import numpy as np
import phantom
import pydicom
import pytest
import SimpleITK as sitk
import storage
import volume_files
import volume_fusion
import volume_tab
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLosslessSV1
from volume_files import Kept, keep

from fusion_hub import volumes
from fusion_hub.pipelines import checkpoints
from tests.support import scans
from tests.support.space_page import zipped
from tests.support.tiny import tiny_pipeline

MODEL = fuse.MEDICAL
READ_APART = volume_files.read_apart
SAMPLES = (np.random.default_rng(3).random((12, 18, 20)) * 800).astype(np.int16) + np.int16(700)
PLANTED = [value.split("^")[0] for value in scans.PLANTED.values()]


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two tiny models in place of the bundled ones."""
    bundled, root = checkpoints.ROOT, tmp_path_factory.mktemp("pretrained")
    for name in (MODEL, "difffusenet-msrs"):
        tiny_pipeline().save_pretrained(root / name)
    checkpoints.ROOT = root
    fuse.load_once.cache_clear()
    yield
    checkpoints.ROOT = bundled
    fuse.load_once.cache_clear()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server's files, of each test alone."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "server"))
    return tmp_path / "server"


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes are read in this process, which takes less time than another one, unless a test is about that."""

    def read(place: Path, what: str, series: str | None, modality: Any) -> volumes.Volume:
        return volumes.read_volume(place, series=series, modality=modality, max_voxels=volume_files.MAX_VOXELS)

    monkeypatch.setattr(volume_files, "read_apart", read)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    mr, pet = phantom.write_phantom(tmp_path_factory.mktemp("head"))
    return str(mr), str(pet)


def quiet(*_: Any, **__: Any) -> None:
    """In place of a bar."""


def zip_of(images: list[pydicom.Dataset], name: str = "study/IM{}") -> bytes:
    entries = {}
    for number, image in enumerate(images):
        stream = io.BytesIO()
        image.save_as(stream, enforce_file_format=True)
        entries[name.format(number)] = stream.getvalue()
    return zipped(entries)


def upload(root: Path, content: bytes, name: str) -> Path:
    """A file as Gradio keeps an upload."""
    file = root / "hash" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def nifti(array: np.ndarray, name: str = "v.nii") -> bytes:
    content = bytes(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes())
    return gzip.compress(content) if name.endswith(".gz") else content


def test_two_volumes_are_registered_and_fused(head: tuple[str, str]) -> None:
    file, views, text = volume_fusion.fuse_volume(*head, modality="MR", moving_modality="PT", progress=quiet)  # type: ignore[arg-type]
    fused, mr = volumes.read_volume(file), volumes.read_volume(head[0])
    assert fused.image.GetSize() == mr.image.GetSize() and fused.image.GetSpacing() == mr.image.GetSpacing()
    assert np.allclose(fused.image.GetOrigin(), mr.image.GetOrigin(), atol=1e-4)
    assert "**Registered** (rigid)" in text and "Derived, not for diagnosis" in text and "Please check" not in text
    with Image.open(views) as sheet:
        assert sheet.width > sheet.height > 600
    assert Path(head[0]).is_file(), "only uploads are deleted"
    assert not [*storage.root().rglob("*.npy")], "what the page scrolls through is of no use to a program"


def stack_of(head: tuple[str, str], **options: Any) -> tuple[volume_fusion.Stack, tuple[Kept, Kept]]:
    kept = keep(head[0], "fixed volume", "", "MR"), keep(head[1], "moving volume", "", "PT")
    windows = [one.windows["default"] for one in kept]
    return volume_fusion.fuse_kept(quiet, *kept, MODEL, "none", windows, **options), kept  # type: ignore[arg-type]


def pictures(page: str) -> dict[str, np.ndarray]:
    """The pictures of the page by their captions."""
    found = re.findall(r'base64,([^"]+)"><figcaption>([^<]+)', page)
    return {html.unescape(name): np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code, name in found}


def test_slices_are_scrolled_through_without_the_network(
    head: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, _ = stack_of(head)
    monkeypatch.setattr(fuse, "load_once", None)  # it cannot run
    shown = pictures(volume_fusion.draw_slices(stack, "Axial", 20, stack.windows))
    assert list(shown) == ["MRI", "PET", "Fused", "Checkerboard"]
    assert {picture.shape for picture in shown.values()} == {(108, 88)}, "2 mm by 2 mm, in true proportions"
    further = pictures(volume_fusion.draw_slices(stack, "Axial", 26, stack.windows))
    assert all((shown[name] != further[name]).any() for name in shown)
    moved = pictures(volume_fusion.draw_slices(stack, "Axial", 20, (stack.windows[0], (0.0, 100.0))))
    assert np.array_equal(moved["MRI"], shown["MRI"]) and (moved["PET"] != shown["PET"]).any()
    assert np.array_equal(moved["Fused with earlier windows: fuse again"], shown["Fused"])
    for plane, count, size in (("Coronal", 108, (70, 88)), ("Sagittal", 88, (70, 108))):
        assert volume_fusion.count_slices(stack, plane) == count
        for number in (-5, count + 7):  # beyond the ends
            page = volume_fusion.draw_slices(stack, plane, number, stack.windows)
            assert pictures(page)["MRI"].shape == (size[0], size[1])
    stored = sitk.GetArrayFromImage(sitk.ReadImage(stack.result))
    assert np.abs(shown["Fused"] - stored[19] / 257).max() <= 1, "the picture is the file's slice"


def test_right_is_on_the_left_and_the_head_is_up(tmp_path: Path) -> None:
    values = np.zeros((12, 18, 20), np.int16)
    values[9:, 2:5, 14:] = 500  # head, front, left: LPS
    values[0, 0, 0] = -100
    image = sitk.GetImageFromArray(values)
    for name, axes in (("lps", "LPS"), ("turned", "RSA")):
        sitk.WriteImage(sitk.DICOMOrient(image, axes), str(tmp_path / f"{name}.nii"))
        kept = [keep(tmp_path / f"{name}.nii", role, "", "MR") for role in volume_fusion.ROLES]
        window = (0.0, 500.0)
        stack = volume_fusion.fuse_kept(quiet, *kept, MODEL, "none", [window, window])  # type: ignore[arg-type]
        for plane, number, where in (
            ("Axial", 11, np.s_[2:5, 14:]),
            ("Coronal", 4, np.s_[:3, 14:]),
            ("Sagittal", 17, np.s_[:3, 2:5]),
        ):
            page = volume_fusion.draw_slices(stack, plane, number, (window, window))
            shown = pictures(page)["MRI"]
            assert shown[where].min() == 255 and (shown > 0).sum() == shown[where].size, (name, plane)


def test_uptake_is_colored_with_a_legend(head: tuple[str, str]) -> None:
    stack, kept = stack_of(head, color="hot")
    shown = pictures(volume_fusion.draw_slices(stack, "Axial", 20, stack.windows))
    assert shown["Fused"].shape == (108, 88, 3) and "Uptake" in shown
    assert np.ptp(shown["Fused"].astype(int), axis=-1).max() > 50
    with pytest.raises(gr.Error, match="neither volume is one"):
        volume_fusion.fuse_kept(quiet, kept[0], kept[0], MODEL, "none", [None, None], "hot")  # type: ignore[arg-type]


def test_the_grid_is_the_anatomical_one(head: tuple[str, str]) -> None:
    kept = keep(head[1], "fixed volume", "", "PT"), keep(head[0], "moving volume", "", "MR")
    windows = [one.windows["default"] for one in kept]
    stack = volume_fusion.fuse_kept(quiet, *kept, MODEL, "none", windows)  # type: ignore[arg-type]
    assert stack.shape == (40, 108, 88) and stack.names == ("PET", "MRI") and stack.windows == tuple(windows)
    straight, _ = stack_of(head)
    for name, other in (("fixed", "moving"), ("moving", "fixed"), ("fused", "fused")):
        one, two = (np.load(f"{made.folder}/{file}.npy") for made, file in ((stack, name), (straight, other)))
        assert np.array_equal(one, two)


def everything(folder: Path) -> bytes:
    """The bytes of all files, unpacked where they are packed, and their names."""
    found = []
    for file in folder.rglob("*"):
        found.append(str(file.relative_to(folder)).encode())
        if file.is_file():
            content = file.read_bytes()
            found += [content, gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""]
    return b"\n".join(found)


def test_identity_is_never_shown_nor_stored(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    ct = zip_of(scans.series(SAMPLES, "CT", RescaleType="Plantedunit"), "Plantedname/Plantedid{}.dcm")
    one = io.BytesIO()
    scans.enhanced(
        SAMPLES, "MR", spacing=(0.8, 1.2, 3.0), origin=(-20, 31.5, 7.25), slopes=[1.0] * len(SAMPLES)
    ).save_as(one, enforce_file_format=True)
    files = upload(root, ct, "Plantedname.zip"), upload(root, one.getvalue(), "Plantedname_MR")
    assert b"Plantedname" in everything(root)
    kept = [keep(file, role) for file, role in zip(files, volume_fusion.ROLES, strict=True)]
    assert not any(file.exists() for file in files)
    stack = volume_fusion.fuse_kept(quiet, *kept, MODEL, "none", [None, None])  # type: ignore[arg-type]
    page = volume_fusion.draw_slices(stack, "Axial", 3, stack.windows)
    seen = [page, stack.text, *map(volume_fusion.describe, kept), str(kept), str(stack), caplog.text]
    mixed = zip_of(
        [*scans.series(SAMPLES, "CT"), *scans.series(SAMPLES, "MR", SeriesNumber=5)], "Plantedname/Plantedid{}.dcm"
    )
    odd = zip_of(scans.series(SAMPLES, "MR", PhotometricInterpretation="PLANTED COLOR", SamplesPerPixel=3))
    several = zip_of([*scans.series(SAMPLES, "MR"), *scans.series(SAMPLES, "MR", Modality="PLANTEDID4711")])
    broken = zip_of(scans.series(SAMPLES, "MR"))[:-400] + b"Plantedname"
    gap = zip_of(scans.series(SAMPLES, "MR")[:5] + scans.series(SAMPLES, "MR")[:1], "Plantedname{}")
    link = zipped({"Plantedname/Plantedid.dcm": b"x"}, 0o120777)
    for content in (mixed, odd, several, broken, gap, link):
        with pytest.raises(gr.Error) as error:
            keep(upload(root, content, "Plantedname.zip"), "fixed volume")
        seen.append(f"{error.value.title} {error.value.message}")
    assert "#1 CT, 12 images of 20 x 18; #2 MRI, 12 images" in seen[7] and "another modality" in seen[9]
    text = "\n".join(seen)
    stored = everything(root)
    for value in [*PLANTED, "Planted", "PLANTED"]:
        assert value not in text and value.encode() not in stored, value
    assert not [*root.rglob("fusion_hub_volume_*")]


def test_one_of_several_is_chosen_by_its_position(root: Path) -> None:
    both = zip_of([*scans.series(SAMPLES, "CT", SeriesNumber=9), *scans.series(SAMPLES[:7], "MR")])
    assert keep(upload(root, both, "a.zip"), "fixed volume", "#1").text().startswith("MRI, DICOM series, 20 x 18 x 7")
    found = keep(upload(root, both, "a.zip"), "fixed volume", "2")
    assert found.stated and found.unit == "HU" and found.windows["default"] == volumes.PRESETS["brain"]
    assert volume_files.with_modality(found, "PT") is found, "its tags say what it is"
    twice = [
        image
        for number, time in enumerate((90.0, 10.0))
        for image in scans.series(SAMPLES + number, "MR", intercept=0.0, SeriesInstanceUID="1.2.3", EchoTime=time)
    ]
    with pytest.raises(gr.Error) as error:
        keep(upload(root, zip_of(twice), "a.zip"), "fixed volume")
    assert "choose one as the series, /1 (echo time 10 ms), /2 (echo time 90 ms)" in str(error.value.message)
    for name in ("/2", "#1/2"):
        assert np.array_equal(keep(upload(root, zip_of(twice), "a.zip"), "fixed volume", name).volume().array, SAMPLES)
    series = np.stack([SAMPLES.T, SAMPLES[::-1].T], axis=-1)
    kept = keep(upload(root, nifti(series), "v.nii"), "fixed volume", "2", "CT")
    assert np.array_equal(kept.volume().array, SAMPLES[::-1]) and "bone" in kept.windows
    assert "bone" not in volume_files.with_modality(kept, "MR").windows


def deflated() -> bytes:
    [image] = scans.series(SAMPLES[:1], "MR")
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def false_stream() -> bytes:
    """A lossless JPEG of 65000 x 65000 pixels that its tags call small."""
    [image] = scans.series(SAMPLES[:1], "CT")
    start = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHBBBB", 11, 16, 65000, 65000, 1, 1, 0x11, 0)
    image.PixelData = encapsulate([start + bytes(64) + b"\xff\xd9"])
    image.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    image["PixelData"].VR = "OB"
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def changed_nifti(place: int, kind: str, *values: float) -> bytes:
    content = bytearray(nifti(SAMPLES))
    struct.pack_into(kind, content, place, *values)
    return bytes(content)


def as_file(array: np.ndarray, name: str, folder: Path) -> bytes:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name))
    return (folder / name).read_bytes()


NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: %s\nencoding: gzip\nendian: little\n\n"
HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "nothing": ("a.nii", lambda: b"", "empty"),
    "text": ("a.nii", lambda: b"hello", "cannot be read as NIfTI"),
    "picture": ("a.png", lambda: b"\x89PNG\r\n\x1a\n" + bytes(200), "no DICOM file"),
    "text in a zip file": ("a.zip", lambda: zipped({"a.txt": b"hello"}), "holds no DICOM files: zip"),
    "no zip file": ("a.zip", lambda: b"hello" * 99, "damaged, or another kind"),
    "NIfTI in a zip file": ("a.zip", lambda: zipped({"a.nii": nifti(SAMPLES)}), "upload the NIfTI"),
    "zip file in a zip file": ("a.zip", lambda: zipped({"a.zip": zipped({})}), "another zip file"),
    "zip bomb": ("a.zip", lambda: zipped({"a": bytes(161 << 20)}), "a file of more than 160 MB"),
    "zip bomb of two": ("a.zip", lambda: zipped({"a": bytes(90 << 20), "b": bytes(90 << 20)}), "more than 160 MB"),
    "too many files": ("a.zip", lambda: zipped({str(n): b"" for n in range(1201)}), "1201 files"),
    "path traversal": ("a.zip", lambda: zipped({"../../a": b"x"}), "lead out of it:"),
    "link": ("a.zip", lambda: zipped({"a": b"/etc/passwd"}, 0o120777), "holds links:"),
    "gzip bomb": ("a.nii.gz", lambda: gzip.compress(nifti(SAMPLES) + bytes(170 << 20), 1), "more than 160 MB"),
    "half a gzip file": ("a.nii.gz", lambda: nifti(SAMPLES, "a.gz")[:900], "cut short"),
    "no gzip file": ("a.nii.gz", lambda: nifti(SAMPLES), "cut short or damaged"),
    "huge header": ("a.nii", lambda: changed_nifti(42, "<3h", 30000, 30000, 30000), "30000 x 30000 x 30000 voxels"),
    "header beyond the file": ("a.nii", lambda: changed_nifti(42, "<3h", 200, 200, 200), "cut short"),
    "negative size": ("a.nii", lambda: changed_nifti(42, "<3h", -5, 20, 12), "."),
    "voxels far away": ("a.nii", lambda: changed_nifti(108, "<f", 1e12), "."),
    "no voxel size": ("a.nii", lambda: changed_nifti(80, "<3f", 0, float("nan"), -1), "."),
    "nine dimensions": ("a.nii", lambda: changed_nifti(40, "<h", 9), "."),
    "four dimensions": ("a.nii", lambda: nifti(np.stack([SAMPLES] * 3, axis=-1)), "holds 3 volumes.*choose one"),
    "NaN": ("a.nii", lambda: nifti(np.where(SAMPLES > 900, np.nan, SAMPLES).astype(np.float32)), "NaN"),
    "constant": ("a.nii", lambda: nifti(np.full((9, 9, 9), 7, np.int16)), "constant"),
    "too large": ("a.nii.gz", lambda: nifti(np.zeros((260, 256, 256), np.uint8), "a.gz"), "more than 16,777,216"),
    "NRRD bomb": ("a.nrrd", lambda: NRRD % b"9 9 9" + gzip.compress(bytes(1 << 28), 1), "."),
    "NRRD beyond the limit": ("a.nrrd", lambda: NRRD % b"9999 9999 9999" + gzip.compress(b""), "16,777,216"),
    "NRRD of another file": ("a.nrrd", lambda: NRRD.replace(b"\n\n", b"\ndata file: /etc/passwd\n\n"), "another place"),
    "missing slice": ("a.zip", lambda: zip_of([*scans.series(SAMPLES)[:5], *scans.series(SAMPLES)[6:]]), "series"),
    "half a DICOM file": ("a.dcm", lambda: dicom()[:-300], "shorter than its tags say|damaged"),
    "deflated DICOM": ("a", deflated, "deflated as a whole"),
    "false size of a JPEG": ("a", false_stream, "65000x65000 pixels .*its tags say 20x18"),
    "large slice": ("a", lambda: dicom(Rows=40000, Columns=40000), "more than 1024 x 1024"),
    "many frames": ("a", lambda: dicom(NumberOfFrames=10**7), "."),
    "no number": ("a", lambda: dicom(PixelSpacing=None), "."),
}


def dicom(**tags: Any) -> bytes:
    [image] = scans.series(SAMPLES[:1], "MR")
    for name, value in tags.items():
        setattr(image, name, value)
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(root: Path, name: str) -> None:
    file, content, message = HOSTILE[name]
    place = upload(root, content(), file)
    with pytest.raises(gr.Error, match=message) as error:
        keep(place, "fixed volume")
    text = error.value.message
    assert text.endswith(".") and "\n" not in text and not re.search(r"/tmp|server|\.py|Errno|None|hash|volume\.", text)
    assert not place.exists() and not [path for path in root.rglob("*") if path.is_file()], "nothing stays"


def test_a_file_that_crashes_its_reader_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_files, "read_apart", READ_APART)
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    with (
        monkeypatch.context() as patched,
        pytest.raises(gr.Error, match="The fixed volume is damaged, or another kind of file: copy it again"),
    ):
        patched.setattr(sys, "executable", str(crashing))
        keep(upload(root, nifti(SAMPLES.astype(np.float32)), "a.nii"), "fixed volume")
    with pytest.raises(gr.Error, match="states -1 as its number of dimensions"):
        keep(upload(root, scans.CRASH, "a.mha"), "fixed volume")
    with pytest.raises(gr.Error, match="The fixed volume: the NIfTI file has 5 voxels"):
        values = SAMPLES.astype(np.float32)
        values[0, 0, :5] = np.nan
        keep(upload(root, nifti(values), "a.nii"), "fixed volume")
    archive = zip_of(scans.series(SAMPLES, "CT", axes=scans.rotation(12, 25)))
    kept = keep(upload(root, archive, "a.zip"), "fixed volume").volume()
    right = volumes.read_volume(scans.save(scans.series(SAMPLES, "CT", axes=scans.rotation(12, 25)), tmp_path / "ct"))
    assert np.array_equal(kept.array, right.array) and kept.unit == "HU" and kept.modality == "CT"
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(kept.image, name)() == getattr(right.image, name)()
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["volume.npy"]


def test_a_gap_is_named(root: Path) -> None:
    images = scans.series(SAMPLES, "CT")
    with pytest.raises(gr.Error, match=r"1 of the series' slices is missing: between .* mm"):
        keep(upload(root, zip_of(images[:5] + images[6:]), "a.zip"), "fixed volume")


def test_wrong_choices_are_refused(head: tuple[str, str], root: Path) -> None:
    ask: Any = volume_fusion.fuse_volume
    for message, options in (
        ("no model 'x' for volumes: choose difffusenet-medical", {"model": "x"}),
        ("registration is auto, rigid, affine, none, not 'x'", {"registration": "x"}),
        ("color is hot, iron, pet or empty", {"color": "x"}),
        ("window of the fixed volume is LOW,HIGH", {"window": "9,1"}),
        ("window of the moving volume is LOW,HIGH", {"moving_window": "nan,inf"}),
        ("modality is CT, MR, PT, NM", {"modality": "x"}),
        ("is for CT in HU", {"window": "bone", "modality": "MR"}),
        ("neither volume is one", {"color": "hot"}),
        ("Add the fixed volume first", {"fixed": None}),
        ("is a file of one volume", {"series": "7"}),
    ):
        with pytest.raises(gr.Error, match=message):
            ask(**{"fixed": head[0], "moving": head[1], "registration": "none", "progress": quiet, **options})
    assert not [*root.rglob("*.npy")]
    with pytest.raises(gr.Error, match="Add the moving volume first"):
        volume_fusion.fuse_kept(quiet, keep(head[0], "x"), None, MODEL, "none", [None, None])  # type: ignore[arg-type]


def test_an_uncertain_registration_is_refused_unless_allowed(tmp_path: Path) -> None:
    files = []
    for seed in range(2):
        values = np.random.default_rng(seed).random((20, 24, 24)).astype(np.float32)
        (tmp_path / f"{seed}.nii").write_bytes(nifti(values))
        files.append(str(tmp_path / f"{seed}.nii"))
    ask: Any = volume_fusion.fuse_volume
    with pytest.raises(gr.Error, match="registration is not certain"):
        ask(*files, progress=quiet)
    assert "**Please check:** The registration is not certain" in ask(*files, accept_unsure=True, progress=quiet)[2]


def test_deleted_volumes_say_so(head: tuple[str, str]) -> None:
    stack, kept = stack_of(head)
    for file in storage.root().rglob("*.npy"):
        file.unlink()
    with pytest.raises(gr.Error, match="deleted after an hour"):
        volume_fusion.draw_slices(stack, "Axial", 1, stack.windows)
    with pytest.raises(gr.Error, match="deleted after an hour"):
        volume_fusion.fuse_kept(quiet, *kept, MODEL, "none", [None, None])  # type: ignore[arg-type]


@pytest.mark.parametrize(("limits", "step"), [((-1024.0, 3071.0), 1.0), ((0.0, 1.0), 0.001), ((0.0, 8e4), 100.0)])
def test_sliders_reach_from_end_to_end(limits: tuple[float, float], step: float) -> None:
    assert volume_files.slider_step(limits) == pytest.approx(step)


def test_without_the_packages_the_tab_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "can_read", lambda: False)
    monkeypatch.setattr(volume_tab, "can_read", lambda: False)
    page = space.build_app(tmp_path)
    texts = [part.value for part in page.blocks.values() if isinstance(part, gr.Markdown)]
    assert any("fusion-hub[medical]" in str(text) for text in texts)
    assert not [event for event in page.fns.values() if event.api_name == "fuse_volume"]


def test_the_example_is_drawn_where_it_says(head: tuple[str, str]) -> None:
    mr, pet = (volumes.read_volume(file) for file in head)
    found = volumes.register(mr.image, pet.image)
    turn = np.deg2rad(phantom.TURN)
    for point in np.array([[30.0, -30, 5], [-40, 20, -10], [0, 60, 20]]):
        moved = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) @ point
        assert np.abs(found.transform.TransformPoint(point.tolist()) - (moved + phantom.SHIFT)).max() < 1.5
    assert found.trustworthy


def test_zip_members_are_unpacked_in_pieces(root: Path) -> None:
    """A file of more than one piece comes out whole."""
    images = scans.series(np.tile(SAMPLES[:2], (1, 50, 50)), "MR")
    kept = keep(upload(root, zip_of(images), "a.zip"), "fixed volume")
    assert kept.volume().array.shape == (2, 900, 1000) and zipfile.is_zipfile(io.BytesIO(zip_of(images)))
