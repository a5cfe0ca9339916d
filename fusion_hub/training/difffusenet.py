"""The training of DiffFuseNet: its two stages and their losses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion_hub.image.processor import crop_to, pad_to_multiple
from fusion_hub.models.difffusenet import DIFFFUSENET_VARIANTS, DiffFuseNetModel, FusionFeatures
from fusion_hub.models.feature_diffusion import add_noise, noise_estimate
from fusion_hub.models.noise import estimate_noise
from fusion_hub.pipelines import DiffFuseNetPipeline
from fusion_hub.training import losses
from fusion_hub.training.config import ConfigError
from fusion_hub.training.detection_loss import frozen_detection
from fusion_hub.training.options import DiffFuseNetConfig
from fusion_hub.training.samples import mixed_seed, sample_noise
from fusion_hub.training.task import FusionTask

TIMESTEP_STREAM, NOISE_STREAM = 1, 2  # of the random numbers of a sample
_MODEL_FIELDS = (
    "patch_size", "feature_channels", "attention_window", "detail_channels", "num_coupling", "prediction_type",
    "inference_timestep", "noise_gain", "residual", "residual_scale", "gate", "use_d2fe", "use_edfd",
    "frequency", "cross_frequency",
)  # fmt: skip


class DiffFuseNetTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    Stage I takes `stage_one_fraction` of `max_steps`. Noise and timestep follow from (seed, sample number). The images
    of a batch may be degraded; all losses compare with the clean ones.
    """

    def __init__(self, model: DiffFuseNetModel, config: DiffFuseNetConfig, max_steps: int, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.stage_one_steps = round(max_steps * config.stage_one_fraction) if config.two_stage else 0
        self._detection = frozen_detection(config)

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its detached terms by name; `step` decides the stage."""
        visible, infrared = batch["visible"], batch["infrared"]
        clean = batch.get("clean_visible", visible), batch.get("clean_infrared", infrared)
        stage_one = step < self.stage_one_steps
        frozen = self.config.freeze_d2fe and not stage_one
        features = self._analyze(
            visible, infrared, batch["sample"], frozen, 0.0 if stage_one else self.config.feature_noise
        )
        use_edfd, low = self.model.config["use_edfd"], features.low
        decoupling = losses.decoupling_loss(features.specific, low.chunk(2)) if use_edfd else low.new_zeros(())
        terms = {"decoupling": self.config.decoupling * decoupling}
        if features.gates is not None:
            terms["gate_balance"] = self.config.gate_balance * losses.gate_balance_loss(features.gates)
        if stage_one:
            terms |= self._reconstruction(features, *clean)
            diffusion_weight = 1.0
        else:
            terms |= self._fusion(features, batch, clean)
            diffusion_weight = 0.0 if frozen else self.config.diffusion
        if self.model.config["use_d2fe"] and diffusion_weight:
            terms |= self._diffusion(features, torch.cat([visible, infrared]), torch.cat(clean), batch["sample"])
            terms["diffusion"] *= diffusion_weight
            if self.model.config["residual"] == "own":
                error = F.l1_loss(features.images.float(), torch.cat(clean))
                terms["restoration"] = self.config.restoration * error
        total = torch.stack(list(terms.values())).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    def _analyze(
        self, visible: Tensor, infrared: Tensor, sample: Tensor, frozen: bool, largest: float
    ) -> FusionFeatures:
        """The bands; with `noise_gain`, forward noise is added to the features in stage two (eq. 2)."""
        model = self.model
        if not (model.config["use_d2fe"] and model.config["noise_gain"] > 0 and largest > 0):
            return model.analyze(visible, infrared, freeze_d2fe=frozen)
        level = estimate_noise(torch.cat([visible, infrared]))
        draws = [mixed_seed(self.seed, number, TIMESTEP_STREAM) for number in sample.tolist()]
        added = [[max(0.0, 4 * ((draw >> shift) % 2**20 / 2**20) - 3) * largest for shift in (0, 20)] for draw in draws]
        # A quarter of the images get noise of 0 to `largest`.
        spread = torch.tensor(added, device=level.device).T.flatten()
        steps = model.steps_of(visible, infrared, noise_level=level, feature_noise=spread)
        config = model.config
        shape = (config["feature_channels"], *(side // config["patch_size"] for side in visible.shape[-2:]))
        noise = sample_noise(self.seed, sample, (2, *shape), stream=NOISE_STREAM).transpose(0, 1).flatten(0, 1)
        # Part of the noise of F_t is that of the images.
        share = spread / (spread.square() + (config["noise_gain"] * level).square()).sqrt().clamp_min(1e-6)
        return model.analyze(visible, infrared, steps, noise.to(level.device) * share.view(-1, 1, 1, 1), frozen)

    def _reconstruction(self, features: FusionFeatures, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        # Stage I: sum over both images of 2 L1 + (1 - SSIM) + 5 L1(Sobel).
        images, rebuilt = torch.cat([visible, infrared]), self.model.reconstruct(features).float()
        return {
            "pixels": 2 * losses.intensity_loss(rebuilt, images, images) * 2,
            "ssim": 2 * losses.ssim_loss(rebuilt, images),
            "gradient": 2 * 5 * losses.signed_gradient_loss(rebuilt, images, images),
        }

    def _fusion(
        self, features: FusionFeatures, batch: Mapping[str, Tensor], clean: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        # Stage II.
        config = self.config
        fused = self.model.fuse(features, batch["visible"], batch["infrared"])[0].float()
        ssim, structure = losses.ssim_losses(fused, *clean)
        salient = config.intensity_target == "salient"
        terms = {
            "intensity": (losses.salient_intensity_loss if salient else losses.intensity_loss)(fused, *clean),
            "gradient": losses.signed_gradient_loss(fused, *clean, config.gradient_gain, config.noise_floor),
            "ssim": ssim,
            "structure": structure,
            "fidelity": losses.fidelity_loss(fused, *clean),
            "difference_correlation": losses.difference_correlation_loss(fused, *clean),
            "out_of_range": losses.range_loss(fused, *clean, ceiling=config.ceiling),
        }
        if config.edges:
            terms["edges"] = losses.edge_preservation_loss(fused, *clean, config.noise_floor)
        for loss in self._detection:
            terms["detection"] = loss.to(fused.device)(fused, batch)
        return {name: getattr(config, name) * loss for name, loss in terms.items()}

    def _diffusion(
        self, features: FusionFeatures, images: Tensor, targets: Tensor, sample: Tensor
    ) -> dict[str, Tensor]:
        # L_D2FE = L_diff,V + L_diff,I + 0.1 L_cons (eq. 22).
        first, second = features.enhanced.chunk(2)
        consistency = self.config.consistency * losses.consistency_loss(first, second)
        if self.model.config["noise_gain"] > 0:
            weight = self.config.noise_decoding if self.model.config["residual"] == "own" else 0.0
            with torch.set_grad_enabled(weight > 0):
                clean = self.model.encode(targets)
            terms = {"diffusion": losses.clean_features_loss(features.enhanced, clean.detach()) + consistency}
            if weight:
                # The residual of a perfect denoiser, F^De = F(clean), is to be all noise of the image.
                ideal = self.model.remove_noise(images, clean, features.shallow)
                terms["noise_decoding"] = weight * F.l1_loss(ideal.float(), targets)
            clean = clean.detach()
            if weight := self.config.feature_collapse:
                error = (images - targets).square().mean(dim=(1, 2, 3))
                gain = self.model.config["noise_gain"]
                terms["feature_collapse"] = weight * losses.feature_collapse_loss(features.shallow, clean, error, gain)
            return terms
        # One timestep for a pair, noise for each image.
        clean = features.shallow
        timestep, noise = self._sample_noise(sample, clean.shape[1:])
        timestep, noise = timestep.to(clean.device).repeat(2), noise.to(clean)
        alpha_bar = torch.tensor(self.model.alphas_cumprod, device=clean.device)[timestep].view(-1, 1, 1, 1)
        noisy = add_noise(clean, noise, alpha_bar).to(clean.dtype)
        prediction = self.model.denoiser(noisy, timestep)
        predicted = noise_estimate(noisy.float(), prediction.float(), alpha_bar, self.model.config["prediction_type"])
        return {"diffusion": losses.noise_prediction_loss(predicted, noise) + consistency}

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
            model: DiffFuseNetModel = DiffFuseNetPipeline.from_pretrained(self.config.initial_weights).model
        else:
            given = {name: value for name in _MODEL_FIELDS if (value := getattr(self.config, name)) is not None}
            try:
                model = DiffFuseNetModel(**{**DIFFFUSENET_VARIANTS[self.config.variant], **given})
            except ValueError as error:
                raise ConfigError(str(error)) from error
        self.check_crops(model.multiple)
        return model

    def build_training_module(self, model: Any) -> DiffFuseNetTraining:
        """The losses of both stages around `model`."""
        return DiffFuseNetTraining(model, self.config, self.training.max_steps, self.training.seed)

    def fuse(self, model: Any, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a full-size pair `(1, 1, H, W)`, padded as the pipeline pads."""
        level = estimate_noise(torch.cat([visible, infrared]))
        padded, size = pad_to_multiple(visible, model.multiple)
        return crop_to(model(padded, pad_to_multiple(infrared, model.multiple)[0], noise_level=level), size)

    def save_pipeline(self, model: Any, folder: Path) -> None:
        """A complete `DiffFuseNetPipeline` folder."""
        infrared_range = self.infrared_range(self.training)
        DiffFuseNetPipeline(model, model.build_scheduler(), infrared_range).save_pretrained(folder)
