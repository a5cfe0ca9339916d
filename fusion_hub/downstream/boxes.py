"""Boxes: letterbox and back, non-maximum suppression. Pure functions of NumPy arrays.

A box is left, top, right, bottom in pixels; edges, so a box around one pixel is 1 wide.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from fusion_hub.data.boxes import iou

LETTERBOX_GREY = 114  # what YOLOX and Ultralytics train with


@dataclass(frozen=True)
class Letterbox:
    """How a picture was fitted into the input of a network: `x' = x * scale + offset`, for x and for y.

    Attributes:
        scale: of x and of y; they differ by the rounding of the resized picture to whole pixels.
        offset: left and top border in pixels.
    """

    scale: tuple[float, float]
    offset: tuple[int, int]

    def to_input(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `(N, 4)` of the picture as boxes of the network's input, float32."""
        return (boxes * np.array(self.scale * 2) + np.array(self.offset * 2)).astype(np.float32)

    def to_picture(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `(N, 4)` of the network's input as boxes of the picture, float32: the inverse of [`to_input`]."""
        return ((boxes - np.array(self.offset * 2)) / np.array(self.scale * 2)).astype(np.float32)


def letterbox(pixels: np.ndarray, size: tuple[int, int], *, centred: bool) -> tuple[np.ndarray, Letterbox]:
    """Resize a picture without distortion and fill up with grey.

    Args:
        pixels: `(H, W, 3)` uint8.
        size: `(height, width)` of the result.
        centred: the border on all sides (Ultralytics), otherwise at the right and bottom only (YOLOX).

    Returns:
        `(height, width, 3)` uint8, and where the picture lies in it.
    """
    (height, width), (to_height, to_width) = pixels.shape[:2], size
    ratio = min(to_height / height, to_width / width)
    inner_height = min(max(round(height * ratio), 1), to_height)
    inner_width = min(max(round(width * ratio), 1), to_width)
    top, left = ((to_height - inner_height) // 2, (to_width - inner_width) // 2) if centred else (0, 0)
    canvas = np.full((to_height, to_width, 3), LETTERBOX_GREY, dtype=np.uint8)
    resized = Image.fromarray(pixels).resize((inner_width, inner_height), Image.Resampling.BILINEAR)
    canvas[top : top + inner_height, left : left + inner_width] = np.asarray(resized)
    return canvas, Letterbox((inner_width / width, inner_height / height), (left, top))


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes `(N, 4)` of centre x, centre y, width, height as left, top, right, bottom."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def nms(boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression within each class.

    From the best score down, a box is kept unless it overlaps a kept box of its class by more than `threshold`. A box
    never depends on one with a lower score, so cutting by score before or after gives the same result.

    Args:
        boxes: `(N, 4)`.
        scores: `(N,)`; of equal ones the earlier goes first.
        class_ids: `(N,)`.
        threshold: intersection over union in [0, 1].

    Returns:
        Indices of the kept boxes, `(K,)` int64, by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    kept = [_keep(boxes, order[class_ids[order] == class_id], threshold) for class_id in np.unique(class_ids)]
    together = np.concatenate([np.zeros(0, dtype=np.int64), *kept])
    rank = np.empty(len(scores), dtype=np.int64)
    rank[order] = np.arange(len(scores))
    return together[np.argsort(rank[together])]


def _keep(boxes: np.ndarray, candidates: np.ndarray, threshold: float) -> np.ndarray:
    """Of the indices of one class, best first, those that are kept."""
    kept = []
    while len(candidates):
        best, candidates = candidates[0], candidates[1:]
        kept.append(best)
        candidates = candidates[iou(boxes[best][None], boxes[candidates])[0] <= threshold]
    return np.array(kept, dtype=np.int64)
