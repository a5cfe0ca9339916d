"""Reading the output of a YOLO file: which family wrote it, and where its boxes are. Pure functions.

Three families share the name and differ in everything around the network. With C classes:

| family   | networks                       | output                | a box                                      |
|----------|--------------------------------|-----------------------|--------------------------------------------|
| `yolox`  | YOLOX (Ge et al. 2021)         | `(1, cells, 5 + C)`   | dx, dy, log w, log h, objectness, C scores |
| `yolov5` | YOLOv5, YOLOv7                 | `(1, 3 cells, 5 + C)` | x, y, w, h, objectness, C scores           |
| `yolov8` | YOLOv8, YOLO11, rebuilt YOLOv5 | `(1, 4 + C, cells)`   | x, y, w, h, C scores                       |

YOLOX takes BGR 0..255 with the letterbox's border at the right and bottom, the others RGB 0..1 with the border on all
sides. `cells` are the grid cells of all strides: 8, 16, 32, and 64 in large variants, 4 in those for small objects.
x, y are a centre in pixels. The four numbers of YOLOX are relative to the cell, in row-major order,
`x = (dx + cell) * stride`, `w = exp(log w) * stride`, unless the export decoded them already, which the numbers show.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusion_hub.downstream.boxes import corners
from fusion_hub.downstream.classes import COCO_CLASSES

Family = Literal["yolox", "yolov5", "yolov8"]
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
_ADVICE = (
    "expected is one output of the raw head: YOLOX (1, cells, 5 + classes), YOLOv5 (1, 3 * cells, 5 + classes) or "
    "YOLOv8/YOLO11 (1, 4 + classes, cells), exported without NMS inside (Ultralytics: nms=False, end2end=False)"
)


@dataclass(frozen=True)
class Layout:
    """How to feed a YOLO file and how to read it.

    Attributes:
        family: see the table above.
        classes: number of classes.
        strides: of the grids, in the order of the rows.
        size: `(height, width)` of the input.
    """

    family: Family
    classes: int
    strides: tuple[int, ...]
    size: tuple[int, int]

    @property
    def centred(self) -> bool:
        """Whether the letterbox has its border on all sides."""
        return self.family != "yolox"

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """A letterboxed picture `(H, W, 3)` uint8 as the input `(1, 3, H, W)` float32."""
        pixels = picture[..., ::-1] if self.family == "yolox" else picture / np.float32(255)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)

    def decode(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The output of one picture as boxes and scores.

        Args:
            output: of the shape that this layout was recognised from.

        Returns:
            boxes `(N, 4)`: left, top, right, bottom in pixels of the input; scores `(N, C)`, objectness included.

        Raises:
            ValueError: if the output holds NaN or infinite values.
        """
        rows = output[0].T if self.family == "yolov8" else output[0]
        if not np.isfinite(rows).all():
            raise ValueError("the network returned NaN or infinite values: check the ONNX file, export it in float32")
        rows = rows.astype(np.float32, copy=False)
        scores = rows[:, 4:] if self.family == "yolov8" else rows[:, 4:5] * rows[:, 5:]
        place = self._place(rows[:, :4]) if self.family == "yolox" else rows[:, :4]
        return corners(place), scores

    def _place(self, raw: np.ndarray) -> np.ndarray:
        """Centre and size in pixels from a YOLOX head, decoded in the file or not."""
        cells, strides = grid(self.size, self.strides)
        # Either way a centre lies near its own cell: the reading that puts them closer is the right one.
        if np.median(np.abs(raw[:, :2] / strides - cells)) < np.median(np.abs(raw[:, :2])):
            return raw
        # exp overflows at 89 and no box is e^20 cells wide: what a broken row says stays finite.
        return np.concatenate([(raw[:, :2] + cells) * strides, np.exp(np.minimum(raw[:, 2:], 20)) * strides], axis=1)


def grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Column and row `(N, 2)` of each cell, row by row and stride by stride, and its stride `(N, 1)`; float32."""
    cells, widths = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        widths.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(widths).astype(np.float32)


def recognise(shape: tuple[int, ...], size: tuple[int, int], metadata: Mapping[str, str]) -> Layout:
    """Which layout an output has.

    Args:
        shape: of the output, for one picture.
        size: `(height, width)` of the input.
        metadata: of the ONNX file; Ultralytics writes `task` and `names`.

    Raises:
        ValueError: for an output that is none of the three.
    """
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ValueError(f"the ONNX file is for the task {task!r} by its metadata: give one that detects boxes")
    found = [layout for strides in _STRIDES for layout in _fitting(shape, size, strides)] if len(shape) == 3 else []
    names = parse_names(metadata)
    found.sort(key=lambda layout: layout.classes != len(names))  # should several fit, the names decide
    if not found:
        raise ValueError(
            f"an output of shape {tuple(shape)} for an input of {size[0]} x {size[1]} is no YOLO head that is known: "
            + _ADVICE
        )
    return found[0]


def _fitting(shape: tuple[int, ...], size: tuple[int, int], strides: tuple[int, ...]) -> list[Layout]:
    batch, rows, columns = shape
    cells = sum((size[0] // stride) * (size[1] // stride) for stride in strides)
    candidates: tuple[tuple[Family, int, int, int], ...] = (
        ("yolox", cells, rows, columns - 5),
        ("yolov5", 3 * cells, rows, columns - 5),
        ("yolov8", cells, columns, rows - 4),
    )
    return [
        Layout(family, classes, strides, size)
        for family, expected, count, classes in candidates
        if batch == 1 and expected == count and classes >= 1
    ]


def parse_names(metadata: Mapping[str, str]) -> dict[int, str]:
    """Class names from the metadata of an ONNX file: `{0: 'person'}` or a list, also as JSON; {} without any.

    Raises:
        ValueError: if there is something under `names` that is neither.
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
        ValueError: if there are none, or not as many as the network has classes.
    """
    names = parse_names(metadata)
    if not names and layout.classes == len(COCO_CLASSES):
        return dict(enumerate(COCO_CLASSES))
    if sorted(names) != list(range(layout.classes)):
        raise ValueError(
            f"the network has {layout.classes} classes and the metadata of the ONNX file {len(names) or 'no'} names: "
            "give class_names=[...], one for each class in their order"
        )
    return names
