"""Uploaded images: limits, the check of their headers before a pixel is decoded, and messages to visitors."""

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from storage import NoRoom

from fusion_hub.image.io import READ_FORMATS, read_header

MAX_PIXELS = 4096 * 3072
MAX_BYTES = 32 << 20  # of a file
MAX_DECODED = 256 << 20  # bytes of the decoded samples: some files unpack to a thousand times their size
NO_LIMIT = 1 << 62  # for the library; this module checks the size with a message for visitors
FORMATS = f"{', '.join(READ_FORMATS[:-1])} and {READ_FORMATS[-1]}"

LOG = logging.getLogger("fusion_hub.space")

# Gradio opens uploads by itself too. Pillow raises at twice this value.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class Refusal(gr.Error):
    """A message for the visitor; not logged."""

    def __init__(self, title: str, text: str) -> None:
        self.text = text
        # The page renders it as HTML, and file names come from strangers.
        super().__init__(html.escape(text, quote=False), title=title, duration=20, print_exception=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """ZeroGPU pickles it: it is raised in another process."""
        return type(self), (self.title, self.text)


@contextmanager
def error_messages() -> Iterator[None]:
    """Turn any error into a message without server paths; log those that the visitor cannot have caused."""
    try:
        yield
    except gr.Error:
        raise
    except NoRoom as error:
        raise Refusal("No room", str(error)) from error
    except MemoryError as error:
        raise Refusal("Not enough memory", "These images are too large for this server: try smaller ones.") from error
    except Exception as error:  # a bug, here or in a library
        LOG.exception("a request failed")
        text = "The server could not do this. Other images may work. The server's log has the details."
        raise Refusal("Something went wrong", text) from error


def open_upload(path: str | Path | None, what: str, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Check an uploaded image by its header; no pixel is decoded. `what` is its name in messages, such as `visible`.

    Returns:
        The file as `{"bytes", "path"}`, which every function that reads pictures takes; the path is the name alone.

    Raises:
        Refusal: the file cannot be fused. The message says why and never names a path of the server.
    """
    source = read_upload(path, f"{what} image")
    try:
        header = read_header(source, what, NO_LIMIT, "infrared" if what == "infrared" else None)
    except ValueError as error:
        raise Refusal("Not an image", sentence(error)) from error
    height, width = header.size
    if height * width > max_pixels:
        text = f"The {what} image has {width} x {height} pixels. At most {max_pixels / 1e6:.0f} megapixels are allowed"
        raise Refusal("Image too large", f"{text} here: make it smaller, or use the Python package.")
    if height * width * header.channels * np.dtype(header.dtype).itemsize > MAX_DECODED:
        text = f"The {what} image would take more than {MAX_DECODED >> 20} MiB of memory: save it with fewer bits."
        raise Refusal("Image too large", text)
    if header.pages > 1:
        text = f"The {what} file holds {header.pages} pictures: save the one to fuse by itself."
        raise Refusal("Several pictures", text)
    return source


def read_upload(path: str | Path | None, what: str) -> dict[str, Any]:
    """An uploaded file as `{"bytes", "path"}`; the path is the name alone. `what` is its name in messages."""
    if path is None:
        raise Refusal("Nothing to read yet", f"Add the {what} first.")
    try:
        return {"bytes": Path(path).read_bytes(), "path": Path(path).name}
    except FileNotFoundError as error:
        raise Refusal("Too long ago", f"The {what} was deleted after an hour: upload it again.") from error


def sentence(error: BaseException | str) -> str:
    """A message of the library as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
