"""Luminance in [0, 1] from samples: black, white, pixels without data, and warnings; and rounding to levels.

Pipelines, training, evaluation and the page all scale and round here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias

from fusion_hub.image.lazy_numpy import np
from fusion_hub.image.picture import Picture, full_scale

ValueRange: TypeAlias = Literal["auto", "dtype", "minmax", "percentile"] | tuple[float, float]
Role: TypeAlias = Literal["visible", "infrared"]
DEFAULT_PERCENTILE = (0.5, 99.5)

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # BT.601
STRIP_PIXELS = 2**17  # float temporaries are made for this many pixels at a time, so they stay in the cache
UNIT_SLACK = 1e-4  # resampling filters leave [0, 1] by a rounding error; that much is clipped, more is an error
_PERCENTILE_PIXELS = 2**22  # above this many pixels percentiles are taken from a regular grid of them
_LOOKED_AT = 2**16  # pixels of the regular grid on which a picture is judged
_GLANCE = 2**11  # pixels that decide whether to look closer
_SMALL_PART = 0.1  # of the full scale, below which a picture is called low in contrast
_CLIPPED = 0.5  # share of the pixels
_FLAT = 1 / 255  # standard deviation of a plane that is nearly constant
_COLORED = 0.15  # mean difference of the channels, of the full scale, from which an infrared image is false-colored
_FILLS = (0.0, -1.0, -99.0, -999.0, -9999.0, -99999.0, -32768.0, -32767.0, -(2.0**31), -273.15, 65535.0)
"""Values that programs write for missing data."""
_LEAST_FILL = 8  # pixels
_BORDER_SHARE, _BORDER_GAP = 0.02, 0.2  # of the border's pixels, and of the scene's span
_RING = 2  # pixels round a fill that resampling has mixed with it
_TELEMETRY_ROWS = 4
_CAMERA_BITS = (10, 12, 14)
_STRAY = 1e-3  # share of pixels that may lie above the bits of a camera


@dataclass(frozen=True)
class Plane:
    """Luminance of one picture.

    Attributes:
        values: `(H, W)` float32 in [0, 1]; 0 where there is no data.
        limits: the sample values that became 0 and 1.
        valid: `(H, W)` bool, False where there is no data; None where all of it is data.
        notes: warnings, one sentence each, without a full stop.
    """

    values: np.ndarray
    limits: tuple[float, float]
    valid: np.ndarray | None
    notes: tuple[str, ...]


def check_range(rule: Any, argument: str) -> None:
    """Raise a `ValueError` for an unknown rule of scaling."""
    named = isinstance(rule, str) and rule in ("auto", "dtype", "minmax", "percentile")
    pair = isinstance(rule, tuple | list) and len(rule) == 2 and all(isinstance(value, Real) for value in rule)
    if not named and not (pair and -np.inf < rule[0] < rule[1] < np.inf):
        known = "'auto', 'dtype', 'minmax', 'percentile' or two rising finite numbers (low, high)"
        raise ValueError(f"{argument} must be {known}, got {rule!r}")


def parse_range(text: str, argument: str) -> ValueRange:
    """A rule from text: one of the names, or two numbers `LOW,HIGH`.

    Raises:
        ValueError: it is neither.

    Examples:
        >>> parse_range("2600,2800", "--infrared-range")
        (2600.0, 2800.0)
    """
    try:
        rule: Any = tuple(map(float, text.split(","))) if "," in text else text.strip()
        check_range(rule, argument)
        return rule
    except ValueError:
        advice = "give auto, dtype, minmax, percentile, or two rising numbers LOW,HIGH"
        raise ValueError(f"{argument} {text}: {advice}") from None


def luma(pixels: np.ndarray) -> np.ndarray:
    """BT.601 luma `(H, W)` of `(H, W, 3)` on the scale of the pixels; `(H, W)` itself.

    float32, or float64 for integers of more than 16 bits and for float64.

    Examples:
        >>> luma(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)).round(3)
        array([[76.245, 29.07 ]], dtype=float32)
    """
    if pixels.ndim == 2:
        return pixels
    working = np.float64 if pixels.dtype.itemsize > 2 and pixels.dtype != np.float32 else np.float32
    out, weights = np.empty(pixels.shape[:2], dtype=working), np.array(LUMA_WEIGHTS, dtype=working)
    for rows in strips(out.shape):
        np.matmul(pixels[rows].astype(working), weights, out=out[rows])
    return out


def quantize(
    values: np.ndarray,
    dtype: type[np.unsignedinteger] | Literal["uint8", "uint16"] = "uint8",
    white: float | None = None,
    ties: Literal["up", "even"] = "up",
) -> np.ndarray:
    """Round samples to the nearest level of an 8- or 16-bit image: `floor(255 x + 0.5)` of x in [0, 1], clipped.

    float64 values are first rounded to 6 decimals of a level, so that an exact half does not depend on the last bit of
    a division by 255. All other values are scaled in float32.

    Args:
        values: any shape; finite.
        dtype: uint8 or uint16.
        white: the value that becomes the largest level; None for 1 of floats, the largest value of uint8 and uint16.
        ties: "up" rounds exact halves up, "even" to the even level.

    Examples:
        >>> quantize(np.array([-0.1, 0.5, 1.0])), quantize(np.array([0.5]), ties="even")
        (array([  0, 128, 255], dtype=uint8), array([128], dtype=uint8))
        >>> quantize(np.array([32896], dtype=np.uint16))
        array([128], dtype=uint8)
    """
    white = full_scale(values.dtype) if white is None else white
    if white is None:
        raise ValueError(f"samples of the type {values.dtype} have no known full scale: give white")
    working = np.float64 if values.dtype == np.float64 else np.float32
    levels = np.clip(values, 0, white).astype(working)
    scale = np.iinfo(dtype).max / white
    if scale != 1:
        levels *= working(scale)
        if working is np.float64:
            np.round(levels, 6, out=levels)
    if ties == "even":
        return np.rint(levels).astype(dtype)
    levels += working(0.5)
    return levels.astype(dtype)


def strips(size: tuple[int, ...]) -> Iterator[slice]:
    """Rows of an image `(H, W)` to work on at a time."""
    height, width = size
    rows = max(1, STRIP_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def linear(
    values: np.ndarray, low: float, high: float, valid: np.ndarray | None = None, in_place: bool = False
) -> np.ndarray:
    """`low`..`high` to 0..1, clipped, float32; 0 if there is no range or data. `in_place` may overwrite the values."""
    if not low < high:
        return np.zeros(values.shape, dtype=np.float32)
    plane = values if in_place and values.dtype == np.float32 else np.empty(values.shape, dtype=np.float32)
    # Integers beyond 24 bits and counts with a large offset lose their differences in float32: subtract in float64.
    plain = values.dtype.itemsize <= 4 and values.dtype.kind != "i" and values.dtype != np.uint32
    for rows in strips(values.shape):
        strip = values[rows].astype(np.float32 if low == 0 and plain else np.float64)
        if valid is not None:
            strip[~valid[rows]] = low
        if low != 0:
            np.subtract(strip, low, out=strip)
        np.divide(strip, high - low, out=strip)
        np.clip(strip, 0, 1, out=plane[rows], casting="same_kind")
    return plane


def to_plane(
    picture: Picture, name: str, rule: ValueRange, percentile: tuple[float, float], role: Role, argument: str = ""
) -> Plane:
    """Scale a picture to luminance by a rule of [`FusionImageProcessor`].

    Messages call the picture `name` and the option `argument`, by default `visible_range` or `infrared_range`.
    Raises a `ValueError` for samples of unknown scale, a picture without data, or a range outside its values.
    """
    luminance = luma(picture.pixels)
    valid, guesses = _valid(picture, luminance, role, name)
    scaling = _Scaling(picture, luminance, valid, name, role, argument or f"{role}_range", [])
    if role == "visible" and picture.alpha is not None:
        scaling.full_scale(picture.alpha, None)
    low, high = scaling.limits(rule, percentile)
    try:
        looks = list(scaling.judge(low, high, _GLANCE))
    except ValueError as error:
        looks = [str(error)]
    if looks:  # a closer look only where a few thousand pixels look questionable
        looks = list(scaling.judge(low, high, luminance.size))
    values = linear(luminance, low, high, valid, in_place=picture.pixels.ndim == 3)  # nobody else holds a luma
    return Plane(values, (low, high), valid, (*picture.notes, *guesses, *scaling.notes, *looks))


@dataclass(frozen=True)
class _Scaling:
    """The choice of black and white for one picture, and its warnings."""

    picture: Picture
    luminance: np.ndarray
    valid: np.ndarray | None
    name: str
    role: Role
    argument: str
    notes: list[str]

    def limits(self, rule: ValueRange, percentile: tuple[float, float]) -> tuple[float, float]:
        """The sample values that become 0 and 1."""
        if not isinstance(rule, str):
            return float(rule[0]), float(rule[1])
        if rule == "auto" and self.role == "visible":
            return 0.0, self.visible_white()
        if rule == "dtype" or (rule == "auto" and self.keeps_its_scale()):
            return 0.0, self.full_scale(self.picture.pixels, self.valid)
        low = high = 0.0
        if rule != "minmax":
            sample = _sample(self.luminance, self.valid, _PERCENTILE_PIXELS)
            low, high = (float(value) for value in np.percentile(sample, percentile))
        if not low < high:  # "minmax", and images of which at least 99 % have one value
            low, high = _extremes(self.luminance, self.valid)
        return low, high

    def visible_white(self) -> float:
        """Full scale; for 16-bit samples that hold 10, 12 or 14 bits of a camera or scanner, that of their bits."""
        pixels, white = self.picture.pixels, self.full_scale(self.picture.pixels, self.valid)
        if pixels.dtype == np.uint16 and white == 65535:
            most = _extremes(pixels, self.valid)[1]
            if most >= 2 ** _CAMERA_BITS[-1]:  # a few hot pixels lie above the bits of the camera; they become white
                most = float(np.quantile(_sample(pixels, self.valid, pixels.size), 1 - _STRAY, method="lower"))
            bits = next((b for b in _CAMERA_BITS if most < 2**b), 16)
            if most > 255 and bits < 16:
                self.notes.append(
                    f"{self.name} uses 0..{most:g} of 65535, so it is read as {bits} bits (0..{2**bits - 1}); "
                    f"set {self.argument} to 'dtype' for the full scale, or to fixed values for a sequence"
                )
                return 2.0**bits - 1
        return white

    def keeps_its_scale(self) -> bool:
        """Infrared of 8 bits and floats in [0, 1] stay as they are; counts and temperatures are stretched."""
        if self.picture.white is None:  # degrees, or counts of an unknown scale
            return False
        if self.picture.pixels.dtype.kind != "f":
            return self.picture.pixels.dtype == np.uint8
        low, high = _extremes(self.luminance, self.valid)
        if low < -UNIT_SLACK or high > 1 + UNIT_SLACK:
            return False
        levels = _sample(self.luminance, self.valid).astype(np.float64) * 255
        if not 0 < high - low < _SMALL_PART or np.abs(levels - np.rint(levels)).max(initial=0) < 1e-3:
            return True
        self.notes.append(
            f"{self.name} has float values in {low:.4g}..{high:.4g}, as counts divided by their full scale have, so it "
            "is stretched; set infrared_range to 'dtype' to keep it as it is"
        )
        return False

    def full_scale(self, pixels: np.ndarray, valid: np.ndarray | None) -> float:
        """The value of white; samples must be of a kind whose full scale is known, floats within [0, 1]."""
        fix = f"use {self.argument}='minmax', 'percentile' or (low, high)"
        if self.picture.white is None:
            low, high = _extremes(pixels, None)
            raise ValueError(
                f"{self.name} has {pixels.dtype} samples ({low:g}..{high:g}), full scale unknown: convert it to uint8, "
                f"uint16 or float in [0, 1], or {fix}"
            )
        if pixels.dtype.kind == "f":
            low, high = _extremes(pixels, valid)
            if low < -UNIT_SLACK or high > 1 + UNIT_SLACK:
                raise ValueError(
                    f"{self.name} has float values in {low:g}..{high:g}, expected [0, 1]: divide by the full scale "
                    f"(255 for 8 bits), or {fix}"
                )
        return self.picture.white

    def judge(self, low: float, high: float, looked_at: int) -> Iterator[str]:
        """Warnings, from a regular grid of at most about `looked_at` pixels."""
        name, argument, white = self.name, self.argument, self.picture.white
        sample = _sample(self.luminance, self.valid, looked_at)
        least, most = _extremes(sample, None)
        fixed_scale = low == 0 and high == white
        if not fixed_scale:
            below, above = float((sample < low).mean()), float((sample > high).mean())
            if below + above > 0.999 and least < most:
                where = "below" if below > above else "above"
                raise ValueError(
                    f"{argument} {low:g}..{high:g} leaves nothing of {name}, whose values {least:g}..{most:g} are "
                    f"{where} it: set {argument} to values within those of the image, or to 'percentile'"
                )
            if below + above > _CLIPPED:
                yield (
                    f"{name} is clipped in {below + above:.0%} of its pixels, values {least:g}..{most:g} by {argument} "
                    f"{low:g}..{high:g}; set {argument} to 'percentile' or wider values"
                )
        fix = f"set {argument} to 'percentile' or (low, high)"
        span = (min(most, high) - max(least, low)) / (high - low) if low < high else 0.0
        shown = np.clip((sample - low) / (high - low), 0, 1) if 0 < span < _SMALL_PART else np.zeros(1)
        if least == most:
            yield f"{name} is constant (value {least:g}), so the result shows the other image only; check the file"
        elif span < _SMALL_PART and float(shown.std()) < _FLAT:
            yield (
                f"{name} is nearly constant after scaling (standard deviation {float(shown.std()) * 255:.2f} of 255 "
                f"gray levels, values {least:g}..{most:g}); {fix}"
            )
        elif fixed_scale and self.role == "infrared" and (most - least) < _SMALL_PART * high:
            yield f"{name} uses {least:g}..{most:g} of 0..{high:g} only, a small part of its scale; {fix} to stretch it"
        elif fixed_scale and most >= high and (share := float((sample >= high).mean())) > _CLIPPED:
            yield f"{name} is saturated in {share:.0%} of its pixels (value {high:g}); widen its range or expose less"
        elif fixed_scale and self.role == "visible" and most < _SMALL_PART * high:
            yield f"{name} is very dark, {least:g}..{most:g} of 0..{high:g}; {fix}"
        if self.role == "infrared" and self.picture.pixels.ndim == 3 and white is not None:
            colors = _sample(self.picture.pixels, self.valid, looked_at).astype(np.float32) / white
            spread = float((colors.max(axis=1) - colors.min(axis=1)).mean())
            if spread > _COLORED:
                yield (
                    f"{name} holds colors (mean difference of its channels {spread * 255:.0f} of 255 levels), as a "
                    "false-color map does, whose luma need not rise with temperature; export it in white-hot gray or "
                    "as raw counts"
                )


def _extremes(values: np.ndarray, valid: np.ndarray | None) -> tuple[float, float]:
    values = values if valid is None else values[valid]
    return float(values.min()), float(values.max())


def _sample(values: np.ndarray, valid: np.ndarray | None, most: int = _LOOKED_AT) -> np.ndarray:
    """The data on a regular grid of at most about `most` pixels, flat."""
    step = max(1, int(np.ceil(np.sqrt(values.shape[0] * values.shape[1] / most))))
    # A side shorter than the step keeps all its pixels: of a 1 x N line at least every step-th is seen.
    grid = tuple(slice(None, None, step if length > step else 1) for length in values.shape[:2])
    if valid is None:
        return values[grid].reshape(-1, *values.shape[2:])
    kept = values[grid][valid[grid]]
    return kept if len(kept) else values[valid]


def _valid(picture: Picture, luminance: np.ndarray, role: Role, name: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Pixels with data: declared, finite, and not filled in by a warp or a camera; and notes on guesses."""
    valid = picture.valid
    if luminance.dtype.kind == "f":
        valid = _both(valid, np.isfinite(luminance))
    if role == "infrared" and picture.alpha is not None:
        valid = _both(valid, picture.alpha > 0)
    if valid is not None and not valid.any():
        kind = "NaN, infinite or no-data values" if luminance.dtype.kind == "f" else "no-data values"
        raise ValueError(f"{name} holds nothing but {kind}: give an image with data")
    if picture.pixels.dtype == np.uint8:
        return valid, ()
    notes: tuple[str, ...] = ()
    telemetry = _telemetry(luminance, valid) if role == "infrared" else np.zeros(1, dtype=bool)
    if telemetry.any():
        rows = np.flatnonzero(telemetry)
        valid = _both(valid, np.broadcast_to(~telemetry[:, None], luminance.shape))
        notes += (
            f"{name} holds camera status instead of pixels in {len(rows)} row(s) from row {rows[0]} on: left out of "
            "the scale and replaced; crop them away to be sure",
        )
    fill, empty = _fill(luminance, valid, role)
    if empty is not None:
        valid = _both(valid, ~empty)
        notes += (
            f"{name} has {np.count_nonzero(empty)} pixels at or near {fill:g}, far from all others: they are taken as "
            "no data and replaced; declare them (GDAL_NODATA, NaN, alpha) or crop them away to be sure",
        )
    return valid, notes


def _both(first: np.ndarray | None, second: np.ndarray) -> np.ndarray | None:
    second = second if first is None else first & second
    return None if second.all() else second


def _fill(luminance: np.ndarray, valid: np.ndarray | None, role: Role) -> tuple[float, np.ndarray | None]:
    """The value that stands for no data, and its pixels: a value in use, extreme, repeated, and away from all others.

    A warp leaves a thin ring of mixed values between the fill and the scene; it goes with the fill.
    """
    from scipy import ndimage

    data = np.ones(luminance.shape, dtype=bool) if valid is None else valid
    sample = _sample(luminance, valid)
    edges = ((0,), (-1,), (slice(None), 0), (slice(None), -1))  # a regular grid may miss them
    border = np.concatenate([luminance[edge][data[edge]] for edge in edges])
    ends = {float(v) for part in (sample, border) if len(part) for v in (part.min(), part.max())}
    for fill in sorted(ends):
        if not _stands_for_no_data(fill, luminance.dtype) or (role == "visible" and fill >= 0):
            continue  # black and white borders of a visible image are black and white
        rest = sample[sample != fill]
        if len(rest) == 0 or not (_is_far(fill, rest) or _is_a_border(fill, rest, border)):
            continue
        filled = luminance == luminance.dtype.type(fill)
        near = ndimage.maximum_filter(filled, 2 * _RING + 1, mode="constant")
        core = _sample(luminance, data & ~near)
        if len(core) == 0:
            continue
        if fill < core.min():
            empty = filled | (near & (luminance < core.min()))
        else:  # a saturated target is hot, not missing; missing data above the scene are whole rows or columns
            empty = filled | (near & (luminance > core.max()))
            whole = (empty.all(axis=1), empty.all(axis=0))
            first, last = ([np.logical_and.accumulate(line[::step]) for line in whole] for step in (1, -1))
            empty &= (first[0] | last[0][::-1])[:, None] | first[1] | last[1][::-1]
        empty &= data
        if np.count_nonzero(filled) >= _LEAST_FILL and empty.any():
            return fill, empty
    return 0.0, None


def _stands_for_no_data(value: float, dtype: np.dtype) -> bool:
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        return value in _FILLS or value in (float(limits.min), float(limits.max))
    return abs(value) >= 1e20 or any(value == float(dtype.type(fill)) for fill in _FILLS)


def _is_far(fill: float, rest: np.ndarray) -> bool:
    """Whether a value lies two spans of the scene away from it; a few mixed values are no part of the scene."""
    low, high = (float(v) for v in np.percentile(rest, (5, 95)))
    span = max(high - low, 1e-6 * max(abs(low), abs(high)))
    return max(low - fill, fill - high) >= 2 * span


def _is_a_border(fill: float, rest: np.ndarray, border: np.ndarray) -> bool:
    """Whether a value fills a part of the border, and nearly nothing lies between it and the scene."""
    if len(border) == 0 or float((border == fill).mean()) < _BORDER_SHARE:
        return False
    low, high = (float(v) for v in np.percentile(rest, (1, 99)))
    gap, start = (low - fill, fill) if fill < low else (fill - high, high)
    if gap < _BORDER_GAP * (high - low) or gap <= 0:
        return False
    between = (rest > start + 0.1 * gap) & (rest < start + 0.9 * gap)
    return float(between.mean()) < 0.01


def _telemetry(luminance: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Rows `(H,)` at the top or bottom in which a camera writes its status: few, and far out of the scene."""
    found = np.zeros(luminance.shape[0], dtype=bool)
    inner = slice(_TELEMETRY_ROWS + 1, -_TELEMETRY_ROWS - 1)
    if len(found) < 4 * _TELEMETRY_ROWS or luminance.dtype.kind == "f" or not (valid is None or valid[inner].any()):
        return found
    sample = _sample(luminance[inner], None if valid is None else valid[inner])
    low, high = (float(v) for v in np.percentile(sample, (1, 99)))
    span = max(high - low, 1.0)
    for order in (range(_TELEMETRY_ROWS + 1), range(-1, -_TELEMETRY_ROWS - 2, -1)):
        status: list[int] = []
        for index in order:
            row = luminance[index]
            below, above = float((row < low - 2 * span).mean()), float((row > high + 2 * span).mean())
            # A hot pipe along the border is smooth and on one side of the scene; status words jump, or are mostly zero.
            rough = float(np.median(np.abs(np.diff(row.astype(np.float64))))) > 2 * span
            constant = row.min() == row.max()  # a border that a warp has filled
            if constant or not ((below + above > 0.5 and rough) or below > 0.3):
                break
            status.append(index)
        if len(status) <= _TELEMETRY_ROWS:  # more of them are a part of the scene
            found[status] = True
    return found


def fill_missing(values: np.ndarray, valid: np.ndarray) -> None:
    """Put into the pixels without data, in place, the nearest data of their row, or of the nearest row with data."""
    for row in np.flatnonzero(valid.any(axis=1) & ~valid.all(axis=1)):
        values[row] = values[row, _nearest(valid[row])]
    known = np.asarray(valid.any(axis=1))
    values[~known] = values[_nearest(known)[~known]]


def _nearest(known: np.ndarray) -> np.ndarray:
    """For each place of a mask `(N,)` the index of the nearest True one."""
    indices = np.flatnonzero(known)
    return indices[np.searchsorted((indices[1:] + indices[:-1]) / 2, np.arange(len(known)))]
