"""The peers with attention, CDDFuse and SwinFusion; see `peers.py`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of each pixel of `(B, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Attention between channels, after Restormer (Zamir et al., CVPR 2022, eq. 1): its cost is linear in the pixels.

    Args:
        channels: C.
        heads: groups of channels that attend to each other.
        depthwise: whether the 3x3 layer of queries, keys and values is depthwise, as in Restormer, or full.
    """

    def __init__(self, channels: int, heads: int, *, depthwise: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))
        groups = 3 * channels if depthwise else 1
        self.enter = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.spread = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=groups, bias=False)
        self.leave = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, the same shape."""
        heads = len(self.scale)
        query, key, value = (
            part.flatten(2).unflatten(1, (heads, -1)) for part in self.spread(self.enter(x)).chunk(3, dim=1)
        )
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.leave((weights @ value).reshape(x.shape))


class GatedFeedForward(nn.Module):
    """Restormer's gated feed-forward layer (its eq. 2); `groups` of the 3x3 layer, which has twice the hidden width."""

    def __init__(self, channels: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.spread = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=groups, bias=False)
        self.leave = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, the same shape."""
        gate, value = self.spread(self.enter(x)).chunk(2, dim=1)
        return self.leave(F.gelu(gate) * value)


class RestormerBlock(nn.Module):
    """Channel attention and feed-forward layer, each after a norm and beside a skip connection."""

    def __init__(self, channels: int, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, the same shape."""
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


def restormer_block(channels: int) -> RestormerBlock:
    """The block of Restormer, with CDDFuse's widths."""
    attention = ChannelAttention(channels, 8, depthwise=True)
    return RestormerBlock(channels, attention, GatedFeedForward(channels, 2 * channels, 4 * channels))


def base_block(channels: int) -> RestormerBlock:
    """CDDFuse's block for the base features."""
    attention = ChannelAttention(channels, 8, depthwise=False)
    return RestormerBlock(channels, attention, GatedFeedForward(channels, channels, channels))


def inverted_residual(channels: int) -> nn.Sequential:
    """MobileNetV2's bottleneck of twice the width, without norms."""
    hidden = 2 * channels
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        nn.ReLU6(inplace=True),
        nn.Conv2d(hidden, hidden, 3, padding=1, padding_mode="reflect", groups=hidden, bias=False),
        nn.ReLU6(inplace=True),
        nn.Conv2d(hidden, channels, 1, bias=False),
    )


class InvertibleNode(nn.Module):
    """An affine coupling of both halves of the channels, after a 1x1 layer: CDDFuse's detail features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        self.phi, self.rho, self.eta = (inverted_residual(channels // 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, the same shape."""
        first, second = self.mix(x).chunk(2, dim=1)
        second = second + self.phi(first)
        first = first * self.rho(second).exp() + self.eta(second)
        return torch.cat([first, second], dim=1)


class CDDFuse(nn.Module):
    """A shared encoder of four Restormer blocks, base and detail features, their fusion, a decoder of four blocks."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.encoder, self.decoder = (nn.Sequential(*(restormer_block(width) for _ in range(4))) for _ in range(2))
        self.base, self.fuse_base = base_block(width), base_block(width)
        self.detail = nn.Sequential(*(InvertibleNode(width) for _ in range(3)))
        self.fuse_detail = InvertibleNode(width)
        self.reduce = nn.Conv2d(2 * width, width, 1, bias=False)
        self.out = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1, bias=False),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(width // 2, 1, 3, padding=1, bias=False),
        )

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """The decoder's image is added to the visible one."""
        features = [self.encoder(self.embed(image)) for image in (visible, infrared)]
        base = self.fuse_base(self.base(features[0]) + self.base(features[1]))
        detail = self.fuse_detail(self.detail(features[0]) + self.detail(features[1]))
        decoded = self.decoder(self.reduce(torch.cat([base, detail], dim=1)))
        return torch.sigmoid(self.out(decoded) + visible)


WINDOW = 8  # pixels, each way


def to_windows(x: Tensor) -> Tensor:
    """`(B, H, W, C)` to `(B, H W / WINDOW^2, WINDOW^2, C)`."""
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`."""
    x = x.unflatten(2, (WINDOW, WINDOW)).unflatten(1, (height // WINDOW, width // WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(height: int, width: int, shift: int, like: Tensor) -> Tensor:
    """Keeps pixels apart that meet only because shifted windows wrap around: `(windows, 1, WINDOW^2, WINDOW^2)`."""
    region = torch.zeros(height, width, device=like.device)
    for number, side in enumerate((height, width)):
        position = torch.arange(side, device=like.device)
        band = (position >= side - WINDOW).int() + (position >= side - shift).int()
        region += 3**number * (band[:, None] if number == 0 else band[None])
    windows = to_windows(region[None, :, :, None])[0, :, :, 0]
    return -100.0 * (windows[:, None, :] != windows[:, :, None]).unsqueeze(1).to(like)


class WindowAttention(nn.Module):
    """Attention in windows with a learned bias for each relative position (Liu et al., Swin Transformer, 2021, eq. 4).

    Queries come from one image, keys and values from the other, or all from the same. In windows this small, the matrix
    products one by one are quicker on a CPU than torch's fused attention.
    """

    index: Tensor

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.bias = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, heads) * 0.02)
        rows, columns = (torch.arange(WINDOW**2) // WINDOW, torch.arange(WINDOW**2) % WINDOW)
        row, column = (x[:, None] - x[None] + WINDOW - 1 for x in (rows, columns))
        self.register_buffer("index", row * (2 * WINDOW - 1) + column)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.leave = nn.Linear(channels, channels)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """`(B, H, W, C)` of both, to that of `x`."""
        _, height, width, _ = x.shape
        bias = self.bias[self.index].permute(2, 0, 1)
        if self.shift:
            x, other = (y.roll((-self.shift, -self.shift), dims=(1, 2)) for y in (x, other))
            bias = bias + shift_mask(height, width, self.shift, bias)
        x, other = to_windows(x), to_windows(other)
        query, key, value = (
            y.unflatten(3, (self.heads, -1)).transpose(2, 3)
            for y in (self.query(x), *self.key_value(other).chunk(2, dim=-1))
        )
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias).softmax(dim=-1)
        x = from_windows(self.leave((weights @ value).transpose(2, 3).flatten(3)), height, width)
        return x.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else x


class SwinBlock(nn.Module):
    """Window attention and two linear layers, each after a norm and beside a skip connection."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, shift)
        self.enter, self.leave = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """`(B, H, W, C)`, the same shape. `other`: the other image's features, normalized, for keys and values."""
        normed = self.norm_1(x)
        x = x + self.attention(normed, normed if other is None else other)
        return x + self.leave(F.gelu(self.enter(self.norm_2(x))))


def swin_blocks(channels: int, heads: int, depth: int) -> nn.Sequential:
    """Blocks whose windows are shifted by half of their side in every second one."""
    return nn.Sequential(*(SwinBlock(channels, heads, WINDOW // 2 * (number % 2)) for number in range(depth)))


class SwinFusionUnit(nn.Module):
    """Attention within each image, then across both."""

    def __init__(self, channels: int, heads: int, depth: int) -> None:
        super().__init__()
        self.within = nn.ModuleList(swin_blocks(channels, heads, depth) for _ in range(2))
        self.across = nn.ModuleList(swin_blocks(channels, heads, depth) for _ in range(2))

    def forward(self, pair: Sequence[Tensor]) -> list[Tensor]:
        """`(B, H, W, C)` of both."""
        pair = [blocks(x) for blocks, x in zip(self.within, pair, strict=True)]
        for first, second in zip(*self.across, strict=True):
            normed = [block.norm_1(x) for block, x in zip((first, second), pair, strict=True)]
            pair = [first(pair[0], normed[1]), second(pair[1], normed[0])]
        return list(pair)


class SwinFusion(nn.Module):
    """Convolutions and Swin blocks for each image, two units of attention within and across, blocks, convolutions."""

    def __init__(self, width: int = 60, heads: int = 6) -> None:
        super().__init__()
        self.shallow = nn.Sequential(  # shared by both images
            nn.Conv2d(1, width // 2, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 2, width, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.patch_norm = nn.LayerNorm(width)  # one for all that enters blocks
        self.extract = nn.ModuleList(swin_blocks(width, heads, 4) for _ in range(2))
        self.units = nn.Sequential(*(SwinFusionUnit(width, heads, 2) for _ in range(2)))
        self.extract_norms, self.fusion_norms = (nn.ModuleList(nn.LayerNorm(width) for _ in range(2)) for _ in range(2))
        self.merge = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.LeakyReLU(0.2, inplace=True))
        self.reconstruct, self.reconstruct_norm = swin_blocks(width, heads, 4), nn.LayerNorm(width)
        self.out = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 2, width // 4, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width // 4, 1, 3, padding=1),
        )

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Sizes that are no multiple of the window are padded by reflection and cropped again."""
        height, width = visible.shape[-2:]
        padding = (0, -width % WINDOW, 0, -height % WINDOW)
        pair = []
        for image, blocks, norm in zip((infrared, visible), self.extract, self.extract_norms, strict=True):
            features = self.shallow(F.pad(image, padding, mode="reflect")).permute(0, 2, 3, 1)
            pair.append(self.patch_norm(norm(blocks(self.patch_norm(features)))))
        pair = [norm(x) for norm, x in zip(self.fusion_norms, self.units(pair), strict=True)]
        x = self.merge(torch.cat(pair, dim=3).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.reconstruct_norm(self.reconstruct(self.patch_norm(x))).permute(0, 3, 1, 2)
        return self.out(x)[..., :height, :width]
