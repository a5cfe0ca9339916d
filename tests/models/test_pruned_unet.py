"""The pruned U-Net: what it keeps of Stable Diffusion's, what it computes, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from fusion_hub.models.pruned_unet import PrunedUNet, SelfAttention2D, WindowAttnProcessor, copy_sd_unet

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}  # beside the defaults of diffusers
REDUCED = {
    "block_out_channels": (16, 32, 64, 64),
    "attention_head_dim": 4,
    "cross_attention_dim": 8,
    "norm_num_groups": 8,
}
NARROW: dict[str, Any] = {"block_out_channels": (8, 16), "num_attention_heads": 2, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def source() -> UNet2DConditionModel:
    """A narrow network with the layout of Stable Diffusion 1.5."""
    torch.manual_seed(1)
    return UNet2DConditionModel(**REDUCED).eval()


@pytest.fixture(scope="module")
def folder(source: UNet2DConditionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unet")
    source.save_pretrained(folder)
    return folder


def random_unet(**settings: Any) -> PrunedUNet:
    """No parameter is at the zero or the one that training starts from."""
    unet = PrunedUNet(**(NARROW | settings))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".wiring." in name or name.startswith("conv_out"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return unet


def count(unet: nn.Module, wiring: bool) -> int:
    return sum(parameter.numel() for name, parameter in unet.named_parameters() if (".wiring." in name) == wiring)


def test_default_has_the_parameters_of_stable_diffusion() -> None:
    with torch.device("meta"):
        unet, timeless = PrunedUNet(), PrunedUNet(use_time_embedding=False)
        plain = PrunedUNet(reversible_blocks=False)
    assert count(unet, wiring=False) == count(plain, wiring=False) == 123_447_044
    assert count(timeless, wiring=False) == 115_247_684
    assert count(unet, wiring=True) == 17 + 4 + 6 and count(plain, wiring=True) == 0


def test_every_tensor_of_the_default_comes_from_stable_diffusion() -> None:
    with torch.device("meta"):
        source, unet = UNet2DConditionModel(**SD15), PrunedUNet()
    assert source.num_parameters() == 859_520_964
    report = copy_sd_unet(source, unet)
    names = set(unet.state_dict())
    assert set(report.copied) | set(report.new) == names and not report.extended
    assert all(".wiring." in name for name in report.new)
    kept = len(report.copied) + len(report.dropped)
    assert kept == len(source.state_dict())
    gone = ("down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0", "up_blocks.1", "down_blocks.1.downsamplers")
    assert all(name.startswith(gone) or ".attn2." in name or ".norm2." in name for name in report.dropped)


def test_copies_are_equal(source: UNet2DConditionModel, folder: Path, tmp_path: Path) -> None:
    unet, report = PrunedUNet.from_sd15(folder)
    theirs, ours = source.state_dict(), unet.state_dict()
    for name in report.copied:
        their_name = name.replace("up_blocks.0.", "up_blocks.2.").replace("up_blocks.1.", "up_blocks.3.")
        assert torch.equal(ours[name], theirs[their_name])
    assert unet.config.num_attention_heads == 4 and unet.config.norm_num_groups == 8
    assert f"{len(report.copied)} tensors copied" in str(report)
    source.save_pretrained(tmp_path / "unet")
    of_pipeline, _ = PrunedUNet.from_sd15(tmp_path, norm="local", attention_window=(4, 4))
    assert torch.equal(of_pipeline.conv_in.weight, source.conv_in.weight)


def test_more_input_channels_start_without_influence(folder: Path) -> None:
    narrow, _ = PrunedUNet.from_sd15(folder)
    wide, report = PrunedUNet.from_sd15(folder, in_channels=12)
    assert report.extended == ("conv_in.weight",) and "conv_in.bias" in report.copied
    x = torch.randn(1, 12, 8, 8)
    torch.testing.assert_close(wide(x, 7), narrow(x[:, :4], 7))
    _, report = PrunedUNet.from_sd15(folder, out_channels=12, reversible_blocks=False)
    assert report.new == ("conv_out.weight", "conv_out.bias")


@pytest.mark.parametrize("overrides", [{"block_out_channels": (8, 16)}, {"layers_per_block": 1}])
def test_weights_that_do_not_fit_are_refused(folder: Path, overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"in the source.*is needed"):
        PrunedUNet.from_sd15(folder, **overrides)


def test_pickled_weights_are_refused(source: UNet2DConditionModel, tmp_path: Path) -> None:
    source.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        PrunedUNet.from_sd15(tmp_path)


def test_without_wiring_it_is_stable_diffusions_own_function(source: UNet2DConditionModel, folder: Path) -> None:
    unet, _ = PrunedUNet.from_sd15(folder, reversible_blocks=False)
    for name, module in source.named_modules():
        if name.endswith("attn2.to_out.0"):  # cross-attention adds nothing
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    sample, text = torch.randn(2, 4, 12, 8), torch.randn(2, 3, 8)
    step = torch.tensor([30, 700])
    with torch.no_grad():
        time = source.time_embedding(source.time_proj(step))
        x = source.conv_in(sample)
        skips: tuple[Tensor, ...] = (x,)
        x, new = source.down_blocks[0](x, time, text)
        skips += new
        downsamplers, source.down_blocks[1].downsamplers = source.down_blocks[1].downsamplers, None
        x, new = source.down_blocks[1](x, time, text)
        source.down_blocks[1].downsamplers = downsamplers
        skips += new
        x = source.up_blocks[2](torch.cat([x, x], dim=1), skips[3:], time, text)
        x = source.up_blocks[3](x, skips[:3], time, text)
        expected = source.conv_out(source.conv_act(source.conv_norm_out(x)))
        torch.testing.assert_close(unet(sample, step), expected, rtol=1e-4, atol=1e-5)


def test_wired_group_follows_its_equation() -> None:
    block = random_unet(layers_per_block=2).double().down_blocks[0]
    x, time = torch.randn(1, 8, 6, 6, dtype=torch.float64), torch.randn(1, 32, dtype=torch.float64)
    wiring, (first, second) = block.wiring, block.resnets
    v, m = wiring.v_logit.sigmoid(), wiring.merge
    states = [wiring.scale * x, x]
    for i, body in enumerate([first, block.attentions[0], second, block.attentions[1]]):
        out = body(states[-1], time) if body in (first, second) else body(states[-1])
        states.append((1 - v[i]) * out + v[i] * states[-2])
    skips = [states[3] + m[0] * states[2], states[5] + m[1] * states[4]]
    out, got = block(x, (time,), "none")
    torch.testing.assert_close(got[:2], skips)
    torch.testing.assert_close(out, block.downsamplers[0](skips[1]))


@pytest.mark.parametrize(
    ("memory", "settings"),
    [("reversible", {}), ("checkpoint", {"use_time_embedding": False}), ("checkpoint", {"reversible_blocks": False})],
)
def test_memory_modes_have_the_same_gradients(memory: str, settings: dict[str, Any]) -> None:
    unet = random_unet(norm="local", attention_window=(4, 2), memory=memory, **settings).double()
    sample = torch.randn(2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    inputs = [sample, *unet.parameters()]

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(unet(sample, 500).square().sum(), inputs)

    got = gradients()
    unet.memory = "none"
    for mine, expected in zip(got, gradients(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def test_untrained_network_predicts_nothing_and_only_the_time_embedding_separates_steps() -> None:
    sample = torch.randn(1, 4, 4, 4)
    assert not PrunedUNet(**NARROW)(sample, 3).any()
    for embedded in (True, False):
        unet = random_unet(use_time_embedding=embedded)
        assert torch.equal(unet(sample, 10), unet(sample, 900)) != embedded


def test_a_timestep_for_each_image() -> None:
    unet, sample = random_unet(), torch.randn(2, 4, 4, 4)
    together = unet(sample, torch.tensor([10, 900]))
    torch.testing.assert_close(together, torch.cat([unet(sample[:1], 10), unet(sample[1:], 900)]))


@pytest.mark.parametrize("layers", [1, 3])
def test_other_depths(layers: int) -> None:
    unet = random_unet(layers_per_block=layers, block_out_channels=(8, 8))
    out = unet(torch.randn(1, 4, 4, 6), 1)
    assert out.shape == (1, 4, 4, 6)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_bfloat16_is_close_to_float32() -> None:
    unet, sample = random_unet(norm="local", attention_window=(4, 4), memory="none"), torch.randn(1, 4, 8, 8)
    exact = unet(sample, 500)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = unet(sample, 500)
    rounded = unet.to(torch.bfloat16)(sample, 500)
    assert mixed.dtype == rounded.dtype == torch.bfloat16
    for got in (mixed, rounded):
        assert (got.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("size", [(6, 11), (3, 4)])
def test_windows_are_separate_attentions(size: tuple[int, int], shift: bool) -> None:
    (height, width), side = size, 4
    attention = Attention(query_dim=16, heads=2, dim_head=8, processor=AttnProcessor2_0())
    tokens = torch.randn(2, height, width, 16)
    expected = torch.empty_like(tokens)
    first = -(side // 2) if shift else 0
    for top in range(first, height, side):
        for left in range(first, width, side):
            # Beyond the border the border itself goes on.
            rows = torch.arange(top, top + side).clamp(0, height - 1)
            columns = torch.arange(left, left + side).clamp(0, width - 1)
            window = tokens[:, rows][:, :, columns]
            result = attention(window.flatten(1, 2)).unflatten(1, (side, side))
            for i, row in enumerate(range(top, top + side)):
                for j, column in enumerate(range(left, left + side)):
                    if 0 <= row < height and 0 <= column < width:
                        expected[:, row, column] = result[:, i, j]
    attention.set_processor(WindowAttnProcessor(side, shift))
    got = attention(tokens.flatten(1, 2), height=height, width=width)
    torch.testing.assert_close(got.unflatten(1, size), expected)


def test_no_window_is_the_attention_of_diffusers() -> None:
    attention = Attention(query_dim=16, heads=2, dim_head=8, processor=AttnProcessor2_0())
    tokens = torch.randn(2, 30, 16)
    expected = attention(tokens)
    attention.set_processor(WindowAttnProcessor())
    torch.testing.assert_close(attention(tokens), expected)


def test_short_bfloat16_windows_equal_the_fused_kernel() -> None:
    attention = Attention(query_dim=64, heads=2, dim_head=32, bias=False)
    tokens = torch.randn(1, 64, 64)
    attention.set_processor(WindowAttnProcessor(4))
    exact = attention(tokens, height=8, width=8)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention(tokens, height=8, width=8).float(), exact, rtol=0.05, atol=0.01)


def test_every_second_attention_of_a_level_is_shifted() -> None:
    unet = PrunedUNet(**NARROW, attention_window=(8, 4))
    for down, up, window in ((0, 1, 8), (1, 0, 4)):
        attentions: list[SelfAttention2D] = [*unet.down_blocks[down].attentions, *unet.up_blocks[up].attentions]
        processors = [attention.transformer_blocks[0].attn1.processor for attention in attentions]
        assert [processor.shift for processor in processors] == [False, True, False, True, False]
        assert {processor.window for processor in processors} == {window}


@pytest.mark.parametrize("shape", [(1, 4, 5, 4), (1, 4, 4, 3), (1, 3, 4, 4), (4, 4, 4)])
def test_bad_samples_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sample must be \(B, 4, h, w\)"):
        PrunedUNet(**NARROW)(torch.zeros(shape), 1)
