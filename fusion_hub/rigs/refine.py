"""Refinement of a homography by block matching and a robust fit; scores of a homography."""

from collections.abc import Sequence
from dataclasses import dataclass

import lazy_loader
import numpy as np

from fusion_hub.rigs.features import Array, Matrix, orientation_field, shrink, warp, warped_mask
from fusion_hub.rigs.views import Views

cv2 = lazy_loader.load("cv2")


@dataclass(frozen=True)
class Round:
    """One round of block matching, in pixels of a canvas."""

    side: int  # longer side of the canvas
    block: int
    radius: int  # of the search
    grid: tuple[int, int] = (11, 9)  # columns and rows of blocks
    sigma: float = 1.0  # of the orientation field, as `smooth`
    smooth: float = 1.5


COARSE = (Round(320, 64, 16), Round(320, 48, 10))
FINE = (Round(480, 56, 8), Round(640, 64, 6))
EXACT = (Round(640, 64, 3, (25, 19), 0.7, 1.0),) * 2
HALVES = (Round(320, 64, 16), Round(480, 56, 8))
ONE_CAMERA = 0.5 / 640  # median residual as a share of the canvas


@dataclass(frozen=True)
class Matches:
    """Where blocks of the warped infrared picture lie in the visible one, in pixels of one canvas."""

    points: Matrix  # (N, 2), centers of the blocks
    found: Matrix  # (N, 2)
    weights: Matrix  # (N,)


def score(views: Views, homography: Matrix, side: int = 320) -> float:
    """Normalized correlation of the orientation fields over the overlap, of all frames together."""
    to_level, size = views.level(side)
    mask = overlap_mask(views, homography, side)[..., None]
    sums = np.zeros(3)
    for visible, infrared in zip(views.visible, views.infrared, strict=True):
        first = orientation_field(shrink(visible, size)) * mask
        second = orientation_field(warp(infrared, to_level @ homography, size)) * mask
        sums += [(first * second).sum(), (first**2).sum(), (second**2).sum()]
    return float(sums[0] / np.sqrt(sums[1] * sums[2] + 1e-6))


def overlap_mask(views: Views, homography: Matrix, side: int, erode: int = 3) -> Array:
    to_level, size = views.level(side)
    return warped_mask(views.infrared_mask, to_level @ homography, size, erode) * views.small_mask(side)


def match_blocks(views: Views, homography: Matrix, one: Round) -> Matches | None:
    """Searches each block; correlation surfaces are added over the frames. None: fewer than 6 blocks in the overlap."""
    to_level, size = views.level(one.side)
    height, width = size
    radius = one.radius
    block = min(one.block, height // 2 * 2 - 2, width // 2 * 2 - 2)
    half = block // 2
    mask = overlap_mask(views, homography, one.side)
    columns = np.linspace(half, width - 1 - half, one.grid[0]).round().astype(int)
    rows = np.linspace(half, height - 1 - half, one.grid[1]).round().astype(int)
    points = [(x, y) for y in rows for x in columns if mask[y - half : y + half, x - half : x + half].mean() > 0.6]
    if len(points) < 6:
        return None
    window = 2 * radius + 1
    surfaces = np.zeros((len(points), window, window), np.float32)
    for visible, infrared in zip(views.visible, views.infrared, strict=True):
        field = np.pad(
            orientation_field(shrink(visible, size), one.sigma, one.smooth),
            ((radius, radius), (radius, radius), (0, 0)),
        )
        moving = orientation_field(warp(infrared, to_level @ homography, size), one.sigma, one.smooth) * mask[..., None]
        energy = cv2.boxFilter((field**2).sum(-1), -1, (block, block), normalize=False, anchor=(0, 0))
        for surface, (x, y) in zip(surfaces, points, strict=True):
            template = moving[y - half : y + half, x - half : x + half]
            place = field[y - half : y + half + 2 * radius, x - half : x + half + 2 * radius]
            norm = energy[y - half : y - half + window, x - half : x - half + window]
            surface += cv2.matchTemplate(place, template, cv2.TM_CCORR) / np.sqrt(
                np.maximum(norm, 1e-3) * ((template**2).sum() + 1e-3)
            )
    surfaces /= len(views.visible)
    found, weights = zip(*(peak(surface, radius) for surface in surfaces), strict=True)
    start = np.array(points, float)
    return Matches(start, start + np.array(found), np.array(weights))


def peak(surface: Array, radius: int) -> tuple[tuple[float, float], float]:
    """Shift (x, y) of the highest value, by parabolas, and a weight: its value times its lead over any other peak."""
    row, column = np.unravel_index(surface.argmax(), surface.shape)
    value = surface[row, column]
    others = surface.copy()
    others[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = -1
    lead = value - others.max()
    shift = np.zeros(2)
    if 0 < row < 2 * radius and 0 < column < 2 * radius:
        shift = np.array(
            [parabola(*surface[row, column - 1 : column + 2]), parabola(*surface[row - 1 : row + 2, column])]
        )
    else:
        lead *= 0.2
    return (column - radius + shift[0], row - radius + shift[1]), float(max(lead, 0) * max(value, 0) + 1e-4)


def parabola(before: float, top: float, after: float) -> float:
    return float(np.clip(0.5 * (before - after) / (before - 2 * top + after - 1e-9), -0.5, 0.5))


def fit(matches: Matches, width: int, threshold: float = 1.5) -> tuple[Matrix, float]:
    """Homography from matches by iteratively reweighted least squares (Geman and McClure), graduated.

    Priors keep it near a pair of cameras with square pixels and roughly parallel axes. Their standard deviations are
    relative to half the width: perspective 0.02, shear and aspect 0.01, scale 0.25, rotation 0.15. The scale of the
    residuals is `threshold` pixels, or less where most matches fit better, as two pictures of one camera do.

    Returns:
        The homography, and the median residual in pixels.
    """
    unit = width / 2
    center = np.array([width / 2, width * 0.4])
    points, found = (matches.points - center) / unit, (matches.found - center) / unit
    weights = np.minimum(matches.weights / np.percentile(matches.weights, 90), 1)
    moves = found - points
    votes = np.exp(-((moves[:, None] - moves) ** 2).sum(-1) / (2 * (4 / unit) ** 2)) @ weights
    x, y = points.T
    u, v = found.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate(
        [
            np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1),
            np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1),
        ]
    )
    priors = [
        ([1, 0, 0, 0, -1, 0, 0, 0], 0, 0.01),
        ([0, 1, 0, 1, 0, 0, 0, 0], 0, 0.01),
        ([0, 0, 0, 0, 0, 0, 1, 0], 0, 0.02),
        ([0, 0, 0, 0, 0, 0, 0, 1], 0, 0.02),
        ([0.5, 0, 0, 0, 0.5, 0, 0, 0], 1, 0.25),
        ([0, 0.5, 0, -0.5, 0, 0, 0, 0], 0, 0.15),
    ]
    system = np.concatenate([rows, np.array([row for row, _, _ in priors], float)])
    right = np.concatenate([u, v, [value for _, value, _ in priors]])
    shift = moves[votes.argmax()]
    solution = np.array([1, 0, shift[0], 0, 1, shift[1], 0, 0], float)
    for step in range(10):
        divisor = 1 + points @ solution[6:8]
        predicted = np.stack(
            [(points @ solution[:2] + solution[2]) / divisor, (points @ solution[3:5] + solution[5]) / divisor], 1
        )
        residuals = np.linalg.norm(predicted - found, axis=1)
        spread = max(threshold, 10 * 0.65**step) / unit
        if step >= 6:
            spread = float(np.clip(2 * np.median(residuals), 0.2 / unit, threshold / unit))
        share = weights / (1 + residuals**2 / spread**2) ** 2 / divisor**2 / (1.3 * spread) ** 2
        tight = 1 if step >= 4 else (0.3 if step >= 2 else 0.03)
        stiffness = [
            1 / (deviation * (tight if number < 6 else 1)) ** 2 for number, (*_, deviation) in enumerate(priors)
        ]
        factors = np.concatenate([share, share, stiffness])
        solution = np.linalg.solve(
            system.T @ (system * factors[:, None]) + 1e-9 * np.eye(8), system.T @ (factors * right)
        )
    fitted = np.append(solution, 1).reshape(3, 3)
    norm = np.array([[1 / unit, 0, -center[0] / unit], [0, 1 / unit, -center[1] / unit], [0, 0, 1]])
    return np.linalg.inv(norm) @ fitted @ norm, float(np.median(residuals) * unit)


def refine(views: Views, homography: Matrix, rounds: Sequence[Round]) -> Matrix:
    for one in rounds:
        homography, _ = refine_round(views, homography, one)
    return homography


def refine_round(views: Views, homography: Matrix, one: Round, used: slice = slice(None)) -> tuple[Matrix, float]:
    """The homography after a round, from the blocks `used`, and the median residual as a share of the canvas."""
    to_level, (_, width) = views.level(one.side)
    matches = match_blocks(views, homography, one)
    if matches is None:
        return homography, np.inf
    change, residual = fit(Matches(matches.points[used], matches.found[used], matches.weights[used]), width)
    result = np.linalg.inv(to_level) @ change @ to_level @ homography
    return result / result[2, 2], residual / one.side


def refine_fully(views: Views, few: Views, homography: Matrix) -> Matrix:
    """Fine rounds on all frames, then exact ones on a few, if blocks match as well as those of one camera do."""
    for one in FINE:
        homography, residual = refine_round(views, homography, one)
    return refine(few, homography, EXACT) if residual < ONE_CAMERA else homography


def fit_halves(views: Views, homography: Matrix) -> tuple[Matrix, Matrix]:
    """Two estimates near a homography: from the first and second half of the frames, or of one pair's blocks."""
    half = len(views) // 2
    if half:
        parts = views.subset(range(half)), views.subset(range(half, len(views)))
        return refine(parts[0], homography, HALVES), refine(parts[1], homography, HALVES)
    first = second = homography
    for one in HALVES:
        first, _ = refine_round(views, first, one, slice(0, None, 2))
        second, _ = refine_round(views, second, one, slice(1, None, 2))
    return first, second
