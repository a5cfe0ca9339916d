"""From any picture to the luminance pair that a model takes, and back to a picture.

Fusion happens in luminance. Of an RGB visible image the BT.601 full-range (JPEG) luma is fused and its chroma is kept:

    Y = 0.299 R + 0.587 G + 0.114 B        Cb = (B - Y) / 1.772        Cr = (R - Y) / 1.402

The way back with a fused luma Y' and the visible's Cb, Cr is linear, and R = Y + 1.402 Cr, B = Y + 1.772 Cb, so

    R' = R + (Y' - Y)        G' = G + (Y' - Y)        B' = B + (Y' - Y)

That is the form used here: the same numbers as through YCbCr, without storing chroma and without rounding on the way.
Colours that leave the gamut are clipped.
"""

import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
ImageInputs: TypeAlias = ImageInput | Sequence[ImageInput]
InfraredRange: TypeAlias = Literal["auto", "dtype", "minmax", "percentile"] | tuple[float, float]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
_FLOAT_SLACK = 1e-4  # resampling filters leave [0, 1] by a rounding error; that much is clipped, more is an error
_STRIP_PIXELS = 2**17  # full-size float temporaries are made for this many pixels at a time: they stay in cache
_PERCENTILE_PIXELS = 2**22  # above this many pixels percentiles are taken from a regular grid of them

# Raster formats only: EPS and WMF would start other programs, and a container of vectors has no pixel size.
_READ_FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
_EIGHT_BIT_MODES = ("L", "LA", "RGB", "RGBA")
_SAVE_FORMATS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {  # suffix: format, modes, options
    ".png": ("PNG", ("1", *_EIGHT_BIT_MODES, "I;16"), {}),
    ".tif": ("TIFF", ("1", *_EIGHT_BIT_MODES, "I;16", "F"), {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", ("1", *_EIGHT_BIT_MODES, "I;16", "F"), {"compression": "tiff_adobe_deflate"}),
    ".jpg": ("JPEG", ("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", ("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", _EIGHT_BIT_MODES, {"lossless": True}),
    ".bmp": ("BMP", ("1", "L", "RGB"), {}),
}

_TOO_LARGE = "give a smaller image, or construct FusionImageProcessor with a larger max_pixels"

_UPRIGHT = {  # EXIF orientation: what turns the stored picture the right way up
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_pil_limit_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class PairContext:
    """What [`FusionImageProcessor.postprocess`] needs of the visible image to give a picture of its kind back.

    Attributes:
        size: `(H, W)` in pixels, after EXIF orientation.
        rgb: the visible colours `(H, W, 3)` in their own dtype (uint8, uint16 or float32 in [0, 1]); None for grey.
        alpha: the visible alpha `(H, W)`, same dtype; None without alpha.
        depth: sample type of a PIL result: "uint8", "uint16" (grey only) or "float32" (grey only).
        icc_profile: colour profile of the visible image, passed on to a PIL result.
    """

    size: tuple[int, int]
    rgb: np.ndarray | None = None
    alpha: np.ndarray | None = None
    depth: Literal["uint8", "uint16", "float32"] = "uint8"
    icc_profile: bytes | None = None

    @property
    def channels(self) -> int:
        """1 grey, 2 grey + alpha, 3 RGB, 4 RGBA."""
        return (1 if self.rgb is None else 3) + (self.alpha is not None)


@dataclass(frozen=True, eq=False)
class _Picture:
    """A decoded image: grey pixels `(H, W)` or colours `(H, W, 3)`, in native byte order and their own dtype."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    depth: Literal["uint8", "uint16", "float32"] = "uint8"
    icc_profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def luminance(self) -> np.ndarray:
        """`(H, W)` on the scale of the pixels: grey pixels themselves, the float32 luma of colours."""
        return self.pixels if self.pixels.ndim == 2 else _luma(self.pixels)


class FusionImageProcessor(ConfigMixin):
    """Turns pairs of pictures into luminance tensors and fused luminance back into pictures.

    An image may be: a path; a `PIL.Image.Image` of any mode; an array `(H, W)`, `(H, W, 1|3|4)`; a tensor `(H, W)`,
    `(1|3|4, H, W)`; a batch as an array `(B, H, W, 1|3|4)` or a tensor `(B, 1|3|4, H, W)`; or a list of single images.

    What the kinds mean:
        - EXIF orientation is applied to paths and PIL images. Palette, CMYK and YCbCr images become RGB, 1-bit images
          grey; transparency becomes alpha. Alpha of the infrared is ignored.
        - A colour infrared image, false colour too, is represented by its luma. A false-colour map whose luma does not
          rise with temperature loses its order by that: use the radiometric image where there is one.
        - uint8 and uint16 are divided by 255 and 65535, float visible values must be in [0, 1], bool is 0 or 1. Other
          integers have no known full scale: refused for the visible image, stretched for the infrared (see below).
        - Pillow reads 16-bit *colour* files with 8 bits for each channel; give an array to keep the 16.
        - The first picture of an MPO file (phones) is used; animations and files of several pages are refused. Of a PIL
          image the current frame is used.

    The result is of the visible's kind: grey gives grey, RGB(A) gives RGB(A), even where its three channels are equal;
    16-bit grey gives 16-bit grey (mode "I;16"), mode "F" gives "F". The rest is 8-bit: Pillow has no 16-bit colour.
    The visible is never stretched: a 12-bit image in 16-bit samples is dark and its result is; scale it first.

    Args:
        infrared_range: what becomes 0 and 1 in the infrared luminance.
            - "auto" (default): uint8 and floats within [0, 1] as they are; anything wider (16-bit counts, 32-bit
              integers, floats beyond [0, 1]) as "percentile". Thermal cameras use a small part of 16 bits: counts of
              2623..2739 divided by 65535 would be one flat black.
            - "dtype": divided by the full scale of the sample type; equal counts stay equal from image to image.
            - "minmax": the image's own smallest and largest value.
            - "percentile": the image's own percentiles, values beyond them are clipped; from at most about 4 million
              pixels on a regular grid.
            - `(low, high)`: fixed values on the scale of the samples (counts, degrees). For video and for comparisons.

            All in floating point, never through 8 bits. A constant image becomes 0; where the percentiles coincide the
            smallest and largest value take their place, so that a small hot spot survives.
        percentile: the lower and upper percentile, in 0..100.
        max_pixels: larger images are refused; files before they are decoded.
    """

    config_name = "image_processor_config.json"  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        infrared_range: InfraredRange = "auto",
        percentile: tuple[float, float] = (0.5, 99.5),
        max_pixels: int = 2**28,
    ) -> None:
        _check_range(infrared_range)
        low, high = percentile
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentile must be two rising numbers in 0..100, got {percentile}")
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        self.infrared_range = infrared_range
        self.percentile = (float(low), float(high))
        self.max_pixels = max_pixels

    def preprocess(
        self, visible: ImageInputs, infrared: ImageInputs, *, infrared_range: InfraredRange | None = None
    ) -> tuple[Tensor, Tensor, list[PairContext]]:
        """Luminance of pairs of one size.

        Args:
            visible: the image whose colours and kind the result gets, or several.
            infrared: the other image (infrared, MRI), registered and of the same size, or as many.
            infrared_range: overrides the processor's own for this call.

        Returns:
            visible `(B, 1, H, W)`, infrared `(B, 1, H, W)`, both float32 in [0, 1] on the CPU, and B contexts.

        Raises:
            ValueError: a size, value, file or channel count that cannot be used; the message names the argument.
            TypeError: an object that is no image.
        """
        rule = self.infrared_range if infrared_range is None else infrared_range
        _check_range(rule)
        pairs = _pair_up(visible, infrared)
        visible_planes: list[np.ndarray] = []
        infrared_planes: list[np.ndarray] = []
        contexts: list[PairContext] = []
        for (visible_name, visible_item), (infrared_name, infrared_item) in pairs:
            picture = self._load(visible_item, visible_name)
            other = self._load(infrared_item, infrared_name)
            _check_sizes(picture.size, other.size, visible_name, infrared_name)
            if contexts and picture.size != contexts[0].size:
                raise ValueError(
                    f"images of one batch must share one size: visible[0] is {_text(contexts[0].size)}, {visible_name} "
                    f"is {_text(picture.size)}: call once for each size"
                )
            visible_planes.append(_visible_plane(picture, visible_name))
            infrared_planes.append(_infrared_plane(other, infrared_name, rule, self.percentile))
            contexts.append(_context(picture))
        return _batch(visible_planes), _batch(infrared_planes), contexts

    def postprocess(
        self,
        fused: Tensor,
        contexts: Sequence[PairContext],
        output_type: Literal["pil", "np", "pt"] = "pil",
        rescale: Literal["none", "minmax"] = "none",
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Pictures from fused luminance: crop, clamp, put chroma and alpha back, give the visible's sample type.

        Args:
            fused: `(B, 1, H, W)`, any float dtype and device, not clamped; may be padded at the bottom and right.
            contexts: from [`preprocess`], one for each image.
            output_type: "pil": a list of images; "np": `(B, H, W, C)` float32 in [0, 1]; "pt": `(B, C, H, W)`, the same
                on the CPU. C is 1 (grey), 2 (grey + alpha), 3 or 4.
            rescale: "minmax" stretches each clamped luminance to 0..1. It makes video flicker and changes metrics.

        Raises:
            ValueError: if shapes and contexts do not match, `fused` holds NaN or infinite values, or an option is
                unknown.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")
        if rescale not in ("none", "minmax"):
            raise ValueError(f"rescale must be 'none' or 'minmax', got {rescale!r}")
        if fused.ndim != 4 or fused.shape[1] != 1 or fused.shape[0] != len(contexts):
            raise ValueError(
                f"fused must be ({len(contexts)}, 1, H, W) for {len(contexts)} contexts, got {tuple(fused.shape)}"
            )
        kinds = {(context.size, context.channels) for context in contexts}
        if output_type != "pil" and len(kinds) > 1:
            raise ValueError(
                f"images of different size or channel count {sorted(kinds)} make no one array: use output_type='pil'"
            )
        planes = (_plane(image, context) for image, context in zip(fused, contexts, strict=True))
        stretch = rescale == "minmax"
        if output_type == "pil":
            return [_to_pil(plane, context, stretch) for plane, context in zip(planes, contexts, strict=True)]
        images = [_colour(p, c, stretch, np.dtype(np.float32)) for p, c in zip(planes, contexts, strict=True)]
        array = images[0][None] if len(images) == 1 else np.stack(images)
        return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()

    def to_rgb(self, image: ImageInput, *, value_range: InfraredRange | None = None) -> np.ndarray:
        """One picture of any kind as 8-bit colours, for eyes and for networks that know photographs only.

        Args:
            image: a path, PIL image, array or tensor, as for [`preprocess`]; alpha is ignored.
            value_range: what becomes 0 and 255, by the rules of `infrared_range`; the processor's own by default. With
                "auto" 8-bit pictures and floats in [0, 1] stay as they are, wider ones are stretched: raw 16-bit counts
                would be one flat black.

        Returns:
            `(H, W, 3)` uint8, upright; three equal channels of a grey picture.

        Raises:
            ValueError, TypeError: as [`preprocess`].
        """
        rule = self.infrared_range if value_range is None else value_range
        _check_range(rule, "value_range")
        picture = self._load(image, "image")
        limits = _limits(picture, "image", rule, self.percentile, "value_range")
        rgb = np.empty((*picture.size, 3), dtype=np.uint8)
        for channel in range(3):
            values = picture.pixels if picture.pixels.ndim == 2 else picture.pixels[..., channel]
            if values.dtype == np.uint8 and limits == (0.0, 255.0):
                rgb[..., channel] = values
            else:
                rgb[..., channel] = _quantise(_linear(values, *limits), np.dtype(np.uint8))
        return rgb

    def _load(self, image: ImageInput, name: str) -> _Picture:
        if isinstance(image, str | os.PathLike):
            return self._load_file(os.fsdecode(image), name)
        if isinstance(image, Image.Image):
            self._check_pixels((image.height, image.width), name)
            return _from_pil(image, name)
        array = _tensor_to_array(image, name) if isinstance(image, Tensor) else image
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"{name} is of type {type(image).__name__}: give a path, a PIL image, an array (H, W[, C]) or a tensor "
                "([C,] H, W)"
            )
        if array.ndim >= 2:
            self._check_pixels((array.shape[0], array.shape[1]), name)
        return _from_array(array, name)

    def _load_file(self, path: str, name: str) -> _Picture:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
            raise ValueError(f"{name} is a URL, {path!r}: nothing is downloaded here, save the image and give its path")
        if not os.path.exists(path):
            raise ValueError(f"{name}: there is no file {path!r}")
        if not os.path.isfile(path):
            what = "a folder" if os.path.isdir(path) else "not a regular file"
            raise ValueError(f"{name}: {path!r} is {what}, give the path of one image file")
        name = f"{name} ({path!r})"
        with self._open(path, name) as image:
            self._check_pixels((image.height, image.width), name)
            if image.format != "MPO" and _frames(image, name) > 1:
                raise ValueError(
                    f"{name} holds {_frames(image, name)} pictures: open it with PIL, choose one by seek(), give that"
                )
            return _from_pil(image, name)

    def _open(self, path: str, name: str) -> Image.Image:
        """Read the header only; Pillow's own limit against decompression bombs is set to ours meanwhile."""
        Image.init()
        formats = [f for f in _READ_FORMATS if f in Image.OPEN]
        try:
            with _pixel_limit(self.max_pixels):
                return Image.open(path, formats=formats)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"{name} has more pixels than max_pixels={self.max_pixels}: {_TOO_LARGE}") from error
        except UnidentifiedImageError as error:
            raise ValueError(f"{name} is not an image that can be read: use one of {', '.join(formats)}") from error
        except Exception as error:  # a damaged header can fail in any way
            raise ValueError(f"{name} cannot be read as an image ({error}): check or replace the file") from error

    def _check_pixels(self, size: tuple[int, int], name: str) -> None:
        pixels = size[0] * size[1]
        if pixels == 0:
            raise ValueError(f"{name} is empty ({_text(size)}): give an image of at least 1 x 1 pixel")
        if pixels > self.max_pixels:
            raise ValueError(
                f"{name} is {_text(size)}, {pixels} pixels, more than max_pixels={self.max_pixels}: {_TOO_LARGE}"
            )


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad the bottom and right of `(..., H, W)` by reflection to multiples of `multiple`.

    Reflection repeats, so any size works, 1 x 1 too. Returns the padded tensor (the same object where nothing is
    missing) and the original `(H, W)` for [`crop_to`].
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    size = (x.shape[-2], x.shape[-1])
    for dim, length in zip((-2, -1), size, strict=True):
        missing = -length % multiple
        if missing:
            period = max(2 * (length - 1), 1)
            index = torch.arange(length + missing, device=x.device) % period
            x = x.index_select(dim, torch.minimum(index, period - index))
    return x, size


def crop_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The top left `(H, W)` of `(..., H', W')`, as a view: the inverse of [`pad_to_multiple`]."""
    height, width = size
    if x.shape[-2] < height or x.shape[-1] < width:
        raise ValueError(f"cannot crop {x.shape[-2]} x {x.shape[-1]} to the larger {height} x {width}")
    return x[..., :height, :width]


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Write an image in the format of the path's suffix: .png (also where there is none), .tif, .jpg, .webp, .bmp.

    Lossless but for JPEG (quality 95, full chroma). The file appears under its name only when it is complete; missing
    folders are made. Returns the path written.

    Raises:
        ValueError: for an unknown suffix, or a format that cannot hold the image (16 bits or alpha in JPEG).
        TypeError: if `image` is no PIL image.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image is of type {type(image).__name__}: give a PIL image (output_type='pil')")
    target = Path(path)
    if not target.suffix:
        target = target.with_name(target.name + ".png")
    if target.suffix.lower() not in _SAVE_FORMATS:
        raise ValueError(f"cannot save as {target.name!r}: use one of the suffixes {', '.join(_SAVE_FORMATS)}")
    file_format, modes, options = _SAVE_FORMATS[target.suffix.lower()]
    if image.mode not in modes:
        able = [suffix for suffix, (_, held, _) in _SAVE_FORMATS.items() if image.mode in held]
        advice = f"save as {' or '.join(able)}" if able else f"convert it to one of the modes {', '.join(modes)}"
        raise ValueError(f"{file_format} cannot hold an image of mode {image.mode!r} ({target.name}): {advice}")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "xb") as file:
            image.save(file, format=file_format, icc_profile=image.info.get("icc_profile"), **options)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return target


# --- reading ------------------------------------------------------------


@contextmanager
def _pixel_limit(pixels: int) -> Iterator[None]:
    """Pillow's limit is a global: change it for a moment, one thread at a time, and put it back."""
    with _pil_limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _frames(image: Image.Image, name: str) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception as error:  # counting walks through the file, which may be damaged further on
        raise ValueError(f"{name} cannot be read ({error}): check or replace the file") from error


def _from_pil(image: Image.Image, name: str) -> _Picture:
    try:
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # after load: TIFF turns itself there
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        profile = image.info.get("icc_profile") if image.mode not in ("CMYK", "YCbCr", "LAB", "HSV") else None
        mode = _plain_mode(image)
        image = image if image.mode == mode else image.convert(mode)
        samples = np.asarray(image)
    except Exception as error:  # decoders of damaged files fail in any way: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{name} cannot be decoded ({error}): is the file whole? Else convert it to RGB") from error
    if image.mode == "F":
        _check_finite(samples, name)
        return _Picture(samples, depth="float32")
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        return _Picture(samples)
    if image.mode.startswith("I"):  # 16 bits of either byte order, or held in 32
        return _Picture(samples.astype(np.uint16), depth="uint16")
    if image.mode in ("LA", "RGBA"):
        pixels = samples[..., 0] if image.mode == "LA" else samples[..., :3]
        return _Picture(pixels, samples[..., -1], icc_profile=profile)
    return _Picture(samples, icc_profile=profile)


def _plain_mode(image: Image.Image) -> str:
    """The mode to fuse an image in: its own for deep greys, else one of L, LA, RGB, RGBA."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return image.mode
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return mode + "A" if image.has_transparency_data else mode


def _tensor_to_array(tensor: Tensor, name: str) -> np.ndarray:
    """`([C,] H, W)` to `(H, W[, C])` on the CPU."""
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
    if tensor.ndim == 3:
        if tensor.shape[0] not in (1, 3, 4):
            raise ValueError(
                f"{name} is a tensor of shape {tuple(tensor.shape)}: it must be (H, W) or (C, H, W) with 1, 3 or 4 "
                "channels; of (H, W, C) give permute(2, 0, 1)"
            )
        tensor = tensor.permute(1, 2, 0)
    return tensor.numpy()


def _from_array(array: np.ndarray, name: str) -> _Picture:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(
            f"{name} has the shape {array.shape}: an array must be (H, W) or (H, W, C) with 1, 3 or 4 channels; of "
            "(C, H, W) give transpose(1, 2, 0), give several images as a list"
        )
    kind = array.dtype.kind
    if kind not in "buif":
        raise TypeError(f"{name} has the dtype {array.dtype}: give uint8, uint16, bool or a float dtype")
    if kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif kind == "f":
        array = array.astype(np.float32, copy=False)
        _check_finite(array, name)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    depth: Literal["uint8", "uint16"] = "uint16" if array.dtype == np.uint16 else "uint8"
    if channels == 1:
        return _Picture(array.reshape(array.shape[:2]), depth=depth)
    array = array.copy()  # colours are kept until the way back: what the caller does meanwhile must not change them
    return _Picture(array[..., :3], array[..., 3] if channels == 4 else None, depth)


def _pair_up(visible: ImageInputs, infrared: ImageInputs) -> list[tuple[tuple[str, Any], tuple[str, Any]]]:
    """((name, image), (name, image)) for each pair; the names are those of the arguments, for messages."""
    visible_items, infrared_items = _as_list(visible, "visible"), _as_list(infrared, "infrared")
    if len(visible_items) != len(infrared_items):
        raise ValueError(
            f"visible has {len(visible_items)} images and infrared {len(infrared_items)}: give one infrared image for "
            "each visible one"
        )
    return list(zip(visible_items, infrared_items, strict=True))


def _as_list(images: ImageInputs, name: str) -> list[tuple[str, Any]]:
    batch = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
    if not batch and not isinstance(images, list | tuple):
        return [(name, images)]
    if len(images) == 0:  # type: ignore[arg-type]
        raise ValueError(f"{name} is empty: give at least one image")
    return [(f"{name}[{i}]", image) for i, image in enumerate(images)]  # type: ignore[arg-type]


# --- values ------------------------------------------------------------


def _strips(size: tuple[int, ...]) -> Iterator[slice]:
    """Rows of an image `(H, W)` to work on at a time."""
    height, width = size
    rows = max(1, _STRIP_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _luma(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma `(H, W)`, float32, on the scale of `rgb` `(H, W, 3)`."""
    luma = np.empty(rgb.shape[:2], dtype=np.float32)
    for rows in _strips(luma.shape):
        luma[rows] = rgb[rows].astype(np.float32) @ _LUMA
    return luma


def _visible_plane(picture: _Picture, name: str) -> np.ndarray:
    """Luminance `(H, W)`, float32 in [0, 1]; the full scale is that of the sample type."""
    for part in (picture.pixels, picture.alpha):
        if part is not None:
            _check_full_scale(part, name, "convert it to uint8, uint16 or float in [0, 1] on the scale that you mean")
    return _linear(picture.luminance(), 0.0, _FULL_SCALE[picture.pixels.dtype])


def _infrared_plane(picture: _Picture, name: str, rule: InfraredRange, percentile: tuple[float, float]) -> np.ndarray:
    """Luminance `(H, W)`, float32 in [0, 1], where 0 and 1 are what `rule` says."""
    return _linear(picture.luminance(), *_limits(picture, name, rule, percentile))


def _limits(
    picture: _Picture,
    name: str,
    rule: InfraredRange,
    percentile: tuple[float, float],
    argument: str = "infrared_range",
) -> tuple[float, float]:
    """The sample values that `rule` makes 0 and 1."""
    pixels = picture.pixels
    if rule == "auto":
        unit = pixels.dtype == np.float32 and pixels.min() >= -_FLOAT_SLACK and pixels.max() <= 1 + _FLOAT_SLACK
        rule = "dtype" if unit or pixels.dtype == np.uint8 else "percentile"
    if rule == "dtype":
        _check_full_scale(pixels, name, f"use {argument}='minmax', 'percentile' or (low, high)")
        return 0.0, _FULL_SCALE[pixels.dtype]
    if not isinstance(rule, str):
        return float(rule[0]), float(rule[1])
    values = picture.luminance()
    low, high = _percentiles(values, percentile) if rule == "percentile" else (0.0, 0.0)
    if not low < high:  # "minmax", and what is left where at least 99 % of the image have one value
        low, high = float(values.min()), float(values.max())
    return low, high


def _percentiles(values: np.ndarray, percentile: tuple[float, float]) -> tuple[float, float]:
    step = max(1, int(np.ceil(np.sqrt(values.size / _PERCENTILE_PIXELS))))
    # A side shorter than the step keeps all its pixels: of a 1 x N line at least every step-th is seen.
    sample = values[:: step if values.shape[0] > step else 1, :: step if values.shape[1] > step else 1]
    low, high = np.percentile(sample, percentile)
    return float(low), float(high)


def _linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low`..`high` to 0..1, clipped, float32; all 0 where there is no range."""
    plane = np.zeros(values.shape, dtype=np.float32)
    if not low < high:
        return plane
    # Integers beyond 24 bits and counts with a large offset lose their differences in float32: subtract in float64.
    working = np.float32 if low == 0 and values.dtype.itemsize <= 4 and values.dtype.kind != "i" else np.float64
    for rows in _strips(values.shape):
        strip = values[rows].astype(working)
        np.subtract(strip, low, out=strip)
        np.divide(strip, high - low, out=strip)
        np.clip(strip, 0, 1, out=plane[rows], casting="same_kind")
    return plane


def _check_full_scale(values: np.ndarray, name: str, fix: str) -> None:
    """Pixels must be of a type whose full scale is known, floats within [0, 1]."""
    if values.dtype not in _FULL_SCALE:
        raise ValueError(
            f"{name} has {values.dtype} samples ({values.min()}..{values.max()}), full scale unknown: {fix}"
        )
    if values.dtype == np.float32 and (values.min() < -_FLOAT_SLACK or values.max() > 1 + _FLOAT_SLACK):
        raise ValueError(
            f"{name} has float values in {values.min():g}..{values.max():g}, expected [0, 1]: divide by the full scale "
            f"(255 for 8 bits), or {fix}"
        )


def _check_finite(values: np.ndarray, name: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        count = values.size - int(np.count_nonzero(finite))
        raise ValueError(f"{name} has {count} NaN or infinite values of {values.size}: replace them (np.nan_to_num)")


def _check_range(rule: InfraredRange, argument: str = "infrared_range") -> None:
    if isinstance(rule, str) and rule in ("auto", "dtype", "minmax", "percentile"):
        return
    if isinstance(rule, tuple | list) and len(rule) == 2:
        low, high = rule
        if isinstance(low, Real) and isinstance(high, Real) and -np.inf < low < high < np.inf:
            return
    raise ValueError(
        f"{argument} must be 'auto', 'dtype', 'minmax', 'percentile' or two rising finite numbers (low, high), got "
        f"{rule!r}"
    )


def _check_sizes(visible: tuple[int, int], infrared: tuple[int, int], visible_name: str, infrared_name: str) -> None:
    if visible != infrared:
        raise ValueError(
            f"{visible_name} is {_text(visible)} but {infrared_name} is {_text(infrared)}: register the pair first, "
            "that is align and resample one onto the grid of the other; nothing is resized silently"
        )


def _text(size: tuple[int, int]) -> str:
    """A size as people write it: width x height."""
    return f"{size[1]}x{size[0]} (width x height)"


# --- writing ------------------------------------------------------------


def _context(picture: _Picture) -> PairContext:
    rgb = picture.pixels if picture.pixels.ndim == 3 else None
    return PairContext(picture.size, rgb, picture.alpha, picture.depth, picture.icc_profile)


def _batch(planes: list[np.ndarray]) -> Tensor:
    """`(B, 1, H, W)`; one large image is not copied."""
    return torch.from_numpy(planes[0][None, None] if len(planes) == 1 else np.stack(planes)[:, None])


def _plane(fused: Tensor, context: PairContext) -> np.ndarray:
    """The `(H, W)` that belongs to the image of `(1, H', W')`, float32 on the CPU."""
    return crop_to(fused[0].detach(), context.size).to("cpu", torch.float32).numpy()


def _to_pil(plane: np.ndarray, context: PairContext, stretch: bool) -> Image.Image:
    depth = context.depth if context.channels == 1 else "uint8"
    array = _colour(plane, context, stretch, np.dtype(depth))
    image = Image.fromarray(array[..., 0] if context.channels == 1 else array)
    if context.icc_profile:
        image.info["icc_profile"] = context.icc_profile
    return image


def _colour(plane: np.ndarray, context: PairContext, stretch: bool, dtype: np.dtype) -> np.ndarray:
    """`(H, W, C)` in `dtype` on its full scale: the clamped luminance with the visible's chroma and alpha."""
    out = np.empty((*plane.shape, context.channels), dtype=dtype)
    low, high = (np.clip((plane.min(), plane.max()), 0, 1)) if stretch else (0.0, 1.0)
    low, span = (low, high - low) if low < high else (0.0, 1.0)  # a constant image stays as it is
    for rows in _strips(plane.shape):
        if not np.isfinite(plane[rows]).all():
            raise ValueError("fused holds NaN or infinite values: run the model in float32, check its weights")
        luma = (np.clip(plane[rows], 0, 1) - low) / np.float32(span)
        if context.rgb is None:
            out[rows, :, 0] = _quantise(luma, dtype)
        else:
            rgb = context.rgb[rows] / np.float32(_FULL_SCALE[context.rgb.dtype])
            rgb += (luma - rgb @ _LUMA)[..., None]
            out[rows, :, :3] = _quantise(np.clip(rgb, 0, 1, out=rgb), dtype)
        if context.alpha is not None:
            alpha = context.alpha[rows] / np.float32(_FULL_SCALE[context.alpha.dtype])
            out[rows, :, -1] = _quantise(alpha, dtype)
    return out


def _quantise(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """[0, 1] to the full scale of `dtype`, to the nearest step (half up)."""
    if dtype == np.float32:
        return values
    scaled = values * np.float32(_FULL_SCALE[dtype])
    scaled += np.float32(0.5)
    return scaled.astype(dtype)
