"""A pair of pictures as luminance planes, and a picture from a fused plane: arrays only, without PyTorch.

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
from PIL import Image

from fusion_hub.image.inputs import ImageInput, to_picture
from fusion_hub.image.io import DeepImage
from fusion_hub.image.luminance import (
    DEFAULT_PERCENTILE,
    Plane,
    ValueRange,
    fill_missing,
    luma,
    quantize,
    strips,
    to_plane,
)
from fusion_hub.image.picture import Depth, Metadata, check_equal_sizes
from fusion_hub.image.sources import MAX_PIXELS

ImageInputs: TypeAlias = ImageInput | Sequence[ImageInput]
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


def read_pair(
    visible: ImageInput,
    infrared: ImageInput,
    *,
    infrared_range: ValueRange = "auto",
    visible_range: ValueRange = "auto",
    percentile: tuple[float, float] = DEFAULT_PERCENTILE,
    max_pixels: int = MAX_PIXELS,
    register: Register | None = None,
    names: tuple[str, str] = ("visible", "infrared"),
) -> tuple[np.ndarray, np.ndarray, PairContext]:
    """Luminance of one pair, as [`FusionImageProcessor.preprocess`] describes it.

    Returns:
        visible `(H, W)`, infrared `(H, W)`, both float32 in [0, 1], and the context. `names` are those in messages.

    Examples:
        >>> pair = np.full((4, 6, 3), 51, np.uint8), np.arange(24, dtype=np.uint8).reshape(4, 6)
        >>> visible, infrared, context = read_pair(*pair)
        >>> visible.shape, round(float(visible[0, 0]), 3), restore_picture(infrared, context).mode
        ((4, 6), 0.2, 'RGB')
    """
    picture, name = to_picture(visible, names[0], "visible", max_pixels)
    other, other_name = to_picture(infrared, names[1], "infrared", max_pixels)
    if register is None:
        check_equal_sizes(picture, name, other, other_name)
    seen = to_plane(picture, name, visible_range, percentile, "visible")
    warm = to_plane(other, other_name, infrared_range, percentile, "infrared")
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
    return seen.values, warm.values, context


def restore_picture(fused: np.ndarray, context: PairContext, rescale: Rescale = "none") -> Any:
    """The PIL image from one fused plane `(H, W)`, not clamped; for `rescale="both"` a tuple, plain and stretched."""
    if rescale == "both":
        return restore_picture(fused, context, "none"), restore_picture(fused, context, "minmax")
    array = restore_array(fused, context, rescale == "minmax", np.dtype(context.depth))
    array = array[..., 0] if context.channels == 1 else array
    image = DeepImage(array) if array.ndim == 3 and context.depth != "uint8" else Image.fromarray(array)
    # The fields of Metadata are Pillow's own keys of `image.info`.
    image.info.update({key: value for key, value in vars(context.metadata).items() if value})
    return image


def restore_array(plane: np.ndarray, context: PairContext, stretch: bool, dtype: np.dtype) -> np.ndarray:
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


def pair_up(visible: ImageInputs, infrared: ImageInputs) -> list[tuple[Any, Any]]:
    """Pairs of single images, from two images, two lists or two batches `(B, ...)`; a `ValueError` if unequal."""
    lists: list[Sequence[Any]] = []
    for images, name in ((visible, "visible"), (infrared, "infrared")):
        lists.append(list(images) if is_batch(images) else [images])  # type: ignore[arg-type]
        if not lists[-1]:
            raise ValueError(f"{name} is empty: give at least one image")
    count, others = map(len, lists)
    if count != others:
        advice = "give one infrared image for each visible one, in the same order"
        raise ValueError(f"visible has {count} images and infrared {others}: {advice}")
    return list(zip(*lists, strict=True))


def is_batch(images: ImageInputs) -> bool:
    """Whether these are several images, not one."""
    return isinstance(images, list | tuple) or (getattr(images, "ndim", 0) == 4)


def check_output(output_type: str, rescale: str) -> None:
    """Raise a `ValueError` for an unknown option of [`FusionImageProcessor.postprocess`]."""
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f"output_type={output_type!r} is unknown: use one of pil, np, pt")
    if rescale not in ("none", "minmax", "both"):
        raise ValueError(f"rescale={rescale!r} is unknown: use one of none, minmax, both")
    if rescale == "both" and output_type != "pil":
        raise ValueError(f"rescale='both' makes two pictures of each pair: use output_type='pil', not {output_type!r}")


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


def _unit_colors(rgb: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Colors `(h, W, 3)` as float32, scaled so that the limits are 0 and 1; NaN, which is no data, becomes 0."""
    low, high = limits
    if low == 0 and rgb.dtype.kind == "u":
        return rgb / np.float32(high)
    if not low < high:  # a constant luminance, which becomes 0
        return np.zeros(rgb.shape, dtype=np.float32)
    unit = ((rgb.astype(np.float64) - low) / (high - low)).astype(np.float32)
    return np.nan_to_num(unit, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
