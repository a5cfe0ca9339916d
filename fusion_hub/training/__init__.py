"""Training, shared by every `train/*.py`: parse a config, bring a task, run.

    config, mine = parse_config((TrainingConfig, MyTaskConfig))
    Trainer(MyTask(config, mine), config, mine).train()

`MyTask` is a `TrainingTask`: it builds the model and the module that computes the loss, fuses a pair for validation and
saves the pipeline. All else is the loop's.
"""

from fusion_hub.training.checkpoint import CheckpointError, find_checkpoints
from fusion_hub.training.config import ConfigError, Source, TrainingConfig, load_config, parse_config, save_config
from fusion_hub.training.loop import NonFiniteError, Trainer, TrainingTask
from fusion_hub.training.samples import mixed_seed, sample_noise
from fusion_hub.training.validation import ValidationPair

__all__ = [
    "CheckpointError",
    "ConfigError",
    "NonFiniteError",
    "Source",
    "Trainer",
    "TrainingConfig",
    "TrainingTask",
    "ValidationPair",
    "find_checkpoints",
    "load_config",
    "mixed_seed",
    "parse_config",
    "sample_noise",
    "save_config",
]
