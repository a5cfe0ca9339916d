"""What a pipeline's argument `rig` stands for."""

import os
from typing import TYPE_CHECKING, Union

import numpy as np

from fusion_hub.image.pair import Register

if TYPE_CHECKING:
    from fusion_hub.rigs.rig import Rig


def registration_by(rig: Union["Rig", str, os.PathLike[str], None]) -> Register | None:
    """What turns a pair into its registration, for the argument `rig` of the call; None for registered pairs."""
    if rig is None:
        return None
    # Registered pairs, which are usual, start without these modules.
    from fusion_hub.rigs.calibrator import align_pair
    from fusion_hub.rigs.rig import Rig

    if rig == "auto":
        return align_pair
    if isinstance(rig, str | os.PathLike):
        rig = Rig.load(rig)
    if not isinstance(rig, Rig):
        raise TypeError(f'rig is of type {type(rig).__name__}: give a Rig, the path of its file, "auto" or None')
    return lambda visible, infrared: rig.at(_size(visible), _size(infrared))


def _size(plane: np.ndarray) -> tuple[int, int]:
    return plane.shape[0], plane.shape[1]
