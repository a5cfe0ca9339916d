"""Example pairs, shipped with the package; the first of each tab is fused before anybody asks for it."""

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from fuse import Shown, fuse_into
from gpu import ON_ZERO_GPU
from PIL import Image
from uploads import LOG

from fusion_hub.data import generate_scene


class Example(NamedTuple):
    """A synthetic scene, and the checkpoint for it."""

    label: str
    kind: str
    model: str
    description: str
    height: int = 480
    width: int = 640


EXAMPLES = (
    Example(
        *("Night street", "night_street", "difffusenet-msrs"),
        "Look at the people: lost in the dark, bright in the infrared, and in the lit street once fused.",
    ),
    Example(
        *("Smoke", "smoke", "difffusenet-msrs"),
        "The smoke hides people from the visible camera, not from the infrared one.",
    ),
    Example(
        *("Brain: PET + MRI", "brain", "difffusenet-medical"),
        "PET shows in color where the tissue is active, MRI its anatomy.",
        *(384, 384),
    ),
)


class Row(NamedTuple):
    """An example with the paths of its two PNG files."""

    label: str
    visible: str
    infrared: str
    model: str
    description: str


def example_rows(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[Row]:
    """Write the pairs as PNG files into `folder`."""
    rows = []
    for label, kind, model, description, height, width in examples:
        scene = generate_scene(0, height, width, kind)  # type: ignore[arg-type]
        visible, infrared = folder / f"{kind}.png", folder / f"{kind}_infrared.png"
        Image.fromarray(scene.visible).save(visible, compress_level=1)
        Image.fromarray(scene.infrared).save(infrared, compress_level=1)
        rows.append(Row(label, str(visible), str(infrared), model, description))
    return rows


class FusedExample(NamedTuple):
    """The pair, and what `fuse.fuse_and_show` returns for it."""

    visible: str
    infrared: str
    result: str
    slider: tuple[str, str]
    text: str
    shown: Shown


def _lower_priority() -> None:
    """Let the thread that serves the page run first."""
    if sys.platform == "linux":  # the only system with a priority for each thread, which new threads inherit
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


_worker = ThreadPoolExecutor(1, "examples", initializer=_lower_priority)


def fuse_in_background(row: Row) -> Future[FusedExample]:
    """Start to fuse an example.

    On ZeroGPU it is done when this returns: a process forked during a fusion would wait forever for the fusion's lock.
    """
    future = _worker.submit(_fuse, row)
    if ON_ZERO_GPU:
        wait([future])
    return future


def _fuse(row: Row) -> FusedExample:
    folder = Path(row.visible).with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
        result, shown, _, _ = fuse_into(folder, row.visible, row.infrared, row.model)
    except Exception:
        if folder.parent.is_dir():  # otherwise the server has stopped
            LOG.exception("the first example cannot be fused: the page opens without it")
        raise
    # Without the time, which includes loading the network.
    text = f"**{row.label}.** {row.description} Fused by {row.model}."
    return FusedExample(row.visible, row.infrared, result, shown.slider("Visible"), text, shown)
