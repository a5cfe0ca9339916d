"""D2FE, diffusion-driven feature enhancement: a diffusion model over shallow features, used in one step.

After the published description of DiffFuseNet (Wang et al., Pattern Recognition 180, 2026, 114259): shared two-layer
encoder, forward noise (eq. 2), a light conditional U-Net that predicts the noise (eq. 20), one clean estimate, feature
fusion (eq. 5) and residual injection into both images (eq. 6). Layer sizes are ours.

All statistics are local. The description names GroupNorm; its means over the whole image differ between a tile, a crop
and a frame. `LocalGroupNorm` takes them over the channels of a group at one pixel.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from fusion_hub.models.layers import LocalGroupNorm, zero_module

EMBEDDING = 64  # channels of the embedding of a timestep


class ShallowEncoder(nn.Module):
    """Two convolutions shared by both modalities: `(B, C_in, H, W)` pixels to `(B, C, H, W)` unit-variance features."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm_in = LocalGroupNorm(channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = LocalGroupNorm(channels, affine=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm_out(self.conv_out(F.gelu(self.norm_in(self.conv_in(pixels)))))


class ConditionalResidualBlock(nn.Module):
    """Two 3x3 convolutions; the timestep scales and shifts the normalized features (FiLM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_1 = LocalGroupNorm(channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_2 = LocalGroupNorm(channels, affine=False)
        self.film = nn.Linear(EMBEDDING, 2 * channels)
        self.conv_2 = zero_module(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm_2(self.conv_1(F.silu(self.norm_1(x))))
        return x + self.conv_2(F.silu(torch.addcmul(shift, hidden, 1 + scale)))


class ConditionalDenoiser(nn.Module):
    """Light U-Net over noisy features at 1/2, 1/4 and 1/8 of their size.

    Args:
        channels: feature channels, in and out.
        widths: channels `(d1, d2, d3)` at 1/2, 1/4 and 1/8.
        num_mid_blocks: residual blocks at 1/8, where parameters are cheap per pixel.
    """

    def __init__(self, channels: int, widths: Sequence[int], num_mid_blocks: int) -> None:
        super().__init__()
        d1, d2, d3 = widths
        self.time = TimestepEmbedding(EMBEDDING, EMBEDDING, post_act_fn="silu")
        self.conv_in = nn.Conv2d(4 * channels, d1, 1)
        self.down_1 = nn.Conv2d(d1, d2, 3, stride=2, padding=1)
        self.block_1 = ConditionalResidualBlock(d2)
        self.down_2 = nn.Conv2d(d2, d3, 3, stride=2, padding=1)
        self.mid = nn.ModuleList(ConditionalResidualBlock(d3) for _ in range(num_mid_blocks))
        self.up_2 = nn.Conv2d(d3 + d2, d2, 1)
        self.block_2 = ConditionalResidualBlock(d2)
        self.up_1 = nn.Conv2d(d2 + d1, d1, 3, padding=1)
        self.conv_out = zero_module(nn.Conv2d(d1, 4 * channels, 1))
        self.skip = nn.Conv2d(channels, channels, 1, bias=False)
        self.skip_gain = zero_module(nn.Linear(EMBEDDING, channels))

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Predict v or the noise of F_t `(B, C, H, W)`, H and W multiples of 8, at steps `(B,)`; zero at first."""
        sinusoids = get_timestep_embedding(timestep, EMBEDDING, downscale_freq_shift=0)
        embedding = self.time(sinusoids.to(self.skip_gain.weight.dtype))
        half = self.conv_in(F.pixel_unshuffle(noisy, 2).contiguous(memory_format=torch.channels_last))
        quarter = self.block_1(self.down_1(F.silu(half)), embedding)
        eighth = self.down_2(F.silu(quarter))
        for block in self.mid:
            eighth = block(eighth, embedding)
        quarter = self.up_2(torch.cat([F.interpolate(eighth, scale_factor=2.0, mode="nearest"), quarter], dim=1))
        quarter = self.block_2(quarter, embedding)
        half = self.up_1(torch.cat([F.interpolate(quarter, scale_factor=2.0, mode="nearest"), half], dim=1))
        out = F.pixel_shuffle(self.conv_out(F.silu(half)), 2)
        # The narrow path cannot carry the noise of all channels at full size; a linear skip with a gain for each
        # timestep can.
        return torch.addcmul(out, self.skip(noisy), self.skip_gain(embedding)[:, :, None, None])


def noise_to_signal(alphas_cumprod: Sequence[float]) -> list[float]:
    """sqrt((1 - abar_t) / abar_t) of each timestep: the noise that F_t holds for unit-variance features."""
    return [((1 - alpha_bar) / alpha_bar) ** 0.5 for alpha_bar in alphas_cumprod]


def _scales(alpha_bar: Tensor | float, like: Tensor) -> tuple[Any, Any]:
    """sqrt(abar_t) and sqrt(1 - abar_t), rounded to the dtype of `like` only at the end."""
    signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return (signal.to(like.dtype), sigma.to(like.dtype)) if isinstance(signal, Tensor) else (signal, sigma)


def add_noise(features: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """F_t = sqrt(abar_t) F_0 + sqrt(1 - abar_t) eps (eq. 2); `alpha_bar` a number or `(B, 1, 1, 1)`."""
    signal, sigma = _scales(alpha_bar, features)
    return features * signal + noise * sigma


def scale_features(features: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """F_t of features that hold the noise of their image already: sqrt(abar_t) F."""
    return features * _scales(alpha_bar, features)[0]


def clean_estimate(noisy: Tensor, prediction: Tensor, alpha_bar: Tensor | float, prediction_type: str) -> Tensor:
    """The clean features that a prediction eps or v `(B, C, H, W)` at one timestep implies.

    F_0 = (F_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), the solution of eq. 2, or in the v form of Salimans and Ho (2022)
    F_0 = sqrt(abar_t) F_t - sqrt(1 - abar_t) v. `prediction_type` is `"epsilon"` or `"v_prediction"`.
    """
    signal, sigma = _scales(alpha_bar, noisy)
    if prediction_type == "epsilon":
        return (noisy - prediction * sigma) / signal
    return noisy * signal - prediction * sigma


def noise_estimate(noisy: Tensor, prediction: Tensor, alpha_bar: Tensor | float, prediction_type: str) -> Tensor:
    """The noise that a prediction implies: the prediction itself, or eps = sqrt(abar_t) v + sqrt(1 - abar_t) F_t."""
    signal, sigma = _scales(alpha_bar, noisy)
    if prediction_type == "epsilon":
        return prediction
    return prediction * signal + noisy * sigma


def _weights(channels: int, maps: int) -> nn.Sequential:
    """sigmoid(Conv1x1(GELU(Norm(Conv1x1([F_V, F_I]))))): `(B, 2 channels, H, W)` to `(B, maps, H, W)` in (0, 1)."""
    return nn.Sequential(
        nn.Conv2d(2 * channels, channels, 1),
        LocalGroupNorm(channels),
        nn.GELU(),
        nn.Conv2d(channels, maps, 1),
        nn.Sigmoid(),
    )


class FeatureInjection(nn.Module):
    """Feature fusion (eq. 5) and the bounded residual that both images receive (eq. 6).

        w = sigmoid(Conv1x1(GELU(Norm(Conv1x1([F_V, F_I])))))
        r = residual_scale * tanh(Conv1x1(w * (F_V + F_I) / 2))

    The projection starts at zero: training begins with the images as they are.
    """

    def __init__(self, channels: int, pixel_channels: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.weight = _weights(channels, channels)
        self.project = zero_module(nn.Conv2d(channels, pixel_channels, 1))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Two `(B, C, H, W)` feature maps to the residual `(B, pixel_channels, H, W)` in +-residual_scale."""
        weight = self.weight(torch.cat([visible, infrared], dim=1))
        fused = weight * ((visible + infrared) * 0.5)
        return self.residual_scale * torch.tanh(self.project(fused))


class RemovedNoiseInjection(nn.Module):
    """Each image's own residual, from what the denoiser removed from its features.

        [w_V, w_I] = sigmoid(Conv1x1(GELU(Norm(Conv1x1([F_V^De, F_I^De])))))
        r_m = residual_scale * tanh(Conv1x1(w_m * (F_m^De - F_m)))

    Eq. 5 and 6 with one difference: a residual common to both images cannot remove the noise of one. Features that pass
    the denoiser unchanged give a residual of exactly 0. The projection does not start at 0: with the last layer of the
    denoiser at 0 as well, neither would have a gradient.
    """

    def __init__(self, channels: int, pixel_channels: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.weight = _weights(channels, 2 * channels)
        self.project = nn.Conv2d(channels, pixel_channels, 1, bias=False)

    def forward(self, enhanced: Tensor, shallow: Tensor) -> Tensor:
        """`(2B, C, h, w)` denoised and original features, visible first, to residuals `(2B, pixel_channels, h, w)`."""
        visible, infrared = enhanced.chunk(2)
        weights = torch.cat(self.weight(torch.cat([visible, infrared], dim=1)).chunk(2, dim=1))
        return self.residual_scale * torch.tanh(self.project(weights * (enhanced - shallow)))
