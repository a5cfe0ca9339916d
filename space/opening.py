"""What a visitor finds: the first example of a tab, fused in the background while the page is being built."""

import logging
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from examples import Row, draw
from fusing import Shown, fuse_into
from gpu import ON_ZERO_GPU

LOG = logging.getLogger("fusion_hub.space")


def _step_back() -> None:
    """Let whoever asks for the page go first."""
    if sys.platform == "linux":  # where a thread has a priority of its own, which the threads it starts inherit
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


_worker = ThreadPoolExecutor(1, "opening", initializer=_step_back)


class Opening(NamedTuple):
    """The pair, and what `fusing.fuse` gives for it."""

    visible: str
    infrared: str
    result: str
    slider: tuple[str, str]
    text: str
    shown: Shown


def prepare(row: Row) -> Future[Opening]:
    """Begin to draw and fuse an example.

    On ZeroGPU it is done when this returns: a process that is forked in the middle of a fusion would wait for ever for
    the lock that the fusion holds.
    """
    begun = _worker.submit(_fuse, row)
    if ON_ZERO_GPU:
        wait([begun])
    return begun


def _fuse(row: Row) -> Opening:
    try:
        draw(row)
        folder = Path(row.visible).with_suffix("")
        folder.mkdir(exist_ok=True)
        result, shown, _, _ = fuse_into(folder, row.visible, row.infrared, row.model)
    except Exception:
        if Path(row.visible).parent.is_dir():  # else the server has been stopped meanwhile
            LOG.exception("the first example cannot be fused: the page opens without it")
        raise
    # Without the seconds: they were those of a network that was loading.
    text = f"**{row.label}.** {row.says} Fused by {row.model}."
    return Opening(row.visible, row.infrared, result, shown.beside("Visible"), text, shown)
