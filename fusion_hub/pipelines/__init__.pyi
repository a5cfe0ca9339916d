from .checkpoints import PretrainedInfo, SegmenterInfo, list_models
from .difffusenet import DiffFuseNetPipeline
from .file_checks import check_model_folder
from .fusion_pipeline import FusionOutput, FusionPipeline
from .red import REDPipeline

__all__ = [
    "DiffFuseNetPipeline",
    "FusionOutput",
    "FusionPipeline",
    "PretrainedInfo",
    "REDPipeline",
    "SegmenterInfo",
    "check_model_folder",
    "list_models",
]
