"""The infrared picture on the grid of the visible one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import lazy_loader
import numpy as np

from fusion_hub.rigs.features import Matrix, transform

cv2 = lazy_loader.load("cv2")

FADE = 0.08  # width of the soft border inside the infrared picture, as a share of its shorter side
MAX_SIDE = 32_766  # of pictures that OpenCV can resample
_ROWS = 256  # of the visible grid that are computed at a time
_NOWHERE = -1e4  # position of a pixel that the infrared camera does not see


@dataclass(frozen=True)
class Lens:
    """Distortion of a camera in the model of Brown and Conrady, as OpenCV's `calibrateCamera` gives it.

    Attributes:
        focal: focal lengths (fx, fy) in pixels.
        center: principal point (cx, cy) in pixels, at pixel centers.
        distortion: k1, k2, p1, p2, k3.
    """

    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: tuple[float, float, float, float, float]

    @property
    def matrix(self) -> Matrix:
        """The camera matrix, `(3, 3)`."""
        return np.array([[self.focal[0], 0, self.center[0]], [0, self.focal[1], self.center[1]], [0, 0, 1]])

    def undistort(self, points: Matrix) -> Matrix:
        """Points `(N, 2)` as recorded to where a camera without distortion shows them."""
        coefficients = np.array(self.distortion)
        return cv2.undistortPoints(points.reshape(-1, 1, 2), self.matrix, coefficients, P=self.matrix).reshape(-1, 2)

    def distort(self, points: Matrix) -> Matrix:
        """The inverse of `undistort`."""
        rays = np.column_stack([(points - self.center) / self.focal, np.ones(len(points))])
        zero = np.zeros(3)
        return cv2.projectPoints(rays, zero, zero, self.matrix, np.array(self.distortion))[0].reshape(-1, 2)

    def resized(self, width: float, height: float) -> "Lens":
        """The same lens after a resize of the pictures by two factors."""
        (fx, fy), (cx, cy) = self.focal, self.center
        center = ((cx + 0.5) * width - 0.5, (cy + 0.5) * height - 0.5)
        return Lens((fx * width, fy * height), center, self.distortion)


@dataclass(frozen=True, eq=False)
class Warp:
    """Resampling from one infrared size to one visible size; its tables are computed once, for any number of frames.

    Attributes:
        homography: infrared -> visible, `(3, 3)`, between pixel centers, both without lens distortion.
        visible_size, infrared_size: `(H, W)` and `(h, w)`.
        visible_lens, infrared_lens: of the cameras at these sizes; None without distortion.
    """

    homography: Matrix
    visible_size: tuple[int, int]
    infrared_size: tuple[int, int]
    visible_lens: Lens | None = None
    infrared_lens: Lens | None = None

    @cached_property
    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each visible pixel lies in the infrared picture: x and y, `(H, W)` float32 each."""
        height, width = self.visible_size
        x, y = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
        for top in range(0, height, _ROWS):
            rows = slice(top, min(top + _ROWS, height))
            points = self._to_infrared(np.mgrid[rows, :width][::-1].reshape(2, -1).T.astype(float))
            x[rows], y[rows] = points.T.reshape(2, -1, width)
        return x, y

    def _to_infrared(self, points: Matrix) -> Matrix:
        if self.visible_lens is not None:
            points = self.visible_lens.undistort(points)
        inverse = np.linalg.inv(self.homography)
        homogeneous = np.column_stack([points, np.ones(len(points))]) @ inverse.T
        # The same sign of depth as at the center of the infrared picture: others are behind the camera.
        center = self.homography @ [(self.infrared_size[1] - 1) / 2, (self.infrared_size[0] - 1) / 2, 1]
        behind = homogeneous[:, 2] * (inverse @ (center / center[2]))[2] <= 1e-12
        homogeneous[behind] = [_NOWHERE, _NOWHERE, 1]
        points = homogeneous[:, :2] / homogeneous[:, 2:]
        if self.infrared_lens is not None:
            # The polynomial folds back far outside of the picture.
            margin = max(self.infrared_size)
            far = (np.abs(points - self.infrared_lens.center) > 1.5 * margin).any(axis=1)
            points = self.infrared_lens.distort(points)
            points[far] = _NOWHERE
        return np.clip(points, _NOWHERE, -_NOWHERE + max(self.infrared_size))

    @cached_property
    def mask(self) -> np.ndarray:
        """Visible pixels that the infrared camera sees, `(H, W)` bool: up to the outer edges of its pixels."""
        (height, width), (x, y) = self.infrared_size, self.positions
        return (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)

    @cached_property
    def share(self) -> np.ndarray:
        """Weight of the infrared at each visible pixel: 0 outside, rising smoothly to 1 inside, `(H, W)` float32.

        It rises with the distance from visible pixels that the infrared camera does not see: where its view ends at the
        border of the visible picture or beyond, nothing is joined and nothing fades.
        """
        distance = cv2.distanceTransform(self.mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        ramp = np.clip(distance * self.shrinking / (FADE * min(self.infrared_size)), 0, 1)
        return ramp * ramp * (3 - 2 * ramp)

    @property
    def shrinking(self) -> float:
        """Infrared pixels to a visible one, each way, in the middle of the infrared picture."""
        (height, width), step = self.infrared_size, 1e-3
        x, y = (width - 1) / 2, (height - 1) / 2
        moved = transform(np.array([[x, y], [x + step, y], [x, y + step]]), self.homography)
        return float(abs(np.linalg.det((moved[1:] - moved[0]) / step)) ** -0.5)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Infrared values `(h, w)` on the visible grid, `(H, W)` of the same dtype and units.

        Bilinear, after a Gaussian against aliasing where the picture shrinks: never beyond the values of the picture.
        Outside of the infrared picture the nearest value of its border is repeated; see `mask`.
        """
        wide = values.dtype.kind in "iu" and values.dtype.itemsize > 2  # such counts are not exact in float32
        native = values.dtype in (np.uint8, np.float32, np.float64) and values.dtype.isnative
        working = values if native else values.astype(np.float64 if wide or values.dtype.itemsize > 4 else np.float32)
        if self.shrinking > 1.25:
            working = working.astype(np.float32) if working.dtype == np.uint8 else working
            sigma = 0.45 * (self.shrinking**2 - 1) ** 0.5
            working = cv2.GaussianBlur(working, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        out = cv2.remap(working, *self.positions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if values.dtype.kind == "f":
            out = out.astype(values.dtype, copy=False)
        elif out.dtype != values.dtype:
            limits = np.iinfo(values.dtype)
            out = np.clip(np.rint(out), limits.min, limits.max).astype(values.dtype)
        return out

    def apply_mask(self, valid: np.ndarray) -> np.ndarray:
        """Visible pixels whose value comes from valid infrared pixels `(h, w)` only, `(H, W)` bool."""
        return self.apply(valid.astype(np.float32)) > 0.999


def check_sides(*sizes: Sequence[int]) -> None:
    """Raise a ValueError for a picture that is too large to be resampled."""
    for size in sizes:
        if max(size) > MAX_SIDE:
            raise ValueError(
                f"a picture of {size[1]}x{size[0]} (width x height) cannot be aligned: the limit is {MAX_SIDE} pixels "
                "each way, so shrink it first"
            )
