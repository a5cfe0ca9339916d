"""The inference form of DiffFuseNet: the same function of a pair, with its constants computed beforehand.

Without noise the denoiser runs once. Where its timestep is fixed, the time embedding, the scale and shift of each FiLM
layer and the weights of the DDIM step are constants; where the noise of each image sets it, they are computed once for
an image. Chains of linear layers become one convolution each:

- Haar analysis, mixing and the first 1x1 layer of a coupling: 1x1 convolutions of the cells of 2x2 features;
- the last layers of EDFD and the projection of the features: one 1x1 convolution each;
- a concatenation followed by a 1x1 convolution: one convolution for each part, added in place;
- the residual of a depthwise layer: the center of its kernel; the Haar synthesis: a 1x1 convolution.

Folding is done in float64. On x86 processors, activations and additions run inside oneDNN's convolutions, through the
operators that TorchInductor uses. Elsewhere the same layers run one after the other.
"""

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from fusion_hub.models.feature_diffusion import EMBEDDING, noise_to_signal
from fusion_hub.models.noise import estimate_noise

if TYPE_CHECKING:
    from fusion_hub.models.difffusenet import DiffFuseNetModel

Activation = Literal["none", "gelu", "tanh", "sigmoid"]
_FUNCTIONS: dict[str, Any] = {"gelu": F.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
_HAAR = (((1, 1), (1, 1)), ((1, -1), (1, -1)), ((1, 1), (-1, -1)), ((1, -1), (-1, 1)))
"""Twice the low, horizontal, vertical and diagonal filter."""


@dataclass(frozen=True)
class Target:
    """Device and dtype to compute with, and whether convolutions are oneDNN's, which cannot be exported."""

    device: torch.device
    dtype: torch.dtype
    in_onednn: bool

    def place(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype)


class FoldedConv:
    """activation(conv(x) + b), or conv(x) + b + an addend; the size stays at stride 1 and is divided by a stride of 2.

    Args:
        weight: `(C', C / groups, k, k)`, any dtype and device.
        bias: `(C',)` or None.
        target: where to compute.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        target: Target,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
    ) -> None:
        side = weight.shape[-1]
        self.stride, self.groups, self.activation = stride, groups, activation
        self.padding = 0 if side == stride else side // 2
        self.weight = target.place(weight).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else target.place(bias)
        self.packed = target.in_onednn
        self.matrix: Tensor | None = None
        if self.packed:
            # A 1x1 convolution with 192 channels takes three times as long as the same product of matrices.
            if side == stride == groups == 1:
                self.matrix = torch.ops.mkldnn._reorder_linear_weight(self.weight.flatten(1).contiguous())
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._geometry)

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        return [self.padding] * 2, [self.stride] * 2, [1, 1], self.groups

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """`(B, C, H, W)` to `(B, C', H / stride, W / stride)`. `add`, of the shape of the result, is overwritten."""
        if not self.packed:
            out = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)
            out = out if add is None else add.add_(out)
            return out if self.activation == "none" else _FUNCTIONS[self.activation](out)
        if add is not None:
            binary = torch.ops.mkldnn._convolution_pointwise_.binary
            return binary(add, x, self.weight, self.bias, *self._geometry, "add", 1.0, None, [], None)
        algorithm = "none" if self.activation == "gelu" else ""  # GELU by the error function
        activation: tuple[str, list[float], str] = (self.activation, [], algorithm)
        if self.matrix is not None:
            rows = torch.ops.mkldnn._linear_pointwise(x.permute(0, 2, 3, 1), self.matrix, self.bias, *activation)
            return rows.permute(0, 3, 1, 2)
        pointwise = torch.ops.mkldnn._convolution_pointwise
        return pointwise(x, self.weight, self.bias, *self._geometry, *activation)


def runs_in_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether convolutions there can take activations and addends along."""
    operators = hasattr(torch.ops.mkldnn, "_convolution_pointwise_") and torch.backends.mkldnn.is_available()
    if device.type != "cpu" or not operators or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(bfloat16) or dtype == torch.float32


def fold(layer: Any, target: Target, activation: Activation = "none", *, weight: Tensor | None = None) -> FoldedConv:
    """A layer as it is, or with other weights."""
    weight = layer.weight if weight is None else weight
    stride, groups = layer.stride[0], layer.groups
    return FoldedConv(weight, layer.bias, target, stride=stride, groups=groups, activation=activation)


def linear(weight: Tensor, bias: Tensor | None, target: Target, activation: Activation = "none") -> FoldedConv:
    """A 1x1 convolution from a matrix `(C', C)`, or a convolution of stride 2 from a weight `(C', C, 2, 2)`."""
    weight = weight if weight.ndim == 4 else weight[:, :, None, None]
    return FoldedConv(weight, bias, target, stride=weight.shape[-1], activation=activation)


def haar_weight(channels: int) -> Tensor:
    """The analysis as a convolution of stride 2: `(4C, C, 2, 2)` float64, bands in the order of `haar_analysis`."""
    identity = torch.eye(channels, dtype=torch.float64)
    return torch.einsum("kyx,oc->kocyx", torch.tensor(_HAAR, dtype=torch.float64) / 2, identity).reshape(
        4 * channels, channels, 2, 2
    )


def _matrix(layer: Any) -> Tensor:
    """The weight of a 1x1 convolution, `(C', C)`."""
    return layer.weight[:, :, 0, 0]


def _unshuffle(pixels: Tensor, side: int) -> Tensor:
    """`F.pixel_unshuffle` with the result in channels_last, in one copy."""
    cells = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)


def _shuffle(x: Tensor) -> Tensor:
    """`(B, 4C, H, W)`, channels in the order (row, column, channel), to `(B, C, 2H, 2W)` in channels_last."""
    cells = x.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1)).permute(0, 1, 3, 2, 4, 5)
    return cells.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _cells(x: Tensor) -> Tensor:
    """The inverse of `_shuffle`: `(B, C, 2H, 2W)` to `(B, 4C, H, W)` in channels_last."""
    cells = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5)
    return cells.flatten(3).permute(0, 3, 1, 2)


def _to_pixels(x: Tensor, side: int) -> Tensor:
    """`F.pixel_shuffle` of a map in channels_last, in one copy."""
    cells = x.permute(0, 2, 3, 1).unflatten(3, (-1, side, side)).permute(0, 3, 1, 4, 2, 5)
    return cells.flatten(4).flatten(2, 3)


class Norm:
    """`LocalGroupNorm`, optionally with another scale and shift than its own."""

    def __init__(self, norm: Any, target: Target, scale: Tensor | None = None, shift: Tensor | None = None):
        scale, shift = (norm.weight, norm.bias) if scale is None else (scale, shift)
        self.scale, self.shift = (None if value is None else target.place(value) for value in (scale, shift))
        self.channels, self.eps = (norm.channels,), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.channels, self.scale, self.shift, self.eps).permute(0, 3, 1, 2)


class Join:
    """A convolution of an enlarged map beside a skip connection, without their concatenation."""

    def __init__(self, layer: nn.Conv2d, below: int, target: Target) -> None:
        self.below = FoldedConv(layer.weight[:, :below], None, target)
        self.skip = fold(layer, target, weight=layer.weight[:, below:])
        self.convolve_first = layer.kernel_size == (1, 1)  # the same, at a quarter of the cost

    def __call__(self, below: Tensor, skip: Tensor) -> Tensor:
        below = self.below(below) if self.convolve_first else below
        below = F.interpolate(below, scale_factor=2.0, mode="nearest")
        return self.skip(skip, add=below if self.convolve_first else self.below(below))


class Linear:
    """A linear layer in float32, for what is computed once for an image."""

    def __init__(self, layer: Any, target: Target) -> None:
        self.weight = layer.weight.t().contiguous().to(target.device, torch.float32)
        self.bias = layer.bias.to(target.device, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        # Not a product of matrices, which rounds differently for a batch and for one of its images. The sum is over the
        # middle axis: OpenVINO adds a bias after a sum over the last one along the wrong axis
        # (findings/openvino_reduce_then_bias.sh).
        return (x[:, :, None] * self.weight).sum(dim=1) + self.bias


class ResidualBlock:
    """`ConditionalResidualBlock`, at one timestep unless `embedding` is None; overwrites its input by the result."""

    def __init__(self, block: Any, embedding: Tensor | None, target: Target) -> None:
        scale, shift = (None, None) if embedding is None else block.film(embedding)[0].chunk(2)
        self.norm_1 = Norm(block.norm_1, target)
        self.norm_2 = Norm(block.norm_2, target, None if scale is None else 1 + scale, shift)
        self.conv_1, self.conv_2 = fold(block.conv_1, target), fold(block.conv_2, target)
        self.film = Linear(block.film, target)

    def __call__(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """`embedding`: that of each image's timestep, `(B, EMBEDDING)` float32, where it was not given before."""
        hidden = self.norm_2(self.conv_1(F.silu(self.norm_1(x), inplace=True)))
        if embedding is not None:
            scale, shift = self.film(embedding)[:, :, None, None].to(x.dtype).chunk(2, dim=1)
            hidden = torch.addcmul(shift, hidden, 1 + scale)
        return self.conv_2(F.silu(hidden, inplace=True), add=x)


class Coupling:
    """`InvertibleCoupling`, the first one with the Haar analysis of `_cells` in front."""

    def __init__(self, coupling: Any, target: Target, haar: Tensor | None = None) -> None:
        lower, upper = coupling.mixing.factors()
        mixing = lower.double() @ upper.double()
        first, second = mixing.chunk(2)
        enter, spread, leave = coupling.phi1[0], coupling.phi1[2], coupling.phi1[4]
        weights = [first, second, _matrix(enter) @ first]
        if haar is not None:
            weights = [torch.einsum("oi,icyx->oyxc", weight, haar).flatten(1) for weight in weights]
        self.z1, self.z2 = (linear(weight, None, target) for weight in weights[:2])
        self.enter_1 = linear(weights[2], enter.bias, target, "gelu")
        self.spread_1, self.leave_1 = fold(spread, target, "gelu"), fold(leave, target)
        phi2, phi3 = (
            [fold(phi[0], target, "gelu"), fold(phi[2], target, "gelu")] for phi in (coupling.phi2, coupling.phi3)
        )
        self.exponent = [*phi2, fold(coupling.phi2[4], target, "tanh")]
        self.shift = [*phi3, fold(coupling.phi3[4], target)]

    def __call__(self, bands: Tensor) -> Tensor:
        z2 = self.leave_1(self.spread_1(self.enter_1(bands)), add=self.z2(bands))
        enter, spread, leave = self.exponent
        z1 = self.z1(bands).mul_(leave(spread(enter(z2))).exp_())
        enter, spread, leave = self.shift
        z1 = leave(spread(enter(z2)), add=z1)
        return torch.cat([z1, z2], dim=1)


class Band:
    """`BandFusion`: the parts of both images, then the depthwise layer with its residual."""

    def __init__(self, fusion: Any, target: Target) -> None:
        visible, infrared = _matrix(fusion.mix).chunk(2, dim=1)
        self.visible, self.infrared = linear(visible, fusion.mix.bias, target), linear(infrared, None, target)
        center = F.pad(torch.ones_like(fusion.local.weight[..., :1, :1]), (1, 1, 1, 1))
        self.local = fold(fusion.local, target, weight=fusion.local.weight + center)

    def __call__(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return self.local(self.infrared(infrared, add=self.visible(visible)))


class UNet:
    """`ConditionalDenoiser` without its linear skip, and the residual that D2FE adds to the images.

    Subclasses give the clean estimate its scales.
    """

    def __init__(self, network: Any, embedding: Tensor | None, target: Target, scale: float) -> None:
        config, denoiser = network.config, network.denoiser
        channels = config.feature_channels
        self.down_1, self.down_2 = fold(denoiser.down_1, target), fold(denoiser.down_2, target)
        self.block_1, self.block_2, *self.mid = (
            ResidualBlock(block, embedding, target) for block in (denoiser.block_1, denoiser.block_2, *denoiser.mid)
        )
        _, middle, wide = config.denoiser_channels
        self.up_2, self.up_1 = Join(denoiser.up_2, wide, target), Join(denoiser.up_1, middle, target)
        order = torch.arange(4 * channels).view(channels, 2, 2).permute(1, 2, 0).flatten()  # as `_shuffle` reads it
        weight, bias = scale * _matrix(denoiser.conv_out), scale * denoiser.conv_out.bias
        self.prediction = linear(weight[order], bias[order], target)
        self.entry = denoiser.conv_in.weight.view(-1, channels, 2, 2)

        first, norm, _, second, _ = network.injection.weight
        self.weigh_in, self.weigh_norm = fold(first, target), Norm(norm, target)
        self.weigh_out = fold(second, target, "sigmoid")
        self.residual_scale = config.residual_scale

    def predict(self, half: Tensor, embedding: Tensor | None = None) -> Tensor:
        """The prediction without the skip, times `scale`, at full size, from its first layer's output; overwritable."""
        quarter = self.block_1(self.down_1(F.silu(half)), embedding)
        eighth = self.down_2(F.silu(quarter))
        for block in self.mid:
            eighth = block(eighth, embedding)
        quarter = self.block_2(self.up_2(eighth, quarter), embedding)
        return _shuffle(self.prediction(F.silu(self.up_1(quarter, half), inplace=True)))

    def weights(self, both: Tensor) -> Tensor:
        """The weight map of eq. 5 from the features of both images side by side."""
        return self.weigh_out(F.gelu(self.weigh_norm(self.weigh_in(both))))


class FixedStep(UNet):
    """D2FE at one timestep, with one residual for both images: everything of the timestep is a constant."""

    def __init__(self, network: Any, target: Target) -> None:
        config, denoiser = network.config, network.denoiser
        # The clean estimate is keep * F - remove * prediction (`clean_estimate`).
        timestep = torch.tensor([config.inference_timestep])
        embedding = denoiser.time(get_timestep_embedding(timestep, EMBEDDING, downscale_freq_shift=0).double())
        alpha_bar = network.alphas_cumprod[config.inference_timestep]
        keep, remove = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        if config.prediction_type == "epsilon":
            keep, remove = 1 / keep, remove / keep
        super().__init__(network, embedding, target, -remove)
        self.half_size = linear(self.entry, denoiser.conv_in.bias, target)
        gain = denoiser.skip_gain(embedding)[0][:, None]
        identity = torch.eye(config.feature_channels, dtype=torch.float64)
        self.skip = linear(keep * identity - remove * gain * _matrix(denoiser.skip), None, target)
        project = network.injection.project
        self.residual = linear(_matrix(project) / 2, project.bias, target, "tanh")

    def __call__(self, shallow: Tensor, images: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
        """Enhanced features and the residual of both images, `(B, pixels, h, w)`."""
        enhanced = self.skip(shallow, add=self.predict(self.half_size(shallow)))
        seen, warm = enhanced.tensor_split(2)
        weight = self.weights(torch.cat([seen, warm], dim=1))
        residual = self.residual(weight.mul_(seen + warm)).mul_(self.residual_scale)
        return enhanced, torch.cat([residual, residual])


class NoiseStep(UNet):
    """D2FE at the timestep of each image's noise, with a residual for each image.

    With s = sqrt(abar_t) and q = sqrt(1 - abar_t), what the denoiser removes from features F that hold noise is
    q u, u = -(q + s gain_t W) F - (prediction without the skip of s F), W the skip's matrix.
    """

    def __init__(self, network: Any, target: Target) -> None:
        super().__init__(network, None, target, -1.0)
        config, denoiser = network.config, network.denoiser
        self.half_size = linear(self.entry, None, target)
        self.bias = target.place(denoiser.conv_in.bias)[:, None, None]
        self.time_1, self.time_2 = (Linear(getattr(denoiser.time, f"linear_{k}"), target) for k in (1, 2))
        self.gain, self.skip = Linear(denoiser.skip_gain, target), _matrix(denoiser.skip).to(target.device).float()
        self.table = torch.tensor(noise_to_signal(network.alphas_cumprod), device=target.device)
        self.noise_gain = config.noise_gain
        self.project = linear(_matrix(network.injection.project), None, target)

    def __call__(self, shallow: Tensor, images: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
        """Enhanced features and the residual of each image, `(2B, pixels, h, w)`."""
        level = estimate_noise(images) if level is None else level.to(shallow.device, torch.float32)
        level = self.noise_gain * level
        # As `torch.searchsorted`, which cannot be exported.
        timestep = (self.table < level[:, None]).sum(dim=1).clamp_max(len(self.table) - 1)
        embedding = self.time_2(
            F.silu(self.time_1(get_timestep_embedding(timestep, EMBEDDING, downscale_freq_shift=0)))
        )
        embedding = F.silu(embedding)
        signal = torch.rsqrt(1 + level.square())
        sigma = level * signal
        half = torch.addcmul(self.bias, self.half_size(shallow), signal.to(shallow.dtype)[:, None, None, None])
        removed = self.predict(half, embedding)
        gain = (signal[:, None] * self.gain(embedding))[:, :, None] * self.skip
        identity = torch.eye(gain.shape[-1], device=gain.device)
        matrices = -(sigma[:, None, None] * identity + gain).to(shallow.dtype)
        # A 1x1 convolution of each image with its own weights.
        rows, features = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (removed, shallow))
        rows.baddbmm_(features, matrices.mT)
        sigma = sigma.to(shallow.dtype)[:, None, None, None]
        enhanced = torch.addcmul(shallow, removed, sigma)
        weights = self.weights(torch.cat(enhanced.tensor_split(2), dim=1))
        for one, weight in zip(removed.tensor_split(2), weights.chunk(2, dim=1), strict=True):
            one.mul_(weight)
        return enhanced, self.project(removed).mul_(sigma).tanh_().mul_(self.residual_scale)


class Details:
    """The fusion head and `DetailHead`, whose cells of 2x2 pixels the former gives in the order of the latter."""

    def __init__(self, network: Any, target: Target) -> None:
        head, details, half = network.fusion_head, network.detail_head, network.config.patch_size // 2
        # (map, row, row in the cell, column, column in the cell) to (map, both in the cell, row, column)
        order = torch.arange(len(head.weight)).view(-1, half, 2, half, 2).permute(0, 2, 4, 1, 3).flatten()
        self.head = FoldedConv(head.weight[order], head.bias[order], target)
        self.conv_in, self.conv_out = fold(details.conv_in, target, "gelu"), fold(details.conv_out, target)
        self.dtype, self.half = target.dtype, half

    def __call__(self, features: Tensor, images: Tensor) -> Tensor:
        """Features `(B, C, h, w)` and both images `(B, 2, H, W)` to logit and correction, `(B, 2, H, W)`."""
        maps = self.head(features)
        if self.half > 1:
            cells = maps.permute(0, 2, 3, 1).unflatten(3, (-1, self.half, self.half)).permute(0, 1, 4, 2, 5, 3)
            maps = cells.flatten(3, 4).flatten(1, 2)
            maps = maps.permute(0, 3, 1, 2)
        seen = torch.cat([_unshuffle(images.to(self.dtype), 2), maps], dim=1)
        return _to_pixels(self.conv_out(self.conv_in(seen), add=maps), 2)


class FoldedDiffFuseNet(nn.Module):
    """What [`DiffFuseNetModel.fuse_for_inference`] returns. It has no parameters of its own and is not saved.

    It computes on the device and in the dtype that the model had. `portable` leaves oneDNN's operators out.
    """

    @torch.no_grad()
    def __init__(self, model: "DiffFuseNetModel", portable: bool = False) -> None:
        super().__init__()
        config, device, dtype = model.config, model.device, model.dtype
        target = Target(device, dtype, not portable and runs_in_onednn(device, dtype))
        weights = {name: value.to("cpu", torch.float64) for name, value in model.state_dict().items()}
        network: Any = type(model).from_config(config)
        network.double().load_state_dict(weights)
        channels = config.feature_channels
        self.patch_size, self.window, self.dtype = config.patch_size, config.attention_window, dtype

        encoder = network.encoder
        self.encode_in, self.encode_norm = fold(encoder.conv_in, target), Norm(encoder.norm_in, target)
        self.encode_out, self.unit_variance = fold(encoder.conv_out, target), Norm(encoder.norm_out, target)

        self.own_residual = config.residual == "own"
        self.diffusion = (NoiseStep if config.noise_gain > 0 else FixedStep)(network, target)

        # EDFD with the projection: its 1x1 layers meet in one matrix each.
        common, visible, infrared = network.decoupling.common, network.decoupling.visible, network.decoupling.infrared
        self.common_in, self.common_out = fold(common[0], target, "gelu"), fold(common[2], target)
        self.visible_in, self.infrared_in = (fold(branch[0], target, "gelu") for branch in (visible, infrared))
        shared, specific = _matrix(network.project_features).chunk(2, dim=1)
        bias = network.project_features.bias + network.project_pixels.bias
        self.project_shared = linear(shared, bias, target)
        self.project_visible, self.project_infrared = (
            linear(specific @ _matrix(branch[2]), specific @ branch[2].bias, target) for branch in (visible, infrared)
        )
        self.project_pixels = FoldedConv(network.project_pixels.weight, None, target)

        haar = haar_weight(channels)
        self.coupling = [
            Coupling(step, target, haar if number == 0 else None) for number, step in enumerate(network.coupling)
        ]
        attention = network.band_attention
        self.normalized = attention.normalized
        self.spatial_pooled = fold(attention.spatial_pooled, target)
        self.spatial_direct = fold(attention.spatial_direct, target)
        self.channel_in = fold(attention.channel[0], target, "gelu")
        self.channel_out = fold(attention.channel[2], target)
        self.fuse_low, self.fuse_high = Band(network.fuse_low, target), Band(network.fuse_high, target)
        # The synthesis is the transposed analysis: from (kind, channel) to (row, column, channel).
        self.synthesize = linear(haar.permute(2, 3, 1, 0).reshape(4 * channels, 4 * channels), None, target)
        self.trunk = [fold(network.trunk[0], target, "gelu"), fold(network.trunk[2], target, "gelu")]
        self.head = fold(network.fusion_head, target)
        self.details = Details(network, target) if config.detail_channels else None

    @torch.no_grad()
    def forward(self, visible: Tensor, infrared: Tensor, noise_level: Tensor | None = None) -> Tensor:
        """Fuse `(B, 1, H, W)` luminance in [0, 1] with infrared of the same shape, H and W multiples of `multiple`.

        Returns `(B, 1, H, W)`, not clamped, in the dtype of `visible`. No gradients. `noise_level` as for the model.
        """
        images = torch.cat([visible, infrared])
        pixels = _unshuffle(images.to(self.dtype), self.patch_size)
        shallow = self.encode_out(F.gelu(self.encode_norm(self.encode_in(pixels))))
        shallow = self.unit_variance(shallow)
        enhanced, residual = self.diffusion(shallow, images, noise_level)

        seen, warm = enhanced.tensor_split(2)
        shared = self.common_out(self.common_in(torch.cat([seen, warm], dim=1)))
        if self.own_residual:  # not of the sum: in bfloat16 it loses a residual of less than a gray level
            projected = self.project_pixels(residual, add=self.project_pixels(pixels))
        else:
            projected = self.project_pixels(pixels.add_(residual))
        common = self.project_shared(shared)
        seen_part, warm_part = projected.tensor_split(2)
        self.project_visible(self.visible_in(seen - shared), add=seen_part.add_(common))
        self.project_infrared(self.infrared_in(warm - shared), add=warm_part.add_(common))

        bands = _cells(projected)
        for step in self.coupling:
            bands = step(bands)
        low, high = self._gate(bands)
        fused_low, fused_high = self.fuse_low(*low.tensor_split(2)), self.fuse_high(*high.tensor_split(2))
        features = _shuffle(self.synthesize(torch.cat([fused_low, fused_high], dim=1)))
        for conv in self.trunk:
            features = conv(features)
        if self.own_residual:  # added to the images in their own dtype, not in bfloat16
            visible, infrared = (images + _to_pixels(residual, self.patch_size)).tensor_split(2)
        if self.details is None:
            out = _to_pixels(self.head(features), self.patch_size)
        else:
            out = self.details(features, torch.cat([visible, infrared], dim=1))
        logit, correction = out.to(visible.dtype).chunk(2, dim=1)
        return torch.lerp(infrared, visible, torch.sigmoid(logit)) + correction

    def _gate(self, bands: Tensor) -> tuple[Tensor, Tensor]:
        """`CrossFrequencyAttention`."""
        channels = bands.shape[1] // 4
        low = bands[:, :channels].contiguous(memory_format=torch.channels_last)
        high = bands[:, channels:]
        seen = low
        if self.normalized:
            seen = low * torch.rsqrt(low.float().square().mean(dim=1, keepdim=True) + 1e-6).to(low.dtype)
        pooled = torch.cat([seen.mean(dim=1, keepdim=True), seen.amax(dim=1, keepdim=True)], dim=1)
        spatial = (self.spatial_pooled(pooled) + self.spatial_direct(seen)).sigmoid_().mul_(2)
        energy = self._pool(high.abs())
        channel = self.channel_out(self.channel_in(energy)).sigmoid_().mul_(2)
        channel = F.interpolate(channel, scale_factor=self.window, mode="bilinear", align_corners=False)
        kinds = high.permute(0, 2, 3, 1).unflatten(3, (3, channels)) * spatial.permute(0, 2, 3, 1)[..., None]
        return low.mul_(channel[..., : low.shape[-2], : low.shape[-1]]), kinds.flatten(3).permute(0, 3, 1, 2)

    def _pool(self, planes: Tensor) -> Tensor:
        """The mean of each window, at the edges of the pixels there are."""
        if not torch.compiler.is_exporting():
            return F.avg_pool2d(planes, self.window, ceil_mode=True, count_include_pad=False)
        # OpenVINO refuses windows larger than the image: pad to whole windows, and divide by the share of real pixels.
        # Not -size // window: ONNX rounds quotients of integers towards zero.
        bottom, right = ((size + self.window - 1) // self.window * self.window - size for size in planes.shape[-2:])
        share = F.pad(torch.ones_like(planes[:, :1]), (0, right, 0, bottom))
        return F.avg_pool2d(F.pad(planes, (0, right, 0, bottom)), self.window) / F.avg_pool2d(share, self.window)
