"""The network as a whole: what it computes, on what it depends, and where it starts."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fusion_hub.models import DIFFFUSENET_VARIANTS, DiffFuseNetModel, DiffFuseNetOutput
from fusion_hub.models.frequency import CrossFrequencyAttention
from tests.support.tiny import ABLATIONS, TINY, tiny_pipeline


def random_model(**settings: Any) -> DiffFuseNetModel:
    """Small, in eval mode, without weights that are zero."""
    return tiny_pipeline(**settings).model


def random_pair(*size: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 1, *size), torch.rand(batch, 1, *size)


def test_variants_are_light_and_grow() -> None:
    assert list(DIFFFUSENET_VARIANTS) == ["tiny", "small", "base", "large"]
    with torch.device("meta"):
        counts = [DiffFuseNetModel(**fields).num_parameters() for fields in DIFFFUSENET_VARIANTS.values()]
    assert counts == sorted(counts) and counts[-1] <= 4.02e6
    with torch.no_grad():
        assert DiffFuseNetModel(**DIFFFUSENET_VARIANTS["large"])(*random_pair(32, 16)).shape == (1, 1, 32, 16)


def test_fusion_starts_at_the_mean_image_and_ablations_differ() -> None:
    visible, infrared = random_pair(32, 48, batch=2)
    with torch.no_grad():
        for settings in ABLATIONS.values():
            fused = DiffFuseNetModel(**(TINY | settings))(visible, infrared)
            torch.testing.assert_close(fused, (visible + infrared) / 2)
        outputs = {name: random_model(**settings)(visible, infrared) for name, settings in ABLATIONS.items()}
    for first, second in itertools.combinations(outputs, 2):
        assert outputs[first].isfinite().all()
        assert (outputs[first] - outputs[second]).abs().max() > 1e-3, (first, second)


def test_ablations_leave_their_parts_out() -> None:
    def parts(**settings: Any) -> set[str]:
        return {name.split(".")[0] for name in DiffFuseNetModel(**(TINY | settings)).state_dict()}

    full = parts()
    assert full - parts(use_d2fe=False) == {"denoiser", "injection"}
    assert full - parts(use_edfd=False) == {"decoupling"}
    assert full - parts(frequency="haar") == {"coupling"}
    assert full - parts(frequency="none") == {"coupling", "band_attention", "fuse_high"}


def test_the_schedule_is_the_schedulers() -> None:
    model = DiffFuseNetModel(**TINY)
    scheduler = model.build_scheduler()
    assert model.alphas_cumprod == scheduler.alphas_cumprod.tolist()
    assert scheduler.config["prediction_type"] == model.config.prediction_type
    with torch.no_grad():
        pair = random_pair(32, 32)
        model = random_model()
        torch.testing.assert_close(model(*pair), model(*pair, alphas_cumprod=scheduler.alphas_cumprod))


def test_output_is_deterministic_and_a_batch_equals_single_pairs() -> None:
    model = random_model()
    visible, infrared = random_pair(48, 32, batch=3)
    with torch.no_grad():
        fused = model(visible, infrared)
        assert torch.equal(fused, model(visible, infrared))
        for k in range(3):
            single = model(visible[k : k + 1], infrared[k : k + 1])
            torch.testing.assert_close(fused[k : k + 1], single, rtol=0, atol=1e-6)


def test_memory_formats_agree() -> None:
    model = random_model()
    visible, infrared = random_pair(48, 32, batch=2)
    with torch.no_grad():
        expected = model(visible, infrared)
        last = model.to(memory_format=torch.channels_last)(
            visible.contiguous(memory_format=torch.channels_last), infrared
        )
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", ABLATIONS.values(), ids=ABLATIONS)
def test_bf16_is_close_to_fp32(settings: dict[str, Any]) -> None:
    model = random_model(**settings)
    visible, infrared = (x.bfloat16() for x in random_pair(32, 48))
    with torch.no_grad():
        expected = model(visible.float(), infrared.float())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(visible.float(), infrared.float())
        half = model.to(torch.bfloat16)(visible, infrared)
    spread = float((expected - (visible.float() + infrared.float()) / 2).std())
    assert mixed.dtype == torch.float32 and half.dtype == torch.bfloat16
    assert (mixed - expected).abs().mean() < 0.05 * spread
    assert (half.float() - expected).abs().mean() < 0.05 * spread + 2e-3  # the output itself is rounded


SIMPLEST = {"use_d2fe": False, "use_edfd": False, "frequency": "haar", "cross_frequency": "add"}


@pytest.mark.parametrize("settings", [{}, SIMPLEST], ids=["full", "simplest"])
def test_compiles_without_graph_breaks(settings: dict[str, Any]) -> None:
    torch.compiler.reset()
    model = random_model(**settings)
    pair = random_pair(32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*pair), model(*pair))


def test_noise_and_timesteps_change_the_output() -> None:
    model = random_model()
    pair = random_pair(32, 32)
    noise = torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        variants = {
            "plain": model(*pair),
            "noise": model(*pair, noise=noise),
            "other noise": model(*pair, noise=-noise),
            "later": model(*pair, timesteps=[400]),
            "two steps": model(*pair, timesteps=[400, 200]),
            "two steps, noise": model(*pair, timesteps=[400, 200], noise=noise),
        }
        assert torch.equal(variants["plain"], model(*pair, timesteps=[20]))
        torch.testing.assert_close(model(*pair, timesteps=[], noise=noise), model(*pair, timesteps=[]))
    for first, second in itertools.combinations(variants.values(), 2):
        assert (first - second).abs().max() > 1e-4


def test_fused_image_is_a_mixture_and_a_residual() -> None:
    model = random_model()
    visible, infrared = random_pair(32, 32)
    with torch.no_grad():
        fused, share = model.fuse(model.analyze(visible, infrared), visible, infrared)
        assert torch.equal(fused, model(visible, infrared))
        assert share.shape == visible.shape and share.min() > 0 and share.max() < 1
        # The residual does not depend on the images that are mixed.
        residual = fused - (share * visible + (1 - share) * infrared)
        other, _ = model.fuse(model.analyze(visible, infrared), infrared, visible)
        torch.testing.assert_close(other - (share * infrared + (1 - share) * visible), residual)


@pytest.mark.parametrize("settings", [*ABLATIONS.values(), {"patch_size": 4}], ids=[*ABLATIONS, "patch 4"])
def test_intermediates(settings: dict[str, Any]) -> None:
    model = random_model(**settings)
    visible, infrared = random_pair(32, 64, batch=2)
    with torch.no_grad():
        fused, output = model(visible, infrared), model(visible, infrared, return_intermediates=True)
        features = model.analyze(visible, infrared)
    assert isinstance(output, DiffFuseNetOutput)
    assert torch.equal(output.fused, fused)
    mixture = output.share * visible + (1 - output.share) * infrared
    torch.testing.assert_close(mixture + output.correction, fused)
    assert torch.equal(torch.cat(output.shallow), features.shallow)
    assert torch.equal(torch.cat(output.enhanced), features.enhanced)
    height, width = 32 // output.patch_size, 64 // output.patch_size
    assert output.shared.shape == output.specific[1].shape == (2, 8, height, width)
    assert all(torch.equal(*pair) for pair in zip(output.specific, features.specific, strict=True))

    config = model.config
    assert (output.residual is None) == (output.noisy is None) == (not config.use_d2fe)
    if config.use_d2fe:
        assert output.residual.shape == visible.shape and output.residual.abs().max() <= config.residual_scale
        assert torch.equal(torch.cat(output.noisy), features.shallow), "no noise was given"
    else:
        assert torch.equal(output.enhanced[0], output.shallow[0])
    bands = config.frequency != "none"
    assert (output.low is not None) == (output.high is not None) == bands
    if bands:
        assert output.low[0].shape == (2, 8, height // 2, width // 2)
        assert output.high[1].shape == (2, 24, height // 2, width // 2)
    attention = bands and config.cross_frequency == "attention"
    assert (output.spatial_gate is not None) == (output.channel_gate is not None) == attention
    if attention:
        assert output.spatial_gate[0].shape == (2, 3, height // 2, width // 2)
        assert output.channel_gate[1].shape == output.low[1].shape
        for gate in (*output.spatial_gate, *output.channel_gate):
            assert gate.min() > 0 and gate.max() < 2 and gate.std() > 0


def test_gates_are_those_of_the_bands() -> None:
    model = random_model(frequency="haar")  # no coupling: the attention reads the Haar bands
    pair = random_pair(32, 48)
    with torch.no_grad():
        output, features = model(*pair, return_intermediates=True), model.analyze(*pair)
    gated = torch.cat(output.low) * torch.cat(output.channel_gate)
    assert torch.equal(gated, features.low)
    gates = torch.cat(output.spatial_gate).repeat_interleave(8, dim=1)
    assert torch.equal(torch.cat(output.high) * gates, features.high)


def test_noisy_features_are_those_of_the_schedule() -> None:
    model, noise = random_model(), torch.randn(2, 8, 16, 24)
    with torch.no_grad():
        output = model(*random_pair(32, 48), noise=noise, return_intermediates=True)
    level = model.alphas_cumprod[20]
    expected = level**0.5 * torch.cat(output.shallow) + (1 - level) ** 0.5 * noise
    torch.testing.assert_close(torch.cat(output.noisy), expected)


def test_reconstruction_is_of_each_image_alone() -> None:
    model = random_model(use_d2fe=False, use_edfd=False)
    visible, infrared = random_pair(32, 32)
    with torch.no_grad():
        rebuilt = model.reconstruct(model.analyze(visible, infrared))
        assert rebuilt.shape == (2, 1, 32, 32)
        swapped = model.reconstruct(model.analyze(infrared, visible))
    torch.testing.assert_close(rebuilt, swapped.flip(0))


REACHES: list[dict[str, Any]] = [
    {"num_mid_blocks": 1, "num_coupling": 2, "attention_window": 6},
    {"patch_size": 1},
    {"use_d2fe": False},
    {"frequency": "none"},
    {"use_d2fe": False, "frequency": "none", "patch_size": 4, "detail_channels": 4},
]


@pytest.mark.parametrize("settings", REACHES, ids=str)
def test_nothing_reaches_farther_than_the_margin(settings: dict[str, Any]) -> None:
    model = random_model(**settings)
    margin, grid = model.receptive_margin, model.tile_multiple
    width = -(-2 * (margin + grid) // model.multiple) * model.multiple
    visible, infrared = random_pair(model.multiple, width)
    with torch.no_grad():
        expected = model(visible, infrared)
        for cut in range(width // 2, width // 2 + grid, max(grid // 4, 1)):  # several places in the pooling grid
            sides = (slice(cut, None), slice(0, cut - margin)), (slice(0, cut), slice(cut + margin, None))
            for changed, kept in sides:
                other_visible, other_infrared = visible.clone(), infrared.clone()
                other_visible[..., changed] = torch.rand_like(visible[..., changed])
                other_infrared[..., changed] = 0
                difference = (model(other_visible, other_infrared) - expected).abs()
                assert difference[..., kept].max() < 1e-6
                assert difference[..., changed].max() > 0.1


@pytest.mark.parametrize("settings", REACHES, ids=str)
@pytest.mark.parametrize("vertical", [False, True])
def test_shifts_by_the_tile_multiple_commute_with_the_model(settings: dict[str, Any], vertical: bool) -> None:
    model = random_model(**settings)
    margin, grid = model.receptive_margin, model.tile_multiple
    length = -(-(2 * grid + 2 * margin) // model.multiple) * model.multiple
    size = (length, model.multiple) if vertical else (model.multiple, length)
    dim = 2 if vertical else 3
    visible, infrared = random_pair(*size)

    def shifted(x: Tensor, shift: int) -> Tensor:
        return x.narrow(dim, shift, length - shift)

    with torch.no_grad():
        tile = model(shifted(visible, grid), shifted(infrared, grid))
        inner = (shifted(model(visible, infrared), grid) - tile).abs().narrow(dim, margin, length - grid - margin)
    assert inner.max() < 1e-6


def test_the_tile_multiple_is_needed() -> None:
    model = random_model(attention_window=8)
    margin, grid, multiple = model.receptive_margin, model.tile_multiple, model.multiple
    assert grid % multiple == 0 and grid > multiple
    visible, infrared = random_pair(multiple, 2 * margin + 2 * grid)
    with torch.no_grad():
        whole, tile = model(visible, infrared), model(visible[..., multiple:], infrared[..., multiple:])
    assert (whole[..., multiple:] - tile)[..., margin:].abs().max() > 1e-6


def without_gradient(model: DiffFuseNetModel) -> set[str]:
    return {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }


@pytest.mark.parametrize("settings", ABLATIONS.values(), ids=ABLATIONS)
def test_each_stage_trains_all_but_the_other_stages_head(settings: dict[str, Any]) -> None:
    visible, infrared = random_pair(32, 32)
    model = random_model(**settings)
    model(visible, infrared).square().sum().backward()
    assert without_gradient(model) == {"reconstruction_head"}
    model.zero_grad()
    model.reconstruct(model.analyze(visible, infrared)).square().sum().backward()
    fusion = {"fuse_low", "fusion_head"} | ({"fuse_high"} if model.config.frequency != "none" else set())
    assert without_gradient(model) == fusion


def test_frozen_d2fe_gets_no_gradient() -> None:
    visible, infrared = random_pair(32, 32)
    model = random_model()
    features = model.analyze(visible, infrared, freeze_d2fe=True)
    torch.testing.assert_close(features.enhanced, model.analyze(visible, infrared).enhanced)
    model.fuse(features, visible, infrared)[0].square().sum().backward()
    assert without_gradient(model) == {"encoder", "denoiser", "reconstruction_head"}


ADAPTIVE: dict[str, Any] = {"noise_gain": 8.0, "residual": "own", "residual_scale": 0.4, "gate": "normalized"}


def test_each_image_has_the_timestep_of_its_own_noise() -> None:
    model = random_model(**ADAPTIVE)
    visible, infrared = torch.full((1, 1, 64, 64), 0.5), torch.full((1, 1, 64, 64), 0.5)
    infrared = infrared + 0.04 * torch.randn(infrared.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(visible, infrared, return_intermediates=True)
    assert output.noise_level[0] == 0
    assert output.noise_level[1] == pytest.approx(0.04, rel=0.15)
    step = model.steps_of(visible, infrared)[0]
    level = model.config.noise_gain * output.noise_level
    torch.testing.assert_close(step.alpha_bar.flatten(), 1 / (1 + level.square()))
    table = torch.tensor(model.alphas_cumprod)
    assert step.timestep[0] == 0
    assert table[step.timestep[1] - 1] >= step.alpha_bar[1] >= table[step.timestep[1]]  # the nearest step above


def test_an_image_without_noise_passes_d2fe_unchanged() -> None:
    model = random_model(**ADAPTIVE)
    visible, infrared = torch.rand(2, 1, 48, 64), torch.rand(2, 1, 48, 64)
    level = torch.tensor([0.0, 0.03, 0.0, 0.03])  # of the first pair none, of the second both
    with torch.no_grad():
        output = model(visible, infrared, noise_level=level, return_intermediates=True)
    residual = output.residual.flatten(1)
    assert residual[0].abs().max() == residual[2].abs().max() == 0
    assert residual[1].std() > 1e-3
    assert residual[3].std() > 1e-3
    for shallow, enhanced in zip(output.shallow, output.enhanced, strict=True):
        torch.testing.assert_close(enhanced[0], shallow[0])
        assert not torch.allclose(enhanced[1], shallow[1])


def test_no_pixel_goes_around_its_residual() -> None:
    """F = s V' + (1 - s) I' + r with the images after D2FE."""
    model = random_model(**ADAPTIVE)
    visible, infrared = torch.rand(1, 1, 48, 64), torch.rand(1, 1, 48, 64)
    with torch.no_grad():
        output = model(visible, infrared, noise_level=torch.full((2,), 0.05), return_intermediates=True)
    seen, warm = (torch.cat([visible, infrared]) + output.residual).chunk(2)
    torch.testing.assert_close(output.fused, torch.lerp(warm, seen, output.share) + output.correction)


def test_more_steps_end_at_the_same_clean_end() -> None:
    model = random_model(**ADAPTIVE)
    visible, infrared = torch.rand(1, 1, 48, 64), torch.rand(1, 1, 48, 64)
    steps = model.steps_of(visible, infrared, noise_level=torch.tensor([0.05, 0.02]), num_steps=3)
    assert [step.timestep.tolist() for step in steps] == sorted((s.timestep.tolist() for s in steps), reverse=True)
    levels = torch.stack([(1 / step.alpha_bar - 1).sqrt().flatten() for step in steps])
    torch.testing.assert_close(levels / levels[0], torch.tensor([[1.0] * 2, [2 / 3] * 2, [1 / 3] * 2]))
    with torch.no_grad():
        assert torch.isfinite(model(visible, infrared, num_steps=3)).all()


def test_the_normalized_gate_does_not_depend_on_the_scale_of_the_bands() -> None:
    attention = CrossFrequencyAttention(8, normalized=True)
    torch.nn.init.normal_(attention.spatial_direct.weight)
    low, high = torch.randn(2, 8, 16, 16), torch.randn(2, 24, 16, 16)
    spatial, _ = attention.gates(low, high)
    torch.testing.assert_close(attention.gates(100 * low, high)[0], spatial, rtol=1e-3, atol=1e-3)
    assert spatial.std() > 0.1
    plain = CrossFrequencyAttention(8)
    torch.nn.init.normal_(plain.spatial_direct.weight)
    assert ((plain.gates(100 * low, high)[0] - 1).abs() > 0.999).float().mean() > 0.9  # saturated
