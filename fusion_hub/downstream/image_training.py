"""Training on single images, as SegFormer and detectors share it: inputs, augmentation, validation, saved results."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image

from fusion_hub.data.pairs import Pair
from fusion_hub.downstream.inputs import DTYPES, Inputs, file_name, open_inputs
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import (
    ConfigError,
    Source,
    TrainingConfig,
    check_options,
    expand_variables,
    missing_data_explained,
    option,
)
from fusion_hub.training.validation import picture_grid

Picture = TypeVar("Picture")
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the three channels, of images in [0, 1]."""
SHOWN = 4  # images in the validation grid


@contextmanager
def config_errors(prefix: str = "") -> Iterator[None]:
    """Turn errors of files and values into `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"{prefix}{error}") from error


@dataclass(frozen=True)
class InputConfig:
    """Input images of a network that follows fusion."""

    input: list[str] = option(
        "visible, infrared, a rule (average, maximum, laplacian, guided_filter), a bundled fusion model, a pipeline "
        "folder, a Hub id, or a folder with one image for each pair; with several, each crop uses one",
        ["visible"],
    )
    input_dtype: str = option("precision of the fusion model: float32 or bfloat16", "float32", choices=DTYPES)
    cache_dir: str = option("folder for fused images and their provenance", "runs/inputs")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.input or len(set(self.input)) < len(self.input):
            raise ConfigError(f"input must be one or more different names, got {self.input}")

    def open_inputs(self) -> list[Inputs]:
        """The images of each name. Raises `ConfigError` for an unknown name."""
        opened = []
        for name in self.input:
            with config_errors(f"input = {name}: "):
                opened.append(open_inputs(expand_variables(name), self.input_dtype))
        return opened


def open_pairs(source: Source, count: int | None = None) -> list[Pair]:
    """The pairs of a source, or `count` evenly spaced ones.

    Raises:
        ConfigError: there is no such dataset.
    """
    with missing_data_explained():
        resolved = source.resolve()
        try:
            pairs = list(resolved.open())
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if count is not None:
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int))
        pairs = [pairs[index] for index in chosen]
    return pairs


def measure_channels(pictures: Sequence[np.ndarray]) -> Normalization:
    """Mean and deviation of the channels of all images `(H, W, 3)` uint8, each image with the same weight.

    Rounded as in the saved image processor, so that it normalizes exactly as training did.
    """
    sums = np.zeros((2, 3))
    for picture in pictures:
        pixels = picture.reshape(-1, 3).astype(np.float64) / 255
        sums += np.stack([pixels.mean(0), (pixels**2).mean(0)])
    mean, square = sums / len(pictures)
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return tuple(round(float(v), 6) for v in mean), tuple(round(float(v), 6) for v in std)


@dataclass(frozen=True)
class Augmentation:
    """Random variation of crops.

    Attributes:
        scale: (smallest, largest) factor by which the scene is scaled.
        gain: images are multiplied by a factor from 1 - this to 1 + this.
        gamma: images are raised to a power from exp(-this) to exp(this).
        rare_classes: probability that a crop is centered on an object of a class, drawn uniformly from the classes.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    gain: float = 0.0
    gamma: float = 0.0
    rare_classes: float = 0.0

    def draw_scale(self, rng: np.random.Generator) -> float:
        """A factor by which the scene is scaled; its logarithm is uniform."""
        return float(np.exp(rng.uniform(*np.log(self.scale))))

    def brightness(self, rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
        """An image uint8 as float32 in [0, 1], brighter or darker."""
        pixels = np.divide(picture, 255, dtype=np.float32)
        gain, gamma = self.gain, self.gamma
        factor, power = rng.uniform(1 - gain, 1 + gain), np.exp(rng.uniform(-gamma, gamma))
        return np.minimum(pixels ** np.float32(power) * np.float32(factor), 1) if gain or gamma else pixels


class PictureChoice(Generic[Picture]):
    """Draws images, by the weights of their sources or for a rare class.

    Args:
        pictures: those of each source; with several inputs, one after the other.
        weights: relative frequency of each source; None: its number of images.
        classes: class ids that may be drawn as rare.
        classes_of: class ids in an image.
    """

    def __init__(
        self,
        pictures: Sequence[Sequence[Picture]],
        weights: Sequence[float | None],
        classes: Iterable[int],
        classes_of: Callable[[Picture], Iterable[int]],
    ) -> None:
        self.pictures = pictures
        shares = [len(p) if weight is None else weight for p, weight in zip(pictures, weights, strict=True)]
        self._upper = np.cumsum(np.asarray(shares, dtype=np.float64)) / sum(shares)
        having: dict[int, list[Picture]] = {}
        for picture in (picture for of_source in pictures for picture in of_source):
            for value in classes_of(picture):
                having.setdefault(int(value), []).append(picture)
        self._having = [(value, having[value]) for value in classes if value in having]

    def draw(self, rng: np.random.Generator, rare_classes: float) -> tuple[Picture, int | None]:
        """An image, and the rare class for which it was drawn, if any."""
        if self._having and rng.random() < rare_classes:
            value, having = self._having[int(rng.integers(len(self._having)))]
            return having[int(rng.integers(len(having)))], value
        of_source = self.pictures[int(np.searchsorted(self._upper, rng.random(), side="right"))]
        return of_source[int(rng.integers(len(of_source)))], None


def draw_corner(rng: np.random.Generator, extent: int, side: int, target: int | None) -> int:
    """Start of a window of `side` pixels along one axis of an image of `extent` pixels.

    A window larger than the image contains it, so it may start before 0. `target` is placed randomly in the central
    half of the window, as far as the edges of the image allow.
    """
    low, high = min(0, extent - side), max(0, extent - side)
    if target is None:
        return int(rng.integers(low, high + 1))
    return int(np.clip(target - side // 2 + int(rng.integers(-(side // 4), side // 4 + 1)), low, high))


class ImageValidation(Generic[Picture]):
    """A `Validation` of the training loop: whole images, processed as a user would do it.

    Args:
        wrap: from a network to a `Segmenter` or `Detector`.
        pictures: by the name of the input, in their own size.
        score: name of the headline number.
        evaluate: result of a segmenter or detector on images.
        row: images of one row of the grid.
    """

    def __init__(
        self,
        wrap: Callable[[Any], Any],
        pictures: Mapping[str, Sequence[Picture]],
        score: str,
        evaluate: Callable[[Any, Sequence[Picture]], Any],
        row: Callable[[Any, Picture], Sequence[np.ndarray]],
    ) -> None:
        self.pictures, self._wrap, self._evaluate, self._row = pictures, wrap, evaluate, row
        self._prefixes = {name: f"{name}/" if len(pictures) > 1 else "" for name in pictures}
        self.headline = [f"{prefix}{score}" for prefix in self._prefixes.values()]

    def evaluate(self, model: Network, name: str) -> Any:
        """Result on the images of the input `name`."""
        return self._evaluate(self._wrap(model), self.pictures[name])

    def measure(self, model: Network, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """All numbers, with several inputs as `visible/mIoU`, and a grid of some images with truth and prediction."""
        numbers = {
            f"{prefix}{key}": value
            for name, prefix in self._prefixes.items()
            for key, value in self.evaluate(model, name).numbers().items()
        }
        pictures = [item for items in self.pictures.values() for item in items]
        chosen = np.unique(np.linspace(0, len(pictures) - 1, SHOWN).round().astype(int))
        wrapped = self._wrap(model)
        return numbers, picture_grid([self._row(wrapped, pictures[int(index)]) for index in chosen])


class ImageTask:
    """The part of a `TrainingTask` that SegFormer and detectors share.

    Args:
        training: options of the run.
        config: options of the network and its images.
        network: "SegFormer", for messages.
        annotation: "labels", for messages.
    """

    def __init__(self, training: TrainingConfig, config: Any, network: str, annotation: str) -> None:
        if training.swap_probability:
            raise ConfigError(f"swap_probability = {training.swap_probability}: {network} sees one image, use 0")
        if not training.sources:
            raise ConfigError(f"sources is empty: name at least one paired set with {annotation} to train on")
        self.training, self.config = training, config
        self.cache = Path(config.cache_dir)
        self._normalization: Normalization | None = None

    @cached_property
    def inputs(self) -> list[Inputs]:
        """The images that the network sees."""
        return self.config.open_inputs()

    @property
    def augmentation(self) -> Augmentation:
        """Random variation of the crops."""
        scale = self.training.smallest_scale, self.config.largest_scale
        return Augmentation(scale, self.training.gain_jitter, self.config.gamma_jitter, self.config.rare_class_crops)

    @property
    def normalization(self) -> Normalization:
        """That of `initial_weights`, else that of the training images."""
        if self._normalization is None:
            raise RuntimeError("open_samples must be called first: it measures the training images")
        return self._normalization

    def save_results(
        self,
        validation: ImageValidation[Any],
        model: Network,
        folder: Path,
        stem: str,
        sources: Sequence[Source],
        **more: Any,
    ) -> None:
        """Write the result on each input: `STEM.json`, or `STEM-INPUT.json` with several inputs."""
        about = [{"path": source.path, "split": source.split} for source in sources]
        for one in self.inputs:
            name = f"{stem}.json" if len(self.inputs) == 1 else f"{stem}-{file_name(one.name)}.json"
            result = validation.evaluate(model, one.name)
            result.save(folder / name, input=one.name, sources=about, seed=self.training.seed, **more)
