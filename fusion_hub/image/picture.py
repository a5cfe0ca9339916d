"""What a decoded picture is, whatever file, array or tensor it came from."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Depth = Literal["uint8", "uint16", "float32"]


class InputWarning(UserWarning):
    """A picture that can be fused but looks wrong: nearly constant, clipped, false colors, raw counts."""


@dataclass(frozen=True, eq=False)
class Metadata:
    """What a result inherits from the visible image beside its pixels.

    Attributes:
        exif: an EXIF block of camera, date and position, orientation left out; None without any.
        dpi: resolution `(x, y)` in dots per inch.
        icc_profile: color profile of the pixels as they are here.
        geo: GeoTIFF tags by number, for TIFF results.
    """

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    icc_profile: bytes | None = None
    geo: dict[int, tuple] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of its picture before a pixel is decoded.

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
        depth: sample type that a result of this kind gets.
        metadata: see [`Metadata`].
        notes: what a person should know about the file, one sentence each, without a full stop.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    valid: np.ndarray | None = None
    white: float | None = None
    depth: Depth = "uint8"
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def full_scale(dtype: np.dtype) -> float | None:
    """The value that is white in samples of a type; None where convention does not say."""
    return {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}.get(dtype.name)


def depth_of(dtype: np.dtype) -> Depth:
    """The sample type of a result for samples of a type."""
    if dtype.kind == "f":
        return "float32"
    return "uint8" if dtype.itemsize == 1 else "uint16"
