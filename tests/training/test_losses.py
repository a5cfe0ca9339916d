"""Losses against independent implementations."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from fusion_hub.data import PairedDataset
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.metrics import METRICS
from fusion_hub.metrics.fidelity import vif
from fusion_hub.training import losses

ImageLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

# Every loss as a function of fused, visible and infrared; features are made from the images.
LOSSES: dict[str, ImageLoss] = {
    "intensity": losses.intensity_loss,
    "mean intensity": losses.mean_intensity_loss,
    "gradient": losses.signed_gradient_loss,
    "unsigned gradient": losses.unsigned_gradient_loss,
    "edges": losses.edge_preservation_loss,
    "edges above the noise": lambda f, v, i: losses.edge_preservation_loss(f, v, i, noise_floor=0.3),
    "mean ssim": losses.ssim_loss,
    "ssim": lambda f, v, i: losses.ssim_losses(f, v, i)[0],
    "structure": lambda f, v, i: losses.ssim_losses(f, v, i)[1],
    "reconstruction": lambda f, v, i: losses.ssim_loss(f, v),
    "fidelity": losses.fidelity_loss,
    "difference correlation": losses.difference_correlation_loss,
    "range": lambda f, v, i: losses.range_loss(2 * f - 0.5),
    "decoupling": lambda f, v, i: losses.decoupling_loss((f - v, f - i), (v, i)),
    "noise": lambda f, v, i: losses.noise_prediction_loss(f, v),
    "consistency": lambda f, v, i: losses.consistency_loss(f, v),
    "feature collapse": lambda f, v, i: losses.feature_collapse_loss(f, v, (i**2).mean((1, 2, 3)), 10),
}


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def real_pair(data_root: Path) -> tuple[Tensor, Tensor]:
    pair = PairedDataset.open(data_root / "data" / "tno", "test")[3]
    visible, infrared, _ = FusionImageProcessor().preprocess(pair.visible, pair.infrared)
    return visible[..., :240, :320], infrared[..., :240, :320]


def pictures(batch: int = 2, size: int = 64) -> list[Tensor]:
    """Fused, visible, infrared: smooth random pictures of some contrast."""
    noise = torch.rand(3, batch, 1, size + 8, size + 8)
    return [losses.gaussian_blur(x, 9, 1.0) * 2 - 0.5 for x in noise]


def ssim_map(first: Tensor, second: Tensor) -> np.ndarray:
    images = (image[0, 0].double().numpy() for image in (first, second))
    options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(*images, full=True, **options)[1][5:-5, 5:-5]


def gaussian(image: np.ndarray, size: int, sigma: float) -> np.ndarray:
    radius = size // 2
    return scipy.ndimage.gaussian_filter(image, sigma, truncate=radius / sigma)[radius:-radius, radius:-radius]


# --- building blocks -------------------------------------------------------------------------------------------------


def test_sobel_is_scipys() -> None:
    image = torch.rand(1, 1, 9, 12)
    for axis, response in zip((1, 0), losses.sobel(image, "replicate"), strict=True):
        expected = scipy.ndimage.sobel(image[0, 0].numpy(), axis, mode="nearest")
        np.testing.assert_allclose(response[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize(("size", "sigma"), [(11, 1.5), (17, 17 / 5), (3, 3 / 5)])
def test_gaussian_blur_is_scipys_on_the_valid_part(size: int, sigma: float) -> None:
    image = torch.rand(2, 1, 24, 31)
    with torch.autocast("cpu", torch.bfloat16):  # it stays float32
        result = losses.gaussian_blur(image, size, sigma)
    for one, blurred in zip(image, result, strict=True):
        np.testing.assert_allclose(blurred[0], gaussian(one[0].double().numpy(), size, sigma), atol=1e-6)


def test_correlation_is_numpys() -> None:
    first, second = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    values = losses.correlation(first, second)
    for k, c in np.ndindex(2, 3):
        expected = np.corrcoef(first[k, c].flatten(), second[k, c].flatten())[0, 1]
        assert values[k, c].item() == pytest.approx(expected, abs=1e-6)


# --- losses of images ------------------------------------------------------------------------------------------------


def test_intensity_is_the_distance_to_the_brighter_source() -> None:
    fused, visible, infrared = pictures()
    expected = np.abs(fused.numpy() - np.maximum(visible.numpy(), infrared.numpy())).mean()
    assert losses.intensity_loss(fused, visible, infrared).item() == pytest.approx(expected, rel=1e-5)
    assert losses.intensity_loss(torch.maximum(visible, infrared), visible, infrared) == 0


def test_mean_intensity_is_the_same_anywhere_between_the_sources() -> None:
    fused, visible, infrared = pictures()
    distances = [np.abs((fused - source).numpy()).mean() for source in (visible, infrared)]
    assert losses.mean_intensity_loss(fused, visible, infrared).item() == pytest.approx(np.mean(distances), rel=1e-5)
    apart = (visible - infrared).abs().mean().item() / 2
    for share in (0.0, 0.3, 1.0):
        between = torch.lerp(visible, infrared, share)
        assert losses.mean_intensity_loss(between, visible, infrared).item() == pytest.approx(apart, rel=1e-5)


def test_gradient_of_a_source_that_dominates_everywhere_costs_nothing() -> None:
    _, visible, _ = pictures()
    flat = torch.full_like(visible, 0.3)
    assert losses.signed_gradient_loss(visible, visible, flat) == 0
    assert losses.signed_gradient_loss(visible + 0.1, flat, visible) < 1e-6


def test_reversed_edges_cost_twice_their_strength() -> None:
    _, visible, _ = pictures()
    flat = torch.full_like(visible, 0.3)
    horizontal, vertical = losses.sobel(visible, "replicate")
    strength = (horizontal.abs().mean() + vertical.abs().mean()).item()
    assert losses.signed_gradient_loss(1 - visible, visible, flat).item() == pytest.approx(2 * strength, rel=1e-4)
    assert losses.signed_gradient_loss(flat, visible, flat).item() == pytest.approx(strength, rel=1e-4)
    crisper = losses.signed_gradient_loss(1.5 * visible, visible, flat, gain=1.5)
    assert crisper < 1e-6


def test_gradient_takes_both_directions_from_the_stronger_source() -> None:
    images = pictures(batch=1, size=16)
    fused, visible, infrared = (torch.cat(losses.sobel(x, "replicate")) for x in images)
    target = torch.where(visible.abs().sum(0) >= infrared.abs().sum(0), visible, infrared)
    expected = (fused - target).abs().sum(0).mean().item()
    assert losses.signed_gradient_loss(*images).item() == pytest.approx(expected, rel=1e-4)


def test_unsigned_gradient_asks_for_the_larger_magnitude_whatever_its_sign() -> None:
    fused, visible, infrared = pictures(batch=1)
    magnitudes = []
    for image in (fused, visible, infrared):
        picture = image[0, 0].double().numpy()
        magnitudes.append(sum(np.abs(scipy.ndimage.sobel(picture, axis, mode="nearest")) for axis in (0, 1)))
    for gain in (1.0, 1.3):
        expected = np.abs(magnitudes[0] - gain * np.maximum(magnitudes[1], magnitudes[2])).mean()
        value = losses.unsigned_gradient_loss(fused, visible, infrared, gain).item()
        assert value == pytest.approx(expected, rel=1e-4)
    flat = torch.full_like(visible, 0.3)
    assert losses.unsigned_gradient_loss(1 - visible, visible, flat) < 1e-6


def test_edge_preservation_is_qabf_with_directions_modulo_pi(real_pair: tuple[Tensor, Tensor]) -> None:
    def edges(image: Tensor) -> tuple[np.ndarray, np.ndarray]:
        y, x = (scipy.ndimage.sobel(image[0, 0].double().numpy(), axis, mode="nearest") for axis in (0, 1))
        return np.hypot(x, y), np.arctan2(y, x)

    visible, infrared = real_pair
    for fused in ((visible + infrared) / 2, torch.maximum(visible, infrared), 1 - visible):
        strength_f, angle_f = edges(fused)
        kept, total = 0.0, 0.0
        for source in (visible, infrared):
            strength, angle = edges(source)
            ratio = np.minimum(strength, strength_f) / np.maximum(np.maximum(strength, strength_f), 1e-9)
            turn = np.abs(angle - angle_f) % np.pi
            direction = 1 - np.minimum(turn, np.pi - turn) / (np.pi / 2)
            quality = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (direction - 0.8)))
            kept, total = kept + (quality * strength).sum(), total + strength.sum()
        value = losses.edge_preservation_loss(fused, visible, infrared).item()
        assert value == pytest.approx(1 - kept / total, abs=3e-3)
        qabf = METRICS["Qabf"](*((255 * image).round() for image in (fused, visible, infrared))).item()
        assert value == pytest.approx(1 - qabf, abs=0.1)  # the metric compares angles without the modulo


def test_edges_of_noise_hardly_count() -> None:
    _, visible, _ = pictures()
    noise = 0.5 + 0.1 * torch.randn_like(visible)
    counted, discounted = (losses.edge_preservation_loss(visible, visible, noise, floor) for floor in (0.0, 1.0))
    assert discounted < counted / 2


def test_ssim_losses_weight_the_maps_by_local_variance() -> None:
    fused, visible, infrared = pictures(batch=1)
    variances = []
    for image in (visible, infrared):
        picture = image[0, 0].double().numpy()
        variances.append(gaussian(picture**2, 11, 1.5) - gaussian(picture, 11, 1.5) ** 2)
    share = (variances[0] + 1e-6) / (variances[0] + variances[1] + 2e-6)
    expected = 1 - (share * ssim_map(fused, visible) + (1 - share) * ssim_map(fused, infrared)).mean()
    assert losses.ssim_losses(fused, visible, infrared)[0].item() == pytest.approx(expected, abs=1e-4)
    expected = 1 - ssim_map(fused, visible).mean()
    assert losses.ssim_loss(fused, visible).item() == pytest.approx(expected, abs=1e-4)


def test_mean_ssim_is_skimages_with_both_sources() -> None:
    fused, visible, infrared = pictures(batch=1)
    expected = 1 - (ssim_map(fused, visible).mean() + ssim_map(fused, infrared).mean()) / 2
    assert losses.ssim_loss(fused, visible, infrared).item() == pytest.approx(expected, abs=1e-4)
    assert losses.ssim_loss(visible, visible, visible) < 1e-6


def test_structure_loss_counts_noise_in_flat_regions_and_ssim_hardly_does() -> None:
    flat = torch.full((1, 1, 32, 32), 0.5)
    noisy = flat + 0.005 * torch.randn_like(flat)
    weighted, structure = losses.ssim_losses(noisy, flat, flat)
    assert weighted < 0.05 and structure > 0.5
    assert max(losses.ssim_losses(flat, flat, flat)) < 1e-6


def test_fidelity_is_the_metric_vif(real_pair: tuple[Tensor, Tensor]) -> None:
    visible, infrared = real_pair
    for fused in (0.6 * visible + 0.4 * infrared, torch.maximum(visible, infrared), visible):
        kept = [vif(255 * fused, 255 * source).item() for source in (visible, infrared)]
        expected = 1 - (kept[0] * kept[1] + 1e-6) ** 0.5
        assert losses.fidelity_loss(fused, visible, infrared).item() == pytest.approx(expected, rel=1e-3)


def test_fidelity_refuses_small_images() -> None:
    assert losses.fidelity_loss(*pictures(size=41)).isfinite()
    with pytest.raises(ValueError, match=r"at least 41 pixels, got \(40, 40\)"):
        losses.fidelity_loss(*pictures(size=40))


def test_difference_correlation_is_the_metric_scd(real_pair: tuple[Tensor, Tensor]) -> None:
    visible, infrared = real_pair
    for fused in (0.6 * visible + 0.4 * infrared, torch.maximum(visible, infrared)):
        scd = METRICS["SCD"](255 * fused, 255 * visible, 255 * infrared).item()
        value = losses.difference_correlation_loss(fused, visible, infrared).item()
        assert value == pytest.approx(1 - scd / 2, rel=1e-4)


def test_range_loss_is_what_leaves_the_range() -> None:
    values = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.25]).view(1, 1, 1, 5)
    assert losses.range_loss(values).item() == pytest.approx(0.75 / 5)


# --- losses of features ----------------------------------------------------------------------------------------------


def test_decoupling_in_known_cases() -> None:
    waves = torch.stack([torch.sin(k * torch.arange(64) * torch.pi / 32) for k in (1, 2)]).view(2, 1, 1, 8, 8)
    one, other = waves[0].repeat(1, 3, 1, 1), waves[1].repeat(1, 3, 1, 1)
    assert losses.decoupling_loss((one, other), (one, one)).item() == pytest.approx(0, abs=1e-6)
    assert losses.decoupling_loss((one, one), (one, one)).item() == pytest.approx(1 / 2.01, rel=1e-4)
    assert losses.decoupling_loss((one, -one), (one, other)).item() == pytest.approx(1 / 1.01, rel=1e-4)
    assert losses.decoupling_loss((one, one), (one, -one)).item() == pytest.approx(1 / 0.01, rel=1e-3)


def test_noise_loss_sums_both_modalities() -> None:
    predicted, noise = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    visible, infrared = ((predicted - noise) ** 2).chunk(2)
    expected = (visible.mean() + infrared.mean()).item()
    assert losses.noise_prediction_loss(predicted, noise).item() == pytest.approx(expected, rel=1e-5)


def test_consistency_ties_only_the_coarse_layout() -> None:
    visible, infrared = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    blocks = [x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean((3, 5)) for x in (visible, infrared)]
    expected = (blocks[0] - blocks[1]).abs().mean().item()
    assert losses.consistency_loss(visible, infrared).item() == pytest.approx(expected, rel=1e-5)
    mirrored = visible.unflatten(3, (2, 4)).flip(4).flatten(3, 4)
    assert losses.consistency_loss(visible, mirrored) < 1e-6


def test_only_features_that_vary_and_show_the_noise_have_not_collapsed() -> None:
    clean = torch.randn(2, 4, 32, 32)
    error, gain = torch.tensor([0.04**2, 0.0]), 10.0  # the second image is clean
    noise = gain * error.sqrt().view(-1, 1, 1, 1) * torch.randn_like(clean)
    assert losses.feature_collapse_loss(clean + noise, clean, error, gain) == 0
    assert losses.feature_collapse_loss(torch.ones_like(clean), torch.ones_like(clean), error, gain) > 2
    deaf = losses.feature_collapse_loss(clean + 0.1 * noise, clean, error, gain)  # 1 % of the energy; 50 % is enough
    assert deaf.item() == pytest.approx(math.log(50) / 2, abs=0.1)
    flat = 0.2 * clean  # half of the least deviation
    assert losses.feature_collapse_loss(flat, flat, torch.zeros(2), gain).item() == pytest.approx(0.5, abs=0.05)


# --- of all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_a_batch_is_the_mean_of_single_losses(name: str) -> None:
    images = pictures(batch=4)
    singles = torch.stack([LOSSES[name](*(x[k : k + 1] for x in images)) for k in range(4)])
    assert singles.std() > 0
    torch.testing.assert_close(LOSSES[name](*images), singles.mean())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("values", [(0.0, 0.0, 0.0), (0.5, 0.2, 0.9)])
def test_constant_images_give_finite_losses_and_gradients(name: str, values: tuple[float, float, float]) -> None:
    images = [torch.full((2, 1, 48, 48), value) for value in values]
    fused = images[0].requires_grad_()
    loss = LOSSES[name](*images)
    loss.backward()
    assert loss.shape == () and loss.isfinite()
    assert fused.grad is not None and fused.grad.isfinite().all()


@pytest.mark.parametrize("name", ["fidelity", "ssim", "structure", "difference correlation", "decoupling"])
def test_a_flat_region_beside_texture_gives_finite_gradients(name: str) -> None:
    images = pictures()
    for image in images:
        image[..., :40] = 0.5
    fused = images[0].requires_grad_()
    LOSSES[name](*images).backward()
    assert fused.grad is not None and fused.grad.isfinite().all() and fused.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    images = pictures(batch=1)
    fused = images[0].requires_grad_()
    LOSSES[name](*images).backward()
    assert fused.grad is not None
    direction = fused.grad / fused.grad.norm()
    step = 1e-2
    with torch.no_grad():
        after, before = (LOSSES[name](fused + sign * step * direction, *images[1:]) for sign in (1, -1))
    assert (after - before).item() / (2 * step) == pytest.approx(fused.grad.norm().item(), rel=0.1)
