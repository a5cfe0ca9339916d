"""The frames of a rig at working size."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusion_hub.rigs.features import Array, Matrix, scaling, shrink, valid_pixels, warped_mask

CANVAS = 640  # longer side of the visible picture in all later work


class Views:
    """Frames of one rig, the visible ones resized to a canvas of 640 pixels.

    Attributes:
        visible, infrared: resized pictures; an infrared picture is never enlarged.
        visible_mask, infrared_mask: 255 where all frames have content.
        visible_scaling, infrared_scaling: homographies original -> resized.
    """

    def __init__(self, frames: Sequence[tuple[Array, Array]]) -> None:
        if not frames:
            raise ValueError("there are no frames: give at least one pair of a visible and an infrared picture")
        sizes = {(visible.shape, infrared.shape) for visible, infrared in frames}
        if len(sizes) > 1:
            raise ValueError(f"the frames of a rig must have one size, and these differ: {sorted(sizes)[:2]}")
        visible, infrared = frames[0]
        self.visible_size = resized(visible.shape, CANVAS)
        self.infrared_size = resized(infrared.shape, min(CANVAS, max(infrared.shape)))
        self.visible = [np.ascontiguousarray(shrink(frame[0], self.visible_size), np.float32) for frame in frames]
        self.infrared = [np.ascontiguousarray(shrink(frame[1], self.infrared_size), np.float32) for frame in frames]
        self.visible_scaling = resize_homography(visible.shape, self.visible_size)
        self.infrared_scaling = resize_homography(infrared.shape, self.infrared_size)
        self.visible_mask = common_mask(self.visible)
        self.infrared_mask = common_mask(self.infrared)

    def __len__(self) -> int:
        return len(self.visible)

    def to_canvas(self, homography: Matrix) -> Matrix:
        """A homography between the original pictures as one between the resized pictures."""
        return self.visible_scaling @ homography @ np.linalg.inv(self.infrared_scaling)

    def from_canvas(self, homography: Matrix) -> Matrix:
        original = np.linalg.inv(self.visible_scaling) @ homography @ self.infrared_scaling
        return original / original[2, 2]

    def level(self, side: int) -> tuple[Matrix, tuple[int, int]]:
        """Homography from the canvas to the same canvas with a longer side of `side` pixels, and its size (H, W)."""
        size = resized(self.visible_size, side)
        return resize_homography(self.visible_size, size), size

    def small_mask(self, side: int) -> Array:
        to_small, size = self.level(side)
        return warped_mask(self.visible_mask, to_small, size, 1)

    def subset(self, chosen: Sequence[int]) -> "Views":
        """The same with some of the frames."""
        other = object.__new__(Views)
        other.__dict__ = dict(self.__dict__)
        other.visible = [self.visible[number] for number in chosen]
        other.infrared = [self.infrared[number] for number in chosen]
        return other


def resized(size: Sequence[int], side: int) -> tuple[int, int]:
    """(H, W) with a longer side of `side`."""
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_homography(size: Sequence[int], other: Sequence[int]) -> Matrix:
    return scaling(other[1] / size[1], other[0] / size[0])


def common_mask(pictures: list[Array]) -> NDArray[np.uint8]:
    masks = [valid_pixels(picture) for picture in pictures]
    return np.min(masks, axis=0)
