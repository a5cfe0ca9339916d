from .checkpoint import CheckpointError, find_checkpoints
from .config import (
    ConfigError,
    Source,
    TrainingConfig,
    expand_variables,
    find_config,
    load_config,
    missing_data_explained,
    parse_config,
    save_config,
)
from .difffusenet import DiffFuseNetTask
from .options import DiffFuseNetConfig, REDConfig
from .red import REDTask
from .samples import mixed_seed, sample_noise
from .task import FusionTask, TrainingTask
from .trainer import NonFiniteError, OutputError, Trainer
from .validation import Validation, ValidationPair

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DiffFuseNetConfig",
    "DiffFuseNetTask",
    "FusionTask",
    "NonFiniteError",
    "OutputError",
    "REDConfig",
    "REDTask",
    "Source",
    "Trainer",
    "TrainingConfig",
    "TrainingTask",
    "Validation",
    "ValidationPair",
    "expand_variables",
    "find_checkpoints",
    "find_config",
    "load_config",
    "missing_data_explained",
    "mixed_seed",
    "parse_config",
    "sample_noise",
    "save_config",
]
