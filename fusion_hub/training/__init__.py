"""Training, shared by every `train/*.py`: parse a config, bring a task, run.

    config, mine = parse_config((TrainingConfig, MyTaskConfig))
    Trainer(MyTask(config, mine), config, mine).train()

`MyTask` is a `TrainingTask`: it opens the samples, builds the model and the module that computes the loss, says what is
measured on the way and saves the pipeline; `FusionTask` has what fusion models share. All else is the loop's.
"""

from fusion_hub.training.checkpoint import CheckpointError, find_checkpoints
from fusion_hub.training.config import ConfigError, Source, TrainingConfig, load_config, parse_config, save_config
from fusion_hub.training.fusion import FusionTask
from fusion_hub.training.loop import NonFiniteError, OutputError, Trainer, TrainingTask
from fusion_hub.training.samples import mixed_seed, sample_noise
from fusion_hub.training.validation import Validation, ValidationPair

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
