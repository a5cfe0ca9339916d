"""Draws of pictures and runs: the same pictures for all runs of a part, so that each is measured on them once.

Intervals are those of `segmentation.bootstrap_runs` and `bootstrap_difference` (and of their like in `detection`) with
the same seed, to the digit.
"""

import numpy as np

from fusion_hub.downstream.segmentation import RESAMPLES, Interval, draw_pictures, percentile_interval


class Draws:
    """How often each picture is drawn.

    Args:
        pictures: how many there are.
        seed: of the draws.
        resamples: how often as many pictures are drawn, with replacement.

    Attributes:
        counts: `(resamples, pictures)` int.
    """

    def __init__(self, pictures: int, seed: int = 0, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(seed)
        self.counts = draw_pictures(rng, pictures, resamples)
        self._after = rng.bit_generator.state

    def interval(self, value: float, drawn: np.ndarray) -> Interval:
        """95 % interval of the mean over runs `value` from what each run has on the draws, `(resamples, S)`."""
        return percentile_interval(value, _means(drawn, self._rng()))

    def difference(self, value: float, first: np.ndarray, second: np.ndarray) -> Interval:
        """The same of the difference `value` of the means of `second` and `first`; runs are drawn of each by itself."""
        rng = self._rng()
        before, after = (_means(drawn, rng) for drawn in (first, second))
        return percentile_interval(value, after - before)

    def _rng(self) -> np.random.Generator:
        rng = np.random.default_rng()
        rng.bit_generator.state = self._after
        return rng


def _means(drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over the runs `(resamples, S)`, which are drawn again."""
    chosen = rng.integers(drawn.shape[1], size=drawn.shape)
    return np.take_along_axis(drawn, chosen, axis=1).mean(1)
