"""Training of SegFormer (Xie et al. 2021, arXiv 2105.15203): options, samples, losses and the task for `Trainer`.

The network is that of `transformers`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear
from transformers import (
    AutoImageProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)

from fusion_hub.data.annotations import IGNORED, LabeledPair, find_labels
from fusion_hub.downstream.draw import overlay_segmentation
from fusion_hub.downstream.image_training import (
    Augmentation,
    ImageTask,
    ImageValidation,
    InputConfig,
    PictureChoice,
    config_errors,
    draw_corner,
    measure_channels,
    open_pairs,
)
from fusion_hub.downstream.inputs import Inputs, read_inputs
from fusion_hub.downstream.protocols import MSRS_CLASSES, Segmentation
from fusion_hub.downstream.scores import SegmentationResult, evaluate_segmenter
from fusion_hub.downstream.segmentation_losses import (
    WEIGHTINGS,
    class_weights,
    lovasz_softmax,
    weighted_cross_entropy,
)
from fusion_hub.downstream.segmenter import SegformerSegmenter
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, Source, TrainingConfig, expand_variables, option
from fusion_hub.training.samples import Batch

VARIANTS: dict[str, dict[str, Any]] = {
    "b0": {},  # the defaults of transformers
    "tiny": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 3, 4],
        "decoder_hidden_size": 16,
    },
}


@dataclass(frozen=True)
class SegFormerConfig(InputConfig):
    """Input, network, augmentation and losses of a SegFormer run."""

    image_size: list[int] | None = option("height and width to which all images are resized; empty: unchanged", None)
    classes: list[str] = option("names of the classes, by label value", list(MSRS_CLASSES))

    # --- the network
    variant: str = option(f"size: {', '.join(VARIANTS)}", "b0", choices=tuple(VARIANTS))
    initial_weights: str | None = option(
        "folder or Hub id of a SegFormer to start from; its classes may differ; empty: random weights", None
    )
    drop_path: float = option("probability of skipping a residual branch", 0.1, 0, 1)
    classifier_dropout: float = option("dropout before the last layer", 0.1, 0, 1)

    # --- augmentation; smallest_scale and gain_jitter are options of the loop
    largest_scale: float = option("scenes are enlarged by a random factor up to this", 1.0, 1, 100)
    gamma_jitter: float = option("images are raised to a power from exp(-this) to exp(this)", 0.0, 0, 3)
    rare_class_crops: float = option("probability of a crop centered on a random class other than 0", 0.0, 0, 1)

    # --- losses
    cross_entropy: float = option("weight of the cross entropy", 1.0, 0)
    class_weights: str = option(
        f"class weights of the cross entropy: {', '.join(WEIGHTINGS)}", "median_frequency", choices=WEIGHTINGS
    )
    class_weight_power: float = option("power to which class weights are raised: 0 makes them equal", 1.0, 0, 1)
    lovasz: float = option("weight of the Lovász-Softmax loss, a differentiable surrogate of 1 - mIoU", 0.0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 32):
            raise ConfigError(f"image_size must be height and width, at least 32 each, got {self.image_size}")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must be two or more different names, got {self.classes}")
        if not self.cross_entropy and not self.lovasz:
            raise ConfigError("cross_entropy and lovasz are both 0: there is no loss, set one of them")


# --- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LabeledPicture:
    """An image for the network and the classes of its pixels.

    Attributes:
        name: of its pair.
        picture: `(H, W, 3)` uint8.
        label: `(H, W)` uint8, class ids or `IGNORED`.
    """

    name: str
    picture: np.ndarray
    label: np.ndarray


def open_labeled(source: Source, count: int | None = None) -> list[LabeledPair]:
    """The pairs of a source and their labels, or `count` evenly spaced ones.

    Raises:
        ConfigError: there is no such dataset, or it has no labels.
    """
    pairs = open_pairs(source, count)
    with config_errors():
        return find_labels(pairs)


def read_labeled(
    inputs: Inputs,
    labeled: Sequence[LabeledPair],
    source: Source,
    classes: int,
    cache: Path,
    size: tuple[int, int] | None = None,
) -> list[LabeledPicture]:
    """Images and labels in memory, resized to `size` (H, W) as by the image processor; None: not resized.

    Raises:
        ConfigError: an image or label cannot be read, or the two differ in size.
    """
    result = []
    with config_errors():
        images = read_inputs(inputs, [item.pair for item in labeled], source.label, cache)
        for item, image in zip(labeled, images, strict=True):
            label = item.label(classes)
            if image.size != label.shape[::-1]:
                raise ConfigError(
                    f"{source.label}: the image {item.name!r} is {image.width}x{image.height}, but its label map is "
                    f"{label.shape[1]}x{label.shape[0]}: they must have one size"
                )
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], Image.Resampling.BILINEAR)
                label = np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
            result.append(LabeledPicture(item.name, np.asarray(image), label))
    return result


class SegmentationCrops:
    """Random crops of labeled images; sample `number` is always the same crop.

    Args:
        pictures: those of each source; with several inputs, one after the other.
        weights: relative frequency of each source; None: its number of images.
        seed: at least 0.
        classes: number of classes.
        sets: the labeled pairs of each source, for the run's report.
    """

    def __init__(
        self,
        pictures: Sequence[Sequence[LabeledPicture]],
        weights: Sequence[float | None],
        seed: int,
        classes: int,
        augmentation: Augmentation,
        sets: Sequence[Sequence[LabeledPair]] = (),
    ) -> None:
        self.pictures, self.seed, self.augmentation, self.sets = pictures, seed, augmentation, sets
        self._choice = PictureChoice(pictures, weights, range(1, classes), lambda picture: np.unique(picture.label))

    def sample(self, number: int, crop_size: int) -> Batch:
        """The crop that belongs to `number`.

        Returns:
            `image` (3, crop_size, crop_size) float32 in [0, 1]; `label` (crop_size, crop_size) int64, `IGNORED` where
            the crop leaves the image; `sample`: the number, int64.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        item, rare_class = self._choice.draw(rng, self.augmentation.rare_classes)
        target: Sequence[int | None] = (None, None)
        if rare_class is not None:
            pixels = np.flatnonzero(item.label == rare_class)
            center = np.unravel_index(pixels[int(rng.integers(len(pixels)))], item.label.shape)
            target = [int(one) for one in center]
        side = max(1, round(crop_size / self.augmentation.draw_scale(rng)))
        top, left = (draw_corner(rng, extent, side, one) for extent, one in zip(item.label.shape, target, strict=True))
        box = (left, top, left + side, top + side)
        # crop() fills with 0 outside the image; labels are inverted so that this means IGNORED.
        image = Image.fromarray(item.picture).crop(box)
        inverted = Image.fromarray(IGNORED - item.label).crop(box)
        if side != crop_size:
            image = image.resize((crop_size, crop_size), Image.Resampling.BILINEAR)
            inverted = inverted.resize((crop_size, crop_size), Image.Resampling.NEAREST)
        picture, label = np.asarray(image), IGNORED - np.asarray(inverted)
        if rng.random() < 0.5:
            picture, label = picture[:, ::-1], label[:, ::-1]
        values = self.augmentation.brightness(rng, picture)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))),
            "label": torch.from_numpy(label.astype(np.int64)),
            "sample": torch.tensor(number, dtype=torch.int64),
        }


# --- the network -----------------------------------------------------------------------------------------------------


def segformer_logits(model: SegformerForSemanticSegmentation, pixels: Tensor) -> Tensor:
    """`model(pixels).logits`, `(B, C, H/4, W/4)`, in about a third of the decoder's time in training.

    The decoder projects the features of each level to its own width, enlarges them to a quarter of the image, and mixes
    all with a 1x1 convolution. Projection and mixing are linear in the channels, enlargement is linear in the pixels,
    so they commute: projection and mixing become one small matrix for each level, applied before the enlargement, which
    is one small matrix for the rows and one for the columns. Channels stay last throughout, so nothing is copied. The
    result is the same up to rounding.
    """
    head = model.decode_head
    features = model.segformer(pixels, output_hidden_states=True).hidden_states
    (batch, _, height, width), channels = features[0].shape, head.linear_fuse.out_channels
    # The decoder concatenates from the coarsest level to the finest.
    mixing = head.linear_fuse.weight[:, :, 0, 0].chunk(len(features), dim=1)[::-1]
    mixed = pixels.new_zeros(())
    for level, projection, mix in zip(features, head.linear_projections, mixing, strict=True):
        with torch.autocast(pixels.device.type, enabled=False):
            weight, bias = mix @ projection.proj.weight, mix @ projection.proj.bias
        part = linear(level.permute(0, 2, 3, 1), weight, bias)  # (B, h, w, channels)
        if level is features[0]:
            mixed = part.reshape(batch * height, width, channels)
            continue
        rows = _enlargement(part.shape[1], height, part) @ part.flatten(2)  # (B, H/4, w * channels)
        columns = _enlargement(part.shape[2], width, part).expand(batch * height, -1, -1)
        mixed = torch.baddbmm(mixed, columns, rows.view(batch * height, part.shape[2], channels))
    normal = head.batch_norm(mixed.view(batch, height, width, channels).permute(0, 3, 1, 2))
    hidden = head.dropout(head.activation(normal)).permute(0, 2, 3, 1)
    return linear(hidden, head.classifier.weight.flatten(1), head.classifier.bias).permute(0, 3, 1, 2)


def _enlargement(small: int, large: int, like: Tensor) -> Tensor:
    """`(large, small)`: bilinear enlargement (`align_corners=False`) along one side, of the dtype of `like`."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    identity = torch.eye(small, device=like.device, dtype=dtype)[None]
    return interpolate(identity, size=large, mode="linear", align_corners=False)[0].T.to(like.dtype)


def initialize_encoder(model: SegformerForSemanticSegmentation) -> None:
    """Initial weights of the encoder as in the code of SegFormer's authors (`mit.py`).

    `transformers` draws all weights with a deviation of 0.02. After a depthwise convolution with such weights almost no
    signal is left, and training is slower.
    """
    for layer in model.segformer.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)


class SegFormerTraining(nn.Module):
    """The whole training computation of one batch, so that DDP sees it in one forward.

    Args:
        model: the network; trained in place.
        config: the losses.
        weights: of the classes, `(C,)`.
        mean, std: of the three channels of images in [0, 1]; the image processor has the same.
    """

    weights: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Any, config: SegFormerConfig, weights: np.ndarray, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32), persistent=False)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch and its weighted terms by name: `image` `(B, 3, H, W)` in [0, 1], `label` `(B, H, W)`."""
        label = batch["label"]
        logits = segformer_logits(self.model, (batch["image"] - self.mean) / self.std)
        with torch.autocast(logits.device.type, enabled=False):
            coarse = logits.float()
            terms = {}
            if self.config.cross_entropy:
                logits = interpolate(coarse, size=label.shape[-2:], mode="bilinear", align_corners=False)
                loss = weighted_cross_entropy(logits, label, self.weights)
                terms["cross_entropy"] = self.config.cross_entropy * loss
            if self.config.lovasz:  # it sorts all pixels: a sixteenth of them is enough
                nearest = interpolate(label[:, None].float(), size=coarse.shape[-2:], mode="nearest-exact")
                terms["lovasz"] = self.config.lovasz * lovasz_softmax(coarse, nearest[:, 0].long())
            total = torch.stack(list(terms.values())).sum()
        return total, {name: value.detach() for name, value in terms.items()}


# --- the task --------------------------------------------------------------------------------------------------------


class SegFormerTask(ImageTask):
    """SegFormer for `Trainer`: see `fusion_hub.training.TrainingTask`."""

    find_unused_parameters = False

    def __init__(self, training: TrainingConfig, config: SegFormerConfig) -> None:
        super().__init__(training, config, "SegFormer", "labels")
        self.size = None if config.image_size is None else (config.image_size[0], config.image_size[1])
        self._weights: np.ndarray | None = None
        self._validation: ImageValidation[LabeledPicture] | None = None

    def open_samples(self, config: TrainingConfig) -> SegmentationCrops:
        """Crops of the training images, which are fused now if necessary."""
        labeled = [open_labeled(source) for source in config.sources]  # first, because fusing is slow
        count = len(self.config.classes)
        pictures = [
            [p for inputs in self.inputs for p in read_labeled(inputs, items, source, count, self.cache, self.size)]
            for items, source in zip(labeled, config.sources, strict=True)
        ]
        everything = [picture for of_source in pictures for picture in of_source]
        self._normalization = self._normalization or measure_channels([item.picture for item in everything])
        self._weights = class_weights(
            (item.label for item in everything), count, self.config.class_weights, power=self.config.class_weight_power
        )
        weights = [source.weight for source in config.sources]
        return SegmentationCrops(pictures, weights, config.seed, count, self.augmentation, labeled)

    def open_validation(self, config: TrainingConfig) -> ImageValidation[LabeledPicture] | None:
        """Whole images of `config.validation_sources` in their own size."""
        pictures: dict[str, list[LabeledPicture]] = {inputs.name: [] for inputs in self.inputs}
        sources = config.validation_sources if config.validation_pairs else []
        for source in sources:
            items = open_labeled(source, config.validation_pairs)
            for inputs in self.inputs:
                pictures[inputs.name] += read_labeled(inputs, items, source, len(self.config.classes), self.cache)
        if sources:
            self._validation = ImageValidation(self.segmenter, pictures, "mIoU", _evaluate, _overlays)
        return self._validation

    def build_model(self) -> Network:
        """A new network, or a copy of `initial_weights`, with a new last layer if its classes differ."""
        names = dict(enumerate(self.config.classes))
        settings: dict[str, Any] = {
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "drop_path_rate": self.config.drop_path,
            "classifier_dropout_prob": self.config.classifier_dropout,
            # SegFormer's reduction leaves a few dozen keys: the plain product is fastest on a CPU.
            "attn_implementation": "eager",
        }
        if self.config.initial_weights is None:
            model = SegformerForSemanticSegmentation(SegformerConfig(**VARIANTS[self.config.variant], **settings))
            initialize_encoder(model)
            return model
        name = expand_variables(self.config.initial_weights)
        with config_errors(f"initial_weights = {name} cannot be loaded: "):
            model = SegformerForSemanticSegmentation.from_pretrained(
                name, use_safetensors=True, ignore_mismatched_sizes=True, dtype=torch.float32, **settings
            )
            processor = AutoImageProcessor.from_pretrained(name, backend="pil")
        self._normalization = tuple(processor.image_mean), tuple(processor.image_std)
        return model

    def build_training_module(self, model: Network) -> SegFormerTraining:
        """The losses around `model`."""
        mean, std = self.normalization
        return SegFormerTraining(model, self.config, self.weights, mean, std)

    @property
    def weights(self) -> np.ndarray:
        """Class weights of the cross entropy, `(C,)`."""
        if self._weights is None:
            raise RuntimeError("open_samples must be called first: it measures the training images")
        return self._weights

    def segmenter(self, model: Network) -> SegformerSegmenter:
        """The network as users will have it, with its image processor."""
        return SegformerSegmenter(model, self._processor())

    def save_pipeline(self, model: Network, folder: Path) -> None:
        """A folder for `SegformerSegmenter.from_pretrained`, with its input and its scores on the validation set."""
        model.save_pretrained(folder)
        self._processor().save_pretrained(folder)
        about = {
            "inputs": [one.to_dict() for one in self.inputs],
            "classes": self.config.classes,
            "class_weights": [round(float(weight), 6) for weight in self.weights],
            "image_size": self.config.image_size,
        }
        (folder / "segmentation.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if self._validation is not None:
            self.save_results(self._validation, model, folder, "evaluation", self.training.validation_sources)

    def _processor(self) -> SegformerImageProcessorPil:
        mean, std = self.normalization
        settings: dict[str, Any] = {"do_resize": self.size is not None}
        if self.size is not None:
            settings["size"] = {"height": self.size[0], "width": self.size[1]}
        return SegformerImageProcessorPil(image_mean=list(mean), image_std=list(std), **settings)


def _evaluate(segmenter: SegformerSegmenter, pictures: Sequence[LabeledPicture]) -> SegmentationResult:
    return evaluate_segmenter(segmenter, ((item.name, item.picture, item.label) for item in pictures))


def _overlays(segmenter: SegformerSegmenter, item: LabeledPicture) -> list[np.ndarray]:
    """The image, its labels, the prediction."""
    classes = np.where(item.label == IGNORED, 0, item.label).astype(np.int64)
    both = (Segmentation(classes, segmenter.names, segmenter.palette), segmenter.segment(item.picture))
    overlays = [overlay_segmentation(item.picture, one, opacity=0.7, legend=False) for one in both]
    return [item.picture, *(np.asarray(overlay) for overlay in overlays)]
