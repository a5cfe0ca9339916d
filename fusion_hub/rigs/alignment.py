"""Alignment of an infrared with a visible camera: the homography between their pictures, and how sure it is.

1. `search`: every rotation and scale of a grid, every shift.
2. `refine`: block matching and a robust homography, from the best candidates.
3. `verify`: how far the result stands out among all shifts. If it does not, the search is repeated on a finer grid.

Each step adds scores over the frames, so one pair and many frames of a rig take the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fusion_hub.rigs.features import Array, Matrix, corners, require_opencv, transform
from fusion_hub.rigs.refine import COARSE, fit_halves, refine, refine_fully, score
from fusion_hub.rigs.search import Candidate, best_shift, search, verify
from fusion_hub.rigs.views import Views

GRIDS = ((160, 4.0), (240, 3.0))  # of the searches: side of the canvas, degrees
NARROW_GRIDS = ((160, 4.0), (320, 2.0))  # where the field of view is known
UNKNOWN = (0.4, 1.7)  # limits of the ratio of the fields of view where it is not known
TOLERANCE = 1.17  # of a given ratio: the 10 % and what turned or cropped pictures need
CANDIDATES = 6  # that are refined
SEARCHED = 6  # frames in the search
REFINED = 40  # frames in the refinement

LEAD = 6.1  # standard deviations; wrong places of two scenes reach 6.0
MARGIN = 2.0  # with which no finer search is needed
AGREEMENT = 12.0  # pixels; halves of the frames of a rig that does not move are closer
FLAT = 1e-4  # standard deviation of a picture without content
OVERLAP = 0.55  # of the smaller view; the best wrong places often lie at the limit of the search
EVIDENCE = {"margin": 1.2, "log_agreement": -0.5, "score": 6.0, "constant": -3.0}
"""Logistic regression of right against wrong places, fitted on generated pairs of `benchmarks/alignment.py` (seed 21);
constant and LEAD are chosen so that wrong places and pairs of two scenes (seeds 31 to 81) are refused."""


@dataclass(frozen=True)
class Alignment:
    """The result of `align`.

    Attributes:
        homography: infrared -> visible, (3, 3), between pixel centers, with a last element of 1.
        score: normalized correlation of edge directions over the overlap, -1 to 1.
        lead: of the score over the mean of all shifts, in their standard deviations; 4 to 5 by chance.
        margin: lead over the best other shift, in the same unit.
        agreement: largest difference of the corners of the infrared picture between the estimates from two halves of
            the material, in pixels of a visible picture of 640 pixels.
        overlap: share of the picture with the smaller view that lies in the other one, 0 to 1.
        sure: whether all checks passed.
        why: what failed, a sentence; empty if sure.
    """

    homography: Matrix
    score: float
    lead: float
    margin: float
    agreement: float
    overlap: float
    sure: bool
    why: str = ""


def align(
    frames: Sequence[tuple[Array, Array]],
    *,
    start: Matrix | None = None,
    fov_ratio: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Alignment:
    """Estimates the homography from the infrared to the visible camera.

    Args:
        frames: pairs of visible (H, W) and infrared (h, w) luminance in [0, 1], float32, of one fixed rig, in the order
            of time. All visible frames have one size, and all infrared frames.
        start: a homography infrared -> visible to refine, in place of the search; wrong by up to 5 % of the width.
        fov_ratio: width of the infrared camera's field of view divided by the visible's, known to about 10 %.
        progress: is called with the share that is done, 0 to 1.

    Raises:
        ValueError: no frames, or frames of different sizes.
        ImportError: OpenCV is not installed.
    """
    require_opencv()
    report = progress or (lambda share: None)
    views = Views([frames[number] for number in spread(len(frames), REFINED)])
    few = views.subset(spread(len(views), SEARCHED))
    for name, pictures in (("visible", views.visible), ("infrared", views.infrared)):
        if all(picture.std() < FLAT for picture in pictures):
            nothing = views.from_canvas(np.eye(3))
            return Alignment(nothing, 0.0, 0.0, 0.0, np.inf, 0.0, False, f"the {name} picture is one even area")
    if start is not None:
        places = [views.to_canvas(start)]
        best, _, _ = best_of(few, [places[0], best_shift(few, places[0]) @ places[0]])
    else:
        limits = UNKNOWN if fov_ratio is None else (fov_ratio / TOLERANCE, fov_ratio * TOLERANCE)
        results = []
        for number, (side, step) in enumerate(GRIDS if fov_ratio is None else NARROW_GRIDS):
            found = distinct_candidates(search(few, limits, side, step), CANDIDATES, few)
            results.append(best_of(few, [candidate.homography for candidate in found]))
            report(0.3 + 0.3 * number)
            if results[-1][1] > LEAD and results[-1][2] > MARGIN:
                break
        best, _, _ = max(results, key=lambda result: result[1])
    report(0.7)
    homography = refine_fully(views, few, best)
    report(0.9)
    lead, margin = verify(few, homography, 640)
    agreement = corner_distance(*fit_halves(views, homography), views)
    share = overlap(homography, views)
    value = score(few, homography)
    why = doubt(value, lead, margin, agreement, share, len(views) == 1)
    report(1.0)
    return Alignment(views.from_canvas(homography), value, lead, margin, agreement, share, not why, why)


def best_of(views: Views, places: Sequence[Matrix]) -> tuple[Matrix, float, float]:
    """The one of several homographies that stands out most after a refinement, with its lead and margin."""
    refined = [refine(views, place, COARSE) for place in places]
    return max(((place, *verify(views, place)) for place in refined), key=lambda result: result[1])


def doubt(value: float, lead: float, margin: float, agreement: float, share: float, one_pair: bool) -> str:
    """Why an alignment is not sure; empty if it is."""
    evidence = (
        EVIDENCE["margin"] * margin
        + EVIDENCE["log_agreement"] * np.log(np.clip(agreement, 0.3, 20))
        + EVIDENCE["score"] * value
        + EVIDENCE["constant"]
    )
    agree = agreement < AGREEMENT or one_pair
    if evidence > 0 and lead > LEAD and agree and share > OVERLAP:
        return ""
    if lead < LEAD:
        return f"edges of the two pictures coincide hardly better than by chance ({lead:.1f} standard deviations)"
    if not agree:
        return f"two halves of the frames disagree by {agreement:.0f} pixels"
    if share < OVERLAP:
        return f"only {share:.0%} of the smaller view would lie in the other one"
    return f"another place fits almost as well ({margin:.1f} standard deviations behind)"


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` numbers below `count`, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def distinct_candidates(found: Sequence[Candidate], count: int, views: Views) -> list[Candidate]:
    """The best candidates that lie at least 30 pixels apart."""
    kept: list[Candidate] = []
    for candidate in found:
        if all(corner_distance(candidate.homography, other.homography, views) > 30 for other in kept):
            kept.append(candidate)
            if len(kept) == count:
                break
    return kept


def corner_distance(first: Matrix, second: Matrix, views: Views) -> float:
    """Largest distance of the corners of the infrared picture under two homographies, in pixels of the canvas."""
    points = corners(views.infrared_size)
    return float(np.linalg.norm(transform(points, first) - transform(points, second), axis=1).max())


def overlap(homography: Matrix, views: Views) -> float:
    """Share of the infrared picture that lies in the visible one, or the reverse, whichever is larger."""
    forward = share_inside(homography, views.infrared_size, views.visible_size)
    return max(forward, share_inside(np.linalg.inv(homography), views.visible_size, views.infrared_size))


def share_inside(homography: Matrix, source: tuple[int, int], target: tuple[int, int]) -> float:
    """Share of a picture of size `source` (H, W) that a homography maps into one of size `target`."""
    height, width = source
    x, y = np.meshgrid(np.linspace(0, width - 1, 41), np.linspace(0, height - 1, 41))
    moved = np.column_stack([x.ravel(), y.ravel(), np.ones(x.size)]) @ (homography / homography[2, 2]).T
    points, limit = moved[:, :2] / moved[:, 2:], np.array(target[::-1]) - 1
    return float(((points >= 0) & (points <= limit) & (moved[:, 2:] > 0)).all(1).mean())
