"""The example of the tab Volumes: a head that does not exist, drawn as MR and as PET on two grids that do not match."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from fusion_hub import volumes
from fusion_hub.image.luminance import quantize

TURN, SHIFT = 7.0, (9.0, -6.0, 4.0)  # degrees about the long axis, mm: how the PET lies to the MR
_MR = (88, 108, 40), (2.0, 2.0, 3.5)  # columns, rows, slices; mm
_PET = (52, 60, 34), (3.6, 3.6, 4.4)


def write_phantom(folder: Path) -> tuple[Path, Path]:
    """Write both volumes as NIfTI files, about 300 KB together; returns their paths, the MR first."""
    turn = np.deg2rad(TURN)
    matrix = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    mr, pet = folder / "phantom_mr.nii.gz", folder / "phantom_pet.nii.gz"
    for file, (size, spacing), shows_uptake in ((mr, _MR, False), (pet, _PET, True)):
        points = _points(size, spacing)
        places = (points - SHIFT) @ matrix if shows_uptake else points
        values = np.round(_draw(places, shows_uptake)).astype(np.float32)
        if shows_uptake:  # a PET is blurred
            values = ndimage.gaussian_filter(values, [4.0 / step for step in spacing[::-1]])
        values = np.round(values + np.random.default_rng(0).normal(0, 6, values.shape)).clip(0).astype(np.float32)
        axes = np.eye(3).flatten().tolist()
        volumes.write_volume(volumes.from_array(values, points[0, 0, 0].tolist(), spacing, axes), file)
    return mr, pet


def draw_section(volume: Path, picture: Path) -> None:
    """A picture of the slice in the middle."""
    values = volumes.read_volume(volume).array
    section = values[len(values) // 2]
    Image.fromarray(quantize(section / values.max())).save(picture)


def _points(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """Places of the voxels in mm, `(S, R, C, 3)`; 0 is in the middle."""
    axes = [(np.arange(count) - (count - 1) / 2) * step for count, step in zip(size, spacing, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([x, y, z], axis=-1)


def _draw(at: np.ndarray, uptake: bool) -> np.ndarray:
    """Signal of an MR, or uptake of a PET, at places in mm, from right to left, front to back, feet to head."""
    x, y, z = np.moveaxis(at, -1, 0)

    def inside(center: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        parts = ((v - c) / r for v, c, r in zip((x, y, z), center, radii, strict=True))
        return np.asarray(sum(part * part for part in parts) <= 1)

    folds = np.sin(x / 5.0 + np.sin(y / 9.0)) * np.sin(y / 5.5 + z / 11.0)
    values = np.zeros(x.shape)
    for region, signal, activity in (
        (inside((0, 0, 0), (74, 94, 66)), 620, 40),  # skin and fat
        (inside((0, 0, 0), (69, 89, 61)), 90, 20),  # bone
        (inside((0, 0, 0), (63, 83, 55)), 210, 60),  # water around the brain
        (inside((-28, 4, 4), (31, 74, 47)) | inside((28, 4, 4), (31, 74, 47)), 430, 520),  # gray matter
        (inside((-26, 6, 4), (22, 60, 36)) | inside((26, 6, 4), (22, 60, 36)), 560, 190),  # white matter
        (inside((0, 48, -34), (38, 26, 20)), 450, 470),  # cerebellum
        (inside((-10, -8, 8), (5, 28, 12)) | inside((10, -8, 8), (5, 24, 12)), 150, 30),  # ventricles
        (inside((-19, -6, 2), (8, 16, 10)) | inside((19, -6, 2), (8, 16, 10)), 460, 620),  # deep gray matter
        (inside((33, -30, 5), (12, 14, 11)), 380, 820),  # a lesion, with uptake, on the left
        (inside((33, -30, 5), (5, 6, 5)), 250, 90),
        (inside((-30, -76, -22), (9, 8, 9)) | inside((30, -76, -22), (9, 8, 9)), 300, 50),  # eyes
    ):
        values = np.where(region, activity if uptake else signal, values)
    textured = (values > 400) & (values < 600)
    return np.where(textured, values + 35 * folds, values)
