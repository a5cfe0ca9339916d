"""Every container, sample type, channel layout and orientation that the reader is tested with.

`python tests/image/image_format_cases.py` writes the table of docs/formats.md from what the reader does with them.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 13, 17
LAYOUTS = ("gray", "0 is white", "gray + alpha", "RGB", "RGBA", "RGB planar", "RGB + extra", "palette")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
START, END = "<!-- table -->", "<!-- /table -->"

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # the stored picture turned upright, by the EXIF standard
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}


@dataclass(frozen=True)
class Case:
    """A file that is made on demand, and what has to be read from it.

    Attributes:
        pixels: `(H, W)` or `(H, W, 3)`, upright, samples as stored (of "0 is white" the brightness they stand for).
        refused: what the message must hold where the file cannot be read rightly; None where it must be read.
        tolerance: of lossy containers, in sample values.
        independent: whether OpenCV is known to read the kind rightly, to compare with.
    """

    container: str
    dtype: str
    layout: str
    orientation: int
    data: bytes
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    refused: str | None = None
    tolerance: int = 0
    independent: bool = False
    details: str = ""

    def __str__(self) -> str:
        parts = (self.container, self.dtype, self.layout, f"orientation {self.orientation}", self.details)
        return ", ".join(part for part in parts if part)


def samples(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random samples over the whole range of a type, its ends among them."""
    rng, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return (rng.random(shape) * 400 - 100).astype(kind)
    limits = np.iinfo(kind)
    values = rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    values.flat[0], values.flat[-1] = limits.min, limits.max
    return values


# --- TIFF -----------------------------------------------------------------------------------------------------------

_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
_TIFF_TYPES = (*_INTEGERS, "float16", "float32", "float64")
_TIFF_CODINGS = tuple(itertools.product((None, "lzw", "deflate", "zstd", "packbits"), "<>", (None, (16, 16))))
_TIFF_LAYOUTS = ("gray", "0 is white", "gray + alpha", "RGB", "RGBA", "RGB planar", "RGB + extra")


def tiff_cases() -> Iterator[Case]:
    """All sample types, layouts and orientations; compression, byte order and tiles take turns."""
    turn = itertools.cycle(_TIFF_CODINGS)
    for dtype, layout, orientation in itertools.product(_TIFF_TYPES, _TIFF_LAYOUTS, TURNS):
        yield _tiff(dtype, layout, orientation, *next(turn))
    for dtype, coding in itertools.product(_TIFF_TYPES, _TIFF_CODINGS):  # each coding of each type at least once
        yield _tiff(dtype, "gray", 1, *coding)
    for bits in (2, 4, 10, 12, 14):
        yield _packed_tiff(bits)
    for orientation in (1, 6):
        yield _bilevel_tiff(orientation, "0 is white")
        yield _palette_tiff(orientation)


def write_tiff(pixels: np.ndarray, orientation: int = 1, **options: Any) -> bytes:
    """A file by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, extratags=[(274, 3, 1, orientation, True)], **options)
    return file.getvalue()


def _tiff(dtype: str, layout: str, orientation: int, compression: str | None, order: str, tile: Any) -> Case:
    channels = {"gray + alpha": 2, "RGB": 3, "RGB planar": 3, "RGBA": 4, "RGB + extra": 4}.get(layout, 0)
    stored = samples(dtype, (HEIGHT, WIDTH, channels)[: 3 if channels else 2])
    if layout == "0 is white" and dtype.startswith("float") and orientation % 2:
        stored = (stored - stored.min()) / (stored.max() - stored.min())
    gray = layout in ("gray", "0 is white", "gray + alpha")
    extra = {"gray + alpha": ["unassalpha"], "RGBA": ["unassalpha"], "RGB + extra": ["unspecified"]}.get(layout)
    planes = layout == "RGB planar"
    data = write_tiff(
        np.ascontiguousarray(np.moveaxis(stored, -1, 0)) if planes else stored,
        photometric="miniswhite" if layout == "0 is white" else "minisblack" if gray else "rgb",
        planarconfig=("separate" if planes else "contig") if channels else None,
        extrasamples=extra,
        compression=compression,
        byteorder=order,
        tile=tile,
        orientation=orientation,
    )
    upright = np.ascontiguousarray(TURNS[orientation](stored))
    refused = None
    if layout == "0 is white":
        if np.dtype(dtype).kind == "f":
            refused = "0 is white" if stored.max() > 1 else None
            upright = 1 - upright
        else:
            upright = ~upright if np.dtype(dtype).kind == "i" else np.iinfo(dtype).max - upright
    pixels = upright[..., 0] if layout == "gray + alpha" else upright[..., :3] if channels else upright
    alpha = upright[..., -1] if layout in ("gray + alpha", "RGBA") else None
    # OpenCV reads planes, alpha of signed samples and turned compressed files wrongly, and no zstd and few 8-bit tiles.
    trusted = layout in ("gray", "RGB", "RGBA") and orientation in (1, 3) and tile is None and compression != "zstd"
    details = f"{compression or 'raw'} {order} {'tiles' if tile else 'strips'}"
    known = dtype not in ("int8", "float16")
    return Case("TIFF", dtype, layout, orientation, data, pixels, alpha, refused, 0, trusted and known, details)


def _packed_tiff(bits: int) -> Case:
    dtype = "uint8" if bits <= 8 else "uint16"
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH), dtype=dtype)
    data = write_tiff(pixels, photometric="minisblack", bitspersample=bits)
    return Case("TIFF", f"{bits} bits", "gray", 1, data, pixels)


def _bilevel_tiff(orientation: int, layout: str) -> Case:
    stored = np.random.default_rng(1).integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    data = write_tiff(stored, orientation, photometric="miniswhite")
    return Case("TIFF", "1 bit", layout, orientation, data, TURNS[orientation](~stored).astype(np.uint8))


def _palette_tiff(orientation: int) -> Case:
    stored = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    table = np.random.default_rng(3).integers(0, 256, (3, 256), dtype=np.uint16) * np.uint16(257)
    data = write_tiff(stored, orientation, photometric="palette", colormap=table)
    colors = (table.T[TURNS[orientation](stored)] // 257).astype(np.uint8)
    return Case("TIFF", "uint8", "palette", orientation, data, colors)


# --- other containers -----------------------------------------------------------------------------------------------


def other_cases() -> Iterator[Case]:
    """PNG, JPEG, WebP, BMP, GIF, PGM, PPM, JPEG 2000, AVIF."""
    for layout, channels in {"gray": 1, "gray + alpha": 2, "RGB": 3, "RGBA": 4}.items():
        for dtype, orientation in itertools.product(("uint8", "uint16"), TURNS):
            yield _png(dtype, layout, channels, orientation)
    for orientation in TURNS:
        yield _palette("PNG", orientation)
        yield _jpeg("gray", "L", orientation)
        yield _jpeg("RGB", "RGB", orientation)
        yield _webp("RGB", 3, orientation)
        yield _webp("RGBA", 4, orientation)
    yield _palette("GIF", 1)
    for layout, mode in {"gray": "L", "RGB": "RGB"}.items():
        pixels = samples("uint8", (HEIGHT, WIDTH, 3)[: 2 if mode == "L" else 3])
        yield Case("BMP", "uint8", layout, 1, _by_pillow(Image.fromarray(pixels), "BMP"), pixels, independent=True)
    for most in (1, 15, 200, 255, 1023, 4095, 16383, 65535):
        for layout, plain in itertools.product(("gray", "RGB"), (False, True)):
            yield _pnm(most, layout, plain)
    for bits, layout in itertools.product((8, 10, 12, 16), ("gray", "RGB", "RGBA")):
        yield _jpeg2000(bits, layout)
    yield _avif("RGB")
    yield _avif("RGBA")


def _png(dtype: str, layout: str, channels: int, orientation: int) -> Case:
    stored = samples(dtype, (HEIGHT, WIDTH, channels)[: 3 if channels > 1 else 2], seed=orientation)
    data = with_orientation(bytes(imagecodecs.png_encode(stored)), orientation)
    upright = TURNS[orientation](stored)
    pixels = upright if channels == 1 else upright[..., 0] if channels == 2 else upright[..., :3]
    trusted = orientation == 1 and channels != 2
    alpha = upright[..., -1] if channels in (2, 4) else None
    return Case("PNG", dtype, layout, orientation, data, pixels, alpha, independent=trusted)


def with_orientation(png: bytes, orientation: int) -> bytes:
    block = _exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    return png[:33] + chunk + png[33:]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def _palette(container: str, orientation: int) -> Case:
    stored = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    table = np.random.default_rng(5).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), stored.tobytes())
    image.putpalette(table.tobytes())
    options = {"exif": _exif(orientation)} if container == "PNG" else {}
    data = _by_pillow(image, container, **options)
    return Case(container, "uint8", "palette", orientation, data, TURNS[orientation](table[stored]))


def _smooth(channels: int) -> np.ndarray:
    """What a lossy codec keeps."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [120 + 5 * x - 4 * y, 200 - 3 * x, 60 + 6 * y, 255 - 5 * x]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def _jpeg(layout: str, mode: str, orientation: int) -> Case:
    stored = _smooth(len(mode))
    stored = stored[..., 0] if mode == "L" else stored
    data = _by_pillow(Image.fromarray(stored), "JPEG", quality=100, subsampling=0, exif=_exif(orientation))
    upright = TURNS[orientation](stored)
    return Case("JPEG", "uint8", layout, orientation, data, upright, tolerance=3, independent=True)


def _webp(layout: str, channels: int, orientation: int) -> Case:
    stored = samples("uint8", (HEIGHT, WIDTH, channels))
    data = _by_pillow(Image.fromarray(stored), "WEBP", lossless=True, exact=True, exif=_exif(orientation))
    upright = TURNS[orientation](stored)
    alpha = upright[..., 3] if channels == 4 else None
    return Case("WebP", "uint8", layout, orientation, data, upright[..., :3], alpha)


def _pnm(most: int, layout: str, plain: bool) -> Case:
    dtype = np.uint8 if most < 256 else np.uint16
    shape = (HEIGHT, WIDTH, 3)[: 2 if layout == "gray" else 3]
    pixels = np.random.default_rng(most).integers(0, most, shape, dtype=dtype, endpoint=True)
    pixels.flat[0] = most
    kind = {("gray", True): 2, ("RGB", True): 3, ("gray", False): 5, ("RGB", False): 6}[layout, plain]
    head = f"P{kind}\n# drawn\n{WIDTH} {HEIGHT}\n{most}\n".encode()
    body = " ".join(map(str, pixels.ravel())).encode() if plain else pixels.astype(f">u{pixels.itemsize}").tobytes()
    container = "PGM" if layout == "gray" else "PPM"
    details = f"largest value {most}, {'text' if plain else 'binary'}"
    trusted = most == 65535 and not plain
    return Case(container, pixels.dtype.name, layout, 1, head + body, pixels, details=details, independent=trusted)


def _jpeg2000(bits: int, layout: str) -> Case:
    channels = {"gray": 1, "RGB": 3, "RGBA": 4}[layout]
    dtype = "uint8" if bits == 8 else "uint16"
    shape = (HEIGHT, WIDTH, channels)[: 2 if channels == 1 else 3]
    stored = np.random.default_rng(bits).integers(0, 2**bits, shape, dtype=dtype)
    data = bytes(imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, bitspersample=bits))
    pixels = stored if channels == 1 else stored[..., :3]
    alpha = stored[..., 3] if channels == 4 else None
    return Case("JPEG 2000", dtype, layout, 1, data, pixels, alpha, details=f"{bits} bits")


def _avif(layout: str) -> Case:
    stored = _smooth(len(layout))
    data = _by_pillow(Image.fromarray(stored), "AVIF", quality=100, subsampling="4:4:4")
    alpha = stored[..., 3] if layout == "RGBA" else None
    return Case("AVIF", "uint8", layout, 1, data, stored[..., :3], alpha, tolerance=4)


def _by_pillow(image: Image.Image, container: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def all_cases() -> list[Case]:
    """Of all containers."""
    return [*tiff_cases(), *other_cases()]


# --- the table of the documentation ---------------------------------------------------------------------------------


def outcome(case: Case) -> str:
    """`exact`, `refused`, or what is wrong."""
    from fusion_hub.image.io import read_picture

    try:
        picture = read_picture({"bytes": case.data, "path": None})
    except ValueError as error:
        return "refused" if case.refused is not None and case.refused in str(error) else f"refused: {error}"
    if case.refused is not None:
        return "read, but it should be refused"
    for got, wanted in ((picture.pixels, case.pixels), (picture.alpha, case.alpha)):
        if (got is None) != (wanted is None):
            return "alpha lost or invented"
        if got is None or wanted is None:
            continue
        if got.shape != wanted.shape or (case.dtype != "float16" and got.dtype != wanted.dtype):
            return f"{got.dtype} {got.shape} for {wanted.dtype} {wanted.shape}"
        if np.abs(got.astype(np.float64) - wanted).max() > case.tolerance:
            return "other values"
    return "exact"


def table() -> str:
    """Container and sample type by channel layout, with the number of files and orientations read exactly."""
    rows: dict[tuple[str, str], dict[str, list[Case]]] = {}
    for case in all_cases():
        rows.setdefault((case.container, case.dtype), {}).setdefault(case.layout, []).append(case)
    lines = ["| container | samples | " + " | ".join(LAYOUTS) + " |", "|---" * (2 + len(LAYOUTS)) + "|"]
    for (container, dtype), layouts in rows.items():
        cells = []
        for layout in LAYOUTS:
            found = [outcome(case) for case in layouts.get(layout, [])]
            exact, refused = found.count("exact"), found.count("refused")
            if exact + refused < len(found):
                raise AssertionError(f"{container} {dtype} {layout}: {found}")
            cells.append(f"{exact}" + (f", {refused} refused" if refused else "") if found else "")
        lines.append(f"| {container} | {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def document(text: str) -> str:
    """The text of docs/formats.md with the table of today."""
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
