"""What all fusion models bring to the training loop: crops of pairs to train on, whole pairs to fuse for validation."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fusion_hub.metrics.fidelity import VIF_MIN_SIDE
from fusion_hub.training.config import ConfigError, TrainingConfig
from fusion_hub.training.samples import CropSampler, open_crops
from fusion_hub.training.validation import ValidationPair, open_validation_pairs, validate


class FusionTask:
    """The part of a `TrainingTask` (see `fusion_hub.training.loop`) that does not depend on the fusion model."""

    config: Any
    """Options of the model and its losses."""

    @property
    def least_crop_size(self) -> int:
        """Smallest side of a crop in pixels that the losses take, in any stage."""
        return VIF_MIN_SIDE if getattr(self.config, "fidelity", 0) > 0 else 1

    def open_samples(self, config: TrainingConfig) -> CropSampler:
        """Crops from the sets of `config.sources`.

        Raises:
            ConfigError: a crop of an early or late stage is too small for a loss.
        """
        for name in ("crop_size", "late_crop_size"):
            size = getattr(config, name)
            if size is not None and size < self.least_crop_size:
                raise ConfigError(
                    f"{name} is {size}, but the fidelity loss needs crops of at least {self.least_crop_size} pixels: "
                    "make it larger, or set fidelity to 0"
                )
        return open_crops(config)

    def infrared_range(self, config: TrainingConfig) -> Any:
        """The range that the pipeline gets: that of the sources, "auto" where they differ."""
        ranges = {source.resolve().infrared_range for source in config.sources}
        return (ranges.pop() if len(ranges) == 1 else None) or "auto"

    def open_validation(self, config: TrainingConfig) -> "FusionValidation | None":
        """Pairs of `config.validation_sources`; None if it names none."""
        pairs = open_validation_pairs(config.validation_sources, config.validation_pairs)
        return FusionValidation(self, pairs, config.validation_metrics) if pairs else None

    def fuse(self, model: Any, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a full-size pair of any size for validation: `(1, 1, H, W)` in [0, 1] twice to `(1, 1, H, W)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement fuse")


class FusionValidation:
    """Fuses pairs with a task's `fuse` and measures the results: a `Validation` of the loop."""

    def __init__(self, task: FusionTask, pairs: Sequence[ValidationPair], metrics: Sequence[str]) -> None:
        self.task, self.pairs, self.headline = task, pairs, metrics

    def measure(self, model: Any, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """Mean metrics and the pictures side by side: see `validate`."""

        def fuse(visible: Tensor, infrared: Tensor) -> Tensor:
            return self.task.fuse(model, visible, infrared)

        return validate(fuse, self.pairs, self.headline, device)
