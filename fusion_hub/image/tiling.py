"""Overlapping tiles for images of any size: split, run, blend, in bounded memory.

Pixels near the border of a tile differ from those of the whole image, within the receptive field of the network. They
get weight zero, and neighbors are cross-faded in the rest of their overlap, so that no seam is left: where two tiles
agree the result is exactly theirs, where they differ a little the change is smooth.

Arrays and tensors are handled alike, and nothing here imports torch: who gives a tensor has imported it.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Image = TypeVar("Image", bound=Union[np.ndarray, "Tensor"])


def pad_reflect(x: Image, size: tuple[int, int], *, center: bool = False) -> Image:
    """Pad `(..., H, W)` by reflection to at least `size`, at the bottom and right or evenly on all sides.

    Reflection repeats, so any size works, 1 x 1 too. Returns the same object where nothing is missing.

    Examples:
        >>> pad_reflect(np.array([[1, 2, 3]]), (1, 6))
        array([[1, 2, 3, 2, 1, 2]])
        >>> pad_reflect(np.array([[1, 2, 3]]), (1, 5), center=True)
        array([[2, 1, 2, 3, 2]])
    """
    for dim, wanted in zip((-2, -1), size, strict=True):
        length = x.shape[dim]
        if length < wanted:
            period = max(2 * (length - 1), 1)
            index = (np.arange(wanted) - ((wanted - length) // 2 if center else 0)) % period
            index = np.minimum(index, period - index)
            x = x.take(index, axis=dim) if isinstance(x, np.ndarray) else x.index_select(dim, _like(index, x))  # type: ignore[assignment]
    return x


def pad_to_multiple(x: Image, multiple: int) -> tuple[Image, tuple[int, int]]:
    """Pad the bottom and right of `(..., H, W)` by reflection to multiples of `multiple`.

    Returns the padded image (the same object where nothing is missing) and the original `(H, W)` for [`crop_to`].

    Examples:
        >>> padded, size = pad_to_multiple(np.zeros((1, 1, 5, 8)), 4)
        >>> padded.shape, crop_to(padded, size).shape
        ((1, 1, 8, 8), (1, 1, 5, 8))
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    height, width = x.shape[-2:]
    return pad_reflect(x, (height + -height % multiple, width + -width % multiple)), (height, width)


def crop_to(x: Image, size: tuple[int, int]) -> Image:
    """The top left `(H, W)` of `(..., H', W')`, as a view: the inverse of [`pad_to_multiple`]."""
    height, width = size
    if x.shape[-2] < height or x.shape[-1] < width:
        raise ValueError(f"cannot crop {x.shape[-2]} x {x.shape[-1]} to the larger {height} x {width}")
    return x[..., :height, :width]  # type: ignore[return-value]


@dataclass(frozen=True)
class Window:
    """One rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)


def tile_windows(height: int, width: int, tile: int, overlap: int, multiple: int) -> list[Window]:
    """Windows that cover a `height` x `width` image, row by row.

    Every origin is a multiple of `multiple`, so that a network that pools sees the same grid in each tile as in the
    whole image. Neighbours share at least `overlap` pixels. No window is larger than `tile`. Along each axis there are
    as few as that allows, and they are no larger than that number needs: all of one size, but for the last, which ends
    with the image. An image no larger than one tile is a single window.

    Args:
        height, width: size of the image in pixels.
        tile: largest side of a tile in pixels, a multiple of `multiple`.
        overlap: smallest number of pixels that neighbors share, less than half of `tile`.
        multiple: grid of the tile origins in pixels.

    Raises:
        ValueError: if a size does not fit these rules.

    Examples:
        >>> [(w.top, w.left) for w in tile_windows(64, 160, tile=64, overlap=16, multiple=16)]
        [(0, 0), (0, 48), (0, 96)]
        >>> [(w.left, w.width) for w in tile_windows(64, 144, tile=128, overlap=16, multiple=16)]
        [(0, 80), (64, 80)]
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} x {width} pixels has nothing to tile")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    if tile < 1 or tile % multiple:
        lower, upper = tile // multiple * multiple, max(1, math.ceil(tile / multiple)) * multiple
        nearest = f"{lower} or {upper}" if lower > 0 else f"{upper}"
        raise ValueError(f"tile must be a positive multiple of {multiple}, got {tile}: use {nearest}")
    if overlap < 0 or 2 * overlap >= tile:
        raise ValueError(f"overlap must be at least 0 and less than half of tile={tile}, got {overlap}")
    if tile - overlap < multiple:
        raise ValueError(
            f"tile - overlap must be at least multiple={multiple} so that tiles can advance, got {tile} - {overlap}: "
            f"use tile={math.ceil((multiple + overlap) / multiple) * multiple} or larger"
        )
    rows, columns = (_Axis.of(length, tile, overlap, multiple) for length in (height, width))
    return [
        Window(top, left, min(rows.side, height - top), min(columns.side, width - left))
        for top in rows.starts
        for left in columns.starts
    ]


def run_tiled(
    fn: Callable[[Image, Image, Window], Image],
    visible: Image,
    infrared: Image,
    *,
    tile: int,
    overlap: int,
    multiple: int,
    margin: int | None = None,
) -> Image:
    """Run `fn` on overlapping tiles and blend the results into one image.

    Needs memory for the float32 output and one tile, besides the inputs: the weights are products of two ramps, which
    sum to one along each axis. `fn` is called once for each window with views of the inputs; it pads them if its
    network needs that.

    Args:
        fn: `fn(visible_tile, infrared_tile, window)`, `(B, 1, h, w)` each, returns `(B, C, h, w)`.
        visible, infrared: `(B, 1, H, W)`, both arrays or both tensors.
        tile, overlap, multiple: as in [`tile_windows`].
        margin: pixels along a tile's inner borders that are thrown away; a network whose receptive field reaches no
            further than this gives the same image with and without tiles. At most `overlap // 2`; the rest of the
            overlap is the cross-fade. Default `overlap // 4`.

    Returns:
        `(B, C, H, W)`, float32, on the device of `visible`, not clamped.

    Raises:
        ValueError: if shapes differ, `fn` returns another size than it was given, or the tile geometry is impossible.
    """
    if visible.ndim != 4 or visible.shape != infrared.shape:
        raise ValueError(
            f"visible and infrared must be two (B, 1, H, W) images of one shape, got {tuple(visible.shape)} and "
            f"{tuple(infrared.shape)}"
        )
    margin = overlap // 4 if margin is None else margin
    if not 0 <= margin <= overlap // 2:
        raise ValueError(f"margin must be in 0..{overlap // 2} (half of overlap={overlap}), got {margin}")
    height, width = visible.shape[-2:]
    windows = tile_windows(height, width, tile, overlap, multiple)
    row_weights = _axis_weights(height, tile, overlap, multiple, margin)
    column_weights = _axis_weights(width, tile, overlap, multiple, margin)

    output: Any = None
    for window in windows:
        part = (..., window.rows, window.columns)
        result: Any = fn(visible[part], infrared[part], window)  # type: ignore[arg-type]
        if result.ndim != 4 or result.shape[-2:] != (window.height, window.width):
            raise ValueError(
                f"the tile function returned {tuple(result.shape)} for a tile of {window.height} x {window.width}: "
                "it must return (B, C, h, w) of the size that it was given"
            )
        if output is None:
            output = _like(np.zeros((*result.shape[:2], height, width), dtype=np.float32), visible)
        rows, columns = _like(row_weights[window.top], output), _like(column_weights[window.left], output)
        result = result if isinstance(result, np.ndarray) else result.to(output)
        output[part] += result * rows[:, None] * columns
    return output


def _like(array: np.ndarray, image: Any) -> Any:
    """The array as it is for an array; as a tensor on the device of a tensor."""
    return array if isinstance(image, np.ndarray) else sys.modules["torch"].from_numpy(array).to(image.device)


class _Axis(NamedTuple):
    """The tiles along one axis: their size, and their origins, multiples of `multiple`."""

    side: int
    starts: list[int]

    @classmethod
    def of(cls, length: int, tile: int, overlap: int, multiple: int) -> "_Axis":
        """The smallest tiles of which no more are needed than of those of `tile`; more than twice the overlap."""
        if length <= tile:
            return cls(tile, [0])
        count = len(_starts(length, tile, overlap, multiple))
        least = max((2 * overlap // multiple + 1) * multiple, multiple + overlap)
        least = math.ceil(max(least, (length + (count - 1) * overlap) / count) / multiple) * multiple
        for side in range(least, tile, multiple):
            starts = _starts(length, side, overlap, multiple)
            if len(starts) == count:
                return cls(side, starts)
        return cls(tile, _starts(length, tile, overlap, multiple))


def _starts(length: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """Origins along one axis that is longer than a tile, as evenly spaced as the grid allows."""
    last = math.ceil((length - tile) / multiple) * multiple  # the first origin from which a tile reaches the end
    stride = (tile - overlap) // multiple * multiple
    steps = math.ceil(last / stride)
    # Rounding down to the grid never makes a step longer than `stride`, which is on the grid itself.
    return [i * last // steps // multiple * multiple for i in range(steps + 1)]


def _axis_weights(length: int, tile: int, overlap: int, multiple: int, margin: int) -> dict[int, np.ndarray]:
    """One float32 ramp for each origin along an axis, `(size of the window,)`; at each pixel they sum to one."""
    # Raised cosine from 0 to 1, flat for the margin at both ends; with its mirror image it sums to one.
    position = np.arange(overlap) + 0.5 - margin
    ramp = max(overlap - 2 * margin, 1)  # an odd overlap that is all margin still changes over within one pixel
    fade = np.square(np.sin(0.5 * math.pi * np.clip(position / ramp, 0, 1)))
    weights = {}
    total = np.zeros(length)
    axis = _Axis.of(length, tile, overlap, multiple)
    for start in axis.starts:
        size = min(axis.side, length - start)
        weight = np.ones(size)
        if start > 0:
            weight[:overlap] *= fade
        if start + size < length:
            weight[size - overlap :] *= fade[::-1]
        total[start : start + size] += weight
        weights[start] = weight
    # Two neighbors that share exactly `overlap` already sum to one; evenly spaced ones may share more.
    return {start: (w / total[start : start + len(w)]).astype(np.float32) for start, w in weights.items()}
