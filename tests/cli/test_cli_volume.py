"""`fusion-hub fuse-volume`: files out, one sentence for what cannot be fused, and nothing about a person anywhere."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from fusion_hub import volumes
from fusion_hub.cli import app
from tests.support import scans

SHAPE = (10, 40, 44)
AXES = scans.rotation(14, -22)


def head(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.random(SHAPE), 2)
    return (4000 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint16)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """An MR and a PET of one patient, oblique and anisotropic, in one frame of reference."""
    shared = {"axes": AXES, "FrameOfReferenceUID": "1.2.3.4", "intercept": 0.0}
    pet = {"Units": "CNTS", "spacing": (1.6, 1.4, 3.5)}
    return (
        scans.save(scans.series(head(0), "MR", **shared), tmp_path / "in" / "mr"),
        scans.save(scans.series(head(1), "PT", **shared, **pet), tmp_path / "in" / "pet"),
    )


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["fuse-volume", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def every_byte(place: Path) -> bytes:
    """The content of all files, decompressed where it is compressed."""
    parts = []
    for file in place.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            parts += [file.name.encode(), data]
            if file.suffix == ".gz":
                parts.append(gzip.decompress(data))
            if file.suffix == ".png":
                parts += [repr(Image.open(file).info).encode(), Image.open(file).tobytes()]
    return b"\n".join(parts)


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nrrd", "out.mha", "out.dcm"])
def test_no_identity_leaves_the_sources(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    out = tmp_path / "results"
    code, said = run(*sources, "--output", out / name, "--color", "hot", "--preview", out / "check.png")
    assert code == 0, said
    assert "10 voxels" in said and {"check.png", "out.json", "out_legend.png"} <= {file.name for file in out.iterdir()}
    written = every_byte(out) + every_byte(temporary) + said.encode()
    uids = {
        str(pydicom.dcmread(file).get(tag))
        for place in sources
        for file in place.glob("IM*")
        for tag in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    }
    for planted in [*scans.PLANTED.values(), *uids - {"1.2.3.4"}]:
        for part in (part for part in planted.replace("^", " ").split() if len(part) > 3):
            assert part.lower().encode() not in written.lower(), part
    assert not list(out.glob(".*"))


def test_the_geometry_comes_back(sources: tuple[Path, Path], tmp_path: Path) -> None:
    code, said = run(*sources, "--output", tmp_path / "out.nii.gz")
    assert code == 0, said
    image = nibabel.load(tmp_path / "out.nii.gz")
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = AXES * [0.8, 1.2, 3.0], [-20, 31.5, 7.25]
    assert np.abs(image.affine - np.diag([-1, -1, 1, 1]) @ expected).max() < 1e-4
    other = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    assert np.abs(np.array(other.GetDirection()).reshape(3, 3) * other.GetSpacing() - expected[:3, :3]).max() < 1e-4
    assert np.abs(np.array(other.GetOrigin()) - expected[:3, 3]).max() < 1e-4
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["grid"] == "fixed" and "registration" not in record  # one frame of reference
    assert [one["modality"] for one in record["sources"]] == ["MR", "PT"] and "not for diagnosis" in record["notice"]


def test_the_record_says_which_volume_was_chosen(sources: tuple[Path, Path], tmp_path: Path) -> None:
    several = np.stack([head(seed).T for seed in (1, 2)], axis=-1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(several, np.diag([-1, -1, 3, 1])), tmp_path / "time.nii")
    results: list[np.ndarray] = []
    for name in ("2", "#2", "/2"):
        code, said = run(
            *(sources[0], tmp_path / "time.nii", "--moving-series", name, "--moving-modality", "PT"),
            *("--series", "3", "--register", "none", "--output", tmp_path / "out.nii.gz"),
        )
        assert code == 0, said
        assert json.loads((tmp_path / "out.json").read_text())["volumes"] == [None, "2"]
        results.append(nibabel.load(tmp_path / "out.nii.gz").get_fdata())
        (tmp_path / "out.nii.gz").unlink(), (tmp_path / "out.json").unlink()
    assert np.array_equal(*results[:2]) and np.array_equal(*results[1:])


def test_a_transform_is_used(sources: tuple[Path, Path], tmp_path: Path) -> None:
    move = sitk.Euler3DTransform((0, 0, 0), 0, 0, 0.1, (2, 3, -1))
    sitk.WriteTransform(move, str(tmp_path / "t.tfm"))
    for name, options in (("plain", ()), ("moved", ("--transform", tmp_path / "t.tfm"))):
        code, said = run(*sources, *options, "--output", tmp_path / f"{name}.nrrd")
        assert code == 0, said
    plain, moved = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{n}.nrrd"))) for n in ("plain", "moved"))
    assert plain.dtype == np.uint16 and np.abs(plain.astype(int) - moved).mean() > 300


def test_identity_is_kept_with_a_reason(sources: tuple[Path, Path], tmp_path: Path) -> None:
    code, said = run(*sources, "--output", tmp_path / "out.dcm", "--keep-identity", "")
    assert code == 1 and "needs a reason" in said and not (tmp_path / "out.dcm").exists()
    code, said = run(*sources, "--output", tmp_path / "out.dcm", "--keep-identity", "phantom study 7")
    assert code == 0, said
    tags = pydicom.dcmread(tmp_path / "out.dcm" / "00001.dcm")
    assert tags.PatientID == scans.PLANTED["PatientID"] and "phantom study 7" in tags.ImageComments
    assert tags.FrameOfReferenceUID == "1.2.3.4"
    assert json.loads((tmp_path / "out.json").read_text())["keep_identity"] == "phantom study 7"


def test_a_kept_name_may_have_any_letters(tmp_path: Path) -> None:
    shared = {"axes": AXES, "FrameOfReferenceUID": "1.2.3.4", "intercept": 0.0, "SpecificCharacterSet": "ISO_IR 192"}
    shared |= {"PatientName": "山田^太郎", "PatientSex": "X", "PatientBirthDate": ""}
    mr, pet = (scans.save(scans.series(head(n), "MR", **shared), tmp_path / f"{n}") for n in (0, 1))
    code, said = run(mr, pet, "--output", tmp_path / "out.dcm", "--keep-identity", "研究")
    assert code == 0 and "warning" not in said.lower(), said
    tags = pydicom.dcmread(tmp_path / "out.dcm" / "00001.dcm")
    assert tags.PatientName == "山田^太郎" and "研究" in tags.ImageComments


def test_a_transform_is_saved_where_nothing_was_registered(sources: tuple[Path, Path], tmp_path: Path) -> None:
    code, said = run(*sources, "--output", tmp_path / "out.nii", "--save-transform", tmp_path / "t.tfm")
    assert code == 0 and "share a frame of reference and were not registered" in said, said
    assert volumes.load_transform(tmp_path / "t.tfm").TransformPoint((1, 2, 3)) == (1, 2, 3)


def test_an_unsure_registration_is_refused(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(*_: object, **__: object) -> volumes.Registration:
        move = sitk.Euler3DTransform((0, 0, 0), 0, 0, 0, (1, 0, 0))
        return volumes.Registration(move, "rigid", 1.01, 1.0, 1.2, 30.0, 0.9, "both directions differ by 30 mm", 1.0)

    monkeypatch.setattr(volumes, "register", register)
    words = (*sources, "--register", "rigid", "--output", tmp_path / "out.nii.gz")
    code, said = run(*words)
    assert (
        code == 1 and "not certain, both directions differ by 30 mm" in said and not (tmp_path / "out.nii.gz").exists()
    )
    code, said = run(*words, "--accept-unsure", "--save-transform", tmp_path / "t.tfm")
    assert code == 0 and "warning: the registration is not certain" in said, said
    assert json.loads((tmp_path / "out.json").read_text())["registration"]["disagreement"] == 30
    assert np.allclose(volumes.load_transform(tmp_path / "t.tfm").TransformPoint((0, 0, 0)), (1, 0, 0))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--output", "out.txt"), 2, "no suffix of a volume"),
        (("--output", "out.nii", "--window", "9,2"), 1, "does not rise"),
        (("--output", "out.nii", "--window", "bone"), 1, "for CT in HU"),
        (("--output", "out.nii", "--series", "77"), 1, "no series named '77'"),
        (("--output", "out.nii", "--planes", "2"), 2, "give 1 or 3"),
        (("--output", "out.nii", "--planes", "3"), 1, "this grid has 10"),
        (("--output", "out.nii", "--color", "blue"), 1, "is unknown: give one of hot"),
        (("--output", "out.nii", "--keep-identity", "x"), 1, "DICOM output"),
        (("--output", "out.nii", "--register", "rigid", "--transform", "t.tfm"), 2, "exclude each other"),
        (("--output", "out.nii", "--transform", "absent.tfm"), 1, "absent.tfm"),
        (("--output", "out.nii", "--modality", "CT"), 1, "says that it is MR"),
        (("--output", "in"), 2, "no suffix of a volume"),
        (("--output", "in/mr/fused.dcm"), 2, "would be read as a source next time"),
        (("--output", "out.nii", "--preview", "in/mr.png"), 2, "in/mr.png is a folder"),
        (("--output", "o.nii", "--color", "hot", "--preview", "o_legend.png"), 2, "has the name of the legend"),
        (("--output", "in/scan.nii"), 2, "no record of fuse-volume"),
        (("--output", 300 * "n" + ".nii"), 2, "cannot be a file: File name too long"),
    ],
)
def test_refusals(
    sources: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "scan.json").write_text('{"EchoTime": 0.03}')  # of a program that converts DICOM
    (tmp_path / "in" / "mr.png").mkdir()
    found, said = run(*sources, *options)
    assert found == code and words in said and len(said.strip().splitlines()) == 1, said
    assert "Traceback" not in said and [file.name for file in tmp_path.iterdir()] == ["in"]


def test_a_missing_extra_is_one_sentence(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['SimpleITK'] = None; from fusion_hub.cli import main; main()"
    words = ["fuse-volume", "mr.nii.gz", "ct.nii.gz", "--output", str(tmp_path / "f.nii.gz")]
    run = subprocess.run([sys.executable, "-c", blocked, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    assert "pip install 'fusion-hub[medical]'" in run.stderr
