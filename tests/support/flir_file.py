"""A writer of FLIR's radiometric files, independent of the reader."""

import io
import struct
import zlib
from typing import Any, Literal

import imagecodecs
import numpy as np
from PIL import Image

CONSTANTS: dict[str, Any] = {
    "emissivity": 0.95,
    "distance": 2.0,
    "reflected": 295.15,
    "air": 293.15,
    "window": 293.15,
    "window_transmission": 1.0,
    "humidity": 0.4,
    "r1": 17096.453,
    "b": 1428.0,
    "f": 1.0,
    "o": -342,
    "r2": 0.046642166,
    "atmosphere": (0.006569, 0.01262, -0.002276, -0.00667, 1.9),
    "model": "Synthetic",
}


def scene_counts(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (14000 + 40 * rows + 25 * columns + 7 * (rows * columns % 11)).astype(np.uint16)


def camera_record(order: str = "<", **changed: Any) -> bytes:
    c = CONSTANTS | changed
    data = bytearray(0x400)
    struct.pack_into(order + "H", data, 0, 2)
    heads = ("emissivity", "distance", "reflected", "air", "window", "window_transmission")
    struct.pack_into(order + "6f", data, 0x20, *(c[key] for key in heads))
    struct.pack_into(order + "f", data, 0x3C, c["humidity"])
    struct.pack_into(order + "3f", data, 0x58, c["r1"], c["b"], c["f"])
    struct.pack_into(order + "5f", data, 0x70, *c["atmosphere"])
    data[0xD4 : 0xD4 + len(c["model"])] = c["model"].encode()
    struct.pack_into(order + "if", data, 0x308, c["o"], c["r2"])
    return bytes(data)


def image_record(kind: int, size: tuple[int, int], data: bytes, order: str = "<") -> bytes:
    height, width = size
    return struct.pack(order + "3H", kind, width, height).ljust(32, b"\0") + data


def raw_record(counts: np.ndarray, form: Literal["raw", "png", "jpegls"] = "raw", order: str = "<") -> bytes:
    stored = counts.astype(order + "u2")
    if form == "png":
        data = imagecodecs.png_encode(np.frombuffer(stored.tobytes(), ">u2").reshape(counts.shape).astype(np.uint16))
    else:
        data = stored.tobytes() if form == "raw" else imagecodecs.jpegls_encode(counts)
    return image_record(2, counts.shape[:2], data, order)


def overlay_record(scale: float, x: int, y: int) -> bytes:
    return struct.pack("<f2h", scale, x, y).ljust(96, b"\0")


def fff(records: list[tuple[int, bytes]], order: str = ">", checksums: bool = True) -> bytes:
    """An FFF block of records, each `(type, data)`."""
    offset = 64 + 32 * len(records)
    directory, body = b"", b""
    for kind, data in records:
        checksum = zlib.crc32(data) if checksums else 0
        directory += struct.pack(order + "2H7I", kind, 1, 100, 1, offset + len(body), len(data), 0, 0, checksum)
        body += data
    head = b"FFF\0".ljust(20, b"\0") + struct.pack(order + "5I", 100, 64, len(records), 2, 0)
    return head.ljust(64, b"\0") + directory + body


def block(
    counts: np.ndarray | None = None, form: Any = "png", order: str = ">", record_order: str = "<", **changed: Any
) -> bytes:
    counts = scene_counts() if counts is None else counts
    return fff([(1, raw_record(counts, form, record_order)), (0x20, camera_record(record_order, **changed))], order)


def jpeg(data: bytes, part: int = 65000, shown: Image.Image | None = None, zoom: float | None = None) -> bytes:
    """A JPEG with a block in APP1 segments of `part` bytes."""
    exif = Image.Exif()
    if zoom is not None:
        exif.get_ifd(0x8769)[0xA404] = zoom
    stream = io.BytesIO()
    (shown or Image.new("RGB", (32, 24), (200, 30, 60))).save(stream, "JPEG", exif=exif if zoom is not None else b"")
    parts = [data[start : start + part] for start in range(0, len(data), part)]
    heads = [b"FLIR\0\1" + bytes([index, len(parts) - 1]) for index in range(len(parts))]
    segments = b"".join(segment(head + chunk) for head, chunk in zip(heads, parts, strict=True))
    return stream.getvalue()[:2] + segments + stream.getvalue()[2:]


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def photo(
    size: tuple[int, int] = (60, 80),
    visible: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    overlay: tuple[float, int, int] = (1.25, 3, -2),
    **more: Any,
) -> bytes:
    """A radiometric JPEG with a visible picture, by default noise of `(H, W)`, over which the infrared lies."""
    if visible is None:
        visible = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(visible).save(stream, "JPEG", quality=95)
    records = [(1, raw_record(scene_counts() if counts is None else counts, "png")), (0x20, camera_record())]
    records += [(14, image_record(3, visible.shape[:2], stream.getvalue())), (0x2A, overlay_record(*overlay))]
    return jpeg(fff(records), **more)
