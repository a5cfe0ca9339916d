"""`REDPipeline`: what it adds to `FusionPipeline`, and that its folder loads in all ways."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion_hub
from fusion_hub import FusionPipeline, REDPipeline
from fusion_hub.image.tiling import Window, run_tiled
from fusion_hub.models.red import REDOutput
from fusion_hub.pipelines.limits import WHOLE_IMAGE_LIMIT
from tests.support.tiny import picture_pair as pair
from tests.support.tiny import red_pipeline


@pytest.fixture(scope="module")
def pipe() -> REDPipeline:
    return red_pipeline()


@pytest.fixture(scope="module")
def global_pipe() -> REDPipeline:
    """The paper's kind: attention and group norm over the whole image."""
    return red_pipeline(tile_size=64, attention_window=(0, 0), norm="group", norm_num_groups=4)


def fuse(pipe: FusionPipeline, *images: object, **settings: object) -> torch.Tensor:
    return pipe(*images, output_type="pt", **settings).images


def test_any_size_with_statistics_of_the_whole_image(global_pipe: REDPipeline) -> None:
    for size in ((1, 1), (17, 31)):
        fused = fuse(global_pipe, *pair(*size))
        assert fused.shape == (1, 3, *size) and fused.isfinite().all()


@pytest.mark.parametrize("steps", [None, "auto"])
def test_batch_equals_single(pipe: REDPipeline, steps: str | None) -> None:
    # A flat pair, whose chain ends early, beside others.
    pairs = [pair(seed=seed) for seed in range(2)] + [
        (np.full((48, 64, 3), 120, np.uint8), np.full((48, 64), 120, np.uint8))
    ]
    visible, infrared = zip(*pairs, strict=True)
    batch = fuse(pipe, list(visible), list(infrared), num_inference_steps=steps)
    for fused, images in zip(batch, pairs, strict=True):
        assert torch.allclose(fused, fuse(pipe, *images, num_inference_steps=steps)[0], atol=1e-5)


# --- steps ---


def test_steps(pipe: REDPipeline) -> None:
    images = pair()
    default = fuse(pipe, *images)
    counts = {steps: fuse(pipe, *images, num_inference_steps=steps) for steps in (1, 2, 3)}
    assert torch.equal(default, counts[3])
    for first, second in itertools.combinations(counts, 2):
        assert not torch.equal(counts[first], counts[second]), (first, second)
    automatic = fuse(pipe, *images, num_inference_steps="auto")
    assert automatic.isfinite().all()


def test_default_steps_are_stored(pipe: REDPipeline, tmp_path: Path) -> None:
    images = pair()
    REDPipeline(pipe.model, default_denoising_steps=2).save_pretrained(tmp_path)
    quick = FusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(fuse(quick, *images), fuse(pipe, *images, num_inference_steps=2))
    assert torch.equal(fuse(quick, *images, num_inference_steps=3), fuse(pipe, *images))
    assert quick(*images, return_intermediates=True).intermediates.steps == 2


@pytest.mark.parametrize("steps", [0, 4, 1.5, True, "auto"])
def test_bad_default_steps(pipe: REDPipeline, steps: object) -> None:
    with pytest.raises(ValueError, match=f"default_denoising_steps={steps!r} (must be|is more than)"):
        REDPipeline(pipe.model, default_denoising_steps=steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0 .* from 1 to 3.*'auto'"),
        ({"num_inference_steps": 4}, "num_inference_steps=4 .* from 1 to 3"),
        ({"num_inference_steps": True}, "num_inference_steps=True"),
        ({"num_inference_steps": "many"}, "num_inference_steps='many'"),
        ({"noise_strength": 0.5}, r"noise_strength=0\.5 .* this model draws no noise: leave it at 0"),
        ({"noise_strength": 2}, "noise_strength=2 must be from 0"),
    ],
)
def test_bad_arguments(pipe: REDPipeline, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(*pair(), **arguments)


@pytest.mark.parametrize("tile_size", [0, -128, 1.5, True])
def test_bad_tile_size(pipe: REDPipeline, tile_size: object) -> None:
    with pytest.raises(ValueError, match=f"tile_size={tile_size!r} must be"):
        REDPipeline(pipe.model, tile_size=tile_size)


# --- intermediates ---


@pytest.mark.parametrize("steps", [None, 1, "auto"])
def test_intermediates(pipe: REDPipeline, steps: int | str | None) -> None:
    images = pair(41, 59)
    output = pipe(*images, output_type="pt", num_inference_steps=steps, return_intermediates=True)
    # Without intermediates the inference form runs, which rounds differently.
    torch.testing.assert_close(output.images, fuse(pipe, *images, num_inference_steps=steps), rtol=0, atol=1e-5)
    inner = output.intermediates
    assert isinstance(inner, REDOutput)
    assert len(inner.states) == inner.steps + 1 and len(inner.estimates) == inner.steps
    assert {state.shape for state in (inner.fused, *inner.states, *inner.estimates)} == {(1, 1, 41, 59)}
    assert inner.start == (1 if steps == 1 else 3)
    assert inner.coefficients == pipe.model.coefficients()


def test_intermediates_of_a_global_model_need_tile_0(global_pipe: REDPipeline) -> None:
    images = pair(64, 100)
    with pytest.raises(ValueError, match=r"image of 100x64 .* in tiles of 64 pixels"):
        global_pipe(*images, return_intermediates=True)
    assert global_pipe(*images, tile=0, return_intermediates=True).intermediates.fused.shape == (1, 1, 64, 100)


# --- tiles ---


def test_automatic_tiles(pipe: REDPipeline, global_pipe: REDPipeline) -> None:
    assert pipe.model.tiles_exactly and not global_pipe.model.tiles_exactly
    assert pipe.tile_rules.choose(1024, 1280, None, None)[0] == 0
    assert pipe.tile_rules.choose(4096, 4096, None, None) == (1024, 144)
    assert global_pipe.tile_rules.choose(64, 48, None, None)[0] == 0
    for size in (65, 480, 4096):
        tile, overlap = global_pipe.tile_rules.choose(size, size, None, None)
        assert tile == 64 and 0 < overlap <= 16
    assert global_pipe.tile_rules.choose(480, 640, 0, None)[0] == 0
    assert WHOLE_IMAGE_LIMIT > pipe.tile_rules.whole_limit > global_pipe.tile_rules.whole_limit


def test_tiles_of_a_local_model_equal_the_whole(pipe: REDPipeline) -> None:
    grid, margin = pipe.model.tile_multiple, pipe.model.receptive_margin
    overlap = -(-2 * margin // grid) * grid
    images = pair(24, 3 * overlap + 2 * grid)
    whole = fuse(pipe, *images, tile=0)
    tiled = fuse(pipe, *images, tile=2 * overlap + grid, tile_overlap=overlap)
    assert torch.allclose(whole, tiled, atol=2e-6)


def test_automatic_tiles_of_a_global_model_are_blended(global_pipe: REDPipeline) -> None:
    model = global_pipe.model
    images = torch.rand(2, 1, 1, 64, 200, generator=torch.Generator().manual_seed(0))
    (side, overlap), calls = global_pipe.tile_rules.choose(64, 200, None, None), []

    def fuse_tile(visible: torch.Tensor, infrared: torch.Tensor, window: Window) -> torch.Tensor:
        calls.append(window)
        with torch.no_grad():
            return model(visible, infrared)

    expected = run_tiled(fuse_tile, *images, tile=side, overlap=overlap, multiple=model.tile_multiple)
    fused = fuse(global_pipe, *images, infrared_range="dtype")
    assert len(calls) > 3 and torch.allclose(fused, expected.clamp(0, 1), atol=1e-6)
    assert not torch.allclose(fused, fuse(global_pipe, *images, infrared_range="dtype", tile=0), atol=1e-3)


# --- loading ---


def test_saved_and_loaded_outputs_are_equal(tmp_path: Path, pipe: REDPipeline) -> None:
    stored = REDPipeline(pipe.model, infrared_range=(50.0, 200.0), tile_size=192)
    stored.save_pretrained(tmp_path / "red")
    assert {file.relative_to(tmp_path / "red").as_posix() for file in (tmp_path / "red").rglob("*.*")} == {
        "model_index.json",
        "pipeline.py",
        "model/modeling.py",
        "model/config.json",
        "model/diffusion_pytorch_model.safetensors",
    }
    for loader in (REDPipeline, FusionPipeline):
        loaded = loader.from_pretrained(tmp_path / "red")
        assert type(loaded) is REDPipeline and loaded.config.tile_size == 192
        assert torch.equal(fuse(loaded, *pair()), fuse(stored, *pair()))
    with pytest.raises(ValueError, match="describes a REDPipeline, which is not a DiffFuseNetPipeline"):
        fusion_hub.DiffFuseNetPipeline.from_pretrained(tmp_path / "red")
