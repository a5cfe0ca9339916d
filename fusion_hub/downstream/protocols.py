"""Detectors and segmenters, their results, and the names and colors of classes."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from fusion_hub.image.processor import ImageInput

Color = tuple[int, int, int]

COCO_CLASSES: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""The 80 classes of COCO (Lin et al. 2014) in the order that YOLO files use."""

MSRS_CLASSES = ("unlabeled", "car", "person", "bike", "curve", "car stop", "guardrail", "color cone", "bump")
"""The nine classes of MSRS (Tang et al. 2022) by label value; those of MFNet (Ha et al. 2017)."""

COLORS: tuple[Color, ...] = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)),
    *((204, 121, 167), (213, 94, 0), (0, 114, 178), (190, 190, 190)),
)
"""Eight colors for people with any color vision: Okabe and Ito (2008), with gray instead of black."""

MSRS_PALETTE: tuple[Color, ...] = ((0, 0, 0), COLORS[2], *COLORS[:2], *COLORS[4:7], COLORS[3], COLORS[7])
"""A color for each of `MSRS_CLASSES`, black (never drawn) for unlabeled pixels. Person, bike and car have the colors
that detectors with the order of COCO give them; those of MFNet's authors are too dark for images taken at night."""

BACKGROUND = ("unlabelled", "unlabeled", "background", "void")
"""Names of the class that means "none of the others"; it is not drawn."""


def name_of(names: Mapping[int, str], class_id: int) -> str:
    """The name of a class, or `class 7` if it has none."""
    return names.get(class_id, f"class {class_id}")


def color_of(class_id: int) -> Color:
    """The color of a class; after eight they repeat."""
    return COLORS[class_id % len(COLORS)]


def palette_of(names: Mapping[int, str]) -> dict[int, Color]:
    """Colors for the classes of a segmentation: `MSRS_PALETTE` for the classes of MSRS."""
    if tuple(names[i] for i in sorted(names)) == MSRS_CLASSES:
        return dict(enumerate(MSRS_PALETTE))
    return {class_id: color_of(class_id) for class_id in sorted(names)}


@dataclass(frozen=True)
class Detection:
    """One object and its class, with a score in [0, 1].

    Attributes:
        box: left, top, right, bottom in pixels of the image; edges, so `right - left` is the width.
    """

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image, best first.

    Attributes:
        boxes: `(N, 4)` float32: left, top, right, bottom in pixels, within the image.
        scores: `(N,)` float32 in [0, 1], falling.
        class_ids: `(N,)` int64.
        names: name of each class that the detector knows, by class id.
        size: `(H, W)` of the image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    names: Mapping[int, str]
    size: tuple[int, int]

    @classmethod
    def of(
        cls,
        boxes: np.ndarray,
        scores: np.ndarray,
        class_ids: np.ndarray,
        names: Mapping[int, str],
        size: tuple[int, int],
    ) -> Self:
        """Clip boxes to the image, drop empty ones, and sort by score.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        boxes, scores = np.asarray(boxes, dtype=np.float32), np.asarray(scores, dtype=np.float32)
        class_ids = np.asarray(class_ids, dtype=np.int64)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not scores.shape == class_ids.shape == (len(boxes),):
            raise ValueError(
                f"boxes {boxes.shape}, scores {scores.shape} and class_ids {class_ids.shape} do not belong together: "
                "give (N, 4), (N,) and (N,)"
            )
        boxes = np.clip(boxes, 0, np.array([*size[::-1], *size[::-1]], dtype=np.float32))
        order = np.argsort(-scores, kind="stable")
        order = order[(boxes[order, 2] > boxes[order, 0]) & (boxes[order, 3] > boxes[order, 1])]
        return cls(boxes[order], scores[order], class_ids[order], names, size)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        columns = (column.tolist() for column in (self.boxes, self.scores, self.class_ids))
        for box, score, class_id in zip(*columns, strict=True):
            yield Detection(tuple(box), score, class_id, name_of(self.names, class_id))

    def take(self, which: np.ndarray | list[int]) -> Self:
        """Those at the given indices, in their order, or where a mask `(N,)` is true."""
        return type(self)(self.boxes[which], self.scores[which], self.class_ids[which], self.names, self.size)

    def above(self, threshold: float) -> Self:
        """Those whose score is at least `threshold`: the same as detecting with that threshold."""
        return self.take(self.scores >= threshold)

    def only(self, names: Collection[str]) -> Self:
        """Those of the named classes.

        Raises:
            ValueError: the detector does not know one of the names.
        """
        if unknown := sorted(set(names) - set(self.names.values())):
            known = ", ".join(self.names.values())
            raise ValueError(f"the detector does not know the class {unknown[0]!r}: use some of {known}")
        return self.take(np.isin(self.class_ids, [class_id for class_id, name in self.names.items() if name in names]))

    def counts(self) -> dict[str, int]:
        """Number of objects of each class, the most frequent first."""
        return dict(Counter(detection.name for detection in self).most_common())


@runtime_checkable
class Detector(Protocol):
    """Finds objects in an image; `names` has the name of each class, by class id."""

    names: Mapping[int, str]

    def detect(self, image: "ImageInput", *, threshold: float = 0.3) -> Detections:
        """The objects with a score of at least `threshold` in an image (any input of a pipeline)."""
        ...


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of each pixel of one image.

    Attributes:
        class_map: `(H, W)` int64, the class id of each pixel.
        names: name of each class, by class id.
        palette: color of each class, by class id.
    """

    class_map: np.ndarray
    names: Mapping[int, str]
    palette: Mapping[int, Color]

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)`."""
        return self.class_map.shape[0], self.class_map.shape[1]

    def is_background(self, class_id: int) -> bool:
        """Whether a class means "none of the others"."""
        return name_of(self.names, class_id).lower() in BACKGROUND

    def shares(self) -> dict[int, float]:
        """The share of the image, in [0, 1], of each class id that occurs, largest first."""
        class_ids, pixels = np.unique(self.class_map, return_counts=True)
        shares = zip(class_ids.tolist(), (pixels / self.class_map.size).tolist(), strict=True)
        return dict(sorted(shares, key=lambda share: -share[1]))


@runtime_checkable
class Segmenter(Protocol):
    """Gives each pixel of an image a class; `names` and `palette` have the name and color of each, by class id."""

    names: Mapping[int, str]
    palette: Mapping[int, Color]

    def segment(self, image: "ImageInput") -> Segmentation:
        """The class of each pixel of an image (any input of a pipeline)."""
        ...


def check_threshold(threshold: float) -> None:
    """Raises ValueError unless `threshold` is a number in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in 0..1, got {threshold}")
