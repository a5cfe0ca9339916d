"""Training samples for detection: views of pictures and the boxes in them, functions of seed and number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fusion_hub.data.boxes import BoxedPair, find_boxes
from fusion_hub.downstream.augmentation import Augmentation, PictureChoice, draw_corner, open_pairs
from fusion_hub.downstream.inputs import Inputs, read_inputs
from fusion_hub.training.config import ConfigError, Source
from fusion_hub.training.samples import Batch

NO_OBJECT = -1
"""Class of the rows that fill up the boxes of a sample."""
SMALLEST_SIDE = 2.0
"""Boxes that are narrower or lower in a sample, in its pixels, are left out."""
SMALLEST_SHARE = 0.3
"""Boxes of which less than this share of the area lies in a view are left out."""


@dataclass(frozen=True, eq=False)
class BoxedPicture:
    """A picture for the network and the objects in it.

    Attributes:
        name: of its pair.
        picture: `(H, W, 3)` uint8.
        boxes: `(N, 4)` float32: left, top, right, bottom in pixels.
        class_ids: `(N,)` int64.
    """

    name: str
    picture: np.ndarray
    boxes: np.ndarray
    class_ids: np.ndarray


def open_boxed(
    source: Source, classes: Sequence[str], annotations: Sequence[str] | None, count: int | None = None
) -> list[BoxedPair]:
    """The pairs of a source and their boxes; with `count` so many of them, evenly spaced.

    A source may know only some of the classes: what it has of the others counts as nothing.

    Raises:
        ConfigError: there is no such set, or it has no boxes.
    """
    pairs = open_pairs(source, count)
    try:
        return find_boxes(pairs, classes, annotations, every_class=False)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def read_boxed(inputs: Inputs, boxed: Sequence[BoxedPair], source: Source, cache: Path) -> list[BoxedPicture]:
    """Pictures and boxes in memory, in their own size.

    Raises:
        ConfigError: a picture cannot be read, or a box leaves it.
    """
    result = []
    try:
        images = read_inputs(inputs, [item.pair for item in boxed], source.label, cache)
        for item, image in zip(boxed, images, strict=True):
            if len(item.boxes) and (item.boxes[:, 2:].max(0) > np.array(image.size) + 1).any():
                right, bottom = item.boxes[:, 2:].max(0)
                raise ConfigError(
                    f"{source.label}: the picture {item.name!r} is {image.width}x{image.height}, but boxes reach to "
                    f"{right:g}x{bottom:g}: they must be in pixels of this picture"
                )
            result.append(BoxedPicture(item.name, np.asarray(image), item.boxes, item.class_ids))
    except (ValueError, OSError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    return result


class DetectionCrops:
    """Random views of pictures with boxes; sample `number` is always the same view.

    A view has the shape of its whole picture and is resized to that of the network, as the image processor resizes
    whole pictures: an object has the same proportions in training and in use. In views larger than the picture what
    lies outside is black.

    Args:
        pictures: those of each source; of several inputs one after the other.
        weights: how often each source is drawn; None: its number of pictures.
        seed: at least 0.
        classes: number of classes.
        shape: `(H, W)` of the network's pictures; samples have these proportions.
        sets: the pairs of each source, for the run's report.
    """

    def __init__(
        self,
        pictures: Sequence[Sequence[BoxedPicture]],
        weights: Sequence[float | None],
        seed: int,
        classes: int,
        augmentation: Augmentation,
        shape: tuple[int, int],
        sets: Sequence[Sequence[BoxedPair]] = (),
    ) -> None:
        self.pictures, self.seed, self.augmentation, self.sets = pictures, seed, augmentation, sets
        self.shape = shape
        self.most_boxes = max((len(item.boxes) for of_source in pictures for item in of_source), default=0)
        self._choice = PictureChoice(pictures, weights, range(classes), lambda item: np.unique(item.class_ids))

    def sample(self, number: int, crop_size: int) -> Batch:
        """The view that belongs to `number`, `crop_size` pixels high.

        Returns:
            `image` (3, crop_size, width) float32 in [0, 1]; `boxes` (most_boxes, 4) float32: centre, width and height
            as parts of the view; `classes` (most_boxes,) int64, `NO_OBJECT` for rows that are none; `sample`: the
            number, int64.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        item, sought = self._choice.draw(rng, self.augmentation.rare_classes)
        size = crop_size, round_to_32(crop_size * self.shape[1] / self.shape[0])
        picture, boxes, class_ids = self._cut(rng, item, sought, size)
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        pixels = self.augmentation.brightness(rng, picture)
        rows = np.zeros((self.most_boxes, 4), np.float32)
        ids = np.full(self.most_boxes, NO_OBJECT, np.int64)
        rows[: len(boxes)] = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        ids[: len(boxes)] = class_ids
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "boxes": torch.from_numpy(rows),
            "classes": torch.from_numpy(ids),
            "sample": torch.tensor(number, dtype=torch.int64),
        }

    def _cut(
        self, rng: np.random.Generator, item: BoxedPicture, sought: int | None, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A view of `size` (H, W), its boxes as parts of it (left, top, right, bottom in [0, 1]), their classes."""
        target: tuple[int | None, int | None] = (None, None)
        if sought is not None:
            (having,) = np.nonzero(item.class_ids == sought)
            left, top, right, bottom = item.boxes[having[int(rng.integers(len(having)))]]
            target = int(top + bottom) // 2, int(left + right) // 2
        scale, extents = self.augmentation.draw_scale(rng), item.picture.shape[:2]
        sides = [max(1, round(extent / scale)) for extent in extents]
        top, left = (draw_corner(rng, *numbers) for numbers in zip(extents, sides, target, strict=True))
        box = (left, top, left + sides[1], top + sides[0])
        image = Image.fromarray(item.picture)
        view = (image if box == (0, 0, *image.size) else image.crop(box)).resize(size[::-1], Image.Resampling.BILINEAR)
        boxes, which = boxes_in_view(item.boxes, box, size)
        return np.asarray(view), boxes, item.class_ids[which]


def boxes_in_view(
    boxes: np.ndarray, view: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that a view shows, as parts of it, and their indices; those that are hardly in it are left out.

    Args:
        boxes: `(N, 4)`: left, top, right, bottom in pixels of the picture.
        view: the same of the view.
        size: `(H, W)` of the view when it is resized.

    Returns:
        `(M, 4)` float32 in [0, 1] and `(M,)`.
    """
    sides = np.array([view[2] - view[0], view[3] - view[1]], np.float64)
    whole = (boxes.astype(np.float64) - np.tile(view[:2], 2)) / np.tile(sides, 2)
    inside = np.clip(whole, 0, 1)
    extent = inside[:, 2:] - inside[:, :2]
    share = extent.prod(1) / np.maximum((whole[:, 2:] - whole[:, :2]).prod(1), 1e-12)
    (which,) = np.nonzero((extent * size[::-1] >= SMALLEST_SIDE).all(1) & (share >= SMALLEST_SHARE))
    return inside[which].astype(np.float32), which


def round_to_32(length: float) -> int:
    """The nearest multiple of 32, at least 32: what these networks halve five times."""
    return max(32, 32 * round(length / 32))
