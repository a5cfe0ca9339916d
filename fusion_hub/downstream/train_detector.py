"""What a detector brings to the training loop: its pictures and boxes, its loss, its scores.

Networks and losses are `transformers`' own: RT-DETRv2 and D-FINE, whose predictions are matched one to one to the
boxes, so that nothing has to be suppressed afterwards.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion_hub.downstream.augmentation import Augmentation, InputConfig, Normalisation, measure_channels
from fusion_hub.downstream.detector_networks import (
    ARCHITECTURES,
    VARIANTS,
    image_processor,
    load_network,
    new_network,
    save_network,
)
from fusion_hub.downstream.detector_samples import NO_OBJECT, BoxedPicture, DetectionCrops, open_boxed, read_boxed
from fusion_hub.downstream.detector_validation import DetectionValidation
from fusion_hub.downstream.inputs import Inputs, file_name
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, Source, TrainingConfig, expand_variables, option


@dataclass(frozen=True)
class DetectorConfig(InputConfig):
    """Input, boxes, network and augmentation of a detector's run."""

    # --- what it sees, with what `InputConfig` says
    image_size: list[int] = field(
        default_factory=lambda: [256, 320],
        metadata={"help": "height and width to which pictures are resized for the network, multiples of 32"},
    )
    classes: list[str] = field(
        default_factory=lambda: ["person", "bicycle", "car"],
        metadata={"help": "names of the classes to find; boxes of others are left out"},
    )
    annotations: list[str] | None = field(
        default=None, metadata={"help": "files of boxes to use, by stem (vis ir); empty: the union of all"}
    )
    test_sources: list[Source] = field(
        default_factory=list,
        metadata={"help": "paired sets for the evaluation at the end; empty: the validation sources"},
    )

    # --- the network
    architecture: str = option(f"of a new network: {', '.join(ARCHITECTURES)}", "rt_detr_v2")
    variant: str = option(f"size of a new network: {', '.join(VARIANTS)}", "small")
    initial_weights: str | None = option(
        "folder or Hub id of a detector to start from, perhaps of other classes; empty: random weights", None
    )
    queries: int = option("objects that are looked for in each picture", 80)
    denoising_queries: int = option("about so many boxes with noise are restored in training; 0: none", 60)

    # --- the loss, which is `transformers`' own
    repeats: int = option("in the first part of the steps so many predictions are matched to each box", 1)
    repeats_fraction: float = option("that part, 0 to 1; then each box has one, and duplicates are unlearnt", 0.0)

    # --- augmentation; smallest_scale and gain_jitter are the loop's
    largest_scale: float = option("scenes are enlarged by a random factor up to this", 1.0)
    gamma_jitter: float = option("pictures are raised to a power from exp(-this) to exp(this)", 0.0)
    rare_class_crops: float = option("how often a view is centred on an object, of each class equally often", 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "test_sources", [Source.parse(source) for source in self.test_sources])
        for name, values in (("architecture", ARCHITECTURES), ("variant", tuple(VARIANTS))):
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)}")
        if len(self.image_size) != 2 or any(side < 32 or side % 32 for side in self.image_size):
            raise ConfigError(f"image_size must be height and width, multiples of 32, got {self.image_size}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must be one or more different names, got {self.classes}")
        for name, least, most in (
            ("queries", 1, math.inf),
            ("denoising_queries", 0, math.inf),
            ("repeats", 1, math.inf),
            ("repeats_fraction", 0, 1),
        ):
            if not least <= getattr(self, name) <= most:
                limits = f"{least} or more" if most == math.inf else f"between {least} and {most}"
                raise ConfigError(f"{name} must be {limits}, got {getattr(self, name)}")


class DetectorTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    Args:
        model: the network; trained in place.
        normalisation: mean and deviation of the three channels; the image processor has the same.
        repeats: how many predictions are matched to each box ...
        repeated_steps: ... before this step; from there on it is one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, normalisation: Normalisation, repeats: int = 1, repeated_steps: int = 0) -> None:
        super().__init__()
        self.model, self.repeats, self.repeated_steps = model, repeats, repeated_steps
        for name, values in zip(("mean", "std"), normalisation, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch (see `DetectionCrops.sample`) and its parts.

        Parts: class and box of the last decoder layer, the same of all earlier ones (`auxiliary`), and the restoring
        of boxes with noise (`denoising`), drawn from torch's generator, which the loop seeds for each step.
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


class DetectorTask:
    """A detector for `Trainer`: see `fusion_hub.training.loop.TrainingTask`."""

    find_unused_parameters = True  # batches without an object restore no boxes

    def __init__(self, training: TrainingConfig, config: DetectorConfig) -> None:
        if training.swap_probability:
            raise ConfigError(f"swap_probability = {training.swap_probability}: a detector sees one picture, use 0")
        if not training.sources:
            raise ConfigError("sources is empty: name at least one paired set with boxes to train on")
        for name in ("crop_size", "late_crop_size"):
            if (getattr(training, name) or 0) % 32:
                raise ConfigError(f"{name} must be a multiple of 32 for a detector, got {getattr(training, name)}")
        self.training, self.config = training, config
        self._normalisation: Normalisation | None = None
        self._test: DetectionValidation | None = None

    @cached_property
    def inputs(self) -> list[Inputs]:
        """The pictures that the network sees."""
        return self.config.open_inputs()

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the pictures in the network."""
        return self.config.image_size[0], self.config.image_size[1]

    def open_samples(self, config: TrainingConfig) -> DetectionCrops:
        """Views of the training pictures, which are fused now if they have to be."""
        names, annotations, cache = self.config.classes, self.config.annotations, Path(self.config.cache_dir)
        boxed = [open_boxed(source, names, annotations) for source in config.sources]  # quick; fusing is not
        shown = {int(number) for items in boxed for item in items for number in item.class_ids}
        if absent := [name for number, name in enumerate(names) if number not in shown]:
            raise ConfigError(f"no training source has a box of the class {absent[0]!r}: correct it, or leave it out")
        pictures = [
            [picture for inputs in self.inputs for picture in read_boxed(inputs, items, source, cache)]
            for items, source in zip(boxed, config.sources, strict=True)
        ]
        self._normalisation = measure_channels([item.picture for of_source in pictures for item in of_source])
        augmentation = Augmentation(
            (config.smallest_scale, self.config.largest_scale),
            config.gain_jitter,
            self.config.gamma_jitter,
            self.config.rare_class_crops,
        )
        weights = [source.weight for source in config.sources]
        return DetectionCrops(pictures, weights, config.seed, len(names), augmentation, self.size, boxed)

    def open_validation(self, config: TrainingConfig) -> DetectionValidation | None:
        """Whole pictures of `config.validation_sources`; those of the evaluation at the end are opened too."""
        sources = config.validation_sources if config.validation_pairs else []
        validation = self._open_pictures(sources, config.validation_pairs)
        self._test = self._open_pictures(self.config.test_sources) or validation
        return validation

    def _open_pictures(self, sources: Sequence[Source], count: int | None = None) -> DetectionValidation | None:
        pictures: dict[str, list[BoxedPicture]] = {inputs.name: [] for inputs in self.inputs}
        for source in sources:
            items = open_boxed(source, self.config.classes, self.config.annotations, count)
            for inputs in self.inputs:
                pictures[inputs.name] += read_boxed(inputs, items, source, Path(self.config.cache_dir))
        return DetectionValidation(self.detector, pictures, self.config.classes) if sources else None

    def build_model(self) -> Network:
        """A new network, or a copy of `initial_weights` with new class layers where its classes are others."""
        config = self.config
        if config.initial_weights is None:
            return new_network(
                config.architecture, config.variant, config.classes, config.queries, config.denoising_queries
            )
        name = expand_variables(config.initial_weights)
        model, self._normalisation = load_network(name, config.classes, config.queries, config.denoising_queries)
        return model

    def build_training_module(self, model: Network) -> DetectorTraining:
        """The loss around `model`."""
        steps = round(self.config.repeats_fraction * self.training.max_steps)
        return DetectorTraining(model, self._require_normalisation(), self.config.repeats, steps)

    def detector(self, model: Network) -> Any:
        """The network as users will have it, with its image processor."""
        from fusion_hub.downstream.detectors import TransformersDetector

        return TransformersDetector(model, image_processor(self.size, self._require_normalisation()))

    def save_pipeline(self, model: Network, folder: Path) -> None:
        """A folder for `TransformersDetector.from_pretrained`, with its input and its scores on the test sources."""
        save_network(model, image_processor(self.size, self._require_normalisation()), folder)
        about = {
            "inputs": [
                {"name": one.name, "kind": one.kind, "fingerprint": one.fingerprint, "details": dict(one.details)}
                for one in self.inputs
            ],
            "classes": self.config.classes,
            "annotations": self.config.annotations,
            "image_size": self.config.image_size,
        }
        (folder / "inputs.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if self._test is None:
            return
        used = self.config.test_sources or self.training.validation_sources
        more = {
            "sources": [{"path": source.path, "split": source.split} for source in used],
            "seed": self.training.seed,
            "steps": self.training.max_steps,
        }
        for one in self.inputs:
            name = "detection.json" if len(self.inputs) == 1 else f"detection-{file_name(one.name)}.json"
            self._test.evaluate(model, one.name).save(folder / name, input=one.name, **more)

    def _require_normalisation(self) -> Normalisation:
        """Those of `initial_weights`, else of the training pictures."""
        if self._normalisation is None:
            raise RuntimeError("open_samples must be called first: it measures the training pictures")
        return self._normalisation
