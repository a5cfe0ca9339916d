"""The training of RED: its variants and ablations, its losses, its number of steps."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion_hub.models.red import RED_VARIANTS, REDModel
from fusion_hub.pipelines import REDPipeline
from fusion_hub.training import losses
from fusion_hub.training.config import ConfigError, TrainingConfig
from fusion_hub.training.detection_loss import frozen_detection
from fusion_hub.training.options import REDConfig
from fusion_hub.training.samples import mixed_seed
from fusion_hub.training.task import FusionTask

MODEL_FIELDS = inspect.signature(REDModel.__init__).parameters  # a config sets some; None leaves them to the variant
MAE_LOSSES = {
    "maximum": losses.intensity_loss,
    "mean": losses.mean_intensity_loss,
    "salient": losses.salient_intensity_loss,
}
GRADIENT_LOSSES: dict[str, Callable[..., Tensor]] = {
    "signed": losses.signed_gradient_loss,
    "unsigned": losses.unsigned_gradient_loss,
}
SMALLEST_TILE, LARGEST_TILE = 128, 256  # pixels
STEPS_STREAM = 3  # of the random numbers of one training step


def model_fields(config: REDConfig) -> dict[str, Any]:
    """Arguments for `REDModel`: the variant's, and what the config sets."""
    given = {name: value for name, value in vars(config).items() if name in MODEL_FIELDS and value is not None}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return {**RED_VARIANTS[config.variant], **given}


class REDTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    The number of diffusion steps of a batch follows from (seed, step), the same on every process.
    """

    def __init__(self, model: REDModel, config: REDConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self._detection = frozen_detection(config)

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and by name its detached terms, those whose weight is not 0."""
        visible, infrared = batch["visible"], batch["infrared"]
        targets = batch.get("clean_visible", visible), batch.get("clean_infrared", infrared)
        steps, weight = self._steps(step), self.config.early_estimates
        if weight:
            output = self.model(visible, infrared, num_inference_steps=steps, return_intermediates=True)
            fused, early = output.fused, output.estimates[:-1]
        else:
            fused, early = self.model(visible, infrared, num_inference_steps=steps), ()
        terms = self._terms(fused.float(), *targets)
        for loss in self._detection:
            terms["detection"] = self.config.detection * loss.to(fused.device)(fused.float(), batch)
        if early:
            sums = [torch.stack(list(self._terms(image.float(), *targets).values())).sum() for image in early]
            terms["early_estimates"] = weight * torch.stack(sums).mean()
        total = torch.stack(list(terms.values())).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    def _steps(self, step: int) -> int:
        count = self.model.config["num_steps"]
        return 1 + mixed_seed(self.seed, step, STEPS_STREAM) % count if self.config.random_steps else count

    def _terms(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        config, images = self.config, (fused, visible, infrared)
        ssim_losses = cache(lambda: losses.ssim_losses(*images))
        terms = {
            "mae": lambda: MAE_LOSSES[config.mae_target](*images),
            "gradient": lambda: self._gradient(*images),
            "fidelity": lambda: losses.fidelity_loss(*images),
            "difference_correlation": lambda: losses.difference_correlation_loss(*images),
            "out_of_range": lambda: losses.range_loss(*images, ceiling=config.ceiling),
            "ssim": lambda: ssim_losses()[0] if config.ssim_weight == "variance" else losses.ssim_loss(*images),
            "structure": lambda: ssim_losses()[1],
        }
        return {name: getattr(config, name) * loss() for name, loss in terms.items() if getattr(config, name)}

    def _gradient(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        config = self.config
        floor = (config.noise_floor,) if config.noise_floor else ()  # only of the signed loss
        return GRADIENT_LOSSES[config.gradient_target](fused, visible, infrared, config.gradient_gain, *floor)


class REDTask(FusionTask):
    """RED for `Trainer`: see `fusion_hub.training.TrainingTask`."""

    def __init__(self, training: TrainingConfig, config: REDConfig) -> None:
        super().__init__(training, config)
        self.find_unused_parameters = config.random_steps  # fewer steps leave the coefficients of the others unused

    def build_model(self) -> REDModel:
        """A new network, one with the weights of Stable Diffusion 1.5, or a copy of `initial_weights`."""
        config = self.config
        try:
            if config.initial_weights:
                model = REDPipeline.from_pretrained(config.initial_weights).model
                model.set_memory_mode(config.memory or model.config["memory"], config.store_states)
            elif config.sd15:
                model = REDModel.from_sd15(config.sd15, **model_fields(config))
            else:
                model = REDModel(**model_fields(config))
        except (OSError, ValueError) as error:
            raise ConfigError(str(error)) from error
        self.check_crops(model.multiple)
        return model

    def build_training_module(self, model: Any) -> REDTraining:
        """The losses around `model`."""
        return REDTraining(model, self.config, self.training.seed)

    def fuse(self, model: Any, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a full-size pair `(1, 1, H, W)` as the pipeline does, tiles included; in the precision of the run."""
        pipeline = self._pipeline(model)
        pipeline.set_progress_bar_config(disable=True)
        with torch.autocast(visible.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"):
            return pipeline(visible[0], infrared[0], infrared_range="dtype", output_type="pt").images

    def save_pipeline(self, model: Any, folder: Path) -> None:
        """A complete `REDPipeline` folder."""
        self._pipeline(model).save_pretrained(folder)

    def _pipeline(self, model: Any) -> Any:
        side = max(self.training.crop_size, self.training.late_crop_size or 0)
        tile_size = min(max(side, SMALLEST_TILE), LARGEST_TILE)
        return REDPipeline(model, self.infrared_range(self.training), tile_size, self.config.default_denoising_steps)
