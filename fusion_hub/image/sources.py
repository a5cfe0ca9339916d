"""Where pictures come from: a path, or the bytes of a cell of a table, opened as a stream with a name for messages."""

import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

EncodedImage: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""A path, or `{"bytes", "path"}` as the `datasets` library stores an undecoded image."""

MAX_PIXELS = 2**28
TOO_LARGE = "give a smaller image, or in Python a FusionImageProcessor with larger max_pixels"
_HEAD = 512  # bytes that identify the format


@contextmanager
def opened(source: EncodedImage, name: str) -> Iterator[tuple[BinaryIO, str, bytes]]:
    """The bytes of a picture as a seekable stream, its name for messages, and how it begins."""
    if isinstance(source, Mapping):
        if source.get("bytes") is None and not source.get("path"):
            raise ValueError(f"{name} is empty: it has neither bytes nor a path")
        stream: BinaryIO = io.BytesIO(read_bytes(source))
        if source.get("path"):
            name = f"{name} ({str(source['path'])!r})"
    else:
        path = os.fsdecode(source)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
            raise ValueError(f"{name} is a URL, {path!r}: nothing is downloaded here, save the image and give its path")
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError) as error:  # a zero byte in a path is a ValueError
            raise ValueError(f"{name}: there is no file {path!r}") from error
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ValueError(f"{name}: {path!r} is {what}, give the path of one image file")
        name = f"{name} ({path!r})"
        try:
            stream = open(path, "rb")  # noqa: SIM115  # closed below
        except OSError as error:
            raise ValueError(f"{name} cannot be opened ({error.strerror}): check its permissions") from error
    with stream:
        try:
            start = stream.read(_HEAD)
            stream.seek(0)
        except OSError as error:
            raise ValueError(f"{name} cannot be read ({error.strerror}): copy it to a sound disk") from error
        if not start:
            raise ValueError(f"{name} is empty (0 bytes): export it again")
        yield stream, name, start


def read_bytes(source: Path | Mapping[str, Any]) -> bytes:
    """The encoded bytes of a picture; raises a `ValueError` for an empty cell of a table."""
    if isinstance(source, Path):
        return source.read_bytes()
    if source.get("bytes") is not None:
        return source["bytes"]
    if not source.get("path"):
        raise ValueError("the picture is empty: neither bytes nor a path")
    import fsspec  # knows hf:// and files inside archives, where a streamed picture may lie

    with fsspec.open(source["path"], "rb") as stream:
        return stream.read()


def check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Raise a `ValueError` for an empty picture `(H, W)` and for one of more than `max_pixels`."""
    pixels = size[0] * size[1]
    shown = f"{size[1]}x{size[0]} (width x height)"
    if pixels == 0:
        raise ValueError(f"{name} is empty ({shown}): give an image of at least 1 x 1 pixel")
    if pixels > max_pixels:
        raise ValueError(f"{name} is {shown}, {pixels} pixels, more than the limit of {max_pixels}: {TOO_LARGE}")
