"""The noise of a picture: estimated from flat blocks, on drawn scenes and real ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub.models import plane_noise
from fusion_hub.models.noise import estimate_noise


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None] / 255


def estimate(image: np.ndarray) -> float:
    """In gray levels."""
    return 255 * float(estimate_noise(tensor(image))[0])


def scene(rng: np.random.Generator) -> np.ndarray:
    """A third of texture, a ramp and flat rectangles, 240 x 320, in gray levels."""
    image = np.tile(np.linspace(60, 180, 320), (240, 1))
    image[:80] += rng.normal(0, 25, (80, 320))
    for top, left, level in ((100, 20, 90), (120, 150, 200), (180, 240, 60)):
        image[top : top + 50, left : left + 70] = level
    return image


@pytest.mark.parametrize("sigma", [2, 5, 10, 25])
def test_white_noise_is_found_beside_texture(sigma: float) -> None:
    rng = np.random.default_rng(int(sigma))
    noisy = scene(rng) + rng.normal(0, sigma, (240, 320))
    assert estimate(noisy) == pytest.approx(sigma, rel=0.12)


@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_count_as_noise(axis: int) -> None:
    rng = np.random.default_rng(0)
    offsets = np.expand_dims(rng.normal(0, 6, 320 if axis == 0 else 240), axis)
    assert estimate(scene(rng) + offsets) == pytest.approx(6, rel=0.25)


def test_a_clean_picture_is_clean_and_rounding_is_no_noise() -> None:
    rng = np.random.default_rng(0)
    assert estimate(scene(rng)) < 0.5
    assert estimate(scene(rng).round()) < 0.5
    assert estimate(np.full((64, 64), 128)) == 0


def test_noise_that_is_clipped_at_black_is_found() -> None:
    rng = np.random.default_rng(0)
    scan = np.zeros((256, 256))
    scan[80:180, 80:180] = rng.normal(130, 40, (100, 100))
    assert estimate(scan.clip(0, 255)) == 0  # a large black background has no noise
    noisy = (scan + rng.normal(0, 10, scan.shape)).clip(0, 255).round()
    assert estimate(noisy) == pytest.approx(10, rel=0.15)


def test_a_black_border_does_not_hide_the_noise() -> None:
    rng = np.random.default_rng(0)
    noisy = scene(rng) + rng.normal(0, 8, (240, 320))
    noisy[:32] = 0
    assert estimate(noisy) == pytest.approx(8, rel=0.15)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    rng = np.random.default_rng(0)
    images = torch.cat([tensor(scene(rng) + rng.normal(0, sigma, (240, 320))) for sigma in (0, 4, 12)])
    together = estimate_noise(images)
    torch.testing.assert_close(together, torch.cat([estimate_noise(one[None]) for one in images]))
    assert together.dtype == torch.float32


def test_small_pictures_count_as_clean() -> None:
    assert estimate_noise(torch.rand(3, 1, 15, 40)).tolist() == [0, 0, 0]
    assert estimate_noise(torch.rand(1, 1, 16, 16)).item() > 0


@pytest.mark.parametrize("folder", ["roadscene/train", "tno/train", "msrs/val", "mri_ct/train"])
def test_added_noise_is_found_on_real_pictures(data_root: Path, folder: str) -> None:
    """Real sensors have noise of their own, so variances add up."""
    band = "mri" if "mri" in folder else "ir"
    files = sorted((data_root / "data" / folder / band).iterdir())[::40][:5]
    rng = np.random.default_rng(0)
    for file in files:
        image = np.asarray(Image.open(file).convert("L"), dtype=np.float32)
        noisy = (image + rng.normal(0, 10, image.shape)).clip(0, 255).round()
        assert estimate(noisy) == pytest.approx(np.hypot(10, estimate(image)), rel=0.15), file.name


def test_arrays_have_the_estimate_of_tensors(data_root: Path) -> None:
    rng = np.random.default_rng(0)
    files = sorted((data_root / "data" / "tno" / "train" / "ir").iterdir())[:4]
    pictures = [np.asarray(Image.open(file).convert("L"), dtype=np.float64) for file in files]
    pictures += [
        scene(rng) + rng.normal(0, 8, (240, 320)),
        scene(rng).clip(0, 90),
        np.zeros((40, 40)),
        np.ones((9, 99)),
    ]
    for picture in pictures:
        plane = (picture / 255).astype(np.float32)
        assert plane_noise.estimate_noise(plane) == pytest.approx(float(estimate_noise(tensor(picture))[0]), abs=1e-6)
