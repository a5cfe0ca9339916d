"""Radiometric files: counts exact, temperatures by the full formula, damage refused."""

import io
import math
import re
import struct
import zipfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion_hub.image import Picture, ThermalSettings, read_radiometric
from fusion_hub.image.io import read_header, read_picture
from fusion_hub.image.luminance import to_plane
from fusion_hub.image.radiometric import Conditions
from tests.support import flir_file as ff

REAL = ("FLIR_AX8", "FLIR_B60", "FLIR_E40", "cc0_03", "cc0_10", "cc0_11")


def read(data: bytes, **more):
    return read_radiometric({"bytes": data, "path": "photo.jpg"}, **more)


def reference(counts: np.ndarray, c: dict) -> np.ndarray:
    """The measurement formula as FLIR's manuals and Thermimage state it, in attenuated parts, pixel by pixel."""

    def signal(kelvin: float) -> float:
        return c["r1"] / (c["r2"] * (math.exp(c["b"] / kelvin) - c["f"])) - c["o"]

    a1, a2, b1, b2, x = c["atmosphere"]
    air = c["air"] - 273.15
    water = c["humidity"] * math.exp(1.5587 + 6.939e-2 * air - 2.7816e-4 * air**2 + 6.8455e-7 * air**3)
    half = math.sqrt(c["distance"] / 2)
    t = x * math.exp(-half * (a1 + b1 * math.sqrt(water))) + (1 - x) * math.exp(-half * (a2 + b2 * math.sqrt(water)))
    e, w = c["emissivity"], c["window_transmission"]
    out = np.empty(counts.shape)
    for place, count in np.ndenumerate(counts):
        seen = float(count) / e / t / w / t
        seen -= (1 - t) / e / t * signal(c["air"])
        seen -= (1 - w) / e / t / w * signal(c["window"])
        seen -= (1 - t) / e / t / w / t * signal(c["air"])
        seen -= (1 - e) / e * signal(c["reflected"])
        out[place] = c["b"] / math.log(c["r1"] / (c["r2"] * (seen + c["o"])) + c["f"]) - 273.15
    return out


def flir_records(path: Path) -> dict[int, bytes]:
    """The records of a FLIR file by type, without the reader."""
    data, blocks = path.read_bytes(), b""
    for found in re.finditer(rb"\xff\xe1(..)FLIR\x00\x01", data, re.DOTALL):
        blocks += data[found.end() + 2 : found.start() + 2 + struct.unpack(">H", found[1])[0]]
    start, count = struct.unpack_from(">2I", blocks, 24)
    entries = [struct.unpack_from(">H10x2I", blocks, start + 32 * index) for index in range(count)]
    return {kind: blocks[offset : offset + length] for kind, offset, length in entries if kind}


@pytest.mark.parametrize("name", REAL)
def test_real_files_give_the_temperatures_of_another_reader(data_root: Path, name: str) -> None:
    folder = data_root / "data" / "rigs" / "radiometric"
    expected = np.load(folder / "temperatures.npz")[name]
    found = read_radiometric(folder / f"{name}.jpg").temperatures()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.001)


@pytest.mark.parametrize("name", REAL)
def test_counts_of_real_files_are_exact(data_root: Path, name: str) -> None:
    path = data_root / "data" / "rigs" / "radiometric" / f"{name}.jpg"
    raw = flir_records(path)[1]
    width, height = struct.unpack_from("<2H", raw, 2)
    if raw[32:].startswith(b"\x89PNG"):
        expected = np.asarray(Image.open(io.BytesIO(raw[32:]))).astype(np.uint16).byteswap()
        np.testing.assert_array_equal(expected, imagecodecs.png_decode(raw[32:]).byteswap())
    else:
        expected = np.frombuffer(raw, "<u2", offset=32).reshape(height, width)
    np.testing.assert_array_equal(read_radiometric(path).counts, expected)


SHOWN = {"FLIR_AX8": (22.9, 27.0), "FLIR_B60": (-12.8, 0.6)}  # read from the pictures that the cameras show


@pytest.mark.parametrize("name", SHOWN)
def test_limits_of_the_picture_that_the_camera_shows(data_root: Path, name: str) -> None:
    found = read_radiometric(data_root / "data" / "rigs" / "radiometric" / f"{name}.jpg").shown_limits()
    np.testing.assert_allclose(found, SHOWN[name], atol=0.3)


CHANGES = [
    {},
    {"emissivity": 1.0, "distance": 0.0},
    {"emissivity": 0.3, "reflected": 300.0, "distance": 200.0, "humidity": 0.95},
    {"window": 310.0, "window_transmission": 0.8, "air": 260.0},
]


@pytest.mark.parametrize("changed", CHANGES)
@pytest.mark.parametrize("record_order", "<>")
@pytest.mark.parametrize("form", ["raw", "png", "jpegls"])
def test_counts_and_temperatures_of_every_form(form, record_order, changed) -> None:
    counts = ff.scene_counts(7, 9)
    for data in (ff.block(counts, form, order, record_order, **changed) for order in "<>"):
        for stored in (data, ff.jpeg(data, part=300)):
            found = read(stored)
            np.testing.assert_array_equal(found.counts, counts)
            np.testing.assert_allclose(found.temperatures(), reference(counts, ff.CONSTANTS | changed), atol=1e-3)
            assert found.camera == "Synthetic"


def test_given_conditions_replace_those_of_the_file() -> None:
    counts = ff.scene_counts(4, 5)
    given = {"emissivity": 0.8, "distance": 30.0, "humidity": 0.7}
    changed = given | {"reflected": 280.0, "air": 285.0}
    found = read(ff.block(counts)).temperatures(**given, reflected_temperature=6.85, atmospheric_temperature=11.85)
    np.testing.assert_allclose(found, reference(counts, ff.CONSTANTS | changed), atol=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"emissivity": 0}, "emissivity=0 must be a share from 0.01 to 1"),
        ({"emissivity": 95}, "emissivity=95 must be"),
        ({"distance": -1}, "distance=-1 must be meters from 0 to 10000"),
        ({"humidity": 50}, "humidity=50 must be a share from 0 to 1, so 0.5 for 50 %"),
        ({"reflected_temperature": -300}, "reflected_temperature=-300 must be degrees C"),
        ({"atmospheric_temperature": 293.15}, "atmospheric_temperature=293.15 must be degrees C from -90 to 80"),
        ({"emissivity": float("nan")}, "emissivity=nan"),
    ],
)
def test_impossible_conditions_are_refused(given, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(ff.block()).temperatures(**given)


def test_counts_that_no_temperature_explains_are_refused() -> None:
    with pytest.raises(ValueError, match=r"768 of 768 pixels that no temperature explains.*use emissivity 1"):
        read(ff.block(o=-20000)).temperatures()
    with pytest.raises(ValueError, match=r"pixels that no temperature explains"):
        read(ff.block()).temperatures(emissivity=0.05, reflected_temperature=500)


def test_the_infrared_role_gives_degrees() -> None:
    photo = {"bytes": ff.photo(), "path": None}
    picture = read_picture(photo, "infrared", role="infrared")
    assert picture.pixels.dtype == np.float32 and picture.pixels.shape == (24, 32) and picture.white is None
    np.testing.assert_array_equal(picture.pixels, read(ff.photo()).temperatures())
    assert read_header(photo, role="infrared").size == (24, 32)
    shown = read_picture(photo, "visible", role="visible")
    assert shown.pixels.shape == (24, 32, 3) and "picture that the camera shows is used" in shown.notes[0]


def test_the_cameras_own_overlay() -> None:
    for zoom, factor in ((None, 1), (1.6, 1.6), (0.2, 1)):
        found = read(ff.photo(zoom=zoom))
        matrix = found.overlay_homography()
        scale = 80 / (32 * 1.25) * factor
        center = matrix @ [15.5, 11.5, 1]
        np.testing.assert_allclose(center, [39.5 + 3, 29.5 - 2, 1])
        np.testing.assert_allclose(matrix[:2, :2], np.eye(2) * scale, rtol=1e-6)
        # A visible picture of twice the size: pixel edges, not centers, scale by two.
        double = found.overlay_homography((120, 160))
        np.testing.assert_allclose((double @ [0, 0, 1])[:2] + 0.5, 2 * ((matrix @ [0, 0, 1])[:2] + 0.5), rtol=1e-6)
    assert read(ff.jpeg(ff.block())).overlay_homography() is None


def test_a_visible_picture_of_luma_and_chroma_becomes_rgb() -> None:
    rgb = np.random.default_rng(0).integers(60, 200, (12, 10, 1)).repeat(3, 2).astype(np.uint8)
    rgb[:, 5:] = (180, 90, 60)
    planes = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    data = imagecodecs.png_encode(np.ascontiguousarray(planes))
    records = [
        (1, ff.raw_record(ff.scene_counts())),
        (0x20, ff.camera_record()),
        (14, ff.image_record(3, (12, 10), data)),
    ]
    visible = read_picture({"bytes": read(ff.fff(records)).visible, "path": None})
    np.testing.assert_allclose(visible.pixels.astype(int), rgb, atol=2)


@pytest.mark.parametrize("data", [b"", b"unknown", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x0a\0\0\0\x0c\x08\0\0\0\0"])
def test_a_visible_picture_of_an_unknown_kind_is_left_out(data: bytes) -> None:
    records = [(1, ff.raw_record(ff.scene_counts())), (0x20, ff.camera_record(window=0.0))]
    records.append((14, ff.image_record(3, (12, 10), data)))
    found = read(ff.fff(records))
    assert found.visible is None and found.conditions.window_temperature == found.conditions.atmospheric_temperature


# --- counts of other files ----------------------------------------------------


def tiff_file(path: Path, pixels: np.ndarray, xmp: str = "", make: str = "") -> Path:
    tags = [(700, 1, len(xmp), xmp.encode(), True)] if xmp else []
    tifffile.imwrite(path, pixels, extratags=tags + ([(271, 2, 0, make, True)] if make else []), metadata=None)
    return path


TLINEAR = '<rdf:Description xmlns:FLIR="http://ns.flir.com/xmp/1.0/"><FLIR:TlinearGain>{}</FLIR:TlinearGain>'
LWIR = "<Camera:BandName><rdf:Seq><rdf:li>{}</rdf:li></rdf:Seq></Camera:BandName>"


@pytest.mark.parametrize(
    ("xmp", "make", "kelvins"),
    [
        (TLINEAR.format("0.04"), "FLIR", 0.04),
        ('<rdf:Description FLIR:TlinearGain="0.4"/>', "FLIR", 0.4),
        (TLINEAR.format("0"), "FLIR", None),
        (LWIR.format("LWIR"), "MicaSense", 0.01),
        (LWIR.format("LWIR"), "DJI", None),
        (LWIR.format("Red"), "MicaSense", None),
        ("", "FLIR", None),
    ],
)
def test_tags_name_the_kelvins_of_a_count(tmp_path: Path, xmp: str, make: str, kelvins: float | None) -> None:
    counts = np.arange(7000, 7012, dtype=np.uint16).reshape(3, 4)
    path = tiff_file(tmp_path / "a.tif", counts, xmp, make)
    found = read_picture(path, "infrared", role="infrared")
    if kelvins is None:
        np.testing.assert_array_equal(found.pixels, counts)
        assert found.unit == ""
    else:
        np.testing.assert_allclose(found.pixels, counts * kelvins - 273.15, atol=1e-4)
        assert (found.unit, found.white, found.pixels.dtype) == ("C", None, np.float32)
        raw = read_picture(path, "infrared", role="infrared", thermal=ThermalSettings("raw"))
        np.testing.assert_array_equal(raw.pixels, counts)
    np.testing.assert_array_equal(read_picture(path, "visible", role="visible").pixels, counts)


def test_counts_by_setting(tmp_path: Path) -> None:
    counts = np.arange(29000, 29012, dtype=np.uint16).reshape(3, 4)
    Image.fromarray(counts).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", "infrared", role="infrared", thermal=ThermalSettings(0.01))
    np.testing.assert_allclose(found.pixels, counts / 100 - 273.15, atol=1e-4)
    Image.fromarray(counts.astype(np.uint8)).save(tmp_path / "b.png")
    for settings_, message in (
        (ThermalSettings(0.01), "has uint8 samples, no counts of 16 bits"),
        (
            ThermalSettings(conditions={"emissivity": 0.9}),
            "holds no radiometric data of FLIR, so emissivity cannot be set",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            read_picture(tmp_path / "b.png", "infrared", role="infrared", thermal=settings_)
    with pytest.raises(ValueError, match="kelvins of one count"):
        ThermalSettings(100.0)
    photo = {"bytes": ff.photo(), "path": None}
    raw = read_picture(photo, role="infrared", thermal=ThermalSettings("raw"))
    np.testing.assert_array_equal(raw.pixels, ff.scene_counts())
    with pytest.raises(ValueError, match="constants of its own"):
        read_picture(photo, role="infrared", thermal=ThermalSettings(0.01))
    warm = read_picture(photo, role="infrared", thermal=ThermalSettings(conditions={"emissivity": 0.5}))
    np.testing.assert_array_equal(warm.pixels, read(ff.photo()).temperatures(emissivity=0.5))


def test_temperatures_near_zero_are_stretched_too() -> None:
    degrees = np.linspace(0.1, 0.9, 24, dtype=np.float32).reshape(4, 6)
    plane = to_plane(Picture(degrees, unit="C"), "infrared", "auto", (0, 100), "infrared")
    assert plane.values.min() == 0 and plane.values.max() == 1


# --- other makers -------------------------------------------------------------


def made_by(make: str, *segments: bytes, after: bytes = b"") -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[271] = make
    Image.new("L", (32, 24)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()[:2] + b"".join(segments) + stream.getvalue()[2:] + after


def bitmap(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 0)).save(stream, "BMP")
    return stream.getvalue()


COUNTS_3, COUNTS_4 = (ff.segment(bytes(30000), marker) for marker in (0xE3, 0xE4))


@pytest.mark.parametrize(
    ("data", "maker", "advice"),
    [
        (made_by("DJI", COUNTS_3), "DJI", "DJI's Thermal SDK"),
        (made_by("DJI", COUNTS_4), "DJI", "DJI's Thermal SDK"),
        (made_by("", ff.segment(b"IJPEG\0\0\0", 0xE2), COUNTS_3), "InfiRay", "as float TIFF"),
        (made_by("", after=b"HDRI" + bytes(200) + b"HIPT" + bytes(200)), "Hikmicro", "as float TIFF"),
        (bitmap(30, 20) + bitmap(60, 40), "Testo", "as float TIFF"),
        (made_by("DJI"), "", ""),  # a drone's photograph
        (made_by("Canon", COUNTS_3), "", ""),
        (bitmap(30, 20), "", ""),
    ],
)
def test_files_of_other_makers_are_named(data: bytes, maker: str, advice: str) -> None:
    for role in ("visible", "infrared"):
        notes = read_picture({"bytes": data, "path": None}, role, role=role).notes
        assert len(notes) == bool(maker)
        for note in notes:
            assert f"{role} is a radiometric {maker} file" in note and advice in note
    assert (f"is a radiometric {maker} file, whose data are not read: " if maker else "holds no radio") in outcome(data)


def test_a_fluke_file_is_named(tmp_path: Path) -> None:
    for names, message in (
        (["Images/Main/IR.data"], "is a Fluke file .IS2.: export"),
        (["a.png"], "is a zip archive: unpack"),
    ):
        with zipfile.ZipFile(tmp_path / "a.is2", "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        with pytest.raises(ValueError, match=message):
            read_picture(tmp_path / "a.is2", "infrared", role="infrared")


# --- damage -------------------------------------------------------------------


def outcome(data: bytes):
    """Counts, or the message of the refusal; any other error fails the test."""
    try:
        return read(data).counts
    except ValueError as error:
        message = str(error)
        assert message.startswith("image ('photo.jpg')") and "\n" not in message and not message.endswith(".")
        return message


BLOCK = ff.block(ff.scene_counts(6, 8))
PHOTO = ff.photo()


@settings(max_examples=150, deadline=None)
@given(length=st.integers(0, len(BLOCK) - 1))
def test_a_truncated_block_is_refused(length: int) -> None:
    for data in (BLOCK[:length], ff.jpeg(BLOCK[:length])) if length else ():
        assert isinstance(outcome(data), str)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(BLOCK) - 1), bit=st.integers(0, 7), in_jpeg=st.booleans())
def test_a_flipped_bit_is_refused_or_leaves_the_counts(place: int, bit: int, in_jpeg: bool) -> None:
    data = bytearray(BLOCK)
    data[place] ^= 1 << bit
    found = outcome(ff.jpeg(bytes(data)) if in_jpeg else bytes(data))
    if not isinstance(found, str):
        np.testing.assert_array_equal(found, ff.scene_counts(6, 8))


@settings(max_examples=150, deadline=None)
@given(length=st.integers(1, len(PHOTO) - 1))
def test_a_truncated_photo_is_refused_or_whole(length: int) -> None:
    found = outcome(PHOTO[:length])
    if not isinstance(found, str):
        np.testing.assert_array_equal(found, ff.scene_counts())


def test_segments_that_are_missing_doubled_or_of_two_blocks() -> None:
    data = ff.block()
    whole = ff.jpeg(data, part=400)
    head = whole.index(b"FLIR\0\1\1") - 4
    length = 2 + struct.unpack_from(">H", whole, head + 2)[0]
    missing = whole[:head] + whole[head + length :]
    assert "segments are there" in outcome(missing)
    assert "do not belong together" in outcome(whole[: head + length] + whole[head:])
    last = bytearray(whole)
    last[head + 11] += 1
    assert "do not belong together" in outcome(bytes(last))
    swapped = missing[:2] + whole[head : head + length] + missing[2:]  # in any order
    np.testing.assert_array_equal(outcome(swapped), ff.scene_counts())


def wrong_size(width: int, height: int, form: str = "raw") -> bytes:
    """A block whose record says another size than its data have."""
    return ff.fff([(1, ff.image_record(2, (height, width), ff.raw_record(ff.scene_counts(), form)[32:]))])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ff.fff([(0x20, ff.camera_record())]), "it has no raw data"),
        (ff.fff([(1, ff.raw_record(ff.scene_counts()))]), "it has no constants of the camera"),
        (ff.block(r1=0.0), "its calibration constants are missing"),
        (ff.block(b=float("nan")), "its calibration constants are missing"),
        (ff.block(emissivity=0.0), "its constants are impossible: emissivity 0"),
        (wrong_size(31, 24), "1536 bytes instead of 1488"),
        (wrong_size(31, 24, "png"), "sizes of its PNG disagree"),
        (wrong_size(31, 24, "jpegls"), "sizes of its raw data disagree"),
        (wrong_size(65535, 65535), "4294836225 pixels, more than the limit"),
        (wrong_size(0, 0), "is empty"),
        (ff.block() + ff.block(), "holds several frames, as thermal videos do"),
        (ff.fff([(1, ff.raw_record(ff.scene_counts(2, 2)))] * 5000), "its directory is cut off"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    for stored in (data, ff.jpeg(data)):
        assert message in outcome(stored)


def test_a_jpeg_of_very_many_segments_is_no_radiometric_file() -> None:
    assert "holds no radiometric data of FLIR" in outcome(b"\xff\xd8" + ff.segment(b"x", 0xE2) * 30000)


def test_a_bomb_inside_is_refused_before_it_is_decoded() -> None:
    bomb = imagecodecs.png_encode(np.zeros((4000, 4000), np.uint16))
    assert "sizes of its PNG disagree" in outcome(ff.fff([(1, ff.image_record(2, (24, 32), bomb))]))
    with pytest.raises(ValueError, match="16000000 pixels, more than the limit of 1000000"):
        read(ff.fff([(1, ff.image_record(2, (4000, 4000), bomb))]), max_pixels=10**6)


@pytest.mark.parametrize("name", REAL)
def test_damaged_real_files_are_refused(data_root: Path, name: str) -> None:
    data = (data_root / "data" / "rigs" / "radiometric" / f"{name}.jpg").read_bytes()
    start = data.index(b"FLIR\0\1")
    for length in np.linspace(start, start + 15000, 7).astype(int):
        assert isinstance(outcome(data[:length]), str)
    damaged = bytearray(data)
    place = data.index(b"FFF\0") + 28
    damaged[place : place + 4] = b"\xff\xff\xff\xff"
    assert "directory" in outcome(bytes(damaged))


def test_notes_name_what_was_left_out() -> None:
    assert read(ff.block()).notes() == ()
    assert "emissivity 1" in read(ff.block(emissivity=1.0)).notes()[0]
    assert "has no constants of the air" in read(ff.block(atmosphere=(0, 0, 0, 0, 0))).notes()[0]
    assert "has distance 0" in read(ff.block()).notes(distance=0.0)[0]
    assert "humidity 40%" in str(read(ff.block()).conditions) and isinstance(read(ff.block()).conditions, Conditions)
