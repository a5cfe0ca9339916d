from . import export
from .checkpoints import PretrainedInfo, SegmenterInfo, list_models, locate, trained_on
from .difffusenet import DiffFuseNetPipeline
from .file_checks import check_model_folder, hash_checkpoint, run_note
from .fusion_pipeline import FusionOutput, FusionPipeline
from .limits import check_stored
from .onnx_session import FusionSession
from .red import REDPipeline

__all__ = [
    "DiffFuseNetPipeline",
    "FusionOutput",
    "FusionPipeline",
    "FusionSession",
    "PretrainedInfo",
    "REDPipeline",
    "SegmenterInfo",
    "check_model_folder",
    "check_stored",
    "export",
    "hash_checkpoint",
    "list_models",
    "locate",
    "run_note",
    "trained_on",
]
