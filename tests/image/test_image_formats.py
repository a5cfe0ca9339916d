"""Files of every kind give the samples that were stored in them, or are refused: none is misread in silence."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusion_hub.image.io import DeepImage, read_header, read_picture, save_image, to_image
from fusion_hub.image.picture import Picture
from fusion_hub.image.processor import FusionImageProcessor
from tests.image.image_format_cases import (
    DOCUMENT,
    TURNS,
    Case,
    all_cases,
    document,
    outcome,
    samples,
    with_orientation,
)

CASES = all_cases()


def _picture(data: bytes) -> Picture:
    return read_picture({"bytes": data, "path": None})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_samples_are_those_that_are_stored(case: Case) -> None:
    assert outcome(case) == ("exact" if case.refused is None else "refused")
    if case.refused is None:
        header = read_header({"bytes": case.data, "path": None})
        picture = _picture(case.data)
        channels = (1 if picture.pixels.ndim == 2 else 3) + (picture.alpha is not None)
        assert (header.size, header.channels) == (picture.size, channels)


def test_the_table_is_large_enough() -> None:
    assert len({(c.container, c.dtype, c.layout, c.orientation) for c in CASES}) >= 120


def test_an_independent_reader_agrees() -> None:
    """OpenCV decodes by itself, libtiff, libpng, libjpeg and OpenJPEG; it shares no code with tifffile."""
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    compared = 0
    for case in CASES:
        if not case.independent:
            continue
        seen = cv2.imdecode(np.frombuffer(case.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if case.container == "JPEG":  # only its reader of colors looks at the orientation
            seen = cv2.imdecode(np.frombuffer(case.data, np.uint8), cv2.IMREAD_COLOR)
            seen = seen[..., 0] if case.layout == "gray" else seen
        assert seen is not None, case
        seen = seen[..., [2, 1, 0, 3][: seen.shape[2]]] if seen.ndim == 3 else seen
        picture = _picture(case.data)
        ours = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
        assert seen.shape == ours.shape and seen.dtype == ours.dtype, case
        assert np.abs(seen.astype(np.float64) - ours).max() <= case.tolerance, case
        compared += 1
    assert compared >= 100


def test_documentation_holds_the_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert document(text) == text, "run python tests/image/image_format_cases.py"


# --- files of cameras and GIS programs -------------------------------------------------------------------------------


def _infrared(data: bytes, **options) -> tuple[np.ndarray, tuple[str, ...]]:
    height, width = read_header({"bytes": data, "path": None}).size
    gray = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
    _, infrared, contexts = FusionImageProcessor().preprocess(gray, {"bytes": data, "path": None}, **options)
    return infrared[0, 0].numpy(), contexts[0].notes


def _tiff(pixels: np.ndarray, *more: tuple[np.ndarray, int], **options) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(pixels, metadata=None, **{"photometric": "minisblack", **options})
        for page, kind in more:
            writer.write(page, metadata=None, photometric="mask" if kind == 4 else "minisblack", subfiletype=kind)
    return file.getvalue()


COUNTS = np.random.default_rng(7).integers(2626, 2743, (40, 48), dtype=np.uint16)


def test_overviews_are_no_pictures_and_masks_are_masks() -> None:
    overview = COUNTS[::2, ::2]
    plain, _ = _infrared(_tiff(COUNTS))
    seen, _ = _infrared(_tiff(COUNTS, (overview, 1), (overview[::2, ::2], 1)))
    np.testing.assert_array_equal(seen, plain)
    mask = np.ones(COUNTS.shape, bool)
    mask[:, :9] = False
    picture = _picture(_tiff(COUNTS, (mask, 4)))
    np.testing.assert_array_equal(picture.valid, mask)
    with pytest.raises(ValueError, match="holds 2 pictures"):
        _infrared(_tiff(COUNTS, (COUNTS, 0)))


@pytest.mark.parametrize("writer", ["imagej", "shaped"])
def test_a_stack_behind_one_directory_is_several_pictures(writer: str) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([COUNTS] * 3), imagej=writer == "imagej", photometric="minisblack")
    with pytest.raises(ValueError, match="holds 3 pictures"):
        _picture(file.getvalue())


@pytest.mark.parametrize("declared", ["-9999", "-9999.0", "nan", "-3.4028234663852886e+38"])
def test_declared_no_data_is_left_out_of_the_scale(declared: str) -> None:
    celsius = (COUNTS * 0.04 - 80).astype(np.float32)
    holed = celsius.copy()
    holed[:8] = np.float32(declared)
    data = _tiff(holed, extratags=[(42113, 2, 0, declared, True)])
    seen, _ = _infrared(data)
    alone, _ = _infrared(_tiff(celsius[8:]))
    np.testing.assert_allclose(seen[8:], alone, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["zero border", "one column", "-9999 undeclared", "telemetry", "alpha", "65535 border"]
)
def test_undeclared_no_data_is_left_out_of_the_scale(kind: str) -> None:
    """In the result these pixels are those of the visible image."""
    rng, valid, options = np.random.default_rng(3), np.ones(COUNTS.shape, bool), {}
    pixels: np.ndarray = COUNTS.astype(np.float32) if kind == "-9999 undeclared" else COUNTS.copy()
    parts, fill = {
        "zero border": ([np.s_[:4], np.s_[:, :6]], 0),
        "one column": ([np.s_[:, 0]], 0),
        "65535 border": ([np.s_[:, -3:]], 65535),
        "telemetry": ([np.s_[:2]], rng.integers(0, 65535, 2 * COUNTS.shape[1])),
        "-9999 undeclared": ([np.s_[-5:]], -9999),
        "alpha": ([np.s_[30:, 30:]], 0),
    }[kind]
    for part in parts:
        valid[part] = False
    pixels[~valid] = fill
    if kind == "alpha":
        pixels = np.dstack([pixels, np.where(valid, 65535, 0).astype(np.uint16)])
        options = {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    processor = FusionImageProcessor()
    visible = rng.integers(0, 256, COUNTS.shape, dtype=np.uint8)
    source = {"bytes": _tiff(pixels, **options), "path": None}
    _, infrared, contexts = processor.preprocess(visible, source)
    low, high = np.percentile(COUNTS[valid], (0.5, 99.5))
    expected = np.clip((COUNTS[valid].astype(np.float64) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(infrared[0, 0].numpy()[valid], expected, atol=1e-6)
    (result,) = processor.postprocess(infrared * 0 + 0.5, contexts)
    np.testing.assert_array_equal(np.asarray(result)[~valid], visible[~valid])
    assert (np.asarray(result)[valid] == 128).all()
    assert bool(contexts[0].notes) == (kind != "alpha")  # guesses are reported


@pytest.mark.parametrize("seed", range(2))
def test_mixed_border_and_one_row_of_status(seed: int) -> None:
    """A warp that interpolates leaves half values beside its fill; status words may all lie above the scene."""
    warped = COUNTS.copy()
    warped[:5] = 0
    warped[5] //= 2
    plane, notes = _infrared(_tiff(warped))
    alone, _ = _infrared(_tiff(COUNTS[6:]))
    np.testing.assert_allclose(plane[6:], alone, atol=1e-6)
    assert len(notes) == 1
    status = COUNTS.copy()
    status[0] = np.random.default_rng(seed).integers(20000, 65535, COUNTS.shape[1])
    plane, notes = _infrared(_tiff(status))
    alone, _ = _infrared(_tiff(COUNTS[1:]))
    np.testing.assert_allclose(plane[1:], alone, atol=1e-6)
    assert "camera status" in notes[0]


def test_a_hot_target_is_no_missing_data() -> None:
    pixels = COUNTS.copy()
    pixels[10:12, 10:14] = 65535
    plane, notes = _infrared(_tiff(pixels))
    assert (plane[10:12, 10:14] == 1).all() and plane[:8].std() > 0.1 and not notes
    pixels[-3:, 5:20] = 60000  # a hot pipe along the border
    assert not _infrared(_tiff(pixels))[1]


@pytest.mark.parametrize("scale", ["celsius", "counts", "deci", "unit"])
def test_a_border_not_far_below_the_scene(scale: str) -> None:
    """Filled with 0 by a rotation, over a scene whose own range nearly reaches 0."""
    scene = np.random.default_rng(0).random((96, 128)) * 20 + 15
    scene = {"celsius": scene, "counts": scene * 200, "deci": scene * 10, "unit": scene / 40}[scale]
    kind = {"celsius": np.float32, "counts": np.uint16, "deci": np.int16, "unit": np.float32}[scale]
    valid = np.add.outer(np.arange(96), np.arange(128)) > 40  # a corner
    pixels = np.where(valid, scene, 0).astype(kind)
    _, _, contexts = FusionImageProcessor().preprocess(
        pixels.astype(np.uint8) * 3, {"bytes": _tiff(pixels), "path": "x"}
    )
    # Floats in [0, 1] are not stretched, but the corner is no data all the same.
    replaced = ~np.isnan(contexts[0].replacement)
    assert replaced[~valid].all() and replaced[valid].mean() < 0.05


def test_a_thin_border_of_a_large_image() -> None:
    counts = np.random.default_rng(0).integers(29000, 30500, (1024, 1280)).astype(np.uint16)
    counts[-3:], counts[:, -4:] = 0, 0
    plane, notes = _infrared(_tiff(counts))
    assert len(notes) == 1 and plane[:-3, :-4].std() > 0.25


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_camera_bits_in_sixteen(bits: int) -> None:
    """A few hot pixels and declared missing data do not hide them."""
    counts = np.random.default_rng(bits).integers(0, 2**bits, (120, 160), dtype=np.uint16)
    hot, declared, blank = counts.copy(), counts.copy(), np.zeros((120, 160), np.uint8)
    hot[50, 60:69], declared[:20] = 65535, 65535
    source = {"bytes": _tiff(declared, extratags=[(42113, 2, 0, "65535", True)]), "path": None}
    for image, rows in ((counts, slice(None)), (hot, slice(51, None)), (source, slice(20, None))):
        visible, _, contexts = FusionImageProcessor().preprocess(image, blank)
        np.testing.assert_allclose(visible[0, 0, rows], counts[rows] / (2**bits - 1), atol=1e-6)
        assert f"{bits} bits" in contexts[0].notes[0]
    visible, _, _ = FusionImageProcessor().preprocess(counts, blank, visible_range="dtype")
    np.testing.assert_allclose(visible[0, 0], counts / 65535, atol=1e-7)


def test_alpha_is_not_inverted_where_zero_is_white() -> None:
    gray, alpha = samples("uint8", (20, 30)), samples("uint8", (20, 30), seed=1)
    data = _tiff(np.dstack([gray, alpha]), photometric="miniswhite", extrasamples=["unassalpha"], planarconfig="contig")
    picture = _picture(data)
    np.testing.assert_array_equal(picture.pixels, 255 - gray)
    np.testing.assert_array_equal(picture.alpha, alpha)


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    for kind in ("uint8", "uint16"):
        stored = samples(kind, (20, 30))
        Image.fromarray(stored).save(tmp_path / "a.png")
        png = (tmp_path / "a.png").read_bytes()
        chunk = with_orientation(png, 6)[33 : 33 + len(with_orientation(png, 6)) - len(png)]
        (tmp_path / "a.png").write_bytes(png[:-12] + chunk + png[-12:])
        assert read_header(tmp_path / "a.png").size == (30, 20)
        np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, np.rot90(stored, -1))


def test_masked_arrays_hold_no_data() -> None:
    celsius = (COUNTS * 0.04 - 80).astype(np.float32)
    masked = np.ma.masked_array(celsius, np.zeros(celsius.shape, bool))
    masked[:8] = np.ma.masked
    _, _, contexts = FusionImageProcessor().preprocess(np.zeros(COUNTS.shape, np.uint8), masked)
    assert np.isfinite(contexts[0].replacement[:8]).all() and np.isnan(contexts[0].replacement[8:]).all()


def test_saturated_pictures_are_reported() -> None:
    burnt = GOOD.copy()
    burnt[:, :30] = 255
    assert any("saturated" in note for note in _notes(GOOD, burnt))
    counts = COUNTS.copy()
    counts[5:30] = 65535  # a hot band that does not touch the border is no missing data
    assert FusionImageProcessor().preprocess(GOOD, counts)[2][0].replacement is None


@pytest.mark.parametrize("date", ["2024:01:02 03:04:05+09:00", "2024:01:02", "yesterday"])
def test_odd_dates_do_not_cost_the_picture(tmp_path: Path, date: str) -> None:
    exif = Image.Exif()
    exif[0x0132] = date
    image = Image.fromarray(samples("uint8", (20, 30)))
    image.info.update(exif=exif.tobytes(), dpi=(254000.0, 254000.0))
    for suffix in (".tif", ".png", ".jpg"):
        save_image(image, tmp_path / f"a{suffix}")
        with Image.open(tmp_path / f"a{suffix}") as saved:
            assert "dpi" not in saved.info or saved.info["dpi"][0] > 200000


def test_pgm_with_windows_line_ends() -> None:
    head = b"P5\r\n30 20\r\n255\r\n"
    stored = samples("uint8", (20, 30))
    np.testing.assert_array_equal(_picture(head + stored.tobytes()).pixels, stored)


def test_cold_sky_and_black_background_are_data() -> None:
    sky = (COUNTS * 0.04 - 80).astype(np.float32)
    sky[:12] = -40.0  # where the camera's range ends
    assert not _infrared(_tiff(sky))[1]
    slice_of_a_head = np.zeros((40, 48), np.uint16)
    slice_of_a_head[8:32, 8:40] = np.random.default_rng(0).integers(100, 1200, (24, 32))
    plane, notes = _infrared(_tiff(slice_of_a_head))
    assert not notes and plane[0, 0] == 0


def test_missing_visible_data_show_the_infrared() -> None:
    visible = np.random.default_rng(1).random((40, 48, 3)).astype(np.float32)
    visible[:5] = np.nan
    infrared = np.random.default_rng(2).integers(0, 256, (40, 48), dtype=np.uint8)
    processor = FusionImageProcessor()
    plane, warm, contexts = processor.preprocess({"bytes": _tiff(visible, photometric="rgb"), "path": None}, infrared)
    assert plane.isfinite().all() and warm.isfinite().all()
    image = processor.postprocess(plane, contexts, output_type="np")[0]
    np.testing.assert_allclose(image[:5], np.repeat(infrared[:5, :, None] / 255, 3, axis=2), atol=1e-6)


def test_cut_off_files_are_refused(tmp_path: Path) -> None:
    whole = _tiff(COUNTS)
    for compression in (None, "lzw", "deflate"):
        whole = _tiff(COUNTS, compression=compression, rowsperstrip=8)
        for length in range(len(whole) // 2, len(whole) - 1, max(1, len(whole) // 40)):
            with pytest.raises(ValueError):
                read_picture({"bytes": whole[:length], "path": "cut.tif"})


@pytest.mark.parametrize("orientation", TURNS)
def test_pair_of_turned_tiffs_by_path(tmp_path: Path, orientation: int) -> None:
    """Pillow maps uncompressed files into memory by path, and then turned them wrongly."""
    stored = samples("uint8", (20, 30))
    tifffile.imwrite(tmp_path / "a.tif", stored, metadata=None, extratags=[(274, 3, 1, orientation, True)])
    visible, _, contexts = FusionImageProcessor().preprocess(tmp_path / "a.tif", tmp_path / "a.tif")
    (image,) = FusionImageProcessor().postprocess(visible, contexts)
    np.testing.assert_array_equal(image, TURNS[orientation](stored))


# --- what is kept on the way out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colors_stay(tmp_path: Path, suffix: str, channels: int) -> None:
    stored = samples("uint16", (20, 30, channels))
    source = tmp_path / "a.tif"
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(source, stored, photometric="rgb", metadata=None, **extra)
    processor = FusionImageProcessor()
    visible, _, contexts = processor.preprocess(source, source)
    (image,) = processor.postprocess(visible, contexts)
    assert isinstance(image, DeepImage) and image.mode == ("RGB" if channels == 3 else "RGBA")
    np.testing.assert_array_equal(np.asarray(image), (stored.astype(np.uint32) + 128) // 257)
    save_image(image, tmp_path / f"saved{suffix}")
    image.save(tmp_path / f"plain{suffix}")
    for name in ("saved", "plain"):
        picture = read_picture(tmp_path / f"{name}{suffix}")
        again = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
        assert np.abs(again.astype(int) - stored).max() <= 1  # floats of 24 bits between
    with pytest.raises(ValueError, match=r"JPEG cannot hold .*save as \.png or \.tif"):
        save_image(image, tmp_path / "a.jpg")
    assert type(image.crop((0, 0, 5, 5))) is Image.Image


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("kind", ["RGB", "gray16", "RGB16"])
def test_camera_position_and_date_stay(tmp_path: Path, suffix: str, kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0132], exif[0x0112] = "Camera", "2026:11:27 10:00:00", 6
    exif.get_ifd(0x8825).update({1: "N", 2: (50.0, 30.0, 0.0), 3: "E", 4: (10.0, 0.0, 0.0)})
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x927C: b"maker note"})
    source = tmp_path / ("a.jpg" if kind == "RGB" else "a.png")
    if kind == "RGB":
        Image.fromarray(samples("uint8", (20, 30, 3))).save(source, exif=exif, dpi=(300, 300))
    elif kind == "gray16":
        Image.fromarray(samples("uint16", (20, 30))).save(source, exif=exif, dpi=(300, 300))
    else:
        deep = DeepImage(samples("uint16", (20, 30, 3)))
        deep.info.update(exif=exif.tobytes(), dpi=(300, 300))
        deep.save(source)
    if kind != "RGB" and suffix in (".jpg", ".webp"):
        pytest.skip("the format holds 8 bits only")
    processor = FusionImageProcessor()
    visible, _, contexts = processor.preprocess(source, source)
    (image,) = processor.postprocess(visible, contexts)
    image.info["fusion_hub"] = "Fusion Hub (model, float32)"
    save_image(image, tmp_path / f"fused{suffix}")
    with Image.open(tmp_path / f"fused{suffix}") as fused:
        kept = fused.getexif()
        assert (kept[0x010F], kept[0x0132], kept[0x0131]) == ("Camera", "2026:11:27 10:00:00", image.info["fusion_hub"])
        assert kept.get(0x0112, 1) == 1
        assert tuple(map(float, kept.get_ifd(0x8825)[2])) == (50.0, 30.0, 0.0)
        assert float(kept.get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
        assert 0x927C not in kept.get_ifd(0x8769)
        if suffix != ".webp":  # it has no resolution of its own; EXIF has
            assert fused.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    save_image(image, tmp_path / f"bare{suffix}", metadata=False)
    with Image.open(tmp_path / f"bare{suffix}") as bare:
        assert not bare.getexif().get_ifd(0x8825) and 0x010F not in bare.getexif()


def test_geotiff_tags_stay(tmp_path: Path) -> None:
    scale, keys = (0.5, 0.5, 0.0), (1, 1, 0, 1, 1024, 0, 1, 1)
    tags = [(33550, 12, 3, scale, True), (34735, 3, 8, keys, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", samples("uint16", (20, 30, 3)), photometric="rgb", metadata=None, extratags=tags
    )
    processor = FusionImageProcessor()
    visible, _, contexts = processor.preprocess(tmp_path / "a.tif", tmp_path / "a.tif")
    save_image(processor.postprocess(visible, contexts)[0], tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.pages[0].tags[33550].value == scale and tuple(tiff.pages[0].tags[34735].value) == keys


# --- a look before fusing --------------------------------------------------------------------------------------------


def _notes(visible: np.ndarray, infrared: np.ndarray, **options) -> tuple[str, ...]:
    return FusionImageProcessor().preprocess(visible, infrared, **options)[2][0].notes


GOOD = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
JET = np.stack([np.clip(1.5 - np.abs(4 * np.linspace(0, 1, 256) - c), 0, 1) for c in (3, 2, 1)], axis=1)


@pytest.mark.parametrize(
    ("visible", "infrared", "options", "said"),
    [
        (GOOD, np.full_like(GOOD, 9), {}, r"infrared is constant \(value 9\)"),
        (np.full_like(GOOD, 200), GOOD, {}, r"visible is constant \(value 200\)"),
        (GOOD, GOOD // 20 + 118, {}, r"infrared uses 118..130 of 0..255 only.*infrared_range"),
        (GOOD // 16, GOOD, {}, r"visible is very dark, 0..15 of 0..255.*visible_range"),
        (GOOD, COUNTS, {"infrared_range": (2700, 2720)}, r"infrared is clipped in \d+% of its pixels"),
        (GOOD, COUNTS, {"infrared_range": "dtype"}, "infrared is nearly constant after scaling"),
        (GOOD, COUNTS / 65535, {}, r"infrared has float values in 0\.04.*counts divided by their full scale"),
        (COUNTS, GOOD, {}, r"visible uses 0..2742 of 65535, so it is read as 12 bits.*visible_range"),
        (GOOD, (JET[GOOD] * 255).astype(np.uint8), {}, "infrared holds colors.*false-color"),
    ],
)
def test_questionable_pictures_are_reported(visible, infrared, options, said: str) -> None:
    notes = _notes(visible, infrared, **options)
    assert any(re.search(said, note) for note in notes), notes
    assert len(notes) == 1


@pytest.mark.parametrize("infrared", [GOOD, COUNTS, np.dstack([GOOD] * 3), COUNTS * 0.04 - 80, GOOD / 255])
@pytest.mark.parametrize("visible", [GOOD, np.dstack([GOOD, GOOD // 2, 255 - GOOD]), samples("uint16", (40, 48))])
def test_good_pairs_are_not(visible, infrared) -> None:
    assert _notes(visible, infrared) == ()


def test_a_range_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"infrared_range 0..1 leaves nothing of infrared, whose values 2626..2742 are above"
    ):
        _notes(GOOD, COUNTS, infrared_range=(0, 1))
    with pytest.raises(ValueError, match=r"visible_range 300..400 leaves nothing of visible"):
        _notes(GOOD, COUNTS, visible_range=(300, 400))


def test_visible_range_scales_colors_too() -> None:
    colors = np.random.default_rng(0).integers(1000, 3000, (20, 30, 3), dtype=np.uint16)
    processor = FusionImageProcessor()
    visible, _, contexts = processor.preprocess(colors, colors[..., 0], visible_range=(1000, 3000))
    image = processor.postprocess(visible, contexts, output_type="np")[0]
    np.testing.assert_allclose(image, (colors - 1000.0) / 2000, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "advice"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(600), "HEIC picture: save it as JPEG or PNG"),
        (b"FFF\0" + bytes(600), "FLIR raw file.*give it as the infrared image"),
        (bytes(128) + b"DICM" + bytes(600), "DICOM file: save the slice"),
        (b"\x93NUMPY" + bytes(600), "NumPy file"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"no picture at all", "not an image that can be read: use one of PNG, JPEG, TIFF"),
    ],
)
def test_other_files_are_named(tmp_path: Path, start: bytes, advice: str) -> None:
    (tmp_path / "a.tif").write_bytes(start)
    with pytest.raises(ValueError, match=rf"^visible \('.*a.tif'\) is .*{advice}"):
        FusionImageProcessor().preprocess(tmp_path / "a.tif", GOOD)


@pytest.mark.parametrize(
    ("description", "kept"),
    [("A street at night", True), ('{"shape": [300, 420, 3]}', False), ("<?xml version='1.0'?><OME/>", False)],
)
def test_a_description_for_programs_is_not_that_of_another_picture(
    tmp_path: Path, description: str, kept: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb", description=description, metadata=None)
    picture = read_picture(tmp_path / "in.tif")
    result = to_image(picture)
    result.info.update({key: value for key, value in vars(picture.metadata).items() if value})
    save_image(result, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as written:
        found = written.pages[0].tags.get("ImageDescription")
    assert (found is not None and found.value == description) == kept
