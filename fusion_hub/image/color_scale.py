"""Color scales: tables of colors for numbers, and the strip beside a picture that says which color is which number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fusion_hub.image.luminance import quantize

# Dark to bright, evenly in lightness; and a dark center between two hues, so that zero is dark.
HEAT = ((4, 5, 18), (48, 18, 84), (110, 32, 108), (172, 52, 92), (222, 88, 64), (248, 146, 58), (250, 208, 120))
OPPOSED = ((64, 190, 255), (36, 104, 160), (20, 20, 20), (160, 84, 24), (255, 170, 60))


@dataclass(frozen=True, eq=False)
class ColorScale:
    """The colors of a scan, from no uptake to the highest.

    Attributes:
        colors: `(N, 3)` uint8.
        places: `(N,)` of each on the scale, from 0 to 1, rising.
        limits: the sample values at 0 and 1; None where the scan has colors only.
        unit: of the values.
    """

    colors: np.ndarray
    places: np.ndarray
    limits: tuple[float, float] | None = None
    unit: str = ""

    def at(self, places: np.ndarray) -> np.ndarray:
        """Colors `(..., 3)` uint8 at places `(...)` of the scale."""
        mixed = [np.interp(places, self.places, channel) for channel in self.colors.T.astype(np.float64)]
        return quantize(np.stack(mixed, axis=-1), white=255)


def table_colors(values: np.ndarray, table: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Colors `(..., 3)` uint8 of values in [0, 1] by a table of evenly spaced colors, mixed between its entries."""
    scale = ColorScale(np.array(table, np.uint8), np.linspace(0, 1, len(table)))
    return scale.at(np.linspace(0, 1, 256))[quantize(values)]


def with_legend(image: np.ndarray, scale: ColorScale | None) -> np.ndarray:
    """An image `(H, W, 3)` uint8 with the scale on its right, high on top: `(H, W + w, 3)` uint8.

    The ends carry their values, or "high" and "low" where the scale has none; a scale with a unit also has round values
    between them. Without a scale the strip is black.
    """
    height, width = image.shape[:2]
    size = int(np.clip(max(height, width) / 24, 11, 48))
    font = ImageFont.load_default(size)
    top, left, bar = min(2 * size, height // 4), size, round(1.5 * size)
    bottom = height - top
    ends, ticks = ("low", "high"), {}
    if scale is not None and scale.limits is not None:
        digits = 0 if scale.unit and scale.limits[1] - scale.limits[0] > 50 else 1
        shown = (f"{value:.{digits}f} {scale.unit}" if scale.unit else f"{value:g}" for value in scale.limits)
        ends = (next(shown), next(shown))
        ticks = _ticks(*scale.limits, (bottom - top) / (1.6 * size)) if scale.unit else {}
    beside = max((font.getlength(text) for text in ticks.values()), default=0) + bar + 0.7 * size
    wide = max(4 * size, *(font.getlength(text) + 0.4 * size for text in ends), beside)
    strip = Image.new("RGB", (left + math.ceil(wide), height))
    if scale is not None:
        draw = ImageDraw.Draw(strip)
        column = scale.at(np.linspace(1, 0, bottom - top))
        strip.paste(Image.fromarray(np.repeat(column[:, None], bar, axis=1)), (left, top))
        draw.text((left, top - size // 3), ends[1], font=font, fill="white", anchor="ls")
        draw.text((left, bottom + size // 3), ends[0], font=font, fill="white", anchor="lt")
        for place, text in ticks.items():
            row, edge = bottom - place * (bottom - top), left + bar
            draw.line([(edge, row), (edge + size // 4, row)], fill="white")
            draw.text((edge + 0.4 * size, row), text, font=font, fill="white", anchor="lm")
    return np.concatenate([image, np.asarray(strip)], axis=1)


def _ticks(low: float, high: float, most: float) -> dict[float, str]:
    """Round values between two limits, away from both, and their texts by their places in 0..1."""
    span = high - low
    if not span > 0 or most < 2:
        return {}
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if span / step <= most)
    values = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    digits = max(0, -math.floor(math.log10(step)))
    margin = 0.8 / most
    return {
        float((value - low) / span): f"{value:.{digits}f}"
        for value in values
        if margin <= (value - low) / span <= 1 - margin
    }
