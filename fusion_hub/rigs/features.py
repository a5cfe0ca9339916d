"""Features in which a thermal and a visible picture look alike, and resampling on a common canvas.

Edges lie in the same places in both pictures, but their sign and strength differ. The field used here is the direction
of the gradient at double angle, so that opposite gradients agree (Bigün and Granlund, "Optimal orientation detection of
linear symmetry", ICCV 1987), divided by the local strength of the edges.
"""

from importlib.util import find_spec

import lazy_loader
import numpy as np
from numpy.typing import NDArray

cv2 = lazy_loader.load("cv2")

Array = NDArray[np.float32]
Matrix = NDArray[np.floating]

FLOOR = 1.5  # strength of an edge that counts half, in medians of the picture


def require_opencv() -> None:
    """Raise an ImportError that names the extra where OpenCV is missing."""
    if find_spec("cv2") is None:
        raise ImportError("aligning two cameras needs OpenCV: pip install 'fusion-hub[rigs]'")


def scaling(width: float, height: float | None = None) -> Matrix:
    """Homography of a resize by these factors, between pixel centers, as in `cv2.resize`."""
    height = width if height is None else height
    return np.array([[width, 0, 0.5 * width - 0.5], [0, height, 0.5 * height - 0.5], [0, 0, 1]])


def center_fit(visible_size: tuple[int, int], infrared_size: tuple[int, int]) -> Matrix:
    """The infrared picture as large as fits into the visible one, in its middle: a homography, sizes (H, W)."""
    factor = min(seen / warm for seen, warm in zip(visible_size, infrared_size, strict=True))
    x, y = (
        (seen - 1 - factor * (warm - 1)) / 2 for seen, warm in zip(visible_size[::-1], infrared_size[::-1], strict=True)
    )
    return np.array([[factor, 0, x], [0, factor, y], [0, 0, 1]])


def transform(points: Matrix, homography: Matrix) -> Matrix:
    """Points (N, 2) after a homography."""
    moved = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return moved[:, :2] / moved[:, 2:]


def corners(size: tuple[int, int]) -> Matrix:
    """Centers of the corner pixels of a picture of `size` (H, W), shape (4, 2)."""
    height, width = size
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)


def shrink(picture: Array, size: tuple[int, int]) -> Array:
    """`picture` at `size` (H, W), averaged over areas where it shrinks."""
    if picture.shape == size:
        return picture
    smaller = size[0] < picture.shape[0]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def warp(picture: Array, homography: Matrix, size: tuple[int, int]) -> Array:
    """`picture` on a canvas of `size` (H, W), blurred first where it shrinks."""
    factor = abs(np.linalg.det(homography[:2, :2])) ** 0.5
    if factor < 0.8:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.45 * (1 / factor**2 - 1) ** 0.5)
    return cv2.warpPerspective(picture, homography, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def warped_mask(mask: NDArray[np.uint8], homography: Matrix, size: tuple[int, int], erode: int) -> Array:
    """1 where the canvas sees valid pixels (`mask` 255), `erode` pixels away from invalid ones."""
    warped = cv2.warpPerspective(mask, homography, size[::-1], flags=cv2.INTER_LINEAR)
    valid = (warped > 250).astype(np.uint8)
    kernel = np.ones((2 * erode + 1, 2 * erode + 1), np.uint8)
    return cv2.erode(valid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1).astype(np.float32)


def valid_pixels(picture: Array) -> NDArray[np.uint8]:
    """255 inside the convex hull of a picture's content, 0 in a constant border such as a warp leaves."""
    content = cv2.dilate(picture, np.ones((3, 3))) - cv2.erode(picture, np.ones((3, 3))) > 1.5 / 255
    content = cv2.morphologyEx(content.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    if content.mean() < 0.05:
        return np.full(picture.shape, 255, np.uint8)
    hull = cv2.convexHull(np.argwhere(content)[:, ::-1].astype(np.int32))
    mask = np.zeros(picture.shape, np.uint8)
    cv2.fillConvexPoly(mask, hull, 255)
    margin = mask.mean() / 255
    return mask if margin < 0.995 else np.full(picture.shape, 255, np.uint8)


def orientation_field(picture: Array, sigma: float = 1.0, smooth: float = 1.5, detail: float = 0.0) -> Array:
    """Local direction of edges, (H, W, 2): cosine and sine of twice its angle, times a strength of 0 to 1.

    Args:
        picture: luminance, (H, W).
        sigma: blur before the gradient, in pixels.
        smooth: blur of the field, in pixels.
        detail: subtract the field blurred by this many pixels; 0 keeps it.
    """
    blurred = cv2.GaussianBlur(picture, (0, 0), sigma)
    x = cv2.Sobel(blurred, cv2.CV_32F, 1, 0)
    y = cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
    strength = cv2.magnitude(x, y)
    divisor = strength + 1e-9
    parts = cv2.GaussianBlur(cv2.merge([(x * x - y * y) / divisor, 2 * x * y / divisor, strength]), (0, 0), smooth)
    strength = parts[..., 2]
    result = parts[..., :2] / (strength + FLOOR * np.median(strength) + 1e-5)[..., None]
    return result - cv2.GaussianBlur(result, (0, 0), detail) if detail else result
