"""What visitors send: opened by its header, judged before a pixel is decoded, refused in words."""

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from fusion_hub.image.io import READ_FORMATS, read_header

MAX_PIXELS = 4096 * 3072
MAX_BYTES = 32 << 20  # of a file
MAX_DECODED = 256 << 20  # bytes of the samples of a picture: some files unpack to a thousand times their size
NO_LIMIT = 1 << 62  # the size is judged here, in words for visitors
FORMATS = f"{', '.join(READ_FORMATS[:-1])} and {READ_FORMATS[-1]}"

LOG = logging.getLogger("fusion_hub.space")

# Gradio opens uploads in places of its own too. Pillow raises at twice this value.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class Refusal(gr.Error):
    """Shown to the visitor as a message; nothing for the server's log."""

    def __init__(self, title: str, text: str) -> None:
        self.text = text
        # The page renders it as HTML, and names of files come from strangers.
        super().__init__(html.escape(text, quote=False), title=title, duration=20, print_exception=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """On ZeroGPU it is raised in another process than that of the page."""
        return type(self), (self.title, self.text)


@contextmanager
def in_words() -> Iterator[None]:
    """Whatever goes wrong reaches the visitor as a sentence without places on the server; the rest is for the log."""
    try:
        yield
    except gr.Error:
        raise
    except MemoryError as error:
        raise Refusal("Not enough memory", "These images are too large for this server: try smaller ones.") from error
    except Exception as error:  # a defect of ours, or of a library on somebody's file
        LOG.exception("a request failed")
        text = "The server could not do this. Other images may work; the operator finds the reason in the log."
        raise Refusal("Something went wrong", text) from error


def open_upload(path: str | Path | None, what: str, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Judge an uploaded image by its header; no pixel is decoded here.

    Args:
        path: where the upload lies; None where there is none.
        what: how the message calls it, such as `visible`.
        max_pixels: larger ones are refused.

    Returns:
        The file as everything that reads pictures takes it, `{"bytes", "path"}`; the path is its name alone.

    Raises:
        Refusal: nothing that can be fused. The message says why and never names a place on the server.
    """
    if path is None:
        raise Refusal("An image is missing", f"Add the {what} image first.")
    try:
        source = {"bytes": Path(path).read_bytes(), "path": Path(path).name}
    except FileNotFoundError as error:
        text = f"The {what} image was deleted after an hour: upload it again."
        raise Refusal("Too long ago", text) from error
    try:
        header = read_header(source, what, NO_LIMIT)
    except ValueError as error:
        raise Refusal("Not an image", sentence(error)) from error
    height, width = header.size
    limit = f"At most {max_pixels / 1e6:.0f} megapixels are taken here: make it smaller, or use the Python package."
    if height * width > max_pixels:
        raise Refusal("Image too large", f"The {what} image has {width} x {height} pixels. {limit}")
    if height * width * header.channels * np.dtype(header.dtype).itemsize > MAX_DECODED:
        text = f"The {what} image would take more than {MAX_DECODED >> 20} MiB of memory: save it with fewer bits."
        raise Refusal("Image too large", text)
    if header.pages > 1:
        text = f"The {what} file holds {header.pages} pictures: save the one to fuse by itself."
        raise Refusal("Several pictures", text)
    return source


def pixels_of(source: dict[str, Any]) -> int:
    """Pixels of a file that was judged."""
    height, width = read_header(source, max_pixels=NO_LIMIT).size
    return height * width


def sentence(error: BaseException | str) -> str:
    """The message of one of our errors, or a note, as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
