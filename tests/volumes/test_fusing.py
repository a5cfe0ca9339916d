"""Volumes meet in physical space, neighboring slices agree, and no border shows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from fusion_hub import DiffFuseNetPipeline, FusionPipeline, volumes
from tests.support import scans
from tests.support.tiny import tiny_pipeline

AXES = scans.rotation(12, 25)


def grid(size: tuple[int, ...], spacing: tuple[float, ...], center: tuple[float, ...], axes: np.ndarray) -> sitk.Image:
    image = sitk.Image(list(size), sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(axes.flatten())
    image.SetOrigin((np.array(center) - axes @ (np.array(spacing) * (np.array(size) - 1) / 2)).tolist())
    return image


def wave(points: np.ndarray) -> np.ndarray:
    """A smooth function of places in mm."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 300 + 200 * np.sin(x / 25) * np.cos(y / 30 + z / 40)


def sampled(
    image: sitk.Image, shift: tuple[float, ...] = (0, 0, 0), modality: volumes.Modality = "MR"
) -> volumes.Volume:
    index = np.stack(np.meshgrid(*map(np.arange, image.GetSize()[::-1]), indexing="ij"), axis=-1)[..., ::-1]
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    filled = sitk.GetImageFromArray(wave(index @ axes.T + image.GetOrigin() - np.array(shift)).astype(np.float32))
    filled.CopyInformation(image)
    return volumes.Volume(filled, modality)


FINE = grid((40, 36, 30), (1.5, 1.5, 2.0), (3, -5, 8), np.eye(3))
COARSE = grid((40, 40, 40), (3.0, 2.5, 4.0), (0, 0, 0), AXES)
WINDOW = (0.0, 600.0)


@pytest.fixture(scope="module")
def pipeline() -> DiffFuseNetPipeline:
    return tiny_pipeline()


def test_resampling_is_physical_for_any_grid() -> None:
    pair = volumes.align(sampled(FINE), sampled(COARSE, modality="PT"), window=WINDOW, moving_window=WINDOW)
    assert pair.covered.all() and pair.grid_side == "fixed" and pair.grid.GetSize() == FINE.GetSize()
    assert np.abs(pair.other - pair.anatomy).max() < 0.02


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_transform_maps_points_of_fixed_to_moving(side: volumes.Side) -> None:
    shift = (6.0, -4.0, 9.0)
    move = sitk.TranslationTransform(3, shift)
    pair = volumes.align(sampled(FINE), sampled(FINE, shift), move, window=WINDOW, moving_window=WINDOW, grid=side)
    inside = pair.covered
    assert 0.5 < inside.mean() < 1 and np.abs(pair.other - pair.anatomy)[inside].max() < 0.01
    wrong = volumes.align(sampled(FINE), sampled(FINE, shift), window=WINDOW, moving_window=WINDOW)
    assert np.abs(wrong.other - wrong.anatomy).max() > 0.05


def test_the_anatomical_grid_is_kept() -> None:
    pet, mr = sampled(COARSE, modality="PT"), sampled(FINE)
    assert volumes.choose_grid(pet, mr) == "moving" and volumes.choose_grid(mr, pet) == "fixed"
    assert volumes.choose_grid(replace(mr, modality="CT"), mr) == "fixed"
    assert volumes.align(pet, mr).sources[0].modality == "MR"


def test_volumes_that_do_not_meet() -> None:
    far = sampled(grid((20, 20, 20), (2, 2, 2), (900, 0, 0), np.eye(3)))
    with pytest.raises(volumes.VolumeError, match="do not overlap in space"):
        volumes.align(sampled(FINE), far)
    beside = sampled(grid((40, 36, 30), (1.5, 1.5, 2.0), (3 + 54, -5, 8), np.eye(3)))
    assert "only" in volumes.align(sampled(FINE), beside).notes[0]


def test_beyond_the_other_volume_is_anatomy_without_a_seam(pipeline: DiffFuseNetPipeline) -> None:
    half = sampled(grid((20, 36, 18), (1.5, 1.5, 2.0), (-12, -5, 2), np.eye(3)), modality="PT")
    pair = volumes.align(sampled(FINE), half, window=WINDOW, moving_window=WINDOW)
    fused = volumes.fuse_aligned(pair, pipeline).array
    outside = ~pair.covered
    assert outside.mean() > 0.3 and np.array_equal(fused[outside], pair.anatomy[outside])
    change = fused - pair.anatomy  # it starts from nothing at the border
    for axis in (0, 2):
        steps = np.abs(np.diff(change, axis=axis))
        border = np.diff(pair.covered, axis=axis)
        assert steps[border].max() < 0.15 * np.abs(change).max()


def test_slices_are_fused_as_the_pipeline_fuses_them(pipeline: DiffFuseNetPipeline) -> None:
    levels = [np.random.default_rng(n).integers(0, 256, (5, 48, 40)).astype(np.uint8) for n in (0, 1)]
    ct, mr = (
        volumes.Volume(sitk.GetImageFromArray(one.astype(np.float32)), m)
        for one, m in zip(levels, ("CT", "MR"), strict=True)
    )
    calls: list[tuple[int, int]] = []
    pair = volumes.align(mr, ct, window=(0, 255), moving_window=(0, 255))  # CT goes in as the visible image
    fused = volumes.fuse_aligned(pair, pipeline, progress=lambda done, total: calls.append((done, total)))
    one_by_one = pipeline(list(levels[0]), list(levels[1]), output_type="np").images[..., 0]
    assert np.abs(fused.array - one_by_one).max() < 1e-5 and calls[-1] == (5, 5)
    assert fused.image.GetSize() == (40, 48, 5) and fused.modality is None


def test_one_noise_level_for_the_whole_volume(monkeypatch: pytest.MonkeyPatch, pipeline: DiffFuseNetPipeline) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(pipeline, "noise_level", lambda one, two, _: torch.arange(len(one) + len(two)) / 100.0)

    def fuse_planes(
        visible: torch.Tensor, infrared: torch.Tensor, *, noise_level: torch.Tensor, tile: int | None
    ) -> torch.Tensor:
        seen.append(noise_level)
        return visible

    monkeypatch.setattr(pipeline, "fuse_planes", fuse_planes)
    pair = volumes.align(sampled(FINE), sampled(FINE, modality="CT"), window=WINDOW, moving_window=WINDOW)
    volumes.fuse_aligned(pair, pipeline)
    levels = torch.cat([level.view(2, -1) for level in seen], dim=1)
    assert levels.shape == (2, 30) and len(levels.unique(dim=1)[0]) == 1


def test_three_planes_are_averaged(pipeline: DiffFuseNetPipeline) -> None:
    pair = volumes.align(sampled(FINE), sampled(COARSE, modality="PT"), window=WINDOW, moving_window=WINDOW)
    one, three = (volumes.fuse_aligned(pair, pipeline, planes=planes).array for planes in (1, 3))
    assert one.shape == three.shape and 0 < np.abs(one - three).max() < 0.5
    thin = sampled(grid((40, 36, 5), (1.5, 1.5, 2.0), (3, -5, 8), np.eye(3)))
    with pytest.raises(volumes.VolumeError, match="this grid has 5"):
        volumes.fuse_aligned(volumes.align(thin, thin), pipeline, planes=3)


def test_flicker() -> None:
    random = np.random.default_rng(0)
    base = random.uniform(0.2, 0.8, (1, 64, 64))
    first, second = (np.clip(base + random.normal(0, 0.01, (12, 64, 64)), 0, 1) for _ in range(2))
    assert volumes.flicker(first, first, first) == pytest.approx(1)
    assert volumes.flicker((first + second) / 2, first, second) < 0.8
    unsteady = first * np.where(np.arange(12) % 2, 1.05, 0.95)[:, None, None]  # scaled slice by slice
    assert volumes.flicker(unsteady, first, second) > 2
    assert np.isnan(volumes.flicker(first, random.random((12, 64, 64)), second))


def stack(folder: Path, names: list[str]) -> volumes.Volume:
    planes = [np.asarray(Image.open(folder / name).convert("L"), dtype=np.float32) for name in names]
    return volumes.Volume(sitk.GetImageFromArray(np.stack(planes)), "MR" if folder.name == "mri" else "CT")


@pytest.fixture(scope="module")
def medical() -> FusionPipeline:
    return FusionPipeline.from_pretrained("difffusenet-medical")


def test_real_slices_equal_the_route_through_pictures(data_root: Path, tmp_path: Path, medical: FusionPipeline) -> None:
    folder = data_root / "data" / "mri_ct" / "test"
    names = sorted(file.name for file in (folder / "ct").iterdir())[::5]
    files = [volumes.write_volume(stack(folder / m, names), tmp_path / f"{m}.nii.gz") for m in ("ct", "mri")]
    ct, mr = (volumes.read_volume(file, modality=m) for file, m in zip(files, ("CT", "MR"), strict=True))
    fused = volumes.fuse(ct, mr, model=medical, registration="none", window=(0, 255), moving_window=(0, 255))
    for name, plane in zip(names, fused.array, strict=True):
        picture = medical(str(folder / "ct" / name), str(folder / "mri" / name)).images[0].convert("L")
        assert np.abs(np.floor(plane * 255 + 0.5) - np.asarray(picture, dtype=float)).max() <= 1, name


def test_real_volumes_are_as_steady_as_their_sources(data_root: Path, medical: FusionPipeline) -> None:
    folder = data_root / "data" / "mri_ct" / "train"
    names = sorted((file.name for file in (folder / "ct").glob("34*.png")), key=lambda name: int(name[:-4]))[6:14]
    pair = volumes.align(stack(folder / "ct", names), stack(folder / "mri", names), window="full", moving_window="full")
    assert volumes.flicker(volumes.fuse_aligned(pair, medical).array, pair.anatomy, pair.other) <= 1.1


def test_color_keeps_the_fused_luma(pipeline: DiffFuseNetPipeline) -> None:
    pet = replace(sampled(COARSE, modality="PT"), unit="SUV")
    pair = volumes.align(sampled(FINE), pet, window=WINDOW, moving_window=(250.0, 500.0))
    fused = volumes.fuse_aligned(pair, pipeline)
    image, scale = volumes.color_uptake(fused, pair, "hot")
    colors = sitk.GetArrayFromImage(image).astype(float)
    light = colors @ [0.299, 0.587, 0.114]
    assert np.abs(light - 255 * fused.array).max() < 1.01
    none = pair.other < 0.04
    assert none.any() and np.ptp(colors[none], axis=1).max() == 0  # gray stays gray
    assert np.ptp(colors[pair.other > 0.5], axis=1).mean() > 20
    assert scale.limits == (250, 500) and scale.unit == "SUV"
    with pytest.raises(volumes.VolumeError, match="neither volume is one"):
        volumes.color_uptake(fused, volumes.align(sampled(FINE), sampled(FINE)), "hot")
    with pytest.raises(volumes.VolumeError, match="unknown"):
        volumes.color_scale("blue", (0, 1), "")


def test_views_are_upright() -> None:
    values = np.zeros((20, 30, 30), np.float32)
    values[14:18, 3:9, 3:9] = 1  # head, front, right
    values[8:12, 13:17, 13:17] = 0.5
    image = sitk.GetImageFromArray(values)
    for order in ("LPS", "RAI", "ASL"):
        volume = volumes.Volume(sitk.DICOMOrient(image, order), "MR")
        pair = volumes.align(volume, volume, window=(0, 1), moving_window=(0, 1))
        sheet = np.asarray(volumes.draw_views(pair, volume).convert("L"))
        if order == "LPS":
            first = sheet
        assert sheet.max() > 0 and np.abs(sheet.astype(int) - first).max() <= 1, order
