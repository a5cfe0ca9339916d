"""Color scales: tables for numbers, and PET or SPECT over MRI in colors that stay readable as uptake.

Fusion keeps the chroma of the scan and replaces its luminance, so that equal colors no longer mean equal uptake.
[`overlay`] lays the colors of the scan over the gray MRI instead, and [`with_legend`] draws their scale beside it;
[`overlay_pair`] does both with files.
"""

import numpy as np
from PIL import Image
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from fusion_hub.image.color_scale import HEAT, ColorScale, with_legend
from fusion_hub.image.luminance import luma, quantize
from fusion_hub.image.processor import FusionImageProcessor, ImageInput, PairContext

_NONE, _OPAQUE = 0.05, 0.5  # places on the scale: no color below the first, the pure color from the second
_BIN = 8  # levels of a channel that count as one color
_RARE = 5e-5  # share of the pixels: rarer colors are noise, letters or the seams of resampling
_MOST = 1000  # colors
_HOP = 3.0  # power of distances: one long hop costs more than many short ones along the curve


def overlay(scan: np.ndarray, anatomy: np.ndarray) -> tuple[np.ndarray, ColorScale]:
    """PET or SPECT in color over a gray MRI or CT.

    Where there is no uptake the result is the anatomy, in the upper half of the scale it is the scan's own color, and
    between them a mixture. A gray scan gets colors by a scale of even lightness.

    A picture of a scan holds colors and no counts, so its scale is found again from the picture: the colors that occur
    form a curve, and the place of a color is its distance from the background along that curve. Luminance would not do:
    in the rainbow scale of many PET scanners yellow is brighter than red, which means more.

    Args:
        scan: `(H, W)` or `(H, W, 1)` of any number type, NaN where there is no data; or `(H, W, 3)` uint8, uint16, or
            float in [0, 1].
        anatomy: `(H, W)` or `(H, W, 3)` uint8, uint16, or float in [0, 1].

    Returns:
        `(H, W, 3)` uint8, and the scale of its colors.

    Raises:
        ValueError: the sizes differ, or the scan has a wrong number of channels.

    Examples:
        >>> pet, mri = np.array([[0, 100, 200]], np.uint8), np.full((1, 3), 90, np.uint8)
        >>> image, scale = overlay(pet, mri)
        >>> image[0, 0], image[0, 2], scale.limits
        (array([90, 90, 90], dtype=uint8), array([250, 208, 120], dtype=uint8), (0.0, 200.0))
    """
    if scan.shape[:2] != anatomy.shape[:2]:
        sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (scan, anatomy))
        raise ValueError(f"scan and anatomy are {sizes} pixels: give two images of one size")
    if scan.ndim not in (2, 3) or scan.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"scan has the shape {scan.shape}: give (H, W), (H, W, 1) or (H, W, 3)")
    if scan.ndim == 2 or scan.shape[2] == 1 or (np.ptp(scan, axis=2) == 0).all():
        scale, places = _gray_scale(scan.reshape(*scan.shape[:2], -1)[..., 0])
        colors = scale.at(places)
    else:
        colors = quantize(scan)
        scale, places = _own_scale(colors)
    opacity = np.clip((places - _NONE) / (_OPAQUE - _NONE), 0, 1)[..., None]
    gray = quantize(luma(anatomy)) if anatomy.dtype.kind == "f" else quantize(luma(quantize(anatomy)), white=255)
    gray = gray.astype(np.float32)[..., None]
    return quantize(gray + opacity * (colors - gray), white=255), scale


def overlay_pair(scan: ImageInput, anatomy: ImageInput) -> Image.Image:
    """[`overlay`] of two pictures of any kind that a pipeline takes, with its legend, as an 8-bit RGB image.

    Raises:
        ValueError, TypeError: as [`FusionImageProcessor.preprocess`].
    """
    luminance, gray, (context,) = FusionImageProcessor().preprocess(scan, anatomy)
    values = scan_values(luminance[0, 0].numpy(), context)
    return Image.fromarray(with_legend(*overlay(values, gray[0, 0].numpy())))


def scan_values(luminance: np.ndarray, context: PairContext) -> np.ndarray:
    """The scan for [`overlay`] from what [`FusionImageProcessor.preprocess`] gives: its colors, else its values."""
    low, high = context.limits
    return low + luminance * (high - low) if context.rgb is None else context.rgb


def _gray_scale(values: np.ndarray) -> tuple[ColorScale, np.ndarray]:
    """The colors of [`HEAT`] from the smallest to the largest value, reversed over a bright background; the places."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if np.nanmedian(_border(values[..., None])) > (low + high) / 2:
        low, high = high, low
    places = np.nan_to_num((values.astype(np.float64) - low) / ((high - low) or 1.0), nan=0, posinf=1, neginf=0)
    return ColorScale(np.array(HEAT, np.uint8), np.linspace(0, 1, len(HEAT)), (low, high)), places


def _own_scale(colors: np.ndarray) -> tuple[ColorScale, np.ndarray]:
    """The curve of the colors `(H, W, 3)` uint8 from that of the background on, and the place of each pixel."""
    packed = colors.reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1])
    packed, which, pixels = np.unique(packed, return_inverse=True, return_counts=True)
    distinct = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)
    _, cell = np.unique(distinct // _BIN @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    counts = np.bincount(cell, pixels)
    kept = np.argsort(-counts, kind="stable")[:_MOST]
    kept = kept[: max(1, int((counts[kept] > _RARE * colors[..., 0].size).sum()))]
    nodes = np.stack([np.bincount(cell, pixels * channel) / counts for channel in distinct.T], axis=1)[kept]
    tree = KDTree(nodes)
    start = int(np.argmin(luma(nodes[None])))
    edge, frequency = np.unique(tree.query(_border(colors))[1], return_counts=True)
    if frequency.max() > frequency.sum() / 2:  # a frame without tissue
        start = int(edge[frequency.argmax()])
    apart = cdist(nodes, nodes)
    costs, before = dijkstra(apart**_HOP, indices=start, return_predecessors=True)
    order, lengths = np.argsort(costs, kind="stable"), np.zeros(len(nodes))
    for node in order[1:]:
        lengths[node] = lengths[before[node]] + apart[before[node], node]
    lengths /= lengths.max() or 1.0
    path = [int(lengths.argmax())]  # the legend follows the way to the farthest color
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    path.reverse()
    distances, near = tree.query(distinct, k=[1, 2, 3][: len(nodes)])  # a color between nodes is between their places
    weights = 1 / (distances + 1e-3) ** 2
    places = (weights * lengths[near]).sum(1) / weights.sum(1)
    return ColorScale(quantize(nodes[path], white=255), lengths[path]), places[which].reshape(colors.shape[:2])


def _border(pixels: np.ndarray) -> np.ndarray:
    """The outermost pixels of `(H, W, C)`: `(N, C)`."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
