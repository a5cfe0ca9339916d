"""Temperatures as a picture: palettes, isotherms, and the scale in degrees C beside it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fusion_hub.image.color_scale import ColorScale, with_legend
from fusion_hub.image.luminance import luma, quantize

PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {  # cold to hot, evenly spaced
    "iron": ((0, 0, 10), (44, 6, 100), (124, 16, 120), (200, 50, 70), (240, 124, 20), (254, 204, 70), (255, 252, 226)),
    "white-hot": ((0, 0, 0), (255, 255, 255)),
    "black-hot": ((255, 255, 255), (0, 0, 0)),
    "rainbow": (
        (20, 12, 110),
        (18, 84, 206),
        (0, 166, 170),
        (90, 190, 50),
        (235, 190, 15),
        (220, 50, 25),
        (255, 190, 200),
    ),
    "arctic": (
        (2, 10, 40),
        (14, 62, 124),
        (40, 132, 168),
        (128, 176, 160),
        (222, 160, 90),
        (245, 200, 120),
        (255, 244, 210),
    ),
}
ABOVE, BELOW, BETWEEN = (255, 48, 32), (40, 130, 255), (40, 215, 90)  # colors of isotherms
_NO_PALETTE = ((96, 96, 96), (96, 96, 96))  # of the scale beside a picture with isotherms only
_TINT = 0.55  # share of an isotherm's color that does not depend on the picture under it
_SMOOTH = 150  # the details of a picture are finer than this part of its longer side
_SMALLEST = 480  # pixels; the longer side to which small pictures are enlarged
_UNITS = {"C": (1.0, 0.0), "F": (1 / 1.8, -32 / 1.8), "K": (1.0, -273.15)}
_NUMBER = r"([-+]?\d+(?:\.\d*)?)"
_ISOTHERM = re.compile(rf"\s*(?:([<>])\s*{_NUMBER}|{_NUMBER}\s*\.\.\s*{_NUMBER})\s*\u00b0?\s*([CFKcfk])\s*")


@dataclass(frozen=True)
class Isotherm:
    """Temperatures to paint in one color.

    Attributes:
        low, high: in degrees C; infinite on an open side.
        color: RGB.
        text: as it was given.
    """

    low: float
    high: float
    color: tuple[int, int, int]
    text: str

    def covers(self, temperatures: np.ndarray) -> np.ndarray:
        """Where temperatures in degrees C lie in it; nowhere for NaN."""
        return (temperatures >= self.low) & (temperatures <= self.high)


def parse_isotherm(text: str, argument: str = "highlight") -> Isotherm:
    """An isotherm from ">37C", "<0C" or "20..25C", in degrees C or F, or K.

    Raises:
        ValueError: it is none of these.

    Examples:
        >>> parse_isotherm(">98.6F").low.__round__(3), parse_isotherm("20..25C").high
        (37.0, 25.0)
    """
    found = _ISOTHERM.fullmatch(text)
    if found is None:
        raise ValueError(f"{argument} {text!r} is no temperature: give '>37C', '<0C' or '20..25C', with C, F or K")
    side, limit, low, high, unit = found.groups()
    factor, shift = _UNITS[unit.upper()]
    if side is not None:
        value = factor * float(limit) + shift
        return Isotherm(value, math.inf, ABOVE, text) if side == ">" else Isotherm(-math.inf, value, BELOW, text)
    if float(low) >= float(high):
        raise ValueError(f"{argument} {text!r} is empty: give the lower temperature first")
    return Isotherm(factor * float(low) + shift, factor * float(high) + shift, BETWEEN, text)


def palette_scale(palette: str | None, limits: tuple[float, float]) -> ColorScale:
    """The scale of a palette between two temperatures in degrees C; gray without one."""
    if palette is not None and palette not in PALETTES:
        raise ValueError(f"palette {palette!r} is unknown: use one of {', '.join(PALETTES)}")
    table = _NO_PALETTE if palette is None else PALETTES[palette]
    return ColorScale(np.array(table, np.uint8), np.linspace(0, 1, len(table)), limits, "\u00b0C")


def draw_temperatures(
    temperatures: np.ndarray,
    palette: str | None = "iron",
    *,
    limits: tuple[float, float] | None = None,
    highlight: Sequence[Isotherm | str] = (),
    picture: np.ndarray | None = None,
) -> Image.Image:
    """Temperatures in the colors of a palette, with their scale in degrees C on the right.

    With a picture of the same size its details, and no other of its brightness, are added, so that a color still means
    a temperature; where there is no temperature the picture is shown in gray. Small drawings without a picture are
    enlarged.

    Args:
        temperatures: `(H, W)` degrees C, NaN where there is none.
        palette: a name in `PALETTES`; None for the picture's own colors, on which isotherms are painted.
        limits: temperatures of the first and the last color, which also stand for what is beyond; None for the
            0.5 and 99.5 percentiles.
        highlight: isotherms, such as ">37C", see [`parse_isotherm`]; later ones cover earlier ones.
        picture: `(H, W)` or `(H, W, 3)` uint8, uint16 or float in [0, 1].

    Returns:
        An 8-bit RGB image, wider than the temperatures by the scale.

    Raises:
        ValueError: nothing but NaN, an unknown palette, an isotherm that cannot be read, or sizes that differ.

    Examples:
        >>> draw_temperatures(np.linspace(20, 40, 480 * 640).reshape(480, 640), highlight=[">37C"]).height
        480
    """
    isotherms = [parse_isotherm(one) if isinstance(one, str) else one for one in highlight]
    known = np.isfinite(temperatures)
    if not known.any():
        raise ValueError("there are no temperatures to draw: the infrared has no data where the picture is")
    if picture is not None and picture.shape[:2] != temperatures.shape:
        raise ValueError(f"temperatures {temperatures.shape} and picture {picture.shape[:2]} differ in size")
    low, high = limits or tuple(float(value) for value in np.percentile(temperatures[known], (0.5, 99.5)))
    if not low < high:
        low, high = float(temperatures[known].min()) - 0.5, float(temperatures[known].max()) + 0.5
    scale = palette_scale(palette, (low, high))
    if picture is None:
        temperatures = _enlarged(temperatures)
        known = np.isfinite(temperatures)
    colors = _colors(temperatures, known, scale, picture, palette is not None)
    column = np.linspace(low, high, 1024)
    bar = scale.at(np.linspace(0, 1, 1024))
    for isotherm in isotherms:
        inside = isotherm.covers(temperatures)
        shade = 1.0 if picture is None else _TINT + (1 - _TINT) * luma(colors)[inside][:, None]
        colors[inside] = shade * np.array(isotherm.color) / 255
        bar[isotherm.covers(column)] = isotherm.color
    legend = ColorScale(bar, np.linspace(0, 1, 1024), scale.limits, scale.unit)
    return Image.fromarray(with_legend(quantize(colors.astype(np.float32)), legend))


def _colors(
    temperatures: np.ndarray, known: np.ndarray, scale: ColorScale, picture: np.ndarray | None, in_palette: bool
) -> np.ndarray:
    """`(H, W, 3)` float in [0, 1]: the palette with the picture's details, or the picture itself."""
    from scipy import ndimage

    low, high = scale.limits or (0.0, 1.0)
    places = np.clip((np.where(known, temperatures, low) - low) / (high - low), 0, 1)
    colors = scale.at(places).astype(np.float64) / 255
    if picture is None:
        colors[~known] = 0
        return colors
    rgb = quantize(picture).astype(np.float64) / 255
    gray = luma(rgb) if rgb.ndim == 3 else rgb
    if not in_palette:
        return rgb if rgb.ndim == 3 else np.repeat(gray[..., None], 3, axis=2)
    details = gray - ndimage.gaussian_filter(gray, max(gray.shape) / _SMOOTH)
    return np.where(known[..., None], np.clip(colors + details[..., None], 0, 1), gray[..., None])


def _enlarged(temperatures: np.ndarray) -> np.ndarray:
    """Each pixel of a small picture as a square, so that the numbers beside it can be read."""
    factor = max(1, round(_SMALLEST / max(temperatures.shape)))
    return np.repeat(np.repeat(temperatures, factor, axis=0), factor, axis=1)
