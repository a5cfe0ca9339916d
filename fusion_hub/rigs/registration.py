"""What a pipeline's argument `rig` stands for."""

import os
from typing import Union

import numpy as np

from fusion_hub import rigs  # loads its modules when they are needed: pairs are usually registered already
from fusion_hub.image.pair import Register


def registration_by(rig: Union["rigs.Rig", str, os.PathLike[str], None]) -> Register | None:
    """What turns a pair into its registration, for the argument `rig` of the call; None for registered pairs."""
    if rig is None:
        return None
    if rig == "auto":
        return rigs.align_pair
    if isinstance(rig, str | os.PathLike):
        rig = rigs.Rig.load(rig)
    if not isinstance(rig, rigs.Rig):
        raise TypeError(f'rig is of type {type(rig).__name__}: give a Rig, the path of its file, "auto" or None')
    return lambda visible, infrared: rig.at(_size(visible), _size(infrared))


def _size(plane: np.ndarray) -> tuple[int, int]:
    return plane.shape[0], plane.shape[1]
