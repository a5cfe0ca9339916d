"""Exhaustive search for the similarity between two views: every rotation and scale of a grid, every shift by FFT."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import lazy_loader
import numpy as np
from numpy.typing import NDArray

from fusion_hub.rigs.features import Array, Matrix, orientation_field, shrink, warp, warped_mask
from fusion_hub.rigs.views import Views

if TYPE_CHECKING:
    import scipy
else:
    scipy = lazy_loader.load("scipy")  # on first use: registered pairs need no search

LARGEST_ROTATION = 8.0  # degrees
MIN_OVERLAP = 0.5  # of the smaller of the two pictures


@dataclass(frozen=True)
class Candidate:
    """A place of the infrared picture in the visible one: infrared -> visible, on the canvas."""

    homography: Matrix
    lead: float  # of its score over the mean of all shifts, in standard deviations


class ShiftScores:
    """Scores of all shifts of warped infrared fields over the visible fields, of all frames together, by FFT."""

    def __init__(self, views: Views, side: int, shape: tuple[int, int]) -> None:
        _, size = views.level(side)
        self.side, self.shape = side, shape
        mask = views.small_mask(side)
        fields = [field(shrink(picture, size), mask, side) for picture in views.visible]
        energy = np.sum([squared_length(one) for one in fields], axis=0)
        self.area = mask.sum()
        self.density = energy.sum() / self.area
        self.inside = scipy.fft.rfft2(mask, s=shape)
        self.energy = scipy.fft.rfft2(energy, s=shape)
        self.fields = [self.spectrum(one) for one in fields]

    def spectrum(self, one: Array) -> NDArray[np.complex64]:
        return scipy.fft.fft2(one[..., 0] + 1j * one[..., 1], s=self.shape)

    def __call__(self, infrared: list[Array], mask: Array) -> tuple[Array, NDArray[np.bool_]]:
        """The score at each shift (row, column), modulo the shape, and whether pictures overlap enough there.

        The score is the normalized correlation over the overlap times the root of the share that overlaps. A quarter of
        the mean energy is added to the visible energy, so that windows with few edges do not win by chance.
        """
        fields = [field(picture, mask, self.side) for picture in infrared]
        window = np.conj(scipy.fft.rfft2(mask, s=self.shape))
        overlap = scipy.fft.irfft2(self.inside * window, s=self.shape)
        share = np.clip(overlap / min(mask.sum() + 1, self.area), 0, 1)
        cross = sum(one * np.conj(self.spectrum(other)) for one, other in zip(self.fields, fields, strict=True))
        own = np.conj(scipy.fft.rfft2(sum(squared_length(one) for one in fields), s=self.shape))
        energy = scipy.fft.irfft2(self.energy * window, s=self.shape) + 0.25 * self.density * overlap
        energies = np.maximum(energy * scipy.fft.irfft2(self.inside * own, s=self.shape), 1e-6)
        return scipy.fft.ifft2(cross).real / np.sqrt(energies) * np.sqrt(share), share >= MIN_OVERLAP


def search(views: Views, limits: tuple[float, float], side: int = 160, step: float = 4.0) -> list[Candidate]:
    """The best shift for each rotation and scale, best first.

    Args:
        views: the frames.
        limits: range of the width of the infrared's view divided by the visible's.
        side: longer side of the canvas, in pixels.
        step: degrees from one rotation to the next; the scales are 2 % apart for each degree.
    """
    to_small, size = views.level(side)
    rotations = step * np.arange(-(LARGEST_ROTATION // step), LARGEST_ROTATION // step + 1)
    found = []
    for view in np.exp(np.arange(np.log(limits[0]), np.log(limits[1]) + 0.01 * step, 0.02 * step)):
        scale = size[1] / views.infrared_size[1] * view
        own = (round(views.infrared_size[0] * scale), round(views.infrared_size[1] * scale))
        scores = ShiftScores(views, side, padded(own, size))
        for degrees in rotations:
            place = similarity(scale, degrees, views.infrared_size, own)
            mask = warped_mask(views.infrared_mask, place, own, 2)
            surface, allowed = scores([warp(picture, place, own) for picture in views.infrared], mask)
            if allowed.any():
                row, column = np.unravel_index(np.where(allowed, surface, -1).argmax(), surface.shape)
                shift = np.eye(3)
                shift[0, 2] = column - surface.shape[1] * (column >= size[1])
                shift[1, 2] = row - surface.shape[0] * (row >= size[0])
                lead = standardized(surface, allowed)[row, column]
                found.append(Candidate(np.linalg.inv(to_small) @ shift @ place, float(lead)))
    return sorted(found, key=lambda candidate: -candidate.lead)


def verify(views: Views, homography: Matrix, side: int = 320) -> tuple[float, float]:
    """How far a homography stands out among all shifts of the infrared picture after it.

    Returns:
        lead: of its score over the mean of all shifts, in standard deviations.
        margin: the same over the best shift by more than 6 % of the canvas.
    """
    scores = shifts(views, homography, side)
    near = side // 80
    lead = float(np.roll(scores, (near, near), (0, 1))[: 2 * near + 1, : 2 * near + 1].max())
    rows, columns = (np.abs(scipy.fft.fftfreq(count, 1 / count)) for count in scores.shape)
    far = np.maximum(rows[:, None], columns) > 0.06 * side
    return lead, lead - float(scores[far].max())


def best_shift(views: Views, homography: Matrix, side: int = 160) -> Matrix:
    """The shift of the canvas that improves a homography most."""
    scores = shifts(views, homography, side)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    to_level, _ = views.level(side)
    shift = np.eye(3)
    shift[:2, 2] = [
        scipy.fft.fftfreq(count, 1 / count)[at] for count, at in zip(scores.shape[::-1], (column, row), strict=True)
    ]
    return np.linalg.inv(to_level) @ shift @ to_level


def shifts(views: Views, homography: Matrix, side: int) -> Array:
    """Standardized scores of all shifts of the infrared picture after a homography; -9 where too little overlaps."""
    to_level, size = views.level(side)
    place = to_level @ homography
    mask = warped_mask(views.infrared_mask, place, size, 2) * views.small_mask(side)
    surface, allowed = ShiftScores(views, side, padded(size, size))(
        [warp(picture, place, size) for picture in views.infrared], mask
    )
    return np.where(allowed, standardized(surface, allowed), -9) if mask.any() else np.full_like(surface, -9)


def standardized(surface: Array, allowed: NDArray[np.bool_]) -> Array:
    values = surface[allowed]
    return (surface - values.mean()) / (values.std() + 1e-6)


def padded(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Size of the FFT that keeps all allowed shifts of a picture of size `own` over one of `size` apart."""
    height, width = (
        scipy.fft.next_fast_len(max(one, round(one * (1 - MIN_OVERLAP)) + other) + 1, real=True)
        for one, other in zip(own, size, strict=True)
    )
    return height, width


def similarity(scale: float, degrees: float, source: tuple[int, int], target: tuple[int, int]) -> Matrix:
    """Rotation and scale that map the center of a picture of size `source` (H, W) to that of one of size `target`."""
    angle = np.deg2rad(degrees)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    result = np.eye(3)
    result[:2, :2] = linear
    result[:2, 2] = np.array([target[1] - 1, target[0] - 1]) / 2 - linear @ np.array([source[1] - 1, source[0] - 1]) / 2
    return result


def field(picture: Array, mask: Array, side: int) -> Array:
    """Orientation field without its slow part, which hardly depends on the shift; zero outside the mask."""
    blur = (side / 160) ** 0.5
    return orientation_field(picture, 0.5 * blur, 0.8 * blur, side / 20) * mask[..., None]


def squared_length(one: Array) -> Array:
    return (one**2).sum(-1)
