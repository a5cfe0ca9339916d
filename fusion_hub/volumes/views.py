"""A picture to check a fusion by: three orthogonal views of both volumes, their fusion, and a checkerboard."""

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont

from fusion_hub.image.luminance import quantize
from fusion_hub.volumes.grids import AlignedPair
from fusion_hub.volumes.volume import Volume

_SIDE, _GAP, _TITLE = 256, 6, 22  # pixels
_SQUARES = 8
_SHOWN = 0.1


def draw_views(pair: AlignedPair, fused: Volume, colors: sitk.Image | None = None) -> Image.Image:
    """Axial, coronal and sagittal views through the middle of the anatomy, each as large in mm as the others.

    Columns: the volume that gives the grid, the other one on it, the fusion (in color if given), and a checkerboard of
    the first two. The patient's right is on the left, the head is up.
    """
    anatomy, other = (_upright(values, pair.grid) for values in (pair.anatomy, pair.other * pair.covered))
    spacing = anatomy[1]
    shown = [anatomy[0], other[0], _upright(fused.array, pair.grid)[0]]
    if colors is not None:
        shown[2] = sitk.GetArrayFromImage(sitk.DICOMOrient(colors, "LPS")).astype(np.float32) / 255
    center = _center(anatomy[0])
    longest = max(size * mm for size, mm in zip(anatomy[0].shape, spacing, strict=True))
    names = [pair.sources[0].modality or "first", pair.sources[1].modality or "second", "fused", "checkerboard"]
    width, height = 4 * (_SIDE + _GAP) + _GAP, 3 * (_SIDE + _GAP) + _GAP + _TITLE
    sheet = Image.new("RGB", (width, height))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, name in enumerate(names):
        draw.text((_GAP + column * (_SIDE + _GAP), 2), name, font=font, fill="white")
    for row in range(3):
        views = [_view(values, row, center[row], spacing, longest) for values in shown]
        for column, view in enumerate([*views, _checkerboard(views[0], views[1])]):
            left, top = _GAP + column * (_SIDE + _GAP), _TITLE + _GAP + row * (_SIDE + _GAP)
            sheet.paste(view, (left + (_SIDE - view.width) // 2, top + (_SIDE - view.height) // 2))
    return sheet


def _upright(values: np.ndarray, grid: sitk.Image) -> tuple[np.ndarray, tuple[float, ...]]:
    """Slices from feet to head, rows from front to back, columns from right to left; and their distances in mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values, dtype=np.float32))
    image.CopyInformation(grid)
    turned = sitk.DICOMOrient(image, "LPS")
    return sitk.GetArrayFromImage(turned), turned.GetSpacing()[::-1]


def _center(values: np.ndarray) -> tuple[int, ...]:
    places = np.argwhere(values > _SHOWN)
    middle = places.mean(axis=0) if len(places) else np.array(values.shape) / 2
    return tuple(int(place) for place in middle)


def _view(values: np.ndarray, axis: int, at: int, spacing: tuple[float, ...], longest: float) -> Image.Image:
    plane = np.take(values, at, axis=axis)
    plane = plane if axis == 0 else plane[::-1]  # the head up
    down, across = (mm for number, mm in enumerate(spacing) if number != axis)
    size = [max(1, round(_SIDE * n * mm / longest)) for n, mm in zip(plane.shape[1::-1], (across, down), strict=True)]
    return Image.fromarray(quantize(plane)).convert("RGB").resize((size[0], size[1]), Image.Resampling.BILINEAR)


def _checkerboard(first: Image.Image, second: Image.Image) -> Image.Image:
    one, two = np.asarray(first), np.asarray(second)
    rows, columns = (np.arange(side) * _SQUARES // _SIDE for side in one.shape[:2])
    odd = (rows[:, None] + columns[None, :]) % 2 == 1
    return Image.fromarray(np.where(odd[..., None], two, one))
