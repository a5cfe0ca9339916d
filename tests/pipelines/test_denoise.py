"""`denoise`: the noise of each whole image decides, in batches and tiles, with and without folding."""

from typing import Any

import numpy as np
import pytest
import torch

from fusion_hub.pipelines import DiffFuseNetPipeline
from tests.support.tiny import red_pipeline, tiny_pipeline

ADAPTIVE: dict[str, Any] = {"noise_gain": 8.0, "residual": "own", "residual_scale": 0.4, "gate": "normalized"}


def scene(noise: float, seed: int = 0, side: int = 128) -> np.ndarray:
    """Flat fields and a ramp with noise of this standard deviation, of 255."""
    rng = np.random.default_rng(seed)
    image = np.tile(np.linspace(60, 190, side), (side, 1))
    image[:40, :50] = 90
    image[60:, 70:] = 150
    return (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.float32) / 255


def fuse(pipe: DiffFuseNetPipeline, *images: Any, **options: Any) -> torch.Tensor:
    return torch.as_tensor(pipe(*images, infrared_range="dtype", output_type="pt", **options).images)


def test_clean_images_are_left_alone_and_noisy_ones_are_not() -> None:
    pipe = tiny_pipeline(**ADAPTIVE)
    clean, noisy = (scene(0), scene(0, 1)), (scene(0), scene(12, 1))
    torch.testing.assert_close(fuse(pipe, *clean), fuse(pipe, *clean, denoise=0), atol=2e-3, rtol=0)
    assert (fuse(pipe, *noisy) - fuse(pipe, *noisy, denoise=0)).abs().max() > 0.01
    assert (fuse(pipe, *clean, denoise=0.5) - fuse(pipe, *clean)).abs().max() > 0.01


def test_auto_is_what_the_noise_says() -> None:
    pipe = tiny_pipeline(**ADAPTIVE)
    image = scene(10)
    given = fuse(pipe, image, image, denoise=10 / 25.5)
    automatic = fuse(pipe, image, image)
    assert (given - automatic).abs().max() < 0.25 * (fuse(pipe, image, image, denoise=0) - automatic).abs().max()


def test_pairs_of_a_batch_keep_their_own_noise() -> None:
    pipe = tiny_pipeline(**ADAPTIVE)
    visible, infrared = [scene(0), scene(15, 1)], [scene(8, 2), scene(0, 3)]
    together = fuse(pipe, visible, infrared, batch_size=2)
    for one, *pair in zip(together, visible, infrared, strict=True):
        torch.testing.assert_close(one, fuse(pipe, *pair)[0], atol=1e-5, rtol=0)


def test_tiles_use_the_noise_of_the_whole_image() -> None:
    pipe = tiny_pipeline(**ADAPTIVE)
    visible, infrared = scene(0, side=640), scene(0, 1, side=640)
    infrared[:320] += np.random.default_rng(2).normal(0, 0.05, (320, 640)).astype(np.float32)  # the upper half alone
    whole = fuse(pipe, visible, infrared, tile=0)
    torch.testing.assert_close(fuse(pipe, visible, infrared, tile=384), whole, atol=4e-3, rtol=0)


def test_the_folded_network_takes_part() -> None:
    pipe = tiny_pipeline(**ADAPTIVE)
    assert pipe._folded is not None
    folded = fuse(pipe, scene(5), scene(10, 1))
    pipe.model.register_forward_hook(lambda *arguments: None)  # a hooked model is not folded
    assert pipe._folded is None
    torch.testing.assert_close(folded, fuse(pipe, scene(5), scene(10, 1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", ["much", -0.1, 1.5, True, None])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"denoise=.* must be 'auto', or a number from 0"):
        fuse(tiny_pipeline(**ADAPTIVE), scene(0), scene(0), denoise=value)


def test_a_model_that_removes_no_noise_says_so() -> None:
    for pipe in (tiny_pipeline(), tiny_pipeline(use_d2fe=False, **ADAPTIVE), red_pipeline()):
        with pytest.raises(ValueError, match=r"denoise=0\.5 was given, but this model was not trained to remove noise"):
            pipe(scene(0), scene(0), infrared_range="dtype", denoise=0.5)
        pipe(scene(0), scene(0), infrared_range="dtype", denoise=0)
