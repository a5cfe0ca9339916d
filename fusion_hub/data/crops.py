"""Training crops as a pure function of the global sample number.

Pair, position, mirroring and rotation all follow from `(seed, number)`. Resuming, the number of processes and workers,
and the batch size therefore never change the content of a sample.
"""

import csv
import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from fusion_hub.data.annotations import find_boxes, has_boxes
from fusion_hub.data.degradations import KINDS, check_kinds, degrade
from fusion_hub.data.paired_dataset import PairedDataset
from fusion_hub.data.pairs import READ_ERRORS, ImageSource, find_unusable, some
from fusion_hub.image.inputs import to_picture
from fusion_hub.image.luminance import Role, ValueRange, luma, quantize
from fusion_hub.image.picture import Picture
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.image.tiling import pad_reflect

_LOG = logging.getLogger(__name__)

ATTEMPTS = 8  # crops that are tried before a flat one is accepted
BOX_CLASSES = ("person", "bicycle", "car")
"""The classes of boxes in a sample, by class id: the first three of COCO."""
_NO_BOX = -1.0  # class of the rows that fill up the boxes of a sample
_DEGRADATION = 1  # stream of random numbers; not 0: SeedSequence([a, b, 0]) equals SeedSequence([a, b])
_ADVICE = "remove the pair from the set, or list it in a CSV file that the source names as exclude"


@dataclass(frozen=True)
class CropSource:
    """One paired set to train on.

    Args:
        source: anything that `PairedDataset.open` understands, apart from streams.
        split: its split, where it has several.
        weight: how often this set is sampled, relative to the others. None: its number of pairs, so that each pair of
            all sets is equally likely.
        exclude: a CSV file with the columns dataset and name; the names listed for this dataset are left out.
        dataset: the name under which `exclude` lists this set. None: any part of the path that the file lists as a
            dataset, such as `msrs` in `data/msrs/train`.
        infrared_range, visible_range: sample values of black and white, see [`FusionImageProcessor`]; None for "auto".
    """

    source: Any
    split: str | None = None
    weight: float | None = None
    exclude: str | Path | None = None
    dataset: str | None = None
    infrared_range: ValueRange | None = None
    visible_range: ValueRange | None = None

    def open(self) -> PairedDataset:
        """The pairs that may be used. Raises `ValueError` for a stream and where nothing is left."""
        pairs = PairedDataset.open(self.source, self.split)
        if pairs.length is None:
            raise ValueError(f"{pairs.description} is streamed; crops need random access: open it without streaming")
        if self.exclude is not None:
            pairs = pairs.exclude(self._excluded(Path(self.exclude)))
        if not len(pairs):
            raise ValueError(f"{self.source}: {self.exclude} excludes every pair")
        return pairs

    def _excluded(self, file: Path) -> set[str]:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"dataset", "name"} <= set(reader.fieldnames or ()):
                raise ValueError(f"{file} has the columns {reader.fieldnames}; it needs dataset and name")
            rows = [(row["dataset"], row["name"]) for row in reader]
        known = set(Path(self.source).parts) if isinstance(self.source, str | Path) else set()
        if self.dataset is not None:
            known = {self.dataset}
        elif not known:
            raise ValueError(f"exclude={str(file)!r} with a source that has no path: give dataset=, its name there")
        if not known & {dataset for dataset, _ in rows}:
            text = "%s lists no dataset named like %s: nothing is excluded; see CropSource.dataset"
            _LOG.warning(text, file, self.source)
        return {name for dataset, name in rows if dataset in known}


class _Crop(NamedTuple):
    """Planes `(2 or 4, size, size)` uint8: visible, infrared, and Cb and Cr where wanted; and their boxes.

    `boxes`: `(N, 5)` float64, class id, left, top, right, bottom in pixels of the crop, which they may leave; None for
    a pair without annotations.
    """

    planes: np.ndarray
    boxes: np.ndarray | None


class PairCrops(Dataset[dict[str, torch.Tensor]]):
    """Random luminance crops from weighted paired sets; sample `number` is always the same crop.

    Args:
        sources: the sets to sample from.
        crop_size: side of the square crop in pixels. Pairs that are smaller are padded by reflection.
        seed: at least 0.
        length: number of samples, such as steps x batch size.
        cache: keep the 8-bit luminance of every used pair in memory (0.6 MB for a 640x480 pair). Forked workers share
            what `preload` has read, and nothing that is read later.
        min_std: a crop whose visible or infrared standard deviation (range [0, 1]) is below this is replaced, up to
            eight times.
        flip: mirror left-right and top-bottom, each half of the time.
        rotate: turn by 0, 90, 180 or 270 degrees.
        scale_jitter: (smallest, largest) factor in (0, 1] by which the scene is shrunk, antialiased; None leaves it.
        swap_probability: how often visible and infrared are swapped.
        gain_jitter: each picture is multiplied by a factor from [1 - g, 1 + g] and clipped to 1.
        boxes: add the objects and the colors to the samples, see `sample`. Samples of a set that has boxes of all
            `BOX_CLASSES` stay upright, since detectors do not know people who stand on their heads: they are only
            mirrored left-right.
        degrade_probability: how often the finished crop is degraded, see `degrade`. Above 0, every sample also has its
            targets. The random numbers are separate, so the crops of a seed stay the same.
        degradations: the kinds of degradation to draw from, see `degrade`.
    """

    def __init__(
        self,
        sources: Sequence[CropSource],
        crop_size: int,
        seed: int,
        length: int,
        *,
        cache: bool = True,
        min_std: float = 4 / 255,
        flip: bool = True,
        rotate: bool = True,
        scale_jitter: tuple[float, float] | None = None,
        swap_probability: float = 0.0,
        gain_jitter: float = 0.0,
        boxes: bool = False,
        degrade_probability: float = 0.0,
        degradations: Collection[str] = KINDS,
    ) -> None:
        if not sources:
            raise ValueError("sources is empty; give at least one CropSource")
        for name, value, least in (("crop_size", crop_size, 1), ("seed", seed, 0), ("length", length, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if scale_jitter is not None and not 0 < scale_jitter[0] <= scale_jitter[1] <= 1:
            raise ValueError(f"scale_jitter is {scale_jitter}; give (smallest, largest): 0 < smallest <= largest <= 1")
        for kind, probability in (("swap", swap_probability), ("degrade", degrade_probability)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{kind}_probability is {probability}; it must be in [0, 1]")
        if not 0 <= gain_jitter < 1:
            raise ValueError(f"gain_jitter is {gain_jitter}; it must be in [0, 1)")
        self.crop_size, self.seed, self.length = crop_size, seed, length
        self.cache, self.min_std, self.flip, self.rotate = cache, min_std, flip, rotate
        self.scale_jitter, self.swap_probability, self.gain_jitter = scale_jitter, swap_probability, gain_jitter
        check_kinds(degradations)
        self.degrade_probability, self.degradations = degrade_probability, tuple(degradations)
        self.sources = list(sources)
        self.sets = [source.open() for source in sources]
        self.colors, self._boxes = boxes, [_boxes_of(pairs) if boxes else None for pairs in self.sets]
        self._most_boxes = max((len(rows) for rows_of_set in self._boxes for rows in rows_of_set or ()), default=0)
        weights = [len(s) if c.weight is None else c.weight for s, c in zip(self.sets, sources, strict=True)]
        if sum(weights) <= 0 or min(weights) < 0:
            raise ValueError(f"the weights of the sources are {weights}; they must be at least 0, one of them above")
        self._upper = np.cumsum(np.asarray(weights, dtype=np.float64)) / sum(weights)
        self._luminance: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Sample `number`, or `(number, crop_size)` from a sampler that changes the size during training."""
        number, crop_size = number if isinstance(number, tuple) else (number, self.crop_size)
        if not 0 <= number < self.length:
            raise IndexError(f"sample {number} of {self.length}")
        return self.sample(number, crop_size)

    def sample(self, number: int, crop_size: int) -> dict[str, torch.Tensor]:
        """The crop that belongs to `number`.

        Returns:
            `visible` and `infrared`: (1, crop_size, crop_size) float32 in [0, 1]; `sample`: the number, int64.
            With `degrade_probability` also the targets `clean_visible` and `clean_infrared`, of the same shape;
            they equal the inputs where nothing was degraded.

            With `boxes=True` also

            - `chroma`: (2, crop_size, crop_size) float32 in [-0.5, 0.5], Cb and Cr (BT.601, full range) of the picture
              in `visible`; 0 where that is gray.
            - `boxes`: (M, 5) float32, class id, left, top, right, bottom in pixels of the crop, which they may leave;
              the union of all annotators. M is the same for all samples; the class -1 fills up.
            - `annotated`: bool; False where objects may lack boxes: the set has none, does not know all the classes, or
              the pair is smaller than the crop, so that its padding mirrors objects.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        for _ in range(ATTEMPTS):
            crop = self._random_crop(rng, crop_size)
            if min(crop.planes[0].std(), crop.planes[1].std()) >= 255 * self.min_std:
                break
        mirror_rows, mirror_columns = rng.random(2) < 0.5
        turns = int(rng.integers(4))
        planes, boxes = crop
        mirror_rows, mirror_columns = self.flip and mirror_rows and boxes is None, self.flip and mirror_columns
        planes = planes[:, :: -1 if mirror_rows else 1, :: -1 if mirror_columns else 1]
        planes = np.ascontiguousarray(np.rot90(planes, turns if self.rotate and boxes is None else 0, axes=(1, 2)))
        visible, infrared = (np.divide(band, 255, dtype=np.float32) for band in planes[:2])
        gains = np.ones(2, dtype=np.float32)
        if self.gain_jitter:
            gains = rng.uniform(1 - self.gain_jitter, 1 + self.gain_jitter, size=2).astype(np.float32)
            visible, infrared = np.minimum(visible * gains[0], 1), np.minimum(infrared * gains[1], 1)
        swapped = bool(self.swap_probability) and rng.random() < self.swap_probability
        if swapped:
            visible, infrared = infrared, visible
        bands = {"visible": visible, "infrared": infrared}
        if self.degrade_probability:
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number, _DEGRADATION])))
            bands |= {"clean_visible": visible, "clean_infrared": infrared}
            if rng.random() < self.degrade_probability:
                result = degrade(visible, infrared, rng, self.degradations)
                bands = {name: getattr(result, name) for name in bands}
        tensors = {name: torch.from_numpy(band)[None] for name, band in bands.items()}
        sample = tensors | {"sample": torch.tensor(number, dtype=torch.int64)}
        if self.colors:
            gray = np.zeros_like(planes[2:], dtype=np.float32)
            chroma = gray if swapped else (planes[2:] - np.float32(128)) / 255 * gains[0]
            sample |= {"chroma": torch.from_numpy(chroma), "annotated": torch.tensor(boxes is not None)}
            sample["boxes"] = self._filled_up(boxes, crop_size if mirror_columns else None)
        return sample

    def check(self) -> "PairCrops":
        """Return the dataset; `ValueError` lists pairs that are unreadable or of unequal size by their headers."""
        if bad := [line for pairs in self.sets for line in find_unusable(pairs)]:
            lines = some(bad, most=5, separator="\n  ")
            raise ValueError(f"pairs that cannot be used ({len(bad)}): {_ADVICE}\n  {lines}")
        return self

    def preload(self, threads: int = 2, progress: bool = True) -> "PairCrops":
        """Read every pair into memory now, and return the dataset. Raises `ValueError` for the first bad pair."""
        if not self.cache:
            raise ValueError("preload needs cache=True")
        every = [(which, index) for which, pairs in enumerate(self.sets) for index in range(len(pairs))]
        with ThreadPoolExecutor(threads) as pool:
            jobs = pool.map(lambda pair: self._planes(*pair), every)
            for _ in tqdm(jobs, total=len(every), desc="reading pairs", unit="pair", disable=not progress):
                pass
        return self

    def _filled_up(self, boxes: np.ndarray | None, mirror_width: int | None) -> torch.Tensor:
        """Boxes as the rows of a sample, mirrored left-right in a crop of the given width."""
        rows = np.zeros((self._most_boxes, 5), dtype=np.float32)
        rows[:, 0] = _NO_BOX
        if boxes is not None:
            rows[: len(boxes)] = boxes
            if mirror_width is not None:
                rows[: len(boxes), [1, 3]] = mirror_width - rows[: len(boxes), [3, 1]]
        return torch.from_numpy(rows)

    def _random_crop(self, rng: np.random.Generator, size: int) -> _Crop:
        """A crop at a random position of a random pair."""
        which = int(np.searchsorted(self._upper, rng.random(), side="right"))
        index = int(rng.integers(len(self.sets[which])))
        planes, boxes = self._planes(which, index), self._boxes[which]
        whole = min(planes.shape[1:]) >= size
        factor = rng.uniform(*self.scale_jitter) if self.scale_jitter else 1.0
        planes = pad_reflect(planes, (size, size), center=True)
        height, width = planes.shape[1:]
        side = min(round(size / factor), height, width)  # of the region that becomes the crop
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        region = planes[:, top : top + side, left : left + side]
        inside = None
        if boxes is not None and whole:
            inside = boxes[index].copy()
            inside[:, 1:] = (inside[:, 1:] - (left, top, left, top)) * (size / side)
            inside = inside[(inside[:, 3:] > 0).all(axis=1) & (inside[:, 1:3] < size).all(axis=1)]
        if side == size:
            return _Crop(region, inside)
        # Pillow's bicubic widens its kernel when it shrinks, so this is antialiased.
        shrunk = [Image.fromarray(band).resize((size, size), Image.Resampling.BICUBIC) for band in region]
        return _Crop(np.stack([np.asarray(band) for band in shrunk]), inside)

    def _planes(self, which: int, index: int) -> np.ndarray:
        """Luminance of one pair, (2, H, W) uint8, visible first; with `boxes=True` also its chroma, (4, H, W)."""
        if (planes := self._luminance.get((which, index))) is not None:
            return planes
        pairs, source = self.sets[which], self.sources[which]
        pair, where = pairs[index], f"{pairs.description}: "
        try:
            picture = to_picture(pair.visible_source, "visible", "visible")[0]
            visible = luminance(picture, value_range=source.visible_range)
            chroma = _chroma(picture, source.visible_range) if self.colors else ()
            infrared = luminance(pair.infrared_source, stretch=True, value_range=source.infrared_range)
        except READ_ERRORS as error:
            raise ValueError(f"{where}pair {pair.name!r} cannot be read ({error}): {_ADVICE}") from error
        if visible.shape != infrared.shape:
            sizes = " and ".join(f"{w}x{h}" for h, w in (visible.shape, infrared.shape))
            raise ValueError(
                f"{where}the images of {pair.name!r} are {sizes} pixels: register and crop them to one size, "
                f"or {_ADVICE}"
            )
        planes = np.stack([visible, infrared, *chroma])
        if self.cache:
            self._luminance[which, index] = planes
        return planes


def _boxes_of(pairs: PairedDataset) -> list[np.ndarray] | None:
    """Of each pair `(N, 5)` float64: class id, left, top, right, bottom in pixels; None for a set without boxes."""
    every = list(pairs)
    if not has_boxes(every, BOX_CLASSES):
        return None
    found = find_boxes(every, BOX_CLASSES)
    return [np.column_stack([one.class_ids, one.boxes]).astype(np.float64) for one in found]


def _chroma(picture: Picture, value_range: ValueRange | None) -> np.ndarray:
    """Cb and Cr of a picture, `(2, H, W)` uint8, 128 for gray."""
    rgb = FusionImageProcessor().to_rgb(picture, value_range=value_range or "dtype").astype(np.float32)
    difference = np.stack([(rgb[..., 2] - luma(rgb)) / 1.772, (rgb[..., 0] - luma(rgb)) / 1.402])
    return quantize(difference + 128, white=255)


def luminance(
    picture: ImageSource | Picture, stretch: bool = False, value_range: ValueRange | None = None
) -> np.ndarray:
    """Luminance of a picture as the pipelines read it, `(H, W)` uint8.

    Args:
        picture: a file, PIL image or array, see [`FusionImageProcessor`].
        stretch: read it as an infrared image, whose counts and temperatures are stretched, not as a visible one.
        value_range: sample values of black and white; None for "auto".

    Raises:
        ValueError: not a picture, or one whose scale is unknown.
    """
    role: Role = "infrared" if stretch else "visible"
    return quantize(FusionImageProcessor().luminance(picture, role, value_range=value_range))
