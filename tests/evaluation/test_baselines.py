"""The fusion rules without a network: exact properties, independent references, and the peers' rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub.evaluation.baselines import (
    BASELINES,
    _box_mean,
    _guided,
    average,
    fuse_levels,
    guided_filter,
    laplacian,
    maximum,
)
from fusion_hub.metrics import evaluate_pair

SIZES = [(1, 1), (1, 7), (5, 1), (2, 2), (3, 3), (61, 96)]


def pair(height: int, width: int, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    visible, infrared = torch.rand(2, batch, 1, height, width, generator=generator).double()
    return visible, infrared


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BASELINES)
def test_properties_at_any_size(name: str, size: tuple[int, int]) -> None:
    rule, (visible, infrared) = BASELINES[name], pair(*size, batch=2)
    assert torch.allclose(rule(visible, visible), visible, atol=1e-12)  # for the pyramid: perfect reconstruction
    fused = rule(visible, infrared)
    if min(size) > 3:  # without ties, the order of the sources does not matter
        assert torch.allclose(fused, rule(infrared, visible), atol=1e-9)
    assert fused.shape == visible.shape and fused.dtype == torch.float64 and 0 <= fused.min() <= fused.max() <= 1
    alone = torch.cat([rule(v[None], i[None]) for v, i in zip(visible, infrared, strict=True)])
    assert torch.allclose(fused, alone, atol=1e-6)
    assert rule(visible.float(), infrared.float()).dtype == torch.float32


def test_average_maximum_and_a_pyramid_without_levels() -> None:
    visible, infrared = pair(9, 11)
    assert torch.equal(average(visible, infrared), 0.5 * visible + 0.5 * infrared)
    assert torch.equal(maximum(visible, infrared), torch.where(visible > infrared, visible, infrared))
    assert torch.allclose(laplacian(visible, infrared, levels=0), average(visible, infrared))


def test_laplacian_keeps_the_detail_of_the_only_source_that_has_any() -> None:
    """Detail over a flat image: the pyramid keeps it at full contrast where the average halves it."""
    flat = torch.full((1, 1, 64, 64), 0.5, dtype=torch.float64)
    stripes = flat.clone()
    stripes[..., ::2] += 0.2
    stripes[..., 1::2] -= 0.2
    fused = laplacian(stripes, flat)
    assert torch.allclose(fused, stripes, atol=0.02)


@pytest.mark.parametrize("triple", ["mrict_22_lap", "road_04688_lap"])
def test_two_levels_equal_an_independent_program(data_root: Path, triple: str) -> None:
    """The metric references hold images fused with a two-level pyramid of the same definition."""
    folder = data_root / "metrics"
    fused, visible, infrared = (
        torch.from_numpy(np.array(Image.open(folder / sub / f"{triple}.png"))).double()[None, None]
        for sub in ("fused", "vis", "ir")
    )
    ours = (laplacian(visible / 255, infrared / 255, levels=2) * 255).round()
    assert (ours - fused).abs().max() <= 1
    assert (ours != fused).double().mean() < 0.02


def test_box_mean_counts_only_pixels_inside() -> None:
    x, _ = pair(9, 13)
    blurred = _box_mean(x, 3)
    for row, column in ((0, 0), (4, 6), (8, 12), (2, 11)):
        patch = x[0, 0, max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4]
        assert blurred[0, 0, row, column].item() == pytest.approx(patch.mean().item())


def test_guided_filter_is_the_mean_of_local_regressions() -> None:
    """One output pixel by definition: ridge regression of the weights on the guide in every window that covers it."""
    guide, weight = (x[0, 0].numpy() for x in pair(11, 11, seed=2))
    radius, eps = 2, 0.01
    row, column = 5, 5
    predictions = []
    for y in range(row - radius, row + radius + 1):
        for x in range(column - radius, column + radius + 1):
            window = np.s_[y - radius : y + radius + 1, x - radius : x + radius + 1]
            g, w = guide[window].ravel(), weight[window].ravel()
            slope = np.cov(g, w, bias=True)[0, 1] / (g.var() + eps)
            predictions.append(slope * guide[row, column] + w.mean() - slope * g.mean())
    ours = _guided(torch.from_numpy(guide)[None, None], torch.from_numpy(weight)[None, None], radius, eps)
    assert ours[0, 0, row, column].item() == pytest.approx(np.mean(predictions))


def test_guided_filter_takes_detail_from_the_salient_source() -> None:
    """Texture left in the visible image, right in the infrared: each half keeps its texture."""
    generator = torch.Generator().manual_seed(0)
    texture = 0.4 * torch.rand(1, 1, 128, 128, generator=generator, dtype=torch.float64) + 0.3
    visible, infrared = texture.clone(), texture.clone()
    visible[..., 64:] = 0.5
    infrared[..., :64] = 0.5
    fused = guided_filter(visible, infrared)
    away = torch.cat([fused[..., :40] - texture[..., :40], fused[..., 88:] - texture[..., 88:]], dim=-1)
    assert away.abs().mean() < 0.03


@pytest.mark.parametrize("name", BASELINES)
def test_unequal_shapes_are_an_error(name: str) -> None:
    visible, infrared = pair(8, 9)
    with pytest.raises(ValueError, match=r"visible has shape \(1, 1, 8, 9\) and infrared \(1, 1, 8, 8\)"):
        BASELINES[name](visible, infrared[..., :8])
    with pytest.raises(ValueError, match="one shape"):
        BASELINES[name](visible.repeat(1, 3, 1, 1), infrared.repeat(1, 3, 1, 1))


# Means over the 25 TNO test pairs from other programs; those of the maximum are in test_evaluation.py.
PEERS = {
    "average": {"SD": 26.11, "SF": 6.95, "SCD": 1.541},
    "guided_filter": {"SD": 39.87, "SF": 11.71, "SCD": 1.267},
    "laplacian": {"EN": 6.76, "SD": 32.61, "SF": 12.82, "SCD": 1.649, "VIF": 0.679, "Qabf": 0.544},
}


@pytest.mark.parametrize("name", PEERS)
def test_rows_of_the_peers_table(data_root: Path, name: str) -> None:
    folder = data_root / "data" / "tno" / "test"
    rows = []
    for path in sorted((folder / "vis").glob("*.png")):
        visible, infrared = (np.array(Image.open(p).convert("L")) for p in (path, folder / "ir" / path.name))
        fused = fuse_levels(name, visible, infrared)
        rows.append(list(evaluate_pair(fused, visible, infrared, names=list(PEERS[name])).values()))
    assert len(rows) == 25
    for value, expected in zip(np.mean(rows, axis=0), PEERS[name].values(), strict=True):
        rounding = 0.006 if expected > 2 else 0.0011
        assert value == pytest.approx(expected, abs=5e-3 * expected if name == "guided_filter" else rounding)
