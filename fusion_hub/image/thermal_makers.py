"""Radiometric files of makers whose data are not read: recognized, so that what they show does not pass for data."""

import io
import os
import zipfile
from typing import BinaryIO

from PIL import ExifTags, Image

_SDK = "convert it with DJI's Thermal SDK (dji_irp -a measure) and save the temperatures as float TIFF"
_EXPORT = "export the temperatures as float TIFF, or the counts as 16-bit TIFF or PNG, from the maker's program"
_SHOWN = ", so the picture that the camera shows is used"
_LEAST_SAMPLES = 80 * 60  # of the smallest sensors
_TAIL = 2**16  # bytes at the end of a zip archive with its names


def shown_picture_notes(image: Image.Image, stream: BinaryIO, name: str) -> tuple[str, ...]:
    """A warning for the picture that a thermal camera shows, with its palette and its texts, in place of the data.

    Args:
        image: the picture, opened.
        stream: its file; the position is kept.
        name: how messages call it.
    """
    position = stream.tell()
    try:
        maker = maker_of(image, stream)
    finally:
        stream.seek(position)
    if maker == "FLIR":
        return (
            f"{name} is a radiometric FLIR file, of which the picture that the camera shows is used here: give it as "
            "the infrared image for its temperatures, or alone for both of its pictures",
        )
    return () if maker is None else (_sentence(name, maker, _SHOWN),)


def other_maker(stream: BinaryIO, name: str) -> str | None:
    """The sentence for a file whose radiometric data are not read; None for other files."""
    stream.seek(0)
    try:
        with Image.open(stream, formats=("JPEG", "BMP")) as image:
            maker = maker_of(image, stream)
    except Exception:  # no picture, or damage
        return None
    return None if maker in (None, "FLIR") else _sentence(name, maker)


def _sentence(name: str, maker: str | None, more: str = "") -> str:
    return f"{name} is a radiometric {maker} file, whose data are not read{more}: {_SDK if maker == 'DJI' else _EXPORT}"


def maker_of(image: Image.Image, stream: BinaryIO) -> str | None:
    """The maker of a radiometric JPEG, or of a BMP as Testo writes it; None for any other picture."""
    if image.format == "BMP":
        return "Testo" if _second_bitmap(stream) else None
    segments: list[tuple[str, bytes]] = getattr(image, "applist", [])
    if any(marker == "APP1" and data.startswith(b"FLIR\0") for marker, data in segments):
        return "FLIR"
    # Counts of DJI are in APP3, of some cameras in APP4; those of InfiRay in APP3. Neither has a signature.
    counts = sum(len(data) for marker, data in segments if marker in ("APP3", "APP4")) // 2
    if counts >= _LEAST_SAMPLES:
        if "DJI" in str(image.getexif().get(ExifTags.Base.Make, "")):
            return "DJI"
        if any(marker == "APP2" and b"IJPEG" in data[:16] for marker, data in segments):
            return "InfiRay"
    if image.format in ("JPEG", "MPO"):
        stream.seek(0)
        content = stream.read()
        after = content.find(b"\xff\xd9HDRI")  # Hikmicro's data follow the picture
        if after >= 0 and content.find(b"HIPT", after) >= 0:
            return "Hikmicro"
    return None


def _second_bitmap(stream: BinaryIO) -> bool:
    """Whether another BMP follows the first one in the file, as in the BMT files of Testo."""
    stream.seek(10)
    head = stream.read(20)
    if len(head) < 20:
        return False
    offset, width, height = (int.from_bytes(head[at : at + 4], "little", signed=True) for at in (0, 8, 12))
    bits = int.from_bytes(head[18:20], "little")
    stream.seek(0, os.SEEK_END)
    length = stream.tell()
    end = offset + (width * bits + 31) // 32 * 4 * abs(height)
    if not 0 < end < length - 54:
        return False
    stream.seek(end)
    return b"BM" in stream.read(64)


def is_fluke(stream: BinaryIO) -> bool:
    """Whether a zip archive is an IS2 file of Fluke."""
    stream.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(stream) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, io.UnsupportedOperation):
        return False
    return "Images/Main/IR.data" in names or "CameraInfo.gpbenc" in names
