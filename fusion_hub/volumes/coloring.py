"""Uptake of PET and SPECT in color: the luminance is the fused one, the hue says how much uptake there is."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from fusion_hub.image import save_image
from fusion_hub.image.color_scale import HEAT, ColorScale, with_legend
from fusion_hub.image.luminance import luma, quantize
from fusion_hub.image.palettes import PALETTES
from fusion_hub.volumes.grids import AlignedPair
from fusion_hub.volumes.volume import Volume, VolumeError

COLOR_MAPS = {"hot": HEAT, "iron": PALETTES["iron"], "pet": PALETTES["rainbow"]}
_NONE, _FULL = 0.05, 0.35  # of the window: no color below the first, all of it from the second


def color_scale(name: str, window: tuple[float, float], unit: str) -> ColorScale:
    """A color map of uptake with its values.

    Raises:
        VolumeError: an unknown name.
    """
    if name not in COLOR_MAPS:
        raise VolumeError(f"the color map {name!r} is unknown: give one of {', '.join(COLOR_MAPS)}")
    table = np.array(COLOR_MAPS[name], dtype=np.uint8)
    return ColorScale(table, np.linspace(0, 1, len(table)), window, unit)


def color_uptake(fused: Volume, pair: AlignedPair, name: str) -> tuple[sitk.Image, ColorScale]:
    """The fused volume in color: RGB of uint8 on the same grid, and the scale.

    The luma of each voxel is the fused value; its color is that of the uptake in the map, paler where the luma leaves
    no room for it. Without uptake, and where PET or SPECT has no data, gray stays gray.

    Raises:
        VolumeError: neither volume is PET or SPECT; an unknown map.
    """
    functional = [number for number, one in enumerate(pair.sources) if one.modality in ("PT", "NM")]
    if not functional:
        raise VolumeError("color shows uptake of PET or SPECT, and neither volume is one: leave the color map out")
    which = functional[-1]
    uptake = pair.other * pair.covered if which else pair.anatomy
    scale = color_scale(name, pair.windows[which], pair.sources[which].unit)
    colors = np.empty((*uptake.shape, 3), dtype=np.uint8)
    for number, (amount, light) in enumerate(zip(uptake, fused.array, strict=True)):
        colors[number] = _tint(amount, light, scale)
    image = sitk.GetImageFromArray(colors, isVector=True)
    image.CopyInformation(pair.grid)
    return image, scale


def save_legend(scale: ColorScale, file: Path) -> Path:
    """A picture of the scale with its values."""
    return save_image(Image.fromarray(with_legend(np.zeros((256, 8, 3), np.uint8), scale)), file)


def _tint(amount: np.ndarray, light: np.ndarray, scale: ColorScale) -> np.ndarray:
    """Colors `(R, C, 3)` uint8 of one slice with the luma `light` and the chroma of `amount`, both in [0, 1]."""
    color = scale.at(amount).astype(np.float32) / 255
    chroma = (color - luma(color)[..., None]) * np.clip((amount - _NONE) / (_FULL - _NONE), 0, 1)[..., None]
    room = np.where(chroma > 0, 1 - light[..., None], light[..., None]) / np.maximum(np.abs(chroma), 1e-6)
    return quantize(light[..., None] + chroma * np.minimum(room.min(axis=-1, keepdims=True), 1))
