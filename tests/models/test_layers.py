"""Local norm, feature decoupling, and the checks of settings and images that all networks share."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fusion_hub.models import RED_VARIANTS, DiffFuseNetModel, REDModel
from fusion_hub.models.layers import FeatureDecoupling, LocalGroupNorm
from fusion_hub.models.pruned_unet import PrunedUNet
from tests.support.tiny import TINY

SMALLEST: dict[type, dict[str, Any]] = {
    DiffFuseNetModel: TINY,
    REDModel: RED_VARIANTS["tiny"],
    PrunedUNet: {"block_out_channels": (8, 16), "num_attention_heads": 2, "norm_num_groups": 4},
}


def test_specific_features_are_those_of_what_is_not_shared() -> None:
    decoupling = FeatureDecoupling(4)
    visible, infrared = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    shared, specific_visible, specific_infrared = decoupling(visible, infrared)
    torch.testing.assert_close(specific_visible, decoupling.visible(visible - shared))
    torch.testing.assert_close(specific_infrared, decoupling.infrared(infrared - shared))
    torch.testing.assert_close(shared, decoupling.common(torch.cat([visible, infrared], dim=1)))
    _, specific_visible, specific_infrared = decoupling(visible, visible)
    assert not torch.allclose(specific_visible, specific_infrared), "each branch has weights of its own"


def test_a_specific_feature_sees_the_other_image_only_through_the_shared_one() -> None:
    decoupling = FeatureDecoupling(4)
    with torch.no_grad():
        for parameter in decoupling.common.parameters():
            parameter.zero_()
    visible = torch.randn(1, 4, 6, 8)
    first, second = (decoupling(visible, torch.randn(1, 4, 6, 8)) for _ in range(2))
    assert torch.equal(first[1], second[1]) and not torch.equal(first[2], second[2])


def test_local_group_norm_is_group_norm_of_one_pixel() -> None:
    norm, plain, x = LocalGroupNorm(6), LocalGroupNorm(6, affine=False), torch.randn(5, 6, 1, 1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    torch.testing.assert_close(norm(x), F.group_norm(x, 1, norm.weight, norm.bias, norm.eps))
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(x), F.group_norm(x, 1, eps=plain.eps))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_local_group_norm_is_local(layout: torch.memory_format) -> None:
    norm, x = LocalGroupNorm(6), torch.randn(2, 6, 4, 5).to(memory_format=layout)
    other = x.clone()
    other[:, :, 1, 2] += 3 * torch.randn(6)
    changed = (norm(x) != norm(other)).any(dim=1).any(dim=0)
    assert changed[1, 2] and changed.sum() == 1


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (DiffFuseNetModel, {"feature_channels": 7}, "feature_channels must be even, got 7"),
        (DiffFuseNetModel, {"patch_size": 1, "detail_channels": 8}, "detail_channels needs an even patch_size, got 1"),
        (DiffFuseNetModel, {"detail_channels": -1}, "detail_channels must be a whole number from 0 to 8192, got -1"),
        (DiffFuseNetModel, {"prediction_type": "sample"}, "must be one of v_prediction, epsilon, got 'sample'"),
        (DiffFuseNetModel, {"frequency": "fft"}, "frequency must be one of haar_inn, haar, none, got 'fft'"),
        (DiffFuseNetModel, {"cross_frequency": "mul"}, "cross_frequency must be one of attention, add, got 'mul'"),
        (REDModel, {"resample": "bicubic"}, "resample must be one of"),
        (REDModel, {"num_steps": 0}, "num_steps must be a whole number from 1 to 1000, got 0"),
        (REDModel, {"patch_size": 0}, "patch_size must be a whole number from 1 to 16, got 0"),
        (REDModel, {"memory": "low"}, "memory must be one of"),
        (PrunedUNet, {"norm": "batch"}, "norm must be one of group, local, got 'batch'"),
        (PrunedUNet, {"memory": "low"}, "memory must be one of"),
        (PrunedUNet, {"block_out_channels": (8, 16, 32)}, "block_out_channels"),
        (PrunedUNet, {"attention_window": (-1, 4)}, "attention_window"),
        (PrunedUNet, {"num_attention_heads": 3}, "num_attention_heads"),
        (PrunedUNet, {"norm_num_groups": 3}, "norm_num_groups=3"),
        (PrunedUNet, {"layers_per_block": 0}, "layers_per_block"),
    ],
)
def test_wrong_settings_are_named(network: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**(SMALLEST[network] | settings))


@pytest.mark.parametrize(("network", "multiple"), [(DiffFuseNetModel, 16), (REDModel, 4)])
def test_wrong_images_are_named(network: type, multiple: int) -> None:
    model = network(**SMALLEST[network])
    assert model.multiple == multiple
    for visible, infrared, message in (
        ((1, 1, 32, 32), (1, 1, 32, 16), "of one size"),
        ((1, 3, 32, 32), (1, 3, 32, 32), r"visible \(1, 3, 32, 32\) .* must both be \(B, 1, H, W\)"),
        ((1, 32, 32), (1, 32, 32), "must both be"),
        ((1, 1, 32, 30), (1, 1, 32, 30), rf"multiples of {multiple}, got \(32, 30\): pad first"),
    ):
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(visible), torch.zeros(infrared))


def test_a_wrong_memory_mode_is_named() -> None:
    with pytest.raises(ValueError, match="mode must be one of reversible, checkpoint, none, got 'low'"):
        REDModel(**RED_VARIANTS["tiny"]).set_memory_mode("low")
