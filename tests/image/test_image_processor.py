"""Any picture in, the same kind of picture out."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fusion_hub.image.io import read_header
from fusion_hub.image.processor import FusionImageProcessor, crop_to, pad_to_multiple, save_image

processor = FusionImageProcessor()
rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (12, 17), dtype=np.uint8)
RGB = rng.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = rng.integers(0, 65536, (12, 17), dtype=np.uint16)


def luma(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def visible_plane(image) -> np.ndarray:
    plane = processor.luminance(image, "visible")
    np.testing.assert_array_equal(processor.preprocess(image, plane)[0][0, 0].numpy(), plane)
    return plane


def infrared_plane(image, infrared_range=None) -> np.ndarray:
    plane = processor.luminance(image, "infrared", value_range=infrared_range)
    _, again, _ = processor.preprocess(np.zeros(plane.shape, np.uint8), image, infrared_range=infrared_range)
    np.testing.assert_array_equal(again[0, 0].numpy(), plane)
    return plane


def through(image, fused=None, **options):
    """The picture that comes back when fusion returns the visible luminance itself, or `fused`."""
    blank = np.zeros(processor.luminance(image, "visible").shape, np.uint8)
    plane, _, contexts = processor.preprocess(image, blank)
    return processor.postprocess(plane if fused is None else fused, contexts, **options)


# --- what goes in ------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (GREY, GREY / 255),
        (GREY[..., None], GREY / 255),
        (RGB, luma(RGB) / 255),
        (np.dstack([RGB, GREY]), luma(RGB) / 255),
        (DEEP, DEEP / 65535),
        (DEEP.astype(">u2"), DEEP / 65535),
        (GREY > 99, GREY > 99),
        ((GREY / 255).astype(np.float64), GREY / 255),
        ((GREY / 255).astype(">f4"), GREY / 255),
        (torch.from_numpy(GREY), GREY / 255),
        (torch.from_numpy(GREY)[None], GREY / 255),
        (torch.from_numpy(RGB).permute(2, 0, 1), luma(RGB) / 255),
        (torch.from_numpy(np.dstack([RGB, GREY])).permute(2, 0, 1) / 255, luma(RGB) / 255),
        (torch.from_numpy(DEEP), DEEP / 65535),
        (torch.from_numpy(GREY / 255).requires_grad_(), GREY / 255),
        (torch.full((2, 3), 0.5, dtype=torch.bfloat16), np.full((2, 3), 0.5)),
        (np.dstack([DEEP] * 3), DEEP / 65535),
        (np.dstack([GREY] * 3), GREY / 255),
        (Image.fromarray(GREY), GREY / 255),
        (Image.fromarray(RGB), luma(RGB) / 255),
        (Image.fromarray(DEEP), DEEP / 65535),
        (Image.frombytes("I;16B", (17, 12), DEEP.astype(">u2").tobytes()), DEEP / 65535),
        (Image.fromarray(DEEP.astype(np.int32)), DEEP / 65535),
        (Image.fromarray((GREY / 255).astype(np.float32)), GREY / 255),
        (Image.fromarray(GREY > 99), GREY > 99),
    ],
)
def test_kinds_of_visible(image, expected: np.ndarray) -> None:
    plane = visible_plane(image)
    assert plane.dtype == np.float32
    np.testing.assert_allclose(plane, expected, atol=1e-6)
    if image is RGB:
        np.testing.assert_allclose(infrared_plane(image), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "P", "HSV"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    (result,) = through(image)
    assert result.mode == "RGB"
    np.testing.assert_array_equal(result, image.convert("RGB"))


@pytest.mark.parametrize("orientation", (1, 3, 6, 7))
@pytest.mark.parametrize(("suffix", "array"), [("jpg", RGB), ("tiff", RGB), ("png", DEEP)])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str, array: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
        assert upright.shape[:2] == ((12, 17) if orientation < 5 else (17, 12))
        np.testing.assert_array_equal(np.asarray(through(path)[0]), upright)
        np.testing.assert_array_equal(np.asarray(through(image)[0]), upright)
        plane = infrared_plane(image, infrared_range=(0, np.iinfo(array.dtype).max))
    np.testing.assert_array_equal(infrared_plane(path, infrared_range=(0, np.iinfo(array.dtype).max)), plane)
    np.testing.assert_allclose(plane, visible_plane(path), atol=1e-6)


def test_transparency(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, GREY])
    np.testing.assert_array_equal(through(Image.fromarray(rgba))[0], rgba)
    grey_alpha = np.dstack([GREY, GREY[::-1]])
    (result,) = through(Image.fromarray(grey_alpha))
    assert result.mode == "LA"
    np.testing.assert_array_equal(result, grey_alpha)
    palette = Image.fromarray(RGB).quantize(8)
    palette.save(tmp_path / "a.png", transparency=3)
    (result,) = through(tmp_path / "a.png")
    assert result.mode == "RGBA"
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(result, image.convert("RGBA"))
    Image.fromarray(GREY).save(tmp_path / "b.png", transparency=int(GREY[0, 0]))
    (result,) = through(tmp_path / "b.png")
    assert result.mode == "LA" and result.getpixel((0, 0))[1] == 0


def test_batches_and_lists() -> None:
    names = [GREY, RGB, Image.fromarray(RGB), torch.from_numpy(GREY)]
    visible, infrared, contexts = processor.preprocess(names, [GREY] * 4)
    assert visible.shape == infrared.shape == (4, 1, 12, 17)
    assert [c.channels for c in contexts] == [1, 3, 3, 1]
    assert [image.mode for image in processor.postprocess(visible, contexts)] == ["L", "RGB", "RGB", "L"]
    for i, image in enumerate(names):
        alone = processor.preprocess(image, GREY)
        assert torch.equal(alone[0][0], visible[i]) and torch.equal(alone[1][0], infrared[i])
    batch = torch.from_numpy(np.stack([RGB, RGB[::-1]])).permute(0, 3, 1, 2)
    visible, _, contexts = processor.preprocess(batch, batch)
    array = processor.postprocess(visible, contexts, output_type="np")
    again = processor.preprocess(array, array)[0]
    torch.testing.assert_close(again, visible, atol=1e-6, rtol=0)


# --- the range of the infrared ------------------------------------------------------------


def test_eight_bit_infrared_is_never_stretched_unasked() -> None:
    narrow = (GREY // 8 + 100).astype(np.uint8)
    np.testing.assert_allclose(infrared_plane(narrow), narrow / 255, atol=1e-6)
    np.testing.assert_allclose(infrared_plane((narrow / 255).astype(np.float32)), narrow / 255, atol=1e-6)
    stretched = infrared_plane(narrow, infrared_range="minmax")
    assert stretched.min() == 0 and stretched.max() == 1


def test_small_part_of_sixteen_bits_keeps_all_its_levels() -> None:
    counts = np.linspace(2000, 4999, 3000).astype(np.uint16).reshape(50, 60)  # 3000 levels, far more than 256
    assert infrared_plane(counts, infrared_range="dtype").max() < 0.08
    assert len(np.unique(infrared_plane(counts, infrared_range="dtype"))) == 3000
    full = infrared_plane(counts, infrared_range="minmax")
    np.testing.assert_allclose(full, (counts - 2000) / 2999, atol=1e-6)
    assert len(np.unique(full)) == 3000
    low, high = np.percentile(counts, (0.5, 99.5))
    automatic = infrared_plane(counts)
    np.testing.assert_allclose(automatic, np.clip((counts - low) / (high - low), 0, 1), atol=1e-6)
    np.testing.assert_array_equal(automatic, infrared_plane(counts, infrared_range="percentile"))
    np.testing.assert_array_equal(automatic, infrared_plane(Image.fromarray(counts)))
    np.testing.assert_allclose(infrared_plane(counts, infrared_range=(2500, 3500)), np.clip(counts / 1000 - 2.5, 0, 1))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint32, np.float32, np.float64])
def test_any_number_type_as_infrared(dtype: type) -> None:
    values = (np.arange(60).reshape(6, 10) - 20).astype(dtype) if dtype != np.uint32 else np.arange(60).reshape(6, 10)
    plane = infrared_plane(values.astype(dtype), infrared_range="minmax")
    np.testing.assert_allclose(plane, np.arange(60).reshape(6, 10) / 59, atol=1e-6)
    if dtype in (np.int32, np.int64, np.uint32):  # float32 would lose the differences
        np.testing.assert_allclose(infrared_plane(values.astype(dtype) + dtype(2**30), infrared_range="minmax"), plane)
    assert infrared_plane(values.astype(dtype)).std() > 0.2


@pytest.mark.parametrize("rule", ["auto", "dtype", "minmax", "percentile"])
@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_infrared(rule: str, value: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plane = infrared_plane(np.full((5, 4), value, np.uint16), infrared_range=rule)
    assert (plane == (np.float32(value / 65535) if rule == "dtype" else 0)).all()


def test_hot_spot_on_a_flat_background_survives() -> None:
    counts = np.full((100, 100), 3000, np.uint16)
    counts[50, 50] = 3500
    plane = infrared_plane(counts)
    assert plane[50, 50] == 1 and plane.sum() == 1


def test_percentiles_of_a_large_image() -> None:
    counts = np.random.default_rng(1).normal(20000, 300, (2500, 2600)).astype(np.uint16)  # above the exact size
    low, high = np.percentile(counts, (0.5, 99.5))
    expected = np.clip((counts.astype(np.float64) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(infrared_plane(counts), expected, atol=5e-3)


# --- what comes out ------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]), st.integers(0, 2**32 - 1))
def test_round_trip_is_exact(height: int, width: int, channels: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    (image,) = through(array)
    assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    np.testing.assert_array_equal(np.asarray(image).reshape(array.shape), array)


def test_every_colour_survives() -> None:
    values = np.arange(0, 256, 5, dtype=np.uint8)
    cube = np.stack(np.meshgrid(values, values, values), axis=-1).reshape(52, -1, 3)
    np.testing.assert_array_equal(through(cube)[0], cube)


def test_chroma_is_put_back_as_through_ycbcr() -> None:
    """Against the matrices of JPEG (T.871), in double precision."""
    fused = torch.rand(1, 1, 12, 17, generator=torch.Generator().manual_seed(0))
    y = luma(RGB) / 255
    cb, cr = (RGB[..., 2] / 255 - y) / 1.772, (RGB[..., 0] / 255 - y) / 1.402
    new = fused[0, 0].double().numpy()
    red, blue = new + 1.402 * cr, new + 1.772 * cb
    green = new - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587
    expected = np.clip(np.stack([red, green, blue], -1), 0, 1)
    np.testing.assert_allclose(through(RGB, fused, output_type="np")[0], expected, atol=2e-6)
    assert np.abs(np.asarray(through(RGB, fused)[0]) - expected * 255).max() <= 0.501


def test_output_types_agree() -> None:
    rgba = np.dstack([RGB, GREY])
    fused = torch.rand(1, 1, 12, 17) * 1.4 - 0.2
    array = through(rgba, fused, output_type="np")
    tensor = through(rgba, fused, output_type="pt")
    assert array.shape == (1, 12, 17, 4) and array.dtype == np.float32
    assert tensor.shape == (1, 4, 12, 17) and tensor.dtype == torch.float32
    assert array.min() >= 0 and array.max() <= 1
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    np.testing.assert_array_equal(through(rgba, fused)[0], np.floor(array[0] * 255 + 0.5).astype(np.uint8))


def test_clamp_and_rescale() -> None:
    fused = torch.linspace(0.2, 0.6, 12 * 17).reshape(1, 1, 12, 17)
    np.testing.assert_allclose(through(GREY, fused, output_type="np").ravel(), np.linspace(0.2, 0.6, 204), atol=1e-6)
    stretched = through(GREY, fused, output_type="np", rescale="minmax")
    np.testing.assert_allclose(stretched.ravel(), np.linspace(0, 1, 204), atol=1e-5)
    wild = fused.clone()
    wild[0, 0, 0, 0] = -100.0  # clamped first: an outlier of the network does not eat the range
    stretched = through(GREY, wild, output_type="np", rescale="minmax")
    np.testing.assert_allclose(stretched.ravel()[1:], np.linspace(0.2, 0.6, 204)[1:] / 0.6, atol=1e-5)
    constant = through(GREY, torch.full((1, 1, 12, 17), 0.3), output_type="np", rescale="minmax")
    np.testing.assert_allclose(constant, 0.3, atol=1e-6)
    for visible in (GREY, RGB):
        pictures = through(visible, fused, rescale="both")[0]
        for picture, rescale in zip(pictures, ("none", "minmax"), strict=True):
            assert np.array_equal(picture, through(visible, fused, rescale=rescale)[0])
    with pytest.raises(ValueError, match="rescale='both' makes two pictures"):
        through(GREY, fused, output_type="np", rescale="both")


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_one_color_over_its_own_range_gives_the_other_image(size: tuple[int, int]) -> None:
    visible = np.full((*size, 3), (10, 20, 30), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a division by zero
        plane, _, contexts = processor.preprocess(visible, np.zeros(size, np.uint8), visible_range="minmax")
        (image,) = processor.postprocess(torch.full((1, 1, *size), 0.4), contexts)
    assert not plane.any() and np.array_equal(image, np.full((*size, 3), 102))


def test_float_pil_image_stays_float() -> None:
    (image,) = through(Image.fromarray((GREY / 255).astype(np.float32)))
    assert image.mode == "F"
    np.testing.assert_allclose(image, GREY / 255, atol=1e-6)


def test_half_precision_and_padding() -> None:
    plane, _, contexts = processor.preprocess(RGB, GREY)
    padded, size = pad_to_multiple(plane, 16)
    assert padded.shape[-2:] == (16, 32) and size == (12, 17)
    np.testing.assert_array_equal(processor.postprocess(padded, contexts)[0], RGB)
    half = processor.postprocess(plane.bfloat16(), contexts, output_type="np")
    np.testing.assert_allclose(half[0], RGB / 255, atol=1 / 250)


def test_colours_do_not_follow_the_callers_array() -> None:
    array = RGB.copy()
    plane, _, contexts = processor.preprocess(array, GREY)
    array[:] = 0
    np.testing.assert_array_equal(processor.postprocess(plane, contexts)[0], RGB)


def test_colour_profile_is_kept(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = b"a profile"
    (result,) = through(image)
    with Image.open(save_image(result, tmp_path / "a.png")) as saved:
        assert saved.info["icc_profile"] == b"a profile"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 40))
def test_padding(height: int, width: int, multiple: int) -> None:
    x = torch.arange(height * width).reshape(1, 1, height, width).float()
    padded, size = pad_to_multiple(x, multiple)
    assert size == (height, width)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple and padded.shape[-1] - width < multiple
    assert torch.equal(crop_to(padded, size), x)
    extra = ((0, padded.shape[-2] - height), (0, padded.shape[-1] - width))
    np.testing.assert_array_equal(padded[0, 0].numpy(), np.pad(x[0, 0].numpy(), extra, mode="reflect"))


# --- configuration ------------------------------------------------------------


def test_config_round_trip(tmp_path: Path) -> None:
    FusionImageProcessor("percentile", (2, 97), 1000).save_config(tmp_path)
    loaded = FusionImageProcessor.from_config(FusionImageProcessor.load_config(tmp_path))
    assert (loaded.infrared_range, loaded.percentile, loaded.max_pixels) == ("percentile", (2.0, 97.0), 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"infrared_range": "stretch"}, "infrared_range must be .* got 'stretch'"),
        ({"infrared_range": (5, 5)}, "two rising finite numbers"),
        ({"percentile": (99, 1)}, r"percentile must be two rising numbers in 0\.\.100"),
        ({"max_pixels": 0}, "max_pixels must be at least 1"),
    ],
)
def test_bad_configuration(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusionImageProcessor(**options)


# --- what cannot be used ------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((0, 5), np.uint8), ValueError, "is empty"),
        (np.zeros((5, 0, 3), np.uint8), ValueError, "is empty"),
        (torch.zeros(1, 0, 5), ValueError, "is empty"),
        (Image.new("L", (0, 4)), ValueError, "is empty"),
        ([], ValueError, "is empty: give at least one"),
        (np.zeros(5, np.uint8), ValueError, r"has the shape \(5,\)"),
        (np.zeros((5, 5, 2), np.uint8), ValueError, r"\(5, 5, 2\).*1, 3 or 4 channels"),
        (np.zeros((3, 12, 17), np.uint8), ValueError, r"transpose\(1, 2, 0\)"),
        (torch.zeros(12, 17, 3), ValueError, r"permute\(2, 0, 1\)"),
        (torch.zeros(2, 5, 5), ValueError, r"\(2, 5, 5\)"),
        (torch.zeros(1, 1, 1, 5, 5), ValueError, "shape"),
        (np.full(GREY.shape, np.nan), ValueError, "nothing but NaN"),
        (torch.full(GREY.shape, float("inf")), ValueError, "nothing but NaN, infinite"),
        (Image.fromarray(np.full(GREY.shape, np.nan, np.float32)), ValueError, "NaN"),
        (np.zeros((5, 5), np.complex64), TypeError, "complex64"),
        (np.full((5, 5), None), TypeError, "object"),
        (np.full((5, 5), "a"), TypeError, "dtype"),
        (None, TypeError, "NoneType"),
        (b"bytes", TypeError, "bytes"),
        (7, TypeError, "int"),
        ({"path": None, "bytes": None}, ValueError, "is empty"),
        ("", ValueError, "there is no file ''"),
        ("nowhere/a.png", ValueError, "there is no file 'nowhere/a.png'"),
        ("nul\0.png", ValueError, "there is no file"),
        (os.curdir, ValueError, "a folder"),
        (os.devnull, ValueError, "not a regular file"),
        ("http://localhost/a.png", ValueError, "is a URL.*give its path"),
        ("https://localhost/a.png", ValueError, "is a URL"),
        ("file:///a.png", ValueError, "is a URL"),
    ],
)
@pytest.mark.parametrize("name", ["visible", "infrared"])
def test_bad_images(image, error: type[Exception], message: str, name: str) -> None:
    pair = {"visible": GREY, "infrared": GREY, name: image}
    if isinstance(image, list):
        pair = {"visible": image, "infrared": image}
        name = "visible"
    with pytest.raises(error, match=rf"^{name}\b.*{message}"):
        processor.preprocess(**pair)


def test_the_index_in_a_list_is_named() -> None:
    with pytest.raises(ValueError, match=r"^infrared\[1\] holds nothing but NaN"):
        processor.preprocess([GREY / 255] * 2, [GREY / 255, np.full(GREY.shape, np.nan)])
    with pytest.raises(ValueError, match=r"^visible\[2\]: there is no file"):
        processor.preprocess([GREY, GREY, "none.png"], [GREY] * 3)
    with pytest.raises(ValueError, match="visible has 2 images and infrared 1"):
        processor.preprocess([GREY, GREY], GREY)


def test_sizes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"visible is 17x12 .* infrared is 12x17 .*nothing is resized .*calibrate"):
        processor.preprocess(GREY, GREY.T)
    with pytest.raises(ValueError, match=r"visible\[0\] is 17x12 .*visible\[1\] is 12x17.*once for each size"):
        processor.preprocess([GREY, GREY.T], [GREY, GREY.T])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GREY.astype(np.float32), r"float values in .*expected \[0, 1\]: divide by the full scale \(255"),
        (GREY / 255 - 0.5, "expected"),
        (torch.full((3, 5, 5), 255.0), r"255\.\.255"),
        (GREY.astype(np.int64), r"int64 samples .*full scale unknown: convert it to uint8"),
        (torch.zeros(5, 5, dtype=torch.int16), "int16"),
        (Image.fromarray(np.full((5, 5), 70000, np.int32)), r"int32 samples \(70000\.\.70000\)"),
        (np.dstack([RGB / 255, GREY]), "float values"),
    ],
)
def test_visible_values_need_a_full_scale(image, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^visible has .*{message}"):
        visible_plane(image)
    if not (isinstance(image, np.ndarray) and image.ndim == 3):
        infrared_plane(image)  # stretched instead
        with pytest.raises(ValueError, match=r"^infrared has .*infrared_range='minmax'"):
            infrared_plane(image, infrared_range="dtype")


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes of compressed data only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(17000, 17000), (50000, 50000), (2**30, 2**30)])
@pytest.mark.parametrize("action", ["default", "error"])
def test_image_bomb_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int], action: str) -> None:
    (tmp_path / "a.png").write_bytes(_png_header(*size))
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=r"^visible \('.*more.* limit of 268435456"):
            processor.preprocess(tmp_path / "a.png", GREY)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_large_image_is_not_a_bomb(tmp_path: Path) -> None:
    """Above Pillow's own limit for errors, below ours: read, and only then found to be truncated."""
    (tmp_path / "a.png").write_bytes(_png_header(14000, 14000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(tmp_path / "a.png", "visible").size == (14000, 14000)


def test_max_pixels_holds_for_every_kind(tmp_path: Path) -> None:
    small = FusionImageProcessor(max_pixels=100)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    for image in (GREY, torch.from_numpy(RGB).permute(2, 0, 1), Image.fromarray(GREY), tmp_path / "a.png"):
        with pytest.raises(ValueError, match=r"204 pixels, more than the limit of 100|has more pixels"):
            small.preprocess(image, image)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "bmp"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for length in (len(whole) // 2, 30, 4, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"^infrared \('.*a\."):
            processor.preprocess(GREY, path)


@pytest.mark.parametrize(
    "content", [b"hello, this is text\n" * 99, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"^visible \('.*is not an image that can be read: use one of PNG, JPEG"):
        processor.preprocess(tmp_path / "a.png", GREY)


@pytest.mark.parametrize("suffix", ["gif", "tiff", "webp", "png"])
def test_several_frames(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="holds 2 pictures: save the one to fuse"):
        processor.preprocess(path, GREY)
    with Image.open(path) as image:
        image.seek(1)
        expected = np.asarray(image.convert("L"))
        np.testing.assert_allclose(visible_plane(image), expected / 255, atol=1e-2)


def test_first_picture_of_mpo(tmp_path: Path) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(through(tmp_path / "a.jpg")[0], Image.open(tmp_path / "b.jpg"))


def test_bad_postprocess() -> None:
    plane, _, contexts = processor.preprocess(RGB, GREY)
    with pytest.raises(ValueError, match="cannot crop 4 x 5"):
        crop_to(torch.zeros(1, 1, 4, 5), (5, 5))
    for fused in (plane[0], plane.repeat(2, 1, 1, 1), plane.repeat(1, 3, 1, 1)):
        with pytest.raises(ValueError, match=r"fused must be \(1, 1, H, W\)"):
            processor.postprocess(fused, contexts)
    with pytest.raises(ValueError, match="cannot crop"):
        processor.postprocess(plane[..., 1:], contexts)
    for value in (float("nan"), float("inf")):
        broken = plane.clone()
        broken[0, 0, 3, 4] = value
        with pytest.raises(ValueError, match="fused holds NaN or infinite"):
            processor.postprocess(broken, contexts)
    for option, known in (({"output_type": "tf"}, "pil, np, pt"), ({"rescale": "max"}, "none, minmax")):
        with pytest.raises(ValueError, match=f"is unknown: use one of {known}"):
            processor.postprocess(plane, contexts, **option)
    planes, _, contexts = processor.preprocess([RGB, GREY], [GREY, GREY])
    with pytest.raises(ValueError, match="use output_type='pil'"):
        processor.postprocess(planes, contexts, output_type="np")


# --- files out ------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".webp", ".bmp", ".PNG"])
def test_saved_files_are_exact(tmp_path: Path, suffix: str) -> None:
    path = save_image(Image.fromarray(RGB), tmp_path / "new" / f"a.b{suffix}")
    assert os.listdir(path.parent) == [path.name]
    with Image.open(path) as image:
        np.testing.assert_array_equal(image, RGB)
    np.testing.assert_array_equal(through(str(path))[0], RGB)


def test_saved_without_suffix_and_as_jpeg(tmp_path: Path) -> None:
    assert save_image(Image.fromarray(GREY), tmp_path / "a").name == "a.png"
    flat = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    with Image.open(save_image(Image.fromarray(flat), tmp_path / "a.jpg")) as image:
        assert np.abs(np.asarray(image).astype(int) - flat).max() <= 3


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        path = save_image(Image.fromarray(DEEP), tmp_path / f"deep{suffix}")
        np.testing.assert_array_equal(np.asarray(through(path)[0]), DEEP)
        path.unlink()
    for image, name, message in (
        (Image.fromarray(DEEP), "a.jpg", r"JPEG cannot hold .*'I;16' \(a.jpg\): save as .png or .tif or .tiff"),
        (Image.fromarray(DEEP), "a.webp", "WEBP cannot hold"),
        (Image.fromarray(np.dstack([RGB, GREY])), "a.jpeg", r"JPEG cannot hold .*'RGBA'.*\.png"),
        (Image.fromarray(RGB).convert("HSV"), "a.png", "convert it to one of the modes"),
        (Image.fromarray(RGB), "a.xyz", r"cannot save as 'a\.xyz': use one of the suffixes \.png"),
    ):
        with pytest.raises(ValueError, match=message):
            save_image(image, tmp_path / name)
    with pytest.raises(TypeError, match="ndarray"):
        save_image(RGB, tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_image(Image.fromarray(GREY), tmp_path / "a.png")
    before = path.read_bytes()
    broken = Image.fromarray(RGB)

    def disk_full(file: io.BufferedWriter, **_: object) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(broken, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_image(broken, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


# --- real pictures ------------------------------------------------------------


def test_real_radiometric_images(data_root: Path) -> None:
    paths = sorted((data_root / "data" / "thermal16" / "radiometric" / "ir").iterdir())
    assert paths
    for path in paths:
        with Image.open(path) as image:
            counts = np.asarray(image).astype(np.float64)
        plane = infrared_plane(path)
        assert plane.mean() > 0.05 and plane.std() > 0.1, path.name  # no flat black
        low, high = np.percentile(counts, (0.5, 99.5))
        np.testing.assert_allclose(plane, np.clip((counts - low) / (high - low), 0, 1), atol=1e-6)
        inside = np.unique(counts[(counts > low) & (counts < high)])
        assert len(np.unique(plane)) >= len(inside), path.name  # no level is lost
        np.testing.assert_allclose(infrared_plane(path, infrared_range="dtype"), counts / 65535, atol=1e-6)
        visible, _, contexts = processor.preprocess(path, path, visible_range="dtype")
        np.testing.assert_array_equal(np.asarray(processor.postprocess(visible, contexts)[0]), counts)


@pytest.mark.parametrize(
    ("folder", "visible_folder", "infrared_folder", "mode"),
    [
        ("mri_pet/test", "pet", "mri", "RGB"),
        ("roadscene/test", "vis", "ir", "RGB"),
        ("tno/test", "vis", "ir", "L"),
        ("msrs/train", "vis", "ir", "RGB"),
    ],
)
def test_real_pairs(data_root: Path, folder: str, visible_folder: str, infrared_folder: str, mode: str) -> None:
    root = data_root / "data" / folder
    for path in sorted((root / visible_folder).iterdir())[:4]:
        (other,) = (root / infrared_folder).glob(path.stem + ".*")
        visible, infrared, contexts = processor.preprocess(path, other)
        (image,) = processor.postprocess(visible, contexts)
        with Image.open(path) as original, Image.open(other) as source:
            assert image.mode == mode and image.size == original.size
            np.testing.assert_array_equal(image, original)  # fused = visible luminance gives the visible
            expected = np.asarray(source.convert("RGB")).astype(np.float64)
        np.testing.assert_allclose(infrared[0, 0].numpy(), luma(expected) / 255, atol=1e-6)
        assert processor.postprocess(infrared, contexts)[0].mode == mode


# --- one picture as 8-bit colours ------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (Image.fromarray(RGB), RGB),
        (GREY, np.stack([GREY] * 3, axis=2)),
        (Image.fromarray(np.dstack([RGB, GREY])), RGB),  # alpha is ignored
        ((RGB / 255).astype(np.float32), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (GREY > 127, np.stack([(GREY > 127) * 255] * 3, axis=2)),
    ],
)
def test_to_rgb_keeps_what_has_8_bits(image, expected: np.ndarray) -> None:
    rgb = processor.to_rgb(image)
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, expected)


def test_to_rgb_stretches_what_has_more_as_the_infrared_is() -> None:
    counts = 2600 + GREY.astype(np.uint16)
    for options in ({}, {"value_range": "minmax"}, {"value_range": (2600, 2855)}, {"value_range": "dtype"}):
        rule = options.get("value_range", "auto")
        expected = np.floor(infrared_plane(counts, infrared_range=rule) * 255 + 0.5)
        for image in (counts, Image.fromarray(counts), counts.astype(np.int32) if rule != "dtype" else counts):
            rgb = processor.to_rgb(image, **options)
            np.testing.assert_array_equal(rgb, np.stack([expected] * 3, axis=2))
    np.testing.assert_array_equal(processor.to_rgb(counts, value_range=(2600, 2855))[..., 0], GREY)
    deep = RGB.astype(np.uint16) * 257
    np.testing.assert_array_equal(processor.to_rgb(deep, value_range="dtype"), RGB)  # colours keep their proportions


def test_to_rgb_is_upright_and_names_its_argument(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(processor.to_rgb(tmp_path / "turned.png"), np.rot90(RGB, -1))
    with pytest.raises(ValueError, match="image: there is no file"):
        processor.to_rgb(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="NaN"):
        processor.to_rgb(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="value_range must be"):
        processor.to_rgb(GREY, value_range="full")
