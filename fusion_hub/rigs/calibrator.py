"""From pictures of a rig to the rig."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from fusion_hub.image.inputs import read_luminance
from fusion_hub.rigs.alignment import Alignment, align
from fusion_hub.rigs.check_picture import draw_check
from fusion_hub.rigs.features import Array, Matrix, require_opencv, scaling, shrink
from fusion_hub.rigs.matcher import KeypointMatcher
from fusion_hub.rigs.rig import Confidence, Rig, RigError
from fusion_hub.rigs.warp import Warp, check_sides

KEPT_SIDE = 640  # longer side of the pictures that are kept; `align` works at this size
MAX_FRAMES = 64  # that are kept; of more frames an evenly spaced selection


class RigCalibrator:
    """Collects pairs of one fixed rig and estimates how the infrared camera looks into the visible picture.

    The pictures may differ in size and field of view; all pairs have the same two sizes. Memory is bounded: pictures
    are kept at 640 pixels, and of many pairs an evenly spaced selection of 64 at most.

    Args:
        fov_ratio: width of the infrared camera's field of view divided by the visible's, for example 0.6 where it sees
            60 % of the visible picture's width; known to about 10 %. None: unknown, the search covers 0.4 to 1.7.
        start: a rig or a homography (infrared -> visible) close to the true one, which is refined instead of a search.
        matcher: a keypoint matching network of `transformers`, which finds the first estimate instead of a search: a
            folder or a Hub id, see [`KeypointMatcher`].

    Examples:
        >>> calibrator = RigCalibrator(fov_ratio=0.8)
        >>> for visible, infrared in pairs:  # doctest: +SKIP
        ...     calibrator.add(visible, infrared)
        >>> calibrator.estimate().save("rig.json")  # doctest: +SKIP
    """

    def __init__(
        self,
        fov_ratio: float | None = None,
        start: Rig | Matrix | None = None,
        matcher: str | os.PathLike[str] | None = None,
    ) -> None:
        require_opencv()
        if fov_ratio is not None and not 0.05 <= fov_ratio <= 20:
            raise ValueError(
                f"fov_ratio={fov_ratio} must be between 0.05 and 20, such as 0.6 for an infrared camera "
                "that sees 60 % of the width of the visible picture"
            )
        if matcher is not None and (fov_ratio is not None or start is not None):
            raise ValueError("a matcher needs no fov_ratio and no start: give either the matcher or these")
        self.fov_ratio, self.start = fov_ratio, start
        self._align = align if matcher is None else KeypointMatcher(matcher)
        self.sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
        self.added = 0
        self._frames: list[tuple[Array, Array]] = []
        self._every = 1

    def add(self, visible: Any, infrared: Any) -> None:
        """Take one pair: paths, PIL images, arrays `(H, W[, C])` or tensors `([C,] H, W)`.

        Raises:
            RigError: a pair of other sizes than the pairs before.
            ValueError, OSError, TypeError: a picture that cannot be read.
        """
        pictures = read_luminance(visible, "visible"), read_luminance(infrared, "infrared")
        self.add_luminance(*pictures)

    def add_luminance(self, visible: Array, infrared: Array) -> None:
        """The same for luminance `(H, W)` and `(h, w)`, float32 in [0, 1]."""
        sizes = (visible.shape[0], visible.shape[1]), (infrared.shape[0], infrared.shape[1])
        if self.sizes is None:
            check_sides(*sizes)
            self.sizes = sizes
        elif sizes != self.sizes:
            own, other = (
                f"visible {seen[1]}x{seen[0]}, infrared {warm[1]}x{warm[0]}" for seen, warm in (self.sizes, sizes)
            )
            raise RigError(f"all pairs of a rig must have the same sizes: this one has {other}, the first one {own}")
        if self.added % self._every == 0:
            self._frames.append((_kept(visible), _kept(infrared)))
            if len(self._frames) > MAX_FRAMES:
                self._frames, self._every = self._frames[::2], 2 * self._every
        self.added += 1

    def alignment(self, progress: Callable[[float], None] | None = None) -> Alignment:
        """The estimate in pixels of the original pictures, sure or not.

        `progress` is called with the share that is done. Raises `RigError` where nothing was added.
        """
        if self.sizes is None:
            raise RigError("no pair was added: add at least one pair of pictures")
        seen, warm = (
            scaling(small.shape[1] / size[1], small.shape[0] / size[0])
            for small, size in zip(self._frames[0], self.sizes, strict=True)
        )
        start = None
        if self.start is not None:
            rig = self.start
            full = rig.at(*self.sizes).homography if isinstance(rig, Rig) else np.asarray(rig, dtype=np.float64)
            start = seen @ full @ np.linalg.inv(warm)
        found = self._align(self._frames, start=start, fov_ratio=self.fov_ratio, progress=progress)
        homography = np.linalg.inv(seen) @ found.homography @ warm
        return Alignment(**vars(found) | {"homography": homography / homography[2, 2]})

    def estimate(self, progress: Callable[[float], None] | None = None, accept_unsure: bool = False) -> Rig:
        """The rig.

        Args:
            progress: called with the share that is done, 0 to 1.
            accept_unsure: return an estimate that failed a check, if there is one; its `confidence.sure` is False.

        Raises:
            RigError: nothing was added, or the estimate failed a check: which one, and what helps.
        """
        found = self.alignment(progress)
        nothing_found = found.overlap == 0
        if not found.sure and (nothing_found or not accept_unsure):
            raise RigError(unsure(found, self.added))
        assert self.sizes is not None
        margin, agreement = (float(value) if np.isfinite(value) else None for value in (found.margin, found.agreement))
        confidence = Confidence(found.score, margin, agreement, found.overlap, found.sure)
        return Rig(found.homography, *self.sizes, self.added, confidence)

    def draw_check(self, rig: Rig) -> Image.Image:
        """The picture to check a rig by, of a pair in the middle of those that were added; see `draw_check`."""
        return draw_check(*self._frames[len(self._frames) // 2], rig)


def unsure(found: Alignment, frames: int) -> str:
    """The sentence for an estimate that failed a check."""
    advice = (
        "use a pair with more structure, or several pairs of the fixed rig with fusion-hub calibrate"
        if frames == 1
        else "check that the pairs show one scene each and that the rig did not move"
    )
    return f"the two cameras could not be aligned with confidence: {found.why}; {advice}"


def align_pair(visible: Array, infrared: Array) -> Warp:
    """The warp for one pair of luminance pictures, `(H, W)` and `(h, w)` in [0, 1]. Raises `RigError` if not sure."""
    calibrator = RigCalibrator()
    calibrator.add_luminance(visible, infrared)
    sizes = (visible.shape[0], visible.shape[1]), (infrared.shape[0], infrared.shape[1])
    return calibrator.estimate().at(*sizes)


def _kept(picture: Array) -> Array:
    """At `KEPT_SIDE`, never enlarged; without data the nearest data."""
    factor = min(1.0, KEPT_SIDE / max(picture.shape))
    size = (max(1, round(picture.shape[0] * factor)), max(1, round(picture.shape[1] * factor)))
    return np.ascontiguousarray(shrink(picture, size), dtype=np.float32)
