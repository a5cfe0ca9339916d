"""One pair and its pictures: read on demand, measured and hashed without more decoding than is needed."""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from fusion_hub.image import io as image_io
from fusion_hub.image.io import from_pil, read_bytes, read_header, read_picture
from fusion_hub.image.picture import Picture

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
        """The visible (CT, PET, SPECT) picture, see [`load_picture`]. Raises one of `READ_ERRORS`.

        Pipelines and the image processor take `visible_source` itself, and read what an image of Pillow cannot hold:
        pixels without data, the bits of the samples, camera metadata.
        """
        return load_picture(self.visible_source)

    @property
    def infrared(self) -> Image.Image | np.ndarray:
        """The infrared (MRI) picture; see `visible`."""
        return load_picture(self.infrared_source)


def source_file(source: ImageSource) -> Path | None:
    """The file that a picture, or a channel of it, is read from; None for pictures in memory."""
    file = getattr(source, "file", source)
    return file if isinstance(file, Path) else None


def load_picture(source: ImageSource) -> Image.Image | np.ndarray:
    """A picture to look at: a PIL image in its own mode for what Pillow reads without loss, else an array.

    Of PIL images an EXIF orientation is left as it is, for the image processor to apply; arrays are upright, `(H, W)`
    or `(H, W, 2|3|4)` with the samples of the file, and float samples without data are not a number.
    """
    if not isinstance(source, Path | Mapping):
        return source if isinstance(source, Image.Image | np.ndarray) else source()
    header = read_header(source)
    if header.dtype == "uint8" and header.format not in ("TIFF", "PGM", "PPM"):
        with Image.open(source if isinstance(source, Path) else io.BytesIO(read_bytes(source))) as image:
            image.load()  # here, so that the file is closed; the mode stays as it is
            return image
    return _as_array(read_picture(source))


def _as_array(picture: Picture) -> Image.Image | np.ndarray:
    pixels = picture.pixels
    if picture.valid is not None and pixels.dtype.kind == "f":
        pixels = np.where(picture.valid if pixels.ndim == 2 else picture.valid[..., None], pixels, np.nan)
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    plain = pixels.dtype in (np.uint8, np.uint16, np.float32) and (pixels.ndim == 2 or pixels.dtype == np.uint8)
    return Image.fromarray(pixels) if plain and picture.white in (255.0, 65535.0, 1.0) else pixels


def encodable(source: ImageSource) -> Any:
    """What `datasets` can put into an image column."""
    if isinstance(source, Path):
        return str(source)
    return dict(source) if isinstance(source, Mapping) else load_picture(source)


def inspect_picture(source: ImageSource, decode: bool) -> tuple[tuple[int, int], str]:
    """Upright (width, height) and a digest: of the file, or of the pixels where `decode` or nothing is encoded.

    Raises one of `READ_ERRORS`.
    """
    if isinstance(source, Path | Mapping) and not decode:
        height, width = read_header(source).size
        return (width, height), hashlib.blake2b(read_bytes(source), digest_size=16).hexdigest()
    if isinstance(source, Path | Mapping):
        picture = read_picture(source)
    else:
        loaded = load_picture(source)
        picture = from_pil(loaded, "image") if isinstance(loaded, Image.Image) else Picture(loaded)
    pixels = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if pixels.ndim < 2:
        raise ValueError(f"an array of shape {pixels.shape} is no picture: give (H, W) or (H, W, C)")
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return (pixels.shape[1], pixels.shape[0]), digest.hexdigest()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is applied, from the header alone."""
    height, width = image_io.upright_size(image)
    return width, height
