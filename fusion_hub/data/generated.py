"""Small scenes drawn twice, as a visible camera and as an infrared one would see them; a head as PET and MRI.

For demo examples and for training where no pictures may be used. The drawing itself is in `street.py` and `brain.py`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from fusion_hub.data.brain import draw_brain
from fusion_hub.data.street import Box, Street

Kind = Literal["night_street", "day_road", "smoke", "brain"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class GeneratedPair:
    """A drawn scene.

    Attributes:
        visible: (H, W, 3) uint8, sRGB; for "brain" the PET map in pseudo-colours.
        infrared: (H, W) uint8, brighter is warmer; for "brain" the MRI.
        boxes: the people and cars in it, far to near.
        classes: (H, W) uint8, the class of each pixel as MSRS numbers them: 0 none, 1 car, 2 person; None for "brain".
    """

    name: str
    visible: np.ndarray
    infrared: np.ndarray
    boxes: tuple[Box, ...] = ()
    classes: np.ndarray | None = None


def generate_scene(seed: int, height: int = 480, width: int = 640, kind: Kind = "night_street") -> GeneratedPair:
    """Draw one scene; the same arguments give the same pixels.

    Args:
        seed: at least 0.
        height, width: at least 32 pixels.
        kind: "night_street" (people nearly invisible in the dark), "day_road", "smoke" (a plume hides people from
            the visible camera only) or "brain" (an MRI slice in the infrared place, a PET map in the visible one).

    Raises:
        ValueError: an argument is outside of the above.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")
    if seed < 0 or min(height, width) < 32:
        raise ValueError(f"seed {seed}, height {height}, width {width}: seed must be at least 0, the sides at least 32")
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    name = f"{kind}_{seed:04d}"
    if kind == "brain":
        return GeneratedPair(name, *draw_brain(rng, height, width))
    street = Street(rng, height, width, night=kind == "night_street", smoke=kind == "smoke")
    return GeneratedPair(name, *street.expose(), boxes=tuple(street.boxes), classes=street.classes)


def generated_pairs(
    count: int, seed: int = 0, height: int = 480, width: int = 640, kinds: Sequence[Kind] = KINDS[:3]
) -> list[dict[str, Any]]:
    """`count` scenes for `PairedDataset.open`, the kinds in turn; each is drawn when its pictures are asked for."""
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    pairs: list[dict[str, Any]] = []
    for number in range(count):
        scene = seed * 100_003 + number, height, width, kinds[number % len(kinds)]
        bands = {band: DrawnPicture(*scene, band) for band in ("visible", "infrared")}
        pairs.append({"name": f"{number:04d}_{scene[3]}", **bands})
    return pairs


@dataclass(frozen=True)
class DrawnPicture:
    """One picture of a scene, drawn when it is called; `band` is a field of `GeneratedPair`."""

    seed: int
    height: int
    width: int
    kind: Kind
    band: str

    def __call__(self) -> np.ndarray:
        return getattr(_draw(self.seed, self.height, self.width, self.kind), self.band)


@lru_cache(maxsize=2)  # the two bands of a pair are asked for one after the other
def _draw(seed: int, height: int, width: int, kind: Kind) -> GeneratedPair:
    return generate_scene(seed, height, width, kind)
