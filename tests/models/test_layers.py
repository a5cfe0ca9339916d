"""Local norm and feature decoupling."""

import pytest
import torch
import torch.nn.functional as F

from fusion_hub.models.layers import FeatureDecoupling, LocalGroupNorm


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
