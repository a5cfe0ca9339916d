"""TIFF as cameras, microscopes and GIS programs write it: any sample type, byte order, planes, tiles, orientation.

Decoded by tifffile and imagecodecs. Pillow reads 8-bit TIFF well but swaps bytes of compressed big-endian samples,
knows no float64 and reduces 16-bit colors to 8 bits.
"""

from __future__ import annotations

import io
import logging
import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, BinaryIO

import lazy_loader
from PIL import ExifTags, Image, TiffImagePlugin

from fusion_hub.image.lazy_numpy import np
from fusion_hub.image.picture import Header, Metadata, Picture, depth_of, full_scale, metadata_of_tiff, upright

if TYPE_CHECKING:
    import tifffile
else:
    tifffile = lazy_loader.load("tifffile")  # on first use: most files are no TIFF

# Errors in a header are reported here, or are of no consequence.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)  # GeoTIFF: scale, tie points, transformation, keys
_ORIENTATION, _NODATA, _XMP = 274, 42113, 700
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType


class Photometric(IntEnum):
    """Kinds of colors, by their numbers in TIFF 6.0 and DNG."""

    MINISWHITE, MINISBLACK, RGB, PALETTE = 0, 1, 2, 3
    SEPARATED, YCBCR, CIELAB, ICCLAB = 5, 6, 8, 9
    CFA, LINEAR_RAW = 32803, 34892


_GRAYS = (Photometric.MINISBLACK, Photometric.MINISWHITE)
_PLAIN, _JPEGS = 1, (7, 6)  # kinds of compression
_CONVERTED_BY_PILLOW = (Photometric.YCBCR, Photometric.SEPARATED, Photometric.CIELAB, Photometric.ICCLAB)
_UNDECODABLE = "{name} cannot be decoded: its data are damaged or of a rare kind, export it again"
_MOST_SAMPLES = 16
_MOST_PAGES = 1000

Check = Callable[[tuple[int, int], str], None]


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is TIFF or BigTIFF, of either byte order."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff_header(stream: BinaryIO, name: str) -> Header:
    """Size and kind of the picture; a `ValueError` for damage, or if there is none that can be fused."""
    with _opened(stream, name) as tiff:
        page, pages, _ = _choose(tiff, name)
        size = (page.imagelength, page.imagewidth)
        size = size[::-1] if _orientation(page) >= 5 else size
        return Header(size, sum(_channels(page, name)), np.dtype(page.dtype).name, "TIFF", pages)


def read_tiff(stream: BinaryIO, name: str, check: Check) -> Picture:
    """Decode the picture of a TIFF file, once `check(size, name)` has accepted its size `(H, W)`.

    Raises a `ValueError` for a damaged file, several pictures, or samples that are no luminance or color.
    """
    with _opened(stream, name) as tiff:
        page, pages, mask = _choose(tiff, name)
        check((page.imagelength, page.imagewidth), name)
        if pages > 1:
            raise ValueError(f"{name} holds {pages} pictures: save the one to fuse by itself")
        colors, has_alpha = _channels(page, name)
        _check_whole(tiff, page, name)
        orientation = _orientation(page)
        # GeoTIFF tie points count rows and columns as stored.
        geo = {code: page.tags[code].value for code in GEO_TAGS if code in page.tags and orientation == 1}
        metadata = metadata_of_tiff(stream)
        samples = _decode(page, stream, name)
        if samples.shape[2] < (1 if page.photometric == Photometric.PALETTE else colors + has_alpha):
            raise ValueError(f"{name} is a damaged TIFF file: export it again")
        profile = None if page.photometric in _CONVERTED_BY_PILLOW else metadata.icc_profile  # of other colors
        geo = {code: tuple(value) if isinstance(value, tuple | list) else (value,) for code, value in geo.items()}
        metadata = replace(metadata, icc_profile=profile, geo=geo)
        valid = _declared_data(page, samples[..., :colors])
        if mask is not None and (mask.imagelength, mask.imagewidth) == samples.shape[:2]:
            _check_whole(tiff, mask, name)
            shown = _decode(mask, stream, name)[..., 0] > 0
            valid = shown if valid is None else valid & shown
        pixels, alpha, white, notes = _interpret(page, samples, colors, has_alpha, name)
        more: dict[str, Any] = {"alpha": alpha, "valid": valid}
        more = {key: upright(plane, orientation) for key, plane in more.items() if plane is not None}
        depth = depth_of(pixels.dtype)
        return Picture(upright(pixels, orientation), **more, white=white, depth=depth, metadata=metadata, notes=notes)


def kelvins_of_count(stream: BinaryIO) -> float | None:
    """What one count is in kelvins, where the metadata of a thermal camera say so; None elsewhere.

    FLIR's TLinear files name it as TlinearGain; MicaSense's thermal band (Altum) has hundredths.
    """
    stream.seek(0)
    try:
        with tifffile.TiffFile(stream) as tiff:
            tags: Any = tiff.pages.first.tags
            xmp, maker = (tags[code].value if code in tags else "" for code in (_XMP, ExifTags.Base.Make))
        text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp)
        if (found := re.search(r"TlinearGain\W{1,2}([\d.]+)", text)) is not None:
            return float(found[1]) or None  # 0 of FLIR: the counts are not linear
        is_thermal = re.search(r"BandName\W[^/]{0,200}\bLWIR\b", text) is not None
        return 0.01 if is_thermal and "micasense" in str(maker).lower() else None
    except Exception:  # damaged metadata; the reader reports what matters
        return None
    finally:
        stream.seek(0)


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[tifffile.TiffFile]:
    """A TIFF file; any error becomes a `ValueError` that names it."""
    try:
        with tifffile.TiffFile(stream) as tiff:
            yield tiff
    except MemoryError:
        raise
    except Exception as error:  # struct.error, TiffFileError, ...: damage to a header can raise anything
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        raise ValueError(f"{name} is a damaged TIFF file: export it again") from error


def _choose(tiff: tifffile.TiffFile, name: str) -> tuple[Any, int, Any]:
    """The page to fuse, the number of full pictures, and the page that masks it or None."""
    pages: list[Any] = [tiff.pages[index] for index in range(min(len(tiff.pages), _MOST_PAGES))]
    if not pages:
        raise ValueError(f"{name} is a damaged TIFF file, its directory is missing: copy or export it again")
    kinds = [(page, int(page.subfiletype)) for page in pages]
    full = [page for page, kind in kinds if not kind & (_REDUCED | _MASK)]
    if not full:
        raise ValueError(
            f"{name} holds reduced copies only, as camera raw files (DNG) do: develop it and save as 16-bit TIFF or PNG"
        )
    count = len(full)
    if count == 1 and (tiff.is_imagej or tiff.is_shaped or tiff.is_ome) and tiff.series:
        count = max(1, tiff.series[0].size // max(1, full[0].size))  # a stack behind a single directory
    sizes = (full[0].imagewidth, full[0].imagelength, full[0].imagedepth, full[0].samplesperpixel)
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"{name} is a damaged TIFF file: export it again")
    mask = next((page for page, kind in kinds if kind & _MASK and not kind & _REDUCED), None)
    return full[0], count * max(1, full[0].imagedepth), mask


def _check_whole(tiff: tifffile.TiffFile, page: Any, name: str) -> None:
    """Every strip or tile must lie in the file: a missing one would become black."""
    wanted = math.prod(page.chunked)
    length = tiff.filehandle.size
    strips = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    whole = sum(1 for offset, count in strips if offset > 0 and count > 0 and offset + count <= length)
    if whole < wanted or len(strips) < wanted:
        raise ValueError(f"{name} is cut off: {whole} of its {wanted} strips or tiles are there, export it again")
    if page.compression == _PLAIN:
        row = math.ceil(math.prod(page.chunks[1:] or (1,)) * _bits(page) / 8) if len(page.chunks) > 1 else 1
        if sum(page.databytecounts) < row * page.imagelength and not page.is_tiled:
            raise ValueError(f"{name} is cut off: its strips are too short for its size, export it again")


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _orientation(page: Any) -> int:
    value = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _channels(page: Any, name: str) -> tuple[int, int]:
    """Color channels of the result (1 or 3) and whether there is alpha (0 or 1)."""
    samples, photometric = int(page.samplesperpixel), page.photometric
    if samples > _MOST_SAMPLES:
        raise ValueError(f"{name} has {samples} channels: save the gray or RGB image to fuse by itself")
    if page.dtype is None or np.dtype(page.dtype).kind not in "biuf":
        kind = "samples of an unknown kind" if page.dtype is None else f"{np.dtype(page.dtype).name} samples"
        raise ValueError(f"{name} has {kind}: save it as 8-bit, 16-bit or float TIFF")
    if photometric in (Photometric.CFA, Photometric.LINEAR_RAW):
        raise ValueError(f"{name} is a camera raw file (DNG): develop it and save as 16-bit TIFF or PNG")
    alpha = any(int(kind) in (1, 2) for kind in page.extrasamples)
    if photometric in _GRAYS:
        if samples - len(page.extrasamples) > 1:
            raise ValueError(f"{name} has {samples} channels, not declared as RGB: save it as RGB, or one channel")
        return 1, int(alpha)
    if photometric == Photometric.PALETTE:
        return 3, 0
    if (photometric == Photometric.RGB and samples >= 3) or photometric in _CONVERTED_BY_PILLOW:
        return 3, int(alpha and photometric == Photometric.RGB)
    label = getattr(photometric, "name", photometric)
    raise ValueError(f"{name} has colors of the kind {label} with {samples} channels: save it as RGB or gray TIFF")


def _decode(page: Any, stream: BinaryIO, name: str) -> np.ndarray:
    """`(H, W, samples)` as stored."""
    if page.photometric in _CONVERTED_BY_PILLOW and page.compression not in _JPEGS:
        return _by_pillow(page, stream, name)
    try:
        array = page.asarray()
        axes = page.axes
        if axes.startswith("S"):
            array = np.moveaxis(array, 0, -1)
        array = array.reshape(page.imagelength, page.imagewidth, -1)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # codecs fail in any way on damaged data
        if page.photometric in (*_GRAYS, Photometric.RGB) and _bits(page) in (1, 8):
            return _by_pillow(page, stream, name)  # fax and other codecs that imagecodecs lacks
        raise ValueError(_UNDECODABLE.format(name=name)) from error
    return array if array.dtype != np.bool_ else array.astype(np.uint8)


def _by_pillow(page: Any, stream: BinaryIO, name: str) -> np.ndarray:
    """8-bit color spaces that libtiff converts, in RGB, with the turn of the orientation taken back."""
    try:
        stream.seek(0)
        # Not by path: Pillow maps uncompressed files into memory and then turns them wrongly.
        with Image.open(io.BytesIO(stream.read()), formats=("TIFF",)) as image:
            image.load()
            gray = page.photometric in _GRAYS
            array = np.asarray(image.convert("L" if gray else "RGB"))
    except Exception as error:
        raise ValueError(_UNDECODABLE.format(name=name)) from error
    array = array.reshape(*array.shape[:2], -1)
    if gray:  # the caller inverts and scales by the bits that are stored
        array = 255 - array if page.photometric == Photometric.MINISWHITE else array
        array = (array > 127).astype(np.uint8) if _bits(page) == 1 else array
    orientation = _orientation(page)
    return upright(array, {6: 8, 8: 6}.get(orientation, orientation))


def _declared_data(page: Any, samples: np.ndarray) -> np.ndarray | None:
    """Where the samples are not the value that GDAL_NODATA names."""
    if _NODATA not in page.tags:
        return None
    try:
        value = float(str(page.tags[_NODATA].value).strip("\0 "))
    except ValueError:
        return None
    if samples.dtype.kind != "f":
        if not value.is_integer() or not np.iinfo(samples.dtype).min <= value <= np.iinfo(samples.dtype).max:
            return None
        value = int(value)
    empty = samples == samples.dtype.type(value)  # nothing for NaN: such samples are no data anyway
    return ~empty.all(axis=-1) if empty.any() else None


def _interpret(
    page: Any, samples: np.ndarray, colors: int, has_alpha: int, name: str
) -> tuple[np.ndarray, np.ndarray | None, float | None, tuple[str, ...]]:
    """Pixels, alpha, the value of white, and notes."""
    bits, dtype = _bits(page), samples.dtype
    white = full_scale(dtype)
    if dtype.kind == "u" and bits <= 16:
        white = float(2**bits - 1)
    if page.photometric == Photometric.PALETTE:
        table = np.asarray(page.colormap)
        if samples.max() >= table.shape[1]:
            raise ValueError(f"{name} uses colors that its palette lacks: export it again")
        shift = 8 if table.max() > 255 else 0  # some writers put 8-bit colors into the 16 bits of the table
        return (table.T[samples[..., 0]] >> shift).astype(np.uint8), None, 255.0, ()
    if page.photometric in _CONVERTED_BY_PILLOW:
        return samples[..., :3], None, 255.0, ()
    if page.photometric == Photometric.MINISWHITE:
        samples = np.concatenate([_inverted(samples[..., :1], white, name), samples[..., 1:]], axis=2)
    pixels, alpha = samples[..., :3] if colors == 3 else samples[..., 0], None
    if has_alpha:
        extras = [int(kind) for kind in page.extrasamples]
        index, kind = next((index, kind) for index, kind in enumerate(extras) if kind in (1, 2))
        alpha = samples[..., samples.shape[2] - len(extras) + index]
        pixels = _unassociated(pixels, alpha, white) if kind == 1 else pixels
    notes: tuple[str, ...] = ()
    if samples.shape[2] > colors + has_alpha:
        kept = "RGB" if colors == 3 else "the first one"
        notes = (f"{name} has {samples.shape[2]} channels, of which {kept} is used",)
    if dtype == np.float16:
        pixels, alpha = pixels.astype(np.float32), None if alpha is None else alpha.astype(np.float32)
    native = pixels.dtype.newbyteorder("=")
    return np.ascontiguousarray(pixels, native), None if alpha is None else alpha.astype(native), white, notes


def _inverted(samples: np.ndarray, white: float | None, name: str) -> np.ndarray:
    """Samples of an image in which 0 is white, so that more is brighter."""
    if samples.dtype.kind == "f":
        low, high = np.nanmin(samples), np.nanmax(samples)
        if low < 0 or high > 1:
            raise ValueError(
                f"{name} says that 0 is white, but has float values in {low:g}..{high:g}, whose other end is unknown: "
                "save it with 0 as black"
            )
        return 1 - samples
    if samples.dtype.kind == "i" or white is None:
        return ~samples
    return samples.dtype.type(white) - samples


def _unassociated(pixels: np.ndarray, alpha: np.ndarray, white: float | None) -> np.ndarray:
    """Colors that were multiplied by their alpha, divided by it again."""
    if white is None or (alpha == white).all():
        return pixels
    share = alpha.astype(np.float64) / white
    share = share[..., None] if pixels.ndim == 3 else share
    plain = np.clip(np.divide(pixels, share, out=np.zeros(pixels.shape), where=share > 0), 0, white)
    return (plain + 0.5 if pixels.dtype.kind == "u" else plain).astype(pixels.dtype)


def write_tiff(samples: np.ndarray, stream: BinaryIO, metadata: Metadata, software: str | None) -> None:
    """Samples `(H, W)` or `(H, W, 2|3|4)`, bool, uint8, uint16 or float32, as TIFF with all metadata.

    tifffile writes no EXIF and GPS directories: these are appended to the file, and the pointers to them filled in.
    """
    channels = samples.shape[2] if samples.ndim == 3 else 1
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif)
    directories = {tag: dict(exif.get_ifd(tag)) for tag in (34665, 34853)}
    # tifffile writes no tag that points to a directory: it gets the number below, which is mended afterwards.
    extratags: list[Any] = [(tag - 1, 4, 1, 0, True) for tag, entries in directories.items() if entries]
    extratags += [
        (int(tag), 2, 0, str(exif[tag]), True)
        for tag in (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Artist, ExifTags.Base.Copyright)
        if tag in exif
    ]
    for code, value in metadata.geo.items():
        is_text = isinstance(value[0], str)
        extratags.append(
            (code, 2, 0, value[0], True) if is_text else (code, 3 if code == 34735 else 12, len(value), value, True)
        )
    # Of TIFF 6.0's form, which tifffile insists on; other dates are left out of the base tags.
    date = re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", str(exif.get(ExifTags.Base.DateTime) or "").strip("\0 "))
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        samples,
        photometric="minisblack" if channels < 3 else "rgb",
        planarconfig="contig" if channels > 1 else None,
        compression=None if samples.dtype == np.bool_ else "adobe_deflate",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        resolution=metadata.dpi,
        resolutionunit="INCH" if metadata.dpi else None,
        iccprofile=metadata.icc_profile,
        software=software,
        datetime=date and date[0],
        description=_plain(exif.get(ExifTags.Base.ImageDescription)),
        extratags=extratags,
        metadata=None,
        byteorder="<",
    )
    for tag, entries in directories.items():
        if entries:
            _append_directory(file, tag, entries)
    stream.write(file.getbuffer())


def _plain(description: Any) -> Any:
    """A description in words; None for those that programs read, since they tell of the shape of another picture."""
    structured = ("{", "<?xml", "<OME", "ImageJ=", "SCI_IMAGE", "GDAL")
    return None if str(description).lstrip("\ufeff ").startswith(structured) else description


def _append_directory(file: io.BytesIO, pointer: int, entries: dict[int, Any]) -> None:
    """Write a directory at the end of a little-endian TIFF file and store its offset in the tag that points to it."""
    offset = file.seek(0, io.SEEK_END)
    offset += file.write(b"\0" * (offset % 2))
    directory = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    directory.update(entries)
    file.write(directory.tobytes(offset))
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        first: Any = tiff.pages[0]
        entry = first.tags[pointer - 1]
    struct.pack_into("<H", file.getbuffer(), entry.offset, pointer)
    struct.pack_into("<I", file.getbuffer(), entry.valueoffset, offset)
