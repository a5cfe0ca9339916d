from .alignment import Alignment, align
from .calibrator import RigCalibrator, align_pair
from .rig import Confidence, Rig, RigError
from .warp import Lens, Warp

__all__ = ["Alignment", "Confidence", "Lens", "Rig", "RigCalibrator", "RigError", "Warp", "align", "align_pair"]
