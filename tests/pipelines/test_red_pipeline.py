"""`REDPipeline`: what it adds to `FusionPipeline`, and that its folder loads in all ways."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fusion_hub
from fusion_hub import FusionPipeline, REDModel, REDPipeline
from fusion_hub.image.tiling import Window, run_tiled
from fusion_hub.models.red import RED_VARIANTS, REDOutput
from fusion_hub.pipelines.fusion_pipeline import WHOLE_IMAGE_LIMIT
from tests.support.hub_server import HubServer

LUMA = np.array([0.299, 0.587, 0.114])


def red_pipeline(tile_size: int = 128, **settings: object) -> REDPipeline:
    """Random weights, none left at the zeros that training starts from, so that every layer shows in the output."""
    torch.manual_seed(0)
    model = REDModel(**{**RED_VARIANTS["tiny"], "num_steps": 3, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 0 and not parameter.any():
                parameter.normal_(std=0.05)
    pipeline = REDPipeline(model, tile_size=tile_size)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipe() -> REDPipeline:
    return red_pipeline()


@pytest.fixture(scope="module")
def global_pipe() -> REDPipeline:
    """The paper's kind: attention and group norm over the whole image."""
    return red_pipeline(tile_size=64, attention_window=(0, 0), norm="group", norm_num_groups=4)


def pair(height: int = 48, width: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth uint8 noise away from black and white, so that no colour is clipped."""
    random = np.random.default_rng(seed)
    coarse = random.integers(80, 176, (height // 8 + 1, width // 8 + 1, 4), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse, "RGBA").resize((width, height)))
    return smooth[..., :3], smooth[..., 3]


def fuse(pipe: FusionPipeline, *images: object, **settings: object) -> torch.Tensor:
    return pipe(*images, output_type="pt", **settings).images


# --- images ---


def test_chroma_of_the_visible_image_is_kept(pipe: REDPipeline) -> None:
    visible, infrared = pair()
    fused = fuse(pipe, visible, infrared)[0].permute(1, 2, 0).double().numpy()
    source = visible / 255
    inside = ((fused > 0) & (fused < 1)).all(axis=-1)
    assert inside.mean() > 0.5
    chroma, expected = (image - (image @ LUMA)[..., None] for image in (fused, source))
    assert np.abs(chroma - expected)[inside].max() < 1e-5
    assert np.abs(fused - source).mean() > 1e-3, "the luminance was not fused at all"


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 31), (50, 130)])
def test_any_size(pipe: REDPipeline, global_pipe: REDPipeline, size: tuple[int, int]) -> None:
    for pipeline in (pipe, global_pipe):
        fused = fuse(pipeline, *pair(*size))
        assert fused.shape == (1, 3, *size)
        assert fused.isfinite().all() and fused.min() >= 0 and fused.max() <= 1


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0 .* from 1 to 3.*'auto'.*None for 3"),
        ({"num_inference_steps": 4}, "num_inference_steps=4 .* from 1 to 3"),
        ({"num_inference_steps": True}, "num_inference_steps=True"),
        ({"num_inference_steps": "many"}, "num_inference_steps='many'"),
        ({"noise_strength": 0.5}, r"noise_strength=0\.5 .* REDPipeline draws no noise: leave it at 0"),
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
    assert torch.equal(output.images, fuse(pipe, *images, num_inference_steps=steps))
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
    assert pipe._tiling(1024, 1280, None, None)[0] == 0
    assert pipe._tiling(4096, 4096, None, None) == (1024, 144)
    assert global_pipe._tiling(64, 48, None, None)[0] == 0
    for size in (65, 480, 4096):
        tile, overlap = global_pipe._tiling(size, size, None, None)
        assert tile == 64 and 0 < overlap <= 16
    assert global_pipe._tiling(480, 640, 0, None)[0] == 0
    assert WHOLE_IMAGE_LIMIT > pipe.whole_image_limit > global_pipe.whole_image_limit


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
    (side, overlap), calls = global_pipe._tiling(64, 200, None, None), []

    def fuse_tile(visible: torch.Tensor, infrared: torch.Tensor, window: Window) -> torch.Tensor:
        calls.append(window)
        with torch.no_grad():
            return model(visible, infrared)

    expected = run_tiled(fuse_tile, *images, tile=side, overlap=overlap, multiple=model.tile_multiple)
    fused = fuse(global_pipe, *images, infrared_range="dtype")
    assert len(calls) > 3 and torch.allclose(fused, expected.clamp(0, 1), atol=1e-6)
    assert not torch.allclose(fused, fuse(global_pipe, *images, infrared_range="dtype", tile=0), atol=1e-3)


# --- precision, offload, no noise ---


def test_deterministic(pipe: REDPipeline) -> None:
    state = torch.random.get_rng_state()
    assert torch.equal(fuse(pipe, *pair()), fuse(pipe, *pair()))
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was drawn from"


def test_bfloat16_is_close(pipe: REDPipeline) -> None:
    half = red_pipeline()
    half.model.to(torch.bfloat16)
    fused, expected = fuse(half, *pair()), fuse(pipe, *pair())
    assert fused.dtype == torch.float32
    assert 0 < (fused - expected).abs().mean() < 0.02


def test_cpu_offload(pipe: REDPipeline) -> None:
    expected, offloaded = fuse(pipe, *pair()), red_pipeline()
    offloaded.enable_model_cpu_offload(device="cpu")
    for _ in range(2):  # the hooks are put back after a call
        assert torch.equal(expected, fuse(offloaded, *pair()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu(pipe: REDPipeline) -> None:
    fused = fuse(red_pipeline().to("cuda"), *pair(200, 300))
    assert fused.device.type == "cpu"
    assert (fused - fuse(pipe, *pair(200, 300))).abs().max() < 0.02


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


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    half = red_pipeline()
    half.model.half()
    half.save_pretrained(tmp_path / "half")
    loaded = FusionPipeline.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert (fuse(loaded, *pair()) - fuse(red_pipeline(), *pair())).abs().max() < 0.01


LOAD = """
import sys
import numpy as np
from huggingface_hub import HfApi
from diffusers import DiffusionPipeline

folder, cache, inputs, expected = sys.argv[1:]
HfApi().create_repo("tester/red")
HfApi().upload_folder(repo_id="tester/red", folder_path=folder)
pair = np.load(inputs)

def check(pipe):
    fused = pipe(pair["visible"], pair["infrared"], output_type="np").images
    assert np.array_equal(fused, np.load(expected))
    return pipe

plain = check(DiffusionPipeline.from_pretrained("tester/red", cache_dir=cache + "/plain", trust_remote_code=True))
from fusion_hub import REDPipeline
assert type(plain) is REDPipeline  # imported, not copied
assert type(check(REDPipeline.from_pretrained("tester/red", cache_dir=cache + "/typed"))) is REDPipeline
check(DiffusionPipeline.from_pretrained(folder, trust_remote_code=True))
"""


def test_from_the_hub(tmp_path: Path, pipe: REDPipeline) -> None:
    inputs, expected = tmp_path / "pair.npz", tmp_path / "fused.npy"
    visible, infrared = pair(40, 56)
    np.savez(inputs, visible=visible, infrared=infrared)
    np.save(expected, pipe(visible, infrared, output_type="np").images)
    pipe.save_pretrained(tmp_path / "red")
    arguments = map(str, (tmp_path / "red", tmp_path / "cache", inputs, expected))
    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        result = subprocess.run(
            [sys.executable, "-c", LOAD, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    assert result.returncode == 0, result.stderr
