"""RED as a whole: its equations, its modes, tiles, numbers of steps, ablations, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from memory import SavedBytes
from torch import Tensor

from fusion_hub.models.red import RED_VARIANTS, REDModel, REDOutput

TINY = RED_VARIANTS["tiny"]
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "without reversible fusion": {"reversible_fusion": False},
    "without reversible blocks": {"reversible_blocks": False},
    "one step": {"num_steps": 1},
    "lambda fixed": {"learnable_lambda": False},
    "convolutions": {"resample": "convolution"},
    "no injection": {"source_injection": False},
    "no time": {"time_embedding": False},
    "group norm": {"norm": "group", "norm_num_groups": 4},
    "full attention": {"attention_window": (0, 0)},
    "patch 4": {"patch_size": 4},
}


def random_model(**settings: Any) -> REDModel:
    """Tiny, with a network that matters, and coefficients that are not those of the start."""
    model = REDModel(**(TINY | settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wiring." in name or not parameter.any():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def random_pair(*size: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 1, *size, dtype=dtype), torch.rand(batch, 1, *size, dtype=dtype)


def by_hand(model: REDModel, visible: Tensor, infrared: Tensor, steps: int) -> Tensor:
    """The equations of the paper's reconstruction, one after the other."""
    known = model.coefficients()
    alphas, v, weight = known["alphas"], known["v"], known["lambda"]
    assert isinstance(alphas, list) and isinstance(v, list) and isinstance(weight, float)
    abar = [math.prod(alphas[:t]) for t in range(steps + 1)]
    patch, total = model.config.patch_size, model.config.num_steps
    sources = [F.pixel_unshuffle(image, patch) for image in (visible, infrared)]
    x = {steps + 1: math.sqrt(abar[steps]) * sources[1], steps: math.sqrt(abar[steps]) * sources[0]}
    for t in range(steps, 0, -1):
        given = [x[t], *(sources if model.config.source_injection else [])]
        noise = model.unet(torch.cat(given, dim=1), round(1000 * t / total) - 1)
        clean = (x[t] - math.sqrt(1 - abar[t]) * noise) / math.sqrt(abar[t])
        ddim = math.sqrt(abar[t - 1]) * clean + math.sqrt(1 - abar[t - 1]) * noise
        x[t - 1] = (1 - v[t - 1]) * ddim + v[t - 1] * x[t + 1]
    return F.pixel_shuffle(weight * x[0] + (1 - weight) * x[1], patch)


@pytest.mark.parametrize(("steps", "injection"), [(1, True), (3, False), (3, True)])
def test_chain_follows_its_equations(steps: int, injection: bool) -> None:
    model = random_model(num_steps=3, source_injection=injection).double()
    pair = random_pair(16, 24, batch=2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(*pair, num_inference_steps=steps), by_hand(model, *pair, steps))


def test_untrained_model_is_a_blend() -> None:
    visible, infrared = random_pair(8, 8)
    model = REDModel(**TINY)
    torch.testing.assert_close(model(visible, infrared), 0.5 * visible + 0.5**2.5 * infrared)
    assert model.coefficients() == {"alphas": [0.5, 0.5], "v": [0.5, 0.5], "lambda": 1.0}
    unwired = REDModel(**(TINY | {"reversible_fusion": False}))
    torch.testing.assert_close(unwired(visible, infrared), (visible + infrared) / 2)
    assert unwired.coefficients()["v"] == []


@pytest.mark.parametrize("name", RED_VARIANTS)
def test_sizes_of_the_variants(name: str) -> None:
    with torch.device("meta"):
        model = REDModel(**RED_VARIANTS[name])
    count = model.num_parameters()
    # 123,447,044, the 27 scalars of the wiring, and alpha, v, lambda.
    limits = {"paper": (123_447_076, 123_447_076), "small": (4_900_000, 5_100_000), "tiny": (0, 60_000)}
    assert limits[name][0] <= count <= limits[name][1]


def test_scalars_stay_in_their_ranges() -> None:
    model = REDModel(**TINY)
    with torch.no_grad():
        model.alpha_logit.copy_(torch.tensor([-8.0, 8.0]))
        model.v_logit.copy_(torch.tensor([8.0, -8.0]))
    known = model.coefficients()
    for values in (known["alphas"], known["v"]):
        assert isinstance(values, list) and all(0 < value < 1 for value in values)
    assert model(*random_pair(8, 8)).isfinite().all()


@pytest.mark.parametrize(
    ("mode", "store", "settings"),
    [
        ("reversible", False, {"resample": "convolution"}),
        ("reversible", True, {}),
        ("checkpoint", False, {}),
        ("checkpoint", False, {"reversible_fusion": False}),
    ],
)
def test_memory_modes_have_the_same_gradients(mode: str, store: bool, settings: dict[str, Any]) -> None:
    model = random_model(num_steps=3, **settings).double()
    visible, infrared = random_pair(16, 16, dtype=torch.float64)
    inputs = [visible.requires_grad_(), infrared.requires_grad_(), *model.parameters()]

    def gradients(mode: str) -> tuple[Tensor, ...]:
        model.set_memory_mode(mode, store_states=store)
        return torch.autograd.grad((model(visible, infrared) - 0.3).square().sum(), inputs)

    for got, expected in zip(gradients(mode), gradients("none"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def test_what_is_kept_does_not_grow_with_the_steps() -> None:
    def kept(mode: str, steps: int) -> int:
        model, pair = random_model(num_steps=steps, memory=mode), random_pair(32, 32)
        saved = SavedBytes([*model.parameters(), *pair])
        with saved.counting():
            fused = model(*pair)
        assert fused.requires_grad
        return saved.now

    assert kept("reversible", 8) < 1.05 * kept("reversible", 2)
    assert kept("reversible", 4) < 0.15 * kept("none", 4)


def test_bfloat16_training_in_every_mode() -> None:
    pair = random_pair(16, 16)
    gradients = []
    for mode in ("none", "checkpoint", "reversible"):
        torch.manual_seed(1)
        model = random_model(memory=mode)
        with torch.autocast("cpu", torch.bfloat16):
            fused = model(*pair)
        assert fused.dtype == torch.float32
        fused.square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0.02 * float(gradients[0].norm()))
    # The chain is inverted with bodies in bfloat16: near, not equal.
    assert (gradients[2] - gradients[0]).norm() < 0.3 * gradients[0].norm()


@torch.no_grad()
def test_intermediates() -> None:
    model, pair = random_model(num_steps=3), random_pair(16, 16)
    output = model(*pair, return_intermediates=True)
    assert isinstance(output, REDOutput)
    assert output.steps == 3 and len(output.states) == 4 and len(output.estimates) == 3
    torch.testing.assert_close(output.fused, model(*pair))
    level = math.sqrt(math.prod(model.coefficients()["alphas"]))
    torch.testing.assert_close(output.states[0], level * pair[0])
    torch.testing.assert_close(output.estimates[-1], output.states[-1])  # x_0 is clean
    weight = model.coefficients()["lambda"]
    torch.testing.assert_close(output.fused, weight * output.states[-1] + (1 - weight) * output.states[-2])
    # Without noise (an untrained model) the clean image is the state over its signal level.
    output = REDModel(**TINY)(*pair, return_intermediates=True)
    torch.testing.assert_close(output.estimates[0], output.states[1] / math.sqrt(0.5))


@torch.no_grad()
def test_auto_stops_where_nothing_changes() -> None:
    model, pair = random_model(num_steps=4), random_pair(16, 16)
    for tolerance, steps in ((1e9, 2), (0.0, 4)):
        output = model(*pair, num_inference_steps="auto", tolerance=tolerance, return_intermediates=True)
        assert output.steps == steps
        torch.testing.assert_close(output.fused, output.estimates[-1] if steps == 2 else model(*pair))
        torch.testing.assert_close(model(*pair, num_inference_steps="auto", tolerance=tolerance), output.fused)


@torch.no_grad()
def test_auto_stops_by_the_change_of_each_image() -> None:
    model = random_model(num_steps=4)
    pair = random_pair(16, 16, batch=4)
    estimates = model(*pair, return_intermediates=True).estimates
    changes = (estimates[1] - estimates[0]).abs().mean(dim=(1, 2, 3)).sort().values
    tolerance = float(changes[1:3].mean())  # two images stop after the second step, two go on
    fused = model(*pair, num_inference_steps="auto", tolerance=tolerance)
    single = [model(v[None], i[None], "auto", tolerance) for v, i in zip(*pair, strict=True)]
    torch.testing.assert_close(fused, torch.cat(single))
    assert (fused == estimates[1]).flatten(1).all(dim=1).sum() >= 2


@pytest.mark.parametrize("steps", [0, 3, -1, 1.0, True, "all"])
def test_bad_numbers_of_steps_are_named(steps: Any) -> None:
    with pytest.raises(ValueError, match=f"num_inference_steps={steps!r} must be"):
        REDModel(**TINY)(*random_pair(8, 8), num_inference_steps=steps)


@torch.no_grad()
def test_batch_equals_single_images() -> None:
    model, (visible, infrared) = random_model(), random_pair(16, 24, batch=3)
    single = [model(v[None], i[None]) for v, i in zip(visible, infrared, strict=True)]
    torch.testing.assert_close(model(visible, infrared), torch.cat(single))


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"resample": "convolution"}, {"attention_window": (2, 4)}])
def test_tiles_compute_what_the_whole_image_does(settings: dict[str, Any]) -> None:
    model = random_model(**settings)
    assert model.tiles_exactly
    margin, grid = model.receptive_margin, model.tile_multiple
    left = 2 * grid
    visible, infrared = random_pair(grid, left + math.ceil((2 * margin + 2 * grid) / grid) * grid)
    whole = model(visible, infrared)
    right = visible.shape[-1] - grid
    tile = model(visible[..., left:right], infrared[..., left:right])
    inside = slice(margin, right - left - margin)
    torch.testing.assert_close(tile[..., inside], whole[..., left:right][..., inside])
    assert (tile[..., 0] - whole[..., left]).abs().max() > 1e-4, "the cut itself shows"
    assert model(*random_pair(20, 36)).shape == (1, 1, 20, 36), "windows need not fill the image"


def test_statistics_over_the_image_are_not_tiled_exactly() -> None:
    for settings in ({"norm": "group", "norm_num_groups": 4}, {"attention_window": (4, 0)}):
        model = REDModel(**(TINY | settings))
        assert not model.tiles_exactly and model.receptive_margin > 100_000


@pytest.mark.parametrize("settings", ABLATIONS.values(), ids=ABLATIONS)
def test_every_ablation_learns(settings: dict[str, Any]) -> None:
    model = REDModel(**(TINY | settings))
    visible, infrared = random_pair(16, 16, batch=2)
    target = torch.maximum(visible, infrared)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(4):
        loss = (model(visible, infrared) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[2:]) < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_ablations_differ() -> None:
    pair = random_pair(16, 16)
    outputs = []
    for settings in ABLATIONS.values():
        torch.manual_seed(1)
        outputs.append(random_model(**settings)(*pair))
    for i, first in enumerate(outputs):
        assert all((first - second).abs().max() > 1e-4 for second in outputs[:i])


def test_ablations_leave_their_scalars_out() -> None:
    def scalars(**settings: Any) -> set[str]:
        return {name for name in REDModel(**(TINY | settings)).state_dict() if not name.startswith("unet.")}

    full = {"alpha_logit", "v_logit", "lambda_offset"}
    assert scalars() == full
    assert scalars(reversible_fusion=False) == full - {"v_logit"}
    assert scalars(learnable_lambda=False) == full - {"lambda_offset"}


@torch.no_grad()
def test_save_and_load(tmp_path: Path) -> None:
    model, pair = random_model(num_steps=3), random_pair(16, 16)
    model.save_pretrained(tmp_path)
    again = REDModel.from_pretrained(tmp_path)
    # Not bit by bit: where a tensor lies in memory decides which kernel multiplies it.
    torch.testing.assert_close(again(*pair), model(*pair), rtol=0, atol=1e-5)
    assert again.coefficients() == model.coefficients()
    rounded = REDModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    fused = rounded(*pair)
    assert fused.dtype == torch.float32, "states are kept in float32"
    assert (fused - model(*pair)).abs().mean() < 0.02


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    random_model().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        REDModel.from_pretrained(tmp_path, use_safetensors=False)


def test_from_sd15(tmp_path: Path) -> None:
    source = UNet2DConditionModel(
        block_out_channels=(8, 16, 32, 32), attention_head_dim=2, cross_attention_dim=8, norm_num_groups=4
    )
    source.save_pretrained(tmp_path / "unet")
    model = REDModel.from_sd15(tmp_path, num_steps=3, source_injection=True)
    assert torch.equal(model.unet.conv_out.weight, source.conv_out.weight)
    assert model.copy_report is not None and model.copy_report.extended == ("conv_in.weight",)
    assert model.config.block_out_channels == (8, 16) and model.config.num_steps == 3
    pair = random_pair(16, 16)
    model.save_pretrained(tmp_path / "red")
    with torch.no_grad():
        torch.testing.assert_close(REDModel.from_pretrained(tmp_path / "red")(*pair), model.eval()(*pair))
