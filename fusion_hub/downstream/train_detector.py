"""Training of detectors: options, samples and the task for `Trainer`.

Networks and losses are those of `transformers`: RT-DETRv2 and D-FINE, whose predictions are matched one to one to the
boxes, so that no suppression is needed afterwards.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fusion_hub.data.annotations import BoxedPair, find_boxes
from fusion_hub.downstream.detector_networks import (
    ARCHITECTURES,
    VARIANTS,
    image_processor,
    load_network,
    new_network,
)
from fusion_hub.downstream.detectors import TransformersDetector
from fusion_hub.downstream.draw import draw_detections
from fusion_hub.downstream.image_training import (
    Augmentation,
    ImageTask,
    ImageValidation,
    InputConfig,
    Normalization,
    PictureChoice,
    config_errors,
    draw_corner,
    measure_channels,
    open_pairs,
)
from fusion_hub.downstream.inputs import Inputs, read_inputs
from fusion_hub.downstream.protocols import Detections
from fusion_hub.downstream.scores import WORKING_SCORE, evaluate_detector
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, Source, TrainingConfig, expand_variables, option
from fusion_hub.training.samples import Batch

NO_OBJECT = -1
"""Class id of the rows that pad the boxes of a sample."""
MIN_SIDE = 2.0
"""Boxes narrower or lower than this in a sample, in its pixels, are left out."""
MIN_SHARE = 0.3
"""Boxes with a smaller share of their area inside a view are left out."""


@dataclass(frozen=True)
class DetectorConfig(InputConfig):
    """Input, boxes, network and augmentation of a detector's run."""

    image_size: list[int] = option(
        "height and width to which images are resized for the network, multiples of 32", [256, 320]
    )
    classes: list[str] = option(
        "names of the classes to detect; boxes of other classes are left out", ["person", "bicycle", "car"]
    )
    annotations: list[str] | None = option("box files to use, by stem (vis ir); empty: the union of all", None)
    test_sources: list[Source] = option("paired sets for the final evaluation; empty: the validation sources", [])

    # --- the network
    architecture: str = option(f"of a new network: {', '.join(ARCHITECTURES)}", "rt_detr_v2", choices=ARCHITECTURES)
    variant: str = option(f"size of a new network: {', '.join(VARIANTS)}", "small", choices=tuple(VARIANTS))
    initial_weights: str | None = option(
        "folder or Hub id of a detector to start from; its classes may differ; empty: random weights", None
    )
    queries: int = option("largest number of objects found in an image", 80, 1)
    denoising_queries: int = option("about this many noisy boxes are restored in training; 0: none", 60, 0)

    # --- the loss, which is that of `transformers`
    repeats: int = option("number of predictions matched to each box in the first part of the steps", 1, 1)
    repeats_fraction: float = option("length of that part, 0 to 1; afterwards one is matched to each box", 0.0, 0, 1)

    # --- augmentation; smallest_scale and gain_jitter are options of the loop
    largest_scale: float = option("scenes are enlarged by a random factor up to this", 1.0, 1, 100)
    gamma_jitter: float = option("images are raised to a power from exp(-this) to exp(this)", 0.0, 0, 3)
    rare_class_crops: float = option("probability of a view centered on an object of a random class", 0.0, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "test_sources", [Source.parse(source) for source in self.test_sources])
        if len(self.image_size) != 2 or any(side < 32 or side % 32 for side in self.image_size):
            raise ConfigError(f"image_size must be height and width, multiples of 32, got {self.image_size}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must be one or more different names, got {self.classes}")


# --- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BoxedPicture:
    """An image for the network and the objects in it.

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
    """The pairs of a source and their boxes, or `count` evenly spaced ones.

    A source may know only some of the classes; objects of the others are then not annotated.

    Raises:
        ConfigError: there is no such dataset, or it has no boxes.
    """
    pairs = open_pairs(source, count)
    with config_errors():
        return find_boxes(pairs, classes, annotations, every_class=False)


def read_boxed(inputs: Inputs, boxed: Sequence[BoxedPair], source: Source, cache: Path) -> list[BoxedPicture]:
    """Images and boxes in memory, in their own size.

    Raises:
        ConfigError: an image cannot be read, or a box lies outside it.
    """
    result = []
    with config_errors():
        images = read_inputs(inputs, [item.pair for item in boxed], source.label, cache)
        for item, image in zip(boxed, images, strict=True):
            right, bottom = item.boxes[:, 2:].max(0, initial=0)
            if right > image.width + 1 or bottom > image.height + 1:
                raise ConfigError(
                    f"{source.label}: the image {item.name!r} is {image.width}x{image.height}, but boxes extend to "
                    f"{right:g}x{bottom:g}: they must be in pixels of this image"
                )
            result.append(BoxedPicture(item.name, np.asarray(image), item.boxes, item.class_ids))
    return result


class DetectionCrops:
    """Random views of images with boxes; sample `number` is always the same view.

    A view has the proportions of its whole image and is resized to the shape of the network's input, as the image
    processor resizes whole images: an object has the same proportions in training and in use. Where a view is larger
    than the image, the rest is black.

    Args:
        pictures: those of each source; with several inputs, one after the other.
        weights: relative frequency of each source; None: its number of images.
        seed: at least 0.
        classes: number of classes.
        shape: `(H, W)` of the network's input; samples have these proportions.
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
        self.max_boxes = max((len(item.boxes) for of_source in pictures for item in of_source), default=0)
        self._choice = PictureChoice(pictures, weights, range(classes), lambda item: np.unique(item.class_ids))

    def sample(self, number: int, crop_size: int) -> Batch:
        """The view that belongs to `number`, `crop_size` pixels high; its width is the nearest multiple of 32.

        Returns:
            `image` (3, crop_size, width) float32 in [0, 1]; `boxes` (max_boxes, 4) float32: center, width and height
            as fractions of the view; `classes` (max_boxes,) int64, `NO_OBJECT` for padding; `sample`: the number,
            int64.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        item, rare_class = self._choice.draw(rng, self.augmentation.rare_classes)
        size = crop_size, max(32, 32 * round(crop_size * self.shape[1] / self.shape[0] / 32))
        target: tuple[int | None, int | None] = (None, None)
        if rare_class is not None:
            (having,) = np.nonzero(item.class_ids == rare_class)
            left, top, right, bottom = item.boxes[having[int(rng.integers(len(having)))]]
            target = int(top + bottom) // 2, int(left + right) // 2
        scale, extents = self.augmentation.draw_scale(rng), item.picture.shape[:2]
        sides = [max(1, round(extent / scale)) for extent in extents]
        top, left = (draw_corner(rng, *numbers) for numbers in zip(extents, sides, target, strict=True))
        view = (left, top, left + sides[1], top + sides[0])
        image = Image.fromarray(item.picture)
        image = image if view == (0, 0, *image.size) else image.crop(view)
        picture = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
        boxes, which = boxes_in_view(item.boxes, view, size)
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        pixels = self.augmentation.brightness(rng, picture)
        rows = np.zeros((self.max_boxes, 4), np.float32)
        ids = np.full(self.max_boxes, NO_OBJECT, np.int64)
        rows[: len(boxes)] = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        ids[: len(boxes)] = item.class_ids[which]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "boxes": torch.from_numpy(rows),
            "classes": torch.from_numpy(ids),
            "sample": torch.tensor(number, dtype=torch.int64),
        }


def boxes_in_view(
    boxes: np.ndarray, view: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes inside a view as fractions of it, and their indices; boxes mostly outside it are left out.

    Args:
        boxes: `(N, 4)`: left, top, right, bottom in pixels of the image.
        view: the same of the view.
        size: `(H, W)` of the view after resizing.

    Returns:
        `(M, 4)` float32 in [0, 1] and `(M,)`.
    """
    sides = np.array([view[2] - view[0], view[3] - view[1]], np.float64)
    whole = (boxes.astype(np.float64) - np.tile(view[:2], 2)) / np.tile(sides, 2)
    inside = np.clip(whole, 0, 1)
    extent = inside[:, 2:] - inside[:, :2]
    share = extent.prod(1) / np.maximum((whole[:, 2:] - whole[:, :2]).prod(1), 1e-12)
    (which,) = np.nonzero((extent * size[::-1] >= MIN_SIDE).all(1) & (share >= MIN_SHARE))
    return inside[which].astype(np.float32), which


# --- the task --------------------------------------------------------------------------------------------------------


class DetectorTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    Args:
        model: the network; trained in place.
        normalization: mean and deviation of the three channels; the image processor has the same.
        repeats: number of predictions matched to each box ...
        repeated_steps: ... before this step; afterwards it is one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, normalization: Normalization, repeats: int = 1, repeated_steps: int = 0) -> None:
        super().__init__()
        self.model, self.repeats, self.repeated_steps = model, repeats, repeated_steps
        for name, values in zip(("mean", "std"), normalization, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch (see `DetectionCrops.sample`) and its parts.

        Parts: class and box of the last decoder layer, those of all earlier layers (`auxiliary`), and the restoration
        of noisy boxes (`denoising`), whose noise comes from torch's generator, which the loop seeds for each step.
        """
        times = self.repeats if step < self.repeated_steps else 1
        labels = [
            {"class_labels": class_ids[objects].repeat(times), "boxes": boxes[objects].repeat(times, 1)}
            for boxes, class_ids in zip(batch["boxes"], batch["classes"], strict=True)
            for objects in [class_ids != NO_OBJECT]
        ]
        output = self.model(pixel_values=(batch["image"] - self.mean) / self.std, labels=labels)
        parts = {name: torch.zeros_like(output.loss) for name in ("class", "box", "auxiliary", "denoising")}
        for name, value in output.loss_dict.items():
            kind = "denoising" if "_dn_" in name else "auxiliary" if "_aux_" in name else None
            parts[kind or ("class" if name == "loss_vfl" else "box")] += value.detach()
        return output.loss, parts


class DetectorTask(ImageTask):
    """A detector for `Trainer`: see `fusion_hub.training.TrainingTask`."""

    find_unused_parameters = True  # batches without an object restore no boxes

    def __init__(self, training: TrainingConfig, config: DetectorConfig) -> None:
        super().__init__(training, config, "a detector", "boxes")
        for name in ("crop_size", "late_crop_size"):
            if (getattr(training, name) or 0) % 32:
                raise ConfigError(f"{name} must be a multiple of 32 for a detector, got {getattr(training, name)}")
        self.size = config.image_size[0], config.image_size[1]
        self._test: ImageValidation[BoxedPicture] | None = None

    def open_samples(self, config: TrainingConfig) -> DetectionCrops:
        """Views of the training images, which are fused now if necessary."""
        names = self.config.classes
        boxed = [open_boxed(source, names, self.config.annotations) for source in config.sources]  # fusing is slow
        shown = {int(number) for items in boxed for item in items for number in item.class_ids}
        if absent := [name for number, name in enumerate(names) if number not in shown]:
            raise ConfigError(f"no training source has a box of the class {absent[0]!r}: correct it, or leave it out")
        pictures = [
            [picture for inputs in self.inputs for picture in read_boxed(inputs, items, source, self.cache)]
            for items, source in zip(boxed, config.sources, strict=True)
        ]
        measured = measure_channels([item.picture for of_source in pictures for item in of_source])
        self._normalization = self._normalization or measured
        weights = [source.weight for source in config.sources]
        return DetectionCrops(pictures, weights, config.seed, len(names), self.augmentation, self.size, boxed)

    def open_validation(self, config: TrainingConfig) -> ImageValidation[BoxedPicture] | None:
        """Whole images of `config.validation_sources`; those of the final evaluation are opened too."""
        sources = config.validation_sources if config.validation_pairs else []
        validation = self._open_pictures(sources, config.validation_pairs)
        self._test = self._open_pictures(self.config.test_sources) or validation
        return validation

    def _open_pictures(
        self, sources: Sequence[Source], count: int | None = None
    ) -> ImageValidation[BoxedPicture] | None:
        pictures: dict[str, list[BoxedPicture]] = {inputs.name: [] for inputs in self.inputs}
        for source in sources:
            items = open_boxed(source, self.config.classes, self.config.annotations, count)
            for inputs in self.inputs:
                pictures[inputs.name] += read_boxed(inputs, items, source, self.cache)
        classes = self.config.classes

        def evaluate(detector: TransformersDetector, items: Sequence[BoxedPicture]) -> Any:
            return evaluate_detector(detector, ((i.name, i.picture, i.boxes, i.class_ids) for i in items), classes)

        def overlays(detector: TransformersDetector, item: BoxedPicture) -> list[np.ndarray]:
            scores, names = np.ones(len(item.boxes), np.float32), dict(enumerate(classes))
            truth = Detections.of(item.boxes, scores, item.class_ids, names, item.picture.shape[:2])
            found = detector.detect(item.picture, threshold=WORKING_SCORE)
            return [np.asarray(draw_detections(item.picture, one)) for one in (truth, found)]

        return ImageValidation(self.detector, pictures, "mAP50", evaluate, overlays) if sources else None

    def build_model(self) -> Network:
        """A new network, or a copy of `initial_weights`, with new class layers if its classes differ."""
        config = self.config
        if config.initial_weights is None:
            return new_network(
                config.architecture, config.variant, config.classes, config.queries, config.denoising_queries
            )
        name = expand_variables(config.initial_weights)
        model, self._normalization = load_network(name, config.classes, config.queries, config.denoising_queries)
        return model

    def build_training_module(self, model: Network) -> DetectorTraining:
        """The loss around `model`."""
        steps = round(self.config.repeats_fraction * self.training.max_steps)
        return DetectorTraining(model, self.normalization, self.config.repeats, steps)

    def detector(self, model: Network) -> TransformersDetector:
        """The network as users will have it, with its image processor."""
        return TransformersDetector(model, image_processor(self.size, self.normalization))

    def save_pipeline(self, model: Network, folder: Path) -> None:
        """A folder for `TransformersDetector.from_pretrained`, with its input and its scores on the test sources."""
        model.save_pretrained(folder)
        image_processor(self.size, self.normalization).save_pretrained(folder)
        about = {
            "inputs": [one.to_dict() for one in self.inputs],
            "classes": self.config.classes,
            "annotations": self.config.annotations,
            "image_size": self.config.image_size,
        }
        (folder / "inputs.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if self._test is not None:
            sources = self.config.test_sources or self.training.validation_sources
            self.save_results(self._test, model, folder, "detection", sources, steps=self.training.max_steps)
