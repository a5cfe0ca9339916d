"""What trainings on single pictures share (segmentation, detection): which pictures, which part of them, how bright."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from fusion_hub.data.pictures import Pair
from fusion_hub.downstream.inputs import DTYPES, Inputs, open_inputs
from fusion_hub.training.config import ConfigError, Source, expand_variables, missing_data_explained, option

Picture = TypeVar("Picture")
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the three channels, of pictures in [0, 1]."""


@dataclass(frozen=True)
class InputConfig:
    """What a network after fusion sees."""

    input: list[str] = field(
        default_factory=lambda: ["visible"],
        metadata={
            "help": "visible, infrared, a rule (average, maximum, laplacian, guided_filter), a bundled fusion model, a "
            "pipeline folder, a Hub id, or a folder with one image for each pair; of several each crop is of one"
        },
    )
    input_dtype: str = option("in which a fusion model computes them: float32 or bfloat16", "float32")
    cache_dir: str = option("fused pictures are kept here, with what they were made by", "runs/inputs")

    def __post_init__(self) -> None:
        if self.input_dtype not in DTYPES:
            raise ConfigError(f"input_dtype must be one of {', '.join(DTYPES)}, got {self.input_dtype}")
        if not self.input or len(set(self.input)) < len(self.input):
            raise ConfigError(f"input must be one or more different names, got {self.input}")

    def open_inputs(self) -> list[Inputs]:
        """The pictures of each name. Raises `ConfigError` for a name that stands for nothing."""
        opened = []
        for name in self.input:
            try:
                opened.append(open_inputs(expand_variables(name), self.input_dtype))
            except (ValueError, OSError) as error:
                raise ConfigError(f"input = {name}: {error}") from error
        return opened


def open_pairs(source: Source, count: int | None = None) -> list[Pair]:
    """The pairs of a source; with `count` so many of them, evenly spaced.

    Raises:
        ConfigError: there is no such set.
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


def measure_channels(pictures: Sequence[np.ndarray]) -> Normalisation:
    """Mean and deviation of the channels of all pictures `(H, W, 3)` uint8, each picture with the same weight.

    Rounded as they are written, so that the saved processor does what training did.
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
    """How crops vary.

    Attributes:
        scale: (smallest, largest) factor by which the scene is scaled.
        gain: pictures are multiplied by a factor from 1 - this to 1 + this.
        gamma: pictures are raised to a power from exp(-this) to exp(this).
        rare_classes: how often a crop is centred on an object of one class, each of the classes equally often.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    gain: float = 0.0
    gamma: float = 0.0
    rare_classes: float = 0.0

    def draw_scale(self, rng: np.random.Generator) -> float:
        """A factor by which the scene is scaled: its logarithm is uniform."""
        return float(np.exp(rng.uniform(*np.log(self.scale))))

    def brightness(self, rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
        """A picture uint8 as float32 in [0, 1], brighter or darker."""
        pixels = np.divide(picture, 255, dtype=np.float32)
        gain, gamma = self.gain, self.gamma
        factor, power = rng.uniform(1 - gain, 1 + gain), np.exp(rng.uniform(-gamma, gamma))
        return np.minimum(pixels ** np.float32(power) * np.float32(factor), 1) if gain or gamma else pixels


class PictureChoice(Generic[Picture]):
    """Draws pictures: mostly each source as often as its weight says, sometimes one that has a rare class.

    Args:
        pictures: those of each source.
        weights: how often each source is drawn; None: its number of pictures.
        classes: numbers of the classes that are sought.
        classes_of: those that a picture has.
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
        having: dict[int, list[tuple[int, int]]] = {}  # where each class occurs
        for which, of_source in enumerate(pictures):
            for index, picture in enumerate(of_source):
                for value in classes_of(picture):
                    having.setdefault(int(value), []).append((which, index))
        self._classes = [value for value in classes if value in having]
        self._having = [having[value] for value in self._classes]

    def draw(self, rng: np.random.Generator, rare_classes: float) -> tuple[Picture, int | None]:
        """A picture, and the class for whose sake it was drawn, if any."""
        if self._classes and rng.random() < rare_classes:
            chosen = int(rng.integers(len(self._classes)))
            which, index = self._having[chosen][int(rng.integers(len(self._having[chosen])))]
            return self.pictures[which][index], self._classes[chosen]
        which = int(np.searchsorted(self._upper, rng.random(), side="right"))
        return self.pictures[which][int(rng.integers(len(self.pictures[which])))], None


def draw_corner(rng: np.random.Generator, extent: int, side: int, target: int | None) -> int:
    """Where a window of `side` pixels begins along one axis of a picture of `extent` pixels.

    A larger window has the picture somewhere in it, so it may begin before 0. `target` is to be near its middle:
    anywhere in the central half, as far as the picture's edges allow.
    """
    low, high = min(0, extent - side), max(0, extent - side)
    if target is None:
        return int(rng.integers(low, high + 1))
    return int(np.clip(target - side // 2 + int(rng.integers(-(side // 4), side // 4 + 1)), low, high))
