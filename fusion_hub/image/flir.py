"""The records of FLIR's radiometric files: FFF files, and JPEG files that carry one in APP1 segments.

An FFF block is a header, a directory and records, of which four matter here: raw counts, camera constants, the visible
picture, and the place of the infrared in it. Header and directory are big-endian in JPEG files and little-endian in FFF
files; each record has a byte order of its own. Positions of the fields: https://exiftool.org/TagNames/FLIR.html and the
files of 24 cameras.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from fusion_hub.image.lazy_numpy import np

FFF_STARTS = (b"FFF\0", b"AFF\0")
_SEGMENT = b"FLIR\0"
_MOST_SEGMENTS = 20_000  # of a JPEG file, of any kind
_MOST_RECORDS = 4096
_MOST_BYTES = 2**28  # of the first frame of a file, which may be a long video
_RAW, _EMBEDDED, _CAMERA, _OVERLAY = 0x01, 0x0E, 0x20, 0x2A
_PNG = b"\x89PNG\r\n\x1a\n"


class Damage(Exception):
    """What is wrong with a block, as a part of a sentence."""


@dataclass(frozen=True)
class Record:
    """The bytes of one record and the byte order of its numbers."""

    data: memoryview
    order: str

    def read(self, kind: str, offset: int) -> Any:
        """A number of a kind of [`struct`]."""
        try:
            return struct.unpack_from(self.order + kind, self.data, offset)[0]
        except struct.error:
            raise Damage("a record is too short") from None

    def text(self, offset: int, length: int) -> str:
        """Printable text that ends with a zero byte."""
        stored = bytes(self.data[offset : offset + length]).split(b"\0")[0].decode("latin-1")
        return "".join(letter for letter in stored if letter.isprintable()).strip(" *")


@dataclass(frozen=True)
class Block:
    """The records that matter, None where a file has none, and whether another frame follows."""

    raw: Record
    camera: Record | None
    embedded: Record | None
    overlay: Record | None
    several: bool

    @property
    def size(self) -> tuple[int, int]:
        """`(h, w)` of the raw counts."""
        return self.raw.read("H", 4), self.raw.read("H", 2)


def find_block(stream: BinaryIO) -> bytes | None:
    """The FFF block of an opened file: all of an FFF file, the joined segments of a JPEG; None in other files.

    Raises [`Damage`] for segments that are missing, doubled or cut off.
    """
    stream.seek(0)
    start = stream.read(4)
    if start in FFF_STARTS:
        return start + stream.read(_MOST_BYTES)
    parts: dict[int, bytes] = {}
    last: int | None = None
    for marker, size in segments(stream):
        if marker != 0xE1:
            continue
        data = stream.read(size)
        if not data.startswith(_SEGMENT):
            continue
        if len(data) != size or size < 8:
            raise Damage("a segment is cut off")
        index, most = data[6], data[7]
        if index in parts or (last is not None and most != last):
            raise Damage("its segments do not belong together")
        parts[index], last = data[8:], most
    if last is None:
        return None
    if set(parts) != set(range(last + 1)):
        raise Damage(f"{len(parts)} of its {last + 1} segments are there")
    return b"".join(parts[index] for index in range(last + 1))


def segments(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Marker and size of each segment of a JPEG before its pixels, with the stream at the segment's content."""
    stream.seek(0)
    if stream.read(2) != b"\xff\xd8":
        return
    position = 2
    for _ in range(_MOST_SEGMENTS):
        stream.seek(position)
        head = stream.read(4)
        while len(head) == 4 and head[:2] == b"\xff\xff":  # fill bytes may stand before a marker
            position += 1
            head = head[1:] + stream.read(1)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):
            return
        size = int.from_bytes(head[2:], "big")
        if size < 2:
            return
        yield head[1], size - 2
        position += size + 2


def parse_block(block: bytes) -> Block:
    """The records of an FFF block; raises [`Damage`]."""
    view = memoryview(block)
    if len(view) < 64 or bytes(view[:4]) not in FFF_STARTS:
        raise Damage("its header is missing")
    order = next((o for o in "<>" if 100 <= struct.unpack_from(o + "I", view, 20)[0] < 200), None)
    if order is None:
        raise Damage("its version is unknown")
    start, count = struct.unpack_from(order + "II", view, 24)
    if count > _MOST_RECORDS or start + 32 * count > len(view):
        raise Damage("its directory is cut off")
    found: dict[int, Record] = {}
    end = start + 32 * count
    for entry in range(start, start + 32 * count, 32):
        kind, offset, length, checksum = struct.unpack_from(order + "H10xII8xI", view, entry)
        if kind == 0:
            continue
        if offset + length > len(view):
            raise Damage("a record is cut off")
        end = max(end, offset + length)
        if kind not in (_RAW, _EMBEDDED, _CAMERA, _OVERLAY) or kind in found:
            continue
        data = view[offset : offset + length]
        # Only of the counts: programs that edit constants or remove serial numbers leave the old check sums.
        if kind == _RAW and checksum and zlib.crc32(data) != checksum:
            raise Damage("the check sum of its raw data is wrong")
        # The first number of a record is below 256 in its own byte order; the overlay has none.
        little = kind == _OVERLAY or (length >= 2 and data[1] == 0)
        found[kind] = Record(data, "<" if little else ">")
    if _RAW not in found or len(found[_RAW].data) <= 32:
        raise Damage("it has no raw data")
    several = bytes(view[end : end + 64]).lstrip(b"\0")[:4] in FFF_STARTS
    return Block(found[_RAW], found.get(_CAMERA), found.get(_EMBEDDED), found.get(_OVERLAY), several)


def decode_counts(block: Block, check: Callable[[tuple[int, int]], None]) -> np.ndarray:
    """The raw counts `(h, w)` uint16 of a block, once `check((h, w))` has accepted the size; raises [`Damage`]."""
    raw, (height, width) = block.raw, block.size
    check((height, width))
    data = bytes(raw.data[32:])
    if data.startswith(_PNG):
        counts = decode_png(data, (height, width), 1, 16)
        # Cameras copy the samples into the PNG in the byte order of the record; PNG readers take them for big-endian.
        return counts.byteswap() if raw.order == "<" else counts
    if data.startswith(b"\xff\xd8\xff"):  # JPEG-LS: SOF55 holds precision, height and width
        start = io.BytesIO(data)
        frames = [start.read(size)[:5] for marker, size in segments(start) if marker == 0xF7]
        sizes = [struct.unpack(">x2H", frame) for frame in frames if len(frame) == 5]
        if sizes != [(height, width)]:
            raise Damage("the sizes of its raw data disagree")
        import imagecodecs

        try:
            counts = imagecodecs.jpegls_decode(data)
        except Exception as error:  # a codec fails in any way on damaged data
            raise Damage("its raw data cannot be decoded") from error
        if counts.shape != (height, width) or counts.dtype != np.uint16:
            raise Damage("the sizes of its raw data disagree")
        return counts
    if len(data) != 2 * width * height:
        raise Damage(f"its raw data have {len(data)} bytes instead of {2 * width * height}")
    return np.frombuffer(data, raw.order + "u2").reshape(height, width).astype(np.uint16)


def decode_png(data: bytes, size: tuple[int, int], channels: int, bits: int) -> np.ndarray:
    """A PNG of a known size, `(h, w)` or `(h, w, channels)`: its header is compared before it is decoded."""
    kinds = {1: 0, 3: 2}
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise Damage("its PNG is cut off")
    width, height, depth, color = struct.unpack_from(">2I2B", data, 16)
    if (height, width) != size or (depth, color) != (bits, kinds[channels]):
        raise Damage("the sizes of its PNG disagree")
    offset = len(_PNG)
    while data[offset + 4 : offset + 8] != b"IEND":
        length = int.from_bytes(data[offset : offset + 4], "big")
        end = offset + 12 + length
        if end + 12 > len(data) or zlib.crc32(data[offset + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise Damage("its PNG is damaged")
        offset = end
    import imagecodecs

    try:
        pixels = imagecodecs.png_decode(data)
    except Exception as error:
        raise Damage("its PNG cannot be decoded") from error
    if pixels.shape[:2] != size:
        raise Damage("the sizes of its PNG disagree")
    return pixels
