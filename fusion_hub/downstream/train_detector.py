"""Training of detectors: options, samples, networks and the task for `Trainer`.

Networks and losses are those of `transformers`: RT-DETRv2 (Lv et al. 2024, arXiv 2407.17140) and D-FINE (Peng et al.
2024, arXiv 2410.13842), small ones with random weights or any from a checkpoint. Their predictions are matched one to
one to the boxes, so that no suppression is needed afterwards. `convnet` is the small one of `convnet_detector.py`,
which is saved as ONNX.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from fusion_hub.data.annotations import BoxedPair, find_boxes
from fusion_hub.downstream.convnet_detector import (
    ConvnetDetector,
    ConvnetDetectorConfig,
    ConvnetTraining,
    export_onnx,
)
from fusion_hub.downstream.detectors import ONNX_FILE, OnnxDetector, TransformersDetector
from fusion_hub.downstream.draw import draw_detections
from fusion_hub.downstream.image_training import ImageCrops, ImageTask, ImageTraining, View
from fusion_hub.downstream.options import ARCHITECTURES, CONVNET, DetectorConfig
from fusion_hub.downstream.protocols import Detections, Detector
from fusion_hub.downstream.scores import WORKING_SCORE, DetectionResult, evaluate_detector
from fusion_hub.downstream.weights import require
from fusion_hub.downstream.yolo import LETTERBOX_GRAY
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError, TrainingConfig
from fusion_hub.training.samples import Batch

# `channels`: of the four stages of the backbone, of which the last three are used; `width`: of encoder and decoder. The
# smallest published networks have channels (64, 128, 256, 512) and width 256.
VARIANTS: dict[str, dict[str, Any]] = {
    "small": {"channels": (16, 32, 64, 128), "width": 64, "decoder_layers": 2},
    "tiny": {"channels": (8, 16, 16, 16), "width": 16, "decoder_layers": 2},
}
NO_OBJECT = -1  # class id of the rows that pad the boxes of a sample
MIN_SIDE = 2.0  # boxes narrower or lower than this in a sample, in its pixels, are left out
MIN_SHARE = 0.3  # boxes with a smaller share of their area inside a view are left out


# --- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BoxedPicture:
    """An image for the network and the objects in it."""

    name: str  # of its pair
    picture: np.ndarray  # (H, W, 3) uint8
    boxes: np.ndarray  # (N, 4) float32: left, top, right, bottom in pixels
    class_ids: np.ndarray  # (N,) int64

    def present(self) -> np.ndarray:
        return np.unique(self.class_ids)

    def point(self, rng: np.random.Generator, class_id: int) -> tuple[int, int]:
        """Row and column of the center of a random object of a class."""
        (having,) = np.nonzero(self.class_ids == class_id)
        left, top, right, bottom = self.boxes[having[int(rng.integers(len(having)))]]
        return int(top + bottom) // 2, int(left + right) // 2


class DetectionCrops(ImageCrops):
    """Views with the proportions of their whole image, `crop_size` high, the width a multiple of 32; and their boxes.

    They are resized to the shape of the network's input, as the image processor resizes whole images: an object has the
    same proportions in training and in use. Where a view is larger than the image, the rest is black. Samples also have
    `boxes` (max_boxes, 4) float32: center, width and height as fractions of the view; and `classes` (max_boxes,) int64,
    `NO_OBJECT` for padding.

    Args:
        shape: `(H, W)` of the network's input; samples have these proportions.
        others: see `ImageCrops`.
    """

    def __init__(self, pictures: Sequence[Sequence[BoxedPicture]], *others: Any, shape: Any, **more: Any) -> None:
        super().__init__(pictures, *others, **more)
        self.shape = shape
        self.max_boxes = max((len(item.boxes) for of_source in pictures for item in of_source), default=0)

    def shapes(self, extents: tuple[int, int], crop_size: int, scale: float) -> tuple[Sequence[int], Sequence[int]]:
        width = max(32, 32 * round(crop_size * self.shape[1] / self.shape[0] / 32))
        return [crop_size, width], [max(1, round(extent / scale)) for extent in extents]

    def annotation(self, item: BoxedPicture, view: View, size: Sequence[int], flipped: bool) -> Batch:
        boxes, which = boxes_in_view(item.boxes, view, size)
        if flipped:
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        rows = np.zeros((self.max_boxes, 4), np.float32)
        ids = np.full(self.max_boxes, NO_OBJECT, np.int64)
        rows[: len(boxes)] = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        ids[: len(boxes)] = item.class_ids[which]
        return {"boxes": torch.from_numpy(rows), "classes": torch.from_numpy(ids)}


class LetterboxCrops(DetectionCrops):
    """Views for a network that sees whole images letterboxed to `shape`: objects have that size, times the scale.

    Samples have the proportions of `shape`; where a view is larger than the image, the rest is gray.

    Args:
        mosaic: probability of a sample of four views, each of half its height and width.
        others: see `DetectionCrops`.
    """

    border = LETTERBOX_GRAY

    def __init__(self, *others: Any, mosaic: float, **more: Any) -> None:
        super().__init__(*others, **more)
        self.mosaic = mosaic
        self.max_boxes *= 4

    def shapes(self, extents: tuple[int, int], crop_size: int, scale: float) -> tuple[Sequence[int], Sequence[int]]:
        size = [crop_size, crop_size * self.shape[1] // self.shape[0]]
        ratio = scale * min(self.shape[0] / extents[0], self.shape[1] / extents[1])
        return size, [max(1, round(side / ratio)) for side in size]

    def sample(self, number: int, crop_size: int) -> Batch:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number, 1])))
        if rng.random() >= self.mosaic:
            return super().sample(number, crop_size)
        parts = [super(LetterboxCrops, self).sample(number + (part << 40), crop_size // 2) for part in range(1, 5)]
        images = [part["image"] for part in parts]
        image = torch.cat([torch.cat(images[:2], 2), torch.cat(images[2:], 2)], 1)
        for place, part in zip(((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)), parts, strict=True):
            part["boxes"] = part["boxes"] / 2 + torch.tensor([*place, 0, 0])
        boxes, classes = (torch.cat([part[name] for part in parts]) for name in ("boxes", "classes"))
        order = (classes == NO_OBJECT).argsort(stable=True)[: self.max_boxes]  # padding last
        return {
            "image": image,
            "boxes": boxes[order],
            "classes": classes[order],
            "sample": torch.tensor(number, dtype=torch.int64),
        }


def boxes_in_view(boxes: np.ndarray, view: View, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The boxes inside a view as fractions of it, `(M, 4)` float32, and their indices; others are mostly outside.

    Args:
        boxes: `(N, 4)`: left, top, right, bottom in pixels of the image.
        view: the same of the view.
        size: `(H, W)` of the view after resizing.
    """
    sides = np.array([view[2] - view[0], view[3] - view[1]], np.float64)
    whole = (boxes.astype(np.float64) - np.tile(view[:2], 2)) / np.tile(sides, 2)
    inside = np.clip(whole, 0, 1)
    extent = inside[:, 2:] - inside[:, :2]
    share = extent.prod(1) / np.maximum((whole[:, 2:] - whole[:, :2]).prod(1), 1e-12)
    (which,) = np.nonzero((extent * size[::-1] >= MIN_SIDE).all(1) & (share >= MIN_SHARE))
    return inside[which].astype(np.float32), which


# --- the network -----------------------------------------------------------------------------------------------------


def new_network(architecture: str, variant: str, **settings: Any) -> Network:
    """A detector of `ARCHITECTURES` and `VARIANTS` with random weights from torch's generator.

    `settings` are further ones of its configuration: classes, `num_queries`, `num_denoising`.
    """
    channels, width = VARIANTS[variant]["channels"], VARIANTS[variant]["width"]
    values: dict[str, Any] = {
        "encoder_in_channels": list(channels[1:]),
        "encoder_hidden_dim": width,
        "encoder_ffn_dim": 2 * width,
        "encoder_attention_heads": 4,
        "hidden_expansion": 0.5,
        "d_model": width,
        "decoder_in_channels": [width] * 3,
        "decoder_ffn_dim": 2 * width,
        "decoder_attention_heads": 4,
        "decoder_layers": VARIANTS[variant]["decoder_layers"],
        "decoder_n_points": 2,
        "initializer_bias_prior_prob": 0.01,  # most queries find nothing
        "freeze_backbone_batch_norms": False,  # they are not trained yet
        **settings,
    }
    backbone: dict[str, Any] = {"hidden_sizes": list(channels), "out_features": ["stage2", "stage3", "stage4"]}
    model: Any
    if architecture == "rt_detr_v2":
        resnet: dict[str, Any] = {"embedding_size": channels[0], "layer_type": "basic", "depths": [1, 1, 1, 1]}
        values["backbone_config"] = transformers.RTDetrResNetConfig(**resnet, **backbone)
        model = transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config(**values))
    else:
        stem = max(8, channels[0] // 2)
        hgnet: dict[str, Any] = {
            "stem_channels": [3, stem, stem],
            "stage_in_channels": [stem, *channels[:-1]],
            "stage_mid_channels": [max(8, count // 2) for count in channels],
            "stage_out_channels": list(channels),
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
            **backbone,
        }
        values |= {"backbone_config": transformers.HGNetV2Config(**hgnet), "depth_mult": 0.34}
        model = transformers.DFineForObjectDetection(transformers.DFineConfig(**values))
    initialize(model)
    return model


def initialize(model: Any) -> None:
    """Initial weights for training from scratch.

    `transformers` draws the weights of RT-DETR's batch norms around 0 and those of all linear layers with a deviation
    of 0.01, so almost no signal is left. These are the weights of the authors: He's for convolutions, Xavier's for
    linear layers. Zeros stay zero: offsets of the deformable attention, last layers of box heads.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear) and layer.weight.any() and "class_embed" not in name:
            nn.init.xavier_uniform_(layer.weight)
    for name, layer in model.named_modules():  # initial boxes are the anchors
        if name.endswith(("enc_bbox_head", "pre_bbox_head")):
            nn.init.zeros_(layer.layers[-1].weight)
            nn.init.zeros_(layer.layers[-1].bias)


class DetectorTraining(ImageTraining):
    """The loss of `transformers` of one batch; before step `repeated_steps`, `repeats` predictions match each box."""

    def __init__(self, model: Any, normalization: Any, repeats: int = 1, repeated_steps: int = 0) -> None:
        super().__init__(model, normalization)
        self.repeats, self.repeated_steps = repeats, repeated_steps

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
        output = self.model(pixel_values=self.normalized(batch), labels=labels)
        parts = {name: torch.zeros_like(output.loss) for name in ("class", "box", "auxiliary", "denoising")}
        for name, value in output.loss_dict.items():
            kind = "denoising" if "_dn_" in name else "auxiliary" if "_aux_" in name else None
            parts[kind or ("class" if name == "loss_vfl" else "box")] += value.detach()
        return output.loss, parts


# --- the task --------------------------------------------------------------------------------------------------------


class DetectorTask(ImageTask):
    """A detector for `Trainer`."""

    network, annotation, score, files = "a detector", "boxes", "mAP50", ("inputs.json", "detection")
    types = transformers.AutoModelForObjectDetection, transformers.RTDetrImageProcessorPil, TransformersDetector
    architectures = ARCHITECTURES
    find_unused_parameters = True  # batches without an object restore no boxes

    def __init__(self, training: TrainingConfig, config: DetectorConfig) -> None:
        super().__init__(training, config)
        for name in ("crop_size", "late_crop_size"):
            if (getattr(training, name) or 0) % 32:
                raise ConfigError(f"{name} must be a multiple of 32 for a detector, got {getattr(training, name)}")
        self.test_sources = config.test_sources
        self.convnet = config.architecture == CONVNET
        scored = ["pycocotools"] if config.test_sources or training.validation_sources else []
        for package in [*scored, *(["onnx", "onnxruntime"] if self.convnet else [])]:
            try:
                require(package, "the training of this detector")  # now, not at its end
            except ImportError as error:
                raise ConfigError(str(error)) from error
        if not self.convnet:
            self.settings = {"num_queries": config.queries, "num_denoising": config.denoising_queries}
        self.facts, self.result_facts = {"annotations": config.annotations}, {"steps": training.max_steps}

    def annotate(self, pairs: Sequence[Any]) -> list[BoxedPair]:
        """The pairs with their boxes; a source may know only some of the classes."""
        return find_boxes(pairs, self.config.classes, self.config.annotations, every_class=False)

    def annotated_picture(self, item: BoxedPair, image: Image.Image, where: str, resized: bool) -> BoxedPicture:
        right, bottom = item.boxes[:, 2:].max(0, initial=0)
        if right > image.width + 1 or bottom > image.height + 1:
            raise ConfigError(
                f"{where}, but boxes extend to {right:g}x{bottom:g}: they must be in pixels of this image"
            )
        return BoxedPicture(item.name, np.asarray(image), item.boxes, item.class_ids)

    def check(self, annotated: Sequence[Sequence[BoxedPair]]) -> None:
        shown = {int(number) for items in annotated for item in items for number in item.class_ids}
        if absent := [name for number, name in enumerate(self.config.classes) if number not in shown]:
            raise ConfigError(f"no training source has a box of the class {absent[0]!r}: correct it, or leave it out")

    def crops(self, pictures: Sequence[Sequence[BoxedPicture]], *common: Any, **more: Any) -> DetectionCrops:
        if self.convnet:
            return LetterboxCrops(pictures, *common, shape=self.size, mosaic=self.config.mosaic, **more)
        return DetectionCrops(pictures, *common, shape=self.size, **more)

    def new_network(self, settings: Mapping[str, Any]) -> Network:
        if self.convnet:
            network = ConvnetDetector(ConvnetDetectorConfig(**settings))
            self.facts["parameters"] = network.num_parameters()
            return network
        return new_network(self.config.architecture, self.config.variant, **settings)

    def build_training_module(self, model: Network) -> DetectorTraining | ConvnetTraining:
        if self.convnet:
            return ConvnetTraining(model)
        steps = round(self.config.repeats_fraction * self.training.max_steps)
        return DetectorTraining(model, self.normalization, self.config.repeats, steps)

    def predictor(self, model: Network) -> Detector:
        if not self.convnet:
            return super().predictor(model)
        with tempfile.TemporaryDirectory() as folder:
            self.save_network(model, Path(folder))
            return OnnxDetector(Path(folder) / ONNX_FILE, threads=torch.get_num_threads())

    def save_network(self, model: Network, folder: Path) -> None:
        if self.convnet:
            export_onnx(model, tuple(self.config.image_size), folder / ONNX_FILE)
        else:
            super().save_network(model, folder)

    def evaluate(self, predictor: Detector, pictures: Sequence[BoxedPicture]) -> DetectionResult:
        items = ((item.name, item.picture, item.boxes, item.class_ids) for item in pictures)
        return evaluate_detector(predictor, items, self.config.classes)

    def row(self, predictor: Detector, item: BoxedPicture) -> list[np.ndarray]:
        """The true boxes, the detections."""
        scores, names = np.ones(len(item.boxes), np.float32), dict(enumerate(self.config.classes))
        truth = Detections.of(item.boxes, scores, item.class_ids, names, item.picture.shape[:2])
        found = predictor.detect(item.picture, threshold=WORKING_SCORE)
        return [np.asarray(draw_detections(item.picture, one)) for one in (truth, found)]
