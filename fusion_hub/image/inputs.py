"""Anything that shows a picture, as a decoded [`Picture`]: paths, encoded bytes, PIL images, arrays, tensors.

Nothing here imports torch: commands that only read pictures start quickly.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from PIL import Image

from fusion_hub.image.io import from_pil, read_picture
from fusion_hub.image.luminance import DEFAULT_PERCENTILE, Role, ValueRange, fill_missing, to_plane
from fusion_hub.image.picture import Depth, Picture, depth_of, full_scale
from fusion_hub.image.radiometric import ThermalSettings
from fusion_hub.image.sources import MAX_PIXELS, check_size

if TYPE_CHECKING:
    from torch import Tensor

ImageInput: TypeAlias = Union[
    str, os.PathLike[str], Image.Image, np.ndarray, "Tensor", Mapping[str, Any], Callable[[], np.ndarray], Picture
]


def read_infrared(image: ImageInput, thermal: ThermalSettings, max_pixels: int = MAX_PIXELS) -> Picture:
    """The infrared image of a pair, with temperatures as the settings say.

    Raises a `ValueError` for settings that do not fit what the file, array or tensor holds.
    """
    if isinstance(image, str | os.PathLike | Mapping):
        return read_picture(image, "infrared", max_pixels, "infrared", thermal)
    picture, name = to_picture(image, "infrared", "infrared", max_pixels)
    return thermal.in_degrees(picture, None, name)


def to_picture(image: Any, name: str, role: Role | None = None, max_pixels: int = MAX_PIXELS) -> tuple[Picture, str]:
    """The picture of an [`ImageInput`], and its name for messages, with the path where it has one."""
    if isinstance(image, Picture):
        return image, name
    if isinstance(image, str | os.PathLike | Mapping):
        path = image.get("path") if isinstance(image, Mapping) else os.fsdecode(image)
        return read_picture(image, name, max_pixels, role), f"{name} ({str(path)!r})" if path else name
    if isinstance(image, Image.Image):
        check_size((image.height, image.width), name, max_pixels)
        return from_pil(image, name), name
    torch = sys.modules.get("torch")  # who gives a tensor has imported it
    is_tensor = torch is not None and isinstance(image, torch.Tensor)
    if callable(image) and not is_tensor:
        return to_picture(image(), name, role, max_pixels)
    array: Any = image
    if is_tensor:
        image = image.detach().cpu()
        if image.ndim == 3 and image.shape[0] not in (1, 3, 4):
            raise ValueError(
                f"{name} is a tensor of shape {tuple(image.shape)}: it must be (H, W) or (C, H, W) with 1, 3 or 4 "
                "channels; of gray frames (N, H, W) give a list, or tensor[:, None] of shape (N, 1, H, W), of "
                "(H, W, C) permute(2, 0, 1)"
            )
        image = image.float() if str(image.dtype) == "torch.bfloat16" else image
        array = (image.permute(1, 2, 0) if image.ndim == 3 else image).numpy()
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name} is of type {type(image).__name__}: give a path, a PIL image, an array (H, W[, C]) or a tensor "
            "([C,] H, W)"
        )
    if array.ndim >= 2:
        check_size((array.shape[0], array.shape[1]), name, max_pixels)
    return from_array(array, name), name


def read_luminance(image: Any, role: Role, value_range: ValueRange = "auto") -> np.ndarray:
    """Luminance `(H, W)` float32 in [0, 1] of one picture, as [`FusionImageProcessor.luminance`] scales it."""
    picture, name = to_picture(image, role, role)
    plane = to_plane(picture, name, value_range, DEFAULT_PERCENTILE, role)
    if plane.valid is not None:
        fill_missing(plane.values, plane.valid)
    return plane.values


def from_array(array: np.ndarray, name: str) -> Picture:
    """An array `(H, W)`, `(H, W, 1|3|4)` as a picture. Raises `ValueError`, `TypeError` for other shapes and dtypes."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(
            f"{name} has the shape {array.shape}: an array must be (H, W) or (H, W, C) with 1, 3 or 4 channels; of "
            "gray frames (N, H, W) give a list, or array[..., None], (N, H, W, 1); of (C, H, W) transpose(1, 2, 0)"
        )
    kind = array.dtype.kind
    if kind not in "buif":
        raise TypeError(f"{name} has the dtype {array.dtype}: give uint8, uint16, bool or a float dtype")
    if kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    valid: np.ndarray | None = None
    if isinstance(array, np.ma.MaskedArray):
        valid = np.asarray(~np.ma.getmaskarray(array).reshape(*array.shape[:2], -1).any(axis=2))
    array = np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    # Colors of float arrays are scaled photographs as a rule: their result is an 8-bit image, as it is for uint8.
    depth: Depth = "uint8" if kind == "f" else depth_of(array.dtype)
    white = full_scale(array.dtype)
    if channels == 1:
        return Picture(array.reshape(array.shape[:2]), valid=valid, white=white, depth=depth)
    array = array.copy()  # colors are kept for the result: changes by the caller must not reach them
    return Picture(array[..., :3], array[..., 3] if channels == 4 else None, valid, white, depth)
