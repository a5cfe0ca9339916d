"""SegFormer (Xie et al. 2021, arXiv 2105.15203) from the `transformers` library: a class for each pixel.

NVIDIA's weights are licensed for research and evaluation only, derivatives included, and were trained on photographs
only. The bundled weights, `segformer-b0-msrs`, were trained in this project.
"""

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fusion_hub.downstream.protocols import Color, Segmentation, palette_of
from fusion_hub.downstream.weights import PretrainedNetwork
from fusion_hub.image.processor import ImageInput, InfraredRange, pad_to_multiple
from fusion_hub.image.tiling import Window, run_tiled
from fusion_hub.pipelines import checkpoints

STRIDE = 32  # of the coarsest features of SegFormer


class SegformerSegmenter(PretrainedNetwork):
    """A [`Segmenter`] around a `transformers` SegFormer, such as the bundled `"segformer-b0-msrs"`.

    Args:
        model: the network, in evaluation mode.
        processor: its image processor; only its size and normalization are used.
        inference: "resize": the whole image in the size that the processor names (or in its own size, padded, if the
            processor does not resize); "slide": blended overlapping windows in the resolution of the image.
        window: side of a window in pixels, a multiple of 32, at least 64; neighbors share at least a third.

    Attributes:
        names: name of each class, by class id.
        palette: color of each class, by class id; `MSRS_PALETTE` for the classes of MSRS.
    """

    auto_class = "AutoModelForSemanticSegmentation"
    model_type = "segformer"

    def __init__(
        self, model: Any, processor: Any, *, inference: Literal["resize", "slide"] = "resize", window: int = 512
    ) -> None:
        if inference not in ("resize", "slide"):
            raise ValueError(f"inference must be 'resize' or 'slide', got {inference!r}")
        if window < 2 * STRIDE or window % STRIDE:
            raise ValueError(f"window must be a multiple of {STRIDE} and at least {2 * STRIDE}, got {window}")
        super().__init__(model, processor)
        self.inference, self.window = inference, window
        self.palette: Mapping[int, Color] = palette_of(self.names)

    @classmethod
    def _locate(cls, name: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return checkpoints.resolve_segmenter(os.fspath(name)) or name

    @torch.inference_mode()
    def segment(self, image: ImageInput, *, value_range: InfraredRange | None = None) -> Segmentation:
        """The class of each pixel, in the size of the image.

        Args:
            image: any input of a pipeline; gray becomes three equal channels.
            value_range: for images with more than 8 bits, see `FusionImageProcessor.to_rgb`.

        Raises:
            ValueError, TypeError: the image cannot be used.
        """
        pixels = self._images.to_rgb(image, value_range=value_range)
        resize = self.inference == "resize" and self.processor.do_resize
        inputs = self.processor(images=Image.fromarray(pixels), do_resize=resize, return_tensors="pt")
        whole = inputs["pixel_values"].to(self.model.device, self.model.dtype)  # (1, 3, h, w)
        if resize:
            logits = self._logits(whole, (pixels.shape[0], pixels.shape[1]))
        elif self.inference == "slide":
            overlap = self.window // 3
            logits = run_tiled(self._tile, whole, whole, tile=self.window, overlap=overlap, multiple=STRIDE)
        else:
            logits = self._tile(whole, None, None)
        return Segmentation(logits[0].argmax(dim=0).cpu().numpy().astype(np.int64), self.names, self.palette)

    def _tile(self, pixels: Tensor, _: Tensor | None, __: Window | None) -> Tensor:
        """Logits `(1, C, h, w)` of a part of an image, which is padded to a multiple of the stride."""
        padded, (height, width) = pad_to_multiple(pixels, STRIDE)
        return self._logits(padded, (padded.shape[-2], padded.shape[-1]))[..., :height, :width]

    def _logits(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits `(1, C, H, W)` in the given size; those of the network have a quarter of its input."""
        return interpolate(
            self._outputs(pixel_values=pixels).logits.float(), size=size, mode="bilinear", align_corners=False
        )
