"""`fusion-hub calibrate`, and `fuse` with `--rig` and `--align`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fusion_hub.cli import app
from fusion_hub.data import sample_pairs
from fusion_hub.rigs import Confidence, Rig

HOMOGRAPHY = np.array([[1.9, 0.06, 30.0], [-0.06, 1.9, 28.0], [0, 0, 1]])


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def rig_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vis/ and ir/ of two cameras: the infrared of the drawn streets, seen by a smaller, turned camera."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("vis", "ir"):
        (folder / name).mkdir()
    a, b, c, d, e, f = HOMOGRAPHY[:2].ravel()
    # Pillow maps the corners of pixels, the homography their centers.
    matrix = (a, b, c + 0.5 - (a + b) / 2, d, e, f + 0.5 - (d + e) / 2)
    for pair in sample_pairs():
        with Image.open(pair.visible) as visible, Image.open(pair.infrared) as infrared:
            if pair.model != "difffusenet-msrs" or visible.size != (640, 480) or infrared.mode != "L":
                continue
            visible.save(folder / "vis" / f"{pair.name}.png")
            infrared.transform((300, 220), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC).save(
                folder / "ir" / f"{pair.name}.png"
            )
    return folder


def corner_error(rig: Rig) -> float:
    corners = np.array([[0, 0, 1], [299, 0, 1], [299, 219, 1], [0, 219, 1]]).T
    found, expected = (matrix @ corners for matrix in (rig.homography, HOMOGRAPHY))
    return float(np.abs(found[:2] / found[2] - expected[:2] / expected[2]).max())


def test_calibrate_then_fuse(rig_pictures: Path, tmp_path: Path) -> None:
    result = run(
        "calibrate", rig_pictures / "vis", rig_pictures / "ir", "-o", tmp_path / "rig.json", "--time-offset", "0.04"
    )
    assert result.exit_code == 0, result.output
    assert "infrared 300x220 on visible 640x480" in result.output and "look at it" in result.output
    rig = Rig.load(tmp_path / "rig.json")
    assert (
        corner_error(rig) < 4 and rig.time_offset == 0.04 and rig.frames == len(list((rig_pictures / "vis").iterdir()))
    )
    with Image.open(tmp_path / "rig.png") as picture:
        assert picture.size == (2 * 640 + 8, 480)

    command = (
        "fuse",
        rig_pictures / "vis",
        rig_pictures / "ir",
        "-o",
        tmp_path / "fused",
        "--rig",
        tmp_path / "rig.json",
    )
    assert (result := run(*command)).exit_code == 0, result.output
    for file in (rig_pictures / "vis").iterdir():
        with Image.open(tmp_path / "fused" / file.name) as fused, Image.open(file) as visible:
            warp = rig.at((480, 640), (220, 300))
            assert fused.size == visible.size
            assert (np.asarray(fused) == np.asarray(visible))[~warp.mask].all()
    assert "4 already there" in run(*command).output
    Rig(rig.homography + np.eye(3, k=2), (480, 640), (220, 300)).save(tmp_path / "rig.json")
    result = run(*command)
    assert result.exit_code == 2 and "rig" in result.output and "--overwrite" in result.output


@pytest.mark.parametrize("offset", ["nan", "1e6", "-inf"])
def test_an_offset_that_no_rig_may_hold_is_refused_before_the_work(
    rig_pictures: Path, tmp_path: Path, offset: str
) -> None:
    words = ("calibrate", rig_pictures / "vis", rig_pictures / "ir", "-o", tmp_path / "rig.json")
    result = run(*words, f"--time-offset={offset}")
    assert result.exit_code == 2 and "--time-offset must be seconds, at most a day" in result.output
    assert not list(tmp_path.iterdir())


def test_an_unsure_rig_says_so(tmp_path: Path, rig_pictures: Path) -> None:
    confidence = Confidence(0.1, None, None, 0.9, sure=False)
    rig = Rig([[2, 0, 20], [0, 2, 20], [0, 0, 1]], (480, 640), (220, 300), confidence=confidence)
    file = rig.save(tmp_path / "rig.json")
    pair = [sorted((rig_pictures / band).iterdir())[0] for band in ("vis", "ir")]
    result = run("fuse", *pair, "-o", tmp_path / "out.png", "--rig", file)
    assert result.exit_code == 0 and f"{file} holds an estimate that was not sure" in result.output


def test_align_auto(rig_pictures: Path, tmp_path: Path) -> None:
    names = sorted(file.name for file in (rig_pictures / "vis").iterdir())
    pair = rig_pictures / "vis" / names[0], rig_pictures / "ir" / names[0]
    result = run("fuse", *pair, "-o", tmp_path / "out.png")
    assert result.exit_code == 1 and "--align auto" in result.output and "fusion-hub calibrate" in result.output
    assert not (tmp_path / "out.png").exists()
    folders = rig_pictures / "vis", rig_pictures / "ir"
    assert run("fuse", *folders, "-o", tmp_path / "out", "--limit", 1).exit_code == 1
    report = (tmp_path / "out" / ".fusion-hub" / "report.csv").read_text(encoding="utf-8-sig")
    assert "--align auto" in report and "rig=" not in report
    result = run("fuse", *pair, "-o", tmp_path / "out.png", "--align", "auto")
    assert result.exit_code == 0, result.output


def test_what_is_refused(rig_pictures: Path, tmp_path: Path) -> None:
    """Each in one sentence, and nothing is left behind."""
    names = sorted(file.name for file in (rig_pictures / "vis").iterdir())
    visible, infrared = rig_pictures / "vis" / names[0], rig_pictures / "ir" / names[0]
    Image.new("L", (300, 220), 90).save(tmp_path / "flat.png")
    Image.new("L", (310, 220), 90).save(tmp_path / "other.png")
    (tmp_path / "cut.png").write_bytes(infrared.read_bytes()[:3000])
    Rig(HOMOGRAPHY, (480, 640), (220, 300)).save(tmp_path / "good.json")
    (tmp_path / "bad.json").write_text(json.dumps({"format": "fusion-hub rig", "version": 9}))
    out, rig = tmp_path / "out.png", tmp_path / "rig.json"
    before = sorted(tmp_path.iterdir())
    for words, code, said in (
        (("calibrate", visible, tmp_path / "flat.png", "-o", rig), 1, "could not be aligned with confidence"),
        (("calibrate", visible, tmp_path / "flat.png", "-o", rig, "--accept-unsure"), 1, "could not be aligned"),
        (("calibrate", visible, infrared, "-o", tmp_path / "rig.txt"), 2, "end it with .json"),
        (("calibrate", visible, infrared, "-o", tmp_path), 2, "is a folder"),
        (("calibrate", visible, infrared, "-o", rig, "--fov-ratio", "60"), 2, "--fov-ratio 60.0 must be"),
        (("calibrate", visible, infrared, "-o", visible.with_suffix(".json")), 2, "would replace an input"),
        (("calibrate", visible, tmp_path / "cut.png", "-o", rig), 1, "error: infrared ("),
        (("calibrate", visible, infrared, "-o", rig, "--matcher", "no-such"), 2, "no matcher named 'no-such'"),
        (("calibrate", visible, infrared, "-o", rig, "--start", tmp_path / "none.json"), 2, "none.json"),
        (("calibrate", visible, tmp_path / "none.png", "-o", rig), 2, "there is no file"),
        (("fuse", visible, infrared, "-o", out, "--rig", tmp_path / "bad.json"), 2, '"version" is 9'),
        (("fuse", visible, infrared, "-o", out, "--rig", tmp_path / "none.json"), 2, "none.json"),
        (
            ("fuse", visible, tmp_path / "other.png", "-o", out, "--rig", tmp_path / "good.json"),
            1,
            "calibrate the rig again",
        ),
        (("fuse", visible, infrared, "-o", out, "--rig", tmp_path / "good.json", "--align", "auto"), 2, "exclude"),
        (("fuse", visible, tmp_path / "flat.png", "-o", out, "--align", "auto"), 1, "could not be aligned"),
    ):
        result = run(*words)
        assert result.exit_code == code and said in result.output, (words, result.output)
        assert "Traceback" not in result.output and "None" not in result.output
        assert sorted(tmp_path.iterdir()) == before, words


def test_pairs_of_two_sizes_are_no_rig(rig_pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(rig_pictures, tmp_path / "set")
    first = sorted((tmp_path / "set" / "ir").iterdir())[-1]
    with Image.open(first) as picture:
        picture.resize((150, 110)).save(first)
    result = run("calibrate", tmp_path / "set" / "vis", tmp_path / "set" / "ir", "-o", tmp_path / "rig.json")
    assert result.exit_code == 1 and "must have the same sizes" in result.output
    assert not (tmp_path / "rig.json").exists()
