"""The inference form of RED: the same function of a pair, arranged for one forward pass.

- The timestep of each step is known: its embedding is a bias of the first convolution of each residual block.
- The wiring out = (1 - v) B(in) + v in_before needs no inverse here: 1 - v is in the last layer of B, states are in the
  dtype of the network, and a state is overwritten as soon as nothing else reads it.
- The scale and shift of a norm in front of a linear layer are in that layer, as is the scale of attention.
- Attention with its feed-forward runs on a few rows of windows at a time, which one copy cuts out. What it computes in
  between, up to eight times the features, stays in the cache.
- Nearest-neighbor upsampling and its 3x3 convolution are four 2x2 convolutions of the small map, one for each position
  of a pixel in its cell: 4/9 of the arithmetic.

Folding is done in float64. On x86 processors, activations and additions run inside oneDNN's layers (`FoldedConv`).
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion_hub.models.difffusenet_inference import FoldedConv, Norm, Target, _unshuffle, fold, runs_in_onednn

if TYPE_CHECKING:
    from fusion_hub.models.red import REDModel

CHUNK = 1 << 19  # features of the tokens that are in work at a time: their hidden layer fits into the cache


class Mix(NamedTuple):
    """How a block continues its chain: out = keep in + older in_before + branch (B(in) - in)."""

    keep: float = 1.0
    older: float = 0.0
    branch: float = 1.0


def mixes(wiring: Any, count: int) -> list[Mix]:
    """Of the blocks of a group; the first one has in_before = s in, which is a part of `keep`."""
    if wiring is None:
        return [Mix()] * count
    strengths = torch.sigmoid(wiring.v_logit).tolist()
    rest = [Mix(1 - v, v, 1 - v) for v in strengths[1:]]
    first = strengths[0]
    return [Mix(1 - first + first * wiring.scale.item(), 0.0, 1 - first), *rest]


class Tokens:
    """A linear layer on tokens `(N, C)`: activation(x W^T + b), or that plus or times another tensor."""

    def __init__(self, weight: Tensor, bias: Tensor | None, target: Target, gelu: bool = False) -> None:
        self.weight = target.place(weight).contiguous()
        self.bias = None if bias is None else target.place(bias)
        self.gelu, self.packed = gelu, target.in_onednn
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, 4096)

    def __call__(self, x: Tensor, add: Tensor | None = None, multiply: Tensor | None = None) -> Tensor:
        """`add` and `multiply`, of the shape of the result, may be overwritten."""
        other, kind = (add, "add") if multiply is None else (multiply, "mul")
        if not self.packed:
            out = F.linear(x, self.weight, self.bias)
            out = F.gelu(out) if self.gelu else out
            if other is None:
                return out
            return other.add_(out) if add is not None else other.mul_(out)
        if other is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, kind)
        activation, algorithm = ("gelu", "none") if self.gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], algorithm)


def after_norm(norm: Any, weight: Tensor, bias: Tensor | None, target: Target, gelu: bool = False) -> Tokens:
    """A linear layer `(C', C)` with the scale and shift of the norm in front of it."""
    shift = weight @ norm.bias
    return Tokens(weight * norm.weight, shift if bias is None else bias + shift, target, gelu)


class WindowBlock:
    """`SelfAttention2D` over windows."""

    def __init__(self, layer: Any, mix: Mix, target: Target) -> None:
        block = layer.transformer_blocks[0]
        attention, gated, out = block.attn1, block.ff.net[0].proj, block.ff.net[2]
        self.side, shifted = attention.processor.window, attention.processor.shift
        self.before = self.side // 2 if shifted else 0
        self.mix, self.heads = mix, attention.heads
        self.epsilons = layer.norm.eps, block.norm1.eps, block.norm3.eps
        self.enter = after_norm(layer.norm, layer.proj_in.weight[:, :, 0, 0], layer.proj_in.bias, target)
        query = attention.to_q.weight * (attention.to_q.weight.shape[0] // self.heads) ** -0.5
        weight = torch.cat([query, attention.to_k.weight, attention.to_v.weight])
        self.query_key_value = after_norm(block.norm1, weight, None, target)
        self.attended = Tokens(attention.to_out[0].weight, attention.to_out[0].bias, target)
        (value, gate), (value_bias, gate_bias) = gated.weight.chunk(2), gated.bias.chunk(2)
        self.value = after_norm(block.norm3, value, value_bias, target)
        self.gate = after_norm(block.norm3, gate, gate_bias, target, gelu=True)
        self.hidden = Tokens(out.weight, out.bias, target)
        leave = mix.branch * layer.proj_out.weight[:, :, 0, 0]
        self.leave = Tokens(leave, mix.branch * layer.proj_out.bias, target)

    def __call__(self, x: Tensor, step: int, older: Tensor | None, spare: bool) -> Tensor:
        """Continue a chain by one block. `x` stays as it is; `older` is overwritten where it is to spare."""
        batch, channels, height, width = x.shape
        result = older if older is not None and spare else torch.empty_like(x)
        side, before = self.side, self.before
        window_rows, columns = (-(-(size + before) // side) for size in (height, width))
        across = torch.arange(-before, columns * side - before).clamp_(0, width - 1)
        padded = len(across) > width
        step_rows = max(1, CHUNK // (channels * side * side * columns))
        for image in range(batch):
            source, target = x[image].permute(1, 2, 0), result[image].permute(1, 2, 0)
            previous = None if older is None else older[image].permute(1, 2, 0)
            for first in range(0, window_rows, step_rows):
                count = min(step_rows, window_rows - first)
                start, stop = first * side - before, (first + count) * side - before
                top, bottom = max(start, 0), min(stop, height)
                strip = source[top:bottom]
                if padded or bottom - top < count * side:
                    down = torch.arange(start, stop).clamp_(0, height - 1) - top
                    strip = strip.index_select(0, down).index_select(1, across)
                windows = strip.view(count, side, columns, side, channels).transpose(1, 2)
                tokens = self._attend(windows.reshape(-1, channels))
                branch = tokens.view(count, columns, side, side, channels).transpose(1, 2)
                branch = branch.reshape(count * side, columns * side, channels)
                mixed = target[top:bottom]
                if previous is None:
                    torch.mul(source[top:bottom], self.mix.keep, out=mixed)
                else:
                    torch.lerp(source[top:bottom], previous[top:bottom], self.mix.older, out=mixed)
                mixed.add_(branch[top - start : bottom - start, before : before + width])
        return result

    def _attend(self, tokens: Tensor) -> Tensor:
        """`(N, C)`, window by window, through the whole block."""
        tokens = self.enter(self._normalize(tokens, 0))
        attended = self._attention(self.query_key_value(self._normalize(tokens, 1)))
        tokens = self.attended(attended, add=tokens)
        normalized = self._normalize(tokens, 2)
        tokens = self.hidden(self.value(normalized, multiply=self.gate(normalized)), add=tokens)
        return self.leave(tokens)

    def _normalize(self, tokens: Tensor, number: int) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[1:], None, None, self.epsilons[number])

    def _attention(self, tokens: Tensor) -> Tensor:
        """`(N, 3C)` to `(N, C)`."""
        parts = tokens.view(-1, self.side**2, 3, self.heads, tokens.shape[1] // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        if tokens.dtype == torch.bfloat16:
            # On contiguous windows it takes a third of the time of the fused kernel.
            query, key, value = parts.flatten(1, 2)
            attended = torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(-1), value).view(parts.shape[1:])
        else:
            query, key, value = parts
            attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return attended.transpose(1, 2).reshape(len(tokens), -1)


class ResidualBlock:
    """`ResidualBlock` and `SkipResidualBlock` of the network, at the timesteps of `embeddings`."""

    def __init__(self, block: Any, embeddings: Sequence[Tensor | None], mix: Mix, target: Target) -> None:
        self.mix = mix
        self.norm_1, self.norm_2 = Norm(block.norm1, target), Norm(block.norm2, target)
        conv_1 = fold(block.conv1, target)
        self.conv_1 = [copy.copy(conv_1) for _ in embeddings]
        for conv, embedding in zip(self.conv_1, embeddings, strict=True):
            if embedding is not None:
                conv.bias = target.place(block.conv1.bias + block.time_emb_proj(F.silu(embedding))[0])
        self.conv_2 = scaled(block.conv2, mix.branch, target)
        self.shortcut = None
        if block.conv_shortcut is not None:
            self.shortcut = scaled(block.conv_shortcut, mix.branch, target)

    def __call__(self, x: Tensor, step: int, older: Tensor | None = None, spare: bool = False) -> Tensor:
        """As `WindowBlock`; a block of the decoder gets the concatenation of its input and its skip as `x`."""
        hidden = self.conv_1[step](F.silu(self.norm_1(x), inplace=True))
        hidden = F.silu(self.norm_2(hidden), inplace=True)
        out = older if spare else None
        if self.shortcut is None:
            mixed = x * self.mix.keep if older is None else torch.lerp(x, older, self.mix.older, out=out)
        elif older is None:
            mixed = self.shortcut(x)
        else:
            mixed = self.shortcut(x, add=torch.mul(older, self.mix.older, out=out))
        return self.conv_2(hidden, add=mixed)


def scaled(layer: Any, factor: float, target: Target) -> FoldedConv:
    """A convolution of stride 1 times a number."""
    return FoldedConv(factor * layer.weight, factor * layer.bias, target)


class Enlarge:
    """Nearest-neighbor upsampling by 2 with a 3x3 convolution, beside a skip connection."""

    def __init__(self, layer: Any, target: Target) -> None:
        def halves(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
            """Kernels of two taps for the first and the second pixel of a cell: two taps meet in one cell."""
            a, b, c = weight.split(1, dim=axis)
            return torch.cat([a, b + c], dim=axis), torch.cat([a + b, c], dim=axis)

        self.convs = [
            [FoldedConv(kernel, layer.bias, target) for kernel in halves(row, 3)] for row in halves(layer.weight, 2)
        ]

    def __call__(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, C, h, w)` and `(B, C', 2h, 2w)` to `(B, C + C', 2h, 2w)`."""
        batch, channels, height, width = x.shape
        joined = x.new_empty(batch, 2 * height, 2 * width, channels + skip.shape[1])
        joined[..., channels:] = skip.permute(0, 2, 3, 1)
        for row, convs in enumerate(self.convs):
            for column, conv in enumerate(convs):
                pixels = conv(x)[:, :, row : row + height, column : column + width]
                joined[:, row::2, column::2, :channels] = pixels.permute(0, 2, 3, 1)
        return joined.permute(0, 3, 1, 2)


class Down:
    """`DownBlock`."""

    def __init__(self, block: Any, embeddings: Sequence[Tensor | None], target: Target) -> None:
        outside = block.outside if block.wiring is not None else 0
        count = 2 * len(block.resnets)
        order = [Mix()] * outside + mixes(block.wiring, count - outside)
        self.layers: list[tuple[Any, Any]] = [
            (ResidualBlock(resnet, embeddings, order[2 * i], target), WindowBlock(attention, order[2 * i + 1], target))
            for i, (resnet, attention) in enumerate(zip(block.resnets, block.attentions, strict=True))
        ]
        self.outside, self.wired = outside, block.wiring is not None
        self.merges = block.wiring.merge.tolist() if self.wired else [0.0] * len(self.layers)
        self.down = fold(block.downsamplers[0].conv, target) if block.downsamplers else None

    def __call__(self, x: Tensor, step: int) -> tuple[Tensor, list[Tensor]]:
        skips, entry = list[Tensor](), x
        older: Tensor | None = None
        for i, (layer, merge) in enumerate(zip(self.layers, self.merges, strict=True)):
            for j, block in enumerate(layer):
                out = block(x, step, older, older is not None and older is not entry)
                older, x = (x if self.wired and 2 * i + j >= self.outside else None), out
            skips.append(x if older is None else torch.add(x, older, alpha=merge))
        x = skips[-1]
        if self.down is not None:
            x = self.down(x)
            skips.append(x)
        return x, skips


class Up:
    """`UpBlock` without its upsampler."""

    def __init__(self, block: Any, embeddings: Sequence[Tensor | None], target: Target) -> None:
        order = [Mix(), *mixes(block.wiring, 2 * len(block.resnets) - 1)]
        self.layers: list[tuple[Any, Any]] = [
            (ResidualBlock(resnet, embeddings, order[2 * i], target), WindowBlock(attention, order[2 * i + 1], target))
            for i, (resnet, attention) in enumerate(zip(block.resnets, block.attentions, strict=True))
        ]
        self.wired = block.wiring is not None
        self.merge = block.wiring.merge.item() if self.wired else 0.0

    def __call__(self, joined: Tensor, skips: list[Tensor], step: int) -> Tensor:
        """`joined`: the input beside the first skip; the other skips are taken off the list."""
        x: Tensor = joined
        older: Tensor | None = None
        for i, (residual, attention) in enumerate(self.layers):
            if i > 0:
                joined = torch.cat([x, skips.pop()], dim=1)
            x, older = residual(joined, step, older, older is not None), (x if self.wired and i > 0 else None)
            x, older = attention(x, step, older, older is not None), (x if self.wired else None)
        return x if older is None else x.add_(older, alpha=self.merge)


class FoldedRED(nn.Module):
    """What [`REDModel.fuse_for_inference`] returns. It has no parameters of its own and is not saved.

    It computes on the device and in the dtype that the model had.
    """

    @torch.no_grad()
    def __init__(self, model: "REDModel") -> None:
        super().__init__()
        device, dtype = model.device, model.dtype
        target = Target(device, dtype, runs_in_onednn(device, dtype))
        weights = {name: value.to("cpu", torch.float64) for name, value in model.state_dict().items()}
        network: Any = type(model).from_config(model.config)
        network.double().load_state_dict(weights)
        unet = network.unet
        self.dtype, self.steps, self.injection = dtype, model.config.num_steps, model.config.source_injection
        self.patch_size = model.config.patch_size
        self.schedule = network._schedule(torch.float64)
        timesteps = [network.timestep(t) for t in range(1, self.steps + 1)]
        embeddings: list[Tensor | None] = [None] * self.steps
        if unet.config.use_time_embedding:
            embeddings = [unet.time_embedding(unet.time_proj(torch.tensor([t])).double()) for t in timesteps]
        self.enter = fold(unet.conv_in, target)
        self.outer_down, self.inner_down = (Down(block, embeddings, target) for block in unet.down_blocks)
        self.inner_up, self.outer_up = (Up(block, embeddings, target) for block in unet.up_blocks)
        self.enlarge = Enlarge(unet.up_blocks[0].upsamplers[0].conv, target)
        self.norm_out, self.leave = Norm(unet.conv_norm_out, target), fold(unet.conv_out, target)

    @torch.no_grad()
    def forward(self, visible: Tensor, infrared: Tensor, num_inference_steps: int | None = None) -> Tensor:
        """Fuse `(B, 1, H, W)` luminance in [0, 1] with infrared of the same shape, H and W multiples of `multiple`.

        Returns `(B, 1, H, W)`, not clamped, in the dtype of `visible`. No gradients. `num_inference_steps` as for the
        model, without `"auto"`.
        """
        steps = self.steps if num_inference_steps is None else num_inference_steps
        schedule = self.schedule
        seen, warm = (_unshuffle(image.float(), self.patch_size) for image in (visible, infrared))
        level = schedule.levels[steps].sqrt().item()
        x, older = level * seen, level * warm
        given = torch.cat([seen, warm], dim=1).to(self.dtype) if self.injection else None
        for t in range(steps, 0, -1):
            a, b = (number.item() for number in schedule.ddim(t))
            state = x.to(self.dtype)
            noise = self._noise(state if given is None else torch.cat([state, given], dim=1), t - 1)
            following = (a * x).add_(noise, alpha=b)
            x, older = torch.lerp(following, older, schedule.v[t - 1].item()), x
        return F.pixel_shuffle(torch.lerp(older, x, schedule.last.item()), self.patch_size).to(visible.dtype)

    def _noise(self, sample: Tensor, step: int) -> Tensor:
        """`PrunedUNet`."""
        x = self.enter(sample)
        skips = [x]
        for down in (self.outer_down, self.inner_down):
            x, new = down(x, step)
            skips += new
        x = self.inner_up(torch.cat([x, x, skips.pop()], dim=1), skips, step)
        x = self.outer_up(self.enlarge(x, skips.pop()), skips, step)
        return self.leave(F.silu(self.norm_out(x), inplace=True))
