"""`FusionPipeline.__call__`: any pair in, the same result whole or tiled, alone or in a batch."""

import io
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub import DiffFuseNetPipeline, FusionOutput, FusionPipeline, REDPipeline
from fusion_hub.image.tiling import Window
from fusion_hub.models import DiffFuseNetOutput
from fusion_hub.pipelines.batches import MAX_WAITING
from fusion_hub.pipelines.fusion_pipeline import block_noise, draw_seeds, pair_noise
from tests.support.tiny import picture_pair as pair
from tests.support.tiny import red_pipeline, tiny_pipeline

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def pipe() -> DiffFuseNetPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module", params=["difffusenet", "red"])
def any_pipe(request: pytest.FixtureRequest) -> FusionPipeline:
    return tiny_pipeline() if request.param == "difffusenet" else red_pipeline()


def copy_of(pipe: FusionPipeline) -> FusionPipeline:
    return red_pipeline() if isinstance(pipe, REDPipeline) else tiny_pipeline()


@pytest.fixture(scope="module")
def real_pair(data_root: Path) -> tuple[Image.Image, Image.Image]:
    """1024 x 768, larger than a few tiles."""
    folder = data_root / "data" / "m3fd" / "test"
    visible = sorted((folder / "vis").iterdir())[0]
    infrared = next((folder / "ir").glob(f"{visible.stem}.*"))
    return Image.open(visible).convert("RGB"), Image.open(infrared).convert("L")


# --- output ---


def test_output_types_agree(pipe: DiffFuseNetPipeline) -> None:
    visible, infrared = pair()
    output = pipe(visible, infrared, output_type="np")
    assert isinstance(output, FusionOutput) and np.array_equal(output[0], output.images)
    assert np.array_equal(output.images, pipe(visible, infrared, output_type="np", return_dict=False)[0])
    (pil,) = pipe(visible, infrared).images
    array = pipe(visible, infrared, output_type="np").images
    tensor = pipe(visible, infrared, output_type="pt").images
    assert pil.size == (64, 48) and pil.mode == "RGB"
    assert array.shape == (1, 48, 64, 3) and array.dtype == np.float32
    assert tensor.shape == (1, 3, 48, 64) and tensor.dtype == torch.float32
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.abs(np.asarray(pil) / 255 - array[0]).max() <= 0.5001 / 255


def test_chroma_of_the_visible_image_is_kept(any_pipe: FusionPipeline) -> None:
    visible, infrared = pair()
    fused = any_pipe(visible, infrared, output_type="np").images[0].astype(np.float64)
    source = visible / 255
    inside = ((fused > 0) & (fused < 1)).all(axis=-1)
    assert inside.mean() > 0.5
    chroma, expected = (image - (image @ LUMA)[..., None] for image in (fused, source))
    assert np.abs(chroma - expected)[inside].max() < 1e-5
    assert np.abs(fused - source).mean() > 1e-3, "the luminance was not fused at all"


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (16, 1), (50, 130)])
def test_any_size(any_pipe: FusionPipeline, size: tuple[int, int]) -> None:
    fused = any_pipe(*pair(*size), output_type="pt").images
    assert fused.shape == (1, 3, *size)
    assert fused.isfinite().all() and fused.min() >= 0 and fused.max() <= 1


def test_padding_is_reflection(pipe: DiffFuseNetPipeline) -> None:
    """A picture whose sides are no multiples gives what its reflected extension gives, cropped."""
    visible, infrared = pair(40, 300)
    padded = [
        np.pad(image, [(0, 8), (0, 4)] + [(0, 0)] * (image.ndim - 2), mode="reflect") for image in (visible, infrared)
    ]
    fused = pipe(visible, infrared, output_type="pt").images
    expected = pipe(*padded, output_type="pt").images[..., :40, :300]
    assert torch.allclose(fused, expected, atol=1e-6)


# --- intermediates ---


@pytest.mark.parametrize("size", [(48, 64), (41, 59), (3, 5)])
def test_intermediates_are_cropped_to_the_image(pipe: DiffFuseNetPipeline, size: tuple[int, int]) -> None:
    images = pair(*size)
    expected = pipe(*images, output_type="pt")
    assert expected.intermediates is None
    output = pipe(*images, output_type="pt", return_intermediates=True)
    # Intermediate results come from the network itself, the image alone from its inference form.
    torch.testing.assert_close(output.images, expected.images, rtol=0, atol=1e-5)
    inner = output.intermediates
    assert isinstance(inner, DiffFuseNetOutput)
    height, width = size
    assert inner.fused.shape == inner.share.shape == inner.residual.shape == (1, 1, height, width)
    half = (-(-height // 2), -(-width // 2))
    assert inner.shallow[0].shape == inner.enhanced[1].shape == inner.shared.shape == (1, 8, *half)
    quarter = (-(-height // 4), -(-width // 4))
    assert inner.low[1].shape == (1, 8, *quarter) and inner.spatial_gate[0].shape == (1, 3, *quarter)
    luma = torch.from_numpy(LUMA).float().view(3, 1, 1)
    assert ((output.images[0] * luma).sum(dim=0) - inner.fused[0, 0].clamp(0, 1)).abs().max() < 0.01


def test_intermediates_with_noise_and_offload(pipe: DiffFuseNetPipeline) -> None:
    settings = {"noise_strength": 0.5, "num_inference_steps": 2, "output_type": "pt"}
    offloaded = tiny_pipeline()
    offloaded.enable_model_cpu_offload(device="cpu")
    for one in (pipe, offloaded):
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        expected = one(*pair(), generator=generators[0], **settings).images
        output = one(*pair(), generator=generators[1], return_intermediates=True, **settings)
        assert torch.equal(output.images, expected)
        assert not torch.equal(output.intermediates.noisy[0], output.intermediates.shallow[0])


def test_intermediates_of_a_bfloat16_model_are_float32() -> None:
    half = tiny_pipeline()
    half.model.to(torch.bfloat16)
    inner = half(*pair(), return_intermediates=True).intermediates
    assert inner.fused.dtype == inner.shared.dtype == inner.low[0].dtype == torch.float32


def test_intermediates_of_one_whole_image_only(pipe: DiffFuseNetPipeline) -> None:
    visible, infrared = pair()
    with pytest.raises(ValueError, match=r"return_intermediates=True .* for 2 pairs.*one pair at a time"):
        pipe([visible] * 2, [infrared] * 2, return_intermediates=True)
    wide = pair(40, 300)
    with pytest.raises(ValueError, match=r"image of 300x40 .* in tiles of 64 pixels.*smaller image, or tile=0"):
        pipe(*wide, tile=64, tile_overlap=16, return_intermediates=True)
    assert pipe(*wide, tile=0, return_intermediates=True).intermediates.fused.shape == (1, 1, 40, 300)
    assert pipe([visible], [infrared], return_intermediates=True).intermediates is not None


# --- batches ---


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_order_is_kept_with_different_sizes_and_modes(pipe: DiffFuseNetPipeline, batch_size: int | None) -> None:
    pairs = [pair(48, 64, 0), pair(33, 40, 1), pair(48, 64, 2), pair(33, 40, 3)]
    pairs.append((pairs[0][1], pairs[0][1]))  # grey, of the size of the first
    images = pipe([v for v, _ in pairs], [i for _, i in pairs], output_type="np", batch_size=batch_size).images
    assert isinstance(images, list)
    for fused, images_of_one in zip(images, pairs, strict=True):
        expected = pipe(*images_of_one, output_type="np").images[0]
        assert fused.shape == expected.shape == (*images_of_one[1].shape, 3 if images_of_one[0].ndim == 3 else 1)
        assert np.abs(fused - expected).max() < 1e-5


def test_few_pairs_wait_when_all_sizes_differ(pipe: DiffFuseNetPipeline) -> None:
    """The first batch comes before the seventeenth pair is read, which here is not an image at all."""
    pairs: list[tuple[object, object]] = [pair(8, 8 + width) for width in range(MAX_WAITING)]
    batches = pipe._batches([*pairs, ("absent.png", "absent.png")], [0] * (MAX_WAITING + 1), None, None)
    assert len(next(batches).positions) == 1
    with pytest.raises(ValueError, match=r"absent\.png"):
        next(batches)


# --- tiles ---


def luminance(image: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bchw,c->bhw", image.double(), torch.from_numpy(LUMA))


def test_tiles_with_full_overlap_equal_the_whole(
    pipe: DiffFuseNetPipeline, real_pair: tuple[Image.Image, Image.Image]
) -> None:
    overlap = -(-2 * pipe.model.receptive_margin // pipe.model.tile_multiple) * pipe.model.tile_multiple
    whole = pipe(*real_pair, tile=0, output_type="pt").images
    tiled = pipe(*real_pair, tile=2 * overlap + pipe.model.tile_multiple, tile_overlap=overlap, output_type="pt").images
    assert 2 * overlap + pipe.model.tile_multiple < max(real_pair[0].size), "the picture is a single tile"
    assert torch.allclose(whole, tiled, atol=2e-6)


def test_default_tiles_show_no_seam(pipe: DiffFuseNetPipeline, real_pair: tuple[Image.Image, Image.Image]) -> None:
    whole = luminance(pipe(*real_pair, tile=0, output_type="pt").images)
    tiled = luminance(pipe(*real_pair, tile=256, output_type="pt").images)
    difference = tiled - whole
    assert difference.abs().mean() <= 1 / 255
    # Steps between neighbouring pixels, as averages along each line: at no line, tile border or not, are those of the
    # tiled picture above the picture's own, and what tiling changes is itself smooth.
    for dim in (1, 2):
        steps_whole = whole.diff(dim=dim).abs().mean(dim=(0, 3 - dim))
        steps_tiled = tiled.diff(dim=dim).abs().mean(dim=(0, 3 - dim))
        assert (steps_tiled - steps_whole).max() < 0.1 / 255
        assert difference.diff(dim=dim).abs().mean(dim=(0, 3 - dim)).max() < 0.1 / 255


def test_noise_is_that_of_the_whole_in_tiles(pipe: DiffFuseNetPipeline) -> None:
    """Noise is made by position: with it tiles agree as well as without it."""
    visible, infrared = pair(80, 400)
    settings = {"noise_strength": 1.0, "output_type": "pt"}
    whole = pipe(visible, infrared, tile=0, generator=torch.Generator().manual_seed(3), **settings).images
    tiled = pipe(
        visible, infrared, tile=128, tile_overlap=32, generator=torch.Generator().manual_seed(3), **settings
    ).images
    clean = pipe(visible, infrared, tile=0, output_type="pt").images
    assert (whole - clean).abs().mean() > 10 * (whole - tiled).abs().mean()
    assert (whole - tiled).abs().mean() < 0.1 / 255


def test_automatic_tiles_only_for_large_images(pipe: DiffFuseNetPipeline) -> None:
    assert pipe.tile_rules.choose(1536, 1536, None, None)[0] == 0
    assert pipe.tile_rules.choose(8192, 8192, None, None)[0] == 768
    assert pipe.tile_rules.choose(8192, 8192, 0, None)[0] == 0
    assert pipe.tile_rules.choose(100, 100, 512, None)[0] == 0


# --- noise and steps ---


def test_deterministic_by_default(any_pipe: FusionPipeline) -> None:
    state = torch.random.get_rng_state()
    first = any_pipe(*pair(), output_type="pt").images
    assert torch.equal(first, any_pipe(*pair(), output_type="pt").images)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was drawn from"


def test_shared_generator_and_list_of_generators(pipe: DiffFuseNetPipeline) -> None:
    visible, infrared = pair()
    settings = {"noise_strength": 1.0, "output_type": "pt"}
    shared = pipe([visible] * 2, [infrared] * 2, generator=torch.Generator().manual_seed(5), **settings).images
    assert not torch.equal(shared[0], shared[1])
    generator = torch.Generator().manual_seed(5)
    for image in shared:  # one after the other, the same noise is drawn
        alone = pipe(visible, infrared, generator=generator, **settings).images[0]
        assert torch.allclose(image, alone, atol=1e-5)
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    listed = pipe([visible] * 2, [infrared] * 2, generator=generators, **settings).images
    assert torch.equal(listed[0], listed[1])


def test_block_noise_depends_on_position_only() -> None:
    whole = block_noise(11, 0, 3, 0, 0, 150, 200)
    part = block_noise(11, 0, 3, 30, 64, 100, 120)
    assert torch.equal(whole[:, 30:130, 64:184], part)
    assert not torch.equal(whole, block_noise(11, 1, 3, 0, 0, 150, 200))
    assert not torch.equal(whole, block_noise(12, 0, 3, 0, 0, 150, 200))
    # Unit Gaussian, and blocks are not copies of each other.
    assert abs(float(whole.mean())) < 0.02 and abs(float(whole.std()) - 1) < 0.02
    assert not torch.equal(whole[:, :64, :64], whole[:, 64:128, :64])


def test_pair_noise_order() -> None:
    noise = pair_noise([1, 2], 4, Window(32, 64, 16, 48), patch=2)
    assert noise.shape == (4, 4, 8, 24)
    expected = [block_noise(seed, stream, 4, 16, 32, 8, 24) for stream, seed in [(0, 1), (0, 2), (1, 1), (1, 2)]]
    assert torch.equal(noise, torch.stack(expected))


def test_draw_seeds() -> None:
    assert draw_seeds(torch.Generator().manual_seed(0), 3) == draw_seeds(torch.Generator().manual_seed(0), 3)
    torch.manual_seed(4)
    first = draw_seeds(None, 2)
    torch.manual_seed(4)
    assert first == draw_seeds(None, 2) and len(set(first)) == 2


def test_timesteps(pipe: DiffFuseNetPipeline) -> None:
    assert pipe.get_timesteps(1) == (20,)
    assert pipe.get_timesteps(4) == (20, 15, 10, 5)
    for steps in range(1, 21):
        timesteps = pipe.get_timesteps(steps)
        assert len(timesteps) == steps and timesteps[0] == 20 and timesteps[-1] >= 1
        assert all(a > b for a, b in itertools.pairwise(timesteps))


# --- devices and dtypes ---


def test_bfloat16_is_close(any_pipe: FusionPipeline) -> None:
    expected = any_pipe(*pair(), output_type="pt").images
    half = copy_of(any_pipe)
    half.model.to(torch.bfloat16)
    fused = half(*pair(), output_type="pt").images
    assert fused.dtype == torch.float32
    assert 0 < (fused - expected).abs().mean() < 0.02


def test_cpu_offload(any_pipe: FusionPipeline) -> None:
    pipe = copy_of(any_pipe)
    expected = pipe(*pair(), output_type="pt").images
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):  # the hooks are put back after a call
        # Hooked networks run as they are, others in their inference form.
        torch.testing.assert_close(pipe(*pair(), output_type="pt").images, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu(any_pipe: FusionPipeline) -> None:
    settings: dict[str, Any] = {"output_type": "pt"}
    if any_pipe.uses_noise:
        settings |= {"noise_strength": 1.0, "tile": 128, "generator": torch.Generator().manual_seed(0)}
    expected = any_pipe(*pair(200, 300), **settings).images
    if any_pipe.uses_noise:
        settings["generator"].manual_seed(0)
    fused = copy_of(any_pipe).to("cuda")(*pair(200, 300), **settings).images
    assert fused.device.type == "cpu"
    assert (fused - expected).abs().max() < 0.02
    assert (fused - expected).abs().mean() < 1e-3


# --- progress and errors ---


@pytest.mark.parametrize(
    ("make", "sizes", "options", "total"),
    [
        (tiny_pipeline, [(48, 64)], {}, None),
        (tiny_pipeline, [(48, 64)] * 3, {}, 3),
        (tiny_pipeline, [(48, 64)], {"num_inference_steps": 5}, 5),
        (tiny_pipeline, [(48, 200)], {"tile": 64, "tile_overlap": 16}, 4),
        (tiny_pipeline, [(48, 200), (48, 64)], {"tile": 64, "tile_overlap": 16, "num_inference_steps": 2}, 10),
        (partial(tiny_pipeline, use_d2fe=False), [(48, 64)] * 2, {"num_inference_steps": 5}, 2),
        (red_pipeline, [(48, 64)], {}, 3),
        (red_pipeline, [(48, 64)] * 2, {"num_inference_steps": 2, "batch_size": 2}, 4),
        (red_pipeline, [(48, 200)], {"tile": 64, "tile_overlap": 16, "num_inference_steps": "auto"}, 12),
    ],
)
def test_progress_counts_pairs_tiles_and_steps(
    make: Callable[[], FusionPipeline], sizes: list[tuple[int, int]], options: dict[str, Any], total: int | None
) -> None:
    """One bar that starts at nothing, ends full, and changes no picture."""
    pipe, bars = make(), list[Any]()
    visible, infrared = zip(*(pair(*size, seed=seed) for seed, size in enumerate(sizes)), strict=True)
    without = pipe(list(visible), list(infrared), output_type="pt", **options).images
    pipe.set_progress_bar_config(file=io.StringIO())
    make_bar = pipe.progress_bar
    pipe.progress_bar = lambda **arguments: bars.append(make_bar(**arguments)) or bars[-1]
    with_bar = pipe(list(visible), list(infrared), output_type="pt", **options).images
    assert all(torch.equal(one, other) for one, other in zip(without, with_bar, strict=True))
    assert [(bar.n, bar.total) for bar in bars] == ([] if total is None else [(total, total)])


def test_progress_leaves_a_compiled_network_whole() -> None:
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(file=io.StringIO())
    expected = pipe(*pair(), num_inference_steps=3, output_type="pt").images
    pipe.model.compile(backend="eager", fullgraph=True)  # a bar inside of it would be an error
    for _ in range(2):
        assert torch.equal(pipe(*pair(), num_inference_steps=3, output_type="pt").images, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0 .* from 1 to 20"),
        ({"num_inference_steps": 21}, "num_inference_steps=21 .* from 1 to 20"),
        ({"num_inference_steps": 1.5}, r"num_inference_steps=1\.5"),
        ({"noise_strength": -0.1}, r"noise_strength=-0\.1"),
        ({"noise_strength": float("nan")}, "noise_strength=nan"),
        ({"tile": 8, "tile_overlap": 0}, "tile=8 .* at least 64"),
        ({"tile": 224}, "tile=224 .* at least 240"),  # the overlap that leaves no seam would not fit
        ({"tile": np.bool_(True)}, "tile=np.True_"),
        ({"tile": 256, "tile_overlap": 128}, "tile_overlap=128 .* 0 to 127"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"rescale": "max"}, "rescale='max' .* none, minmax"),
        ({"output_type": "latent"}, "output_type='latent' .* pil, np, pt"),
        ({"generator": [torch.Generator()] * 2}, "list of 2 for 1 pair"),
        ({"infrared_range": "full"}, "infrared_range"),
    ],
)
def test_bad_arguments(pipe: DiffFuseNetPipeline, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(*pair(), **arguments)


def test_bad_pairs(pipe: DiffFuseNetPipeline) -> None:
    visible, infrared = pair()
    with pytest.raises(ValueError, match=r"visible has 2 images and infrared 1"):
        pipe([visible, visible], infrared)
    with pytest.raises(ValueError, match="visible is empty: give at least one image"):
        pipe([], [])
    with pytest.raises(TypeError, match="generator='seed'"):
        pipe(visible, infrared, generator="seed")
    with pytest.raises(ValueError, match="infrared") as caught:
        pipe([visible, visible], [infrared, infrared[:-1]])
    assert "pair 1 of 2" in "".join(caught.value.__notes__)
