"""The outermost two levels of the Stable Diffusion 1.5 U-Net, with self-attention only and reversible blocks.

RED (arXiv 2601.20260) keeps "only the outermost two layers" of the U-Net of Stable Diffusion 1.5; the scheme of its
reversible blocks is that of Invertible Diffusion Models (Chen et al., TPAMI 2025) and Re2TAL. Blocks, names and shapes
are those of diffusers' `UNet2DConditionModel`, so pre-trained tensors are copied by name ([`PrunedUNet.from_sd15`]).
Cross-attention is gone: there is no text to attend to.

Order of the file: attention, residual blocks, down and up blocks, the network.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusion_hub.models import layers
from fusion_hub.models.layers import LocalGroupNorm, zero_module
from fusion_hub.models.reversible import MEMORY_MODES, WiredStep, wired_chain
from fusion_hub.repositories import check_hub_id

NORMS = ("group", "local")
SHORT = 256  # tokens of a window of 16 x 16

Pair = tuple[Tensor, Tensor]
"""Two states in a row of a wired group, the newer one first."""
Call = tuple[nn.Module, tuple[Tensor, ...]]
"""A block and its arguments beside the input."""


class WindowAttnProcessor:
    """Self-attention over windows of `window` x `window` tokens; 0 is the whole image.

    With `shift` the windows are moved by half their side up and to the left. Sides that windows do not fill are padded
    by replication. Queries, keys and values are one product and are cut into windows by one copy.
    """

    def __init__(self, window: int = 0, shift: bool = False) -> None:
        self.window, self.shift = window, shift

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        height: int = 0,
        width: int = 0,
    ) -> Tensor:
        """Attend within `(B, height * width, C)`; the same shape comes back."""
        weight = torch.cat([attn.to_q.weight, attn.to_k.weight, attn.to_v.weight])
        tokens = F.linear(hidden_states, weight)
        batch, length, channels = hidden_states.shape
        if self.window == 0:
            attended = self._attend(tokens, attn.heads)
        else:
            attended = self._attend_windows(tokens.view(batch, height, width, 3 * channels), attn.heads)
        return attn.to_out[0](attended.reshape(batch, length, channels))

    def _attend_windows(self, tokens: Tensor, heads: int) -> Tensor:
        batch, height, width, _ = tokens.shape
        side, before = self.window, self.window // 2 if self.shift else 0
        # Rounded up without negative numbers: ONNX rounds quotients of integers towards zero.
        rows, columns = (height + before + side - 1) // side, (width + before + side - 1) // side
        bottom, right = rows * side - height - before, columns * side - width - before
        # An exported graph always pads: the branch would hold for the sizes of the example only.
        if torch.compiler.is_exporting() or before or bottom or right:
            with torch.autocast(tokens.device.type, enabled=False):  # it would compute this in float32
                padded = F.pad(tokens.permute(0, 3, 1, 2), (before, right, before, bottom), mode="replicate")
            tokens = padded.permute(0, 2, 3, 1)
        tokens = tokens.reshape(batch, rows, side, columns, side, -1).transpose(2, 3)
        attended = self._attend(tokens.reshape(batch * rows * columns, side * side, -1), heads)
        attended = attended.view(batch, rows, columns, side, side, -1).transpose(2, 3)
        attended = attended.reshape(batch, rows * side, columns * side, -1)
        return attended[:, before : before + height, before : before + width]

    @staticmethod
    def _attend(tokens: Tensor, heads: int) -> Tensor:
        query, key, value = tokens.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        if tokens.device.type == "cpu" and tokens.dtype == torch.bfloat16 and tokens.shape[1] <= SHORT:
            # Written out it takes a half (16 x 16 tokens) to an eighth (8 x 8) of the fused kernel's time there.
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            attended = scores.softmax(-1) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).flatten(2)


class SplitGEGLU(GEGLU):
    """diffusers' GEGLU with one product for each half: a split of one product has a costly backward pass."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        weights, biases = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        value, gate = (F.linear(hidden_states, weight, bias) for weight, bias in zip(weights, biases, strict=True))
        return value * F.gelu(gate)


class SelfAttention2D(nn.Module):
    """diffusers' `Transformer2DModel` without cross-attention, `(B, C, h, w)` to the same shape."""

    def __init__(self, channels: int, heads: int, window: int, shift: bool, norm_num_groups: int, norm: str) -> None:
        super().__init__()
        self.norm = _norm(norm, channels, norm_num_groups, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        block = BasicTransformerBlock(channels, heads, channels // heads)
        block.attn1.set_processor(WindowAttnProcessor(window, shift))  # type: ignore[arg-type]  # diffusers names one
        block.ff.net[0] = SplitGEGLU(channels, 4 * channels)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = _to_working_dtype(x, self.proj_in.weight)
        # Views where x is channels_last.
        tokens = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        for block in self.transformer_blocks:
            tokens = block(tokens, cross_attention_kwargs={"height": height, "width": width})
        return x + self.proj_out(tokens.view(batch, height, width, channels).permute(0, 3, 1, 2))


class ResidualBlock(ResnetBlock2D):
    """diffusers' `ResnetBlock2D` with a choice of norm; `(B, C_in, h, w)` to `(B, C_out, h, w)`.

    Its own `forward` leaves out the passes over the features that are the identity in this network.
    """

    def __init__(
        self, in_channels: int, out_channels: int, temb_channels: int | None, norm_num_groups: int, norm: str
    ) -> None:
        groups = norm_num_groups if norm == "group" else 1
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=temb_channels,  # type: ignore[arg-type]  # None is allowed: no time embedding
            groups=groups,
            eps=1e-5,
        )
        if norm == "local":
            self.add_module("norm1", LocalGroupNorm(in_channels))
            self.add_module("norm2", LocalGroupNorm(out_channels))

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        x = _to_working_dtype(x, self.conv1.weight)
        hidden = self.conv1(F.silu(self.norm1(x)))
        if temb is not None:
            hidden = hidden + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


class SkipResidualBlock(ResidualBlock):
    """A residual block of the decoder, which gets a skip beside its input."""

    def forward(self, x: Tensor, skip: Tensor, temb: Tensor | None = None) -> Tensor:  # type: ignore[override]
        x, skip = (_to_working_dtype(tensor, self.conv1.weight) for tensor in (x, skip))
        return super().forward(torch.cat([x, skip], dim=1), temb)


class Wiring(nn.Module):
    """The scalars that make a group of blocks reversible.

    A pair (h, s h) opens the group; each block continues it by out = (1 - v) B(in) + v in_before; a + m b closes it or
    taps a skip. At the start v = 1/2, s = 1 and m = 0.
    """

    def __init__(self, num_blocks: int, num_merges: int) -> None:
        super().__init__()
        self.v_logit = nn.Parameter(torch.zeros(num_blocks))
        self.scale = nn.Parameter(torch.ones(()))
        self.merge = nn.Parameter(torch.zeros(num_merges))

    def open(self, x: Tensor) -> Pair:
        return x, self.scale * x

    def run(self, calls: Sequence[Call], pair: Pair, first: int, memory: str, keep_last: int = 0) -> Pair:
        """Run blocks on a pair; the first of them is block `first` of the group."""
        v = torch.sigmoid(self.v_logit)[first : first + len(calls)].unbind()
        steps = [
            WiredStep(block, strength, side, tuple(block.parameters()))
            for (block, side), strength in zip(calls, v, strict=True)
        ]
        return wired_chain(steps, *pair, mode=memory, keep_last=keep_last)

    def close(self, pair: Pair, merge: int) -> Tensor:
        return pair[0] + self.merge[merge] * pair[1]


class Upsample(Upsample2D):
    """diffusers' `Upsample2D` without branches on the number of images and elements, which cannot be exported."""

    def forward(self, hidden_states: Tensor) -> Tensor:  # type: ignore[override]  # never called with a size
        enlarged = F.interpolate(hidden_states, scale_factor=2.0, mode="nearest")
        convolved: Tensor = self.conv(enlarged)  # type: ignore[misc]  # it has one with `use_conv`
        return convolved


class DownBlock(nn.Module):
    """`CrossAttnDownBlock2D` without cross-attention: residual block and attention in turn.

    The outer level, 0, ends with the downsampler.
    """

    def __init__(self, settings: "Settings", level: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        count = settings.layers_per_block
        self.resnets = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, *settings.residual)
            for i in range(count)
        )
        self.attentions = nn.ModuleList(settings.attention(level, out_channels, i) for i in range(count))
        self.downsamplers = None
        if level == 0:
            self.downsamplers = nn.ModuleList([Downsample2D(out_channels, use_conv=True, padding=1, name="op")])
        # A block that changes the width cannot be wired: it stays outside of the group.
        self.outside = int(in_channels != out_channels)
        self.wiring = Wiring(2 * count - self.outside, count) if settings.reversible else None

    def forward(self, x: Tensor, time: tuple[Tensor, ...], memory: str) -> tuple[Tensor, list[Tensor]]:
        """`(B, C_in, h, w)` and the time embedding, none or one `(B, D)`, to the output and all skips."""
        layers: list[list[Call]] = [
            [(resnet, time), (attention, ())] for resnet, attention in zip(self.resnets, self.attentions, strict=True)
        ]
        skips: list[Tensor] = []
        if self.wiring is None:
            for layer in layers:
                x = _run_plain(layer, x, memory)
                skips.append(x)
        else:
            for block, side in layers[0][: self.outside]:
                x = block(x, *side)
            layers[0] = layers[0][self.outside :]
            pair, done = self.wiring.open(x), 0
            for i, layer in enumerate(layers):
                pair = self.wiring.run(layer, pair, done, memory)
                done += len(layer)
                x = self.wiring.close(pair, i)
                skips.append(x)
        for downsampler in self.downsamplers or ():
            x = downsampler(_to_working_dtype(x, next(downsampler.parameters())))
            skips.append(x)
        return x, skips


class UpBlock(nn.Module):
    """`CrossAttnUpBlock2D` without cross-attention; each residual block takes one skip.

    `skip_channels` are in the order of use. The inner level, 1, ends with a nearest-neighbor upsampler and convolution.
    """

    def __init__(
        self, settings: "Settings", level: int, in_channels: int, skip_channels: Sequence[int], out_channels: int
    ) -> None:
        super().__init__()
        count = settings.layers_per_block + 1
        self.resnets = nn.ModuleList(
            SkipResidualBlock((in_channels if i == 0 else out_channels) + skip, out_channels, *settings.residual)
            for i, skip in enumerate(skip_channels)
        )
        self.attentions = nn.ModuleList(
            settings.attention(level, out_channels, settings.layers_per_block + i) for i in range(count)
        )
        self.upsamplers = nn.ModuleList([Upsample(out_channels, use_conv=True)]) if level == 1 else None
        self.wiring = Wiring(2 * count - 1, 1) if settings.reversible else None

    def forward(self, x: Tensor, skips: list[Tensor], time: tuple[Tensor, ...], memory: str) -> Tensor:
        """`(B, C_in, h, w)`, skips (the last ones are used and taken off the list) and the time embedding."""
        calls: list[Call] = []
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            calls += [(resnet, (skips.pop(), *time)), (attention, ())]
        if self.wiring is None:
            x = _run_plain(calls, x, memory)
        else:
            x = calls[0][0](x, *calls[0][1])  # changes the width
            # The backward pass begins in the outer up block: half of it is kept, which saves its second run.
            keep_last = 0 if self.upsamplers else len(calls) // 2
            x = self.wiring.close(self.wiring.run(calls[1:], self.wiring.open(x), 0, memory, keep_last), 0)
        for upsampler in self.upsamplers or ():
            x = upsampler(_to_working_dtype(x, next(upsampler.parameters())))
        return x


@dataclass(frozen=True)
class Settings:
    """Arguments that all blocks of one network share."""

    layers_per_block: int
    heads: tuple[int, int]
    windows: tuple[int, int]
    temb_channels: int | None
    norm_num_groups: int
    norm: str
    reversible: bool

    @property
    def residual(self) -> tuple[int | None, int, str]:
        return self.temb_channels, self.norm_num_groups, self.norm

    def attention(self, level: int, channels: int, index: int) -> SelfAttention2D:
        """Attention number `index` of a level, counted through the down and the up block; odd ones are shifted."""
        heads, window, shift = self.heads[level], self.windows[level], index % 2 == 1
        return SelfAttention2D(channels, heads, window, shift, self.norm_num_groups, self.norm)


@dataclass(frozen=True)
class CopyReport:
    """Names of the tensors of a network whose weights were copied from another one.

    Attributes:
        copied: names that both networks have, with one shape.
        extended: names whose input channels grew; the new ones start at zero, so the output does not change.
        dropped: names that only the source has (deeper levels, cross-attention).
        new: names that only this network has (the scalars of the wiring), or that differ in shape; these keep their
            first values.
    """

    copied: tuple[str, ...]
    extended: tuple[str, ...]
    dropped: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.copied)} tensors copied, {len(self.extended)} extended by input channels, {len(self.dropped)} "
            f"dropped, {len(self.new)} new"
        )


class PrunedUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers types `config_name` twice
    """Predicts the noise of a latent: `(B, in_channels, h, w)` to `(B, out_channels, h, w)`, h and w even.

    The default is the U-Net of Stable Diffusion 1.5 without its inner levels and its cross-attention: 123,447,044
    parameters, and 27 scalars of the wiring. `conv_out` starts at zero, so an untrained network predicts no noise.

    Args:
        in_channels: latent channels.
        out_channels: of the prediction.
        block_out_channels: widths of the outer and the inner level.
        num_attention_heads: heads of all attentions, or one number for each level. Stable Diffusion 1.5 has 8 (40 and
            80 wide). Use 32-wide heads in narrow networks: 4-wide ones take as much time each.
        layers_per_block: residual blocks (each with an attention) of a down block; an up block has one more.
        attention_window: side of the attention windows of each level, in cells of that level; 0 is the whole image.
            Each second attention of a level uses windows shifted by half their side, so that no fixed grid shows.
        use_time_embedding: whether the network depends on the timestep. Without it all steps share one function.
        norm: `"group"`, GroupNorm as in Stable Diffusion, whose statistics span the image; `"local"`, over the channels
            of each pixel, so that tiles compute what the whole image does.
        norm_num_groups: groups of the GroupNorm.
        reversible_blocks: wire the blocks ("Reverse II" of the paper). False is the plain U-Net.
        memory: memory mode of the wired groups in training, one of `MEMORY_MODES` in `reversible.py`. Results do not
            depend on it. Blocks that change the width or the size, and half of the outer up block, are always kept.

    Raises:
        ValueError: for an unknown `norm` or `memory`, widths that the heads or groups do not divide, or not two levels.
    """

    config: Any  # diffusers declares a dict; its entries are attributes too

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640),
        num_attention_heads: int | Sequence[int] = 8,
        layers_per_block: int = 2,
        attention_window: Sequence[int] = (0, 0),
        use_time_embedding: bool = True,
        norm: str = "group",
        norm_num_groups: int = 32,
        reversible_blocks: bool = True,
        memory: str = "reversible",
    ) -> None:
        super().__init__()
        heads = (num_attention_heads,) * 2 if isinstance(num_attention_heads, int) else num_attention_heads
        layers.check_wholes("block_out_channels", block_out_channels, 2, 1, layers.MAX_WIDTH)
        layers.check_wholes("num_attention_heads", heads, 2, 1, layers.MAX_WIDTH)
        layers.check_wholes("attention_window", attention_window, 2, 0, 256)
        layers.check_whole("norm_num_groups", norm_num_groups, 1, layers.MAX_WIDTH)
        layers.check_whole("layers_per_block", layers_per_block, 1, layers.MAX_DEPTH)
        layers.check_choice("norm", norm, NORMS)
        layers.check_choice("memory", memory, MEMORY_MODES)
        layers.check_flags(use_time_embedding=use_time_embedding, reversible_blocks=reversible_blocks)
        for width, count in zip(block_out_channels, heads, strict=True):
            if width % count:
                raise ValueError(f"num_attention_heads={heads} must divide block_out_channels={block_out_channels}")
            if norm == "group" and width % norm_num_groups:
                raise ValueError(f"{norm_num_groups=} must divide block_out_channels={block_out_channels}")
        outer, inner = block_out_channels
        self.memory = memory

        self.conv_in = nn.Conv2d(in_channels, outer, 3, padding=1)
        if use_time_embedding:
            self.time_proj = Timesteps(outer, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.time_embedding = TimestepEmbedding(outer, 4 * outer)
        settings = Settings(
            layers_per_block=layers_per_block,
            heads=(heads[0], heads[1]),
            windows=(attention_window[0], attention_window[1]),
            temb_channels=4 * outer if use_time_embedding else None,
            norm_num_groups=norm_num_groups,
            norm=norm,
            reversible=reversible_blocks,
        )
        down_blocks = [DownBlock(settings, 0, outer, outer), DownBlock(settings, 1, outer, inner)]
        self.down_blocks = nn.ModuleList(down_blocks)
        # The inner levels of Stable Diffusion hand 1280 channels up; the 640 of the bottom stand in for them, twice.
        inner_skips, outer_skips = [inner] * layers_per_block + [outer], [outer] * (layers_per_block + 1)
        up_blocks = [
            UpBlock(settings, 1, 2 * inner, inner_skips, inner),
            UpBlock(settings, 0, inner, outer_skips, outer),
        ]
        self.up_blocks = nn.ModuleList(up_blocks)
        self.conv_norm_out = _norm(norm, outer, norm_num_groups, eps=1e-5)
        self.conv_out = zero_module(nn.Conv2d(outer, out_channels, 3, padding=1))

    @classmethod
    def from_sd15(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **overrides: Any
    ) -> tuple[Self, CopyReport]:
        """The network with the weights of a Stable Diffusion 1.5 U-Net, and a report of the copied tensors.

        Args:
            pretrained_model_name_or_path: folder or Hub id of a `UNet2DConditionModel` in safetensors, or of a pipeline
                that has one as `unet`.
            overrides: arguments of `PrunedUNet`. Defaults of widths, heads and groups are those of the source; more
                `in_channels` than the source has are allowed, the new ones start at zero.

        Raises:
            OSError: if there are no safetensors weights of a U-Net.
            ValueError: if its tensors do not fit.
        """
        source = load_sd_unet(pretrained_model_name_or_path)
        model = cls(**(sd_unet_settings(source) | overrides))
        return model, copy_sd_unet(source, model)

    def forward(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """Predict the noise of `(B, in_channels, h, w)`, h and w even, at one timestep for all, or `(B,)`.

        Returns `(B, out_channels, h, w)` in the dtype of the last convolution. ValueError for another shape.
        """
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels or sample.shape[2] % 2 or sample.shape[3] % 2:
            raise ValueError(
                f"sample must be (B, {self.config.in_channels}, h, w) with even h and w, got {tuple(sample.shape)}"
            )
        sample = sample.to(self.conv_in.weight.dtype).contiguous(memory_format=torch.channels_last)
        time: tuple[Tensor, ...] = ()
        if self.config.use_time_embedding:
            steps = torch.as_tensor(timestep, device=sample.device).reshape(-1)
            time = (self.time_embedding(self.time_proj(steps).to(sample.dtype)),)
        x = self.conv_in(sample)
        skips = [x]
        for block in self.down_blocks:
            x, new = block(x, time, self.memory)
            skips += new
        x = torch.cat([x, x], dim=1)
        for block in self.up_blocks:
            x = block(x, skips, time, self.memory)
        return self.conv_out(F.silu(self.conv_norm_out(_to_working_dtype(x, self.conv_out.weight))))


def load_sd_unet(pretrained_model_name_or_path: str | os.PathLike[str]) -> UNet2DConditionModel:
    """A Stable Diffusion U-Net from safetensors: the folder or Hub id of the U-Net or of its pipeline, else OSError."""
    path = os.fspath(pretrained_model_name_or_path)
    if not os.path.isdir(path):
        check_hub_id(path, "U-Net", "a folder, or a Hub id 'owner/name'")
    for subfolder in ("unet", None):
        try:
            return UNet2DConditionModel.from_pretrained(path, subfolder=subfolder, use_safetensors=True)
        except OSError as error:
            cause = error
    raise OSError(f"no U-Net with safetensors weights at {path!r} nor in its subfolder unet: {cause}") from cause


def sd_unet_settings(source: UNet2DConditionModel) -> dict[str, Any]:
    """The arguments that `PrunedUNet` and `REDModel` share and that weights of this network need."""
    config: Any = source.config
    heads = config.num_attention_heads or config.attention_head_dim  # diffusers confuses the two for this network
    return {
        "block_out_channels": tuple(config.block_out_channels[:2]),
        "num_attention_heads": heads if isinstance(heads, int) else tuple(heads[:2]),
        "norm_num_groups": config.norm_num_groups,
    }


def copy_sd_unet(source: UNet2DConditionModel, target: "PrunedUNet") -> CopyReport:
    """Copy by name the tensors that both networks have; the last two up blocks of the source are those of the target.

    Raises:
        ValueError: if a tensor other than those of the wiring and of the first and last convolution has no source:
            otherwise the network starts from a mixture of trained and random weights.
    """
    first_up = len(source.up_blocks) - len(target.up_blocks)
    theirs = {}  # by the name here; inner up blocks get negative numbers, which no block here has
    for name, tensor in source.state_dict().items():
        part, *rest = name.split(".")
        here = ".".join([part, str(int(rest[0]) - first_up), *rest[1:]]) if part == "up_blocks" else name
        theirs[here] = name, tensor
    copied, extended, new = list[str](), list[str](), list[str]()
    with torch.no_grad():
        for name, tensor in target.state_dict().items():
            given = theirs[name][1] if name in theirs else None
            if given is not None and given.shape == tensor.shape:
                tensor.copy_(given)
                copied.append(name)
            elif given is not None and name == "conv_in.weight" and given[:, :1].shape == tensor[:, :1].shape:
                tensor.zero_()[:, : given.shape[1]] = given
                extended.append(name)
            elif ".wiring." in name or name.startswith(("conv_in.", "conv_out.")):
                new.append(name)
            else:
                got = "is missing" if given is None else f"has the shape {tuple(given.shape)}"
                raise ValueError(
                    f"{name} {got} in the source, {tuple(tensor.shape)} is needed: take a Stable Diffusion 1.x U-Net, "
                    "and leave widths and layers_per_block as they are there"
                )
    used = {*copied, *extended}
    dropped = tuple(name for here, (name, _) in theirs.items() if here not in used)
    return CopyReport(tuple(copied), tuple(extended), dropped, tuple(new))


def _run_plain(calls: Sequence[Call], x: Tensor, memory: str) -> Tensor:
    """Unwired blocks; unless memory is "none" only their arguments are kept, and they run again backwards."""
    for block, side in calls:
        if memory == "none" or not torch.is_grad_enabled():
            x = block(x, *side)
        else:
            x = checkpoint(block, x, *side, use_reentrant=False, preserve_rng_state=False)
    return x


def _to_working_dtype(x: Tensor, weight: Tensor) -> Tensor:
    """Cast what comes from a chain, whose states are float32, to the dtype in which `weight` will be applied."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype)


def _norm(norm: str, channels: int, groups: int, eps: float) -> nn.Module:
    return LocalGroupNorm(channels, eps=eps) if norm == "local" else nn.GroupNorm(groups, channels, eps)
