"""The peers of the speed benchmark: the sizes that their authors published, and what they compute."""

import networks
import peers
import peers_attention
import pytest
import torch
from peers import PEERS
from torch import nn


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_has_the_published_parameters_and_flops(name: str) -> None:
    peer = PEERS[name]
    with torch.device("meta"):
        network = peer.build().eval()
        pair = torch.empty(2, 1, 1, 480, 640)
    assert sum(parameter.numel() for parameter in network.parameters()) == peer.published - peer.unused
    assert networks.count_flops(network, *pair) / 1e9 == pytest.approx(peer.gflops, abs=0.06)
    assert bool(peer.unused) <= bool(peer.note)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_returns_one_image_that_depends_on_both(name: str) -> None:
    torch.manual_seed(0)
    network = PEERS[name].build().eval()
    visible, infrared = torch.rand(2, 1, 1, 20, 28)
    with torch.no_grad():
        fused, other, another = (
            network(visible, infrared),
            network(1 - visible, infrared),
            network(visible, 1 - infrared),
        )
    assert fused.shape == visible.shape and fused.isfinite().all()
    assert not torch.equal(fused, other) and not torch.equal(fused, another)


def test_folded_batch_norms_change_nothing() -> None:
    torch.manual_seed(0)
    network = PEERS["SAGE"].build()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    pair = torch.rand(2, 1, 1, 16, 16)
    with torch.no_grad():
        before = network.eval()(*pair)
        folded = peers.fold_batch_norms(network)
        torch.testing.assert_close(folded(*pair), before, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())


def test_windows_are_put_back() -> None:
    x = torch.rand(2, 16, 24, 3)
    windows = peers_attention.to_windows(x)
    assert windows.shape == (2, 6, 64, 3)
    assert torch.equal(windows[:, 4], x[:, 8:, 8:16].flatten(1, 2))
    assert torch.equal(peers_attention.from_windows(windows, 16, 24), x)


def test_shifted_windows_do_not_see_across_the_edge() -> None:
    torch.manual_seed(0)
    attention = peers_attention.WindowAttention(12, 3, shift=4)
    x = torch.rand(1, 16, 16, 12)
    other = x.clone()
    other[:, :, -4:] += 1  # rolled into one window with the first four columns
    with torch.no_grad():
        first, second = attention(x, x), attention(other, other)
    torch.testing.assert_close(first[:, :, :4], second[:, :, :4])
    assert not torch.allclose(first[:, :, 12:], second[:, :, 12:])
