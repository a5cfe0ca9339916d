"""What visitors get back: files in a folder of their own with a name that nobody can guess, for an hour."""

import secrets
import shutil
import time
from pathlib import Path

import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

LIFETIME = 3600  # seconds
PREVIEW_SIDE = 1280

_last_sweep = 0.0


def new_folder() -> Path:
    """An empty folder for the results of one request, below the one that Gradio serves files from."""
    root = Path(get_upload_folder()) / "fusion_hub_results"
    _sweep(root)
    folder = root / secrets.token_urlsafe(18)
    folder.mkdir(parents=True)
    return folder


def as_stored(image: Image.Image) -> Image.Image:
    """The fused image as a PNG holds it, which knows no floating point: values in [0, 1] get its 16 bits."""
    if image.mode != "F":
        return image
    return Image.fromarray((np.asarray(image) * 65535).round().astype(np.uint16))


def save_result(image: Image.Image, path: Path) -> str:
    """The fused image in full quality."""
    as_stored(image).save(path, "PNG", compress_level=2)
    return str(path)


def save_preview(image: Image.Image, path: Path) -> str:
    """A picture for the page, PNG, quickly written."""
    image.save(path, "PNG", compress_level=1)
    return str(path)


def preview(image: Image.Image, side: int = PREVIEW_SIDE) -> Image.Image:
    """8-bit RGB of at most `side` pixels; the picture itself is not touched."""
    image = _eight_bit(image)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8)).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _sweep(root: Path) -> None:
    """Remove folders that are past their time: Gradio deletes what it was given, not what a cancelled run left."""
    global _last_sweep
    now = time.time()
    if now - _last_sweep < LIFETIME / 12:
        return
    _last_sweep = now
    for folder in root.glob("*/"):
        try:
            if now - folder.stat().st_mtime > LIFETIME:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another request was quicker
            continue
