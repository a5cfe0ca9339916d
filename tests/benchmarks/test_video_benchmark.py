"""The sequences of the flicker table, and its rows."""

import numpy as np
import video as benchmark

from tests.support.clips import identity_pipeline


def test_sequence_has_drift_and_a_hot_object_that_stays_away_from_static_areas() -> None:
    random = np.random.default_rng(0)
    visible = random.integers(0, 256, (64, 96, 3)).astype(np.uint8)
    counts = random.integers(7000, 8000, (64, 96)).astype(np.uint16)
    frames, still = benchmark.make_sequence(visible, counts)
    warm = np.stack([frame[1].astype(float) for frame in frames])
    assert len(frames) == benchmark.FRAMES and warm.max() > 8500
    assert warm[:, still].max() < 8100 and 30 < (warm[-1] - warm[0])[still].mean() < 45
    shown = list(benchmark.fuse(identity_pipeline(), frames[:3], "auto"))
    assert shown[0].shape == (64, 96)
