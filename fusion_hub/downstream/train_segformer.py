"""Training of SegFormer (Xie et al. 2021, arXiv 2105.15203): options, samples, losses and the task for `Trainer`.

The network is that of `transformers`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

from fusion_hub.data.annotations import IGNORED, LabeledPair, find_labels
from fusion_hub.downstream.draw import overlay_segmentation
from fusion_hub.downstream.image_training import ImageCrops, ImageTask, ImageTraining, View
from fusion_hub.downstream.options import SegFormerConfig
from fusion_hub.downstream.protocols import Segmentation
from fusion_hub.downstream.scores import SegmentationResult, evaluate_segmenter
from fusion_hub.downstream.segmenter import SegformerSegmenter
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, TrainingConfig
from fusion_hub.training.samples import Batch

VARIANTS: dict[str, dict[str, Any]] = {
    "b0": {},  # the defaults of transformers
    "tiny": {
        **{"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]},
        "decoder_hidden_size": 16,
    },
}


# --- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LabeledPicture:
    """The image `picture` `(H, W, 3)` of the pair `name`, and `label` `(H, W)`: class ids or `IGNORED`; both uint8."""

    name: str
    picture: np.ndarray
    label: np.ndarray

    def present(self) -> np.ndarray:
        return np.unique(self.label)

    def point(self, rng: np.random.Generator, class_id: int) -> tuple[int, int]:
        """Row and column of a random pixel of a class."""
        pixels = np.flatnonzero(self.label == class_id)
        row, column = np.unravel_index(pixels[int(rng.integers(len(pixels)))], self.label.shape)
        return int(row), int(column)


class SegmentationCrops(ImageCrops):
    """Square crops with `label` (H, W) int64, `IGNORED` where the crop leaves the image."""

    first_class = 1  # 0 is the background

    def shapes(self, extents: tuple[int, int], crop_size: int, scale: float) -> tuple[Sequence[int], Sequence[int]]:
        return [crop_size] * 2, [max(1, round(crop_size / scale))] * 2

    def annotation(self, item: LabeledPicture, view: View, size: Sequence[int], flipped: bool) -> Batch:
        # crop() fills with 0 outside the image; labels are inverted so that this means IGNORED.
        inverted = Image.fromarray(IGNORED - item.label).crop(view).resize((size[1], size[0]), Image.Resampling.NEAREST)
        label = (IGNORED - np.asarray(inverted))[:, :: -1 if flipped else 1]
        return {"label": torch.from_numpy(label.astype(np.int64))}


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


# --- losses ----------------------------------------------------------------------------------------------------------


def class_weights(
    labels: Iterable[np.ndarray], classes: int, weighting: str, *, power: float = 1.0, beta: float = 0.999
) -> np.ndarray:
    """A weight for each class `(C,)` float32 whose mean over the pixels of `labels` is 1; 0 for absent classes.

    - `median_frequency` (Eigen and Fergus 2015, arXiv 1411.4734): `median(f) / f_c` with `f_c` the share of class c in
      the pixels of the images that contain it.
    - `effective_number` (Cui et al. 2019, arXiv 1901.05555): `1 / (1 - beta^n_c)`. Pixels of one image are not
      independent samples, so n_c is the number of images that contain the class.
    - `none`: all equal.

    Args:
        labels: label maps, integers below `classes` or `IGNORED`.
        weighting: one of `WEIGHTINGS`.
        power: the weights are raised to it; below 1 they differ less.
        beta: of `effective_number`.
    """
    # For each class: its pixels, all pixels of the images that contain it, the number of these images.
    pixels, shown, pictures = np.zeros((3, classes))
    for label in labels:
        counts = np.bincount(label[label != IGNORED].ravel(), minlength=classes)
        pixels += counts
        shown += np.where(counts > 0, counts.sum(), 0)
        pictures += counts > 0
    present = pixels > 0
    weights = np.zeros(classes)
    if weighting == "none":
        weights[present] = 1
    elif weighting == "median_frequency":
        frequency = pixels[present] / shown[present]
        weights[present] = np.median(frequency) / frequency
    else:
        weights[present] = 1 / (1 - beta ** pictures[present])
    weights[present] **= power
    if present.any():
        weights /= (weights * pixels).sum() / pixels.sum()
    return weights.astype(np.float32)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over the pixels of `weight x -log p`, a scalar.

    It divides by the number of pixels and not, as PyTorch does, by the sum of their weights. So the loss of a batch is
    the mean of the losses of its parts, also if these are on several processes.

    Args:
        logits, labels, weights: `(B, C, H, W)` float32, `(B, H, W)` int64 below C or `IGNORED`, and `(C,)`.
    """
    total = torch.nn.functional.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász-Softmax (Berman et al. 2018, arXiv 1705.08790, eqs. 8 and 11), a scalar in [0, 1].

    A differentiable surrogate of 1 - IoU, averaged over the classes in the labels of the batch; for predictions with
    probabilities 0 and 1 it is equal to it.

    Args:
        logits, labels: `(B, C, H, W)` float32, and `(B, H, W)` int64 below C or `IGNORED`.
    """
    counted = labels != IGNORED
    probabilities = logits.softmax(1).movedim(1, -1)[counted]  # (P, C)
    truth = labels[counted]
    terms = []
    for index in torch.unique(truth).tolist():
        is_class = (truth == index).float()
        errors, order = (is_class - probabilities[:, index]).abs().sort(descending=True)
        # Increase of the Jaccard loss with each further error, largest errors first (their Algorithm 1).
        inside = is_class[order].cumsum(0)
        jaccard = 1 - (inside[-1] - inside) / (inside[-1] + (1 - is_class[order]).cumsum(0))
        terms.append(errors @ torch.diff(jaccard, prepend=jaccard.new_zeros(1)))
    return torch.stack(terms).mean() if terms else logits.sum() * 0


class SegFormerTraining(ImageTraining):
    """The loss of one batch, with the class weights `weights` `(C,)`."""

    weights: Tensor

    def __init__(self, model: Any, normalization: Any, config: SegFormerConfig, weights: np.ndarray) -> None:
        super().__init__(model, normalization)
        self.config = config
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32), persistent=False)

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch and its weighted terms by name: `image` `(B, 3, H, W)` in [0, 1], `label` `(B, H, W)`."""
        label = batch["label"]
        logits = segformer_logits(self.model, self.normalized(batch))
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
    """SegFormer for `Trainer`."""

    network, annotation, score, files = "SegFormer", "labels", "mIoU", ("segmentation.json", "evaluation")
    types = SegformerForSemanticSegmentation, SegformerImageProcessorPil, SegformerSegmenter
    architectures = ("segformer",)
    find_unused_parameters = False

    def __init__(self, training: TrainingConfig, config: SegFormerConfig) -> None:
        super().__init__(training, config)
        self.settings = {
            "drop_path_rate": config.drop_path,
            "classifier_dropout_prob": config.classifier_dropout,
            # SegFormer's reduction leaves a few dozen keys: the plain product is fastest on a CPU.
            "attn_implementation": "eager",
        }

    def annotate(self, pairs: Sequence[Any]) -> list[LabeledPair]:
        return find_labels(pairs)

    def annotated_picture(self, item: LabeledPair, image: Image.Image, where: str, resized: bool) -> LabeledPicture:
        """An image and its labels, resized as by the image processor if `resized`."""
        label = item.label(len(self.config.classes))
        if image.size != label.shape[::-1]:
            height, width = label.shape
            raise ConfigError(f"{where}, but its label map is {width}x{height}: they must have one size")
        if resized and self.size is not None:
            size = self.size[1], self.size[0]
            image = image.resize(size, Image.Resampling.BILINEAR)
            label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
        return LabeledPicture(item.name, np.asarray(image), label)

    def crops(self, pictures: Sequence[Sequence[LabeledPicture]], *common: Any, **more: Any) -> SegmentationCrops:
        """Crops of the training images, from which the class weights are measured."""
        labels = (item.label for of_source in pictures for item in of_source)
        config, count = self.config, len(self.config.classes)
        self.weights = class_weights(labels, count, config.class_weights, power=config.class_weight_power)
        self.facts = {"class_weights": [round(float(weight), 6) for weight in self.weights]}
        return SegmentationCrops(pictures, *common, **more)

    def new_network(self, settings: Mapping[str, Any]) -> Network:
        model = SegformerForSemanticSegmentation(SegformerConfig(**VARIANTS[self.config.variant], **settings))
        # The encoder starts as in the code of SegFormer's authors (`mit.py`). `transformers` draws all weights with a
        # deviation of 0.02: after a depthwise convolution almost no signal is left, and training is slower.
        for layer in model.segformer.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            elif isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
        return model

    def build_training_module(self, model: Network) -> SegFormerTraining:
        return SegFormerTraining(model, self.normalization, self.config, self.weights)

    def evaluate(self, predictor: SegformerSegmenter, pictures: Sequence[LabeledPicture]) -> SegmentationResult:
        return evaluate_segmenter(predictor, ((item.name, item.picture, item.label) for item in pictures))

    def row(self, predictor: SegformerSegmenter, item: LabeledPicture) -> list[np.ndarray]:
        """The image, its labels, the prediction."""
        classes = np.where(item.label == IGNORED, 0, item.label).astype(np.int64)
        both = (Segmentation(classes, predictor.names, predictor.palette), predictor.segment(item.picture))
        overlays = [overlay_segmentation(item.picture, one, opacity=0.7, legend=False) for one in both]
        return [item.picture, *(np.asarray(overlay) for overlay in overlays)]
