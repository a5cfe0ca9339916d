"""What a detector and a segmenter are, and what they return."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np

from fusion_hub.downstream.classes import Colour, name_of
from fusion_hub.image.processor import ImageInput

BACKGROUND = ("unlabelled", "unlabeled", "background", "void")
"""Names of the class that means "none of the others"; it is not drawn."""


@dataclass(frozen=True)
class Detection:
    """One object.

    Attributes:
        box: left, top, right, bottom in pixels of the picture; edges, so `right - left` is the width.
        score: in [0, 1].
        class_id: index of its class.
        name: of its class.
    """

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one picture, best first.

    Attributes:
        boxes: `(N, 4)` float32: left, top, right, bottom in pixels of the picture, within it.
        scores: `(N,)` float32 in [0, 1], falling.
        class_ids: `(N,)` int64.
        names: name of each class that the detector knows, by class id.
        size: `(H, W)` of the picture.
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
        """From any order and place: boxes are clipped to the picture, empty ones dropped, the rest sorted by score.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        boxes = np.asarray(boxes, dtype=np.float32)
        scores = np.asarray(scores, dtype=np.float32)
        class_ids = np.asarray(class_ids, dtype=np.int64)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not scores.shape == class_ids.shape == (len(boxes),):
            raise ValueError(
                f"boxes {boxes.shape}, scores {scores.shape} and class_ids {class_ids.shape} do not belong together: "
                "give (N, 4), (N,) and (N,)"
            )
        height, width = size
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
        order = np.argsort(-scores, kind="stable")
        order = order[(boxes[order, 2] > boxes[order, 0]) & (boxes[order, 3] > boxes[order, 1])]
        return cls(boxes[order], scores[order], class_ids[order], names, size)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, class_id in zip(
            self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist(), strict=True
        ):
            yield Detection(tuple(box), score, class_id, name_of(self.names, class_id))

    def take(self, which: np.ndarray) -> Self:
        """Those at the given indices, or where a mask `(N,)` is true, in the order that they are given in."""
        return type(self)(self.boxes[which], self.scores[which], self.class_ids[which], self.names, self.size)

    def above(self, threshold: float) -> Self:
        """Those whose score is at least `threshold`: the same as detecting with that threshold."""
        return self.take(self.scores >= threshold)

    def only(self, names: Collection[str]) -> Self:
        """Those of the named classes.

        Raises:
            ValueError: for a name that the detector does not know.
        """
        unknown = sorted(set(names) - set(self.names.values()))
        if unknown:
            raise ValueError(
                f"the detector knows no class {unknown[0]!r}: use some of {', '.join(self.names.values())}"
            )
        wanted = [class_id for class_id, name in self.names.items() if name in names]
        return self.take(np.isin(self.class_ids, wanted))

    def counts(self) -> dict[str, int]:
        """How many of each class, the most frequent first."""
        return dict(Counter(detection.name for detection in self).most_common())


@runtime_checkable
class Detector(Protocol):
    """Finds objects in a picture.

    Attributes:
        names: name of each class, by class id.
    """

    names: Mapping[int, str]

    def detect(self, image: ImageInput, *, threshold: float = 0.3) -> Detections:
        """The objects with a score of at least `threshold` in a picture of any kind that a pipeline takes."""
        ...


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of each pixel of one picture.

    Attributes:
        class_map: `(H, W)` int64, the class id of each pixel.
        names: name of each class, by class id.
        palette: colour of each class, by class id.
    """

    class_map: np.ndarray
    names: Mapping[int, str]
    palette: Mapping[int, Colour]

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)`."""
        return self.class_map.shape[0], self.class_map.shape[1]

    def is_background(self, class_id: int) -> bool:
        """Whether a class means "none of the others"."""
        return name_of(self.names, class_id).lower() in BACKGROUND

    def shares(self) -> dict[int, float]:
        """The share of the picture, in [0, 1], of each class id that occurs, largest first."""
        class_ids, pixels = np.unique(self.class_map, return_counts=True)
        shares = zip(class_ids.tolist(), (pixels / self.class_map.size).tolist(), strict=True)
        return dict(sorted(shares, key=lambda share: -share[1]))


@runtime_checkable
class Segmenter(Protocol):
    """Gives each pixel of a picture a class.

    Attributes:
        names: name of each class, by class id.
        palette: colour of each class, by class id.
    """

    names: Mapping[int, str]
    palette: Mapping[int, Colour]

    def segment(self, image: ImageInput) -> Segmentation:
        """The class of each pixel of a picture of any kind that a pipeline takes."""
        ...


def check_threshold(threshold: float) -> None:
    """Raises ValueError unless `threshold` is a number in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in 0..1, got {threshold}")
