"""Mutual information of two volumes as a function of where one lies over the other, the same in both directions.

Maes, Collignon, Vandermeulen, Marchal, Suetens, "Multimodality image registration by maximization of mutual
information", IEEE TMI 16(2), 1997, by Powell's method as there. Points around the tissue of each volume are looked up
in the other one, and both mutual informations are added: alone, each has ridges of its own, on which a search stops
millimeters from the maximum of the sum. The points lie anywhere within voxels, since at voxel centers only one of the
two volumes is interpolated and the grids leave their pattern in the function (Pluim, Maintz, Viergever, "Interpolation
artefacts in mutual information-based image registration", CVIU 77, 2000). Each sample is shared among the four nearest
bins.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Linear = tuple[Floats, Floats]  # matrix (3, 3) and offset (3,), mm: points of the fixed volume to the moving one

BINS = 32
RADIUS = 80.0  # mm, of a head: by how much a radian moves it
SMALLEST_SHARE = 0.5  # of the points in the field of view of the other volume; fewer count in proportion


@dataclass(frozen=True, eq=False)
class Sampled:
    """One volume, and the points of it that are compared.

    Attributes:
        array: `(D, H, W)`, 0 to 1.
        to_index, origin: mm to index (x, y, z).
        points: `(N, 3)`, mm.
        values: `(N,)`, of the array at the points.
    """

    array: NDArray[np.float32]
    to_index: Floats
    origin: Floats
    points: Floats
    values: Floats

    def at(self, points: Floats) -> Floats:
        """Values at points in mm, linear; negative outside."""
        index = ((points - self.origin) @ self.to_index.T)[:, ::-1]
        values: Floats = map_coordinates(self.array, index.T, np.float64, order=1, mode="constant", cval=-1.0)
        return values


def sample(image: sitk.Image, mask: sitk.Image, count: int, seed: int) -> Sampled:
    """At most `count` random points of `image` (0 to 1) within `mask`, a mask on its grid."""
    random = np.random.default_rng(seed)
    voxels = np.argwhere(sitk.GetArrayViewFromImage(mask))
    count = min(count, len(voxels))
    voxels = voxels[np.sort(random.choice(len(voxels), count, replace=False))]
    index = np.clip(voxels + random.uniform(-0.5, 0.5, voxels.shape), 0, np.array(image.GetSize()[::-1]) - 1)
    to_mm = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    array, origin = sitk.GetArrayFromImage(image), np.array(image.GetOrigin())
    values = map_coordinates(array, index.T, np.float64, order=1)
    return Sampled(array, np.linalg.inv(to_mm), origin, index[:, ::-1] @ to_mm.T + origin, values)


def mutual_information(first: Floats, second: Floats) -> float:
    """Mutual information of two sets of values, `(N,)` each, 0 to 1, in nats."""
    cells, parts = [], []
    for values in (first, second):
        scaled = np.clip(values, 0, 1) * (BINS - 1)
        cell = np.minimum(scaled.astype(np.intp), BINS - 2)
        cells.append(cell)
        parts.append((1 - (scaled - cell), scaled - cell))
    corner, joint = cells[0] * BINS + cells[1], np.zeros(BINS * BINS)
    for row in (0, 1):
        for column in (0, 1):
            joint += np.bincount(corner + row * BINS + column, parts[0][row] * parts[1][column], BINS * BINS)
    joint = joint.reshape(BINS, BINS) / len(first)
    alone = np.outer(joint.sum(1), joint.sum(0))
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / alone[filled])).sum())


@dataclass(frozen=True, eq=False)
class Similarity:
    """The sum of both mutual informations, for one grid."""

    fixed: Sampled
    moving: Sampled

    def __call__(self, place: Linear) -> float:
        matrix, offset = place
        back = np.linalg.inv(matrix)
        total = 0.0
        for source, target, seen in (
            (self.fixed, self.moving, self.fixed.points @ matrix.T + offset),
            (self.moving, self.fixed, (self.moving.points - offset) @ back.T),
        ):
            values = target.at(seen)
            inside = values >= 0
            share = float(inside.mean())
            if share > 0:
                information = mutual_information(source.values[inside], values[inside])
                total += information * min(1.0, share / SMALLEST_SHARE)
        return total

    def maximize(self, place: Linear, center: Floats, step: float, tolerance: float, affine: bool = False) -> Linear:
        """The nearest maximum.

        Args:
            center: `(3,)`, mm, of the rotations.
            step: mm, of the first tries in each direction.
            tolerance: relative gain of a round through all directions below which the search ends.
            affine: search among 12 parameters instead of 6.
        """
        count = 12 if affine else 6
        result = minimize(
            lambda change: -self(_changed(place, center, change)),
            np.zeros(count),
            method="Powell",
            options={"direc": np.eye(count) * step, "xtol": 0.05, "ftol": tolerance, "maxfev": 400 * count},
        )
        return _changed(place, center, result.x)


def _changed(place: Linear, center: Floats, change: Floats) -> Linear:
    """A place after a shift and a rotation, or a linear map, about the center; `change` in mm, rotations at RADIUS."""
    shift, linear = change[:3], change[3:] / RADIUS
    if len(linear) == 9:
        turn = np.eye(3) + linear.reshape(3, 3)
    else:
        turn = np.reshape(sitk.Euler3DTransform((0.0, 0.0, 0.0), *linear.tolist()).GetMatrix(), (3, 3))
    matrix, offset = place
    return matrix @ turn, matrix @ (center + shift - turn @ center) + offset
