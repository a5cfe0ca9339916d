"""The training of DiffFuseNet: its two stages and their losses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion_hub.image.processor import crop_to, pad_to_multiple
from fusion_hub.models.difffusenet import DIFFFUSENET_VARIANTS, DiffFuseNetModel, FusionFeatures
from fusion_hub.models.feature_diffusion import add_noise, noise_estimate
from fusion_hub.pipelines import DiffFuseNetPipeline
from fusion_hub.training import losses
from fusion_hub.training.config import ConfigError
from fusion_hub.training.options import DiffFuseNetConfig
from fusion_hub.training.samples import mixed_seed, sample_noise
from fusion_hub.training.task import FusionTask

TIMESTEP_STREAM, NOISE_STREAM = 1, 2  # of the random numbers of a sample


class DiffFuseNetTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    Stage I takes `stage_one_fraction` of `max_steps`. Noise and timestep follow from (seed, sample number).
    """

    def __init__(self, model: DiffFuseNetModel, config: DiffFuseNetConfig, max_steps: int, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.stage_one_steps = round(max_steps * config.stage_one_fraction) if config.two_stage else 0

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its detached terms by name; `step` decides the stage."""
        visible, infrared = batch["visible"], batch["infrared"]
        stage_one = step < self.stage_one_steps
        frozen = self.config.freeze_d2fe and not stage_one
        features = self.model.analyze(visible, infrared, freeze_d2fe=frozen)
        use_edfd, low = self.model.config["use_edfd"], features.low
        decoupling = losses.decoupling_loss(features.specific, low.chunk(2)) if use_edfd else low.new_zeros(())
        terms = {"decoupling": self.config.decoupling * decoupling}
        if stage_one:
            terms |= self._reconstruction(features, visible, infrared)
            diffusion_weight = 1.0
        else:
            terms |= self._fusion(features, visible, infrared)
            diffusion_weight = 0.0 if frozen else self.config.diffusion
        if self.model.config["use_d2fe"] and diffusion_weight:
            terms["diffusion"] = diffusion_weight * self._diffusion(features, batch["sample"])
        total = torch.stack(list(terms.values())).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    def _reconstruction(self, features: FusionFeatures, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        # Stage I: sum over both images of 2 L1 + (1 - SSIM) + 5 L1(Sobel).
        images, rebuilt = torch.cat([visible, infrared]), self.model.reconstruct(features).float()
        return {
            "pixels": 2 * losses.intensity_loss(rebuilt, images, images) * 2,
            "ssim": 2 * losses.ssim_loss(rebuilt, images),
            "gradient": 2 * 5 * losses.signed_gradient_loss(rebuilt, images, images),
        }

    def _fusion(self, features: FusionFeatures, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        # Stage II.
        fused = self.model.fuse(features, visible, infrared)[0].float()
        images = (fused, visible, infrared)
        ssim, structure = losses.ssim_losses(*images)
        terms = {
            "intensity": losses.intensity_loss(*images),
            "gradient": losses.signed_gradient_loss(*images, self.config.gradient_gain),
            "ssim": ssim,
            "structure": structure,
            "fidelity": losses.fidelity_loss(*images),
            "difference_correlation": losses.difference_correlation_loss(*images),
            "out_of_range": losses.range_loss(fused),
        }
        return {name: getattr(self.config, name) * loss for name, loss in terms.items()}

    def _diffusion(self, features: FusionFeatures, sample: Tensor) -> Tensor:
        # L_D2FE = L_diff,V + L_diff,I + 0.1 L_cons (eq. 22); one timestep for a pair, noise for each image.
        clean = features.shallow
        timestep, noise = self._sample_noise(sample, clean.shape[1:])
        timestep, noise = timestep.to(clean.device).repeat(2), noise.to(clean)
        alpha_bar = torch.tensor(self.model.alphas_cumprod, device=clean.device)[timestep].view(-1, 1, 1, 1)
        noisy = add_noise(clean, noise, alpha_bar).to(clean.dtype)
        prediction = self.model.denoiser(noisy, timestep)
        predicted = noise_estimate(noisy.float(), prediction.float(), alpha_bar, self.model.config["prediction_type"])
        first, second = features.enhanced.chunk(2)
        consistency = losses.consistency_loss(first, second)
        return losses.noise_prediction_loss(predicted, noise) + self.config.consistency * consistency

    def _sample_noise(self, sample: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Timestep `(B,)` and noise `(2B, C, h, w)`, visible first, from (seed, sample number) alone."""
        count = self.model.config["num_train_timesteps"]
        timesteps = [mixed_seed(self.seed, number, TIMESTEP_STREAM) % count for number in sample.tolist()]
        noise = sample_noise(self.seed, sample, (2, *shape), stream=NOISE_STREAM)
        return torch.tensor(timesteps), noise.transpose(0, 1).flatten(0, 1)


class DiffFuseNetTask(FusionTask):
    """DiffFuseNet for `Trainer`: see `fusion_hub.training.TrainingTask`."""

    find_unused_parameters = True  # each stage leaves the other stage's head alone

    def build_model(self) -> DiffFuseNetModel:
        """A new network, or a copy of `initial_weights`."""
        if self.config.initial_weights:
            return DiffFuseNetPipeline.from_pretrained(self.config.initial_weights).model
        names = ("prediction_type", "inference_timestep", "use_d2fe", "use_edfd", "frequency", "cross_frequency")
        fields = {name: getattr(self.config, name) for name in names}
        try:
            return DiffFuseNetModel(**DIFFFUSENET_VARIANTS[self.config.variant], **fields)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def build_training_module(self, model: Any) -> DiffFuseNetTraining:
        """The losses of both stages around `model`."""
        return DiffFuseNetTraining(model, self.config, self.training.max_steps, self.training.seed)

    def fuse(self, model: Any, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a full-size pair `(1, 1, H, W)`, padded as the pipeline pads."""
        padded, size = pad_to_multiple(visible, model.multiple)
        return crop_to(model(padded, pad_to_multiple(infrared, model.multiple)[0]), size)

    def save_pipeline(self, model: Any, folder: Path) -> None:
        """A complete `DiffFuseNetPipeline` folder."""
        infrared_range = self.infrared_range(self.training)
        DiffFuseNetPipeline(model, model.build_scheduler(), infrared_range).save_pretrained(folder)
