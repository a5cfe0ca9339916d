"""Synthetic pairs: streets by night, by day and in smoke with boxes and class maps, and brain slices (PET and MRI).

Scenes are crops of the eight rendered pairs in `synthetic/`, for the demo, the tests and training without a data set.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image

from fusion_hub.image.lazy_numpy import np
from fusion_hub.image.luminance import quantize

Kind = Literal["night_street", "day_road", "smoke", "brain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SCENE_CLASSES = ("person", "car")
_FOLDER = Path(__file__).with_name("synthetic")
_LEAST_INSIDE = 0.25  # share of a box that a crop has to keep


class Box(NamedTuple):
    """The frame of an object in pixels, clipped to the picture."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class GeneratedPair:
    """A synthetic scene.

    Attributes:
        visible: (H, W, 3) uint8, sRGB; for "brain" the PET map in pseudo-colors.
        infrared: (H, W) uint8, brighter is warmer; for "brain" the MRI.
        boxes: the people and cars in it, far to near.
        classes: (H, W) uint8, the class of each pixel as in MSRS: 0 none, 1 car, 2 person; None for "brain".
    """

    name: str
    visible: np.ndarray
    infrared: np.ndarray
    boxes: tuple[Box, ...] = ()
    classes: np.ndarray | None = None


def generate_scene(seed: int, height: int = 480, width: int = 640, kind: Kind = "night_street") -> GeneratedPair:
    """A synthetic scene of any size; the same arguments give the same pixels.

    Even seeds show the first shipped pair of the kind, odd seeds the second. Seeds 0 and 1 crop it to the aspect ratio
    only; the others give random crops, half of them mirrored, with random gains.

    Args:
        seed: at least 0.
        height, width: at least 32 pixels.
        kind: "night_street" (people nearly invisible in the dark), "day_road", "smoke" (a plume hides people from
            the visible camera only) or "brain" (an MRI slice as infrared, a PET map as visible picture).

    Raises:
        ValueError: an argument is outside of the above.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")
    if seed < 0 or min(height, width) < 32:
        raise ValueError(f"seed {seed}, height {height}, width {width}: seed must be at least 0, the sides at least 32")
    shipped = _shipped_pair(kind, seed % 2)
    full_height, full_width = shipped.infrared.shape
    frame = (0, 0, full_width, full_height)
    if kind == "brain":  # black margins, so that the whole head stays in the picture
        wide, tall = max(full_width, full_height * width / height), max(full_height, full_width * height / width)
        left, top = math.ceil((wide - full_width) / 2), math.ceil((tall - full_height) / 2)
        frame = (-left, -top, full_width + left, full_height + top)
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    least = (0.9 if kind == "brain" else 0.75, 0, 0, 0.85, 0.85)
    zoom, across, down, *gains = rng.uniform(least, 1) if seed > 1 else (1, 0.5, 0.5, 1, 1)
    mirrored = seed > 1 and rng.random() < 0.5
    wide, tall = frame[2] - frame[0], frame[3] - frame[1]
    scale = zoom * min(wide / width, tall / height)
    x, y = across * (wide - scale * width), down * (tall - scale * height)
    window = (x, y, min(x + scale * width, wide), min(y + scale * height, tall))
    scene: dict[str, Any] = {}
    for band, gain in zip(("visible", "infrared", "classes"), (*gains, 1), strict=True):
        if (pixels := getattr(shipped, band)) is not None:
            resampling = Image.Resampling.NEAREST if band == "classes" else Image.Resampling.BICUBIC
            part = np.asarray(Image.fromarray(pixels).crop(frame).resize((width, height), resampling, box=window))
            scene[band] = np.ascontiguousarray(quantize(part, white=255 / gain)[:, :: -1 if mirrored else 1])
    boxes = []
    for label, *corners in shipped.boxes:
        ends = (np.array(corners).reshape(2, 2) - (x, y)) / scale
        if mirrored:
            ends[:, 0] = width - ends[::-1, 0]
        inside = np.clip(ends, 0, (width, height))
        if np.prod(inside[1] - inside[0]) >= _LEAST_INSIDE * np.prod(ends[1] - ends[0]):
            boxes.append(Box(label, *map(float, inside.ravel())))
    return GeneratedPair(f"{kind}_{seed:04d}", **scene, boxes=tuple(boxes))


def generated_pairs(
    count: int, seed: int = 0, height: int = 480, width: int = 640, kinds: Sequence[Kind] = KINDS[:3]
) -> list[dict[str, Any]]:
    """`count` scenes for `PairedDataset.open`, the kinds in turn; each is made when its pictures are asked for.

    Even and odd seeds share no shipped pair, so one may serve for training and the other for validation.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    pairs: list[dict[str, Any]] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        scene_seed = 2 * (seed // 2 * 100_003 + number // len(kinds)) + seed % 2
        bands = {b: ScenePicture(scene_seed, height, width, kind, b) for b in ("visible", "infrared")}
        pairs.append({"name": f"{number:04d}_{kind}", **bands})
    return pairs


@dataclass(frozen=True)
class ScenePicture:
    """One picture of a scene, made when it is called; `band` is a field of `GeneratedPair`."""

    seed: int
    height: int
    width: int
    kind: Kind
    band: str

    def __call__(self) -> np.ndarray:
        return getattr(self.scene(), self.band)

    def scene(self) -> GeneratedPair:
        return _recent_scene(self.seed, self.height, self.width, self.kind)


_recent_scene = lru_cache(maxsize=2)(generate_scene)  # the pictures of a pair are asked for one after the other


@lru_cache
def _shipped_pair(kind: Kind, number: int) -> GeneratedPair:
    name = f"{kind}_{number}"
    bands = ("visible", "infrared") if kind == "brain" else ("visible", "infrared", "classes")
    pixels = {band: np.asarray(Image.open(_FOLDER / f"{name}_{band}.png")) for band in bands}
    boxes = json.loads((_FOLDER / "boxes.json").read_text(encoding="utf-8")).get(name, ())
    return GeneratedPair(name, **pixels, boxes=tuple(Box(*box) for box in boxes))
