"""Example pairs, shipped with the package; the first of each tab is fused before anybody asks for it."""

import os
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import av
import gradio as gr
import numpy as np
from fuse import MEDICAL, Shown, fuse_into, quick_model
from gpu import ON_ZERO_GPU
from phantom import draw_section, write_phantom
from PIL import Image, ImageDraw, ImageOps
from uploads import LOG
from volume_files import can_read

from fusion_hub.data import SamplePair
from fusion_hub.data.samples import sample_clip, unregistered_pair

FOLDER = "fusion_hub_pairs"  # page.js knows the pictures of examples by it
THUMBNAIL = 192, 144  # pixels


def write_examples(folder: Path, pairs: Iterable[SamplePair]) -> list[SamplePair]:
    """Copy the pairs into `folder`, each with a thumbnail; returns them with the paths of the copies."""
    place = folder.resolve() / FOLDER
    place.mkdir(exist_ok=True)
    # Served from there, without a copy in Gradio's cache: their paths tell them from uploads.
    gr.set_static_paths(place)
    written = []
    for pair in pairs:
        files = (Path(shutil.copyfile(file, place / file.name)) for file in (pair.visible, pair.infrared))
        written.append(SamplePair(*pair[:4], *files))
        draw_thumbnail(written[-1])
    return written


def write_camera_examples(folder: Path) -> tuple[SamplePair, SamplePair]:
    """An example of a pair that does not match, and one of a clip, with the paths of their files."""
    place, (visible, infrared) = folder.resolve() / FOLDER, unregistered_pair().items()
    for name, content in (visible, infrared):
        (place / name).write_bytes(content)
    text = "The infrared camera sees 75 % of the width, with a quarter of the pixels."
    pair = SamplePair("cameras", "Two cameras", text, quick_model(), place / visible[0], place / infrared[0])
    draw_thumbnail(pair)
    bands, text = sample_clip(), "Ten frames of two cameras whose views match: people walk in the dark."
    files = [place / f"clip_{band}.mp4" for band in ("visible", "infrared")]
    for file, frames in zip(files, bands, strict=True):
        write_clip(file, frames)
        frames[0].save(file.with_suffix(".png"))
    clip = SamplePair("clip", "Street by night", text, quick_model(), *files)
    draw_thumbnail(clip._replace(visible=files[0].with_suffix(".png"), infrared=files[1].with_suffix(".png")))
    return pair, clip


def write_volume_example(folder: Path) -> SamplePair | None:
    """An example of two volumes, with the paths of their files; None where no volumes can be written."""
    if not can_read():
        return None
    place = folder.resolve() / FOLDER
    text = "An MR and a PET of a head that does not exist, on grids that do not match: they are registered first."
    pair = SamplePair("volumes", "Drawn head", text, MEDICAL, *write_phantom(place))
    files = [file.with_name(f"volume_{name}.png") for file, name in zip(pair[-2:], ("mr", "pet"), strict=True)]
    for file, source in zip(files, pair[-2:], strict=True):
        draw_section(source, file)
    draw_thumbnail(pair._replace(visible=files[0], infrared=files[1]))
    return pair


def write_clip(file: Path, frames: Sequence[Image.Image], rate: int = 10) -> None:
    """Frames as an H.264 file."""
    with av.open(str(file), "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_image(frame.convert("RGB"))))
        output.mux(stream.encode())


def thumbnail(pair: SamplePair) -> Path:
    """The file of the thumbnail of a written pair."""
    return pair.visible.with_name(f"{pair.name}_thumbnail.jpg")


def draw_thumbnail(pair: SamplePair) -> None:
    """The visible image at the left and the infrared one at the right of a slanted line."""
    width, height = THUMBNAIL
    visible, infrared = (_small(file) for file in (pair.visible, pair.infrared))
    mask, middle, slant = Image.new("L", THUMBNAIL), width // 2, height // 6
    draw, line = ImageDraw.Draw(mask), [(middle + slant, 0), (middle - slant, height)]
    draw.polygon([*line, (width, height), (width, 0)], fill=255)
    both = Image.composite(infrared, visible, mask)
    ImageDraw.Draw(both).line(line, fill="white", width=2)
    both.save(thumbnail(pair), quality=85)


def _small(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        opened.draft("RGB", THUMBNAIL)
        if not opened.mode.startswith("I"):
            return ImageOps.fit(opened.convert("RGB"), THUMBNAIL)
        counts = np.asarray(opened, dtype=np.float32)
    low, high = np.percentile(counts, (0.5, 99.5))
    gray = np.clip((counts - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    return ImageOps.fit(Image.fromarray(gray).convert("RGB"), THUMBNAIL)


def _lower_priority() -> None:
    """Let the thread that serves the page run first."""
    if sys.platform == "linux":  # the only system with a priority for each thread, which new threads inherit
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


_worker = ThreadPoolExecutor(1, "examples", initializer=_lower_priority)


def fuse_in_background(pair: SamplePair) -> Future[Shown]:
    """Start to fuse an example.

    On ZeroGPU it is done when this returns: a process forked during a fusion would wait forever for the fusion's lock.
    """
    future = _worker.submit(_fuse, pair)
    if ON_ZERO_GPU:
        wait([future])
    return future


def _fuse(pair: SamplePair) -> Shown:
    folder = pair.visible.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
        shown = fuse_into(folder, str(pair.visible), str(pair.infrared), pair.model)
    except Exception:
        if folder.parent.is_dir():  # otherwise the server has stopped
            LOG.exception("the first example cannot be fused: the page opens without it")
        raise
    # Without the time, which includes loading the network.
    return shown._replace(text=f"Fused by {pair.model}.", opening=True).introduced(introduce(pair))


def introduce(pair: SamplePair) -> str:
    """The label and the sentence of an example, in Markdown."""
    return f"**{pair.label}.** {pair.description}"
