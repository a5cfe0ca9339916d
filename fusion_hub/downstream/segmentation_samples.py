"""Training samples for segmentation: crops of pictures and of their maps of classes, functions of seed and number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fusion_hub.data.labels import IGNORED, LabelledPair, find_labels
from fusion_hub.downstream.augmentation import Augmentation, PictureChoice, draw_corner, open_pairs
from fusion_hub.downstream.inputs import Inputs, read_inputs
from fusion_hub.training.config import ConfigError, Source
from fusion_hub.training.samples import Batch


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """A picture for the network and the classes of its pixels.

    Attributes:
        name: of its pair.
        picture: `(H, W, 3)` uint8.
        label: `(H, W)` uint8, class ids or `IGNORED`.
    """

    name: str
    picture: np.ndarray
    label: np.ndarray


def open_labelled(source: Source, count: int | None = None) -> list[LabelledPair]:
    """The pairs of a source and their labels; with `count` so many of them, evenly spaced.

    Raises:
        ConfigError: there is no such set, or it has no labels.
    """
    pairs = open_pairs(source, count)
    try:
        return find_labels(pairs)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def read_labelled(
    inputs: Inputs,
    labelled: Sequence[LabelledPair],
    source: Source,
    classes: int,
    cache: Path,
    size: tuple[int, int] | None = None,
) -> list[LabelledPicture]:
    """Pictures and labels in memory, resized to `size` (H, W) as the image processor will do it; None: as they are.

    Raises:
        ConfigError: a picture or label cannot be read, or the two differ in size.
    """
    result = []
    try:
        images = read_inputs(inputs, [item.pair for item in labelled], source.label, cache)
        for item, image in zip(labelled, images, strict=True):
            label = item.label(classes)
            if image.size != label.shape[::-1]:
                raise ConfigError(
                    f"{source.label}: the picture {item.name!r} is {image.width}x{image.height} and its map of classes "
                    f"{label.shape[1]}x{label.shape[0]}: they must have one size"
                )
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], Image.Resampling.BILINEAR)
                label = np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
            result.append(LabelledPicture(item.name, np.asarray(image), label))
    except (ValueError, OSError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    return result


class SegmentationCrops:
    """Random crops of labelled pictures; sample `number` is always the same crop.

    Args:
        pictures: those of each source; of several inputs one after the other.
        weights: how often each source is drawn; None: its number of pictures.
        seed: at least 0.
        classes: number of classes.
        sets: the labelled pairs of each source, for the run's report.
    """

    def __init__(
        self,
        pictures: Sequence[Sequence[LabelledPicture]],
        weights: Sequence[float | None],
        seed: int,
        classes: int,
        augmentation: Augmentation,
        sets: Sequence[Sequence[LabelledPair]] = (),
    ) -> None:
        self.pictures, self.seed, self.augmentation, self.sets = pictures, seed, augmentation, sets
        self._choice = PictureChoice(pictures, weights, range(1, classes), lambda picture: np.unique(picture.label))

    def sample(self, number: int, crop_size: int) -> Batch:
        """The crop that belongs to `number`.

        Returns:
            `image` (3, crop_size, crop_size) float32 in [0, 1]; `label` (crop_size, crop_size) int64, `IGNORED` where
            the crop leaves the picture; `sample`: the number, int64.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        item, centre = self._choose(rng)
        picture, label = self._cut(rng, item, centre, crop_size)
        if rng.random() < 0.5:
            picture, label = picture[:, ::-1], label[:, ::-1]
        pixels = self.augmentation.brightness(rng, picture)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "label": torch.from_numpy(label.astype(np.int64)),
            "sample": torch.tensor(number, dtype=torch.int64),
        }

    def _choose(self, rng: np.random.Generator) -> tuple[LabelledPicture, tuple[int, int] | None]:
        """A picture, and perhaps the pixel (row, column) that is to be near the crop's middle."""
        item, sought = self._choice.draw(rng, self.augmentation.rare_classes)
        if sought is None:
            return item, None
        places = np.flatnonzero(item.label == sought)
        row, column = np.unravel_index(places[int(rng.integers(len(places)))], item.label.shape)
        return item, (int(row), int(column))

    def _cut(
        self, rng: np.random.Generator, item: LabelledPicture, centre: tuple[int, int] | None, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A crop of `size` of the picture scaled by a random factor; what lies outside is black and `IGNORED`."""
        side = max(1, round(size / self.augmentation.draw_scale(rng)))
        targets = (None, None) if centre is None else centre
        corner = [
            draw_corner(rng, extent, side, target) for extent, target in zip(item.label.shape, targets, strict=True)
        ]
        box = (corner[1], corner[0], corner[1] + side, corner[0] + side)
        picture, label = Image.fromarray(item.picture), Image.fromarray(255 - item.label)  # black outside: IGNORED
        if side == size:
            pieces = picture.crop(box), label.crop(box)
        else:
            pieces = (
                picture.crop(box).resize((size, size), Image.Resampling.BILINEAR),
                label.crop(box).resize((size, size), Image.Resampling.NEAREST),
            )
        return np.asarray(pieces[0]), IGNORED - np.asarray(pieces[1])
