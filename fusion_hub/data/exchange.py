"""Whether the visible and the infrared images of a set were given in the wrong order, by their channels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fusion_hub.data.pictures import Pair
from fusion_hub.image.io import read_header, read_picture

_LOOKED_AT = 4  # pairs
_COLORED = 0.02  # mean difference of the channels, of the full scale, that compression alone does not leave


def looks_exchanged(pairs: Sequence[Pair]) -> str | None:
    """A sentence if all of a few pairs have a gray visible and a colored infrared image, else None.

    Files that cannot be read say nothing. Nothing is decoded as long as headers tell that the infrared images are gray.
    """
    step = max(1, len(pairs) // _LOOKED_AT)
    chosen = pairs[::step][:_LOOKED_AT]
    if not chosen or not all(_is_colored(pair.infrared_source) for pair in chosen):
        return None
    if any(_is_colored(pair.visible_source) for pair in chosen):
        return None
    return (
        "the visible images are gray and the infrared ones have colors: exchange the two if they were given in the "
        "wrong order; of false-color thermal images use the white-hot gray or raw ones"
    )


def _is_colored(source: object) -> bool:
    if not isinstance(source, Path | Mapping):
        return False
    try:
        if read_header(source).channels < 3:
            return False
        picture = read_picture(source)
    except (ValueError, OSError):
        return False
    if picture.pixels.ndim != 3 or not picture.white:
        return False
    unit = picture.pixels[::4, ::4].astype(np.float32) / picture.white
    return float((unit.max(axis=2) - unit.min(axis=2)).mean()) > _COLORED
