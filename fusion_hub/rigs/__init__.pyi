from .alignment import Alignment, align
from .calibrator import RigCalibrator, align_pair
from .check_picture import draw_check, edges_over
from .depth import focal_in_pixels, parallax
from .matcher import KeypointMatcher
from .photo import photo_rig
from .rig import LONGEST_OFFSET, Confidence, Rig, RigError
from .warp import Lens, Warp

__all__ = [
    "LONGEST_OFFSET",
    "Alignment",
    "Confidence",
    "KeypointMatcher",
    "Lens",
    "Rig",
    "RigCalibrator",
    "RigError",
    "Warp",
    "align",
    "align_pair",
    "draw_check",
    "edges_over",
    "focal_in_pixels",
    "parallax",
    "photo_rig",
]
