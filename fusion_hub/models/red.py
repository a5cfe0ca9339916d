"""RED: two registered luminance images to one by a short, deterministic, reversible chain of diffusion steps.

An independent implementation after "RED: Reversible Efficient Diffusion for image fusion" (arXiv 2601.20260). Not the
authors' code or weights. The formulas below are a reconstruction that agrees with the paper's prose; where it is silent
they follow Invertible Diffusion Models (Chen et al., TPAMI 2025), on whose training scheme RED rests.

    x_T = k V,  x_{T+1} = k I,  k = sqrt(abar_T)                the two images open the chain
    x_{t-1} = (1 - v_t) f_t(x_t) + v_t x_{t+1},  t = T ... 1    one DDIM step each, wired to be invertible
    F = lambda x_0 + (1 - lambda) x_1                           the result

The chain is deterministic: no noise is sampled. Space-to-depth takes the place of a VAE.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from fusion_hub.models.geometry import red_geometry
from fusion_hub.models.layers import FusionModel, check_choice, check_flags, check_whole
from fusion_hub.models.pruned_unet import CopyReport, Pair, PrunedUNet, copy_sd_unet, load_sd_unet, sd_unet_settings
from fusion_hub.models.red_inference import FoldedRED
from fusion_hub.models.reversible import MEMORY_MODES, WiredStep, wired_chain

RED_VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {
        "block_out_channels": (64, 128),
        "num_attention_heads": (2, 4),
        "attention_window": (16, 16),
        "norm": "local",
        "source_injection": True,
    },
    "tiny": {
        "block_out_channels": (8, 16),
        "num_attention_heads": (1, 1),
        "layers_per_block": 1,
        "attention_window": (4, 4),
        "norm": "local",
        "source_injection": True,
    },
}
"""Named sizes: the keyword arguments of `REDModel` that differ from its defaults."""

RESAMPLES = ("pixel_shuffle", "convolution")
TRAIN_TIMESTEPS = 1000  # of Stable Diffusion's schedule, which the timestep embedding was trained with


@dataclass
class REDOutput(BaseOutput):
    """Intermediate results of `REDModel`, with `return_intermediates=True`.

    Attributes:
        fused: `(B, 1, H, W)`, not clamped.
        states: x_n, x_{n-1}, ..., x_0 as images `(B, 1, H, W)`; fewer where the chain was left early.
        estimates: the clean image that the chain expects after each step, `(B, 1, H, W)` each.
        steps: how many steps were run.
        start: n, the t of the first state.
        coefficients: the learned scalars, as of [`REDModel.coefficients`].
    """

    fused: Tensor
    states: list[Tensor]
    estimates: list[Tensor]
    steps: int
    start: int
    coefficients: dict[str, Any]


# Pipelines find the loading method of a component by the name ModelMixin in its module.
class REDModel(FusionModel, ModelMixin):  # type: ignore[misc]  # diffusers types `config_name` twice
    """The network: `(B, 1, H, W)` visible luminance and infrared in [0, 1] to `(B, 1, H, W)` fused, not clamped.

    Args:
        block_out_channels, num_attention_heads, layers_per_block, attention_window, time_embedding, norm,
            norm_num_groups, reversible_blocks: of the [`PrunedUNet`]; `reversible_blocks` is "Reverse II" of the paper.
        patch_size: space-to-depth factor; 2 makes the 4 latent channels of Stable Diffusion from one luminance channel.
        num_steps: T, the steps of the chain.
        source_injection: give both images to the network in every step, beside the state. False is the paper's model,
            where the infrared image comes in through the wiring alone.
        reversible_fusion: wire the chain ("Reverse I" of the paper). False is the ablation: the ordinary DDIM chain
            x_{t-1} = f_t(x_t) from the mean of both images, by plain autograd.
        learnable_lambda: learn the weight of x_0 against x_1; False keeps it at 1.
        resample: `"pixel_shuffle"`, lossless; `"convolution"`, the ablation: a strided and a transposed convolution.
        memory: memory mode of training, one of `MEMORY_MODES` in `reversible.py`. It changes no result.
        store_states: keep the states of the chain, which are of the size of the images, instead of inverting it.

    Raises:
        ValueError: for values out of range and unknown names.
    """

    copy_report: CopyReport | None = None
    """What `from_sd15` copied."""

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (320, 640),
        num_attention_heads: int | Sequence[int] = 8,
        layers_per_block: int = 2,
        attention_window: Sequence[int] = (0, 0),
        time_embedding: bool = True,
        norm: str = "group",
        norm_num_groups: int = 32,
        patch_size: int = 2,
        num_steps: int = 2,
        source_injection: bool = False,
        reversible_fusion: bool = True,
        reversible_blocks: bool = True,
        learnable_lambda: bool = True,
        resample: str = "pixel_shuffle",
        memory: str = "reversible",
        store_states: bool = False,
    ) -> None:
        super().__init__()
        check_choice("resample", resample, RESAMPLES)
        check_whole("patch_size", patch_size, 1, 16)
        check_whole("num_steps", num_steps, 1, TRAIN_TIMESTEPS)
        check_flags(
            time_embedding=time_embedding,
            source_injection=source_injection,
            reversible_fusion=reversible_fusion,
            learnable_lambda=learnable_lambda,
            store_states=store_states,
        )
        self.store_states = store_states
        channels = patch_size**2
        self.unet = PrunedUNet(
            in_channels=3 * channels if source_injection else channels,
            out_channels=channels,
            block_out_channels=block_out_channels,
            num_attention_heads=num_attention_heads,
            layers_per_block=layers_per_block,
            attention_window=attention_window,
            use_time_embedding=time_embedding,
            norm=norm,
            norm_num_groups=norm_num_groups,
            reversible_blocks=reversible_blocks,
            memory=memory,
        )
        if resample == "convolution":
            side = 2 * patch_size - 1
            self.encoder = nn.Conv2d(1, channels, side, stride=patch_size, padding=patch_size - 1)
            self.decoder = nn.ConvTranspose2d(channels, 1, side, patch_size, patch_size - 1, patch_size - 1)
        # alpha = v = sigmoid(0) = 1/2 and lambda = 1 + 0. A cast to bfloat16 hardly rounds these forms.
        self.alpha_logit = nn.Parameter(torch.zeros(num_steps))
        if reversible_fusion:
            self.v_logit = nn.Parameter(torch.zeros(num_steps))
        if learnable_lambda:
            self.lambda_offset = nn.Parameter(torch.zeros(()))

    @classmethod
    def from_sd15(cls, pretrained_model_name_or_path: str | os.PathLike[str], **config: Any) -> Self:
        """A model with the U-Net of Stable Diffusion 1.5; `model.copy_report` lists the copied tensors.

        Path and errors are those of [`PrunedUNet.from_sd15`]; `config` holds arguments of `REDModel`. Defaults of
        widths, heads and groups are those of the source.
        """
        source = load_sd_unet(pretrained_model_name_or_path)
        model = cls(**(sd_unet_settings(source) | config))
        model.copy_report = copy_sd_unet(source, model.unet)
        return model

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this: the patch, then one halving in the U-Net."""
        return 2 * self.config.patch_size

    @property
    def tile_multiple(self) -> int:
        """Tiles whose origins are multiples of this see the same attention windows as the whole image."""
        return red_geometry(self.config).grid

    @property
    def tiles_exactly(self) -> bool:
        """Whether tiles equal the whole image `receptive_margin` away from their cut edges.

        False where a statistic (`norm="group"`) or an attention (a window of 0) spans the image.
        """
        return red_geometry(self.config).exact

    @property
    def receptive_margin(self) -> int:
        """Pixels from a cut edge beyond which the output no longer depends on the cut; larger than any image where
        tiles are never exact."""
        return red_geometry(self.config).margin

    def timestep(self, t: int) -> int:
        """That of step t in Stable Diffusion's schedule."""
        return round(TRAIN_TIMESTEPS * t / self.config.num_steps) - 1

    def fuse_for_inference(self) -> FoldedRED | None:
        """The same function of a pair arranged for inference on a CPU; the model stays as it is.

        Build it again after the weights, the device or the dtype have changed. Returns None where a statistic or an
        attention spans the image, for the ablations of the chain and outside the CPU: they run as they are trained.
        """
        config = self.config
        if self.device.type != "cpu" or config.norm != "local" or min(config.attention_window) == 0:
            return None
        if not config.reversible_fusion or config.resample != "pixel_shuffle":
            return None
        return FoldedRED(self)

    def set_memory_mode(self, mode: str, store_states: bool | None = None) -> None:
        """Set the memory mode, one of `MEMORY_MODES` in `reversible.py`, and `store_states` unless it is None.

        Results do not change. ValueError for an unknown mode.
        """
        check_choice("mode", mode, MEMORY_MODES)
        self.unet.memory = mode
        if store_states is not None:
            self.store_states = store_states

    def coefficients(self) -> dict[str, list[float] | float]:
        """The learned scalars of the chain (the paper's Table 4).

        `"alphas"`: alpha_1 ... alpha_T; `"v"`: v_1 ... v_T, empty without `reversible_fusion`; `"lambda"`.
        """
        schedule = self._schedule(torch.float64)
        v = [] if schedule.v is None else schedule.v.tolist()
        return {"alphas": schedule.alphas.tolist(), "v": v, "lambda": schedule.last.item()}

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        num_inference_steps: int | Literal["auto"] | None = None,
        tolerance: float = 2 / 255,
        return_intermediates: bool = False,
    ) -> Tensor | REDOutput:
        """Fuse.

        Args:
            visible: `(B, 1, H, W)` luminance in [0, 1], H and W multiples of `multiple`.
            infrared: `(B, 1, H, W)` in [0, 1].
            num_inference_steps: None is T, as trained. n < T runs the chain t = n ... 1 with alpha_1 ... alpha_n.
                `"auto"` starts at T and leaves the chain for an image as soon as one more step changes its clean
                estimate by less than `tolerance`. It takes at least two steps, so it can save steps from T = 3 on.
            tolerance: mean absolute difference over an image, in its [0, 1].
            return_intermediates: return a [`REDOutput`] with all states and clean estimates.

        Returns:
            `(B, 1, H, W)` fused luminance, not clamped, in the dtype of `visible`; or a [`REDOutput`].

        Raises:
            ValueError: if the shapes differ or are not multiples of `multiple`, or for another number of steps.
        """
        self.check_images(visible, infrared)
        steps = trained = self.config.num_steps
        if num_inference_steps not in (None, "auto"):
            steps = num_inference_steps
            if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= trained:
                raise ValueError(
                    f"num_inference_steps={steps!r} must be a whole number from 1 to {trained} (the number of steps in "
                    'training), "auto" or None'
                )
        # The chain runs in float32 at least, whatever the network computes in.
        dtype = torch.promote_types(visible.dtype, torch.float32)
        sources = self._encode(visible).to(dtype), self._encode(infrared).to(dtype)
        schedule = self._schedule(dtype)
        if num_inference_steps == "auto" or return_intermediates:
            limit = tolerance if num_inference_steps == "auto" else None
            fused, states, estimates = self._trace(sources, schedule, steps, limit)
            fused = fused.to(visible.dtype)
            if not return_intermediates:
                return fused
            return REDOutput(fused, states, estimates, len(estimates), steps, self.coefficients())
        last, before = self._chain(sources, schedule, steps)
        return self._decode(schedule.combine(last, before)).to(visible.dtype)

    def _chain(self, sources: Pair, schedule: "Schedule", steps: int) -> Pair:
        """(x_0, x_1) after steps t = `steps` ... 1; what is kept for the backward pass follows the memory mode."""
        pair = self._open(sources, schedule, steps)
        given = sources if self.config.source_injection else ()
        if schedule.v is None:
            for t in range(steps, 0, -1):
                pair = self._ddim(t)(pair[0], *schedule.ddim(t), *given), pair[0]
            return pair
        parameters = tuple(self.unet.parameters())
        v = schedule.v.unbind()
        chain = [
            WiredStep(self._ddim(t), v[t - 1], (*schedule.ddim(t), *given), parameters) for t in range(steps, 0, -1)
        ]
        return wired_chain(chain, *pair, mode=self.unet.memory, store_states=self.store_states, keep_last=1)

    def _open(self, sources: Pair, schedule: "Schedule", steps: int) -> Pair:
        """(x_T, x_{T+1}): both images at the signal level of step T; without wiring, their mean."""
        level = schedule.levels[steps].sqrt()
        if schedule.v is None:
            x = level * (sources[0] + sources[1]) / 2
            return x, x
        return level * sources[0], level * sources[1]

    def _ddim(self, t: int) -> Callable[..., Tensor]:
        """f_t, one deterministic DDIM step (Song et al., 2021): `body(x, a, b, *sources)` = a x + b noise."""
        return lambda x, a, b, *sources: a * x + b * self._noise(t, x, *sources)

    def _noise(self, t: int, x: Tensor, *sources: Tensor) -> Tensor:
        return self.unet(torch.cat([x, *sources], dim=1) if sources else x, self.timestep(t)).to(x.dtype)

    def _trace(
        self, sources: Pair, schedule: "Schedule", steps: int, tolerance: float | None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The chain step by step by plain autograd: the fused image, the states and the clean estimates.

        With a tolerance each image stops on its own.
        """
        given = sources if self.config.source_injection else ()
        x, x_prev = self._open(sources, schedule, steps)
        states, estimates = [self._decode(x)], list[Tensor]()
        result = states[0]
        finished = torch.zeros(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
        for t in range(steps, 0, -1):
            noise = self._noise(t, x, *given)
            a, b = schedule.ddim(t)
            y = a * x + b * noise
            x, x_prev = y if schedule.v is None else torch.lerp(y, x_prev, schedule.v[t - 1]), x
            states.append(self._decode(x))
            estimates.append(self._decode(schedule.clean(t - 1, x, noise)))
            image = self._decode(schedule.combine(x, x_prev)) if t == 1 else estimates[-1]
            result = torch.where(finished, result, image)
            if tolerance is not None and len(estimates) > 1:
                change = (estimates[-1] - estimates[-2]).abs().mean(dim=(1, 2, 3), keepdim=True)
                finished = finished | (change < tolerance)
                if finished.all():
                    break
        return result, states, estimates

    def _schedule(self, dtype: torch.dtype) -> "Schedule":
        alphas = torch.sigmoid(self.alpha_logit.to(dtype))
        v = torch.sigmoid(self.v_logit.to(dtype)) if self.config.reversible_fusion else None
        one = alphas.new_ones(())
        last = one + self.lambda_offset.to(dtype) if self.config.learnable_lambda else one
        levels = tuple(accumulate(alphas.unbind(), torch.mul, initial=one))  # `cumprod` cannot be exported
        return Schedule(alphas, levels, v, last)

    def _encode(self, image: Tensor) -> Tensor:
        if self.config.resample == "convolution":
            return self.encoder(image.to(self.encoder.weight.dtype))
        return F.pixel_unshuffle(image, self.config.patch_size)

    def _decode(self, x: Tensor) -> Tensor:
        if self.config.resample == "convolution":
            return self.decoder(x.to(self.decoder.weight.dtype)).to(x.dtype)
        return F.pixel_shuffle(x, self.config.patch_size)


class Schedule(NamedTuple):
    """The scalars of the chain as tensors.

    Attributes:
        alphas: alpha_1 ... alpha_T.
        levels: abar_0 ... abar_T; abar_t = alpha_1 ... alpha_t, abar_0 = 1.
        v: v_1 ... v_T; None without wiring.
        last: lambda, the weight of x_0.
    """

    alphas: Tensor
    levels: tuple[Tensor, ...]
    v: Tensor | None
    last: Tensor

    def ddim(self, t: int) -> tuple[Tensor, Tensor]:
        """(a, b) of f_t(x) = a x + b noise = sqrt(abar_{t-1}) clean + sqrt(1 - abar_{t-1}) noise."""
        now, following = self.levels[t], self.levels[t - 1]
        a = (following / now).sqrt()
        return a, (1 - following).sqrt() - a * (1 - now).sqrt()

    def clean(self, t: int, x: Tensor, noise: Tensor) -> Tensor:
        """The clean image that a state x_t and its noise imply; x_0 is one."""
        return (x - (1 - self.levels[t]).sqrt() * noise) / self.levels[t].sqrt()

    def combine(self, last: Tensor, before: Tensor) -> Tensor:
        """F = lambda x_0 + (1 - lambda) x_1."""
        return torch.lerp(before, last, self.last)
