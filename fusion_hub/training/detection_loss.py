"""A loss through a frozen detector: people, bicycles and cars stay as detectable as in the better source.

The detector is YOLOX (Ge et al. 2021), exported to ONNX without the decoding of its boxes. It sees the fused picture as
in a zero-shot test: the fused luminance with the visible's chroma, BGR 0..255, resized. A test resizes pictures of
640 x 480 pixels by 416 / 640; the loss resizes each sample by a factor of its own around that.

Two things make adversarial patterns, which raise a score and mean nothing, less likely; neither rules them out. The
loss only compares with the sources, so an object that scores as high as in the better one has none. And a pattern for
one size of the pixels fails at another (Athalye et al. 2018 average over such changes for the opposite purpose).
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion_hub.image.luminance import LUMA_WEIGHTS
from fusion_hub.training.config import ConfigError, expand_variables
from fusion_hub.training.onnx_graph import OnnxGraph
from fusion_hub.training.samples import mixed_seed

SCALE_STREAM = 3  # of the random numbers of a sample
_CLASSES = 3  # person, bicycle, car: the first three of COCO
_STRIDES = (8, 16, 32)
_GRAY = 114.0  # border with which YOLOX was trained
_LEAST_INSIDE = 0.6  # share of a box within the crop; others count neither as objects nor as false alarms
_SAME_OBJECT, _SAME_WIDTH = 0.5, 0.05  # intersection over union at which a prediction is half accepted, and the slope
_OTHER_OBJECT = 0.3  # intersection over union with every box below which a prediction is a false alarm
_TEMPERATURE = 0.5  # of the soft maximum over the predictions of an object, in units of logits
_FAINT = 0.05  # score: objects that score less in both sources hardly count, and weaker false alarms do not
_TINY = 1e-7  # keeps logits finite
_NEVER = -1e4  # logit of what is no candidate


class _Predictions(NamedTuple):
    """Boxes `(B, N, 4)` in pixels of the detector's input, and logits of the scores of each class `(B, N, 3)`."""

    boxes: Tensor
    logits: Tensor


class DetectionLoss(nn.Module):
    """How much less detectable the objects are in the fused picture than in the better source.

    Of an object, let z(P) be the soft maximum of the logits of its class's scores in picture P, over the predictions
    whose center lies in its box, each lowered by -log sigmoid((IoU - 0.5) / 0.05). Then its loss is

        w relu(max(z(V), z(I)) + margin - z(F))        w = s / (s + 0.05), s the score of max(z(V), z(I))

    and the loss of a picture

        sum(loss) / (1 + sum(w)) + false_alarms * sum(relu(logit(F) - max(logit(V), logit(I), logit(0.05))))

    where the second sum is over the classes of all predictions that overlap no box by more than 0.3. The sources get no
    gradient. A box of which less than 60 % lies within the picture is no object, but detections on it are no false
    alarms.

    Args:
        path: an ONNX file of YOLOX for the 80 classes of COCO.
        margin: by how much the fused picture should be better, in units of logits.
        false_alarms: weight of detections where there is no object.
        scales: smallest and largest factor by which a sample is resized for the detector; its number decides.

    Raises:
        ImportError, OSError, ValueError: as `OnnxGraph`; or its output is not that of YOLOX.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        margin: float = 0.0,
        false_alarms: float = 0.1,
        scales: tuple[float, float] = (0.5, 0.75),
    ) -> None:
        super().__init__()
        self.detector = OnnxGraph(path)
        self.margin, self.false_alarms, self.scales = margin, false_alarms, scales
        with torch.no_grad():
            shape = tuple(self.detector(torch.zeros(1, 3, 64, 64)).shape)
        if shape != (1, 84, 85):
            raise ValueError(
                f"{os.fspath(path)!r} returns {shape} for 64 x 64 pixels, not (1, 84, 85): give YOLOX for the 80 "
                "classes of COCO, exported without the decoding of its boxes"
            )

    def forward(self, fused: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of a batch, a scalar; a sample without annotations counts as 0.

        Args:
            fused: luminance `(B, 1, H, W)`.
            batch: a batch of `PairCrops(..., boxes=True)`: `visible`, `infrared` (or `clean_visible`, `clean_infrared`
                where it has them), `chroma`, `boxes`, `annotated` and `sample`.
        """
        return self.per_sample(fused, batch).mean()

    def per_sample(self, fused: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of each sample, `(B,)`; arguments as for `forward`."""
        losses = fused.new_zeros(len(fused), dtype=torch.float32)
        which = batch["annotated"].nonzero()[:, 0]
        if not len(which):
            return losses + 0 * fused.float().mean()  # keeps the graph the same for DDP
        fused, chroma = fused[which], batch["chroma"][which]
        scales = [self._scale(number) for number in batch["sample"][which.cpu()].tolist()]
        boxes, wanted, known = self._objects(batch["boxes"][which], fused.shape[-2:], scales)
        with torch.no_grad():
            clean = [batch.get(f"clean_{name}", batch[name])[which] for name in ("visible", "infrared")]
            visible = self._predict(clean[0], chroma, scales)
            infrared = self._predict(clean[1], torch.zeros_like(chroma), scales)
            target = torch.maximum(*(object_logits(source, boxes, wanted) for source in (visible, infrared)))
            score = target.sigmoid()
            weight = known * score / (score + _FAINT)
        seen = self._predict(fused, chroma, scales)
        missed = weight * F.relu(target + self.margin - object_logits(seen, boxes, wanted))
        alarms = F.relu(seen.logits - self._allowed(seen, visible, infrared, boxes))
        loss = missed.sum(1) / (1 + weight.sum(1)) + self.false_alarms * alarms.sum((1, 2))
        return losses.index_put((which,), loss)

    def _scale(self, number: int) -> float:
        low, high = self.scales
        return low + (high - low) * mixed_seed(number, SCALE_STREAM) / 2**64

    def _objects(self, rows: Tensor, size: torch.Size, scales: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `(B, M, 4)` within the crop in pixels of the detector, class ids, and whether each is an object."""
        class_ids, boxes = rows[..., 0].long(), rows[..., 1:].float()
        corner = boxes.new_tensor([size[1], size[0]] * 2)
        inside = torch.minimum(boxes.clamp_min(0), corner)
        share = _area(inside) / _area(boxes).clamp_min(1e-6)
        known = (class_ids >= 0) & (share >= _LEAST_INSIDE)
        resized = boxes.new_tensor([[_resized(size[1], one), _resized(size[0], one)] * 2 for one in scales])
        return inside * (resized / corner)[:, None], class_ids.clamp_min(0), known

    def _predict(self, luminance: Tensor, chroma: Tensor, scales: Sequence[float]) -> _Predictions:
        # In float32: in bfloat16 box coordinates are wrong by half a pixel and, on a CPU, no quicker.
        with torch.autocast(luminance.device.type, enabled=False):
            image = detector_input(luminance.float(), chroma.float(), scales, self.scales[1])
            rows = self.detector(image.contiguous(memory_format=torch.channels_last)).float()
        cells, strides = _grid(image.shape[-2:], image.device)
        centers = (rows[..., :2] + cells) * strides
        half = rows[..., 2:4].clamp_max(10).exp() * strides / 2
        scores = rows[..., 4:5] * rows[..., 5 : 5 + _CLASSES]
        logits = (scores + _TINY).log() - (1 - scores + _TINY).log()
        return _Predictions(torch.cat([centers - half, centers + half], dim=-1), logits)

    def _allowed(self, seen: _Predictions, visible: _Predictions, infrared: _Predictions, boxes: Tensor) -> Tensor:
        """The logits `(B, N, 3)` that are no false alarm: those of a source, and any on an object."""
        on_object = (overlaps(boxes, seen.boxes.detach()) > _OTHER_OBJECT).any(dim=1)
        faint = torch.tensor(_FAINT, device=boxes.device).logit()
        allowed = torch.maximum(visible.logits, infrared.logits).clamp_min(faint)
        return allowed.masked_fill(on_object[..., None], torch.inf)


def frozen_detection(config: Any) -> list[DetectionLoss]:
    """The loss of a run with `detection` above 0, else nothing.

    In a list, a module does not take it for a part of itself, which is trained, averaged and saved. Raises ConfigError
    where the detector cannot be used.
    """
    if not config.detection:
        return []
    try:
        return [DetectionLoss(expand_variables(config.detector))]
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"detector: {error}; or leave the loss out with --detection 0") from error


def detector_input(luminance: Tensor, chroma: Tensor, scales: Sequence[float], largest: float) -> Tensor:
    """BGR 0..255 `(B, 3, h, w)` for YOLOX from luminance `(B, 1, H, W)` and chroma `(B, 2, H, W)`.

    Chroma is Cb and Cr of BT.601 in [-0.5, 0.5]. Each picture is resized by its scale, bilinear and antialiased as
    Pillow does it, to the top left of a canvas that the largest scale would fill; 32 divides its sides.
    """
    blue, red = luminance + 1.772 * chroma[:, :1], luminance + 1.402 * chroma[:, 1:]
    red_weight, green_weight, blue_weight = LUMA_WEIGHTS
    green = (luminance - red_weight * red - blue_weight * blue) / green_weight
    image = 255 * torch.cat([blue, green, red], dim=1).clamp(0, 1)
    height, width = (32 * math.ceil(_resized(side, largest) / 32) for side in image.shape[-2:])
    canvas = []
    for one, scale in zip(image.split(1), scales, strict=True):
        size = [_resized(side, scale) for side in image.shape[-2:]]
        resized = F.interpolate(one, size=size, mode="bilinear", antialias=True)
        canvas.append(F.pad(resized, (0, width - size[1], 0, height - size[0]), value=_GRAY))
    return torch.cat(canvas)


def object_logits(predictions: _Predictions, boxes: Tensor, class_ids: Tensor) -> Tensor:
    """How clearly each object is detected, `(B, M)`; see `DetectionLoss`.

    Args:
        boxes: `(B, M, 4)` in pixels of the detector's input.
        class_ids: `(B, M)` int64.
    """
    accepted = F.logsigmoid((overlaps(boxes, predictions.boxes) - _SAME_OBJECT) / _SAME_WIDTH)
    of_class = predictions.logits.transpose(1, 2)
    index = class_ids[..., None].expand(-1, -1, of_class.shape[-1])
    values = of_class.gather(1, index) + accepted
    centers = ((predictions.boxes[..., :2] + predictions.boxes[..., 2:]) / 2).detach()[:, None]
    outside = torch.maximum(boxes[..., None, :2] - centers, centers - boxes[..., None, 2:]).amax(-1).clamp_min(0)
    candidates = outside <= outside.amin(-1, keepdim=True)  # the nearest where no center lies in the box
    values = values.masked_fill(~candidates, _NEVER)
    return ((values / _TEMPERATURE).softmax(-1) * values).sum(-1)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes `(B, M, 4)` with boxes `(B, N, 4)`: `(B, M, N)`."""
    low = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    return shared / (_area(boxes)[:, :, None] + _area(others)[:, None] - shared).clamp_min(1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def _resized(side: int, scale: float) -> int:
    return max(round(side * scale), 1)


def _grid(size: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Column and row `(N, 2)` of each cell, row by row and stride by stride, and its stride `(N, 1)`."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = (torch.arange(side // stride, device=device, dtype=torch.float32) for side in size)
        cells.append(torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2))
        strides.append(torch.full((len(cells[-1]), 1), float(stride), device=device))
    return torch.cat(cells), torch.cat(strides)
