"""Haar bands, invertible coupling and cross-frequency attention."""

import pytest
import torch
from torch import Tensor, nn

from fusion_hub.models.frequency import (
    BandFusion,
    CrossFrequencyAddition,
    CrossFrequencyAttention,
    InvertibleCoupling,
    InvertibleMixing,
    haar_analysis,
    haar_synthesis,
)


def randomize(module: nn.Module, std: float) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3, 30, 46)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_haar_round_trip_keeps_values_and_energy(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, layout: torch.memory_format
) -> None:
    x = torch.rand(shape, dtype=dtype).to(memory_format=layout)
    low, high = haar_analysis(x)
    assert low.shape == (*shape[:2], shape[2] // 2, shape[3] // 2)
    assert high.shape == (shape[0], 3 * shape[1], shape[2] // 2, shape[3] // 2)
    back = haar_synthesis(low, high)
    assert back.dtype == dtype
    assert (back - x).abs().max() < tolerance
    energy = low.square().sum() + high.square().sum()
    torch.testing.assert_close(energy, x.square().sum(), rtol=10 * tolerance, atol=0)


def test_haar_bands_are_what_their_names_say() -> None:
    rows, columns = torch.meshgrid(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]), indexing="ij")
    patterns = torch.stack([torch.ones(2, 2), columns, rows, rows * columns]).unsqueeze(1).repeat(1, 1, 3, 2)
    low, high = haar_analysis(patterns)
    bands = torch.cat([low, high], dim=1)  # low, horizontal, vertical, diagonal detail
    assert torch.equal(bands, 2 * torch.eye(4)[:, :, None, None].expand(4, 4, 3, 2))


def test_haar_works_in_bf16() -> None:
    x = torch.rand(1, 4, 8, 8).bfloat16()
    assert (haar_synthesis(*haar_analysis(x)) - x).abs().max() < 0.02


def test_haar_refuses_odd_sizes_and_bands_that_do_not_belong_together() -> None:
    for shape in ((1, 1, 3, 4), (1, 1, 4, 5)):
        with pytest.raises(ValueError, match=r"needs even height and width, got \(\d, \d\): pad"):
            haar_analysis(torch.zeros(shape))
    with pytest.raises(ValueError, match="needs high bands with 6 channels, got 4"):
        haar_synthesis(torch.zeros(1, 2, 2, 2), torch.zeros(1, 4, 2, 2))


def test_mixing_starts_as_identity_and_its_inverse_is_exact() -> None:
    mixing = InvertibleMixing(12)
    x = torch.randn(2, 12, 5, 7)
    torch.testing.assert_close(mixing(x), x)
    randomize(mixing, 0.2)
    assert not torch.allclose(mixing(x), x, atol=0.1)
    assert (mixing.inverse(mixing(x)) - x).abs().max() < 1e-5
    # The inverse is that of the matrix, found without the triangular factors.
    lower, upper = mixing.factors()
    expected = torch.einsum("oc,bchw->bohw", torch.linalg.inv(lower @ upper), x)
    torch.testing.assert_close(mixing.inverse(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("channels", "expansion"), [(4, 2), (32, 1)])
def test_coupling_starts_as_identity_and_inverts(channels: int, expansion: int) -> None:
    coupling = InvertibleCoupling(channels, expansion)
    bands = torch.randn(2, channels, 6, 8)
    torch.testing.assert_close(coupling(bands), bands)
    randomize(coupling, 0.1)
    coupled = coupling(bands)
    assert not torch.allclose(coupled, bands, atol=0.1)
    assert (coupling.inverse(coupled) - bands).abs().max() < 1e-5


def test_coupling_scales_by_at_most_e() -> None:
    coupling = randomize(InvertibleCoupling(4), 10.0)
    with torch.no_grad():
        for layer in (coupling.mixing, coupling.phi1, coupling.phi3):
            for parameter in layer.parameters():
                parameter.zero_()
    bands = torch.rand(1, 4, 8, 8) + 0.1
    ratio = coupling(bands)[:, :2] / bands[:, :2]
    assert ratio.max() <= torch.e + 1e-5 and ratio.min() >= 1 / torch.e - 1e-5


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (3, 2)])
def test_attention_gates_start_at_one(size: tuple[int, int]) -> None:
    low, high = torch.randn(2, 4, *size), torch.randn(2, 12, *size)
    gated_low, gated_high = CrossFrequencyAttention(4, window=4)(low, high)
    assert torch.equal(gated_low, low) and torch.equal(gated_high, high)


def test_each_band_gates_the_other() -> None:
    attention = randomize(CrossFrequencyAttention(4, window=4), 0.5)
    low, high = torch.randn(1, 4, 8, 8), torch.randn(1, 12, 8, 8)
    gated_low, gated_high = attention(low, high)
    spatial, channel = gated_high / high, gated_low / low
    # One spatial map for each detail direction, the same for its channels, from the low band alone.
    assert torch.allclose(spatial, spatial[:, ::4].repeat_interleave(4, dim=1), atol=1e-4)
    for gate in (spatial, channel):
        assert gate.min() >= 0 and gate.max() <= 2.001
    torch.testing.assert_close(attention(low, 2 * high)[1], 2 * gated_high)
    # The channel gate depends on the energy of the high bands, not on their sign.
    torch.testing.assert_close(attention(low, -high)[0], gated_low)
    assert not torch.allclose(attention(low, 2 * high)[0], gated_low)


def test_channel_gate_pools_over_windows() -> None:
    attention = randomize(CrossFrequencyAttention(2, window=4), 0.5)
    low, high = torch.ones(1, 2, 4, 32), torch.randn(1, 6, 4, 32)
    other = high.clone()
    other[..., 28:] *= 3
    same = (attention(low, high)[0] == attention(low, other)[0]).all(dim=2).all(dim=1)[0]
    # The last window is 28 to 31; interpolation carries it half a window further.
    assert same[:26].all() and not same[26:].any()


def test_addition_adds_the_low_band_to_every_direction() -> None:
    addition = CrossFrequencyAddition(2)
    low, high = torch.randn(1, 2, 4, 4), torch.randn(1, 6, 4, 4)
    new_low, new_high = addition(low, high)
    torch.testing.assert_close(new_high - high, low.repeat(1, 3, 1, 1))
    torch.testing.assert_close(new_low - low, addition.project(high))


def test_band_fusion_sees_both_sources() -> None:
    fusion = BandFusion(3)
    first, second = torch.randn(2, 3, 4, 6, requires_grad=True), torch.randn(2, 3, 4, 6, requires_grad=True)
    fused: Tensor = fusion(first, second)
    assert fused.shape == first.shape
    fused.square().sum().backward()
    assert first.grad is not None and second.grad is not None
    assert first.grad.any() and second.grad.any()
