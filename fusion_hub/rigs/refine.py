"""Refinement of a homography by block matching and a robust fit; scores of a homography."""

from collections.abc import Sequence
from dataclasses import dataclass

import lazy_loader
import numpy as np

from .features import Array, Matrix, orientation_field, shrink, warp, warped_mask
from .views import Views

cv2 = lazy_loader.load("cv2")


HALVES = ((320, 64, 16), (480, 56, 8))  # rounds of `fit_halves`


@dataclass(frozen=True)
class Matches:
    """Where blocks of the warped infrared picture lie in the visible one, in pixels of one level."""

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


def match_blocks(
    views: Views, homography: Matrix, side: int, block: int, radius: int, grid: tuple[int, int] = (11, 9)
) -> Matches | None:
    """Searches each block within `radius`; correlation surfaces are added over the frames. None: too few blocks."""
    to_level, size = views.level(side)
    height, width = size
    block = min(block, height // 2 * 2 - 2, width // 2 * 2 - 2)
    half = block // 2
    mask = overlap_mask(views, homography, side)
    columns = np.linspace(half, width - 1 - half, grid[0]).round().astype(int)
    rows = np.linspace(half, height - 1 - half, grid[1]).round().astype(int)
    points = [(x, y) for y in rows for x in columns if mask[y - half : y + half, x - half : x + half].mean() > 0.6]
    if len(points) < 6:
        return None
    window = 2 * radius + 1
    surfaces = np.zeros((len(points), window, window), np.float32)
    for visible, infrared in zip(views.visible, views.infrared, strict=True):
        field = np.pad(orientation_field(shrink(visible, size)), ((radius, radius), (radius, radius), (0, 0)))
        moving = orientation_field(warp(infrared, to_level @ homography, size)) * mask[..., None]
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


def fit(matches: Matches, width: int, threshold: float = 1.5) -> Matrix:
    """Homography from matches by iteratively reweighted least squares (Geman and McClure), graduated.

    Priors keep it near a pair of cameras with square pixels and roughly parallel axes. Their standard deviations are
    relative to half the width: perspective 0.02, shear and aspect 0.01, scale 0.25, rotation 0.15.
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
    for step in range(8):
        spread = max(threshold, 10 * 0.65**step) / unit
        divisor = 1 + points @ solution[6:8]
        predicted = np.stack(
            [(points @ solution[:2] + solution[2]) / divisor, (points @ solution[3:5] + solution[5]) / divisor], 1
        )
        robust = weights / (1 + ((predicted - found) ** 2).sum(1) / spread**2) ** 2
        share = robust / divisor**2 / max(2.0 / unit, spread / 2) ** 2
        tight = 1 if step >= 4 else (0.3 if step >= 2 else 0.03)
        stiffness = [
            1 / (deviation * (tight if number < 6 else 1)) ** 2 for number, (_, _, deviation) in enumerate(priors)
        ]
        factors = np.concatenate([share, share, stiffness])
        solution = np.linalg.solve(
            system.T @ (system * factors[:, None]) + 1e-9 * np.eye(8), system.T @ (factors * right)
        )
    fitted = np.append(solution, 1).reshape(3, 3)
    norm = np.array([[1 / unit, 0, -center[0] / unit], [0, 1 / unit, -center[1] / unit], [0, 0, 1]])
    return np.linalg.inv(norm) @ fitted @ norm


def refine(views: Views, homography: Matrix, rounds: Sequence[tuple[int, int, int]]) -> Matrix:
    """Rounds of block matching and fitting, each with a canvas side, a block and a radius in pixels of it."""
    for side, block, radius in rounds:
        homography = refine_round(views, homography, side, block, radius)
    return homography


def refine_round(
    views: Views, homography: Matrix, side: int, block: int, radius: int, used: slice = slice(None)
) -> Matrix:
    """One round, from the blocks `used`; the homography itself if there are too few of them."""
    to_level, (_, width) = views.level(side)
    matches = match_blocks(views, homography, side, block, radius)
    if matches is None:
        return homography
    matches = Matches(matches.points[used], matches.found[used], matches.weights[used])
    result = np.linalg.inv(to_level) @ fit(matches, width) @ to_level @ homography
    return result / result[2, 2]


def fit_halves(views: Views, homography: Matrix) -> tuple[Matrix, Matrix]:
    """Two estimates near a homography: from the first and second half of the frames, or of one pair's blocks."""
    half = len(views) // 2
    if half:
        parts = views.subset(range(half)), views.subset(range(half, len(views)))
        return refine(parts[0], homography, HALVES), refine(parts[1], homography, HALVES)
    first = second = homography
    for side, block, radius in HALVES:
        first = refine_round(views, first, side, block, radius, slice(0, None, 2))
        second = refine_round(views, second, side, block, radius, slice(1, None, 2))
    return first, second
