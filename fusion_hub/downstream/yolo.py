"""Input and output of YOLO networks: letterbox, decoding of each family, non-maximum suppression. Pure functions.

With C classes, the three families have these outputs:

| family   | networks                         | output                | a box                                      |
|----------|----------------------------------|-----------------------|--------------------------------------------|
| `yolox`  | YOLOX (Ge et al. 2021)           | `(1, cells, 5 + C)`   | dx, dy, log w, log h, objectness, C scores |
| `yolov5` | YOLOv5, YOLOv7                   | `(1, 3 cells, 5 + C)` | x, y, w, h, objectness, C scores           |
| `yolov8` | YOLOv8, YOLO11, converted YOLOv5 | `(1, 4 + C, cells)`   | x, y, w, h, C scores                       |

YOLOX takes BGR 0..255, letterboxed with the border at the right and bottom; the others take RGB 0..1 with the border on
all sides. `cells` are the grid cells of all strides: 8, 16, 32; also 64 in large variants and 4 in those for small
objects. x, y are a center in pixels. The four numbers of YOLOX are relative to the cell, in row-major order:
`x = (dx + cell) * stride`, `w = exp(log w) * stride`. Some exports decode them; that is detected from the numbers.

A box is left, top, right, bottom in pixels; these are edges, so a box around one pixel is 1 wide.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from fusion_hub.data.annotations import iou
from fusion_hub.downstream.protocols import COCO_CLASSES

Family = Literal["yolox", "yolov5", "yolov8"]
LETTERBOX_GRAY = 114  # used for training by YOLOX and Ultralytics
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))


class Letterbox(NamedTuple):
    """Position of an image in the input of a network: `x' = x * scale + offset`, for x and for y."""

    scale: tuple[float, float]  # they differ because the resized image has whole pixels
    offset: tuple[int, int]  # left and top border in pixels

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `(N, 4)` of the network's input as float32 boxes of the image."""
        return ((boxes - np.array(self.offset * 2)) / np.array(self.scale * 2)).astype(np.float32)


def letterbox(pixels: np.ndarray, size: tuple[int, int], *, centered: bool) -> tuple[np.ndarray, Letterbox]:
    """Resize an image without distortion and fill the rest with gray.

    Args:
        pixels: `(H, W, 3)` uint8.
        size: `(height, width)` of the result.
        centered: border on all sides (Ultralytics) instead of only at the right and bottom (YOLOX).

    Returns:
        `(height, width, 3)` uint8, and the position of the image in it.
    """
    (height, width), (to_height, to_width) = pixels.shape[:2], size
    ratio = min(to_height / height, to_width / width)
    inner_height = min(max(round(height * ratio), 1), to_height)
    inner_width = min(max(round(width * ratio), 1), to_width)
    top, left = ((to_height - inner_height) // 2, (to_width - inner_width) // 2) if centered else (0, 0)
    canvas = np.full((to_height, to_width, 3), LETTERBOX_GRAY, dtype=np.uint8)
    resized = Image.fromarray(pixels).resize((inner_width, inner_height), Image.Resampling.BILINEAR)
    canvas[top : top + inner_height, left : left + inner_width] = np.asarray(resized)
    return canvas, Letterbox((inner_width / width, inner_height / height), (left, top))


def nms(boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression within each class.

    From the highest score down, a box is kept unless it overlaps a kept box of its class by more than `threshold`. A
    box never depends on one with a lower score, so filtering by score before or after gives the same result.

    Args:
        boxes, scores, class_ids: `(N, 4)`, `(N,)` and `(N,)`; of equal scores the earlier goes first.
        threshold: intersection over union in [0, 1].

    Returns:
        Indices of the kept boxes, `(K,)` int64, by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(len(scores), dtype=bool)
    for class_id in np.unique(class_ids):
        candidates = order[class_ids[order] == class_id]
        while len(candidates):
            best, candidates = candidates[0], candidates[1:]
            kept[best] = True
            candidates = candidates[iou(boxes[best][None], boxes[candidates])[0] <= threshold]
    return order[kept[order]]


@dataclass(frozen=True)
class Layout:
    """Input and output format of a YOLO file."""

    family: Family  # see the table above
    classes: int  # number of classes
    strides: tuple[int, ...]  # of the grids, in the order of the rows
    size: tuple[int, int]  # (height, width) of the input

    @property
    def centered(self) -> bool:
        """Whether the letterbox has its border on all sides."""
        return self.family != "yolox"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """A letterboxed image `(H, W, 3)` uint8 as the input `(1, 3, H, W)` float32."""
        pixels = image[..., ::-1] if self.family == "yolox" else image / np.float32(255)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)

    def decode(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes and scores of the output for one image.

        Args:
            output: of the shape from which this layout was recognized.

        Returns:
            boxes `(N, 4)`: left, top, right, bottom in pixels of the input; scores `(N, C)`, times objectness.

        Raises:
            ValueError: the output contains NaN or infinite values.
        """
        rows = output[0].T if self.family == "yolov8" else output[0]
        if not np.isfinite(rows).all():
            raise ValueError("the network returned NaN or infinite values: check the ONNX file, export it in float32")
        rows = rows.astype(np.float32, copy=False)
        scores = rows[:, 4:] if self.family == "yolov8" else rows[:, 4:5] * rows[:, 5:]
        boxes = rows[:, :4]
        if self.family == "yolox":
            cells, strides = grid(self.size, self.strides)
            # A center lies near its own cell: boxes are decoded if they are nearer to it than raw offsets would be.
            if np.median(np.abs(boxes[:, :2] / strides - cells)) >= np.median(np.abs(boxes[:, :2])):
                # exp overflows at 89 and no box is e^20 cells wide, so broken rows stay finite.
                sizes = np.exp(np.minimum(boxes[:, 2:], 20)) * strides
                boxes = np.concatenate([(boxes[:, :2] + cells) * strides, sizes], axis=1)
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([center - half, center + half], axis=1), scores


def grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Column and row `(N, 2)` of each cell, row by row and stride by stride, and its stride `(N, 1)`; float32."""
    cells, widths = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        widths.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(widths).astype(np.float32)


def recognize(shape: tuple[int, ...], size: tuple[int, int], metadata: Mapping[str, str]) -> Layout:
    """The layout of an output, from its shape.

    Args:
        shape: of the output, for one image.
        size: `(height, width)` of the input.
        metadata: of the ONNX file; Ultralytics writes `task` and `names`.

    Raises:
        ValueError: the output belongs to none of the three families.
    """
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ValueError(f"the metadata of the ONNX file names the task {task!r}: give one that detects boxes")
    found: list[Layout] = []
    if len(shape) == 3 and shape[0] == 1:
        rows, columns = shape[1:]
        for strides in _STRIDES:
            cells = sum((size[0] // stride) * (size[1] // stride) for stride in strides)
            if rows in (cells, 3 * cells) and columns > 5:
                found.append(Layout("yolox" if rows == cells else "yolov5", columns - 5, strides, size))
            if columns == cells and rows > 4:
                found.append(Layout("yolov8", rows - 4, strides, size))
    if not found:
        raise ValueError(
            f"an output of shape {tuple(shape)} for an input of {size[0]} x {size[1]} is not a known YOLO head: "
            "expected one output of YOLOX (1, cells, 5 + classes), YOLOv5 (1, 3 * cells, 5 + classes) or YOLOv8/YOLO11 "
            "(1, 4 + classes, cells), exported without NMS (Ultralytics: nms=False, end2end=False)"
        )
    count = len(parse_names(metadata))
    return min(found, key=lambda layout: layout.classes != count)  # if several fit, the names decide


def parse_names(metadata: Mapping[str, str]) -> dict[int, str]:
    """Class names from the metadata of an ONNX file: `{0: 'person'}` or a list, also as JSON; {} without any.

    Raises:
        ValueError: `names` is neither.
    """
    text = metadata.get("names")
    if not text:
        return {}
    try:
        names = ast.literal_eval(text)
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(class_id): str(name) for class_id, name in pairs}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"the class names in the metadata of the ONNX file cannot be read ({text[:60]!r}): give class_names=[...]"
        ) from error


def names_for(layout: Layout, metadata: Mapping[str, str]) -> dict[int, str]:
    """Names from the metadata, or those of COCO for 80 classes.

    Raises:
        ValueError: there are none, or not one for each class.
    """
    names = parse_names(metadata)
    if not names and layout.classes == len(COCO_CLASSES):
        return dict(enumerate(COCO_CLASSES))
    if sorted(names) != list(range(layout.classes)):
        raise ValueError(
            f"the network has {layout.classes} classes, but the metadata of the ONNX file has {len(names) or 'no'} "
            "names: give class_names=[...], one for each class in their order"
        )
    return names
