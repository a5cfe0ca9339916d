"""Detections that only the fused image shows: they are matched with those in both sources."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fusion_hub.data.annotations import iou
from fusion_hub.downstream.protocols import Detections, check_threshold

CAUTION = "A detection is not always an object: this is an illustration, not a measurement."


@dataclass(frozen=True, eq=False)
class Comparison:
    """Detections in three images of one scene, at one threshold.

    Indices refer to `fused`, `visible` and `infrared`.

    Attributes:
        threshold: the lowest score that counts.
        fused, visible, infrared: the detections at that threshold.
        only_fused: in the fused image, but in neither source.
        below_threshold: those of `only_fused` that a source shows with a score below the threshold.
        only_visible: in the visible image, but neither in the infrared nor in the fused one.
        only_infrared: in the infrared image, but neither in the visible nor in the fused one.
        lost: number of objects, by class name, that a source shows but the fused image does not; those in both sources
            count once.
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
        """For each class that occurs: the number in "visible", "infrared" and "fused", "only fused" and "lost"."""
        columns = {
            "visible": self.visible.counts(),
            "infrared": self.infrared.counts(),
            "fused": self.fused.counts(),
            "only fused": self._gained(),
            "lost": dict(self.lost),
        }
        classes = dict.fromkeys(name for column in columns.values() for name in column)
        return {name: {title: column.get(name, 0) for title, column in columns.items()} for name in classes}

    @property
    def sentence(self) -> str:
        """What was found, lost and gained, in plain English."""
        found = f"At a threshold of {self.threshold:.2f} the fused image shows {_listed(self.fused.counts())}."
        if gained := self._gained():
            found += f" Found in neither source: {_listed(gained)}."
            if weak := len(self.below_threshold):
                found += f" A source shows {weak} of these below the threshold."
        else:
            found += " Nothing was found in the fused image alone."
        if self.lost:
            found += f" Found in a source but not in the fused image: {_listed(self.lost)}."
        return f"{found} {CAUTION}"

    def _gained(self) -> dict[str, int]:
        return self.fused.take(list(self.only_fused)).counts()


def compare(
    fused: Detections,
    visible: Detections,
    infrared: Detections,
    *,
    threshold: float = 0.3,
    iou_threshold: float = 0.5,
) -> Comparison:
    """Match the detections in a fused image with those in its sources.

    Two detections match if they have one class and overlap by at least `iou_threshold`. Each matches at most one other;
    the pairs with the largest overlap are matched first.

    Args:
        fused, visible, infrared: from one detector, in images of one size. If they were detected with a threshold below
            the one given here, the result also has `below_threshold`.
        threshold: the lowest score that counts, in [0, 1].
        iou_threshold: the lowest intersection over union of a match, in (0, 1].

    Raises:
        ValueError: the images differ in size, or a threshold is out of range.
    """
    check_threshold(threshold)
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1], got {iou_threshold}")
    if not fused.size == visible.size == infrared.size:
        raise ValueError(
            f"the images differ in size (H, W): fused {fused.size}, visible {visible.size}, infrared {infrared.size}"
            ": detect in registered images of one size"
        )
    strong = [detections.above(threshold) for detections in (fused, visible, infrared)]
    in_visible, in_infrared = (match(strong[0], source, iou_threshold) for source in strong[1:])
    only_fused = sorted(set(range(len(strong[0]))) - in_visible.keys() - in_infrared.keys())
    rest = strong[0].take(only_fused)
    weak = [source.take(source.scores < threshold) for source in (visible, infrared)]
    faint = {i for source in weak for i in match(rest, source, iou_threshold)}
    # Matching detections in both sources are one object; it is not lost if either of them matches a fused detection.
    partners = match(strong[1], strong[2], iou_threshold)
    shown_visible, shown_infrared = set(in_visible.values()), set(in_infrared.values())
    lost_visible = [
        i for i in range(len(strong[1])) if i not in shown_visible and partners.get(i) not in shown_infrared
    ]
    only_infrared = sorted(set(range(len(strong[2]))) - shown_infrared - set(partners.values()))
    lost = Counter(one.name for one in (*strong[1].take(lost_visible), *strong[2].take(only_infrared)))
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
    for flat in np.argsort(-overlap, axis=None, kind="stable").tolist():
        i, j = divmod(flat, max(len(second), 1))
        if overlap[i, j] < iou_threshold:
            break
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "nothing"
