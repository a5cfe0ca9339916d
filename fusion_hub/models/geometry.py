"""Grids and reach of the networks, from their configuration alone: without torch, so that they are known at once."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

UNBOUNDED = 1 << 20  # pixels: larger than any image


class Geometry(NamedTuple):
    """Of a network, in pixels."""

    grid: int
    """Tiles whose origins are multiples of this see the same windows and pooling grids as the whole image."""
    margin: int
    """From a cut edge, beyond which the output no longer depends on the cut."""
    exact: bool
    """Whether tiles equal the whole image there."""


def difffusenet_geometry(config: Mapping[str, Any]) -> Geometry:
    """Of a DiffFuseNet.

    The reach is the sum of the U-Net's (about 8 + 4 + 8 * 2 (num_mid_blocks + 1) feature pixels and their alignment),
    the attention window with its interpolation (3/2 windows of two feature pixels), the 3x3 layers around them, and two
    of the detail head at half the image size.
    """
    grid = config["patch_size"] * math.lcm(8, 2 * config["attention_window"])
    unet = 24 + 16 * (config["num_mid_blocks"] + 1) if config["use_d2fe"] else 0
    bands = 2 * (2 * config["attention_window"] + 4 * config["num_coupling"] + 4)
    details = 8 if config.get("detail_channels") else 0  # checkpoints of earlier versions do not state it
    return Geometry(grid, config["patch_size"] * (unet + bands + 12) + details, True)


def red_geometry(config: Mapping[str, Any]) -> Geometry:
    """Of a RED.

    Tiles are exact unless a statistic (`norm="group"`) or an attention (a window of 0) spans the image. The reach is
    the sum over all layers of all steps: each attention adds a window, each 3x3 convolution a cell.
    """
    outer, inner = config["attention_window"]
    grid = config["patch_size"] * math.lcm(2, outer or 1, 2 * (inner or 1))
    if config["norm"] != "local" or min(outer, inner) <= 0:
        return Geometry(grid, UNBOUNDED, False)
    blocks = 2 * config["layers_per_block"] + 1  # of each level, with two convolutions and one attention each
    # Cells of the outer level; the last summand is conv_in, conv_out and the convolutions of the samplers.
    cells = blocks * (2 + outer - 1) + 2 * blocks * (2 + inner - 1) + 2 + 3
    ends = 2 if config["resample"] == "convolution" else 0
    return Geometry(grid, config["patch_size"] * (config["num_steps"] * cells + ends), True)
