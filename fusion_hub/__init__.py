"""Fusion Hub: two registered images in, one image out.

    from fusion_hub import DiffFuseNetPipeline

    pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
    fused = pipe(visible="street.png", infrared="street_ir.png").images[0]

Public names are imported when they are first used, so `import fusion_hub` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "DiffFuseNetModel": "models.difffusenet",
    "DiffFuseNetPipeline": "pipelines.difffusenet",
    "FusionImageProcessor": "image_processor",
    "FusionOutput": "pipelines.fusion_pipeline",
    "FusionPipeline": "pipelines.fusion_pipeline",
    "InputWarning": "image_processor",
    "PairedDataset": "data",
    "PretrainedInfo": "pretrained",
    "REDModel": "models.red",
    "REDPipeline": "pipelines.red",
    "evaluate_pair": "metrics",
    "list_models": "pretrained",
    "save_image": "image_processor",
}
"""Each public name and the module that defines it. Published checkpoints import these names: they do not change."""

_SUBMODULES = ("evaluation", "leaderboard", "metrics", "pretrained")

__all__ = [
    "DiffFuseNetModel",
    "DiffFuseNetPipeline",
    "FusionImageProcessor",
    "FusionOutput",
    "FusionPipeline",
    "InputWarning",
    "PairedDataset",
    "PretrainedInfo",
    "REDModel",
    "REDPipeline",
    "evaluate_pair",
    "evaluation",
    "leaderboard",
    "list_models",
    "metrics",
    "pretrained",
    "save_image",
]

if TYPE_CHECKING:
    from . import evaluation, leaderboard, metrics, pretrained
    from .data import PairedDataset
    from .image_processor import FusionImageProcessor, InputWarning, save_image
    from .metrics import evaluate_pair
    from .models.difffusenet import DiffFuseNetModel
    from .models.red import REDModel
    from .pipelines.difffusenet import DiffFuseNetPipeline
    from .pipelines.fusion_pipeline import FusionOutput, FusionPipeline
    from .pipelines.red import REDPipeline
    from .pretrained import PretrainedInfo, list_models


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
