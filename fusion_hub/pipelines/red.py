"""RED as a pipeline: the network and the image processor's settings. It has no scheduler: coefficients are learned."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fusion_hub.image.luminance import ValueRange
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.image.tiling import Window
from fusion_hub.models.geometry import red_geometry
from fusion_hub.models.red import REDModel
from fusion_hub.pipelines.fusion_pipeline import FusionPipeline, Sampling, Steps
from fusion_hub.pipelines.inference_form import InferenceForm
from fusion_hub.pipelines.limits import INEXACT_TILE, TileRules, check_steps, is_whole_number, tile_rules

MAX_TILE_SIZE = 4096  # pixels


class REDPipeline(FusionPipeline):
    """Fuse visible with infrared images, or MRI with CT, PET or SPECT images, by RED (arXiv 2601.20260).

    RED is deterministic: no noise is drawn.

    Args:
        model: the network.
        infrared_range: default of the argument of the same name in the call; stored with the weights.
        tile_size: side in pixels of the tiles, for a model whose attention or statistics span the whole image: about
            the crops it was trained on. Stored with the weights. A model that `tiles_exactly` does not need it.
        default_denoising_steps: the fewest steps that give pictures of good quality, which `num_inference_steps=None`
            runs. Stored with the weights. None: T, all steps that the model was trained with.

    Examples:
        >>> from fusion_hub import REDPipeline
        >>> import numpy as np
        >>> pipe = REDPipeline.from_pretrained("red-small-msrs")
        >>> visible, infrared = np.eye(32, dtype=np.uint8) * 255, np.arange(32 * 32).reshape(32, 32) / 1023
        >>> pipe(visible, infrared, num_inference_steps="auto").images[0].size
        (32, 32)
    """

    uses_noise = False

    def __init__(
        self,
        model: REDModel,
        infrared_range: str | tuple[float, float] | list[Any] = "auto",  # a form that diffusers can check
        tile_size: int = INEXACT_TILE,
        default_denoising_steps: int | None = None,
    ) -> None:
        super().__init__()
        settings = {"tile_size": tile_size, "default_denoising_steps": default_denoising_steps}
        self.check_settings({"infrared_range": infrared_range, **settings})
        self.register_modules(model=model)
        trained = model.config.num_steps
        if default_denoising_steps is not None and default_denoising_steps > trained:
            text = f"is more than the {trained} steps that the model was trained with: give fewer"
            raise ValueError(f"default_denoising_steps={default_denoising_steps} {text}")
        self.register_to_config(infrared_range=infrared_range, **settings)
        self.image_processor = FusionImageProcessor(infrared_range=cast(ValueRange, infrared_range))
        self._form = InferenceForm()

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        super().check_settings(settings)
        tile_size = settings.get("tile_size", INEXACT_TILE)
        if not is_whole_number(tile_size) or not 1 <= tile_size <= MAX_TILE_SIZE:
            wanted = f"a whole number of pixels from 1 to {MAX_TILE_SIZE}: use about 128 to 256"
            raise ValueError(f"tile_size={tile_size!r} must be {wanted}")
        steps = settings.get("default_denoising_steps")
        if steps is not None and not (is_whole_number(steps) and steps >= 1):
            raise ValueError(f"default_denoising_steps={steps!r} must be a whole number from 1, or null for all steps")

    def check_steps(self, num_inference_steps: Any) -> None:
        check_steps(num_inference_steps, self.model.config)

    def count_steps(self, num_inference_steps: Steps) -> int:
        if num_inference_steps == "auto":
            return int(self.model.config.num_steps)
        return int(num_inference_steps or self.default_steps)

    @property
    def default_steps(self) -> int:
        """What `num_inference_steps=None` runs."""
        return int(self.config.get("default_denoising_steps") or self.model.config.num_steps)

    @property
    def step_network(self) -> torch.nn.Module | None:
        return self.model.unet

    @property
    def tile_rules(self) -> TileRules:
        return tile_rules("red", red_geometry(self.model.config), self.config["tile_size"])

    def fuse_luminance(
        self, visible: Tensor, infrared: Tensor, window: Window, sampling: Sampling, return_intermediates: bool = False
    ) -> Any:
        # In float32 whatever the weights are: the model keeps its states so.
        device = self._execution_device
        visible, infrared = visible.to(device), infrared.to(device)
        wanted = sampling.num_inference_steps
        steps: int | Literal["auto"] = "auto" if wanted == "auto" else self.count_steps(wanted)
        if steps != "auto" and not return_intermediates and (folded := self._form.of(self.model)):
            return folded(visible, infrared, steps)
        return self.model(visible, infrared, num_inference_steps=steps, return_intermediates=return_intermediates)
