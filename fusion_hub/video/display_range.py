"""Black and white of the infrared over a sequence.

Stretched frame by frame, a sequence flickers: a hot object that enters moves the percentiles, and with them the gray of
everything else. Fixed limits do not flicker, but the scene leaves them as a camera warms up. So the limits follow the
scene, slowly enough that nobody sees them move.
"""

import math

import numpy as np

from fusion_hub.image.luminance import luma, to_plane
from fusion_hub.image.picture import Picture

RATE = 0.005  # of the span, a frame
_FULL_SPEED = 0.25  # share of pixels beyond a limit from which it widens at the full rate
_LOST = 0.95  # share of clipped pixels from which the limits show nothing of a frame
_PIXELS = 2**15  # of the regular grid that is looked at


class RangeTracker:
    """Limits of an infrared sequence that move by at most half a percent of their span from frame to frame.

    The first frame gets its own percentiles, as a single picture does, and decides whether its kind is stretched at
    all: 8 bits and floats in [0, 1] are not. From then on, within that half percent:

    - Both limits shift by the mean change of all pixels since the frame before, each change clipped to the step, so
      that an object counts for its area at most. This follows the drift of a camera.
    - Each limit moves towards the percentile of the frame: inwards at what is left of the step, outwards in proportion
      to the share of pixels beyond it. A small hot object is white, and well seen, while the rest keeps its gray; a
      large one widens the range within seconds.

    A still pixel thus changes by 1.3 of 255 levels a frame at most, less after the fusion. Nothing is reset at a cut,
    because a jump there is a flicker too. The exception: where 95 % of a frame would be black or white, as after a
    change of the camera's gain or a first frame with a closed shutter, the frame's own percentiles take over at once.

    Args:
        percentile: the lower and upper one.
        rate: the largest step, of the span.

    Attributes:
        limits: the current ones, on the scale of the samples; None before the first frame.
    """

    def __init__(self, percentile: tuple[float, float] = (0.5, 99.5), rate: float = RATE) -> None:
        self.percentile, self.rate = percentile, rate
        self.limits: tuple[float, float] | None = None
        self._kept = False  # the samples have a scale of their own
        self._valid: np.ndarray | None = None  # pixels with data in the first frame
        self._before: np.ndarray | None = None  # the grid of the last frame, NaN without data

    def update(self, picture: Picture) -> tuple[float, float]:
        """The limits for the next frame, on the scale of its samples."""
        if self.limits is None:
            plane = to_plane(picture, "infrared", "auto", self.percentile, "infrared")
            self.limits, self._valid = plane.limits, plane.valid
            self._kept = plane.limits == (0.0, picture.white)
            self._before = None if self._kept else self._look(picture)
        elif not self._kept:
            values = self._look(picture)
            self.limits, self._before = self._follow(*self.limits, values), values
        return self.limits

    def _follow(self, low: float, high: float, values: np.ndarray) -> tuple[float, float]:
        data = values[np.isfinite(values)]
        if data.size == 0:
            return low, high
        wanted = np.percentile(data, self.percentile)
        below, above = float((data <= low).mean()), float((data >= high).mean())
        if not low < high or (below + above > _LOST and wanted[0] < wanted[1]):
            return float(wanted[0]), float(wanted[1])
        step = self.rate * (high - low)
        shift = 0.0
        if self._before is not None and self._before.shape == values.shape:
            changes = np.clip(values - self._before, -step, step)
            if np.isfinite(changes).any():
                shift = float(np.nanmean(changes))
        low, high, left = low + shift, high + shift, step - abs(shift)
        out_low, out_high = (left * min(1.0, share / _FULL_SPEED) for share in (below, above))
        low += float(np.clip(wanted[0] - low, -out_low, left))
        high += float(np.clip(wanted[1] - high, -left, out_high))
        return low, high

    def _look(self, picture: Picture) -> np.ndarray:
        """Samples on a regular grid, float32 or float64, NaN where there are no data."""
        step = max(1, math.isqrt(picture.size[0] * picture.size[1] // _PIXELS))
        grid = np.s_[::step, ::step]
        values = luma(picture.pixels[grid])
        values = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        for valid in (picture.valid, self._valid):
            if valid is not None and valid.shape == picture.size:
                values[~valid[grid]] = np.nan
        return values
