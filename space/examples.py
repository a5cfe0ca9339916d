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
    """A synthetic scene, the checkpoint for it, and the paths of its two PNG files once they are written."""

    label: str
    kind: str
    model: str
    description: str
    height: int = 480
    width: int = 640
    visible: str = ""
    infrared: str = ""


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

Opened = tuple[str, str, str, tuple[str, str], str, Shown]
"""The pair of an example, and what `fuse.fuse_and_show` returns for it."""


def write_examples(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[Example]:
    """Write the pairs as PNG files into `folder`; returns the examples with their paths."""
    written = []
    for example in examples:
        scene = generate_scene(0, example.height, example.width, example.kind)  # type: ignore[arg-type]
        visible, infrared = folder / f"{example.kind}.png", folder / f"{example.kind}_infrared.png"
        Image.fromarray(scene.visible).save(visible, compress_level=1)
        Image.fromarray(scene.infrared).save(infrared, compress_level=1)
        written.append(example._replace(visible=str(visible), infrared=str(infrared)))
    return written


def _lower_priority() -> None:
    """Let the thread that serves the page run first."""
    if sys.platform == "linux":  # the only system with a priority for each thread, which new threads inherit
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


_worker = ThreadPoolExecutor(1, "examples", initializer=_lower_priority)


def fuse_in_background(example: Example) -> Future[Opened]:
    """Start to fuse an example.

    On ZeroGPU it is done when this returns: a process forked during a fusion would wait forever for the fusion's lock.
    """
    future = _worker.submit(_fuse, example)
    if ON_ZERO_GPU:
        wait([future])
    return future


def _fuse(example: Example) -> Opened:
    folder = Path(example.visible).with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
        result, shown, _, _ = fuse_into(folder, example.visible, example.infrared, example.model)
    except Exception:
        if folder.parent.is_dir():  # otherwise the server has stopped
            LOG.exception("the first example cannot be fused: the page opens without it")
        raise
    # Without the time, which includes loading the network.
    text = f"**{example.label}.** {example.description} Fused by {example.model}."
    return example.visible, example.infrared, result, shown.slider("Visible"), text, shown._replace(opening=True)
