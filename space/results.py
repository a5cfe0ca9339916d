"""What visitors get back: files in a folder of their own with a name that nobody can guess."""

import secrets
from pathlib import Path

import numpy as np
import storage
from PIL import Image
from uploads import Refusal

from fusion_hub.image.io import save_image
from fusion_hub.image.luminance import quantize

PREVIEW_SIDE = 1280


def new_folder() -> Path:
    """An empty folder for the results of one request, below the one that Gradio serves files from.

    Raises:
        Refusal: the server keeps as many files as it may.
    """
    if storage.used() > storage.MAX_DISK:
        raise Refusal("No room", str(storage.NoRoom()))
    folder = storage.root() / "fusion_hub_results" / secrets.token_urlsafe(18)
    folder.mkdir(parents=True)
    return folder


def as_stored(image: Image.Image) -> Image.Image:
    """The fused image as a PNG holds it, which knows no floating point: values in [0, 1] get its 16 bits."""
    if image.mode != "F":
        return image
    stored = Image.fromarray(quantize(np.asarray(image), np.uint16))
    stored.info.update(image.info)
    return stored


def save_result(image: Image.Image, path: Path, keep_metadata: bool = False) -> str:
    """The fused image in full quality, as PNG; without camera, date and position unless they shall be kept."""
    return str(save_image(as_stored(image), path, metadata=keep_metadata))


def save_preview(image: Image.Image, path: Path) -> str:
    """A picture for the page, PNG, quickly written."""
    image.save(path, "PNG", compress_level=1)
    return str(path)


def preview(image: Image.Image, side: int = PREVIEW_SIDE) -> Image.Image:
    """8-bit RGB of at most `side` pixels; the picture itself is not touched."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(quantize(np.asarray(image)))
    image = image.convert("RGB") if image.mode != "RGB" else image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
