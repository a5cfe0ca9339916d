from .difffusenet import DIFFFUSENET_VARIANTS, DiffFuseNetModel, DiffFuseNetOutput
from .pruned_unet import PrunedUNet
from .red import RED_VARIANTS, REDModel, REDOutput
from .reversible import WiredStep, wired_chain

__all__ = [
    "DIFFFUSENET_VARIANTS",
    "RED_VARIANTS",
    "DiffFuseNetModel",
    "DiffFuseNetOutput",
    "PrunedUNet",
    "REDModel",
    "REDOutput",
    "WiredStep",
    "wired_chain",
]
