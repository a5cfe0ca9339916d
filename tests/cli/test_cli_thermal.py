"""`fusion-hub fuse` with radiometric files: one photo, folders, palettes, saved temperatures, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from typer.testing import CliRunner, Result

from fusion_hub import PairedDataset, cli
from fusion_hub.data.crops import luminance as crop_luminance
from fusion_hub.evaluation.methods import source_luminance
from fusion_hub.image import PALETTES, read_radiometric
from fusion_hub.rigs import photo_rig
from tests.support import flir_file as ff
from tests.support.tiny import tiny_pipeline

EXIF_MAKE = 271


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo with both pictures, 80 x 60 visible and 32 x 24 infrared."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(ff.photo())
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A visible picture of the size of the infrared in a radiometric JPEG."""
    visible, infrared = tmp_path / "street.png", tmp_path / "street_ir.jpg"
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(visible)
    infrared.write_bytes(ff.jpeg(ff.block()))
    return visible, infrared


def fuse(*words: Any) -> Result:
    words = ("fuse", *words, "--dtype", "float32", "--device", "cpu")
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


def test_one_photo_is_fused_in_the_size_of_its_visible_picture(photo: Path, model: str, tmp_path: Path) -> None:
    result = fuse(photo, "-o", tmp_path / "fused.png", "-m", model, "--save-temperatures")
    assert result.exit_code == 0, result.output
    assert "photo.jpg: Synthetic, emissivity 0.95, distance 2 m, reflected temperature 22 C" in result.stdout
    assert "could not be aligned closer than the camera's own geometry" in result.stderr
    with Image.open(tmp_path / "fused.png") as image:
        assert image.size == (80, 60)
    temperatures = tifffile.imread(tmp_path / "fused_temperatures.tif")
    assert temperatures.shape == (60, 80) and temperatures.dtype == np.float32
    thermogram = read_radiometric(photo)
    expected = photo_rig(thermogram).warp(thermogram.temperatures())
    seen = ~expected.mask
    assert np.isnan(temperatures[~seen]).all() and 0.3 < seen.mean() < 0.9
    np.testing.assert_allclose(temperatures[seen], expected[seen], atol=1e-5)


def test_a_photo_given_twice_is_one_photo(photo: Path, model: str, tmp_path: Path) -> None:
    for words in ((photo,), (photo, photo)):
        assert fuse(*words, "-o", tmp_path / f"{len(words)}.png", "-m", model).exit_code == 0
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_palette_scale_and_isotherms(photo: Path, model: str, tmp_path: Path) -> None:
    result = fuse(photo, "-o", tmp_path / "a.png", "-m", model, "--palette", "iron", "--highlight", ">500C")
    assert result.exit_code == 0 and "warning: nothing is >500C: the temperatures are" in result.stderr
    with Image.open(tmp_path / "a.png") as image:
        assert image.height == 60 and image.width > 80 and image.mode == "RGB"
    fuse(photo, "-o", tmp_path / "b.png", "-m", model, "--palette", "iron", "--infrared-range", "20,400")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert a.tobytes() != b.tobytes()


def test_the_color_profile_of_the_visible_image_is_for_its_colors(
    pair: tuple[Path, Path], model: str, tmp_path: Path
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(pair[0]) as image:
        image.save(tmp_path / "tagged.png", icc_profile=profile)
    for name, options in (("a", ("--highlight", "<0C")), ("b", ("--palette", "iron"))):
        words = (tmp_path / "tagged.png", pair[1], "-o", tmp_path / f"{name}.png", "-m", model, "--save-temperatures")
        assert fuse(*words, *options).exit_code == 0
        with (
            Image.open(tmp_path / f"{name}.png") as image,
            Image.open(tmp_path / f"{name}_temperatures.tif") as degrees,
        ):
            assert ("icc_profile" in image.info) == (name == "a") and "icc_profile" not in degrees.info


def test_an_infrared_file_alone_is_drawn(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Without a model, and at the size of the sensor's picture, enlarged."""
    result = fuse(pair[1], "-o", tmp_path / "a.png", "--palette", "white-hot", "-m", "no-such-model")
    assert result.exit_code == 0 and "temperatures drawn, the file has no visible picture" in result.stdout
    with Image.open(tmp_path / "a.png") as image:
        assert image.height == 24 * 15
    result = fuse(pair[1], "-o", tmp_path / "b.png")
    assert result.exit_code == 1 and "holds no visible picture" in result.stderr and "--palette" in result.stderr
    assert not (tmp_path / "b.png").exists()


def test_conditions_change_the_temperatures(pair: tuple[Path, Path], model: str, tmp_path: Path) -> None:
    given = ("--emissivity", 0.7, "--distance", 30, "--reflected-temperature", 5, "--atmospheric-temperature", 10)
    result = fuse(*pair, "-o", tmp_path / "a.png", "-m", model, "--save-temperatures", *given, "--humidity", 0.9)
    assert "(emissivity and distance and reflected temperature and" in result.stdout
    expected = read_radiometric(pair[1]).temperatures(
        emissivity=0.7, distance=30, reflected_temperature=5, atmospheric_temperature=10, humidity=0.9
    )
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a_temperatures.tif"), expected)


def test_a_folder_of_photos(photo: Path, model: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(ff.photo())
    (folder / "two.jpg").write_bytes(ff.photo((50, 70)))
    (folder / "three.jpg").write_bytes(ff.jpeg(ff.block()))  # infrared only
    result = fuse(folder, "-o", out, "-m", model)
    assert result.exit_code == 1 and "2 fused, 1 failed" in result.stdout
    assert "temperatures by the constants of each file, such as one.jpg: Synthetic, emissivity 0.95" in result.stdout
    assert "three.jpg holds no visible picture" in result.stderr
    again = fuse(folder, "-o", out, "-m", model)
    assert "0 fused, 2 already there" in again.stdout
    other = fuse(folder, "-o", out, "-m", model, "--emissivity", 0.9)
    assert other.exit_code == 2 and "--overwrite" in other.stderr
    drawn = fuse(folder, "-o", tmp_path / "drawn", "-m", model, "--palette", "rainbow", "--save-temperatures")
    assert drawn.exit_code == 0 and "3 fused" in drawn.stdout
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert {"one.png", "three.png", "one_temperatures.tif", "three_temperatures.tif"} <= names


def test_counts_of_a_16_bit_file(pair: tuple[Path, Path], model: str, tmp_path: Path) -> None:
    counts = np.linspace(29000, 31000, 24 * 32).reshape(24, 32).astype(np.uint16)
    Image.fromarray(counts).save(tmp_path / "counts.png")
    words = (pair[0], tmp_path / "counts.png", "-o", tmp_path / "a.png", "-m", model, "--save-temperatures")
    result = fuse(*words)
    assert result.exit_code == 1 and "holds no temperatures, so --save-temperatures cannot be used" in result.stderr
    for option, kelvins in (("centikelvin", 0.01), ("0.04", 0.04), ("decikelvin", 0.1)):
        assert fuse(*words, "--counts", option).exit_code == 0
        stored = tifffile.imread(tmp_path / "a_temperatures.tif")
        np.testing.assert_allclose(stored, counts * kelvins - 273.15, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--humidity", 50), "--humidity 50 must be a share from 0 to 1, so 0.5 for 50 %"),
        (("--emissivity", 0), "--emissivity 0 must be a share from 0.01 to 1"),
        (("--palette", "hot"), f"--palette hot is unknown: use one of {', '.join(PALETTES)}"),
        (("--highlight", "37"), "--highlight '37' is no temperature"),
        (("--counts", "kelvin"), "--counts kelvin: give auto, centikelvin"),
        (("--counts", "raw", "--palette", "iron"), "--counts raw leaves no temperatures for --palette"),
        (("--palette", "iron", "--colors", "overlay", "-m", "difffusenet-medical"), "exclude each other"),
    ],
)
def test_wrong_options(pair: tuple[Path, Path], tmp_path: Path, options: tuple[Any, ...], message: str) -> None:
    result = fuse(*pair, "-o", tmp_path / "a.png", *options)
    assert result.exit_code == 2 and message in result.stderr, result.stderr
    assert not (tmp_path / "a.png").exists()


def test_the_help_names_every_palette() -> None:
    text = " ".join(CliRunner().invoke(cli.app, ["fuse", "--help"]).output.split())
    assert f"{', '.join([*PALETTES][:-1])} or {[*PALETTES][-1]}." in text


def test_what_has_no_temperatures(pair: tuple[Path, Path], model: str, tmp_path: Path) -> None:
    visible = pair[0]
    for option in (("--emissivity", 0.9), ("--palette", "iron"), ("--counts", 0.01)):
        Image.new("L", (32, 24), 7).save(tmp_path / "gray.png")
        result = fuse(visible, tmp_path / "gray.png", "-o", tmp_path / "a.png", "-m", model, *option)
        assert result.exit_code == 1 and not (tmp_path / "a.png").exists()
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    result = fuse(visible, "-o", tmp_path / "a.png")
    assert result.exit_code == 2 and "is a single image: give the INFRARED image too, or a radiometric" in result.stderr


def test_damage_is_said_and_nothing_is_written(
    photo: Path, pair: tuple[Path, Path], model: str, tmp_path: Path
) -> None:
    whole = photo.read_bytes()
    start = whole.index(b"FFF\0")
    photo.write_bytes(whole[: start + 28] + b"\xff\xff\xff\xff" + whole[start + 32 :])
    for words in ((photo,), (pair[0], photo)):
        result = fuse(*words, "-o", tmp_path / "a.png", "-m", model)
        assert result.exit_code == 1 and "damaged FLIR block" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_temperatures_never_replace_an_input(pair: tuple[Path, Path], model: str, tmp_path: Path) -> None:
    infrared = tmp_path / "fused_temperatures.tif"
    tifffile.imwrite(infrared, read_radiometric(pair[1]).temperatures())
    before = infrared.read_bytes()
    result = fuse(pair[0], infrared, "-o", tmp_path / "fused.png", "-m", model, "--save-temperatures")
    assert result.exit_code == 2 and "would replace the input" in result.stderr and infrared.read_bytes() == before


def test_a_set_of_radiometric_files_is_checked_evaluated_and_trained_on(tmp_path: Path) -> None:
    for band in ("vis", "ir"):
        (tmp_path / "set" / band).mkdir(parents=True)
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / "vis" / f"{index}.png")
        (tmp_path / "set" / "ir" / f"{index}.jpg").write_bytes(ff.jpeg(ff.block(ff.scene_counts() + np.uint16(index))))
    dataset = PairedDataset.open(tmp_path / "set")
    assert dataset.check().usable == 2
    degrees = read_radiometric(tmp_path / "set" / "ir" / "0.jpg").temperatures()
    np.testing.assert_array_equal(dataset[0].infrared, degrees)
    low, high = 100.0, 180.0
    seen = source_luminance(dataset[0], infrared_range=(low, high))[1]
    np.testing.assert_allclose(seen, np.clip((degrees - low) / (high - low), 0, 1) * 255, atol=0.51)
    np.testing.assert_array_equal(crop_luminance(dataset[0].infrared, True, (low, high)), seen)
    command = ["evaluate", "-d", str(tmp_path / "set"), "-m", "average", "-o", str(tmp_path / "out"), "--save-images"]
    result = CliRunner().invoke(cli.app, [*command, "--metrics", "EN"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "hold temperatures" in result.stderr and "in degrees C" in result.stderr


def test_real_photos(data_root: Path, model: str, tmp_path: Path) -> None:
    folder = data_root / "data" / "rigs" / "radiometric"
    for name, size in (("FLIR_B60", (480, 480)), ("FLIR_AX8", (640, 480))):
        result = fuse(folder / f"{name}.jpg", "-o", tmp_path / f"{name}.png", "-m", model, "--save-temperatures")
        assert result.exit_code == 0, result.output
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == size
            if name == "FLIR_AX8":
                assert image.getexif().get(EXIF_MAKE)
        degrees = tifffile.imread(tmp_path / f"{name}_temperatures.tif")
        whole = np.load(folder / "temperatures.npz")[name]
        assert np.nanmin(degrees) >= whole.min() - 0.01 and np.nanmax(degrees) <= whole.max() + 0.01
    assert (
        "emissivity 1, so its temperatures are apparent"
        in fuse(folder / "FLIR_B60.jpg", "-o", tmp_path / "b.png", "-m", model).stderr
    )
