"""What a model brings to the training loop: `TrainingTask`, and `FusionTask` with what all fusion models share."""

import os
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fusion_hub.data.crops import PairCrops
from fusion_hub.metrics.fidelity import VIF_MIN_SIDE
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, TrainingConfig, missing_data_explained
from fusion_hub.training.samples import CropSampler
from fusion_hub.training.validation import FusionValidation, Validation, check_metrics, open_validation_pairs


class TrainingTask(Protocol):
    """What a model brings to the loop."""

    find_unused_parameters: bool
    """Whether some parameters get no gradient in some steps (a head of the first stage). DDP has to know."""

    def open_samples(self, config: TrainingConfig) -> CropSampler:
        """The training samples. Called by every process, before anything is written."""
        ...

    def open_validation(self, config: TrainingConfig) -> Validation | None:
        """What to measure during training, None for nothing. Called by the main process, after `open_samples`."""
        ...

    def build_model(self) -> Network:
        """The network, on the CPU, in float32. torch's generator is seeded: use it for the initial weights."""
        ...

    def build_training_module(self, model: Network) -> nn.Module:
        """The whole computation of the loss as one module that holds `model`, since DDP works in `forward`.

        Its `forward(batch, step)` returns `(loss, logs)`: the mean over the samples, and scalars to log, the same names
        on every process. `batch` has what the samples hold, stacked (of fusion models `visible` and `infrared`,
        `(B, 1, c, c)` float32 in [0, 1], and with `degrade_probability` the targets `clean_visible` and
        `clean_infrared`), and `sample`, `(B,)` int64, on the CPU where possible; `step` counts from 0.
        Draw noise for each sample (`sample_noise`), and keep nothing from step to step except in buffers of the model.
        Under `precision = bf16` all of it runs in autocast: leave it (`torch.autocast(..., enabled=False)`) where the
        loss needs float32. The module may have more parameters; they are trained and kept in checkpoints, but not
        averaged. `compile()` is called where the config asks for it; override it to compile parts only.
        """
        ...

    def save_pipeline(self, model: Network, folder: Path) -> None:
        """Write the complete folder that users load. The model has its averaged weights, float32."""
        ...


class FusionTask:
    """The part of a `TrainingTask` that does not depend on the fusion model; `config` has its options and losses."""

    def __init__(self, training: TrainingConfig, config: Any) -> None:
        self.training, self.config = training, config

    def open_samples(self, config: TrainingConfig) -> CropSampler:
        """Crops from `config.sources`; `ConfigError` for none, or for crops that are too small for a loss."""
        least = VIF_MIN_SIDE if getattr(self.config, "fidelity", 0) > 0 else 1
        for name in ("crop_size", "late_crop_size"):
            if (size := getattr(config, name) or least) < least:
                raise ConfigError(
                    f"{name} is {size}, but the fidelity loss needs crops of at least {least} pixels: make it larger, "
                    "or set fidelity to 0"
                )
        if not config.sources:
            raise ConfigError("sources is empty: name at least one paired set to train on")
        with missing_data_explained(*config.sources):
            crops = PairCrops(
                [source.resolve() for source in config.sources],
                config.crop_size,
                config.seed,
                config.samples_before(config.max_steps),
                min_std=config.min_std,
                scale_jitter=None if config.smallest_scale == 1 else (config.smallest_scale, 1.0),
                swap_probability=config.swap_probability,
                gain_jitter=config.gain_jitter,
                degrade_probability=config.degrade_probability,
                degradations=config.degradations,
                boxes=getattr(self.config, "detection", 0) > 0,
            )
        crops.check()
        first = int(os.environ.get("LOCAL_RANK", "0")) == 0
        return crops.preload(progress=first) if config.preload else crops

    def check_crops(self, multiple: int) -> None:
        """Raise a `ConfigError` for crops that the network cannot take."""
        for name in ("crop_size", "late_crop_size"):
            if (size := getattr(self.training, name)) and size % multiple:
                raise ConfigError(f"{name} = {size} is not a multiple of {multiple}, which this model needs")

    def infrared_range(self, config: TrainingConfig) -> Any:
        """The range that the pipeline gets: that of the sources, "auto" where they differ."""
        ranges = {source.resolve().infrared_range for source in config.sources}
        return (ranges.pop() if len(ranges) == 1 else None) or "auto"

    def open_validation(self, config: TrainingConfig) -> FusionValidation | None:
        """Pairs of `config.validation_sources`; None if it names none."""
        check_metrics(config.validation_metrics)
        pairs = open_validation_pairs(config.validation_sources, config.validation_pairs)
        return FusionValidation(self.fuse, pairs, config.validation_metrics) if pairs else None

    def fuse(self, model: Any, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a full-size pair of any size for validation: `(1, 1, H, W)` in [0, 1] twice to `(1, 1, H, W)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement fuse")
