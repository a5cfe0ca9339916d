"""Alignment of an infrared with a visible camera: the homography between their pictures, and how sure it is.

Three steps, all of them sums over the frames, so that one pair and many frames of a rig take the same way:

1. `search`: every rotation and scale of a grid, every shift;
2. `refine`: block matching and a robust homography, for the best candidates;
3. the checks of `Alignment.sure`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .features import Array, Matrix, corners, transform
from .refine import refine, score
from .search import Candidate, search
from .views import Views

COARSE = ((320, 64, 16), (320, 48, 10))
FINE = ((480, 56, 8), (640, 64, 6))
UNKNOWN = (0.4, 1.7)  # range of the fields of view that are searched when the ratio is not known
SEARCHED = 6  # frames in the exhaustive search


@dataclass(frozen=True)
class Alignment:
    """The result of `align`.

    Attributes:
        homography: infrared -> visible, (3, 3), between pixel centers, with a last element of 1.
        score: normalized correlation of edge directions over the overlap, -1 to 1.
        margin: lead of the score over that of the best other candidate.
        agreement: largest difference of the corners of the infrared picture between the estimates from two halves of
            the material, in pixels of a visible picture of 640 pixels.
        overlap: share of the infrared picture that lies in the visible one, 0 to 1.
        sure: whether all checks passed.
        why: what failed, a sentence; empty if sure.
    """

    homography: NDArray[np.float64]
    score: float
    margin: float
    agreement: float
    overlap: float
    sure: bool
    why: str = ""


def align(
    frames: Sequence[tuple[Array, Array]],
    *,
    start: NDArray[np.float64] | None = None,
    fov_ratio: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Alignment:
    """Estimates the homography from the infrared to the visible camera.

    Args:
        frames: pairs of visible (H, W) and infrared (h, w) luminance in [0, 1], float32, of one fixed rig. All visible
            frames have one size, and all infrared frames.
        start: a homography infrared -> visible to refine, in place of the search.
        fov_ratio: width of the infrared camera's field of view divided by the visible's, known to about 10 %.
        progress: is called with the share that is done, 0 to 1.

    Raises:
        ValueError: no frames, or frames of different sizes.
    """
    if not len(frames):
        raise ValueError("there are no frames: give at least one pair of a visible and an infrared picture")
    sizes = {(visible.shape, infrared.shape) for visible, infrared in frames}
    if len(sizes) > 1:
        raise ValueError(f"frames of one rig have one size, and these differ: {sorted(sizes)[:2]}")
    report = progress or (lambda share: None)
    views = Views(frames)
    few = views.subset(spread(len(frames), SEARCHED))
    to_visible = np.linalg.inv(views.visible_scaling)
    if start is not None:
        candidates = [views.visible_scaling @ start @ np.linalg.inv(views.infrared_scaling)]
        margin = np.inf
    else:
        limits = UNKNOWN if fov_ratio is None else (fov_ratio * 0.85, fov_ratio * 1.18)
        found = search(few, np.exp(np.arange(np.log(limits[0]), np.log(limits[1]) + 0.03, 0.055)).tolist())
        distinct = distinct_candidates(found, 3)
        candidates = [candidate.homography for candidate in distinct]
        margin = distinct[0].score - distinct[1].score if len(distinct) > 1 else np.inf
    report(0.5)
    refined = [refine(few, candidate, COARSE) for candidate in candidates]
    best = max(refined, key=lambda homography: score(few, homography))
    report(0.7)
    homography = refine(views, best, FINE)
    value = score(views, homography)
    report(0.9)
    halves = [
        refine(views.subset(half), best, FINE) for half in (range(0, len(frames), 2), range(1, len(frames), 2)) if half
    ]
    agreement = corner_distance(halves[0], halves[-1], views) if len(halves) > 1 else np.inf
    why = "" if value > 0.4 else f"edges of the two pictures hardly coincide (score {value:.2f})"
    report(1.0)
    result = to_visible @ homography @ views.infrared_scaling
    return Alignment(result / result[2, 2], value, float(margin), agreement, overlap(homography, views), not why, why)


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` numbers below `count`, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def distinct_candidates(found: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best candidates that differ by more than 8 % in scale or 4 degrees in rotation."""
    kept: list[Candidate] = []
    for candidate in found:
        if all(abs(candidate.scale / k.scale - 1) > 0.08 or abs(candidate.rotation - k.rotation) > 4 for k in kept):
            kept.append(candidate)
            if len(kept) == count:
                break
    return kept


def corner_distance(first: Matrix, second: Matrix, views: Views) -> float:
    """Largest distance of the corners of the infrared picture under two homographies, in pixels of the canvas."""
    points = corners(views.infrared_size)
    return float(np.linalg.norm(transform(points, first) - transform(points, second), axis=1).max())


def overlap(homography: Matrix, views: Views) -> float:
    """Share of the infrared picture that lies in the visible one."""
    height, width = views.infrared_size
    x, y = np.meshgrid(np.linspace(0, width - 1, 41), np.linspace(0, height - 1, 41))
    points = transform(np.column_stack([x.ravel(), y.ravel()]), homography)
    limit = np.array(views.visible_size[::-1]) - 1
    return float(((points >= 0) & (points <= limit)).all(1).mean())
