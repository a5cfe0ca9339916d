"""What only the fused picture shows: its detections, matched with those in both sources."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusion_hub.data.boxes import iou
from fusion_hub.downstream.classes import name_of
from fusion_hub.downstream.protocols import Detections, check_threshold

CAUTION = "A detection is not always an object: this illustrates, it does not measure."


@dataclass(frozen=True, eq=False)
class Comparison:
    """Detections in three pictures of one scene, at one threshold.

    Indices are those of `fused`, `visible` and `infrared`.

    Attributes:
        threshold: the least score of what is counted.
        fused, visible, infrared: the detections at that threshold.
        only_fused: in the fused picture, but in neither source.
        below_threshold: of `only_fused`, those that a source shows too, with a score below the threshold.
        only_visible: in the visible picture, but neither in the infrared nor in the fused one.
        only_infrared: in the infrared picture, but neither in the visible nor in the fused one.
        lost: how many objects of the sources, by class name, the fused picture does not show; those in both count once.
    """

    threshold: float
    fused: Detections
    visible: Detections
    infrared: Detections
    only_fused: tuple[int, ...]
    below_threshold: tuple[int, ...]
    only_visible: tuple[int, ...]
    only_infrared: tuple[int, ...]
    lost: Mapping[str, int]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """For each class that occurs: how many in "visible", "infrared" and "fused", "only fused" and "lost"."""
        only = self.fused.take(np.array(self.only_fused, dtype=np.int64)).counts()
        columns = {
            "visible": self.visible.counts(),
            "infrared": self.infrared.counts(),
            "fused": self.fused.counts(),
            "only fused": only,
            "lost": dict(self.lost),
        }
        classes = dict.fromkeys(name for column in columns.values() for name in column)
        return {name: {title: column.get(name, 0) for title, column in columns.items()} for name in classes}

    @property
    def sentence(self) -> str:
        """What was found, lost and gained, in words that a visitor understands."""
        found = f"At a threshold of {self.threshold:.2f} the fused image shows {_listed(self.fused.counts())}."
        gained = self.fused.take(np.array(self.only_fused, dtype=np.int64)).counts()
        if gained:
            found += f" Found in neither source: {_listed(gained)}"
            weak = len(self.below_threshold)
            found += f"; {weak} of these a source shows below the threshold." if weak else "."
        else:
            found += " Nothing in it is missing from both sources."
        if self.lost:
            found += f" Found in a source but not in the fused image: {_listed(self.lost)}."
        return f"{found} {CAUTION}"


def compare(
    fused: Detections,
    visible: Detections,
    infrared: Detections,
    *,
    threshold: float = 0.3,
    iou_threshold: float = 0.5,
) -> Comparison:
    """Match the detections in a fused picture with those in its sources.

    Two detections match if they are of one class and overlap by `iou_threshold`; each matches at most one other, the
    pairs that overlap most first.

    Args:
        fused, visible, infrared: of one detector, in pictures of one size. Detected with a lower threshold than the one
            given here they also tell what a source shows faintly (`below_threshold`).
        threshold: the least score of what is counted, in [0, 1].
        iou_threshold: the least intersection over union of a match, in (0, 1].

    Raises:
        ValueError: if the pictures differ in size, or a threshold is out of range.
    """
    check_threshold(threshold)
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1], got {iou_threshold}")
    if not fused.size == visible.size == infrared.size:
        raise ValueError(
            f"the pictures differ in size (H, W): fused {fused.size}, visible {visible.size}, infrared {infrared.size}"
            ": detect in registered pictures of one size"
        )
    strong = [detections.above(threshold) for detections in (fused, visible, infrared)]
    in_visible, in_infrared = (match(strong[0], source, iou_threshold) for source in strong[1:])
    only_fused = sorted(set(range(len(strong[0]))) - in_visible.keys() - in_infrared.keys())
    rest = strong[0].take(np.array(only_fused, dtype=np.int64))
    weak = [source.take(source.scores < threshold) for source in (visible, infrared)]
    faint = {i for source in weak for i in match(rest, source, iou_threshold)}
    # What both sources show at one place is one object, and one of its boxes is enough to find it again.
    partners = match(strong[1], strong[2], iou_threshold)
    shown_visible, shown_infrared = set(in_visible.values()), set(in_infrared.values())
    lost_visible = [
        i for i in range(len(strong[1])) if i not in shown_visible and partners.get(i) not in shown_infrared
    ]
    only_infrared = sorted(set(range(len(strong[2]))) - shown_infrared - set(partners.values()))
    lost = Counter(_names(strong[1], lost_visible) + _names(strong[2], only_infrared))
    return Comparison(
        threshold=threshold,
        fused=strong[0],
        visible=strong[1],
        infrared=strong[2],
        only_fused=tuple(only_fused),
        below_threshold=tuple(only_fused[i] for i in sorted(faint)),
        only_visible=tuple(i for i in lost_visible if i not in partners),
        only_infrared=tuple(only_infrared),
        lost=dict(lost.most_common()),
    )


def match(first: Detections, second: Detections, iou_threshold: float) -> dict[int, int]:
    """One-to-one matches within classes, the largest overlap first: index in `first` -> index in `second`."""
    overlap = iou(first.boxes, second.boxes)
    overlap[first.class_ids[:, None] != second.class_ids[None]] = 0
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for flat in np.argsort(-overlap, axis=None, kind="stable").tolist():
        i, j = divmod(flat, max(len(second), 1))
        if overlap[i, j] < iou_threshold:
            break
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def _names(detections: Detections, which: Sequence[int]) -> list[str]:
    return [name_of(detections.names, int(detections.class_ids[i])) for i in which]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "nothing"
