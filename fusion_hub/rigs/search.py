"""Exhaustive search for the similarity between two views: every rotation and scale of a grid, every shift by FFT."""

from collections.abc import Sequence
from dataclasses import dataclass

import lazy_loader
import numpy as np
from scipy import fft

from .features import Array, Matrix, orientation_field, shrink, warp, warped_mask
from .views import Views

cv2 = lazy_loader.load("cv2")

ROTATIONS = np.arange(-10, 10.1, 2.5)  # degrees
SIGMA, SMOOTH = 0.8, 1.2


@dataclass(frozen=True)
class Candidate:
    score: float
    homography: Matrix  # infrared -> visible, on the canvas
    scale: float
    rotation: float


def similarity(scale: float, degrees: float, source: tuple[int, int], target: tuple[float, float]) -> Matrix:
    """Rotation and scale about the center of a picture of size `source` (H, W), moved to the point `target` (x, y)."""
    angle = np.deg2rad(degrees)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    center = np.array([source[1] - 1, source[0] - 1]) / 2
    result = np.eye(3)
    result[:2, :2], result[:2, 2] = linear, np.asarray(target) - linear @ center
    return result


def search(views: Views, fields_of_view: Sequence[float], side: int = 160, min_overlap: float = 0.5) -> list[Candidate]:
    """Candidates of all rotations and scales, best first: one per pair of rotation and scale.

    The score is the normalized correlation of the orientation fields over the overlap, averaged over the frames, times
    the root of the share of the infrared picture that overlaps.

    Args:
        fields_of_view: widths of the infrared's view divided by the visible's.
    """
    to_small, (height, width) = views.level(side)
    source = views.infrared_size
    base = width / source[1]
    reach = max(fields_of_view) * max(1.0, base * source[0] / height)
    rows = fft.next_fast_len(int(height * (1 + reach)), real=True)
    columns = fft.next_fast_len(int(width * (1 + reach)), real=True)
    shape = (rows, columns)
    inside = fft.rfft2(views.small_mask(side), s=shape)
    visible = []
    for picture in views.visible:
        field = orientation_field(shrink(picture, (height, width)), SIGMA, SMOOTH) * views.small_mask(side)[..., None]
        visible.append((fft.fft2(field[..., 0] + 1j * field[..., 1], s=shape), fft.rfft2((field**2).sum(-1), s=shape)))
    found = []
    for view in fields_of_view:
        for degrees in ROTATIONS:
            own = (min(int(np.ceil(source[0] * base * view)), rows - 1), min(int(np.ceil(width * view)), columns - 1))
            place = similarity(base * view, degrees, source, ((own[1] - 1) / 2, (own[0] - 1) / 2))
            mask = warped_mask(views.infrared_mask, place, own, 2)
            mask_spectrum = np.conj(fft.rfft2(mask, s=shape))
            overlap = fft.irfft2(inside * mask_spectrum, s=shape)
            total: Array | float = 0.0
            for (spectrum, energy), picture in zip(visible, views.infrared, strict=True):
                field = orientation_field(warp(picture, place, own), SIGMA, SMOOTH) * mask[..., None]
                product = spectrum * np.conj(fft.fft2(field[..., 0] + 1j * field[..., 1], s=shape))
                own_energy = np.conj(fft.rfft2((field**2).sum(-1), s=shape))
                energies = np.maximum(fft.irfft2(energy * mask_spectrum, s=shape), 1e-3) * np.maximum(
                    fft.irfft2(inside * own_energy, s=shape), 1e-3
                )
                total = total + fft.ifft2(product).real / np.sqrt(energies)
            largest = min(mask.sum(), width * height)
            share = np.clip(overlap / largest, 0, 1)
            score = np.where(share >= min_overlap, total / len(views.visible) * np.sqrt(share), -1)
            row, column = np.unravel_index(score.argmax(), shape)
            best = float(score[row, column])
            shift = np.eye(3)
            shift[:2, 2] = [column - columns * (column > columns // 2), row - rows * (row > rows // 2)]
            found.append(Candidate(best, np.linalg.inv(to_small) @ shift @ place, view, float(degrees)))
    return sorted(found, key=lambda candidate: -candidate.score)
