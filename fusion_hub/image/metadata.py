"""Camera, date, position, resolution and color profile: what a result inherits from the visible image."""

from typing import Any, BinaryIO

from PIL import ExifTags, Image

from fusion_hub.image.picture import Metadata

_CAMERA_TAGS = tuple(
    int(ExifTags.Base[name])
    for name in ("ImageDescription", "Make", "Model", "DateTime", "Artist", "Copyright", "HostComputer")
)
# Of the EXIF directory: maker notes hold offsets into the old file, the others speak of its pixels.
_LEFT_OUT = {
    int(ExifTags.Base[n]) for n in ("MakerNote", "ExifImageWidth", "ExifImageHeight", "ExifInteroperabilityOffset")
}
_TIFF_PROFILE = 34675
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


def metadata_of(image: Image.Image) -> Metadata:
    """Of an opened Pillow image. Damaged metadata are left out: the pixels may be whole."""
    profile = image.info.get("icc_profile") if image.mode not in ("CMYK", "YCbCr", "LAB", "HSV") else None
    try:
        block = _kept(image.getexif()) if has_exif(image) else None
    except Exception:
        block = None
    return Metadata(block, _resolution(image.info.get("dpi")), profile)


def has_exif(image: Image.Image) -> bool:
    """Whether a header holds EXIF data; of a PNG, `getexif` would decode all pixels to look behind them."""
    return image.format == "TIFF" or any(key in image.info for key in ("exif", "xmp", "Raw profile type exif"))


def metadata_of_tiff(stream: BinaryIO) -> Metadata:
    """Of a TIFF file, of any kind of samples; none of BigTIFF, whose directories Pillow misreads."""
    stream.seek(0)
    if stream.read(4) in (b"II+\0", b"MM\0+"):
        return Metadata()
    stream.seek(0)
    exif = Image.Exif()
    try:
        exif.load_from_fp(stream)
        scale = {2: 1.0, 3: 2.54}.get(exif.get(ExifTags.Base.ResolutionUnit, 2))
        dpi = scale and (exif[ExifTags.Base.XResolution] * scale, exif[ExifTags.Base.YResolution] * scale)
    except Exception:  # no resolution, or damage
        dpi = None
    profile = exif.get(_TIFF_PROFILE)
    try:
        return Metadata(_kept(exif), _resolution(dpi), profile if isinstance(profile, bytes) else None)
    except Exception:
        return Metadata()


def _kept(exif: Image.Exif) -> bytes | None:
    kept = Image.Exif()
    for tag in _CAMERA_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for directory in _DIRECTORIES:
        entries = {tag: value for tag, value in exif.get_ifd(directory).items() if tag not in _LEFT_OUT}
        if entries:
            kept.get_ifd(directory).update(entries)
    if not kept and not any(kept.get_ifd(directory) for directory in _DIRECTORIES):
        return None
    return kept.tobytes()


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def exif_block(metadata: Metadata, software: str | None) -> bytes | None:
    """The EXIF block to write: the inherited one with the program that made the result; upright, so no orientation."""
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
