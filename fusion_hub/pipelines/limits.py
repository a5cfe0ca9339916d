"""What a stored model refuses, by its configuration alone: without torch, so that a wrong option is refused at once."""

import json
import math
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from fusion_hub.models.geometry import Geometry, difffusenet_geometry, red_geometry

MAX_OVERLAP = 512  # pixels
WHOLE_IMAGE_LIMIT = 1536 * 1536  # pixels up to which images are fused whole by default
AUTOMATIC_TILE = 768  # an 8192 x 8192 pair stays below 3 GiB of memory in all
RED_TILE = 1024  # pixels; needs less memory than the largest image that is run whole, the next line
RED_WHOLE_LIMIT = 1280 * 1024  # pixels; a float32 red-small holds about 3 GiB for each million
INEXACT_TILE = 128  # where tiles differ from the whole image: about the size of the crops in training

STRONGEST_NOISE = 0.1
"""Standard deviation of the noise that `denoise=1` removes, images in [0, 1]."""


class TileRules(NamedTuple):
    """How large images are cut into tiles for a network; all numbers in pixels."""

    geometry: Geometry
    share: float
    """Overlap of the tiles relative to the reach of the network; no pixel of a real picture is a gray level off."""
    whole_limit: int
    """Number of pixels up to which images are fused whole by default."""
    side: int
    """Side of the tiles beyond that, before it is rounded up to the grid."""

    def overlap(self, tile: int) -> int:
        """Pixels that neighboring tiles share by default, a multiple of the grid; see `exact_overlap`."""
        grid = self.geometry.grid
        # Where tiles differ from the whole image: enough for a fade.
        return exact_overlap(self.geometry, self.share) if self.geometry.exact else tile // 4 // grid * grid

    @property
    def automatic_side(self) -> int:
        """Side of the tiles by default, a multiple of the grid."""
        grid, side = self.geometry.grid, self.side
        return round_up(max(side, 2 * self.overlap(side) + grid) if self.geometry.exact else side, grid)

    def choose(self, height: int, width: int, tile: int | None, overlap: int | None = None) -> tuple[int, int]:
        """Side of the tiles for an image of this size, 0 for the whole image, and their overlap."""
        whole = tile == 0 or (tile is None and height * width <= self.whole_limit)
        side = self.automatic_side if tile is None else int(tile) // self.geometry.grid * self.geometry.grid
        if whole or max(height, width) <= side:
            return 0, 0
        return side, self.overlap(side) if overlap is None else int(overlap)

    def margin(self, tile: int, overlap: int) -> int | None:
        """Pixels along a tile's inner borders that are thrown away; None for a long fade where tiles differ."""
        if not self.geometry.exact or overlap < self.overlap(tile):
            return None
        return min(self.geometry.margin, overlap // 2)


def tile_rules(network: str, geometry: Geometry, tile_size: int = INEXACT_TILE) -> TileRules:
    """Of a network, "difffusenet" or "red"; `tile_size` is the side where tiles differ from the whole image."""
    if network == "difffusenet":
        # Wider overlaps need larger tiles, or most pixels are computed twice. They come with larger patches, whose
        # features take less memory a pixel.
        side = max(AUTOMATIC_TILE, 4 * exact_overlap(geometry, 0.6)) if geometry.exact else AUTOMATIC_TILE
        return TileRules(geometry, 0.6, WHOLE_IMAGE_LIMIT, side)
    # Attention over a large image costs the square of its pixels, and means over it are not those of training.
    exact = geometry.exact
    return TileRules(geometry, 0.45, RED_WHOLE_LIMIT if exact else 0, RED_TILE if exact else tile_size)


def is_whole_number(value: Any) -> bool:
    """Whether a value is an int, also of numpy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_steps(steps: Any, config: Mapping[str, Any]) -> None:
    """Raise a `ValueError` that names the value and the limits if a model of this configuration cannot run them."""
    automatic = "num_steps" in config  # RED
    if steps is None or (automatic and steps == "auto"):
        return
    last = config["num_steps"] if automatic else max(config["inference_timestep"], 1)
    if not (is_whole_number(steps) and 1 <= steps <= last):
        meaning = (
            "the num_steps that the model was trained with, or 'auto'"
            if automatic
            else ("the inference_timestep of the model")
        )
        raise ValueError(f"num_inference_steps={steps!r} must be a whole number from 1 to {last}, {meaning}")


def check_noise(strength: Any, uses_noise: bool) -> None:
    """Raise a `ValueError` for a `noise_strength` outside of [0, 1], or above 0 where the model draws no noise."""
    if isinstance(strength, bool) or not 0 <= strength <= 1:
        raise ValueError(f"noise_strength={strength!r} must be from 0 (deterministic) to 1")
    if strength > 0 and not uses_noise:
        raise ValueError(f"noise_strength={strength!r} was given, but this model draws no noise: leave it at 0")


def check_denoise(denoise: Any, config: Mapping[str, Any]) -> None:
    """Raise a `ValueError` unless `denoise` is "auto" or from 0 to 1; above 0 only where the model removes noise."""
    if denoise == "auto":
        return
    if not isinstance(denoise, int | float) or isinstance(denoise, bool) or not 0 <= denoise <= 1:
        raise ValueError(f"denoise={denoise!r} must be 'auto', or a number from 0 (none) to 1 (strong noise)")
    if denoise > 0 and not (config.get("noise_gain", 0) and config.get("use_d2fe", True)):
        raise ValueError(f"denoise={denoise!r} was given, but this model was not trained to remove noise: leave it out")


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def exact_overlap(geometry: Geometry, share: float) -> int:
    """Pixels that neighboring tiles share, a multiple of the grid, where tiles equal the whole image.

    A share of the reach of the network: what lies at its end has next to no influence. docs/models.md has the measured
    seams.
    """
    return min(round_up(math.ceil(share * geometry.margin), geometry.grid), round_up(MAX_OVERLAP, geometry.grid))


def check_tile(tile: Any, rules: TileRules, tile_overlap: int | None = None) -> None:
    """Raise a `ValueError` for a tile that is no whole number, or so small that it would leave seams."""
    geometry = rules.geometry
    least = 4 * geometry.grid
    if tile_overlap is None and geometry.exact:
        least = max(least, 2 * rules.overlap(0) + geometry.grid)
    if tile is not None and (not is_whole_number(tile) or (tile != 0 and tile < least)):
        raise ValueError(
            f"tile={tile!r} must be a whole number of at least {least} pixels for this model, or 0 for no tiles"
        )


def check_batch_size(batch_size: Any) -> None:
    """Raise a `ValueError` unless it is a whole number from 1, or None."""
    if batch_size is not None and (not is_whole_number(batch_size) or batch_size < 1):
        raise ValueError(f"batch_size={batch_size!r} must be a whole number from 1, or None for automatic")


def check_stored(folder: Path, steps: Any, strength: Any, tile: Any, denoise: Any = "auto") -> None:
    """These checks for a checkpoint; files that cannot be understood are left to the loading, which reports them."""
    try:
        config = json.loads((folder / "model" / "config.json").read_bytes())
        name = config["_class_name"]
        known = isinstance(config[{"REDModel": "num_steps", "DiffFuseNetModel": "inference_timestep"}[name]], int)
        geometry = (red_geometry if name == "REDModel" else difffusenet_geometry)(config)
    except (OSError, ValueError, KeyError, TypeError):
        return
    if known:
        check_steps(steps, config)
        check_noise(strength, name != "REDModel")
        check_denoise(denoise, config)
        check_tile(tile, tile_rules("red" if name == "REDModel" else "difffusenet", geometry))
