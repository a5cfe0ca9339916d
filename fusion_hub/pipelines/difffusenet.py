"""DiffFuseNet as a pipeline: the network, its noise schedule, and the image processor's settings."""

from typing import Any, Literal, cast

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from fusion_hub.image.luminance import ValueRange
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.image.tiling import Window
from fusion_hub.models.difffusenet import DiffFuseNetModel
from fusion_hub.models.difffusenet_inference import FoldedDiffFuseNet
from fusion_hub.models.geometry import difffusenet_geometry
from fusion_hub.models.noise import estimate_noise
from fusion_hub.pipelines.fusion_pipeline import FusionPipeline, Sampling, Steps, pair_noise
from fusion_hub.pipelines.inference_form import InferenceForm
from fusion_hub.pipelines.limits import STRONGEST_NOISE, TileRules, check_steps, tile_rules


class DiffFuseNetPipeline(FusionPipeline):
    """Fuse visible with infrared images, or MRI with CT, PET or SPECT images, by DiffFuseNet.

    Args:
        model: the network.
        scheduler: diffusers' `DDIMScheduler` with the schedule that the model was trained with; the fusion path needs
            its `alphas_cumprod` only.
        infrared_range: default of the argument of the same name in the call; stored with the weights.

    Examples:
        >>> pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
        >>> pipe.get_timesteps(1) == (pipe.model.config.inference_timestep,)
        True
    """

    def __init__(
        self,
        model: DiffFuseNetModel,
        scheduler: DDIMScheduler,
        infrared_range: str | tuple[float, float] | list[Any] = "auto",  # a form that diffusers can check
    ) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)
        self.register_to_config(infrared_range=infrared_range)
        self.image_processor = FusionImageProcessor(infrared_range=cast(ValueRange, infrared_range))
        self._form = InferenceForm()

    def check_steps(self, num_inference_steps: Any) -> None:
        check_steps(num_inference_steps, self.model.config)

    @property
    def tile_rules(self) -> TileRules:
        return tile_rules("difffusenet", difffusenet_geometry(self.model.config))

    def count_steps(self, num_inference_steps: Steps) -> int:
        return cast(int, num_inference_steps or 1) if self.model.config.use_d2fe else 1

    @property
    def step_network(self) -> torch.nn.Module | None:
        return self.model.denoiser if self.model.config.use_d2fe else None

    def get_timesteps(self, num_inference_steps: int) -> tuple[int, ...]:
        """Evenly spaced steps from the model's `inference_timestep` down; 0, the clean end, is left out.

        Unused by a model with `noise_gain`, whose steps follow from the noise of each image.
        """
        first = self.model.config.inference_timestep
        return tuple(first - first * i // num_inference_steps for i in range(num_inference_steps))

    def noise_level(self, visible: Tensor, infrared: Tensor, denoise: float | Literal["auto"]) -> Tensor | None:
        config = self.model.config
        if not (config.use_d2fe and config.noise_gain > 0):
            return None
        images = torch.cat([visible, infrared])
        return estimate_noise(images) if denoise == "auto" else torch.full((len(images),), denoise * STRONGEST_NOISE)

    @property
    def _folded(self) -> FoldedDiffFuseNet | None:
        """The inference form of the model as it is now; None where it is compiled, hooked or an ablation."""
        return self._form.of(self.model)

    def fuse_luminance(
        self, visible: Tensor, infrared: Tensor, window: Window, sampling: Sampling, return_intermediates: bool = False
    ) -> Any:
        device, dtype, config = self._execution_device, self.model.dtype, self.model.config
        # None for the schedule of the model itself: values out of a tensor would break a compiled graph.
        alphas_cumprod = self.scheduler.alphas_cumprod.tolist()
        alphas_cumprod = None if alphas_cumprod == self.model.alphas_cumprod else alphas_cumprod
        one_clean_step = sampling.noise_strength == 0 and (sampling.num_inference_steps or 1) == 1
        if one_clean_step and alphas_cumprod is None and not return_intermediates and (folded := self._folded):
            return folded(visible.to(device), infrared.to(device), sampling.noise_level)
        noise = None
        if sampling.noise_strength > 0 and config.use_d2fe:
            noise = pair_noise(sampling.seeds, config.feature_channels, window, config.patch_size)
            noise = (noise * sampling.noise_strength).to(device, dtype)
        steps = cast(int, sampling.num_inference_steps or 1)
        adaptive = sampling.noise_level is not None
        return self.model(
            visible.to(device, dtype),
            infrared.to(device, dtype),
            timesteps=None if adaptive else self.get_timesteps(steps),
            alphas_cumprod=alphas_cumprod,
            noise=noise,
            noise_level=sampling.noise_level,
            num_steps=steps,
            return_intermediates=return_intermediates,
        )
