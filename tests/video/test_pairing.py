"""Pairs by time against a search through all frames."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_hub import video
from fusion_hub.image import Picture
from fusion_hub.video.pairing import PairCount, default_tolerance

NOTHING = Picture(np.zeros((1, 1), np.uint8))
times = st.lists(st.integers(0, 300), max_size=25, unique=True).map(sorted)


def frames(milliseconds: list[int]) -> Iterator[video.Frame]:
    return (video.Frame(NOTHING, Fraction(value, 1000), str(value)) for value in milliseconds)


@settings(max_examples=300, deadline=None)
@given(times, times, st.integers(0, 60), st.integers(-80, 80))
def test_each_visible_frame_gets_the_nearest(visible: list[int], infrared: list[int], most: int, offset: int) -> None:
    count = PairCount()
    found = video.pair_frames(frames(visible), frames(infrared), Fraction(most, 1000), Fraction(offset, 1000), count)
    pairs = [(int(seen.name), int(warm.name)) for seen, warm in found]
    distances = {one: min((abs(other - offset - one) for other in infrared), default=1000) for one in visible}
    assert [one for one, _ in pairs] == [one for one in visible if distances[one] <= most]
    assert all(abs(other - offset - one) == distances[one] for one, other in pairs)
    assert (count.pairs, count.visible_alone) == (len(pairs), len(visible) - len(pairs))
    assert count.infrared_alone == count.infrared_read - len({other for _, other in pairs})


def test_few_frames_are_held() -> None:
    taken = 0

    def endless(step: int) -> Iterator[video.Frame]:
        nonlocal taken
        for index in range(10**9):
            taken += 1
            yield video.Frame(NOTHING, Fraction(index, step), str(index))

    pairs = video.pair_frames(endless(30), endless(9), Fraction(1, 60))
    found = [next(pairs) for _ in range(90)]
    assert [(int(a.name), int(b.name)) for a, b in found[:3]] == [(0, 0), (3, 1), (7, 2)]
    assert taken < 30 * 10 + 9 * 10 + 10


def test_the_default_tolerance_is_half_of_the_shorter_interval() -> None:
    assert default_tolerance(Fraction(1, 30), Fraction(1, 9)) == Fraction(1, 60)
