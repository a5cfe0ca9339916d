"""Luminance pairs for the models from any pictures, and pictures from fused luminance.

Fusion happens in luminance. Of an RGB visible image the BT.601 full-range (JPEG) luma is fused and its chroma is kept:

    Y = 0.299 R + 0.587 G + 0.114 B        Cb = (B - Y) / 1.772        Cr = (R - Y) / 1.402

The way back with a fused luma Y' and the visible's Cb, Cr is linear, and R = Y + 1.402 Cr, B = Y + 1.772 Cb, so

    R' = R + (Y' - Y)        G' = G + (Y' - Y)        B' = B + (Y' - Y)

That is the form used here: the same numbers as through YCbCr, without storing chroma and without rounding on the way.
Colors that leave the gamut are clipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import Image
from torch import Tensor

from fusion_hub.image.inputs import ImageInput, to_picture
from fusion_hub.image.io import DeepImage, save_image
from fusion_hub.image.luminance import (
    DEFAULT_PERCENTILE,
    Plane,
    Role,
    ValueRange,
    check_range,
    fill_missing,
    linear,
    luma,
    quantize,
    strips,
    to_plane,
)
from fusion_hub.image.picture import Depth, InputWarning, Metadata, check_equal_sizes
from fusion_hub.image.sources import MAX_PIXELS
from fusion_hub.image.tiling import crop_to, pad_to_multiple

__all__ = [
    "FusionImageProcessor",
    "ImageInput",
    "ImageInputs",
    "InfraredRange",
    "InputWarning",
    "PairContext",
    "ValueRange",
    "crop_to",
    "pad_to_multiple",
    "save_image",
]

ImageInputs: TypeAlias = ImageInput | Sequence[ImageInput]
InfraredRange: TypeAlias = ValueRange
Rescale: TypeAlias = Literal["none", "minmax", "both"]


@dataclass(frozen=True, eq=False)
class PairContext:
    """Properties of the visible image, from which [`FusionImageProcessor.postprocess`] restores a picture of its kind.

    Attributes:
        size: `(H, W)` in pixels, after EXIF orientation.
        rgb: the visible colors `(H, W, 3)` in their own dtype; None for gray.
        alpha: the visible alpha `(H, W)`, same dtype; None without alpha.
        depth: sample type of a PIL result: "uint8", "uint16" or "float32".
        metadata: camera, date, position, resolution and color profile of the visible image, passed on to a PIL result.
        limits: the sample values of `rgb` that are 0 and 1.
        white: the sample value of `alpha` that is opaque.
        replacement: `(H, W)` float32 luminance of the other image where one of the two has no data, NaN elsewhere; None
            where both have data everywhere.
        outside: weight of the fused image and the visible luminance that takes the rest, `(H, W)` float32 each, where
            the infrared camera sees only a part; None where it sees all.
        notes: warnings about the pair, one sentence each, without a full stop.
    """

    size: tuple[int, int]
    rgb: np.ndarray | None = None
    alpha: np.ndarray | None = None
    depth: Depth = "uint8"
    metadata: Metadata = Metadata()  # noqa: RUF009  # frozen
    limits: tuple[float, float] = (0.0, 255.0)
    white: float = 255.0
    replacement: np.ndarray | None = None
    outside: tuple[np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """1 gray, 2 gray + alpha, 3 RGB, 4 RGBA."""
        return (1 if self.rgb is None else 3) + (self.alpha is not None)

    @property
    def icc_profile(self) -> bytes | None:
        """Color profile of the visible image."""
        return self.metadata.icc_profile


class Registration(Protocol):
    """How an infrared picture lies in the visible one; [`fusion_hub.rigs.Warp`] is one."""

    @property
    def share(self) -> np.ndarray:
        """Weight of the infrared at each visible pixel, `(H, W)` float32: 0 outside of its view, soft at the border."""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Infrared values `(h, w)` on the visible grid `(H, W)`, those of the border repeated outside."""

    def apply_mask(self, valid: np.ndarray) -> np.ndarray:
        """Visible pixels `(H, W)` bool whose value comes from valid infrared pixels `(h, w)`."""


Register: TypeAlias = Callable[[np.ndarray, np.ndarray], Registration]


class FusionImageProcessor(ConfigMixin):
    """Turns pairs of pictures into luminance tensors and fused luminance back into pictures.

    An image may be: a path; `{"bytes", "path"}` as the `datasets` library stores it; a `PIL.Image.Image` of any mode;
    an array `(H, W)`, `(H, W, 1|3|4)`; a tensor `(H, W)`, `(1|3|4, H, W)`; a batch as an array `(B, H, W, 1|3|4)` or a
    tensor `(B, 1|3|4, H, W)`; or a list of single images.

    How they are read:
        - Files are read with the samples that they hold: [`fusion_hub.image.io`]; docs/formats.md lists the kinds.
        - EXIF and TIFF orientation is applied. Palette, CMYK and YCbCr images become RGB, 1-bit images gray;
          transparency becomes alpha. Fully transparent pixels of the infrared hold no data.
        - A color infrared image is represented by its luma, with a warning where it looks like a false-color map,
          whose luma need not rise with temperature: use the radiometric image where there is one.
        - uint8 and uint16 are divided by 255 and 65535, other bit depths by the largest value that the file names,
          float visible values must be in [0, 1], bool is 0 or 1. Other integers have no known full scale: refused for
          the visible image unless `visible_range` names one, stretched for the infrared (see below).
        - The first picture of an MPO file (phones) is used; animations and files of several pages are refused. Of a PIL
          image the current frame is used.

    Pixels without data (GDAL_NODATA, masks, NaN, borders that a warp has filled, telemetry rows) take no part in the
    scale. In the result they are the other image's.

    The result is of the visible's kind: gray gives gray, RGB(A) gives RGB(A), even where its three channels are equal;
    16 bits give 16 bits, floats give floats. Pillow has no 16-bit color: such a result is a
    [`fusion_hub.image.io.DeepImage`], 8-bit for every use, 16-bit when it is saved as PNG or TIFF.

    Args:
        infrared_range: what becomes 0 and 1 in the infrared luminance.
            - "auto" (default): uint8 and floats within [0, 1] as they are; anything wider (16-bit counts, 32-bit
              integers, floats beyond [0, 1], counts divided by their full scale) as "percentile". Thermal cameras use a
              small part of 16 bits: counts of 2623..2739 divided by 65535 would be one flat black.
            - "dtype": divided by the full scale of the sample type; equal counts stay equal from image to image.
            - "minmax": the image's own smallest and largest value.
            - "percentile": the image's own percentiles, values beyond them are clipped; from at most about 4 million
              pixels on a regular grid.
            - `(low, high)`: fixed values on the scale of the samples (counts, degrees). For video and for comparisons.

            All in floating point, never through 8 bits. A constant image becomes 0; where the percentiles coincide the
            smallest and largest value take their place, so that a small hot spot survives.
        percentile: the lower and upper percentile, in 0..100.
        max_pixels: larger images are refused; files before they are decoded.
        visible_range: the same for the visible image. "auto" is its full scale; 16-bit samples that stay below 1024,
            4096 or 16384 are read as 10, 12 or 14 bits, with a warning.
    """

    config_name = "image_processor_config.json"  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        infrared_range: InfraredRange = "auto",
        percentile: tuple[float, float] = DEFAULT_PERCENTILE,
        max_pixels: int = MAX_PIXELS,
        visible_range: ValueRange = "auto",
    ) -> None:
        check_range(infrared_range, "infrared_range")
        check_range(visible_range, "visible_range")
        low, high = percentile
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentile must be two rising numbers in 0..100, got {percentile}")
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        # JSON, where a pipeline stores them, knows no tuples.
        self.infrared_range = tuple(infrared_range) if isinstance(infrared_range, list) else infrared_range
        self.visible_range = tuple(visible_range) if isinstance(visible_range, list) else visible_range
        self.percentile = (float(low), float(high))
        self.max_pixels = max_pixels

    def preprocess(
        self,
        visible: ImageInputs,
        infrared: ImageInputs,
        *,
        infrared_range: InfraredRange | None = None,
        visible_range: ValueRange | None = None,
        register: Register | None = None,
    ) -> tuple[Tensor, Tensor, list[PairContext]]:
        """Luminance of pairs of one size.

        Args:
            visible: the image whose colors and kind the result gets, or several.
            infrared: the other image (infrared, MRI), registered and of the same size, or as many.
            infrared_range, visible_range: override the processor's own for this call.
            register: for pairs that are not registered: called with the luminance of both, `(H, W)` and `(h, w)`, it
                returns the [`Registration`]. The infrared is scaled before it is resampled, by its own pixels only.

        Returns:
            visible `(B, 1, H, W)`, infrared `(B, 1, H, W)`, both float32 in [0, 1] on the CPU, and B contexts. Where
            one has no data, it holds the nearest data that it has.

        Raises:
            ValueError: a size, value, file or channel count that cannot be used; the message names the argument.
            TypeError: an object that is not an image.

        Examples:
            >>> processor = FusionImageProcessor()
            >>> pair = np.full((4, 6, 3), 51, np.uint8), np.arange(24, dtype=np.uint8).reshape(4, 6)
            >>> visible, infrared, contexts = processor.preprocess(*pair)
            >>> visible.shape, round(float(visible[0, 0, 0, 0]), 3)
            (torch.Size([1, 1, 4, 6]), 0.2)
            >>> processor.postprocess(infrared, contexts, output_type="np").shape
            (1, 4, 6, 3)
        """
        rules = self._rule("visible", visible_range), self._rule("infrared", infrared_range)
        visible_planes: list[np.ndarray] = []
        infrared_planes: list[np.ndarray] = []
        contexts: list[PairContext] = []
        for index, pair in enumerate(pair_up(visible, infrared)):
            place = f"[{index}]" if _is_batch(visible) else ""
            picture, name = to_picture(pair[0], f"visible{place}", "visible", self.max_pixels)
            place = f"[{index}]" if _is_batch(infrared) else ""
            other, other_name = to_picture(pair[1], f"infrared{place}", "infrared", self.max_pixels)
            if register is None:
                check_equal_sizes(picture, name, other, other_name)
            if contexts and picture.size != contexts[0].size:
                raise ValueError(
                    f"images of one batch must share one size: visible[0] is {_text(contexts[0].size)}, {name} is "
                    f"{_text(picture.size)}: call once for each size"
                )
            seen = to_plane(picture, name, rules[0], self.percentile, "visible")
            warm = to_plane(other, other_name, rules[1], self.percentile, "infrared")
            registration = None
            if register is not None:
                warm, registration = _resample(register, seen, warm)
            context = PairContext(
                size=picture.size,
                rgb=picture.pixels if picture.pixels.ndim == 3 else None,
                alpha=picture.alpha,
                depth=picture.depth,
                metadata=picture.metadata,
                limits=seen.limits,
                white=picture.white or seen.limits[1],
                replacement=_exchange_missing(seen, warm),
                outside=None if registration is None else (registration.share, seen.values),
                notes=(*seen.notes, *warm.notes),
            )
            visible_planes.append(seen.values)
            infrared_planes.append(warm.values)
            contexts.append(context)
        # One large image is not copied.
        batches = (p[0][None, None] if len(p) == 1 else np.stack(p)[:, None] for p in (visible_planes, infrared_planes))
        return *map(torch.from_numpy, batches), contexts  # type: ignore[return-value]

    def postprocess(
        self,
        fused: Tensor,
        contexts: Sequence[PairContext],
        output_type: Literal["pil", "np", "pt"] = "pil",
        rescale: Rescale = "none",
    ) -> list[Image.Image] | list[tuple[Image.Image, Image.Image]] | np.ndarray | Tensor:
        """Pictures from fused luminance: crop, clamp, put chroma and alpha back, give the visible's sample type.

        Args:
            fused: `(B, 1, H, W)`, any float dtype and device, not clamped; may be padded at the bottom and right.
            contexts: from [`preprocess`], one for each image.
            output_type: "pil": a list of images; "np": `(B, H, W, C)` float32 in [0, 1]; "pt": `(B, C, H, W)`, the same
                on the CPU. C is 1 (gray), 2 (gray + alpha), 3 or 4.
            rescale: "minmax" stretches each clamped luminance to 0..1. It makes video flicker and changes metrics.
                "both", with "pil" only, returns for each image a tuple, as with "none" and as with "minmax".

        Raises:
            ValueError: if shapes and contexts do not match, `fused` holds NaN or infinite values, or an option is
                unknown.
        """
        check_output(output_type, rescale)
        if rescale == "both":
            plain, stretched = (self.postprocess(fused, contexts, "pil", one) for one in ("none", "minmax"))
            return list(zip(plain, stretched, strict=True))
        if fused.ndim != 4 or fused.shape[1] != 1 or fused.shape[0] != len(contexts):
            raise ValueError(
                f"fused must be ({len(contexts)}, 1, H, W) for {len(contexts)} contexts, got {tuple(fused.shape)}"
            )
        kinds = {(context.size, context.channels) for context in contexts}
        if output_type != "pil" and len(kinds) > 1:
            raise ValueError(
                f"images of different size or channel count {sorted(kinds)} cannot be one array: use output_type='pil'"
            )
        arrays = []
        for image, context in zip(fused, contexts, strict=True):
            plane = crop_to(image[0].detach(), context.size).to("cpu", torch.float32).numpy()
            dtype = np.dtype(context.depth if output_type == "pil" else np.float32)
            arrays.append(_color(plane, context, rescale == "minmax", dtype))
        if output_type == "pil":
            return [_to_pil(array, context) for array, context in zip(arrays, contexts, strict=True)]
        array = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
        return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()

    def luminance(
        self, image: ImageInput, role: Role, *, value_range: ValueRange | None = None, name: str = ""
    ) -> np.ndarray:
        """Luminance of one picture as [`preprocess`] scales it.

        Args:
            image: as for [`preprocess`].
            role: "visible" or "infrared", which says what "auto" means.
            value_range: overrides the processor's own rule for this role.
            name: how messages call the image.

        Returns:
            `(H, W)` float32 in [0, 1]; pixels without data hold the nearest data.

        Raises:
            ValueError, TypeError: as [`preprocess`].
        """
        rule = self._rule(role, value_range)
        picture, name = to_picture(image, name or role, role, self.max_pixels)
        plane = to_plane(picture, name, rule, self.percentile, role)
        if plane.valid is not None:
            fill_missing(plane.values, plane.valid)
        return plane.values

    def to_rgb(self, image: ImageInput, *, value_range: InfraredRange | None = None) -> np.ndarray:
        """One picture of any kind as 8-bit colors, for display and for networks trained on photographs.

        Args:
            image: a path, PIL image, array or tensor, as for [`preprocess`]; alpha is ignored.
            value_range: what becomes 0 and 255, by the rules of `infrared_range`; the processor's own by default. With
                "auto" 8-bit pictures and floats in [0, 1] stay as they are, wider ones are stretched: raw 16-bit counts
                would be one flat black.

        Returns:
            `(H, W, 3)` uint8, upright; three equal channels for a gray picture.

        Raises:
            ValueError, TypeError: as [`preprocess`].
        """
        rule = self._rule("infrared", value_range, "value_range")
        picture, name = to_picture(image, "image", max_pixels=self.max_pixels)
        plane = to_plane(picture, name, rule, self.percentile, "infrared", "value_range")
        rgb = np.empty((*picture.size, 3), dtype=np.uint8)
        plain = picture.pixels.dtype == np.uint8 and plane.limits == (0.0, 255.0)
        for channel in range(3):
            values = picture.pixels if picture.pixels.ndim == 2 else picture.pixels[..., channel]
            rgb[..., channel] = values if plain else quantize(linear(values, *plane.limits, plane.valid))
        return rgb

    def _rule(self, role: Role, given: ValueRange | None, argument: str = "") -> ValueRange:
        rule = given if given is not None else self.visible_range if role == "visible" else self.infrared_range
        check_range(rule, argument or f"{role}_range")
        return rule


def pair_up(visible: ImageInputs, infrared: ImageInputs) -> list[tuple[Any, Any]]:
    """Pairs of single images, from two images, two lists or two batches `(B, ...)`; a `ValueError` if unequal."""
    lists: list[Sequence[Any]] = []
    for images, name in ((visible, "visible"), (infrared, "infrared")):
        lists.append(list(images) if _is_batch(images) else [images])  # type: ignore[arg-type]
        if not lists[-1]:
            raise ValueError(f"{name} is empty: give at least one image")
    count, others = map(len, lists)
    if count != others:
        advice = "give one infrared image for each visible one, in the same order"
        raise ValueError(f"visible has {count} images and infrared {others}: {advice}")
    return list(zip(*lists, strict=True))


def _is_batch(images: ImageInputs) -> bool:
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4)


def check_output(output_type: str, rescale: str) -> None:
    """Raise a `ValueError` for an unknown option of [`FusionImageProcessor.postprocess`]."""
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f"output_type={output_type!r} is unknown: use one of pil, np, pt")
    if rescale not in ("none", "minmax", "both"):
        raise ValueError(f"rescale={rescale!r} is unknown: use one of none, minmax, both")
    if rescale == "both" and output_type != "pil":
        raise ValueError(f"rescale='both' makes two pictures of each pair: use output_type='pil', not {output_type!r}")


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} (width x height)"


def _resample(register: Register, visible: Plane, infrared: Plane) -> tuple[Plane, Registration]:
    """The infrared on the visible grid; where it lacks data the nearest data, and `valid` says so."""
    seen = visible.values
    if visible.valid is not None:
        fill_missing(seen := seen.copy(), visible.valid)
    if infrared.valid is not None:
        fill_missing(infrared.values, infrared.valid)
    registration = register(seen, infrared.values)
    valid = infrared.valid
    if valid is not None:
        valid = registration.apply_mask(valid) | (registration.share == 0)
    return replace(infrared, values=registration.apply(infrared.values), valid=valid), registration


def _exchange_missing(visible: Plane, infrared: Plane) -> np.ndarray | None:
    """Luminance of the other image where one has no data, NaN elsewhere; the planes get their nearest data there."""
    if visible.valid is None and infrared.valid is None:
        return None
    replacement = np.full(visible.values.shape, np.nan, dtype=np.float32)
    for plane, other in ((infrared, visible), (visible, infrared)):
        if plane.valid is not None:
            np.copyto(replacement, other.values, where=~plane.valid)
    for plane in (visible, infrared):
        if plane.valid is not None:
            fill_missing(plane.values, plane.valid)
    return replacement


def _color(plane: np.ndarray, context: PairContext, stretch: bool, dtype: np.dtype) -> np.ndarray:
    """`(H, W, C)` in `dtype` on its full scale: the clamped luminance with the visible's chroma and alpha."""
    out = np.empty((*plane.shape, context.channels), dtype=dtype)
    low, high = (np.clip((plane.min(), plane.max()), 0, 1)) if stretch else (0.0, 1.0)
    low, span = (low, high - low) if low < high else (0.0, 1.0)  # a constant image stays as it is

    def level(values: np.ndarray) -> np.ndarray:
        return np.clip(values, 0, 1) if dtype == np.float32 else quantize(values, dtype.type)

    for rows in strips(plane.shape):
        if not np.isfinite(plane[rows]).all():
            raise ValueError("fused holds NaN or infinite values: run the model in float32, check its weights")
        y = (np.clip(plane[rows], 0, 1) - low) / np.float32(span)
        if context.replacement is not None:
            other = context.replacement[rows]
            y = np.where(np.isnan(other), y, other)
        if context.outside is not None:
            share, seen = (plane[rows] for plane in context.outside)
            y = share * y + (1 - share) * seen
        if context.rgb is None:
            out[rows, :, 0] = level(y)
        else:
            rgb = _unit_colors(context.rgb[rows], context.limits)
            rgb += (y - luma(rgb))[..., None]
            out[rows, :, :3] = level(rgb)
        if context.alpha is not None:
            out[rows, :, -1] = level(context.alpha[rows] / np.float32(context.white))
    return out


def _unit_colors(rgb: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Colors `(h, W, 3)` as float32, scaled so that the limits are 0 and 1; NaN, which is no data, becomes 0."""
    low, high = limits
    if low == 0 and rgb.dtype.kind == "u":
        return rgb / np.float32(high)
    if not low < high:  # a constant luminance, which becomes 0
        return np.zeros(rgb.shape, dtype=np.float32)
    unit = ((rgb.astype(np.float64) - low) / (high - low)).astype(np.float32)
    return np.nan_to_num(unit, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _to_pil(array: np.ndarray, context: PairContext) -> Image.Image:
    array = array[..., 0] if context.channels == 1 else array
    image = DeepImage(array) if array.ndim == 3 and context.depth != "uint8" else Image.fromarray(array)
    # The fields of Metadata are Pillow's own keys of `image.info`.
    image.info.update({key: value for key, value in vars(context.metadata).items() if value})
    return image
