"""The inference form computes the function of the network: constants folded, nothing else changed."""

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from fusion_hub import DiffFuseNetModel, DiffFuseNetPipeline
from fusion_hub.data import sample_pairs


def random_model(**config: Any) -> DiffFuseNetModel:
    """All weights random, so that no layer is at the zero from which training starts."""
    model = DiffFuseNetModel(feature_channels=8, denoiser_channels=(8, 12, 16), **config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.15, generator=generator)
    return model


def random_pair(*size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*size, generator=generator), torch.rand(*size, generator=generator)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"prediction_type": "epsilon", "inference_timestep": 300},
        {"noise_gain": 8.0, "residual": "own", "residual_scale": 0.4, "gate": "normalized"},
        {"patch_size": 1, "num_mid_blocks": 0, "num_coupling": 1},
        {"patch_size": 4, "num_mid_blocks": 2, "coupling_expansion": 2, "attention_window": 5},
        {"patch_size": 4, "detail_channels": 3, "noise_gain": 8.0, "residual": "own", "residual_scale": 0.4},
        {"patch_size": 2, "detail_channels": 5},
    ],
)
def test_the_same_function(config: dict[str, Any], portable: bool) -> None:
    model = random_model(**config)
    folded = model.fuse_for_inference(portable)
    assert folded is not None
    for size in ((1, 1, 64, 96), (3, 1, 32, 160)):
        visible, infrared = random_pair(*size)
        expected = model(visible, infrared)
        assert expected.std() > 0.1
        torch.testing.assert_close(folded(visible, infrared), expected, rtol=0, atol=1e-5)


def test_bfloat16_rounds_less_than_the_network_itself() -> None:
    pipeline = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
    model = pipeline.model
    pair = sample_pairs()[0]
    visible, infrared, _ = pipeline.image_processor.preprocess(pair.visible, pair.infrared)
    visible, infrared = (x[..., : x.shape[2] // 16 * 16, : x.shape[3] // 16 * 16] for x in (visible, infrared))
    rounded = copy.deepcopy(model).bfloat16()
    folded = rounded.fuse_for_inference()
    assert folded is not None
    with torch.no_grad():
        expected = model(visible, infrared)
        unfolded = rounded(visible.bfloat16(), infrared.bfloat16())
    error, unfolded_error = ((fused - expected).abs() * 255 for fused in (folded(visible, infrared), unfolded))
    # Rounding the weights alone costs 0.29 gray levels.
    assert error.mean() < 0.4 and error.max() < 2.5
    assert error.mean() < unfolded_error.mean() and error.max() < unfolded_error.max()


@pytest.mark.parametrize(
    "ablation",
    [
        {"use_d2fe": False},
        {"use_edfd": False},
        {"frequency": "haar"},
        {"frequency": "none"},
        {"cross_frequency": "add"},
        {"num_coupling": 0},
    ],
)
def test_ablations_run_as_they_are_trained(ablation: dict[str, Any]) -> None:
    assert DiffFuseNetModel(feature_channels=8, denoiser_channels=(8, 8, 8), **ablation).fuse_for_inference() is None


def test_pipelines_use_it_and_notice_new_weights(tmp_path: Path) -> None:
    model = random_model()
    pipeline = DiffFuseNetPipeline(model, model.build_scheduler())
    visible, infrared = (image[0, 0].numpy() for image in random_pair(1, 1, 48, 64))

    def fuse(**options: Any) -> np.ndarray:
        return np.asarray(pipeline(visible, infrared, output_type="np", **options).images)

    def unfolded() -> np.ndarray:
        return np.asarray(pipeline(visible, infrared, output_type="np", return_intermediates=True).images)

    calls = []
    handle = model.trunk[0].register_forward_hook(lambda *_: calls.append(1))
    first = fuse()
    assert not calls, "the pipeline ran the original"
    np.testing.assert_allclose(unfolded(), first, atol=1e-5)
    handle.remove()
    with torch.no_grad():
        cast(Any, model.fusion_head.bias).add_(0.3)
    changed = fuse()
    assert np.abs(changed - first).max() > 1e-3
    np.testing.assert_allclose(changed, unfolded(), atol=1e-5)
    pipeline.to(torch.bfloat16)
    np.testing.assert_allclose(fuse(), changed, atol=0.03)

    pipeline.save_pretrained(tmp_path)
    assert set(DiffFuseNetPipeline.from_pretrained(tmp_path).model.state_dict()) == set(model.state_dict())


def test_noise_and_more_steps_run_the_network_itself() -> None:
    model = random_model()
    pipeline = DiffFuseNetPipeline(model, model.build_scheduler())
    visible, infrared = (image[0, 0].numpy() for image in random_pair(1, 1, 48, 64))
    calls: list[int] = []
    model.trunk[0].register_forward_hook(lambda *_: calls.append(1))
    pipeline(visible, infrared, noise_strength=0.1)
    pipeline(visible, infrared, num_inference_steps=2)
    assert len(calls) == 2
