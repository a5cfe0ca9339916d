"""The infrared frame of each visible one, by time."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction

from fusion_hub.video.frames import Frame


@dataclass
class PairCount:
    """What became of the frames; complete when the pairs have ended."""

    pairs: int = 0
    visible_alone: int = 0
    infrared_read: int = 0
    infrared_alone: int = 0


def default_tolerance(visible: Fraction, infrared: Fraction) -> Fraction:
    """Half of the shorter of two frame intervals, seconds: at one rate each frame then has one partner at most."""
    return min(visible, infrared) / 2


def pair_frames(
    visible: Iterator[Frame],
    infrared: Iterator[Frame],
    tolerance: Fraction,
    time_offset: Fraction = Fraction(0),
    count: PairCount | None = None,
) -> Generator[tuple[Frame, Frame], None, None]:
    """Pair each visible frame with the infrared frame nearest in time, where one is near enough.

    An infrared frame serves several visible frames where the tolerance allows. At most two are held.

    Args:
        visible, infrared: frames with rising times.
        tolerance: largest difference, seconds.
        time_offset: seconds by which the infrared is late: its frame of t + offset belongs to the visible one of t.
        count: is updated.

    Yields:
        (visible, infrared); visible frames without a partner are left out.
    """
    count = PairCount() if count is None else count
    before: Frame | None = None
    used = False  # `before`

    def distance(frame: Frame | None) -> Fraction:
        return Fraction(10**9) if frame is None else abs(frame.time - time_offset - seen.time)

    after = next(infrared, None)
    for seen in visible:
        while after is not None and distance(after) <= distance(before):
            count.infrared_read += 1
            count.infrared_alone += before is not None and not used
            before, used, after = after, False, next(infrared, None)
        if before is None or distance(before) > tolerance:
            count.visible_alone += 1
            continue
        used = True
        count.pairs += 1
        yield seen, before
    count.infrared_alone += before is not None and not used
