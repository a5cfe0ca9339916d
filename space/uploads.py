"""What visitors send: opened by its header, judged before a pixel is decoded, refused in words."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 4096 * 3072
MAX_BYTES = 32 << 20  # of a file
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")  # JPEG includes the MPO files of phones

LOG = logging.getLogger("fusion_hub.space")

Image.init()  # all formats, so that `open(formats=...)` knows them
# Gradio opens uploads in places of its own too. Pillow raises at twice this value.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class Refusal(gr.Error):
    """Shown to the visitor as a message; nothing for the server's log."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__(text, title=title, duration=20, print_exception=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """On ZeroGPU it is raised in another process than that of the page."""
        return type(self), (self.title, self.message)


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


def open_upload(path: str | Path | None, what: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an uploaded image and judge it by its header; no pixel is decoded here.

    Args:
        path: where the upload lies; None where there is none.
        what: how the message calls it, such as `visible`.
        max_pixels: larger ones are refused.

    Raises:
        Refusal: nothing that can be fused. The message says why and never names a place on the server.
    """
    if path is None:
        raise Refusal("An image is missing", f"Add the {what} image first.")
    try:
        image = Image.open(path, formats=FORMATS)
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise Refusal("Image too large", f"The {what} image is too large. {_limit(max_pixels)}") from error
    except UnidentifiedImageError as error:
        raise Refusal("Not an image", f"The {what} file is damaged or none of {', '.join(FORMATS)}.") from error
    except Exception as error:  # headers of damaged files fail in many ways
        raise Refusal("Not an image", f"The {what} file cannot be read. It may be damaged.") from error
    problem = None
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        problem = Refusal("Image too large", f"The {what} image has {size} pixels. {_limit(max_pixels)}")
    elif pages > 1:
        text = f"The {what} file holds {pages} pictures: save the one to fuse by itself."
        problem = Refusal("Several pictures", text)
    if problem is not None:
        image.close()
        raise problem
    return image


def _limit(max_pixels: int) -> str:
    return f"At most {max_pixels / 1e6:.0f} megapixels are taken here: make it smaller, or use the Python package."
