"""Read any picture file with its samples as stored, and write images.

Each kind goes to the library that reads it without loss: TIFF to tifffile, 16-bit PNG and deep JPEG 2000 and AVIF to
imagecodecs, everything else, all of it 8-bit, to Pillow. Pillow stretches PGM and PPM to 255 or 65535, so they are read
here.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from fusion_hub.files import write_aside
from fusion_hub.image.flir import FFF_STARTS, Block
from fusion_hub.image.lazy_numpy import np
from fusion_hub.image.luminance import Role, quantize
from fusion_hub.image.picture import Header, Metadata, Picture, depth_of, exif_block, has_exif, metadata_of, upright
from fusion_hub.image.pnm import is_pnm, read_pnm, read_pnm_header
from fusion_hub.image.radiometric import ThermalSettings, find_block, read_block
from fusion_hub.image.sources import MAX_PIXELS, TOO_LARGE, EncodedImage, check_size, opened
from fusion_hub.image.thermal_makers import is_fluke, shown_picture_notes
from fusion_hub.image.tiff import is_tiff, kelvins_of_count, read_tiff, read_tiff_header, write_tiff

EXTENSIONS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".avif"),
        *(".pgm", ".ppm", ".pnm", ".pbm", ".jp2", ".j2k", ".jpx", ".fff"),
    )
)
"""Suffixes, in lower case, of the files that are looked for in folders."""

# Raster formats only: EPS and WMF would start other programs, and a container of vectors has no pixel size.
_BY_PILLOW = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
READ_FORMATS = ("PNG", "JPEG", "TIFF", "WebP", "BMP", "GIF", "PGM", "PPM", "JPEG 2000", "AVIF")

_KNOWN_OTHERS = (  # how other files begin, their kind and advice
    (rb".{4}ftyphei", "a HEIC picture: save it as JPEG or PNG"),
    (rb".{4}ftypmif1", "a HEIF picture: save it as JPEG or PNG"),
    (rb".{4}ftypcrx", "a camera raw file (CR3): develop it and save as 16-bit TIFF or PNG"),
    (rb".{128}DICM", "a DICOM file: save the slice as 16-bit PNG or TIFF"),
    (rb"\x5c\x01\0\0|.{344}n\+1\0", "a NIfTI volume: save one slice as 16-bit PNG or TIFF"),
    (rb"\x93NUMPY", "a NumPy file: load it with numpy.load and give the array"),
    (rb"\x89HDF|MATLAB", "an HDF5 or MATLAB file: save the image as TIFF"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture: save it as float TIFF"),
    (rb"#\?RADIANCE", "a Radiance HDR picture: save it as float TIFF"),
    (rb"SIMPLE  =", "a FITS file: save the image as float TIFF"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture: save it as PNG"),
    (rb"P7\n", "a PAM picture: save it as PGM, PPM or PNG"),
    (rb"8BPS", "a Photoshop file: save it as TIFF or PNG"),
    (rb"%PDF", "a PDF document: save the image as PNG"),
    (rb"PK\x03\x04", "a zip archive: unpack it first"),
)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_pil_limit_lock = threading.Lock()


def read_header(
    source: EncodedImage, name: str = "image", max_pixels: int = MAX_PIXELS, role: Role | None = None
) -> Header:
    """Size and kind of a picture, from its header; of the temperatures in a radiometric file in the infrared role.

    Args:
        source: path, or `{"bytes", "path"}`.
        name: how messages call it; the path is added.
        max_pixels: larger pictures are refused.
        role: what the picture is to be in a pair.

    Raises:
        ValueError: the file is missing, damaged, not a picture, or too large; the message names it.
    """
    with opened(source, name) as (stream, name, start):
        if (block := _flir_block(stream, name, start, role)) is not None:
            header = Header(block.size, 1, "float32", "FLIR")
        elif is_tiff(start):
            header = read_tiff_header(stream, name)
        elif is_pnm(start):
            header = read_pnm_header(stream, name)
        else:
            with _pillow(stream, name, start, max_pixels) as image:
                header = _pillow_header(image, stream, name)
        check_size(header.size, name, max_pixels)
        return header


def read_picture(
    source: EncodedImage,
    name: str = "image",
    max_pixels: int = MAX_PIXELS,
    role: Role | None = None,
    thermal: ThermalSettings | None = None,
) -> Picture:
    """Decode a picture: upright, samples as stored, with the missing data that the file declares.

    In the infrared role a radiometric file of FLIR gives temperatures, float32 in degrees C, and so do TIFF files whose
    metadata name the kelvins of a count.

    Args:
        source: path, or `{"bytes", "path"}`.
        name: how messages call it; the path is added.
        max_pixels: larger pictures are refused before they are decoded.
        role: what the picture is to be in a pair.
        thermal: how temperatures of the infrared are found.

    Raises:
        ValueError: the file is missing, damaged, not a picture, too large, or holds several; the message names it.

    Examples:
        >>> pgm = b"P5 3 1 4095\\n" + bytes([0, 7, 1, 0, 15, 255])
        >>> picture = read_picture({"bytes": pgm, "path": None})
        >>> picture.pixels, picture.white
        (array([[   7,  256, 4095]], dtype=uint16), 4095.0)
    """
    with opened(source, name) as (stream, name, start):
        if role != "infrared":
            return _decode(stream, name, start, max_pixels, role)
        thermal = thermal or ThermalSettings()
        if (block := _flir_block(stream, name, start, role)) is not None:
            return thermal.picture(read_block(block, stream, name, max_pixels, with_visible=False), name)
        kelvins = kelvins_of_count(stream) if is_tiff(start) else None
        return thermal.in_degrees(_decode(stream, name, start, max_pixels, role), kelvins, name)


def _decode(stream: BinaryIO, name: str, start: bytes, max_pixels: int, role: Role | None) -> Picture:
    if (block := _flir_block(stream, name, start, role)) is not None:
        return read_block(block, stream, name, max_pixels, with_visible=False).picture(name)
    if is_tiff(start):
        return read_tiff(stream, name, partial(check_size, max_pixels=max_pixels))
    if is_pnm(start):
        return read_pnm(stream, name, partial(check_size, max_pixels=max_pixels))
    with _pillow(stream, name, start, max_pixels) as image:
        header = _pillow_header(image, stream, name)
        check_size(header.size, name, max_pixels)
        if header.pages > 1:
            raise ValueError(f"{name} holds {header.pages} pictures: save the one to fuse by itself")
        if image.format == "PNG":
            _check_png(stream, name)
        # Pillow scales gray of 2 and 4 bits, but not the level that is transparent.
        few_bits = image.format == "PNG" and image.mode == "L" and "transparency" in image.info
        if header.format == "deep" or (image.format == "PNG" and header.dtype == "uint16") or few_bits:
            return _by_imagecodecs(image, stream, name)
        return from_pil(image, name, shown_picture_notes(image, stream, name))


def _flir_block(stream: BinaryIO, name: str, start: bytes, role: Role | None) -> Block | None:
    """The counts in a file of FLIR, for the infrared role; in others a JPEG is the picture that the camera shows."""
    is_raw = start[:4] in FFF_STARTS
    if is_raw and role == "visible":
        raise ValueError(f"{name} is a FLIR raw file, which holds temperatures: give it as the infrared image")
    found = find_block(stream, name) if is_raw or (role == "infrared" and start[:2] == b"\xff\xd8") else None
    stream.seek(0)
    return found


def check_complete(path: Path) -> None:
    """Raise a `ValueError` for a file that is not a picture or is cut off, without decoding it."""
    read_header(path)
    with open(path, "rb") as stream:
        start = stream.read(8)
        if start == _PNG_START:
            _check_png(stream, str(path))
        elif start[:2] == b"\xff\xd8":
            stream.seek(-2, os.SEEK_END)
            if stream.read() != b"\xff\xd9":
                raise ValueError(f"{path} is cut off: export it again")


def _pillow(stream: BinaryIO, name: str, start: bytes, max_pixels: int) -> Image.Image:
    """Read the header only; Pillow's limit against decompression bombs, a global one, is set to ours meanwhile."""
    is_usual = start[:8] == _PNG_START or start[:2] == b"\xff\xd8"
    (Image.preinit if is_usual else Image.init)()  # all of Pillow's plugins take a while to import
    try:
        with _pil_limit_lock:
            before = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = max_pixels
            try:
                image = Image.open(stream, formats=[f for f in _BY_PILLOW if f in Image.OPEN])
            finally:
                Image.MAX_IMAGE_PIXELS = before
        if image.format == "PNG" and "exif" not in image.info and (block := _png_exif(stream)):
            image.info["exif"] = b"Exif\0\0" + block
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} has more pixels than the limit of {max_pixels}: {TOO_LARGE}") from error
    except UnidentifiedImageError as error:
        if start[:2] == b"PK" and is_fluke(stream):
            raise ValueError(f"{name} is a Fluke file (IS2): export the temperatures as float TIFF") from error
        for magic, advice in _KNOWN_OTHERS:
            if re.match(magic, start, re.DOTALL):
                raise ValueError(f"{name} is {advice}") from error
        raise ValueError(f"{name} is not an image that can be read: use one of {', '.join(READ_FORMATS)}") from error
    except Exception as error:  # a damaged header can fail in any way
        raise ValueError(f"{name} has a damaged header: export it again") from error


def _pillow_header(image: Image.Image, stream: BinaryIO, name: str) -> Header:
    try:
        pages = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception as error:  # counting walks through the file, which may be damaged further on
        raise ValueError(f"{name} is damaged: export it again") from error
    size = image.size if _orientation(image) >= 5 else (image.height, image.width)
    mode = _plain_mode(image)
    channels = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode, 1)
    kind, dtype = str(image.format), "float32" if mode == "F" else "uint16" if mode.startswith("I") else "uint8"
    if image.format == "PNG":
        stream.seek(24)
        bits, color = stream.read(2)
        if bits == 16:
            channels = {0: 1, 2: 3, 4: 2, 6: 4}[color] + (color in (0, 2) and "transparency" in image.info)
            dtype = "uint16"
    elif image.format in ("JPEG2000", "AVIF"):
        bits, signed = _stored_bits(image, stream)
        if bits != 8 or signed:
            kind, dtype = "deep", "int16" if signed else "uint16"
    return Header(size, channels, dtype, kind, pages)


def _orientation(image: Image.Image) -> int:
    if not has_exif(image):
        return 1
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata do not make the pixels unreadable
        return 1
    return orientation if 1 <= orientation <= 8 else 1


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Decoders of damaged files fail in any way: OSError, SyntaxError, struct.error, ..."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{name} cannot be decoded: it is damaged or cut off, export it again") from error


def from_pil(image: Image.Image, name: str, notes: tuple[str, ...] = ()) -> Picture:
    """A Pillow image of any mode: upright, deep grays as they are, all else gray or RGB with or without alpha."""
    with _decoding(name):
        image.load()
        metadata = metadata_of(image)
        mode = _plain_mode(image)
        samples = np.asarray(image if image.mode == mode else image.convert(mode))
        samples = upright(samples, _orientation(image))  # after load: Pillow turns TIFF itself there
    if mode == "F":
        return Picture(samples, white=1.0, depth="float32", metadata=metadata, notes=notes)
    if mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        return Picture(samples, depth="uint16", metadata=metadata, notes=notes)
    if mode.startswith("I"):  # 16 bits of either byte order, or held in 32
        return Picture(samples.astype(np.uint16), white=65535.0, depth="uint16", metadata=metadata, notes=notes)
    alpha = samples[..., -1] if mode in ("LA", "RGBA") else None
    pixels = samples if alpha is None else samples[..., 0] if mode == "LA" else samples[..., :3]
    return Picture(pixels, alpha, white=255.0, metadata=metadata, notes=notes)


def _plain_mode(image: Image.Image) -> str:
    """The mode to fuse an image in: its own for deep grays, else one of L, LA, RGB, RGBA."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return image.mode
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return mode + "A" if image.has_transparency_data else mode


def _by_imagecodecs(image: Image.Image, stream: BinaryIO, name: str) -> Picture:
    """16-bit PNG, and JPEG 2000 and AVIF of more than 8 bits, with the samples that are stored."""
    import imagecodecs  # and NumPy with it

    bits, signed = (16, False) if image.format == "PNG" else _stored_bits(image, stream)
    decoders = {"PNG": imagecodecs.png_decode, "AVIF": imagecodecs.avif_decode, "JPEG2000": imagecodecs.jpeg2k_decode}
    stream.seek(0)
    with _decoding(name):
        samples = decoders[str(image.format)](stream.read())
    samples = upright(samples.reshape(*samples.shape[:2], -1), _orientation(image))
    channels = samples.shape[2]
    if channels > 4:
        raise ValueError(f"{name} has {channels} channels: save the gray or RGB image to fuse by itself")
    alpha = samples[..., -1] if channels in (2, 4) else None
    pixels = samples[..., :3] if channels >= 3 else samples[..., 0]
    white = None if signed else 255.0 if samples.dtype == np.uint8 else float(2**bits - 1)
    return Picture(
        np.ascontiguousarray(pixels), alpha, white=white, depth=depth_of(pixels.dtype), metadata=metadata_of(image)
    )


def _check_png(stream: BinaryIO, name: str) -> None:
    """Each chunk must be whole and match its check sum, which Pillow does not look at."""
    stream.seek(0)
    data = memoryview(stream.read())
    offset = len(_PNG_START)
    while offset + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        kind, end = bytes(data[offset + 4 : offset + 8]), offset + 12 + length
        if end > len(data):
            break
        if struct.unpack_from(">I", data, end - 4)[0] != zlib.crc32(data[offset + 4 : end - 4]):
            chunk = kind.decode("latin-1")
            raise ValueError(f"{name} is damaged (the check sum of its {chunk} is wrong): copy it again")
        if kind == b"IEND":
            return
        offset = end
    raise ValueError(f"{name} is cut off: copy or export it again")


def _png_exif(stream: BinaryIO) -> bytes | None:
    """EXIF that stands behind the pixels, found without decoding them."""
    offset = stream.tell()
    stream.seek(len(_PNG_START))
    found = None
    while found is None and len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf" and length < 2**20:
            found = stream.read(length)
        else:
            stream.seek(length + 4, os.SEEK_CUR)
    stream.seek(offset)
    return found


def _stored_bits(image: Image.Image, stream: BinaryIO) -> tuple[int, bool]:
    """Bits of the samples and whether they are signed: of JPEG 2000 by ISO/IEC 15444-1, A.5.1; of AVIF by av1C."""
    stream.seek(0)
    data = stream.read(2**16)
    if image.format == "AVIF":
        found = re.search(rb"av1C..(.)", data, re.DOTALL)
        flags = found[1][0] if found else 0
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8, False
    found = re.search(rb"\xff\x4f\xff\x51.{37}(.)(.+)", data, re.DOTALL)
    components = found[2][::3][: max(1, found[1][0])] if found else b"\7"
    return max((value & 0x7F) + 1 for value in components), any(value & 0x80 for value in components)


_EIGHT_BIT_MODES = ("L", "LA", "RGB", "RGBA")
_SAVE_FORMATS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {  # suffix: format, modes, options
    # A third of the time of level 6, for files of about the same size.
    ".png": ("PNG", ("1", *_EIGHT_BIT_MODES, "I;16"), {"compress_level": 4}),
    ".tif": ("TIFF", ("1", *_EIGHT_BIT_MODES, "I;16", "F"), {}),
    ".tiff": ("TIFF", ("1", *_EIGHT_BIT_MODES, "I;16", "F"), {}),
    ".jpg": ("JPEG", ("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", ("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", _EIGHT_BIT_MODES, {"lossless": True}),
    ".bmp": ("BMP", ("1", "L", "RGB"), {}),
}
SAVE_SUFFIXES = tuple(_SAVE_FORMATS)


class DeepImage(Image.Image):
    """Colors deeper than Pillow can hold: an 8-bit RGB(A) image for every use, saved with all bits as PNG and TIFF.

    `resize`, `crop`, `convert` and other methods of Pillow return a plain 8-bit image.

    Attributes:
        samples: `(H, W, 2|3|4)` uint16, or float32 in [0, 1].
    """

    def __init__(self, samples: np.ndarray) -> None:
        super().__init__()
        plain = Image.fromarray(quantize(samples))
        self.im, self._mode, self._size = plain.im, plain.mode, plain.size
        self.samples = samples

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As Pillow's `save`; PNG and TIFF get all bits (PNG 16 of floats), other formats 8."""
        is_path = isinstance(fp, str | os.PathLike)
        kind = (format or (Path(fp).suffix[1:] if is_path else "")).upper().replace("TIFF", "TIF")
        if kind not in ("PNG", "TIF"):
            super().save(fp, format, **params)
        else:
            with open(fp, "wb") if is_path else nullcontext(fp) as stream:
                _write_deep(self, stream, kind, _inherited(self))


def to_image(picture: Picture) -> Image.Image:
    """A decoded picture as an image of Pillow; 16-bit and float colors as a [`DeepImage`].

    Examples:
        >>> to_image(Picture(np.zeros((2, 3, 3), np.uint16))).samples.dtype
        dtype('uint16')
    """
    pixels = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
    if pixels.ndim == 2 or pixels.dtype == np.uint8:
        return Image.fromarray(pixels)
    return DeepImage(pixels)


def save_image(image: Image.Image, path: str | os.PathLike[str], *, metadata: bool = True) -> Path:
    """Write an image in the format of the path's suffix: .png (also where there is none), .tif, .jpg, .webp, .bmp.

    Lossless but for JPEG (quality 95, full chroma). Camera, date, position and resolution of the visible image are
    written where the format can hold them (not in BMP), its color profile always. The file appears under its name only
    when it is complete; missing folders are made. Returns the path written.

    Args:
        image: as a pipeline returns it.
        path: the file.
        metadata: False leaves camera, date, position and resolution out.

    Raises:
        ValueError: for an unknown suffix, or a format that cannot hold the image (16 bits or alpha in JPEG).
        TypeError: if `image` is not a PIL image.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_image(Image.new("L", (3, 2)), folder / "fused").name
        'fused.png'
        >>> read_header(folder / "fused.png").size
        (2, 3)
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image is of type {type(image).__name__}: give a PIL image (output_type='pil')")
    target = Path(path)
    if not target.suffix:
        target = target.with_name(target.name + ".png")
    suffix, mode = target.suffix.lower(), image.mode
    if suffix not in _SAVE_FORMATS:
        raise ValueError(f"cannot save as {target.name!r}: use one of the suffixes {', '.join(_SAVE_FORMATS)}")
    file_format, modes, options = _SAVE_FORMATS[suffix]
    able = [ending for ending, (_, held, _) in _SAVE_FORMATS.items() if mode in held]
    if isinstance(image, DeepImage):
        able = [ending for ending in able if _SAVE_FORMATS[ending][0] in ("PNG", "TIFF")]
        mode += f" with {image.samples.dtype} samples"
    if suffix not in able:
        advice = f"save as {' or '.join(able)}" if able else f"convert it to one of the modes {', '.join(modes)}"
        raise ValueError(f"{file_format} cannot hold an image of mode {mode!r} ({target.name}): {advice}")
    kept = _inherited(image) if metadata else Metadata(icc_profile=image.info.get("icc_profile"))
    software = image.info.get("fusion_hub")  # with model and precision
    with write_aside(target) as aside, open(aside, "xb") as file:
        if isinstance(image, DeepImage):
            _write_deep(image, file, file_format, kept)
        elif file_format == "TIFF":  # Pillow fails on EXIF in compressed TIFF
            write_tiff(np.asarray(image), file, kept, software)
        else:
            dpi = None if kept.dpi is None or (file_format == "JPEG" and max(kept.dpi) > 65535) else kept.dpi
            found = {"icc_profile": kept.icc_profile, "exif": exif_block(kept, software), "dpi": dpi}
            image.save(file, format=file_format, **options, **{k: v for k, v in found.items() if v is not None})
    return target


def _inherited(image: Image.Image) -> Metadata:
    """The metadata of the visible image, which a result carries under Pillow's own keys of `image.info`."""
    info = image.info
    return Metadata(info.get("exif"), info.get("dpi"), info.get("icc_profile"), info.get("geo", {}))


def _write_deep(image: DeepImage, stream: BinaryIO, file_format: str, metadata: Metadata) -> None:
    software = image.info.get("fusion_hub")
    if file_format != "PNG":
        return write_tiff(image.samples, stream, metadata, software)
    samples = image.samples if image.samples.dtype == np.uint16 else quantize(image.samples, np.uint16)
    import imagecodecs

    plain = imagecodecs.png_encode(np.ascontiguousarray(samples))
    chunks = []  # that the encoder does not write
    if metadata.icc_profile is not None:
        chunks.append((b"iCCP", b"ICC\0\0" + zlib.compress(metadata.icc_profile)))
    if metadata.dpi is not None:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in metadata.dpi), 1)))
    if (block := exif_block(metadata, software)) is not None:
        chunks.append((b"eXIf", block.removeprefix(b"Exif\0\0")))
    stream.write(plain[:33])  # up to the end of IHDR
    for kind, data in chunks:
        stream.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    stream.write(plain[33:])
