from .dicom_writing import Identity, check_folder, read_identity, write_dicom
from .reading import FILE_SUFFIXES, read_volume
from .volume import MODALITIES, Modality, Volume, VolumeError
from .windows import PRESETS, apply_window, choose_window
from .writing import WRITTEN_SUFFIXES, check_target, to_levels, write_image, write_volume

__all__ = [
    "FILE_SUFFIXES",
    "MODALITIES",
    "PRESETS",
    "WRITTEN_SUFFIXES",
    "Identity",
    "Modality",
    "Volume",
    "VolumeError",
    "apply_window",
    "check_folder",
    "check_target",
    "choose_window",
    "read_identity",
    "read_volume",
    "to_levels",
    "write_dicom",
    "write_image",
    "write_volume",
]
