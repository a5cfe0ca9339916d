"""Noise, antialiased polygons, blur and blends: the tools of the generated scenes. Images are float32, (H, W, ...)."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[float, float, float]

_OVERSAMPLING = 4  # edges of polygons are averaged over 4 x 4 points


def noise(rng: np.random.Generator, height: int, width: int, cell: tuple[float, float], octaves: int) -> np.ndarray:
    """Fractal value noise in [0, 1]: random grids, smoothly enlarged, each octave twice as fine and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        grid = [
            max(2, round(extent / max(size / 2**octave, 1)) + 1)
            for extent, size in zip((height, width), cell, strict=True)
        ]
        values = Image.fromarray(rng.random(grid, dtype=np.float32))
        total += np.asarray(values.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    low, high = np.quantile(total[::4, ::4], [0.002, 0.998])
    return np.clip((total - low) / max(high - low, 1e-6), 0, 1)


def coverage(polygons: Sequence[np.ndarray], height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Which part of each pixel the polygons cover: a window of the picture and its mask in [0, 1]; None if outside."""
    if not polygons:
        return None
    every = np.concatenate(polygons)
    left, top = np.clip(np.floor(every.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(every.max(axis=0)), 0, (width, height)).astype(int)
    if right <= left or bottom <= top:
        return None
    canvas = Image.new("L", ((right - left) * _OVERSAMPLING, (bottom - top) * _OVERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon([tuple(p) for p in (polygon - (left, top)) * _OVERSAMPLING], fill=255)
    mask = np.asarray(canvas.reduce(_OVERSAMPLING), np.float32) / 255
    return (slice(top, bottom), slice(left, right)), mask


def rectangle(x: float, y: float, wide: float, tall: float) -> list[tuple[float, float]]:
    return [(x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall)]


def ellipse(x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return [(x + rx * np.cos(t), y + ry * np.sin(t)) for t in turn]


def limb(start: tuple[float, float], end: tuple[float, float], thick: float, thin: float) -> list[tuple[float, float]]:
    """A tapering bar of width 2 `thick` at its start and 2 `thin` at its end."""
    (x0, y0), (x1, y1) = start, end
    length = np.hypot(x1 - x0, y1 - y0)
    nx, ny = (y1 - y0) / length, -(x1 - x0) / length
    return [
        (x0 + nx * thick, y0 + ny * thick),
        (x1 + nx * thin, y1 + ny * thin),
        (x1 - nx * thin, y1 - ny * thin),
        (x0 - nx * thick, y0 - ny * thick),
    ]


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of the first two axes, edges repeated."""
    reach = max(1, round(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = np.pad(image.astype(np.float32), pad, mode="edge")
        length = image.shape[axis]
        image = sum(weight * padded.take(range(k, k + length), axis) for k, weight in enumerate(kernel))
    return image


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high` (the other way round where low > high), smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def band(value: np.ndarray, low: float, high: float, soft: float) -> np.ndarray:
    return smoothstep(low, low + soft, value) * (1 - smoothstep(high, high + soft, value))


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Colours `a` and `b`, blended pixel by pixel with `share` (H, W) of `b`."""
    return a + share[..., None] * (b - a)


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def triple(colour: np.ndarray) -> Colour:
    """The array as a plain colour."""
    red, green, blue = (float(c) for c in colour)
    return red, green, blue


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
