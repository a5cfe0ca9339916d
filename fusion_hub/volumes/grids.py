"""Two volumes on one grid: which grid, and the values of the other volume there, in physical space."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk

from fusion_hub.volumes.volume import Modality, Volume, VolumeError
from fusion_hub.volumes.windows import apply_window, choose_window

Side = Literal["fixed", "moving"]
Window = str | tuple[float, float] | None
_FUNCTIONAL: tuple[Modality, ...] = ("PT", "NM")
_SMALL_OVERLAP = 0.2  # of the smaller volume
_FWHM = 2.355  # standard deviations


@dataclass(frozen=True, eq=False)
class AlignedPair:
    """Two volumes on the grid of one of them.

    Attributes:
        anatomy: the volume that gives the grid, `(S, R, C)` float32 in [0, 1] by its window.
        other: the other one there; beyond its border its nearest values.
        covered: `(S, R, C)` bool, where the other volume is.
        grid: an image with this geometry.
        sources: the two volumes, the one that gives the grid first.
        windows: black and white of each.
        grid_side: which of the two arguments gave the grid.
        notes: what a user should know.
    """

    anatomy: np.ndarray
    other: np.ndarray
    covered: np.ndarray
    grid: sitk.Image
    sources: tuple[Volume, Volume]
    windows: tuple[tuple[float, float], tuple[float, float]]
    grid_side: Side
    notes: tuple[str, ...] = ()


def choose_grid(fixed: Volume, moving: Volume) -> Side:
    """Whose grid is kept: the anatomical image's, CT or MR over PET and SPECT; otherwise the fixed volume's."""
    return "moving" if fixed.modality in _FUNCTIONAL and moving.modality not in _FUNCTIONAL else "fixed"


def align(
    fixed: Volume,
    moving: Volume,
    transform: sitk.Transform | None = None,
    *,
    window: Window = None,
    moving_window: Window = None,
    grid: Side | None = None,
) -> AlignedPair:
    """Bring two volumes onto one grid.

    Args:
        fixed, moving: the volumes.
        transform: maps points of `fixed` to points of `moving`, in mm; None where they are registered.
        window, moving_window: see [`choose_window`].
        grid: whose grid is kept; None: [`choose_grid`].

    Raises:
        VolumeError: the volumes do not overlap in space, or a window is wrong.
    """
    side = grid or choose_grid(fixed, moving)
    windows = (choose_window(fixed, window), choose_window(moving, moving_window))
    if side == "fixed":
        kept, other, mapping = fixed, moving, transform
    else:
        kept, other, windows = moving, fixed, windows[::-1]
        mapping = None if transform is None else transform.GetInverse()
    values, covered = resample(other, kept.image, mapping)
    if not covered.any():
        raise VolumeError(
            "the two volumes do not overlap in space: register them, or check that they show the same person and part"
        )
    pair = AlignedPair(
        apply_window(kept.array, windows[0]),
        apply_window(values, windows[1]),
        covered,
        kept.image,
        (kept, other),
        (windows[0], windows[1]),
        side,
    )
    smaller = min(_volume(kept.image), _volume(other.image))
    share = covered.sum() * float(np.prod(kept.image.GetSpacing())) / smaller
    if share < _SMALL_OVERLAP:
        note = f"the two volumes overlap in {share:.0%} of the smaller one only: look at the preview"
        return AlignedPair(**{**pair.__dict__, "notes": (note,)})
    return pair


def resample(volume: Volume, onto: sitk.Image, transform: sitk.Transform | None) -> tuple[np.ndarray, np.ndarray]:
    """Values of a volume on another grid, and where it has any; `transform` maps points of that grid to the volume.

    Linear, after a Gaussian that takes out what the coarser grid cannot hold; nearest values beyond the border.
    """
    if transform is None and same_grid(volume.image, onto):
        return volume.array, np.ones(volume.array.shape, dtype=bool)
    mapping = transform or sitk.Transform(3, sitk.sitkIdentity)
    image = _smoothed(volume.image, onto)
    values = sitk.Resample(image, onto, mapping, sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)
    everywhere = sitk.Image(volume.image.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(volume.image)
    covered = sitk.Resample(everywhere, onto, mapping, sitk.sitkNearestNeighbor, 0.0)
    return sitk.GetArrayFromImage(values), sitk.GetArrayFromImage(covered) > 0


def same_grid(first: sitk.Image, second: sitk.Image) -> bool:
    """Whether two images have one grid, up to a thousandth of a voxel."""
    if first.GetSize() != second.GetSize():
        return False
    corners = [(0, 0, 0), tuple(size - 1 for size in first.GetSize())]
    apart = [
        np.subtract(first.TransformIndexToPhysicalPoint(at), second.TransformIndexToPhysicalPoint(at)) for at in corners
    ]
    turned = np.abs(np.subtract(first.GetDirection(), second.GetDirection())).max()
    return bool(np.abs(apart).max() < 1e-3 * min(first.GetSpacing()) and turned < 1e-4)


def _smoothed(image: sitk.Image, onto: sitk.Image) -> sitk.Image:
    """Without details finer than the voxels of the other grid."""
    axes = np.abs(np.array(image.GetDirection()).reshape(3, 3).T @ np.array(onto.GetDirection()).reshape(3, 3))
    coarse = (axes * onto.GetSpacing()).max(axis=1)
    variance = np.maximum(coarse**2 - np.square(image.GetSpacing()), 0) / _FWHM**2
    variance[np.array(image.GetSize()) == 1] = 0
    if not variance.any():
        return image
    return sitk.DiscreteGaussian(image, variance.tolist(), 64, 0.01, True)


def _volume(image: sitk.Image) -> float:
    return float(np.prod(image.GetSize(), dtype=np.float64) * np.prod(image.GetSpacing()))
