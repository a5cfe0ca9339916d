"""EDFD: shared and specific features."""

import torch

from fusion_hub.models.decoupling import FeatureDecoupling


def test_specific_features_are_those_of_what_is_not_shared() -> None:
    torch.manual_seed(0)
    decoupling = FeatureDecoupling(4)
    visible, infrared = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    shared, specific_visible, specific_infrared = decoupling(visible, infrared)
    assert shared.shape == specific_visible.shape == specific_infrared.shape == visible.shape
    torch.testing.assert_close(specific_visible, decoupling.visible(visible - shared))
    torch.testing.assert_close(specific_infrared, decoupling.infrared(infrared - shared))
    torch.testing.assert_close(shared, decoupling.common(torch.cat([visible, infrared], dim=1)))


def test_each_branch_has_weights_of_its_own() -> None:
    torch.manual_seed(0)
    decoupling = FeatureDecoupling(4)
    same = torch.randn(1, 4, 6, 8)
    _, specific_visible, specific_infrared = decoupling(same, same)
    assert not torch.allclose(specific_visible, specific_infrared)


def test_a_specific_feature_sees_the_other_image_only_through_the_shared_one() -> None:
    torch.manual_seed(0)
    decoupling = FeatureDecoupling(4)
    with torch.no_grad():
        for parameter in decoupling.common.parameters():
            parameter.zero_()
    visible = torch.randn(1, 4, 6, 8)
    first = decoupling(visible, torch.randn(1, 4, 6, 8))
    second = decoupling(visible, torch.randn(1, 4, 6, 8))
    assert torch.equal(first[1], second[1]) and not torch.equal(first[2], second[2])
