from .checkpoint import CheckpointError, find_checkpoints
from .config import ConfigError, Source, TrainingConfig, load_config, parse_config, save_config
from .samples import mixed_seed, sample_noise
from .task import FusionTask, TrainingTask
from .trainer import NonFiniteError, OutputError, Trainer
from .validation import Validation, ValidationPair

__all__ = [
    "CheckpointError",
    "ConfigError",
    "FusionTask",
    "NonFiniteError",
    "OutputError",
    "Source",
    "Trainer",
    "TrainingConfig",
    "TrainingTask",
    "Validation",
    "ValidationPair",
    "find_checkpoints",
    "load_config",
    "mixed_seed",
    "parse_config",
    "sample_noise",
    "save_config",
]
