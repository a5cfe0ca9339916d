"""A head made of ellipses, folds and ventricles, as MRI and as PET: the "brain" kind of the generated scenes."""

from collections.abc import Sequence

import numpy as np

from fusion_hub.data.drawing import band, blur, noise, smoothstep, to_bytes


def draw_brain(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An axial slice: PET in pseudo-colours (H, W, 3) and T1-weighted MRI (H, W), uint8."""
    unit = 0.46 * min(height / 1.14, width)  # half the breadth of the head, in pixels
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (columns - width / 2 + 0.5) / unit, (rows - height / 2 + 0.5) / unit
    tilt = rng.uniform(-0.04, 0.04)
    x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    wobble = noise(rng, height, width, (0.5 * unit, 0.5 * unit), octaves=2) - 0.5
    ears = 1 + 0.03 * np.cos(4 * np.arctan2(y, x))
    depth = 1 - np.hypot(x / 0.92, y / 1.14) * ears + 0.02 * wobble  # 0 at the skin, growing inwards
    fold = _folds(rng, height, width, x, unit)
    cortex = depth - 0.135 - 0.035 * (1 - np.abs(fold))  # 0 at the brain's surface
    deep = cortex - 0.16 * smoothstep(0.8, 0.05, np.abs(fold))  # grey matter lines the folds
    white = smoothstep(0.045, 0.07, deep)
    soft = 2 / unit  # width of an edge

    mri = 0.78 * smoothstep(0, soft, depth) * (1 - smoothstep(0.055, 0.075, depth))  # skin and fat
    mri += 0.06 * smoothstep(0.06, 0.08, depth)  # skull
    mri += 0.3 * band(depth, 0.085, 0.105, soft)  # marrow
    brain = smoothstep(0, soft, cortex)
    tissue = 0.4 + 0.28 * white + 0.05 * wobble
    sulci = smoothstep(0.13, 0.03, np.abs(fold)) * smoothstep(0.2, 0.1, cortex) * brain
    fissure = np.exp(-((x / (0.013 + 0.008 * np.abs(wobble))) ** 2)) * smoothstep(0.34, 0.5, np.abs(y + 0.02)) * brain
    mri = _towards(mri, tissue, brain)
    mri = _towards(mri, 0.13, np.clip(0.85 * sulci + fissure, 0, 1))

    nuclei = _lobes(
        x,
        y,
        wobble,
        ((0.25, -0.07, 0.1, 0.2, 0.3), (0.13, 0.13, 0.1, 0.15, 0.0), (0.17, -0.22, 0.055, 0.12, 0.2)),
        soft,
    )
    mri = _towards(mri, 0.5, 0.9 * nuclei)
    large = rng.uniform(0.85, 1.2)
    horns = (
        (0.1, -0.25, 0.045 * large, 0.15, -0.35),
        (0.075, -0.04, 0.03 * large, 0.14, 0.1),
        (0.2, 0.3, 0.05 * large, 0.17, 0.42),
    )
    ventricles = _lobes(x, y, wobble, horns, soft)
    mri = _towards(mri, 0.08, ventricles)

    grey = np.clip(brain * (1 - white) + 0.95 * nuclei - ventricles - 0.7 * fissure, 0, 1)
    lobes = 0.8 + 0.5 * (noise(rng, height, width, (0.7 * unit, 0.7 * unit), octaves=2) - 0.5)
    uptake = blur(
        brain * 0.2 + 0.55 * grey * lobes - 0.17 * nuclei - 0.2 * ventricles * brain, 0.035 * unit
    )  # PET resolves 5 mm
    counts = rng.standard_normal((height, width)).astype(np.float32)
    pet = np.clip(blur(uptake + 0.12 * np.sqrt(np.clip(uptake, 0, 1)) * counts, 0.012 * unit), 0, 1)
    grain = 0.012 * rng.standard_normal((height, width)).astype(np.float32)
    bias = 1 + 0.1 * (y - x) * 0.5  # uneven coil sensitivity
    return to_bytes(_pseudo_colour(1.4 * pet)), to_bytes(np.abs(blur(mri, 0.5) * bias + grain))


def _folds(rng: np.random.Generator, height: int, width: int, x: np.ndarray, unit: float) -> np.ndarray:
    """Signed field in about [-1, 1] whose zeros are the sulci; the halves resemble each other."""
    cell = 0.13 * unit
    left, both = (noise(rng, height, width, (cell, cell), octaves=2) for _ in range(2))
    mirrored = np.where(x < 0, left, left[:, ::-1])
    return np.clip((0.75 * mirrored + 0.25 * both - 0.5) * 5, -1, 1)


def _lobes(
    x: np.ndarray, y: np.ndarray, wobble: np.ndarray, ellipses: Sequence[tuple[float, ...]], soft: float
) -> np.ndarray:
    """Union of ellipses (x, y, half axes, tilt) and their mirror images, in [0, 1]."""
    union = np.zeros_like(x)
    for cx, cy, rx, ry, tilt in ellipses:
        for side in (-1, 1):
            dx, dy = side * x - cx + 0.02 * wobble, y - cy + 0.04 * wobble
            u, v = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
            inside = (1 - np.hypot(u / rx, v / ry)) * min(rx, ry)
            union = np.maximum(union, smoothstep(-soft / 2, soft / 2, inside))
    return union


def _pseudo_colour(value: np.ndarray) -> np.ndarray:
    """The rainbow in which PET is shown: black, blue, cyan, green, yellow, red, near white."""
    stops = np.array([0, 0.14, 0.32, 0.48, 0.64, 0.8, 0.93, 1.0])
    colours = np.array(
        [
            (0, 0, 0),
            (0.06, 0, 0.42),
            (0, 0.35, 0.9),
            (0, 0.72, 0.5),
            (0.45, 0.85, 0.05),
            (1, 0.8, 0),
            (0.95, 0.15, 0),
            (1, 0.85, 0.8),
        ]
    )
    return np.stack([np.interp(value, stops, colours[:, c]) for c in range(3)], axis=-1)


def _towards(image: np.ndarray, value: np.ndarray | float, share: np.ndarray) -> np.ndarray:
    return image + share * (value - image)
