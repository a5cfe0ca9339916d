"""Two volumes into one, slice by slice, so that neighboring slices agree."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from fusion_hub import volumes
from fusion_hub.pipelines.fusion_pipeline import FusionPipeline
from fusion_hub.pipelines.limits import check_denoise
from fusion_hub.volumes.grids import AlignedPair, Side, Window, align
from fusion_hub.volumes.volume import Volume, VolumeError

RAMP = 10.0
"""mm inside the border of the other volume over which the fused values become those of the anatomy."""
_BATCH_PIXELS = 2**19
_NOISE_SLICES = 32
_LEAST_SIDE = 16  # voxels along each axis for three planes
_STATIC, _AREA = 0.04, 9  # of the range, and voxels


def fuse(
    fixed: Volume,
    moving: Volume,
    *,
    model: str | Path | FusionPipeline = "difffusenet-medical",
    registration: Literal["rigid", "affine", "none"] = "rigid",
    transform: sitk.Transform | str | Path | None = None,
    window: Window = None,
    moving_window: Window = None,
    grid: Side | None = None,
    planes: Literal[1, 3] = 1,
    denoise: float | Literal["auto"] = "auto",
    tile: int | None = None,
    accept_unsure: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """Fuse two volumes of one person.

    The grid of the anatomical image is kept and the other is resampled onto it in physical space. Beyond the border of
    the other volume the result is the anatomy alone; over 10 mm inside the border the two join smoothly.

    Args:
        fixed, moving: the volumes, for example MR and PET.
        model: a bundled name, a folder, a Hub id, or a loaded pipeline.
        registration: "rigid", "affine", or "none". Volumes of one DICOM frame of reference are not registered.
        transform: used instead of a registration: maps points of `fixed` to `moving`, or its file.
        window, moving_window: values that become black and white, see [`choose_window`].
        grid: "fixed" or "moving"; None: CT or MR over PET and SPECT, else the fixed volume's.
        planes: 1 fuses the slices as they are stored; 3 averages that with the two planes across them.
        denoise: as in the pipeline's call. "auto" takes one noise level for each whole volume.
        tile: as in the pipeline's call.
        accept_unsure: fuse even if the registration failed its checks.
        progress: called with the slices done and their number.

    Returns:
        Values in [0, 1] on the grid.

    Raises:
        VolumeError: they cannot be fused; the message says why.
    """
    pipeline = model if isinstance(model, FusionPipeline) else FusionPipeline.from_pretrained(model)
    if isinstance(transform, str | Path):
        transform = volumes.load_transform(Path(transform))
    shared = fixed.space is not None and fixed.space == moving.space
    if transform is None and registration != "none" and not shared:
        found = volumes.register(fixed.image, moving.image, registration)
        if not (found.trustworthy or accept_unsure):
            raise VolumeError(
                f"the registration is not certain, {found.reason}: give a transform, or accept_unsure=True"
            )
        transform = found.transform
    pair = align(fixed, moving, transform, window=window, moving_window=moving_window, grid=grid)
    return fuse_aligned(pair, pipeline, planes=planes, denoise=denoise, tile=tile, progress=progress)


def fuse_aligned(
    pair: AlignedPair,
    pipeline: FusionPipeline,
    *,
    planes: Literal[1, 3] = 1,
    denoise: float | Literal["auto"] = "auto",
    tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """Fuse two volumes on one grid; arguments and result as of [`fuse`]."""
    check_denoise(denoise, pipeline.model.config)
    size = pair.anatomy.shape
    if planes not in (1, 3):
        raise VolumeError(f"planes={planes!r} must be 1 or 3")
    if planes == 3 and min(size) < _LEAST_SIDE:
        raise VolumeError(
            f"three planes need {_LEAST_SIDE} voxels along each axis, this grid has {min(size)}: use one plane"
        )
    axes = (0, 1, 2)[:planes]
    visible, infrared = _ordered(pair)
    kept = [np.flatnonzero(pair.covered.any(axis=tuple({0, 1, 2} - {axis}))) for axis in axes]
    total, done = sum(map(len, kept)), 0
    fused = np.zeros(size, dtype=np.float32)
    for axis, numbers in zip(axes, kept, strict=True):
        along = [np.moveaxis(values, axis, 0) for values in (visible, infrared)]
        level = _noise_level(pipeline, along, numbers, denoise)
        target = np.moveaxis(fused, axis, 0)
        for batch in _batches(numbers, along[0].shape[1:]):
            seen, warm = (torch.from_numpy(np.ascontiguousarray(values[batch]))[:, None] for values in along)
            levels = None if level is None else torch.cat([one.expand(len(batch)) for one in level])
            target[batch] += pipeline.fuse_planes(seen, warm, noise_level=levels, tile=tile)[:, 0].numpy() / planes
            done += len(batch)
            if progress is not None:
                progress(done, total)
    pipeline.maybe_free_model_hooks()
    weight = _weight(pair)
    image = sitk.GetImageFromArray(weight * fused + (1 - weight) * pair.anatomy)
    image.CopyInformation(pair.grid)
    first, second = pair.sources
    notes = tuple(dict.fromkeys((*first.notes, *second.notes, *pair.notes)))
    return replace(first, image=image, modality=None, unit="", window=(0.0, 1.0), source="fusion", notes=notes)


def flicker(fused: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """How much more a fused volume changes from slice to slice than its sources, where these hardly change.

    `mean |F[k+1] - F[k]| / mean D`, `D = max(|A[k+1] - A[k]|, |B[k+1] - B[k]|)`, over the static areas: voxels round
    which the mean of D over 9x9 voxels of the slice is at most 0.04. Voxels where both sources are below 0.04, air, do
    not count. 1: as steady as the less steady source. NaN where nothing is static or nothing changes.

    Args:
        fused, first, second: `(S, R, C)` in [0, 1] on one grid.
    """
    change, *sources = (np.abs(np.diff(values.astype(np.float32), axis=0)) for values in (fused, first, second))
    greater = np.maximum(*sources)
    shown = np.maximum(first[1:], second[1:]) > _STATIC
    static = (ndimage.uniform_filter(greater, (1, _AREA, _AREA)) <= _STATIC) & shown
    usual = float(greater[static].mean()) if static.any() else 0.0
    return float(change[static].mean()) / usual if usual > 0 else float("nan")


def _ordered(pair: AlignedPair) -> tuple[np.ndarray, np.ndarray]:
    """The volumes as the models were trained: PET, SPECT or CT as the visible image, MR as the infrared one."""
    fixed, moving = (pair.anatomy, pair.other) if pair.grid_side == "fixed" else (pair.other, pair.anatomy)
    named = pair.sources if pair.grid_side == "fixed" else pair.sources[::-1]
    rank = {"PT": 0, "NM": 0, "CT": 1, None: 2, "MR": 3}
    return (moving, fixed) if rank[named[1].modality] < rank[named[0].modality] else (fixed, moving)


def _noise_level(
    pipeline: FusionPipeline, along: list[np.ndarray], numbers: np.ndarray, denoise: float | Literal["auto"]
) -> list[torch.Tensor] | None:
    """The level of each volume, the median of its slices: one for all slices, so that they agree."""
    some = numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), _NOISE_SLICES)).astype(int)]
    visible, infrared = (torch.from_numpy(values[some])[:, None] for values in along)
    levels = pipeline.noise_level(visible, infrared, denoise)
    return None if levels is None else [half.median()[None] for half in levels.chunk(2)]


def _batches(numbers: np.ndarray, size: tuple[int, ...]) -> Iterator[np.ndarray]:
    step = max(1, _BATCH_PIXELS // int(np.prod(size)))
    return (numbers[start : start + step] for start in range(0, len(numbers), step))


def _weight(pair: AlignedPair) -> np.ndarray:
    """Of the fused values, 0 where the other volume is not, rising smoothly to 1 at `RAMP` mm from there."""
    if pair.covered.all():
        return np.ones(1, dtype=np.float32)
    distance = ndimage.distance_transform_edt(pair.covered, sampling=pair.grid.GetSpacing()[::-1])
    part = np.clip(np.asarray(distance, dtype=np.float32) / RAMP, 0, 1)
    return part * part * (3 - 2 * part)
