from .color_scale import ColorScale, with_legend
from .colors import overlay, overlay_pair
from .inputs import read_infrared
from .io import (
    EXTENSIONS,
    READ_FORMATS,
    SAVE_SUFFIXES,
    DeepImage,
    check_complete,
    from_pil,
    read_header,
    read_picture,
    save_image,
    to_image,
)
from .luminance import ValueRange, luma, parse_range, quantize
from .palettes import PALETTES, Isotherm, draw_temperatures, palette_scale, parse_isotherm
from .picture import Header, InputWarning, Metadata, Picture, check_equal_sizes
from .processor import FusionImageProcessor, ImageInput, PairContext
from .radiometric import Calibration, Conditions, ThermalSettings, Thermogram, read_radiometric
from .tiling import Window, crop_to, pad_reflect, pad_to_multiple, run_tiled, tile_windows

__all__ = [
    "EXTENSIONS",
    "PALETTES",
    "READ_FORMATS",
    "SAVE_SUFFIXES",
    "Calibration",
    "ColorScale",
    "Conditions",
    "DeepImage",
    "FusionImageProcessor",
    "Header",
    "ImageInput",
    "InputWarning",
    "Isotherm",
    "Metadata",
    "PairContext",
    "Picture",
    "ThermalSettings",
    "Thermogram",
    "ValueRange",
    "Window",
    "check_complete",
    "check_equal_sizes",
    "crop_to",
    "draw_temperatures",
    "from_pil",
    "luma",
    "overlay",
    "overlay_pair",
    "pad_reflect",
    "pad_to_multiple",
    "palette_scale",
    "parse_isotherm",
    "parse_range",
    "quantize",
    "read_header",
    "read_infrared",
    "read_picture",
    "read_radiometric",
    "run_tiled",
    "save_image",
    "tile_windows",
    "to_image",
    "with_legend",
]
