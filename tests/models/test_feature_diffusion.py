"""D2FE: noise, estimates, denoiser and injection."""

import pytest
import torch
from torch import Tensor, nn

from fusion_hub.models.feature_diffusion import (
    ConditionalDenoiser,
    FeatureInjection,
    ShallowEncoder,
    add_noise,
    clean_estimate,
    noise_estimate,
)
from tests.support.tiny import tiny_pipeline

TIMESTEPS = (0, 40, 999)
PREDICTION_TYPES = ("v_prediction", "epsilon")


def true_prediction(clean: Tensor, noise: Tensor, alpha_bar: float, prediction_type: str) -> Tensor:
    """What a perfect denoiser says: the noise, or v = sqrt(abar) eps - sqrt(1 - abar) F_0 (Salimans and Ho, 2022)."""
    if prediction_type == "epsilon":
        return noise
    return alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * clean


class PerfectDenoiser(nn.Module):
    """Knows the clean features and the noise."""

    def __init__(self, clean: Tensor, noise: Tensor, schedule: list[float], prediction_type: str) -> None:
        super().__init__()
        self.clean, self.noise, self.schedule, self.prediction_type = clean, noise, schedule, prediction_type
        self.asked: list[int] = []

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.shape == (len(noisy),)
        self.asked.append(int(timestep[0]))
        return true_prediction(self.clean, self.noise, self.schedule[self.asked[-1]], self.prediction_type)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("step", TIMESTEPS)
def test_the_true_prediction_gives_back_the_clean_features_and_the_noise(step: int, prediction_type: str) -> None:
    alpha_bar = tiny_pipeline().model.alphas_cumprod[step]
    clean, noise = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    prediction = true_prediction(clean, noise, alpha_bar, prediction_type)
    for level in (alpha_bar, torch.full((2, 1, 1, 1), alpha_bar, dtype=torch.float64)):
        noisy = add_noise(clean, noise, level)
        torch.testing.assert_close(noisy, alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise)
        torch.testing.assert_close(clean_estimate(noisy, prediction, level, prediction_type), clean)
        torch.testing.assert_close(noise_estimate(noisy, prediction, level, prediction_type), noise)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_estimates_are_those_of_diffusers(prediction_type: str) -> None:
    model = tiny_pipeline(prediction_type=prediction_type).model
    scheduler = model.build_scheduler()
    scheduler.set_timesteps(1000)
    noisy, prediction = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    for step in (20, 500):
        expected = scheduler.step(prediction, step, noisy).pred_original_sample
        estimate = clean_estimate(noisy, prediction, model.alphas_cumprod[step], prediction_type)
        torch.testing.assert_close(estimate, expected)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("timesteps", [(0,), (999,), (999, 500, 250, 3), None])
def test_the_model_denoises_to_the_clean_features(timesteps: tuple[int, ...] | None, prediction_type: str) -> None:
    model = tiny_pipeline(prediction_type=prediction_type).model
    clean, noise = torch.randn(2, 8, 8, 8, dtype=torch.float64), torch.randn(2, 8, 8, 8, dtype=torch.float64)
    perfect = PerfectDenoiser(clean, noise, model.alphas_cumprod, prediction_type)
    model.denoiser = perfect
    image = torch.zeros(1, 1, 16, 16)
    torch.testing.assert_close(model.denoise(clean, model.steps_of(image, image, timesteps), noise), clean)
    assert perfect.asked == list(timesteps or [model.config.inference_timestep])


def test_denoising_follows_the_schedule_it_is_given() -> None:
    model = tiny_pipeline().model
    clean, noise = torch.randn(2, 8, 8, 8, dtype=torch.float64), torch.randn(2, 8, 8, 8, dtype=torch.float64)
    other = torch.linspace(0.9, 0.1, 1000, dtype=torch.float64)
    model.denoiser = PerfectDenoiser(clean, noise, other.tolist(), "v_prediction")
    image = torch.zeros(1, 1, 16, 16)
    torch.testing.assert_close(model.denoise(clean, model.steps_of(image, image, [600], other), noise), clean)
    assert not torch.allclose(model.denoise(clean, model.steps_of(image, image, [600]), noise), clean, atol=0.01)


def test_encoder_features_have_unit_variance_at_every_pixel() -> None:
    features = ShallowEncoder(4, 16)(torch.rand(2, 4, 6, 6))
    assert features.shape == (2, 16, 6, 6)
    assert features.mean(dim=1).abs().max() < 1e-5
    assert (features.var(dim=1, unbiased=False) - 1).abs().max() < 0.05


@pytest.mark.parametrize("blocks", [0, 2])
def test_denoiser_starts_at_zero_and_keeps_the_shape(blocks: int) -> None:
    denoiser = ConditionalDenoiser(4, (6, 8, 10), blocks)
    noisy = torch.randn(2, 4, 16, 24)
    out = denoiser(noisy, torch.tensor([3, 900]))
    assert out.shape == noisy.shape and not out.any()


def test_denoiser_depends_on_its_own_timestep_only() -> None:
    denoiser = tiny_pipeline().model.denoiser
    noisy = torch.randn(1, 8, 16, 16).repeat(2, 1, 1, 1)
    with torch.no_grad():
        together = denoiser(noisy, torch.tensor([3, 900]))
        alone = denoiser(noisy[:1], torch.tensor([900]))
    torch.testing.assert_close(together[1:], alone)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_injection_starts_at_zero_and_is_bounded() -> None:
    injection = FeatureInjection(4, 2, residual_scale=0.1)
    visible, infrared = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    assert not injection(visible, infrared).any()
    with torch.no_grad():
        injection.project.weight.normal_(std=100)
    residual = injection(visible, infrared)
    assert residual.shape == (2, 2, 6, 6)
    assert 0.05 < residual.abs().max() <= 0.1
