"""Training on single annotated images, the part that SegFormer and detectors share.

Options of the images, crops and their augmentation, normalization, validation, and the `ImageTask` for `Trainer`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from fusion_hub.downstream.inputs import Inputs, file_name, open_inputs, read_inputs
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import (
    ConfigError,
    Source,
    TrainingConfig,
    expand_variables,
    missing_data_explained,
)
from fusion_hub.training.samples import Batch
from fusion_hub.training.validation import picture_grid

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the three channels, of images in [0, 1]."""
View = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of an image; it may leave the image."""
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


# --- samples ---------------------------------------------------------------------------------------------------------


class Augmentation(NamedTuple):
    """Random variation of crops."""

    scale: tuple[float, float] = (1.0, 1.0)  # smallest and largest factor of the scene; its logarithm is uniform
    gain: float = 0.0  # images are multiplied by a factor from 1 - this to 1 + this
    gamma: float = 0.0  # images are raised to a power from exp(-this) to exp(this)
    rare_classes: float = 0.0  # probability that a crop is centered on an object of a random class


class ImageCrops(ABC):
    """Random crops of annotated images; sample `number` is always the same crop.

    Args:
        pictures: those of each source; with several inputs, one after the other. Each has `picture` (H, W, 3) uint8,
            `present()`, the ids of the classes in it, and `point(rng, class_id)`, row and column of one object.
        weights: relative frequency of each source; None: its number of images.
        seed: at least 0.
        classes: number of classes; from `first_class` on they may be drawn as rare.
        sets: the pairs of each source, for the run's report.
    """

    first_class: ClassVar[int] = 0
    border: ClassVar[int] = 0  # gray value outside of an image

    def __init__(
        self,
        pictures: Sequence[Sequence[Any]],
        weights: Sequence[float | None],
        seed: int,
        classes: int,
        augmentation: Augmentation,
        sets: Sequence[Sequence[Any]] = (),
    ) -> None:
        self.pictures, self.seed, self.augmentation, self.sets = pictures, seed, augmentation, sets
        shares = [len(p) if weight is None else weight for p, weight in zip(pictures, weights, strict=True)]
        self._upper = np.cumsum(np.asarray(shares, dtype=np.float64)) / sum(shares)
        having: dict[int, list[Any]] = {}
        for item in (item for of_source in pictures for item in of_source):
            for class_id in item.present():
                having.setdefault(int(class_id), []).append(item)
        self._having = [(one, having[one]) for one in range(self.first_class, classes) if one in having]

    @abstractmethod
    def shapes(self, extents: tuple[int, int], crop_size: int, scale: float) -> tuple[Sequence[int], Sequence[int]]:
        """`(H, W)` of the sample, and of its view in an image of `extents`."""

    @abstractmethod
    def annotation(self, item: Any, view: View, size: Sequence[int], flipped: bool) -> Batch:
        """The annotation inside a view that is resized to `size` (H, W) and, if `flipped`, mirrored."""

    def sample(self, number: int, crop_size: int) -> Batch:
        """The crop that belongs to `number`: `image` (3, H, W) float32 in [0, 1], `sample`, and the annotation."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        variation = self.augmentation
        target: tuple[int | None, int | None] = (None, None)
        if self._having and rng.random() < variation.rare_classes:
            class_id, having = self._having[int(rng.integers(len(self._having)))]
            item = having[int(rng.integers(len(having)))]
            target = item.point(rng, class_id)
        else:
            of_source = self.pictures[int(np.searchsorted(self._upper, rng.random(), side="right"))]
            item = of_source[int(rng.integers(len(of_source)))]
        extents = item.picture.shape[:2]
        size, sides = self.shapes(extents, crop_size, float(np.exp(rng.uniform(*np.log(variation.scale)))))
        top, left = (draw_corner(rng, *numbers) for numbers in zip(extents, sides, target, strict=True))
        view = (left, top, left + sides[1], top + sides[0])
        image = Image.new("RGB", (sides[1], sides[0]), (self.border,) * 3)
        image.paste(Image.fromarray(item.picture), (-left, -top))
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        flipped = rng.random() < 0.5
        tones = np.divide(np.arange(256), 255, dtype=np.float32)
        if variation.gain or variation.gamma:
            gain = rng.uniform(1 - variation.gain, 1 + variation.gain)
            power = np.exp(rng.uniform(-variation.gamma, variation.gamma))
            tones = np.minimum(tones ** np.float32(power) * np.float32(gain), 1)
        pixels = tones[np.asarray(image)[:, :: -1 if flipped else 1]]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            **self.annotation(item, view, size, flipped),
            "sample": torch.tensor(number, dtype=torch.int64),
        }


def draw_corner(rng: np.random.Generator, extent: int, side: int, target: int | None) -> int:
    """Start of a window of `side` pixels along one axis of an image of `extent` pixels.

    A window larger than the image contains it, so it may start before 0. `target` is placed randomly in the central
    half of the window, as far as the edges of the image allow.
    """
    low, high = min(0, extent - side), max(0, extent - side)
    if target is None:
        return int(rng.integers(low, high + 1))
    return int(np.clip(target - side // 2 + int(rng.integers(-(side // 4), side // 4 + 1)), low, high))


def measure_channels(pictures: Sequence[np.ndarray]) -> Normalization:
    """Mean and deviation of the channels of all images `(H, W, 3)` uint8, each image with the same weight.

    Rounded as in the saved image processor, so that it normalizes exactly as training did.
    """
    unit = (picture / 255 for picture in pictures)
    mean, square = np.mean([[one.mean((0, 1)), (one * one).mean((0, 1))] for one in unit], axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())


# --- the task --------------------------------------------------------------------------------------------------------


class ImageTraining(nn.Module):
    """A network, trained in place, and the normalization of its images; subclasses add the loss."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, normalization: Normalization) -> None:
        super().__init__()
        self.model = model
        for name, values in zip(("mean", "std"), normalization, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def normalized(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The images `(B, 3, H, W)` as the network sees them."""
        return (batch["image"] - self.mean) / self.std


class ImageValidation:
    """A `Validation` of the training loop: whole images in their own size, processed as a user would do it.

    Args:
        task: reads the images, and wraps and scores the network.
        sources, count: paired sets, and the number of evenly spaced pairs of each; None: all.
    """

    def __init__(self, task: "ImageTask", sources: Sequence[Source], count: int | None = None) -> None:
        self.task, self.sources = task, sources
        self.pictures: dict[str, list[Any]] = {inputs.name: [] for inputs in task.inputs}
        for source in sources:
            items = task.open_annotated(source, count)
            for inputs in task.inputs:
                self.pictures[inputs.name] += task.read(inputs, items, source)
        self._prefixes = {name: f"{name}/" if len(self.pictures) > 1 else "" for name in self.pictures}
        self.headline = [f"{prefix}{task.score}" for prefix in self._prefixes.values()]

    def measure(self, model: Network, device: torch.device) -> tuple[dict[str, float], Image.Image]:
        """All numbers, with several inputs as `visible/mIoU`, and a grid of some images with truth and prediction."""
        predictor = self.task.predictor(model)
        numbers = {
            f"{prefix}{key}": value
            for name, prefix in self._prefixes.items()
            for key, value in self.task.evaluate(predictor, self.pictures[name]).numbers().items()
        }
        pictures = evenly_spaced([item for items in self.pictures.values() for item in items], SHOWN)
        return numbers, picture_grid([self.task.row(predictor, item) for item in pictures])


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, or all of fewer."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


class ImageTask(ABC):
    """A network on single images for `Trainer`: see `fusion_hub.training.TrainingTask`."""

    network: ClassVar[str]  # what it is called in messages, as the annotation
    annotation: ClassVar[str]
    score: ClassVar[str]  # name of the headline number
    files: ClassVar[tuple[str, str]]  # JSON file with inputs and classes in the saved folder; stem of those with scores
    types: ClassVar[tuple[Any, Any, Any]]  # model and image processor of `transformers`, and what users load
    architectures: ClassVar[Sequence[str]]  # those of `transformers` that `initial_weights` may have

    def __init__(self, training: TrainingConfig, config: Any) -> None:
        for name in ("swap_probability", "degrade_probability"):
            if value := getattr(training, name):
                raise ConfigError(f"{name} = {value}: {self.network} sees one image, use 0")
        if not training.sources:
            raise ConfigError(f"sources is empty: name at least one paired set with {self.annotation} to train on")
        self.training, self.config = training, config
        self.size = None if config.image_size is None else (config.image_size[0], config.image_size[1])
        self.normalization: Any = None  # of the training images, or of `initial_weights`
        self.test_sources: Sequence[Source] = ()  # for the final scores, if not the validation sources
        # Settings of the network besides its classes; further facts in the files with the inputs and with the scores.
        self.settings, self.facts, self.result_facts = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        self._final: ImageValidation | None = None

    @abstractmethod
    def annotate(self, pairs: Sequence[Any]) -> list[Any]:
        """The pairs with their annotations."""

    @abstractmethod
    def annotated_picture(self, item: Any, image: Image.Image, where: str, resized: bool) -> Any:
        """An image with its annotation, in the network's size if `resized`; `where` begins error messages."""

    @abstractmethod
    def crops(self, pictures: Sequence[Sequence[Any]], *common: Any, sets: Sequence[Sequence[Any]]) -> ImageCrops:
        """The training samples, from the arguments of `ImageCrops`."""

    @abstractmethod
    def new_network(self, settings: Mapping[str, Any]) -> Network:
        """A network with random weights from torch's generator."""

    @abstractmethod
    def evaluate(self, predictor: Any, pictures: Sequence[Any]) -> Any:
        """The result of a predictor on images."""

    @abstractmethod
    def row(self, predictor: Any, item: Any) -> list[np.ndarray]:
        """Pictures of one row of the validation grid."""

    @cached_property
    def inputs(self) -> list[Inputs]:
        """The images that the network sees."""
        opened = []
        for name in self.config.input:
            with config_errors(f"input = {name}: "):
                opened.append(open_inputs(expand_variables(name), self.config.input_dtype))
        return opened

    def open_annotated(self, source: Source, count: int | None = None) -> list[Any]:
        """The annotated pairs of a source, or `count` evenly spaced ones; `ConfigError` if there are none."""
        if source.infrared_range or source.visible_range:
            raise ConfigError(f"{source.label}: a range of values is for the training of fusion networks: leave it out")
        with config_errors():
            with missing_data_explained(source):
                pairs = list(source.resolve().open())
            return self.annotate(pairs if count is None else evenly_spaced(pairs, count))

    def read(self, inputs: Inputs, items: Sequence[Any], source: Source, resized: bool = False) -> list[Any]:
        """Images and annotations in memory; `ConfigError` if one cannot be read, or they do not fit each other."""
        with config_errors():
            images = read_inputs(inputs, [item.pair for item in items], source.label, Path(self.config.cache_dir))
            size = "{0.width}x{0.height}".format
            return [
                self.annotated_picture(
                    item, image, f"{source.label}: the image {item.name!r} is {size(image)}", resized
                )
                for item, image in zip(items, images, strict=True)
            ]

    def open_samples(self, config: TrainingConfig) -> ImageCrops:
        """Crops of the training images, which are fused now if necessary."""
        annotated = [self.open_annotated(source) for source in config.sources]  # first, because fusing is slow
        self.check(annotated)
        pictures = [
            [picture for inputs in self.inputs for picture in self.read(inputs, items, source, resized=True)]
            for items, source in zip(annotated, config.sources, strict=True)
        ]
        measured = measure_channels([item.picture for of_source in pictures for item in of_source])
        self.normalization = self.normalization or measured
        model = self.config
        scale = config.smallest_scale, model.largest_scale
        augmentation = Augmentation(scale, config.gain_jitter, model.gamma_jitter, model.rare_class_crops)
        weights = [source.weight for source in config.sources]
        return self.crops(pictures, weights, config.seed, len(model.classes), augmentation, sets=annotated)

    def check(self, annotated: Sequence[Sequence[Any]]) -> None:  # noqa: B027  # nothing to check for SegFormer
        """Raises `ConfigError` if the annotations of the training sources do not suffice."""

    def open_validation(self, config: TrainingConfig) -> ImageValidation | None:
        """Whole images of `config.validation_sources`; those of the final scores are opened too."""
        sources = config.validation_sources if config.validation_pairs else []
        validation = ImageValidation(self, sources, config.validation_pairs) if sources else None
        self._final = ImageValidation(self, self.test_sources) if self.test_sources else validation
        return validation

    def build_model(self) -> Network:
        """A new network, or a copy of `initial_weights`, with new last layers if its classes differ."""
        names = dict(enumerate(self.config.classes))
        settings = {"id2label": names, "label2id": {name: i for i, name in names.items()}, **self.settings}
        if self.config.initial_weights is None:
            return self.new_network(settings)
        name = expand_variables(self.config.initial_weights)
        if not Path(name).is_dir() and name.strip("/").count("/") > 1:
            raise ConfigError(
                f"initial_weights = {name} is no folder: train those weights first (the bundled configurations of that "
                "purpose end in _start), give a Hub id owner/name, or nothing ('') for random weights"
            )
        with config_errors(f"initial_weights = {name} cannot be loaded: "):
            architecture = transformers.AutoConfig.from_pretrained(name).model_type
            if architecture not in self.architectures:
                raise ValueError(f"it is a {architecture}, not one of {', '.join(self.architectures)}")
            model = self.types[0].from_pretrained(
                name, use_safetensors=True, ignore_mismatched_sizes=True, dtype=torch.float32, **settings
            )
            processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
        self.normalization = (0.0,) * 3, (1.0,) * 3
        if processor.do_normalize:
            self.normalization = tuple(processor.image_mean), tuple(processor.image_std)
        return model

    def predictor(self, model: Network) -> Any:
        """The network as users will have it, with its image processor."""
        return self.types[2](model, self.processor())

    def processor(self) -> Any:
        """Resizes images to `image_size`, without keeping proportions, and normalizes them."""
        mean, std = self.normalization
        size = {} if self.size is None else {"size": {"height": self.size[0], "width": self.size[1]}}
        settings = {"do_resize": self.size is not None, "do_normalize": True, **size}
        return self.types[1](**settings, image_mean=list(mean), image_std=list(std))

    def save_network(self, model: Network, folder: Path) -> None:
        """Write what the predictor is loaded from."""
        model.save_pretrained(folder)
        self.processor().save_pretrained(folder)

    def save_pipeline(self, model: Network, folder: Path) -> None:
        """A folder for `from_pretrained` of the predictor, with its inputs and its scores on each of them."""
        self.save_network(model, folder)
        about = {"inputs": [one.to_dict() for one in self.inputs], "classes": self.config.classes, **self.facts}
        about["image_size"] = self.config.image_size
        (folder / self.files[0]).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if self._final is None:
            return
        sources = [{"path": source.path, "split": source.split} for source in self._final.sources]
        for name, pictures in self._final.pictures.items():
            file = f"{self.files[1]}.json" if len(self.inputs) == 1 else f"{self.files[1]}-{file_name(name)}.json"
            result = self.evaluate(self.predictor(model), pictures)
            result.save(folder / file, input=name, sources=sources, seed=self.training.seed, **self.result_facts)
