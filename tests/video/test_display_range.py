"""Black and white of a sequence: steady, following, and never lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_hub.image import Picture, read_picture
from fusion_hub.video import RangeTracker

SHAPE = (96, 128)


def counts(values: np.ndarray) -> Picture:
    return Picture(np.clip(np.rint(values), 0, 65535).astype(np.uint16), white=65535.0, depth="uint16")


def scene(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return 7000 + 500 * np.kron(random.random((12, 16)), np.ones((8, 8))) + random.normal(0, 2, SHAPE)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats(-150, 150), st.booleans()), min_size=2, max_size=20))
def test_limits_move_by_half_a_percent_at_most(steps: list[tuple[int, float, bool]]) -> None:
    """Whatever comes: other scenes, offsets, hot objects, as long as some of it is inside the limits."""
    tracker, before = RangeTracker(), None
    for seed, offset, hot in steps:
        frame = scene(seed) + offset
        frame[:40, :40] = 20000 if hot else frame[:40, :40]
        now = tracker.update(counts(frame))
        if before is not None:
            step = 0.005 * (before[1] - before[0]) * 1.0001
            assert abs(now[0] - before[0]) <= step and abs(now[1] - before[1]) <= step
        before = now


def test_drift_is_followed_and_a_hot_object_is_not() -> None:
    tracker = RangeTracker()
    low, high = tracker.update(counts(scene()))
    for index in range(1, 60):
        frame = scene() + index
        frame[40:60, 2 * index : 2 * index + 12] = 9000
        limits = tracker.update(counts(frame))
        assert abs(limits[0] - low - index) < 0.02 * (high - low) and abs(limits[1] - high - index) < 0.02 * (
            high - low
        )


def test_a_lasting_change_is_adapted_to() -> None:
    tracker, hot = RangeTracker(), scene()
    hot[:, :60] += 2000
    tracker.update(counts(scene()))
    for _ in range(600):
        low, high = tracker.update(counts(hot))
    assert high == pytest.approx(np.percentile(hot, 99.5), rel=0.01) and low == pytest.approx(
        np.percentile(hot, 0.5), rel=0.01
    )
    for _ in range(600):
        _, high = tracker.update(counts(scene()))
    assert high == pytest.approx(np.percentile(scene(), 99.5), rel=0.01)


def test_limits_that_show_nothing_are_given_up() -> None:
    tracker = RangeTracker()
    assert tracker.update(counts(np.full(SHAPE, 7000))) is not None  # a closed shutter
    assert tracker.update(counts(scene())) == pytest.approx(np.percentile(np.rint(scene()), (0.5, 99.5)), rel=1e-3)
    assert tracker.update(counts(scene() * 3)) == pytest.approx(np.percentile(scene() * 3, (0.5, 99.5)), rel=1e-3)


def test_what_has_a_scale_keeps_it() -> None:
    eight = np.random.default_rng(0).integers(90, 120, SHAPE).astype(np.uint8)
    for picture, wanted in (
        (Picture(eight, white=255.0), (0.0, 255.0)),
        (Picture((eight / 255).astype(np.float32), white=1.0, depth="float32"), (0.0, 1.0)),
    ):
        tracker = RangeTracker()
        assert [tracker.update(picture) for _ in range(3)] == [wanted] * 3


def test_missing_data_count_for_nothing() -> None:
    degrees = ((scene() - 7000) / 20).astype(np.float32)
    warped = degrees.copy()
    warped[:20] = np.nan
    whole, part = RangeTracker(), RangeTracker()
    whole.update(Picture(degrees[20:], white=1.0, depth="float32"))
    part.update(Picture(warped, white=1.0, depth="float32"))
    for index in range(5):
        a = whole.update(Picture(degrees[20:] + index, white=1.0, depth="float32"))
        b = part.update(Picture(warped + index, white=1.0, depth="float32"))
        assert a == pytest.approx(b, abs=0.2)


def test_a_real_frame_starts_like_a_single_picture(data_root) -> None:  # type: ignore[no-untyped-def]
    picture = read_picture(data_root / "data/thermal16/radiometric/ir/FLIR_T640.png")
    assert RangeTracker().update(picture) == pytest.approx(np.percentile(picture.pixels, (0.5, 99.5)))
