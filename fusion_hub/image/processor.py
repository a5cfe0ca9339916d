"""Luminance tensors for the models from pairs of pictures, and pictures from fused luminance.

The arithmetic is in `pair`; here arrays become tensors.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import Image
from torch import Tensor

from fusion_hub.image.inputs import ImageInput, to_picture
from fusion_hub.image.io import save_image
from fusion_hub.image.luminance import (
    DEFAULT_PERCENTILE,
    Role,
    ValueRange,
    check_range,
    fill_missing,
    linear,
    quantize,
    to_plane,
)
from fusion_hub.image.pair import (
    ImageInputs,
    PairContext,
    Register,
    Rescale,
    check_output,
    is_batch,
    pair_up,
    read_pair,
    restore_array,
    restore_picture,
)
from fusion_hub.image.picture import InputWarning
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

InfraredRange: TypeAlias = ValueRange


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
        planes: list[tuple[np.ndarray, np.ndarray]] = []
        contexts: list[PairContext] = []
        for index, pair in enumerate(pair_up(visible, infrared)):
            several = is_batch(visible), is_batch(infrared)
            first, second = (
                f"{name}[{index}]" if one else name for name, one in zip(("visible", "infrared"), several, strict=True)
            )
            *two, context = self.read_pair(
                *pair,
                infrared_range=infrared_range,
                visible_range=visible_range,
                register=register,
                names=(first, second),
            )
            if contexts and context.size != contexts[0].size:
                raise ValueError(
                    f"images of one batch must share one size: visible[0] is {_text(contexts[0].size)}, {first} is "
                    f"{_text(context.size)}: call once for each size"
                )
            planes.append((two[0], two[1]))
            contexts.append(context)
        # One large image is not copied.
        batches = (p[0][None, None] if len(p) == 1 else np.stack(p)[:, None] for p in zip(*planes, strict=True))
        return *map(torch.from_numpy, batches), contexts  # type: ignore[return-value]

    def read_pair(
        self,
        visible: ImageInput,
        infrared: ImageInput,
        *,
        infrared_range: InfraredRange | None = None,
        visible_range: ValueRange | None = None,
        register: Register | None = None,
        names: tuple[str, str] = ("visible", "infrared"),
    ) -> tuple[np.ndarray, np.ndarray, PairContext]:
        """[`preprocess`] of one pair, as arrays `(H, W)`; messages call the images `names`."""
        return read_pair(
            visible,
            infrared,
            infrared_range=self._rule("infrared", infrared_range),
            visible_range=self._rule("visible", visible_range),
            percentile=self.percentile,
            max_pixels=self.max_pixels,
            register=register,
            names=names,
        )

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
        if fused.ndim != 4 or fused.shape[1] != 1 or fused.shape[0] != len(contexts):
            raise ValueError(
                f"fused must be ({len(contexts)}, 1, H, W) for {len(contexts)} contexts, got {tuple(fused.shape)}"
            )
        kinds = {(context.size, context.channels) for context in contexts}
        if output_type != "pil" and len(kinds) > 1:
            raise ValueError(
                f"images of different size or channel count {sorted(kinds)} cannot be one array: use output_type='pil'"
            )
        planes = [
            crop_to(image[0].detach(), context.size).to("cpu", torch.float32).numpy()
            for image, context in zip(fused, contexts, strict=True)
        ]
        if output_type == "pil":
            return [restore_picture(plane, context, rescale) for plane, context in zip(planes, contexts, strict=True)]
        arrays = [
            restore_array(plane, context, rescale == "minmax", np.dtype(np.float32))
            for plane, context in zip(planes, contexts, strict=True)
        ]
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


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} (width x height)"
