"""Frequency decomposition: one-level Haar transform, invertible coupling, bidirectional cross-frequency attention.

After the published description of DiffFuseNet (Wang et al., Pattern Recognition 180, 2026, 114259). The coupling is the
affine coupling of invertible networks (Dinh et al., Real NVP, 2017) in the order that the description states; the 1x1
mixing before it is Glow's (Kingma and Dhariwal, 2018) in its triangular form: invertible by construction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion_hub.models.layers import zero_module


def haar_analysis(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the orthonormal Haar transform, by strided slices.

    `(B, C, H, W)`, any float dtype, to the low band `(B, C, H/2, W/2)` and the high bands `(B, 3C, H/2, W/2)` in the
    order horizontal, vertical, diagonal detail. The sum of squares stays. ValueError if H or W is odd.
    """
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(
            f"haar_analysis needs even height and width, got {tuple(x.shape[-2:])}: pad to a multiple of 2"
        )
    top_left, top_right = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    bottom_left, bottom_right = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    top_sum, top_difference = top_left + top_right, top_left - top_right
    bottom_sum, bottom_difference = bottom_left + bottom_right, bottom_left - bottom_right
    low = (top_sum + bottom_sum) * 0.5
    horizontal = (top_difference + bottom_difference) * 0.5
    vertical = (top_sum - bottom_sum) * 0.5
    diagonal = (top_difference - bottom_difference) * 0.5
    return low, torch.cat([horizontal, vertical, diagonal], dim=1)


def haar_synthesis(low: Tensor, high: Tensor) -> Tensor:
    """Inverse of `haar_analysis`: `(B, C, H, W)` and `(B, 3C, H, W)` to `(B, C, 2H, 2W)` in the dtype of `low`.

    `channels_last` where `low` is. ValueError if `high` does not have three times the channels of `low`.
    """
    if high.shape[1] != 3 * low.shape[1]:
        raise ValueError(f"haar_synthesis needs high bands with {3 * low.shape[1]} channels, got {high.shape[1]}")
    # Pixels are interleaved with the channels last: whole channel vectors are copied, and the result is channels_last.
    low = low.permute(0, 2, 3, 1) * 0.5
    horizontal, vertical, diagonal = (high.permute(0, 2, 3, 1) * 0.5).chunk(3, dim=3)
    left_top, left_bottom = low + vertical, low - vertical
    right_top, right_bottom = horizontal + diagonal, horizontal - diagonal
    top = torch.stack([left_top + right_top, left_top - right_top], dim=3)
    bottom = torch.stack([left_bottom + right_bottom, left_bottom - right_bottom], dim=3)
    batch, height, width, channels = low.shape
    out = torch.stack([top, bottom], dim=2).reshape(batch, 2 * height, 2 * width, channels)
    return out.permute(0, 3, 1, 2)


class InvertibleMixing(nn.Module):
    """1x1 channel mixing `W = L (U + diag(exp(s)))` with unit lower `L` and strictly upper `U`; starts as identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(channels, channels))
        self.upper = nn.Parameter(torch.zeros(channels, channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def factors(self) -> tuple[Tensor, Tensor]:
        """The two triangular factors in float32, each `(C, C)`."""
        identity = torch.eye(len(self.log_scale), device=self.lower.device)
        lower = torch.tril(self.lower.float(), -1) + identity
        upper = torch.triu(self.upper.float(), 1) + torch.diag(torch.exp(self.log_scale.float()))
        return lower, upper

    def forward(self, x: Tensor) -> Tensor:
        lower, upper = self.factors()
        return F.conv2d(x, (lower @ upper).to(x.dtype)[:, :, None, None])

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward` by two triangular solves; `(B, C, H, W)` to the same shape."""
        lower, upper = self.factors()
        flat = y.float().flatten(2)
        flat = torch.linalg.solve_triangular(lower, flat, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, flat, upper=True).view(y.shape).to(y.dtype)


def _coupling_function(channels: int, expansion: int) -> nn.Sequential:
    """Phi_k of the coupling: 1x1, GELU, depthwise 3x3, GELU, 1x1; the last starts at zero."""
    hidden = channels * expansion
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.GELU(),
        nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
        nn.GELU(),
        zero_module(nn.Conv2d(hidden, channels, 1)),
    )


class InvertibleCoupling(nn.Module):
    """Affine coupling on the wavelet bands, `(B, C, H, W)` to the same shape, C even.

        z2' = z2 + Phi1(z1)
        z1' = z1 * exp(Phi2(z2')) + Phi3(z2')

    The exponent passes through tanh, so a step scales by 1/e to e. Starts as identity. The model calls only the forward
    direction; `inverse` shows that no information is lost.
    """

    def __init__(self, channels: int, expansion: int = 1) -> None:
        super().__init__()
        self.mixing = InvertibleMixing(channels)
        self.phi1, self.phi2, self.phi3 = (_coupling_function(channels // 2, expansion) for _ in range(3))

    def forward(self, bands: Tensor) -> Tensor:
        z1, z2 = self.mixing(bands).chunk(2, dim=1)
        z2 = z2 + self.phi1(z1)
        z1 = z1 * torch.exp(torch.tanh(self.phi2(z2))) + self.phi3(z2)
        return torch.cat([z1, z2], dim=1)

    def inverse(self, bands: Tensor) -> Tensor:
        """The input of `forward` from its output."""
        z1, z2 = bands.chunk(2, dim=1)
        z1 = (z1 - self.phi3(z2)) * torch.exp(-torch.tanh(self.phi2(z2)))
        z2 = z2 - self.phi1(z1)
        return self.mixing.inverse(torch.cat([z1, z2], dim=1))


class CrossFrequencyAttention(nn.Module):
    """Low band -> high bands by spatial attention, high bands -> low band by channel attention.

        A  = 2 sigmoid(Conv7x7([mean_c N, max_c N]) + Conv1x1(N)),  H' = H * A, one map for each detail direction
        a  = 2 sigmoid(MLP(mean |H|)),                              L' = L * a

    Both gates start at 1 and both read the incoming bands. The mean of |H| is the energy of a high band (its plain mean
    is near 0). It is taken over windows of `window` x `window` and interpolated, not over the whole image: then a tile
    and the whole image see the same gate, and so do a training crop and a full frame.

    With `normalized`, N is L over its root mean square at the pixel, and A has no bias. With N = L, whose scale is
    free, the first optimizer steps drive A to its bound of 2 at every pixel, where it has no gradient.
    """

    def __init__(self, channels: int, window: int = 16, normalized: bool = False) -> None:
        super().__init__()
        self.window, self.normalized = window, normalized
        self.spatial_pooled = zero_module(nn.Conv2d(2, 3, 7, padding=3, bias=False))
        self.spatial_direct = zero_module(nn.Conv2d(channels, 3, 1, bias=not normalized))
        self.channel = nn.Sequential(
            nn.Conv2d(3 * channels, channels // 2, 1), nn.GELU(), zero_module(nn.Conv2d(channels // 2, channels, 1))
        )

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Gate `(B, C, H, W)` by `(B, 3C, H, W)` and the other way round; shapes stay."""
        return self.apply_gates(low, high, *self.gates(low, high))

    @staticmethod
    def apply_gates(low: Tensor, high: Tensor, spatial: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
        """L' and H' from the bands and the gates of `gates`."""
        directions = [band * spatial[:, k : k + 1] for k, band in enumerate(high.chunk(3, dim=1))]
        return low * channel, torch.cat(directions, dim=1)

    def gates(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """A `(B, 3, H, W)`, for the high bands, and a `(B, C, H, W)`, for the low band; both in (0, 2)."""
        seen = low
        if self.normalized:
            seen = low * torch.rsqrt(low.float().square().mean(dim=1, keepdim=True) + 1e-6).to(low.dtype)
        pooled = torch.cat([seen.mean(dim=1, keepdim=True), seen.amax(dim=1, keepdim=True)], dim=1)
        spatial = 2 * torch.sigmoid(self.spatial_pooled(pooled) + self.spatial_direct(seen))
        energy = F.avg_pool2d(high.abs(), self.window, ceil_mode=True, count_include_pad=False)
        channel = 2 * torch.sigmoid(self.channel(energy))
        channel = F.interpolate(channel, scale_factor=self.window, mode="bilinear", align_corners=False)
        return spatial, channel[..., : low.shape[-2], : low.shape[-1]]


class CrossFrequencyAddition(nn.Module):
    """The ablation of `CrossFrequencyAttention`: the bands are added to each other element by element."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, C, H, W)` and `(B, 3C, H, W)` to the same shapes."""
        return low + self.project(high), high + torch.cat([low, low, low], dim=1)


class BandFusion(nn.Module):
    """One band of both sources to one fused band: 1x1 convolution and a depthwise 3x3 residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Two `(B, C, H, W)` to one."""
        fused = self.mix(torch.cat([visible, infrared], dim=1))
        return fused + self.local(fused)
