"""The training of RED: its variants and ablations, its losses, its number of steps."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion_hub.models.red import RED_VARIANTS, REDModel
from fusion_hub.pipelines import REDPipeline
from fusion_hub.training import losses
from fusion_hub.training.config import ConfigError, TrainingConfig, check_options, option
from fusion_hub.training.samples import mixed_seed
from fusion_hub.training.task import FusionTask

MODEL_FIELDS = inspect.signature(REDModel.__init__).parameters  # a config sets some; None leaves them to the variant
MAE_LOSSES = {"maximum": losses.intensity_loss, "mean": losses.mean_intensity_loss}
GRADIENT_LOSSES = {"signed": losses.signed_gradient_loss, "unsigned": losses.unsigned_gradient_loss}
SSIM_WEIGHTS = ("equal", "variance")
SMALLEST_TILE, LARGEST_TILE = 128, 256  # pixels
STEPS_STREAM = 3  # of the random numbers of one training step


@dataclass(frozen=True)
class REDConfig:
    """Size, ablations, start and loss weights of a RED run; the losses are those of `fusion_hub.training.losses`.

    The defaults of the losses are the paper's three terms; weights and targets are not in its text.
    """

    # --- the network: a named size, and fields of REDModel that override it
    variant: str = option(
        f"size: {', '.join(RED_VARIANTS)}; it sets the fields below that are empty", "small", choices=RED_VARIANTS
    )
    num_steps: int | None = option("T, the diffusion steps", None)
    block_out_channels: list[int] | None = option("widths of the two levels", None)
    num_attention_heads: list[int] | None = option(
        "attention heads of each level; about 32 channels for each are fast", None
    )
    layers_per_block: int | None = option("residual blocks of a level of the encoder", None)
    attention_window: list[int] | None = option("side of the attention windows of each level, latents; 0: full", None)
    time_embedding: bool | None = option("pass the step to the UNet", None)
    norm: str | None = option("group (over the whole picture) or local (for each pixel)", None)
    norm_num_groups: int | None = option("groups of the normalization", None)
    patch_size: int | None = option("side of the patch behind one latent, pixels", None)
    source_injection: bool | None = option("pass both sources to every step; the paper does not", None)
    reversible_fusion: bool | None = option("ablation; false: steps are not wired to the state before the last", None)
    reversible_blocks: bool | None = option("ablation; false: blocks of the UNet are not wired", None)
    learnable_lambda: bool | None = option("ablation; false: the result is the last state alone", None)
    resample: str | None = option("pixel_shuffle; ablation: convolution", None)
    memory: str | None = option("for the backward pass: reversible (the paper), checkpoint or none (fastest)", None)
    store_states: bool | None = option("keep the states between steps, which are small, instead of inverting", None)

    # --- where the weights come from
    sd15: str | None = option("folder or Hub id of a Stable Diffusion 1.5 (or of its UNet) to start from", None)
    initial_weights: str | None = option(
        "bundled name, folder or Hub id of a RED pipeline to start from; its model config is kept, except memory", None
    )

    # --- steps
    random_steps: bool = option("random 1 to T steps for each batch, so that fewer than T also fuse well", False)
    early_estimates: float = option(
        "weight of all losses on the clean estimates of the steps before the last, so that the chain may stop early; "
        "needs memory = none",
        0.0,
    )

    # --- weights of the losses
    ssim: float = option("SSIM with both sources", 0.5)
    ssim_weight: str = option(
        "of each source: equal (the paper), or variance, its share of the local variance", "equal", choices=SSIM_WEIGHTS
    )
    mae: float = option("distance to mae_target", 1.0)
    mae_target: str = option(
        "maximum of both sources; or mean, of the distances to both", "maximum", choices=MAE_LOSSES
    )
    gradient: float = option("distance to the stronger gradient", 1.0)
    gradient_target: str = option(
        "signed, or unsigned: an edge of reversed polarity then costs nothing", "signed", choices=GRADIENT_LOSSES
    )
    gradient_gain: float = option("factor on the target gradient; above 1: crisper than the sources", 1.0)
    structure: float = option("SSIM with both sources that also counts flat regions", 0.0)
    fidelity: float = option("visual information fidelity with both sources", 0.0)
    difference_correlation: float = option("correlation of differences", 0.0)
    out_of_range: float = option("leaving [0, 1]", 0.0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.early_estimates and self.memory != "none":
            raise ConfigError(f"early_estimates needs memory = none, as all states are kept, got {self.memory}")
        if self.sd15 and self.initial_weights:
            raise ConfigError(f"give sd15 = {self.sd15} or initial_weights = {self.initial_weights}, not both")

    def model_fields(self) -> dict[str, Any]:
        """Arguments for `REDModel`: the variant's, and what this config sets."""
        given = {name: value for name, value in vars(self).items() if name in MODEL_FIELDS and value is not None}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return {**RED_VARIANTS[self.variant], **given}


class REDTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    The number of diffusion steps of a batch follows from (seed, step), the same on every process.
    """

    def __init__(self, model: REDModel, config: REDConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and by name its detached terms, those whose weight is not 0."""
        visible, infrared = batch["visible"], batch["infrared"]
        steps, weight = self._steps(step), self.config.early_estimates
        if weight:
            output = self.model(visible, infrared, num_inference_steps=steps, return_intermediates=True)
            fused, early = output.fused, output.estimates[:-1]
        else:
            fused, early = self.model(visible, infrared, num_inference_steps=steps), ()
        terms = self._terms(fused.float(), visible, infrared)
        if early:
            sums = [torch.stack(list(self._terms(image.float(), visible, infrared).values())).sum() for image in early]
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
            "gradient": lambda: GRADIENT_LOSSES[config.gradient_target](*images, config.gradient_gain),
            "fidelity": lambda: losses.fidelity_loss(*images),
            "difference_correlation": lambda: losses.difference_correlation_loss(*images),
            "out_of_range": lambda: losses.range_loss(fused),
            "ssim": lambda: ssim_losses()[0] if config.ssim_weight == "variance" else losses.ssim_loss(*images),
            "structure": lambda: ssim_losses()[1],
        }
        return {name: getattr(config, name) * loss() for name, loss in terms.items() if getattr(config, name)}


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
                model = REDModel.from_sd15(config.sd15, **config.model_fields())
            else:
                model = REDModel(**config.model_fields())
        except (OSError, ValueError) as error:
            raise ConfigError(str(error)) from error
        sizes = (self.training.crop_size, self.training.late_crop_size)
        if wrong := [size for size in sizes if size and size % model.multiple]:
            raise ConfigError(f"crop_size = {wrong[0]} is not a multiple of {model.multiple}, which this model needs")
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
        return REDPipeline(model, self.infrared_range(self.training), tile_size)
