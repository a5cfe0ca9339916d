"""DiffFuseNet: two registered luminance images to one, by diffusion on shallow features and fusion of wavelet bands.

An independent implementation after the published description (Wang, Li, Yang, Xu, Lv, Liu: "DiffFuseNet:
Infrared-visible image fusion via diffusion-guided feature alignment and feature consistency alignment", Pattern
Recognition 180, 2026, 114259). Not the authors' code or weights; where the description is silent the choice is ours.

Data flow: pixels -> shallow features -> D2FE -> EDFD -> Haar bands -> coupling -> cross-frequency attention -> band
fusion -> reconstruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from fusion_hub.models import layers
from fusion_hub.models.difffusenet_inference import FoldedDiffFuseNet
from fusion_hub.models.feature_diffusion import (
    ConditionalDenoiser,
    FeatureInjection,
    RemovedNoiseInjection,
    ShallowEncoder,
    add_noise,
    clean_estimate,
    noise_estimate,
    noise_to_signal,
    scale_features,
)
from fusion_hub.models.frequency import (
    BandFusion,
    CrossFrequencyAddition,
    CrossFrequencyAttention,
    InvertibleCoupling,
    haar_analysis,
    haar_synthesis,
)
from fusion_hub.models.geometry import difffusenet_geometry
from fusion_hub.models.layers import DetailHead, FeatureDecoupling, FusionModel, zero_module
from fusion_hub.models.noise import estimate_noise

DIFFFUSENET_VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"feature_channels": 16, "denoiser_channels": (24, 48, 64), "num_mid_blocks": 1, "num_coupling": 1},
    "small": {"feature_channels": 24, "denoiser_channels": (32, 64, 96), "num_mid_blocks": 1, "num_coupling": 1},
    "base": {"feature_channels": 32, "denoiser_channels": (32, 64, 128), "num_mid_blocks": 1, "num_coupling": 2},
    "large": {"feature_channels": 64, "denoiser_channels": (64, 128, 192), "num_mid_blocks": 2, "num_coupling": 2},
}
"""Named sizes: the keyword arguments of `DiffFuseNetModel` that differ from its defaults."""

MAX_TIMESTEPS = 10_000
Pair = tuple[Tensor, Tensor]
Record = dict[str, Tensor]
"""Intermediate tensors by their names in `DiffFuseNetOutput`; of both images the visible first."""


class DiffusionStep(NamedTuple):
    """A step of the denoiser.

    Attributes:
        timestep: t of each image, `(2B,)`.
        alpha_bar: abar_t, a number or `(2B, 1, 1, 1)` float32.
    """

    timestep: Tensor
    alpha_bar: Tensor | float


@dataclass
class FusionFeatures:
    """Results of the stages before reconstruction.

    Attributes:
        shallow: clean features F_0 of both images, visible first, `(2B, C, h, w)` with h = H / patch_size.
        enhanced: denoised features F^De, same shape.
        specific: visible-specific and infrared-specific features of EDFD, each `(B, C, h, w)`.
        low: low bands of both images, visible first, `(2B, C, h/2, w/2)`; features `(2B, C, h, w)` without Haar.
        high: high bands `(2B, 3C, h/2, w/2)`; None without Haar.
        images: both images with the residual of D2FE, `(2B, 1, H, W)`, visible first.
        gates: spatial `(2B, 3, h/2, w/2)` and channel gate `(2B, C, h/2, w/2)`; None without cross-frequency attention.
    """

    shallow: Tensor
    enhanced: Tensor
    specific: tuple[Tensor, Tensor]
    low: Tensor
    high: Tensor | None
    images: Tensor
    gates: Pair | None = None


@dataclass
class DiffFuseNetOutput(BaseOutput):
    """Intermediate results of `DiffFuseNetModel`, with `return_intermediates=True`.

    Pairs are (visible, infrared). Features are `(B, C, h, w)` with h = H / patch_size, bands half that size.

    Attributes:
        fused: `(B, 1, H, W)`, not clamped.
        share: s in F = s V + (1 - s) I + r, in (0, 1), `(B, 1, H, W)`.
        correction: r of the same equation, `(B, 1, H, W)`.
        patch_size: pixels to a feature cell, each way.
        shallow: features F_0 of the shared encoder.
        noisy: F_t, the first input of the denoiser, before scaling where no noise was drawn: then it is `shallow`. None
            without D2FE.
        enhanced: features F^De after the last estimate of the denoiser; without D2FE `shallow`.
        residual: what D2FE adds to the images, `(2B, 1, H, W)`, visible first; `(B, 1, H, W)` where both receive the
            same; None without D2FE.
        noise_level: standard deviation of the noise in the images, `(2B,)`, visible first, as estimated or given; None
            where the timestep is fixed.
        shared: features of both sensors (EDFD).
        specific: features of one sensor only.
        low: low Haar bands of both images, before the coupling; None without Haar, as the next.
        high: high bands `(B, 3C, h/2, w/2)`: differences along rows, along columns and across.
        spatial_gate: factor of the high bands from the low band, one map for each kind of difference,
            `(B, 3, h/2, w/2)` in (0, 2); None without cross-frequency attention, as the next.
        channel_gate: factor of the low band from the high bands, `(B, C, h/2, w/2)` in (0, 2).
    """

    fused: Tensor
    share: Tensor
    correction: Tensor
    patch_size: int
    shallow: Pair
    enhanced: Pair
    shared: Tensor
    specific: Pair
    noisy: Pair | None = None
    residual: Tensor | None = None
    noise_level: Tensor | None = None
    low: Pair | None = None
    high: Pair | None = None
    spatial_gate: Pair | None = None
    channel_gate: Pair | None = None


# Pipelines find the loading method of a component by the name ModelMixin in its module.
class DiffFuseNetModel(FusionModel, ModelMixin):  # type: ignore[misc]  # diffusers types `config_name` twice
    """The network: `(B, 1, H, W)` visible luminance and infrared in [0, 1] to `(B, 1, H, W)` fused, not clamped.

    Works at 1/`patch_size` of the image: pixels move to channels first and back last. The convolutions keep their
    arithmetic, and most full-size element-wise passes, which dominate the time on a CPU, go away.

    Args:
        in_channels: channels of each image; 1, the luminance.
        patch_size: space-to-depth factor before the encoder; 1 is the description's full-size encoder.
        feature_channels: C, even.
        denoiser_channels: U-Net widths at 1/2, 1/4 and 1/8 of the feature size.
        num_mid_blocks: residual blocks at the U-Net's bottom.
        num_coupling: invertible coupling steps on the wavelet bands.
        coupling_expansion: hidden width of the coupling functions over their input.
        num_train_timesteps: T.
        beta_schedule: `"linear"`, `"scaled_linear"` or `"squaredcos_cap_v2"`, as in diffusers' `DDIMScheduler`.
        prediction_type: `"v_prediction"` or `"epsilon"`.
        inference_timestep: t at which the fusion path evaluates the denoiser, where `noise_gain` is 0.
        noise_gain: standard deviation of the noise in the features over that in an image in [0, 1]. Above 0, each image
            has a timestep of its own: that at which F_t holds the noise of the image, estimated or given.
        residual: `"shared"`, eq. 6: both images receive the same; or `"own"`: each the residual of what the denoiser
            removed from its features.
        residual_scale: bound of the residual.
        gate: `"plain"`, or `"normalized"`: the spatial gate reads the low band over its local scale, without a bias.
        attention_window: side of the windows, in band pixels, over which high-band energy is pooled.
        detail_channels: hidden width of a head at half the image size that refines share and correction from the images
            themselves; 0 leaves it out. For an even `patch_size` above 2, where features hold too little of a pixel.
        use_d2fe: ablation; False passes the shallow features and the images on unchanged.
        use_edfd: ablation; False takes the mean as shared and each image's own features as specific.
        frequency: `"haar_inn"`, `"haar"` (no coupling) or `"none"` (fusion of features, no bands, no attention).
        cross_frequency: `"attention"` or `"add"`.

    Raises:
        ValueError: for a value of another type, out of range or unknown, odd `feature_channels`, or `detail_channels`
            with an odd `patch_size`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 2,
        feature_channels: int = 32,
        denoiser_channels: Sequence[int] = (32, 64, 128),
        num_mid_blocks: int = 1,
        num_coupling: int = 2,
        coupling_expansion: int = 1,
        num_train_timesteps: int = 1000,
        beta_schedule: str = "squaredcos_cap_v2",
        prediction_type: str = "v_prediction",
        inference_timestep: int = 40,
        residual_scale: float = 0.1,
        attention_window: int = 16,
        detail_channels: int = 0,
        noise_gain: float = 0.0,
        residual: str = "shared",
        gate: str = "plain",
        use_d2fe: bool = True,
        use_edfd: bool = True,
        frequency: str = "haar_inn",
        cross_frequency: str = "attention",
    ) -> None:
        super().__init__()
        for name, value, low, high in (
            ("in_channels", in_channels, 1, 16),
            ("patch_size", patch_size, 1, 16),
            ("feature_channels", feature_channels, 2, layers.MAX_WIDTH),
            ("num_mid_blocks", num_mid_blocks, 0, layers.MAX_DEPTH),
            ("num_coupling", num_coupling, 0, layers.MAX_DEPTH),
            ("coupling_expansion", coupling_expansion, 1, 16),
            ("num_train_timesteps", num_train_timesteps, 2, MAX_TIMESTEPS),
            ("attention_window", attention_window, 1, 256),
            ("detail_channels", detail_channels, 0, layers.MAX_WIDTH),
        ):
            layers.check_whole(name, value, low, high)
        layers.check_whole("inference_timestep", inference_timestep, 0, num_train_timesteps - 1)
        layers.check_wholes("denoiser_channels", denoiser_channels, 3, 1, layers.MAX_WIDTH)
        layers.check_number("residual_scale", residual_scale, 0, 1)
        layers.check_number("noise_gain", noise_gain, 0, 1000)
        layers.check_choice("residual", residual, ("shared", "own"))
        layers.check_choice("gate", gate, ("plain", "normalized"))
        layers.check_choice("beta_schedule", beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2"))
        layers.check_choice("prediction_type", prediction_type, ("v_prediction", "epsilon"))
        layers.check_choice("frequency", frequency, ("haar_inn", "haar", "none"))
        layers.check_choice("cross_frequency", cross_frequency, ("attention", "add"))
        layers.check_flags(use_d2fe=use_d2fe, use_edfd=use_edfd)
        if feature_channels % 2:
            raise ValueError(f"feature_channels must be even, got {feature_channels}")
        if detail_channels and patch_size % 2:
            raise ValueError(f"detail_channels needs an even patch_size, got {patch_size}")
        channels, pixels = feature_channels, in_channels * patch_size**2

        # Plain numbers: a buffer would be rounded by `.to(bfloat16)` (0.998 becomes 0.996).
        self.alphas_cumprod: list[float] = self.build_scheduler().alphas_cumprod.tolist()

        self.encoder = ShallowEncoder(pixels, channels)
        if use_d2fe:
            self.denoiser = ConditionalDenoiser(channels, denoiser_channels, num_mid_blocks)
            injection = FeatureInjection if residual == "shared" else RemovedNoiseInjection
            self.injection = injection(channels, pixels, residual_scale)
        if use_edfd:
            self.decoupling = FeatureDecoupling(channels)
        self.project_features = nn.Conv2d(2 * channels, channels, 1)
        self.project_pixels = nn.Conv2d(pixels, channels, 3, padding=1)

        if frequency == "haar_inn":
            self.coupling = nn.ModuleList(
                InvertibleCoupling(4 * channels, coupling_expansion) for _ in range(num_coupling)
            )
        if frequency != "none":
            self.band_attention = (
                CrossFrequencyAttention(channels, attention_window, gate == "normalized")
                if cross_frequency == "attention"
                else CrossFrequencyAddition(channels)
            )
            self.fuse_high = BandFusion(3 * channels)
        self.fuse_low = BandFusion(channels)

        self.trunk = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
        )
        self.fusion_head = zero_module(nn.Conv2d(channels, 2 * pixels, 3, padding=1))  # starts at the mean image
        self.reconstruction_head = nn.Conv2d(channels, pixels, 3, padding=1)
        if detail_channels:
            self.detail_head = DetailHead(in_channels, detail_channels)

    def build_scheduler(self) -> DDIMScheduler:
        """The noise schedule of the config, as a pipeline component."""
        with torch.device("cpu"):  # numbers are read from it, also where the model is built without memory
            return DDIMScheduler(
                num_train_timesteps=self.config.num_train_timesteps,
                beta_schedule=self.config.beta_schedule,
                prediction_type=self.config.prediction_type,
                clip_sample=False,
            )

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this: the patch, then three halvings in the U-Net."""
        return self.config.patch_size * 8

    @property
    def tile_multiple(self) -> int:
        """Tiles whose origins are multiples of this see the same U-Net and pooling grids as the whole image."""
        return difffusenet_geometry(self.config).grid

    @property
    def receptive_margin(self) -> int:
        """Pixels from a cut edge beyond which the output no longer depends on the cut, rounded up to the grid."""
        return difffusenet_geometry(self.config).margin

    def fuse_for_inference(self, portable: bool = False) -> FoldedDiffFuseNet | None:
        """The same function of a pair with constants folded, for one step without noise; the model stays as it is.

        Build it again after the weights, the device or the dtype have changed. Returns None for the ablations, which
        run as they are trained. `portable` uses operators that can be exported only.
        """
        config = self.config
        complete = config.use_d2fe and config.use_edfd and config.num_coupling > 0
        # Both departures from eq. 5 and 6 go together, in v form; other combinations exist for comparisons only.
        own = config.noise_gain > 0
        complete &= (config.residual == "own") == own and not (own and config.prediction_type == "epsilon")
        if not complete or config.frequency != "haar_inn" or config.cross_frequency != "attention":
            return None
        return FoldedDiffFuseNet(self, portable)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        timesteps: Sequence[int] | None = None,
        alphas_cumprod: Tensor | Sequence[float] | None = None,
        noise: Tensor | None = None,
        noise_level: Tensor | None = None,
        num_steps: int = 1,
        return_intermediates: bool = False,
    ) -> Tensor | DiffFuseNetOutput:
        """Fuse.

        Args:
            visible: `(B, 1, H, W)` luminance in [0, 1], H and W multiples of `multiple`.
            infrared: `(B, 1, H, W)` in [0, 1].
            timesteps: descending DDIM steps for the denoiser, the same for all images. None: `inference_timestep`, or
                with `noise_gain` those that follow from `noise_level`.
            alphas_cumprod: a scheduler's, `(T,)`, for `timesteps`; None is that of the model's own schedule.
            noise: `(2B, C, H / patch_size, W / patch_size)` unit Gaussian, visible first. None passes the clean
                features as F_t: the output is deterministic.
            noise_level: standard deviation of the noise in each image, `(2B,)`, visible first, in the unit of the
                images; 0 leaves an image as it is. None estimates it from the images. Only with `noise_gain`.
            num_steps: steps from the timestep of `noise_level` down to 0.
            return_intermediates: return a [`DiffFuseNetOutput`]; its fused image is the same to the bit.

        Returns:
            `(B, 1, H, W)` fused luminance, in the dtype of `visible`, not clamped; or a [`DiffFuseNetOutput`].

        Raises:
            ValueError: if the shapes differ or are not multiples of `multiple`.
        """
        self.check_images(visible, infrared, self.config.in_channels)
        record: Record | None = {} if return_intermediates else None
        steps = self.steps_of(visible, infrared, timesteps, alphas_cumprod, noise_level, num_steps, record=record)
        features = self.analyze(visible, infrared, steps, noise, record=record)
        fused, share = self.fuse(features, visible, infrared)
        if record is None:
            return fused
        shared, residual, level = record.pop("shared"), record.pop("residual", None), record.pop("noise_level", None)
        pairs: dict[str, Any] = {name: tuple(tensor.chunk(2)) for name, tensor in record.items()}
        return DiffFuseNetOutput(
            fused=fused,
            share=share,
            correction=fused - torch.lerp(*self._mixed(features, visible, infrared)[::-1], share),
            patch_size=self.config.patch_size,
            shared=shared,
            residual=None if residual is None else self._to_pixels(residual),
            noise_level=level,
            specific=features.specific,
            **pairs,
        )

    def steps_of(
        self,
        visible: Tensor,
        infrared: Tensor,
        timesteps: Sequence[int] | None = None,
        alphas_cumprod: Tensor | Sequence[float] | None = None,
        noise_level: Tensor | None = None,
        num_steps: int = 1,
        feature_noise: Tensor | None = None,
        record: Record | None = None,
    ) -> list[DiffusionStep]:
        """The steps of the denoiser, first timestep first; arguments as in `forward`.

        With `noise_gain`, an image with noise of standard deviation s has the timestep at which F_t holds noise of
        noise_gain * s beside the features. `feature_noise` `(2B,)` is noise that is added to the features as well.
        """
        images, config = torch.cat([visible, infrared]), self.config
        if timesteps is None and config.noise_gain > 0:
            noise_level = estimate_noise(images) if noise_level is None else noise_level.to(images.device).float()
            if record is not None:
                record["noise_level"] = noise_level
            level = config.noise_gain * noise_level
            level = level if feature_noise is None else (level.square() + feature_noise.square()).sqrt()
            table = torch.tensor(noise_to_signal(self.alphas_cumprod), device=images.device)
            left = [1 - number / num_steps for number in range(num_steps)]
            return [
                DiffusionStep(
                    torch.searchsorted(table, level * part).clamp_max(config.num_train_timesteps - 1),
                    (1 / (1 + (level * part).square())).view(-1, 1, 1, 1),
                )
                for part in left
            ]
        timesteps = [config.inference_timestep] if timesteps is None else timesteps
        schedule = self.alphas_cumprod if alphas_cumprod is None else alphas_cumprod
        return [
            DiffusionStep(torch.full((len(images),), step, device=images.device), float(schedule[step]))
            for step in timesteps
        ]

    def analyze(
        self,
        visible: Tensor,
        infrared: Tensor,
        steps: Sequence[DiffusionStep] | None = None,
        noise: Tensor | None = None,
        freeze_d2fe: bool = False,
        record: Record | None = None,
    ) -> FusionFeatures:
        """Everything up to the bands of each image; `steps` of `steps_of`, None with its defaults.

        `freeze_d2fe` stops gradients to the encoder and the denoiser; `record` receives the intermediate tensors.
        """
        self.check_images(visible, infrared, self.config.in_channels)
        pixels = self._to_patches(torch.cat([visible, infrared]))
        shallow = enhanced = self.encoder(pixels)
        if self.config.use_d2fe:
            steps = self.steps_of(visible, infrared) if steps is None else steps
            enhanced = self.denoise(shallow, steps, noise, record)
        if freeze_d2fe:
            shallow, enhanced = shallow.detach(), enhanced.detach()
        if self.config.use_d2fe:
            residual: Tensor
            if self.config.residual == "own":
                residual = self.injection(enhanced, shallow)
                pixels = pixels + residual
            else:
                residual = self.injection(*enhanced.chunk(2))
                pixels = pixels + torch.cat([residual, residual])  # eq. 6, the same residual for both images
            _note(record, residual=residual)
        _note(record, shallow=shallow, enhanced=enhanced)
        low, high, specific, gates = self._bands(enhanced, pixels, record)
        return FusionFeatures(shallow, enhanced, specific, low, high, self._to_pixels(pixels), gates)

    def remove_noise(self, images: Tensor, enhanced: Tensor, shallow: Tensor) -> Tensor:
        """Images `(2B, 1, H, W)`, visible first, with the residuals of their denoised and original features.

        For `residual="own"` (eq. 6).
        """
        return images + self._to_pixels(self.injection(enhanced, shallow)).to(images.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Shallow features F_0 of images: `(B, 1, H, W)` to `(B, C, H / patch_size, W / patch_size)`."""
        features: Tensor = self.encoder(self._to_patches(images))
        return features

    def denoise(
        self,
        shallow: Tensor,
        steps: Sequence[DiffusionStep],
        noise: Tensor | None = None,
        record: Record | None = None,
    ) -> Tensor:
        """Clean estimate F^De of the features `(B, C, h, w)` by DDIM (Song et al., 2021), first step to the last.

        With `noise_gain` the features hold the noise of their image: F_t = sqrt(abar_t) (F_0 + noise).
        """
        prediction_type = self.config.prediction_type
        current = shallow
        if not steps:
            return shallow
        if noise is not None:
            current = add_noise(shallow, noise.to(shallow.dtype), steps[0].alpha_bar)
        _note(record, noisy=current)
        if noise is None and self.config.noise_gain > 0:
            current = scale_features(shallow, steps[0].alpha_bar)
        for number, (timestep, alpha_bar) in enumerate(steps):
            prediction = self.denoiser(current, timestep)
            clean = clean_estimate(current, prediction, alpha_bar, prediction_type)
            if number + 1 < len(steps):
                eps = noise_estimate(current, prediction, alpha_bar, prediction_type)
                clean = add_noise(clean, eps, steps[number + 1].alpha_bar)
            current = clean
        return current

    def fuse(self, features: FusionFeatures, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """F = s V + (1 - s) I + r from the fused bands: F and the share s of V in (0, 1), `(B, 1, H, W)` each.

        With a residual of its own, V and I have it here as well: no path of a pixel goes around D2FE.
        """
        bands = self.fuse_low(*features.low.chunk(2))
        if features.high is not None:
            bands = haar_synthesis(bands, self.fuse_high(*features.high.chunk(2)))
        maps = self._to_pixels(self.fusion_head(self.trunk(bands))).to(visible.dtype)
        visible, infrared = self._mixed(features, visible, infrared)
        if self.config.detail_channels:
            maps = maps + self.detail_head(torch.cat([visible, infrared, maps], dim=1))
        logit, residual = maps.chunk(2, dim=1)
        share = torch.sigmoid(logit)
        return torch.lerp(infrared, visible, share) + residual, share

    def reconstruct(self, features: FusionFeatures) -> Tensor:
        """Stage I: each image from its own bands, `(2B, 1, H, W)`, visible first."""
        bands = features.low if features.high is None else haar_synthesis(features.low, features.high)
        return self._to_pixels(self.reconstruction_head(self.trunk(bands)))

    def _mixed(self, features: FusionFeatures, visible: Tensor, infrared: Tensor) -> Pair:
        """The images that the last equation mixes."""
        if not (self.config.use_d2fe and self.config.residual == "own"):
            return visible, infrared
        first, second = features.images.to(visible.dtype).chunk(2)
        return first, second

    def _bands(
        self, enhanced: Tensor, pixels: Tensor, record: Record | None
    ) -> tuple[Tensor, Tensor | None, Pair, Pair | None]:
        visible, infrared = enhanced.chunk(2)
        if self.config.use_edfd:
            shared, *specific = self.decoupling(visible, infrared)
        else:
            shared, specific = (visible + infrared) * 0.5, [visible, infrared]
        # `repeat` would lose channels_last.
        joint = torch.cat([torch.cat([shared, shared]), torch.cat(specific)], dim=1)
        _note(record, shared=shared)
        projected = self.project_features(joint) + self.project_pixels(pixels)
        if self.config.frequency == "none":
            return projected, None, (specific[0], specific[1]), None
        low, high = haar_analysis(projected)
        _note(record, low=low, high=high)
        if self.config.frequency == "haar_inn":
            bands = torch.cat([low, high], dim=1)
            for step in self.coupling:
                bands = step(bands)
            low, high = bands.split([low.shape[1], high.shape[1]], dim=1)
        gates = None
        if isinstance(self.band_attention, CrossFrequencyAttention):
            gates = self.band_attention.gates(low, high)
            _note(record, spatial_gate=gates[0], channel_gate=gates[1])
            low, high = self.band_attention.apply_gates(low, high, *gates)
        else:
            low, high = self.band_attention(low, high)
        return low, high, (specific[0], specific[1]), gates

    def _to_patches(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, self.config.patch_size).contiguous(memory_format=torch.channels_last)

    def _to_pixels(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.config.patch_size)


def _note(record: Record | None, **tensors: Tensor) -> None:
    if record is not None:
        record.update(tensors)
