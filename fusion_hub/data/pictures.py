"""One pair and its pictures: read on demand, measured and hashed without more decoding than is needed."""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # Pillow's, on bad files

# A file; an encoded image {"bytes", "path"} as `datasets` stores it; a picture in memory; or a function that makes one.
ImageSource: TypeAlias = Path | Mapping[str, Any] | Image.Image | np.ndarray | Callable[[], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Two pictures of one scene. Nothing is read before `visible` or `infrared` is asked for."""

    name: str
    visible_source: ImageSource
    infrared_source: ImageSource

    @property
    def visible(self) -> Image.Image | np.ndarray:
        """The visible (CT, PET, SPECT) picture in its own mode and depth: PIL for files, otherwise what was given.

        An EXIF orientation is left as it is, for the image processor to apply. Raises one of `READ_ERRORS`.
        """
        return load_picture(self.visible_source)

    @property
    def infrared(self) -> Image.Image | np.ndarray:
        """The infrared (MRI) picture; see `visible`."""
        return load_picture(self.infrared_source)


def read_bytes(source: Path | Mapping[str, Any]) -> bytes:
    """The encoded picture as it is stored."""
    if isinstance(source, Path):
        return source.read_bytes()
    if source.get("bytes") is not None:
        return source["bytes"]
    if not source.get("path"):
        raise ValueError("the cell is empty: neither bytes nor a path")
    import fsspec  # knows hf:// and files inside archives, where a streamed picture may lie

    with fsspec.open(source["path"], "rb") as stream:
        return stream.read()


def load_picture(source: ImageSource) -> Image.Image | np.ndarray:
    if isinstance(source, Path):
        with Image.open(source) as image:
            image.load()  # here, so that the file is closed; the mode stays as it is
            return image
    if isinstance(source, Mapping):
        image = Image.open(io.BytesIO(read_bytes(source)))
        image.load()
        return image
    return source if isinstance(source, Image.Image | np.ndarray) else source()


def encodable(source: ImageSource) -> Any:
    """What `datasets` can put into an image column."""
    if isinstance(source, Path):
        return str(source)
    return dict(source) if isinstance(source, Mapping) else load_picture(source)


def inspect_picture(source: ImageSource, decode: bool) -> tuple[tuple[int, int], str]:
    """Upright (width, height) and a digest: of the file, or of the pixels where `decode` or nothing is encoded."""
    if isinstance(source, Path | Mapping) and not decode:
        content = read_bytes(source)
        with Image.open(io.BytesIO(content)) as image:
            return upright_size(image), hashlib.blake2b(content, digest_size=16).hexdigest()
    picture = load_picture(source)
    pixels = np.asarray(picture)
    if pixels.ndim < 2:
        raise ValueError(f"an array of shape {pixels.shape} is no picture; give (H, W) or (H, W, C)")
    size = upright_size(picture) if isinstance(picture, Image.Image) else (pixels.shape[1], pixels.shape[0])
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return size, digest.hexdigest()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is applied, from the header alone."""
    if image.format == "TIFF":  # Pillow turns TIFFs itself, and reports the turned size
        return image.size
    # `getexif` of a PNG without EXIF in its header would decode the whole file to look behind the pixels.
    orientation = 1 if image.format == "PNG" and "exif" not in image.info else image.getexif().get(0x0112, 1)
    width, height = image.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)
