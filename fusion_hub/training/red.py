"""What RED brings to the training loop: its variants and ablations, its losses, its number of steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fusion_hub.models.red import RED_VARIANTS, REDModel
from fusion_hub.training import losses
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, TrainingConfig, option
from fusion_hub.training.fusion import FusionTask
from fusion_hub.training.samples import mixed_seed

# Fields of REDModel that a run may set; None leaves them to the variant.
MODEL_FIELDS = (
    "block_out_channels",
    "num_attention_heads",
    "layers_per_block",
    "attention_window",
    "time_embedding",
    "norm",
    "norm_num_groups",
    "patch_size",
    "num_steps",
    "source_injection",
    "reversible_fusion",
    "reversible_blocks",
    "learnable_lambda",
    "resample",
    "memory",
    "store_states",
)
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

    # --- the network: a named size, and fields of REDModel in place of its own
    variant: str = option(
        f"size: {', '.join(RED_VARIANTS)}; where a field below is empty, the variant's value", "small"
    )
    num_steps: int | None = option("T, the diffusion steps", None)
    block_out_channels: list[int] | None = field(default=None, metadata={"help": "widths of the two levels"})
    num_attention_heads: list[int] | None = field(
        default=None, metadata={"help": "attention heads of each level; about 32 channels for each are fast"}
    )
    layers_per_block: int | None = option("residual blocks of a level on the way down", None)
    attention_window: list[int] | None = field(
        default=None, metadata={"help": "side of the attention windows of each level, latents; 0: full"}
    )
    time_embedding: bool | None = option("tell the UNet the step", None)
    norm: str | None = option("group (over the whole picture) or local (for each pixel)", None)
    norm_num_groups: int | None = option("groups of the normalisation", None)
    patch_size: int | None = option("side of the patches that become one latent, pixels", None)
    source_injection: bool | None = option("give both sources to every step; the paper does not", None)
    reversible_fusion: bool | None = option("ablation; false: steps are not wired to the last but one state", None)
    reversible_blocks: bool | None = option("ablation; false: blocks of the UNet are not wired", None)
    learnable_lambda: bool | None = option("ablation; false: the result is the last state alone", None)
    resample: str | None = option("pixel_shuffle; ablation: convolution", None)
    memory: str | None = option("for the backward pass: reversible (the paper), checkpoint or none (fastest)", None)
    store_states: bool | None = option("keep the states between steps, which are small, in place of inverting", None)

    # --- where the weights come from
    sd15: str | None = option("folder or Hub id of a Stable Diffusion 1.5 (or of its UNet) to start from", None)
    initial_weights: str | None = option(
        "bundled name, folder or Hub id of a RED pipeline to start from; its model config is kept, but for memory", None
    )

    # --- steps
    random_steps: bool = option("draw 1 to T steps for each batch, so that fewer than T also fuse well", False)

    early_estimates: float = option(
        "weight of all losses on the clean estimates of the steps before the last, so that the chain may be left "
        "early; needs memory = none",
        0.0,
    )

    # --- weights of the losses
    ssim: float = option("SSIM with both sources", 0.5)
    ssim_weight: str = option(
        "of each source: equal (the paper), or variance, its share of the local variance", "equal"
    )
    mae: float = option("distance to mae_target", 1.0)
    mae_target: str = option("maximum of both sources; or mean, of the distances to both", "maximum")
    gradient: float = option("distance to the stronger gradient", 1.0)
    gradient_target: str = option("signed, or unsigned: an edge of reversed polarity then costs nothing", "signed")
    gradient_gain: float = option("factor on the gradient to reach; above 1: crisper than the sources", 1.0)
    structure: float = option("SSIM with both sources that also counts flat regions", 0.0)
    fidelity: float = option("visual information fidelity with both sources", 0.0)
    difference_correlation: float = option("correlation of differences", 0.0)
    out_of_range: float = option("leaving [0, 1]", 0.0)

    def __post_init__(self) -> None:
        known: tuple[tuple[str, Any], ...] = (
            ("variant", RED_VARIANTS),
            ("mae_target", MAE_LOSSES),
            ("gradient_target", GRADIENT_LOSSES),
            ("ssim_weight", SSIM_WEIGHTS),
        )
        for name, values in known:
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)}")
        if self.early_estimates and self.memory != "none":
            raise ConfigError(f"early_estimates needs memory = none, as all states are kept, got {self.memory}")
        if self.sd15 and self.initial_weights:
            raise ConfigError(f"give sd15 = {self.sd15} or initial_weights = {self.initial_weights}, not both")

    def model_fields(self) -> dict[str, Any]:
        """Arguments for `REDModel`: the variant's, and what this config sets."""
        given = {name: getattr(self, name) for name in MODEL_FIELDS if getattr(self, name) is not None}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return {**RED_VARIANTS[self.variant], **given}


class REDTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    Args:
        model: the network; trained in place.
        config: losses and steps.
        seed: the number of steps of a batch is drawn from (seed, step), the same on every process.
    """

    def __init__(self, model: REDModel, config: REDConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            batch: `visible` and `infrared` `(B, 1, H, W)` in [0, 1].
            step: optimiser step.

        Returns:
            The loss, a scalar, and its detached terms by name: those whose weight is not 0.
        """
        visible, infrared = batch["visible"], batch["infrared"]
        terms = self._chain_terms(visible, infrared, self._steps(step))
        total = torch.stack(list(terms.values())).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    def _chain_terms(self, visible: Tensor, infrared: Tensor, steps: int) -> dict[str, Tensor]:
        if not self.config.early_estimates:
            fused = self.model(visible, infrared, num_inference_steps=steps).float()
            return self._terms(fused, visible, infrared)
        output = self.model(visible, infrared, num_inference_steps=steps, return_intermediates=True)
        terms = self._terms(output.fused.float(), visible, infrared)
        if early := output.estimates[:-1]:
            sums = [torch.stack(list(self._terms(image.float(), visible, infrared).values())).sum() for image in early]
            terms["early_estimates"] = self.config.early_estimates * torch.stack(sums).mean()
        return terms

    def _steps(self, step: int) -> int:
        count = self.model.config["num_steps"]
        return 1 + mixed_seed(self.seed, step, STEPS_STREAM) % count if self.config.random_steps else count

    def _terms(self, fused: Tensor, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        config, images = self.config, (fused, visible, infrared)
        gradient_loss = GRADIENT_LOSSES[config.gradient_target]
        terms = {
            "mae": lambda: MAE_LOSSES[config.mae_target](*images),
            "gradient": lambda: gradient_loss(*images, config.gradient_gain),
            "fidelity": lambda: losses.fidelity_loss(*images),
            "difference_correlation": lambda: losses.difference_correlation_loss(*images),
            "out_of_range": lambda: losses.range_loss(fused),
        }
        weighted = {name: getattr(config, name) * loss() for name, loss in terms.items() if getattr(config, name)}
        if config.structure or (config.ssim and config.ssim_weight == "variance"):
            by_variance, structure = losses.ssim_losses(*images)
        if config.ssim:
            ssim = by_variance if config.ssim_weight == "variance" else losses.mean_ssim_loss(*images)
            weighted["ssim"] = config.ssim * ssim
        if config.structure:
            weighted["structure"] = config.structure * structure
        return weighted


class REDTask(FusionTask):
    """RED for `Trainer`: see `fusion_hub.training.loop.TrainingTask`."""

    def __init__(self, training: TrainingConfig, config: REDConfig) -> None:
        self.training, self.config = training, config
        self.find_unused_parameters = config.random_steps  # fewer steps leave the coefficients of the others alone

    def build_model(self) -> REDModel:
        """A new network, one with the weights of Stable Diffusion 1.5, or a copy of `initial_weights`."""
        try:
            model = self._build_model()
        except (OSError, ValueError) as error:
            raise ConfigError(str(error)) from error
        sizes = (self.training.crop_size, self.training.late_crop_size)
        if wrong := [size for size in sizes if size and size % model.multiple]:
            raise ConfigError(f"crop_size = {wrong[0]} is no multiple of {model.multiple}, as this model needs")
        return model

    def _build_model(self) -> REDModel:
        if self.config.initial_weights:
            from fusion_hub.pipelines import REDPipeline

            model = REDPipeline.from_pretrained(self.config.initial_weights).model
            model.set_memory_mode(self.config.memory or model.config["memory"], self.config.store_states)
            return model
        if self.config.sd15:
            return REDModel.from_sd15(self.config.sd15, **self.config.model_fields())
        return REDModel(**self.config.model_fields())

    def build_training_module(self, model: Network) -> REDTraining:
        """The losses around `model`."""
        return REDTraining(cast(REDModel, model), self.config, self.training.seed)

    def fuse(self, model: Network, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a full-size pair `(1, 1, H, W)` as the pipeline does, tiles included; in the precision of the run."""
        pipeline = self._pipeline(model)
        pipeline.set_progress_bar_config(disable=True)
        with torch.autocast(visible.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"):
            return pipeline(visible[0], infrared[0], infrared_range="dtype", output_type="pt").images

    def save_pipeline(self, model: Network, folder: Path) -> None:
        """A complete `REDPipeline` folder."""
        self._pipeline(model).save_pretrained(folder)

    def _pipeline(self, model: Network) -> Any:
        from fusion_hub.pipelines import REDPipeline

        side = max(self.training.crop_size, self.training.late_crop_size or 0)
        tile_size = min(max(side, SMALLEST_TILE), LARGEST_TILE)
        return REDPipeline(cast(REDModel, model), self.infrared_range(self.training), tile_size)
