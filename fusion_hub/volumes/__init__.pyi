from .coloring import COLOR_MAPS, color_scale, color_uptake, save_legend
from .dicom_series import Series, find_series
from .dicom_writing import Identity, check_folder, read_identity, write_dicom
from .fusing import flicker, fuse, fuse_aligned
from .grids import AlignedPair, Side, align, choose_grid, resample
from .reading import FILE_SUFFIXES, read_volume
from .registration import Registration, load_transform, register, save_transform
from .views import draw_views
from .volume import MODALITIES, Modality, Volume, VolumeError, from_array, upright
from .windows import PRESETS, apply_window, choose_window
from .writing import WRITTEN_SUFFIXES, check_target, to_levels, write_image, write_volume

__all__ = [
    "COLOR_MAPS",
    "FILE_SUFFIXES",
    "MODALITIES",
    "PRESETS",
    "WRITTEN_SUFFIXES",
    "AlignedPair",
    "Identity",
    "Modality",
    "Registration",
    "Series",
    "Side",
    "Volume",
    "VolumeError",
    "align",
    "apply_window",
    "check_folder",
    "check_target",
    "choose_grid",
    "choose_window",
    "color_scale",
    "color_uptake",
    "draw_views",
    "find_series",
    "flicker",
    "from_array",
    "fuse",
    "fuse_aligned",
    "load_transform",
    "read_identity",
    "read_volume",
    "register",
    "resample",
    "save_legend",
    "save_transform",
    "to_levels",
    "upright",
    "write_dicom",
    "write_image",
    "write_volume",
]
