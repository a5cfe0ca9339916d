"""The page of the Space in a process of its own, and pictures and zip files for it."""

import io
import struct
import time
import zipfile
import zlib

import numpy as np
from PIL import Image
from space_load import Page


def wait_for_examples(page: Page) -> None:
    """Wait until the first examples of both tabs are fused, so that their memory and files count for no test."""
    for _ in range(600):
        if len([*page.files.rglob("fusion_hub_examples_*/*/*/*_fused.png")]) == 2:
            time.sleep(0.5)  # their previews
            return
        time.sleep(0.1)
    raise TimeoutError(page.log.read_text(errors="replace"))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def black_png(width: int, height: int, *chunks: bytes, rows: bool = True) -> bytes:
    """A one-bit PNG of zeros, a few kilobytes for any size; without `rows` the header alone."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = zlib.compress(bytes((width + 7) // 8 + 1) * height, 1) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def zipped(entries: dict[str, bytes], mode: int = 0o644) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = mode << 16
            archive.writestr(entry, content, compresslevel=1)
    return stream.getvalue()
