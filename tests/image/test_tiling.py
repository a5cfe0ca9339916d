"""Tiles: cover, alignment, blending."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fusion_hub import FusionPipeline
from fusion_hub.image.tiling import Window, _axis_weights, run_tiled, tile_windows

sizes = st.integers(1, 150)
geometry = st.tuples(st.integers(1, 12), st.integers(1, 8), st.integers(0, 20))  # multiple, tile / multiple, overlap


def _fits(multiple: int, tile: int, overlap: int) -> bool:
    return 2 * overlap < tile and tile - overlap >= multiple


@settings(max_examples=80, deadline=None)
@given(sizes, sizes, geometry)
def test_windows_cover_are_aligned_and_overlap(height: int, width: int, numbers: tuple[int, int, int]) -> None:
    multiple, factor, overlap = numbers
    tile = multiple * factor
    assume(_fits(multiple, tile, overlap))
    windows = tile_windows(height, width, tile, overlap, multiple)
    count = torch.zeros(height, width)
    for w in windows:
        assert w.top % multiple == 0 and w.left % multiple == 0
        assert 1 <= w.height <= tile and 1 <= w.width <= tile
        assert w.top + w.height <= height and w.left + w.width <= width
        assert w.height == windows[0].height or w.top + w.height == height  # only the last may be smaller
        count[w.rows, w.columns] += 1
    assert count.min() >= 1
    assert len(set(windows)) == len(windows)
    tops = sorted({w.top: w for w in windows}.values(), key=lambda w: w.top)
    for above, below in itertools.pairwise(tops):
        assert above.top + above.height - below.top >= overlap


@settings(max_examples=80, deadline=None)
@given(sizes, geometry)
def test_windows_are_few_and_no_larger_than_their_number_needs(length: int, numbers: tuple[int, int, int]) -> None:
    multiple, factor, overlap = numbers
    tile = multiple * factor
    assume(_fits(multiple, tile, overlap))
    windows = tile_windows(1, length, tile, overlap, multiple)
    stride = (tile - overlap) // multiple * multiple
    assert len(windows) == (1 if length <= tile else 1 + -(-(length - tile) // stride))
    side = windows[0].width
    if len(windows) > 1 and side > multiple and _fits(multiple, side - multiple, overlap):
        assert len(tile_windows(1, length, side - multiple, overlap, multiple)) > len(windows)


def test_two_tiles_do_not_compute_most_pixels_twice() -> None:
    windows = tile_windows(1400, 1700, 1280, 320, 64)
    assert [(w.height, w.width) for w in windows] == [(896, 1024), (896, 996), (888, 1024), (888, 996)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), geometry, st.integers(0, 10))
def test_weights_sum_to_one(length: int, numbers: tuple[int, int, int], margin: int) -> None:
    multiple, factor, overlap = numbers
    tile = multiple * factor
    assume(_fits(multiple, tile, overlap) and margin <= overlap // 2)
    total = torch.zeros(length)
    for start, weight in _axis_weights(length, tile, overlap, multiple, margin).items():
        assert (weight >= 0).all()
        if start > 0:
            assert (weight[:margin] == 0).all()
        if start + len(weight) < length:
            assert (weight[len(weight) - margin :] == 0).all()
        total[start : start + len(weight)] += torch.from_numpy(weight)
    torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, geometry)
def test_identity_gives_the_image_back(height: int, width: int, numbers: tuple[int, int, int]) -> None:
    multiple, factor, overlap = numbers
    tile = multiple * factor
    assume(_fits(multiple, tile, overlap) and height * width * 30 < tile * tile * 1e4)
    image = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(height * 997 + width))
    result = run_tiled(lambda v, i, w: v - i, image, image * 0, tile=tile, overlap=overlap, multiple=multiple)
    assert result.shape == image.shape and result.dtype == torch.float32
    assert (result - image).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(97, 131), (65, 64), (1, 300)])
@pytest.mark.parametrize("margin", [None, 2, 8])
def test_local_filter_has_no_seam(size: tuple[int, int], margin: int | None) -> None:
    """A 5x5 box blur reaches 2 pixels: with those thrown away tiles equal the whole image everywhere."""
    visible, infrared = torch.rand(2, 2, 1, *size, generator=torch.Generator().manual_seed(0))

    def blur(v: Tensor, i: Tensor, window: Window | None = None) -> Tensor:
        padded = F.pad(v + i, (2, 2, 2, 2), mode="replicate")
        return F.avg_pool2d(padded, 5, stride=1)

    tiled = run_tiled(blur, visible, infrared, tile=64, overlap=16, multiple=8, margin=margin)
    torch.testing.assert_close(tiled, blur(visible, infrared), atol=1e-5, rtol=0)


def test_pooling_network_sees_the_same_grid() -> None:
    image = torch.rand(1, 1, 96, 160, generator=torch.Generator().manual_seed(0))

    def pool(v: Tensor, i: Tensor, window: Window | None = None) -> Tensor:
        return F.interpolate(F.avg_pool2d(v, 8), scale_factor=8)

    tiled = run_tiled(pool, image, image, tile=64, overlap=24, multiple=8, margin=8)
    torch.testing.assert_close(tiled, pool(image, image), atol=1e-6, rtol=0)


def test_tiles_that_disagree_are_cross_faded() -> None:
    """Each tile answers with its own constant: the blend must go from one to the other in small steps."""
    answers = iter((0.0, 1.0))
    image = torch.zeros(1, 1, 4, 112)
    result = run_tiled(
        lambda v, i, w: torch.full_like(v, next(answers)), image, image, tile=64, overlap=16, multiple=16, margin=0
    )
    row = result[0, 0, 0]
    assert row[0] == 0 and row[-1] == 1
    steps = row.diff()
    assert (steps >= 0).all() and steps.max() < 0.11


def test_batch_channels_and_half_precision_results() -> None:
    images = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    result = run_tiled(
        lambda v, i, w: torch.cat([v, i], 1).bfloat16(), images, 1 - images, tile=16, overlap=4, multiple=4
    )
    assert result.shape == (3, 2, 40, 40) and result.dtype == torch.float32
    torch.testing.assert_close(result, torch.cat([images, 1 - images], 1), atol=1 / 256, rtol=0)


def test_small_image_is_one_window() -> None:
    assert tile_windows(50, 64, 64, 16, 16) == [Window(0, 0, 50, 64)]
    assert [(w.top, w.left) for w in tile_windows(50, 65, 64, 16, 16)] == [(0, 0), (0, 32)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 64, 16, 16), "nothing to tile"),
        ((5, 5, 60, 16, 16), "multiple of 16, got 60: use 48 or 64"),
        ((5, 5, 0, 0, 16), "use 16"),
        ((5, 5, 64, 32, 16), "less than half of tile=64, got 32"),
        ((5, 5, 64, -1, 16), "got -1"),
        ((5, 5, 64, 16, 64), "tiles can advance"),
        ((5, 5, 64, 16, 0), "at least 1, got 0"),
    ],
)
def test_bad_geometry(arguments: tuple[int, int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tile_windows(*arguments)


def test_bad_tensors_and_functions() -> None:
    image = torch.rand(1, 1, 100, 100)
    with pytest.raises(ValueError, match="one shape"):
        run_tiled(lambda v, i, w: v, image, image[..., 1:], tile=64, overlap=16, multiple=16)
    with pytest.raises(ValueError, match="of the size that it was given"):
        run_tiled(lambda v, i, w: v[..., 1:], image, image, tile=64, overlap=16, multiple=16)
    with pytest.raises(ValueError, match=r"margin must be in 0\.\.8"):
        run_tiled(lambda v, i, w: v, image, image, tile=64, overlap=16, multiple=16, margin=9)


@pytest.mark.parametrize(
    ("name", "dataset", "size"),
    [("difffusenet-msrs", "llvip", (1280, 512)), ("red-small-msrs", "msrs", (448, 224))],
)
def test_smallest_tiles_of_a_bundled_model_are_within_a_gray_level(
    name: str, dataset: str, size: tuple[int, int], data_root: Path
) -> None:
    """The largest error that tiles may have by themselves, on a real picture: the smallest side has most borders."""
    pipe = FusionPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    folder = data_root / "data" / dataset / "test"
    file = sorted((folder / "vis").iterdir())[0]
    visible, infrared = (
        Image.open(folder / part / file.name).convert("L").crop((0, 0, *size)) for part in ("vis", "ir")
    )
    smallest = 2 * pipe.tile_rules.overlap(0) + pipe.model.tile_multiple
    with pytest.raises(ValueError, match=f"tile={smallest - 1} .* at least {smallest} pixels"):
        pipe(visible, infrared, tile=smallest - 1)
    # Numbers of numpy too.
    tiled, whole = (
        pipe(visible, infrared, tile=tile, output_type="np").images for tile in (np.int64(smallest), np.int64(0))
    )
    assert 0 < np.abs(tiled - whole).max() < 1 / 255
