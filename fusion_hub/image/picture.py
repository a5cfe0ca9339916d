"""A decoded picture, whatever file, array or tensor it came from, and the metadata that a result inherits from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from PIL import ExifTags, Image

from fusion_hub.image.lazy_numpy import np

Depth = Literal["uint8", "uint16", "float32"]

_CAMERA_TAGS = ("ImageDescription", "Make", "Model", "DateTime", "Artist", "Copyright", "HostComputer")
# Of the EXIF directory: maker notes hold offsets into the old file, the others describe its pixels.
_LEFT_OUT = ("MakerNote", "ExifImageWidth", "ExifImageHeight", "ExifInteroperabilityOffset")
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


class InputWarning(UserWarning):
    """A picture that can be fused but looks wrong: nearly constant, clipped, false colors, raw counts."""


@dataclass(frozen=True, eq=False)
class Metadata:
    """Metadata of the visible image that a result inherits.

    Attributes:
        exif: an EXIF block of camera, date and position, without orientation; None if there is none.
        dpi: resolution `(x, y)` in dots per inch.
        icc_profile: color profile of the pixels as they were decoded.
        geo: GeoTIFF tags by number, for TIFF results.
    """

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    icc_profile: bytes | None = None
    geo: dict[int, tuple] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Header:
    """Size and kind of the picture in a file, from its header alone.

    Attributes:
        size: `(H, W)` in pixels, upright.
        channels: 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA.
        dtype: of the samples as they are read, such as "uint16".
        format: "PNG", "JPEG", "TIFF" ...
        pages: pictures in the file; reduced copies and masks do not count.
    """

    size: tuple[int, int]
    channels: int
    dtype: str
    format: str
    pages: int = 1


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, upright, samples as stored.

    Attributes:
        pixels: gray `(H, W)` or colors `(H, W, 3)` in native byte order and their own dtype.
        alpha: `(H, W)`, same dtype; None without alpha.
        valid: `(H, W)` bool, False where the file declares that there is no data; None where all of it is data.
        white: the sample value that is white, None where the file does not say (signed and 32-bit integers).
        depth: sample type of a result of this kind.
        metadata: see [`Metadata`].
        notes: warnings about the file, one sentence each, without a full stop.
        unit: "C" where the samples are temperatures in degrees C.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    valid: np.ndarray | None = None
    white: float | None = None
    depth: Depth = "uint8"
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()
    unit: Literal["", "C"] = ""

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def check_equal_sizes(picture: Picture, name: str, other: Picture, other_name: str) -> None:
    """Raise a `ValueError` for two pictures of different sizes, by the names they have in messages."""
    if picture.size != other.size:
        sizes = [f"{named} is {part.size[1]}x{part.size[0]}" for named, part in ((name, picture), (other_name, other))]
        raise ValueError(
            f"{sizes[0]} but {sizes[1]} (width x height): nothing is resized silently, so let the pair be aligned "
            "(rig='auto'), or calibrate the two cameras once (fusion-hub calibrate) and give the rig"
        )


def full_scale(dtype: np.dtype) -> float | None:
    """The value that is white in samples of a type; None where there is no convention."""
    return {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}.get(dtype.name)


def depth_of(dtype: np.dtype) -> Depth:
    """The sample type of a result for samples of a type."""
    if dtype.kind == "f":
        return "float32"
    return "uint8" if dtype.itemsize == 1 else "uint16"


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rows and columns `(H, W, ...)` turned as an orientation of EXIF and TIFF 6.0 says."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(array[::rows, ::columns])


def metadata_of(image: Image.Image) -> Metadata:
    """Of an opened Pillow image. Damaged metadata are left out: the pixels may be whole."""
    profile = image.info.get("icc_profile") if image.mode not in ("CMYK", "YCbCr", "LAB", "HSV") else None
    try:
        block = _kept(image.getexif()) if has_exif(image) else None
    except Exception:
        block = None
    return Metadata(block, _resolution(image.info.get("dpi")), profile)


def has_exif(image: Image.Image) -> bool:
    """Whether a header holds EXIF data; for a PNG without them, `getexif` would decode all pixels."""
    return image.format == "TIFF" or any(key in image.info for key in ("exif", "xmp", "Raw profile type exif"))


def metadata_of_tiff(stream: BinaryIO) -> Metadata:
    """Of a TIFF file, of any kind of samples; none of BigTIFF, whose directories Pillow misreads."""
    stream.seek(0)
    if stream.read(4) in (b"II+\0", b"MM\0+"):
        return Metadata()
    stream.seek(0)
    exif, dpi = Image.Exif(), None
    try:
        exif.load_from_fp(stream)
        if scale := {2: 1.0, 3: 2.54}.get(exif.get(ExifTags.Base.ResolutionUnit, 2)):
            dpi = (exif[ExifTags.Base.XResolution] * scale, exif[ExifTags.Base.YResolution] * scale)
    except Exception:  # no resolution, or damage
        pass
    profile = exif.get(ExifTags.Base.InterColorProfile)
    try:
        return Metadata(_kept(exif), _resolution(dpi), profile if isinstance(profile, bytes) else None)
    except Exception:
        return Metadata()


def _kept(exif: Image.Exif) -> bytes | None:
    kept = Image.Exif()
    for tag in (ExifTags.Base[name].value for name in _CAMERA_TAGS):
        if tag in exif:
            kept[tag] = exif[tag]
    left_out = {ExifTags.Base[name].value for name in _LEFT_OUT}
    for directory in _DIRECTORIES:
        if entries := {tag: value for tag, value in exif.get_ifd(directory).items() if tag not in left_out}:
            kept.get_ifd(directory).update(entries)
    return kept.tobytes() if kept or any(kept.get_ifd(directory) for directory in _DIRECTORIES) else None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def exif_block(metadata: Metadata, software: str | None) -> bytes | None:
    """The inherited EXIF block with resolution and the program that made the result; None if all are missing."""
    if metadata.exif is None and software is None and metadata.dpi is None:
        return None
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif)
    if software is not None:
        exif[ExifTags.Base.Software] = software
    if metadata.dpi is not None:
        exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = metadata.dpi
        exif[ExifTags.Base.ResolutionUnit] = 2  # inches
    return exif.tobytes()
