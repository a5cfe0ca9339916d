"""Black and white of the infrared over a sequence.

Stretched frame by frame, a sequence flickers: a hot object that enters moves the percentiles, and with them the gray of
everything else. Fixed limits do not flicker, but the scene leaves them as a camera warms up. So the limits follow the
percentiles of each frame, slowly enough that nobody sees them move.
"""

import math
from dataclasses import dataclass

import numpy as np

from fusion_hub.image.luminance import luma, to_plane
from fusion_hub.image.picture import Picture

RATE = 0.005  # of the span, a frame
_PIXELS = 2**15  # of the regular grid from which percentiles are taken
_LOST = 0.95  # share of clipped pixels from which the limits show nothing of a frame


@dataclass(frozen=True)
class _Start:
    """What the first frame settles for all: whether there is anything to track, and where there are no data."""

    fixed: tuple[float, float] | None
    valid: np.ndarray | None


class RangeTracker:
    """Limits of an infrared sequence that move by at most half a percent of their span from frame to frame.

    The first frame gets its own percentiles, as a single picture would, and decides whether its kind is stretched at
    all: 8 bits and floats in [0, 1] are not. From then on each limit moves towards the percentile of the frame, by at
    most `rate` of the span: a still pixel changes by 1.3 of 255 levels at most, less after the fusion, while a drift of
    the camera, a fraction of that a frame, is followed completely. Nothing is reset at a cut, because a jump there is a
    flicker too. The one exception: where 95 % of a frame would be black or white, as after a change of the camera's
    gain or a first frame with a closed shutter, the frame's own percentiles take over at once.

    Args:
        percentile: the lower and upper one.
        rate: the largest step, of the span.
    """

    def __init__(self, percentile: tuple[float, float] = (0.5, 99.5), rate: float = RATE) -> None:
        self.percentile, self.rate = percentile, rate
        self.limits: tuple[float, float] | None = None
        self._start: _Start | None = None

    def update(self, picture: Picture) -> tuple[float, float]:
        """The limits for the next frame, on the scale of its samples."""
        if self._start is None:
            plane = to_plane(picture, "infrared", "auto", self.percentile, "infrared")
            is_kept = plane.limits == (0.0, picture.white)
            self._start, self.limits = _Start(plane.limits if is_kept else None, plane.valid), plane.limits
            return plane.limits
        if self._start.fixed is not None:
            return self._start.fixed
        assert self.limits is not None
        (low, high), values = self.limits, self._values(picture)
        if len(values) == 0:
            return self.limits
        wanted = np.percentile(values, self.percentile)
        clipped = float((values <= low).mean() + (values >= high).mean())
        if not low < high or (clipped > _LOST and wanted[0] < wanted[1]):
            low, high = map(float, wanted)
        else:
            step = self.rate * (high - low)
            low, high = (old + float(np.clip(new - old, -step, step)) for old, new in zip(self.limits, wanted, strict=True))
        self.limits = low, high
        return self.limits

    def _values(self, picture: Picture) -> np.ndarray:
        """Data on a regular grid, flat."""
        assert self._start is not None
        step = max(1, math.isqrt(picture.pixels[..., :1].size // _PIXELS))
        grid = np.s_[::step, ::step]
        values, valid = luma(picture.pixels[grid]), np.ones(picture.size, bool)[grid]
        for known in (picture.valid, self._start.valid):
            if known is not None and known.shape == picture.size:
                valid = valid & known[grid]
        if values.dtype.kind == "f":
            valid = valid & np.isfinite(values)
        return values[valid]
