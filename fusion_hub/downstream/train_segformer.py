"""What SegFormer brings to the training loop: its pictures and labels, its losses, its scores.

The network is `transformers`' own class (Xie et al. 2021, arXiv 2105.15203).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear

from fusion_hub.downstream.augmentation import Augmentation, InputConfig, Normalisation, measure_channels
from fusion_hub.downstream.inputs import Inputs, file_name
from fusion_hub.downstream.protocols import MSRS_CLASSES
from fusion_hub.downstream.segmentation_losses import (
    WEIGHTINGS,
    class_weights,
    lovasz_softmax,
    weighted_cross_entropy,
)
from fusion_hub.downstream.segmentation_samples import (
    LabelledPicture,
    SegmentationCrops,
    open_labelled,
    read_labelled,
)
from fusion_hub.downstream.segmentation_validation import SegmentationValidation
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, TrainingConfig, expand_variables, option

if TYPE_CHECKING:
    from transformers import SegformerForSemanticSegmentation

VARIANTS: dict[str, dict[str, Any]] = {
    "b0": {},  # the defaults of transformers are B0
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

    # --- what it sees, with what `InputConfig` says
    image_size: list[int] | None = field(
        default=None, metadata={"help": "height and width to which all pictures are resized; empty: as they are"}
    )
    classes: list[str] = field(
        default_factory=lambda: list(MSRS_CLASSES), metadata={"help": "names of the classes, by label value"}
    )

    # --- the network
    variant: str = option(f"size: {', '.join(VARIANTS)}", "b0")
    initial_weights: str | None = option(
        "folder or Hub id of a SegFormer to start from, perhaps of other classes; empty: random weights", None
    )
    drop_path: float = option("how often a residual branch is left out", 0.1)
    classifier_dropout: float = option("dropout before the last layer", 0.1)

    # --- augmentation; smallest_scale and gain_jitter are the loop's
    largest_scale: float = option("scenes are enlarged by a random factor up to this", 1.0)
    gamma_jitter: float = option("pictures are raised to a power from exp(-this) to exp(this)", 0.0)
    rare_class_crops: float = option("how often a crop is centred on one of the classes but 0, all equally often", 0.0)

    # --- losses
    cross_entropy: float = option("weight of the cross entropy", 1.0)
    class_weights: str = option(f"of the cross entropy: {', '.join(WEIGHTINGS)}", "median_frequency")
    class_weight_power: float = option("class weights are raised to it: 0 makes them equal", 1.0)
    lovasz: float = option("weight of the Lovász-Softmax loss, a stand-in for 1 - mIoU", 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        known: tuple[tuple[str, Sequence[str]], ...] = (
            ("variant", tuple(VARIANTS)),
            ("class_weights", WEIGHTINGS),
        )
        for name, values in known:
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)}")
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 32):
            raise ConfigError(f"image_size must be height and width, at least 32 each, got {self.image_size}")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must be two or more different names, got {self.classes}")
        if not self.cross_entropy and not self.lovasz:
            raise ConfigError("cross_entropy and lovasz are both 0: nothing would be learnt")


def segformer_logits(model: "SegformerForSemanticSegmentation", pixels: Tensor) -> Tensor:
    """`model(pixels).logits`, `(B, C, H/4, W/4)`, in about a third of the decoder's time in training.

    The decoder projects the features of every level to the width of the decoder, enlarges them to a quarter of the
    picture, and mixes all with a 1x1 convolution. Both maps are linear in the channels and the enlargement is linear in
    the pixels, so they change places: projection and mixing become one small matrix for each level, applied before the
    enlargement, which is two small matrices itself, one for the rows and one for the columns. Channels stay last
    throughout, so that nothing is copied. The numbers are the same up to rounding.
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


def initialise_encoder(model: "SegformerForSemanticSegmentation") -> None:
    """First weights of the encoder as SegFormer's authors draw them (`mit.py` of their repository).

    `transformers`, whose first weights are mostly replaced by loaded ones, draws all with a deviation of 0.02. That
    leaves next to nothing of what passes a depthwise convolution, and training from there is slower.
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
        mean, std: of the three channels of the pictures in [0, 1]; the image processor has the same.
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


@dataclass(frozen=True)
class PictureStatistics:
    """What is computed once from the training pictures and their labels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: np.ndarray


class SegFormerTask:
    """SegFormer for `Trainer`: see `fusion_hub.training.loop.TrainingTask`."""

    find_unused_parameters = False

    def __init__(self, training: TrainingConfig, config: SegFormerConfig) -> None:
        if training.swap_probability:
            raise ConfigError(f"swap_probability = {training.swap_probability}: SegFormer sees one picture, use 0")
        if not training.sources:
            raise ConfigError("sources is empty: name at least one paired set with labels to train on")
        self.training, self.config = training, config
        self._statistics: PictureStatistics | None = None
        self._validation: SegmentationValidation | None = None
        self._given_normalisation: Normalisation | None = None

    @cached_property
    def inputs(self) -> list[Inputs]:
        """The pictures that the network sees."""
        return self.config.open_inputs()

    @property
    def size(self) -> tuple[int, int] | None:
        """`(H, W)` of the pictures in the network; None: their own."""
        return None if self.config.image_size is None else (self.config.image_size[0], self.config.image_size[1])

    def open_samples(self, config: TrainingConfig) -> SegmentationCrops:
        """Crops of the training pictures, which are fused now if they have to be."""
        labelled = [open_labelled(source) for source in config.sources]  # first: it is quick, and fusing is not
        count, cache = len(self.config.classes), Path(self.config.cache_dir)
        pictures = [
            [p for inputs in self.inputs for p in read_labelled(inputs, items, source, count, cache, self.size)]
            for items, source in zip(labelled, config.sources, strict=True)
        ]
        self._statistics = self._measure([picture for of_source in pictures for picture in of_source])
        augmentation = Augmentation(
            (config.smallest_scale, self.config.largest_scale),
            config.gain_jitter,
            self.config.gamma_jitter,
            self.config.rare_class_crops,
        )
        weights = [source.weight for source in config.sources]
        return SegmentationCrops(pictures, weights, config.seed, count, augmentation, labelled)

    def open_validation(self, config: TrainingConfig) -> SegmentationValidation | None:
        """Whole pictures of `config.validation_sources` in their own size."""
        pictures: dict[str, list[LabelledPicture]] = {inputs.name: [] for inputs in self.inputs}
        sources = config.validation_sources if config.validation_pairs else []
        for source in sources:
            items = open_labelled(source, config.validation_pairs)
            count, cache = len(self.config.classes), Path(self.config.cache_dir)
            for inputs in self.inputs:
                pictures[inputs.name] += read_labelled(inputs, items, source, count, cache)
        self._validation = SegmentationValidation(self.segmenter, pictures) if sources else None
        return self._validation

    def build_model(self) -> Network:
        """A new network, or a copy of `initial_weights` with a new last layer where its classes are others."""
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        names = dict(enumerate(self.config.classes))
        settings: dict[str, Any] = {
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "drop_path_rate": self.config.drop_path,
            "classifier_dropout_prob": self.config.classifier_dropout,
            # Keys are a few dozen after SegFormer's reduction: for so few the plain product is quickest on a CPU.
            "attn_implementation": "eager",
        }
        if self.config.initial_weights is None:
            model = SegformerForSemanticSegmentation(SegformerConfig(**VARIANTS[self.config.variant], **settings))
            initialise_encoder(model)
            return model
        return self._load_model(expand_variables(self.config.initial_weights), settings)

    def _load_model(self, name: str, settings: Mapping[str, Any]) -> Network:
        from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

        try:
            model = SegformerForSemanticSegmentation.from_pretrained(
                name, use_safetensors=True, ignore_mismatched_sizes=True, dtype=torch.float32, **settings
            )
            processor = AutoImageProcessor.from_pretrained(name, backend="pil")
        except (OSError, ValueError) as error:
            raise ConfigError(f"initial_weights = {name} cannot be loaded: {error}") from error
        self._given_normalisation = tuple(processor.image_mean), tuple(processor.image_std)
        return model

    def build_training_module(self, model: Network) -> SegFormerTraining:
        """The losses around `model`."""
        mean, std = self._normalisation()
        return SegFormerTraining(model, self.config, self._require_statistics().weights, mean, std)

    def segmenter(self, model: Network) -> Any:
        """The network as users will have it, with its image processor."""
        from fusion_hub.downstream.segmenter import SegformerSegmenter

        return SegformerSegmenter(model, self._processor())

    def save_pipeline(self, model: Network, folder: Path) -> None:
        """A folder for `SegformerSegmenter.from_pretrained`, with its input and its scores on the validation set."""
        model.save_pretrained(folder)
        self._processor().save_pretrained(folder)
        statistics = self._require_statistics()
        about = {
            "inputs": [
                {"name": one.name, "kind": one.kind, "fingerprint": one.fingerprint, "details": dict(one.details)}
                for one in self.inputs
            ],
            "classes": self.config.classes,
            "class_weights": [round(float(weight), 6) for weight in statistics.weights],
            "image_size": self.config.image_size,
        }
        (folder / "segmentation.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if self._validation is not None:
            sources = [{"path": source.path, "split": source.split} for source in self.training.validation_sources]
            for one in self.inputs:
                name = "evaluation.json" if len(self.inputs) == 1 else f"evaluation-{file_name(one.name)}.json"
                result = self._validation.evaluate(model, one.name)
                result.save(folder / name, input=one.name, sources=sources, seed=self.training.seed)

    def _processor(self) -> Any:
        from transformers import SegformerImageProcessorPil

        mean, std = self._normalisation()
        settings: dict[str, Any] = {
            "image_mean": list(mean),
            "image_std": list(std),
            "do_resize": self.size is not None,
        }
        if self.size is not None:
            settings["size"] = {"height": self.size[0], "width": self.size[1]}
        return SegformerImageProcessorPil(**settings)

    def _normalisation(self) -> Normalisation:
        """Mean and standard deviation: those of `initial_weights`, else of the training pictures."""
        if self._given_normalisation is not None:
            return self._given_normalisation
        statistics = self._require_statistics()
        return statistics.mean, statistics.std

    def _require_statistics(self) -> PictureStatistics:
        if self._statistics is None:
            raise RuntimeError("open_samples must be called first: it measures the training pictures")
        return self._statistics

    def _measure(self, pictures: Sequence[LabelledPicture]) -> PictureStatistics:
        mean, std = measure_channels([item.picture for item in pictures])
        labels = (item.label for item in pictures)
        weights = class_weights(
            labels, len(self.config.classes), self.config.class_weights, power=self.config.class_weight_power
        )
        return PictureStatistics(mean, std, weights)
