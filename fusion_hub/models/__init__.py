"""Networks: tensors in, tensors out. They know no file, no colour and no metric."""

from fusion_hub.models.difffusenet import DIFFFUSENET_VARIANTS, DiffFuseNetModel, DiffFuseNetOutput
from fusion_hub.models.pruned_unet import PrunedUNet
from fusion_hub.models.red import RED_VARIANTS, REDModel, REDOutput
from fusion_hub.models.reversible import WiredStep, wired_chain

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
