"""A small convolutional detector for the page: about a million weights, trained here from random ones.

Backbone of cross-stage-partial blocks, path aggregation, and one head for each of the strides 8, 16 and 32 that
predicts a box and the score of each class in each cell, as in YOLOX (Ge et al. 2021, arXiv 2107.08430), without its
objectness: the score of a class is trained to be the overlap of the box. Cells are assigned to objects by score and
overlap, as in TOOD (Feng et al. 2021, arXiv 2108.07755).
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from fusion_hub.downstream.weights import require
from fusion_hub.downstream.yolo import grid

STRIDES = (8, 16, 32)
CELLS_PER_OBJECT = 10  # at most so many cells learn one object
BOX_WEIGHT = 2.5  # of the loss of the boxes, relative to that of the scores


class ConvnetDetectorConfig(transformers.PreTrainedConfig):
    """Shape of the network: channels of the five stages of the backbone, and of neck and heads."""

    model_type = "fusion_hub_convnet_detector"

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128, 160), width: int = 64, **more: Any) -> None:
        super().__init__(**more)
        self.channels, self.width = list(channels), width


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and activation."""
    layers = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layers, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03), nn.ReLU(inplace=True))


def separable(channels: int) -> nn.Sequential:
    """A 3x3 convolution within and a 1x1 convolution across channels."""
    return nn.Sequential(convolution(channels, channels, 3, groups=channels), convolution(channels, channels, 1))


class Block(nn.Module):
    """Cross-stage-partial block: half of the channels go through residual bottlenecks, then all are mixed."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        half = outputs // 2
        self.aside, self.entry = convolution(inputs, half, 1), convolution(inputs, half, 1)
        self.steps = nn.ModuleList(
            nn.Sequential(convolution(half, half // 2, 1), convolution(half // 2, half)) for _ in range(depth)
        )
        self.exit = convolution(outputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.entry(features)
        for step in self.steps:
            inner = inner + step(inner)
        return self.exit(torch.cat([inner, self.aside(features)], 1))


class Context(nn.Module):
    """Pools over three growing neighborhoods, as in YOLOv5, so that a cell sees the scene around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry, self.exit = convolution(channels, channels // 2, 1), convolution(2 * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = [self.entry(features)]
        for _ in range(3):
            pooled.append(functional.max_pool2d(pooled[-1], 5, 1, 2))
        return self.exit(torch.cat(pooled, 1))


class Head(nn.Module):
    """Boxes and scores of the cells of one stride."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.box_branch = nn.Sequential(separable(width), separable(width))
        self.class_branch = nn.Sequential(separable(width), separable(width))
        self.box, self.score = nn.Conv2d(width, 4, 1), nn.Conv2d(width, classes, 1)
        nn.init.zeros_(self.box.weight)
        self.box.bias = nn.Parameter(torch.tensor([0.5, 0.5, 1.0, 1.0]))  # boxes start e cells wide, on their cell
        self.score.bias = nn.Parameter(torch.full((classes,), -4.6))  # and scores at 1 %

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.box(self.box_branch(features)), self.score(self.class_branch(features))


class ConvnetDetector(transformers.PreTrainedModel):
    """The network. Input `(B, 3, H, W)` BGR 0..255, sides multiples of 32; see `forward`."""

    config_class = ConvnetDetectorConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvnetDetectorConfig) -> None:
        super().__init__(config)
        first, second, third, fourth, fifth = config.channels
        width = config.width
        entry = convolution(3, first, 3, 2), convolution(first, second, 3, 2)
        self.stem = nn.Sequential(*entry, Block(second, second, 1))
        self.stage3 = nn.Sequential(convolution(second, third, 3, 2), Block(third, third, 2))
        self.stage4 = nn.Sequential(convolution(third, fourth, 3, 2), Block(fourth, fourth, 2))
        self.stage5 = nn.Sequential(convolution(fourth, fifth, 3, 2), Context(fifth), Block(fifth, fifth, 1))
        self.lateral = nn.ModuleList(convolution(channels, width, 1) for channels in (third, fourth, fifth))
        self.down = nn.ModuleList(Block(2 * width, width, 1) for _ in range(2))  # from coarse to fine
        self.steps = nn.ModuleList(convolution(width, width, 3, 2) for _ in range(2))
        self.up = nn.ModuleList(Block(2 * width, width, 1) for _ in range(2))  # from fine to coarse
        self.heads = nn.ModuleList(Head(width, len(config.id2label or {})) for _ in STRIDES)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The layers have drawn their weights: those of torch suit batch norm."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Raw predictions of all cells, stride by stride and row by row.

        Returns:
            boxes `(B, cells, 4)`: center relative to the cell's corner and log of the size, in units of the stride;
            scores `(B, cells, C)` before the sigmoid.
        """
        third = self.stage3(self.stem((pixel_values - 114) / 64))
        fourth = self.stage4(third)
        fine, middle, coarse = (
            lateral(features)
            for lateral, features in zip(self.lateral, (third, fourth, self.stage5(fourth)), strict=True)
        )
        middle = self.down[0](torch.cat([middle, functional.interpolate(coarse, scale_factor=2.0)], 1))
        fine = self.down[1](torch.cat([fine, functional.interpolate(middle, scale_factor=2.0)], 1))
        middle = self.up[0](torch.cat([middle, self.steps[0](fine)], 1))
        coarse = self.up[1](torch.cat([coarse, self.steps[1](middle)], 1))
        levels = [head(features) for head, features in zip(self.heads, (fine, middle, coarse), strict=True)]
        boxes, scores = zip(*levels, strict=True)
        return cells_of(boxes), cells_of(scores)


def cells_of(maps: Sequence[Tensor]) -> Tensor:
    """Maps `(B, K, H, W)` of all strides as `(B, cells, K)`."""
    return torch.cat([one.flatten(2) for one in maps], 2).transpose(1, 2)


class _Exported(nn.Module):
    """The network with the output of the family `yolox`, see `fusion_hub.downstream.yolo`."""

    def __init__(self, model: ConvnetDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        boxes, logits = self.model(images)
        return torch.cat([boxes, torch.ones_like(boxes[..., :1]), logits.sigmoid()], 2)


def export_onnx(model: Any, size: tuple[int, int], file: Path) -> None:
    """Write the network for one image `(1, 3, H, W)` as an ONNX file that `OnnxDetector` reads.

    The class names are in its metadata. The objectness of its rows is 1: the scores need no other factor.

    Raises:
        ImportError: onnx is not installed.
    """
    onnx = require("onnx", "exporting a detector")
    network = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by tracing needs no further package, but is called old
        example = torch.zeros(1, 3, *size)
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["output"], "opset_version": 17}
        torch.onnx.export(_Exported(network).eval(), (example,), file, dynamo=False, **names)
    exported = onnx.load(file)
    onnx.helper.set_model_props(exported, {"names": repr(list((model.config.id2label or {}).values()))})
    onnx.save(exported, file)


# --- the loss --------------------------------------------------------------------------------------------------------


def decoded(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Raw boxes `(B, cells, 4)` as corners in pixels; the center of each cell `(cells, 2)`, and its stride."""
    cells, strides = (torch.from_numpy(values).to(boxes.device) for values in grid(size, STRIDES))
    centers, halves = (boxes[..., :2] + cells) * strides, boxes[..., 2:].clamp(max=8).exp() * strides / 2
    return torch.cat([centers - halves, centers + halves], -1), (cells + 0.5) * strides, strides


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes `(..., 4)`, and the generalized one of Rezatofighi et al. 2019."""
    sides = (torch.minimum(first, second)[..., 2:] - torch.maximum(first, second)[..., :2]).clamp(min=0)
    around = torch.maximum(first, second)[..., 2:] - torch.minimum(first, second)[..., :2]
    shared, hull = sides.prod(-1), around.prod(-1).clamp(min=1e-6)
    union = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1) - shared
    union = union.clamp(min=1e-6)
    return shared / union, shared / union - (hull - union) / hull


@torch.no_grad()
def assign(
    boxes: Tensor, scores: Tensor, centers: Tensor, strides: Tensor, objects: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Which object each cell learns, and how high its score is to be.

    An object's candidates are the cells with their center in its box, or within a stride of its center, as small
    objects may contain none. It takes the `CELLS_PER_OBJECT` with the largest score^0.5 * IoU^6; a cell that several
    objects want goes to the one that it overlaps most. The best cell of an object is to have its IoU as score, the
    others proportionally less.

    Args:
        boxes: `(B, cells, 4)` corners; scores `(B, cells, C)` in [0, 1].
        centers, strides: of the cells, `(cells, 2)` and `(cells, 1)`.
        objects: `(B, N, 4)` corners; `classes` `(B, N)`, negative for padding.

    Returns:
        Index of the object `(B, cells)`, and the score `(B, cells)`, 0 where a cell learns none.
    """
    iou, _ = overlaps(objects[:, :, None], boxes[:, None])
    own = scores.gather(2, classes.clamp(min=0)[:, None].expand(-1, scores.shape[1], -1)).mT
    middle, half = (objects[..., :2] + objects[..., 2:]) / 2, (objects[..., 2:] - objects[..., :2]) / 2
    near = (centers - middle[:, :, None]).abs() < torch.maximum(half[:, :, None], strides)
    candidate = near.all(-1) & (classes >= 0)[..., None]
    alignment = torch.where(candidate, own.sqrt() * iou**6 + 1e-12, 0)
    chosen = torch.zeros_like(alignment)
    best = alignment.topk(min(CELLS_PER_OBJECT, alignment.shape[2]), 2)
    chosen.scatter_(2, best.indices, (best.values > 0).float())
    wanted = torch.where(chosen > 0, iou + 1e-9, 0)
    index = wanted.argmax(1)
    chosen = chosen * functional.one_hot(index, chosen.shape[1]).mT
    alignment, iou = alignment * chosen, iou * chosen
    target = alignment / alignment.amax(2, keepdim=True).clamp(min=1e-12) * iou.amax(2, keepdim=True)
    return index, target.sum(1)


def detection_loss(
    raw: Tensor, logits: Tensor, size: tuple[int, int], objects: Tensor, classes: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a batch, float32, and its parts: cross-entropy of the scores, and 1 - generalized IoU of the boxes.

    Both are sums divided by the sum of the wanted scores; that of the boxes has `BOX_WEIGHT`.

    Args:
        raw, logits: of `ConvnetDetector.forward`.
        size: `(H, W)` of the input.
        objects, classes: see `assign`, in pixels of the input.
    """
    most = max(1, int((classes >= 0).sum(1).max()))  # objects come first, padding last
    objects, classes = objects[:, :most], classes[:, :most]
    boxes, centers, strides = decoded(raw, size)
    index, target = assign(boxes.detach(), logits.sigmoid(), centers, strides, objects, classes)
    learned, total = target > 0, target.sum().clamp(min=1)
    wanted = functional.one_hot(classes.clamp(min=0).gather(1, index), logits.shape[2]) * target[..., None]
    score = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / total
    own = objects.gather(1, index[..., None].expand(-1, -1, 4))
    _, generalized = overlaps(boxes[learned], own[learned])
    box = BOX_WEIGHT * ((1 - generalized) * target[learned]).sum() / total
    return score + box, {"class": score.detach(), "box": box.detach()}


class ConvnetTraining(nn.Module):
    """The loss of one batch of `DetectionCrops`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        height, width = batch["image"].shape[2:]
        raw, logits = self.model(batch["image"].flip(1) * 255)
        center, half = batch["boxes"][..., :2], batch["boxes"][..., 2:] / 2
        objects = torch.cat([center - half, center + half], -1)
        objects = objects * torch.tensor([width, height] * 2, device=objects.device)
        with torch.autocast(objects.device.type, enabled=False):
            return detection_loss(raw.float(), logits.float(), (height, width), objects, batch["classes"])
