from . import evaluation, leaderboard, metrics, pretrained
from .data import PairedDataset
from .image.processor import FusionImageProcessor, InputWarning, save_image
from .metrics import evaluate_pair
from .models.difffusenet import DiffFuseNetModel
from .models.red import REDModel
from .pipelines.difffusenet import DiffFuseNetPipeline
from .pipelines.fusion_pipeline import FusionOutput, FusionPipeline
from .pipelines.red import REDPipeline
from .pretrained import PretrainedInfo, list_models
from .rigs import Rig, RigCalibrator

__version__: str

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
    "Rig",
    "RigCalibrator",
    "evaluate_pair",
    "evaluation",
    "leaderboard",
    "list_models",
    "metrics",
    "pretrained",
    "save_image",
]
