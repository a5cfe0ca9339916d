"""The inference form of RED computes the function of the network."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion_hub import REDPipeline
from fusion_hub.data import PairedDataset
from fusion_hub.models.red import RED_VARIANTS, REDModel
from tests.support.tiny import picture_pair, red_pipeline, tiny_pipeline

TINY = RED_VARIANTS["tiny"]
BUNDLED = ("red-small-msrs", "red-small-medical")


def random_model(**settings: Any) -> REDModel:
    """All weights random, so that no layer is at the zero from which training starts."""
    model = REDModel(**(TINY | settings)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return model


def random_pair(*size: int) -> torch.Tensor:
    return torch.rand(2, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layers_per_block": 2, "num_steps": 3, "source_injection": False},
        {"reversible_blocks": False, "attention_window": (5, 3)},
        {"time_embedding": False, "patch_size": 1, "learnable_lambda": False, "num_attention_heads": (2, 4)},
    ],
)
def test_the_same_function(settings: dict[str, Any]) -> None:
    model = random_model(**settings)
    folded = model.fuse_for_inference()
    assert folded is not None
    for size in ((1, 1, 64, 96), (3, 1, 28, 52), (1, 1, 4, 8)):
        visible, infrared = random_pair(*size)
        for steps in range(1, model.config.num_steps + 1):
            with torch.no_grad():
                expected = model(visible, infrared, num_inference_steps=steps)
            fused = folded(visible, infrared, steps)
            torch.testing.assert_close(fused, expected, rtol=0, atol=1e-5)
            assert fused.shape == expected.shape and expected.std() > 0.1


def test_a_batch_is_its_images() -> None:
    folded = random_model().fuse_for_inference()
    assert folded is not None
    visible, infrared = random_pair(3, 1, 36, 44)
    batch = folded(visible, infrared)
    for i in range(3):
        alone = folded(visible[i : i + 1], infrared[i : i + 1])
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_checkpoints_on_real_pairs(name: str, data_root: Path) -> None:
    """In bfloat16 it is as far from float32 as the network itself: 0.9 to 2.6 levels at most, 0.2 on average."""
    folder = data_root / "data" / ("roadscene" if name == "red-small-msrs" else "mri_pet")
    pair = PairedDataset.open(folder, split="train")[0]
    pipeline = REDPipeline.from_pretrained(name)
    visible, infrared, _ = pipeline.image_processor.preprocess(pair.visible, pair.infrared)
    visible, infrared = (image[..., 20:220, 20:244] for image in (visible, infrared))
    model = pipeline.model
    rounded = copy.deepcopy(model).bfloat16()
    folded, folded_rounded = model.fuse_for_inference(), rounded.fuse_for_inference()
    assert folded is not None and folded_rounded is not None
    with torch.no_grad():
        expected, eager = model(visible, infrared), rounded(visible, infrared)
    torch.testing.assert_close(folded(visible, infrared), expected, rtol=0, atol=1e-5)
    fused = folded_rounded(visible, infrared)
    error, eager_error = ((image - expected).abs() * 255 for image in (fused, eager))
    assert error.max() < 1.3 * eager_error.max() and error.mean() < 1.3 * eager_error.mean()
    assert (fused - eager).abs().max() * 255 < 2


@pytest.mark.parametrize(
    "settings",
    [
        {"reversible_fusion": False},
        {"resample": "convolution"},
        {"norm": "group", "norm_num_groups": 4},
        {"attention_window": (0, 4)},
    ],
)
def test_other_networks_run_as_they_are_trained(settings: dict[str, Any]) -> None:
    assert random_model(**settings).fuse_for_inference() is None


def test_the_pipeline_uses_it_and_notices_new_weights(tmp_path: Path) -> None:
    pipeline = red_pipeline()
    model = pipeline.model
    images = picture_pair(45, 61)

    def fuse(**options: Any) -> np.ndarray:
        return np.asarray(pipeline(*images, output_type="np", **options).images)

    def unfolded() -> np.ndarray:
        return np.asarray(pipeline(*images, output_type="np", return_intermediates=True).images)

    calls: list[int] = []
    handle = model.unet.conv_in.register_forward_hook(lambda *_: calls.append(1))
    first, one_step = fuse(), fuse(num_inference_steps=1)
    assert not calls, "the pipeline ran the original"
    np.testing.assert_allclose(first, unfolded(), atol=1e-5)
    assert calls and np.abs(first - one_step).max() > 1e-4
    fuse(num_inference_steps="auto")  # the network itself
    handle.remove()
    with torch.no_grad():
        model.unet.conv_out.bias.add_(0.3)
    changed = fuse()
    assert np.abs(changed - first).max() > 1e-3
    np.testing.assert_allclose(changed, unfolded(), atol=1e-5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pipeline.save_pretrained(tmp_path)
    saved = REDPipeline.from_pretrained(tmp_path).model.state_dict()
    assert saved.keys() == before.keys() and all(torch.equal(saved[name], before[name]) for name in saved)
    pipeline.to(torch.bfloat16)
    np.testing.assert_allclose(fuse(), changed, atol=0.03)


@pytest.mark.parametrize("make", [red_pipeline, tiny_pipeline])
def test_a_pipeline_that_was_called_can_be_copied(make: Any) -> None:
    pipeline, images = make(), picture_pair(45, 61)
    first = np.asarray(pipeline(*images, output_type="np").images)
    for again in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        np.testing.assert_array_equal(np.asarray(again(*images, output_type="np").images), first)


@pytest.mark.parametrize("make", [red_pipeline, tiny_pipeline])
def test_autocast_runs_the_network_as_it_was_trained(make: Any) -> None:
    pipeline, images = make(), picture_pair(45, 61)
    first = np.asarray(pipeline(*images, output_type="np").images)
    with torch.autocast("cpu", torch.bfloat16):
        other = np.asarray(pipeline(*images, output_type="np").images)
    assert 0 < np.abs(other - first).mean() < 0.02  # random weights


def test_a_cast_does_not_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        tiny_pipeline().to(torch.bfloat16)
    assert "kept in float32" not in caplog.text
