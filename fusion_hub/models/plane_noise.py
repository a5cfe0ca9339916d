"""The noise of a picture, by NumPy alone: the estimate of `fusion_hub.models.noise`, which explains it, for arrays."""

import numpy as np

BLOCK = 8  # Haar coefficients to a block, each way: 16 pixels
QUANTILE = 0.1  # of the blocks, flattest first: these show noise and little else
FLATTEST = 0.9  # variance that QUANTILE finds where that of the noise is 1, measured on pure noise
ROUNDING = 1 / 255**2 / 12  # variance of rounding to 8 bits
RECTIFIED = 0.341  # variance of a unit Gaussian whose negative half is set to 0
CLIPPED = 1.2  # deviations from black or white within which noise is clipped
FEW = 0.25  # exactly constant blocks count as clean above this share; below, they are borders or masks
STRIP = 16  # rows of blocks at a time: the temporaries of a very large picture stay small


def estimate_noise(plane: np.ndarray) -> float:
    """Standard deviation of the noise of one luminance picture `(H, W)` in [0, 1], in the same unit.

    Examples:
        >>> noise = 0.05 * np.random.default_rng(0).standard_normal((256, 256))
        >>> round(estimate_noise(0.5 + noise), 2), estimate_noise(np.zeros((256, 256)))
        (0.05, 0.0)
    """
    side = 2 * BLOCK
    rows, columns = (length // side for length in plane.shape)
    if min(rows, columns) < 1:
        return 0.0
    strips = [
        _blocks(plane[side * top : side * min(top + STRIP, rows), : side * columns]) for top in range(0, rows, STRIP)
    ]
    variance, level = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    clipped = np.minimum(level, 1 - level) < CLIPPED * np.sqrt(variance)
    variance = np.where(clipped, variance / np.float32(RECTIFIED), variance)
    constant = variance == 0
    if constant.mean() < FEW:
        variance = variance[~constant]
    flattest = float(np.sort(variance)[int(len(variance) * QUANTILE)]) / FLATTEST
    return max(flattest - ROUNDING, 0.0) ** 0.5


def _blocks(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the noise and mean level of each block of a strip, float32."""
    strip = strip.astype(np.float32, copy=False)
    top, bottom = strip[0::2], strip[1::2]
    total, across = top + bottom, top - bottom
    low, horizontal = total[:, 0::2] + total[:, 1::2], total[:, 0::2] - total[:, 1::2]
    vertical, diagonal = across[:, 0::2] + across[:, 1::2], across[:, 0::2] - across[:, 1::2]
    white, column, row = (_pool(0.25 * np.square(band)) for band in (diagonal, horizontal, vertical))
    # Offsets of columns with variance s^2 have 2 s^2 in the horizontal band, and none in the diagonal one.
    variance = white + np.maximum(column - white, 0) / 2 + np.maximum(row - white, 0) / 2
    return variance, _pool(low) / 4


def _pool(band: np.ndarray) -> np.ndarray:
    """The means of all blocks, `(blocks,)`."""
    height, width = band.shape
    return band.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean(axis=(1, 3)).ravel()
