"""Networks: tensors in, tensors out. They know no file, no colour and no metric."""

from .difffusenet import DIFFFUSENET_VARIANTS, DiffFuseNetModel

__all__ = ["DIFFFUSENET_VARIANTS", "DiffFuseNetModel"]
