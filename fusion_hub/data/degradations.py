"""Models of what sensors, air and compression do to a picture, for training on degraded inputs.

Every function takes and returns luminance `(H, W)`, float32 in [0, 1], as files hold it: gamma-coded, not linear light.
Results are clipped. Standard deviations are in the same units: sigma 10 of 255 is 10 / 255.
"""

import io
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fusion_hub.image.luminance import quantize

GAMMA = 2.2  # linear light is about the luminance to this power
EIGHT_BIT = 0.9  # share of degraded images that are rounded to 8 bits, as most files are

# What is degraded, and how: shares of all draws. About 70 % are noise; 30 % are Gaussian noise on the infrared alone.
SIDES = {"infrared": 0.55, "visible": 0.20, "both": 0.25}
INFRARED = {"gaussian": 0.55, "fixed_pattern": 0.10, "gaussian_and_fixed_pattern": 0.15, "blur": 0.10, "jpeg": 0.10}
VISIBLE = {"gaussian": 0.40, "low_light": 0.15, "haze": 0.15, "blur": 0.15, "jpeg": 0.15}
KINDS = tuple(dict.fromkeys((*INFRARED, *VISIBLE)))


@dataclass(frozen=True)
class Degraded:
    """A pair as a poor sensor would have recorded it, and what the fusion of it should be trained towards.

    All images are `(H, W)` float32 in [0, 1]. A target is the image before the degradation, and after low light the
    dimmed image without noise: fusion does not invent an exposure. The kinds are keys of `VISIBLE` and `INFRARED`, None
    where nothing was done.
    """

    visible: np.ndarray
    infrared: np.ndarray
    clean_visible: np.ndarray
    clean_infrared: np.ndarray
    visible_kind: str | None
    infrared_kind: str | None


def degrade(
    visible: np.ndarray, infrared: np.ndarray, rng: np.random.Generator, kinds: Collection[str] = KINDS
) -> Degraded:
    """Degrade the visible image, the infrared image, or both, by kinds and strengths drawn from `rng`.

    Args:
        kinds: those of `KINDS` to draw from, at least one for each image; they keep their shares of each other. Haze
            and low light, for example, make no sense on scans.
    """
    side = _choose(SIDES, rng)
    visible_kind = None if side == "infrared" else _choose(VISIBLE, rng, kinds)
    infrared_kind = None if side == "visible" else _choose(INFRARED, rng, kinds)
    clean_visible = dim(visible, rng.uniform(0.15, 0.7)) if visible_kind == "low_light" else visible
    return Degraded(
        _apply(visible_kind, clean_visible, rng),
        _apply(infrared_kind, infrared, rng),
        clean_visible,
        infrared,
        visible_kind,
        infrared_kind,
    )


def check_kinds(kinds: Collection[str]) -> None:
    """Raise ValueError for unknown kinds of degradation, and where none is left for one of the images."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"degradations: {', '.join(unknown)} is not one of {', '.join(KINDS)}")
    for side, shares in (("infrared", INFRARED), ("visible", VISIBLE)):
        if not set(kinds) & set(shares):
            raise ValueError(
                f"degradations ({', '.join(kinds) or 'empty'}) has no kind for the {side} image: add one of "
                f"{', '.join(shares)}, or set degrade_probability to 0"
            )


def gaussian_noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Add white noise, such as the temporal noise of a sensor. `degrade` draws sigma 2 to 25 of 255, log-uniform."""
    return _clip(image + sigma * rng.standard_normal(image.shape, dtype=np.float32))


def stripes(image: np.ndarray, rng: np.random.Generator, sigma: float, axis: int = 0, slow: float = 0.3) -> np.ndarray:
    """Add an offset to every column (`axis` 0: constant along it) or every row (1), as readout amplifiers do.

    The components sigma_h and sigma_v of D'Agostino and Webb, "Three-dimensional analysis framework and measurement
    methodology for imaging system noise", SPIE 1488, 1991. `degrade` draws sigma 1 to 12 of 255, log-uniform.

    Args:
        sigma: standard deviation of the offsets.
        slow: share of their variance, 0 to 1, that changes slowly, over about ten lines.
    """
    from scipy import ndimage

    white, other = rng.standard_normal((2, image.shape[1 - axis]), dtype=np.float32)
    width = 5.0
    smooth = ndimage.gaussian_filter1d(other, width, mode="wrap") * np.sqrt(2 * np.sqrt(np.pi) * width)  # variance 1
    offsets = (sigma * (np.sqrt(1 - slow) * white + np.sqrt(slow) * smooth)).astype(np.float32)
    return _clip(image + np.expand_dims(offsets, axis))


def fixed_pattern(image: np.ndarray, rng: np.random.Generator, offset: float, gain: float) -> np.ndarray:
    """Give every pixel a gain and an offset of its own, `y = (1 + a) x + b`: what non-uniformity correction left over.

    The linear model of Perry and Dereniak, "Linear theory of nonuniformity correction in infrared staring sensors",
    Optical Engineering 32 (8), 1993. `degrade` draws offsets of 0.2 to 0.6 times the sigma of the stripes, and gains up
    to 0.02.

    Args:
        offset: standard deviation of b.
        gain: standard deviation of a.
    """
    a, b = rng.standard_normal((2, *image.shape), dtype=np.float32)
    return _clip(image * (1 + gain * a) + offset * b)


def dim(image: np.ndarray, exposure: float) -> np.ndarray:
    """The image with `exposure` times the light: 0.5 is one stop less. `degrade` draws 0.15 to 0.7."""
    return (image * exposure ** (1 / GAMMA)).astype(np.float32)


def shot_noise(image: np.ndarray, rng: np.random.Generator, full_well: float, read_noise: float) -> np.ndarray:
    """Count electrons: in linear light s, `(Poisson(full_well s) + N(0, read_noise^2)) / full_well`.

    The model of Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE
    TIP 17 (10), 2008. `degrade` draws `full_well` 100 to 2000, log-uniform (white at high gain, not the capacity of a
    pixel): noise of about 12 to 3 of 255, and more in the dark.

    Args:
        full_well: electrons of white.
        read_noise: standard deviation in electrons; `degrade` draws 0.5 to 2.
    """
    counted = rng.poisson(full_well * image.astype(np.float64) ** GAMMA)
    electrons = counted + read_noise * rng.standard_normal(image.shape)
    return _clip((np.maximum(electrons, 0) / full_well) ** (1 / GAMMA))


def transmission(shape: tuple[int, int], rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A smooth random map `(H, W)` from `low` to `high`: noise at four scales, coarse ones strongest, as smoke has."""
    total = np.zeros(shape, dtype=np.float32)
    for cells in (2, 4, 8, 16):
        noise = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        total += np.asarray(noise.resize(shape[::-1], Image.Resampling.BICUBIC)) / cells
    total -= total.min()
    return low + (high - low) * total / max(total.max(), np.finfo(np.float32).tiny)


def haze(image: np.ndarray, transmission: np.ndarray, airlight: float) -> np.ndarray:
    """Haze and smoke, `J t + A (1 - t)`: the image attenuated, and light scattered into its place.

    Koschmieder's law, as in He et al., "Single image haze removal using dark channel prior", IEEE TPAMI 33 (12), 2011.

    Args:
        transmission: t, `(H, W)`; that of `degrade` lies in 0.3 to 0.95.
        airlight: A; `degrade` draws 0.55 to 0.95.
    """
    return _clip(image * transmission + airlight * (1 - transmission))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Defocus: a Gaussian of `sigma` pixels; `degrade` draws 0.5 to 1.5."""
    from scipy import ndimage

    return _clip(ndimage.gaussian_filter(image, sigma, mode="reflect"))


def motion_blur(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """The mean along a line of `length` pixels at `angle` radians from the rows; `degrade` draws 2 to 6 pixels."""
    from scipy import ndimage

    radius = int(np.ceil(length / 2))
    along = np.linspace(-length / 2, length / 2, 8 * radius + 1)
    grid = np.arange(-radius, radius + 1)[:, None]
    rows = np.maximum(0, 1 - np.abs(grid - along * np.sin(angle)))  # each point of the line is shared by four pixels
    columns = np.maximum(0, 1 - np.abs(grid - along * np.cos(angle)))
    kernel = rows @ columns.T
    return _clip(ndimage.convolve(image, (kernel / kernel.sum()).astype(np.float32), mode="reflect"))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress and decompress by Pillow, 8 bits; `degrade` draws quality 15 to 60."""
    file = io.BytesIO()
    Image.fromarray(quantize(image)).save(file, "jpeg", quality=quality)
    return np.divide(np.asarray(Image.open(file)), 255, dtype=np.float32)


def _apply(kind: str | None, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image degraded by this kind, with strengths drawn from the ranges in the docstrings."""
    if kind is None:
        return image
    if kind in ("fixed_pattern", "gaussian_and_fixed_pattern"):
        image = _draw_fixed_pattern(image, rng)
    if kind in ("gaussian", "gaussian_and_fixed_pattern"):
        image = gaussian_noise(image, rng, _log_uniform(rng, 2 / 255, 25 / 255))
    elif kind == "low_light":
        image = shot_noise(image, rng, _log_uniform(rng, 100, 2000), rng.uniform(0.5, 2))
    elif kind == "haze":
        low, high = np.sort(rng.uniform(0.3, 0.95, size=2))
        image = haze(image, transmission(image.shape, rng, low, high), rng.uniform(0.55, 0.95))
    elif kind == "blur" and rng.random() < 0.7:
        image = blur(image, rng.uniform(0.5, 1.5))
    elif kind == "blur":
        image = motion_blur(image, rng.uniform(2, 6), rng.uniform(0, np.pi))
    elif kind == "jpeg":
        image = jpeg(image, int(rng.integers(15, 61)))
    return np.divide(quantize(image), 255, dtype=np.float32) if rng.random() < EIGHT_BIT else image


def _draw_fixed_pattern(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sigma = _log_uniform(rng, 1 / 255, 12 / 255)
    axes = ((0,), (1,), (0, 1))[rng.choice(3, p=(0.6, 0.2, 0.2))]  # most sensors read out by columns
    for axis in axes:
        image = stripes(image, rng, sigma / np.sqrt(len(axes)), axis, slow=rng.uniform(0, 0.6))
    return fixed_pattern(image, rng, sigma * rng.uniform(0.2, 0.6), rng.uniform(0, 0.02))


def _choose(shares: dict[str, float], rng: np.random.Generator, kinds: Collection[str] | None = None) -> str:
    possible = {kind: share for kind, share in shares.items() if kinds is None or kind in kinds}
    total = sum(possible.values())
    return str(rng.choice(list(possible), p=[share / total for share in possible.values()]))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _clip(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 1).astype(np.float32)
