"""PGM and PPM, of 8 and 16 bits, as text and binary: Pillow would stretch their samples to 255 or 65535."""

from __future__ import annotations

import re
from typing import BinaryIO

from fusion_hub.image.lazy_numpy import np
from fusion_hub.image.picture import Header, Picture, depth_of
from fusion_hub.image.tiff import Check

_START = re.compile(rb"P[2356][\s#]")
_HEADER = re.compile(rb"P([2356])" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s")


def is_pnm(start: bytes) -> bool:
    """Whether a file that starts so is PGM or PPM."""
    return _START.match(start) is not None


def read_pnm_header(stream: BinaryIO, name: str) -> Header:
    """Size and kind of the picture; raises a `ValueError` for damage."""
    return _header(stream, name)[0]


def _header(stream: BinaryIO, name: str) -> tuple[Header, int, int]:
    """Header, the largest value, and the position of the samples."""
    data = stream.read(4096)  # with comments
    found = _HEADER.match(data)
    if found is None:
        raise ValueError(f"{name} is a damaged PGM or PPM file: export it again")
    kind, width, height, most = (int(value) for value in found.groups())
    if not 1 <= most <= 65535:
        raise ValueError(f"{name} says that its largest value is {most}: PGM and PPM allow 1 to 65535, export it again")
    start = found.end()
    if data[start - 1 : start + 1] == b"\r\n":  # of a program that writes text as Windows does
        start += 1
    dtype, file_format = "uint8" if most < 256 else "uint16", "PPM" if kind in (3, 6) else "PGM"
    return Header((height, width), 3 if kind in (3, 6) else 1, dtype, file_format), most, start


def read_pnm(stream: BinaryIO, name: str, check: Check) -> Picture:
    """The samples as stored, once `check(size, name)` has accepted the size; `white` is what the file names."""
    header, most, start = _header(stream, name)
    check(header.size, name)
    stream.seek(0)
    data = stream.read()
    count = header.size[0] * header.size[1] * header.channels
    if data[1:2] in b"56":
        stored = np.dtype(">u2" if most > 255 else np.uint8)
        if len(data) - start < count * stored.itemsize:
            raise ValueError(f"{name} is cut off: {len(data) - start} of {count * stored.itemsize} bytes are there")
        samples = np.frombuffer(data, stored, count, start)
    else:
        text = re.sub(rb"#[^\n]*", b"", data[start:])
        if re.search(rb"[^\d\s]", text):
            raise ValueError(f"{name} is a damaged PGM or PPM file: export it again")
        samples = np.array(text.split()[:count], dtype=np.int64)
        if len(samples) < count:
            raise ValueError(f"{name} is cut off: {len(samples)} of {count} values are there")
    if samples.size and samples.max() > most:
        raise ValueError(f"{name} has the value {samples.max()} above its largest value {most}: export it again")
    pixels = samples.astype(np.dtype(header.dtype)).reshape(*header.size, header.channels)
    pixels = pixels if header.channels == 3 else pixels[..., 0]
    return Picture(pixels, white=float(most), depth=depth_of(pixels.dtype))
