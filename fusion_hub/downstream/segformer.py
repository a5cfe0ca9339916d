"""SegFormer (Xie et al. 2021, arXiv 2105.15203) from the `transformers` library: a class for each pixel.

NVIDIA's own weights are for research and evaluation only, derivatives included, and know photographs only. The bundled
ones, `segformer-b0-msrs`, were trained here.
"""

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fusion_hub import pretrained
from fusion_hub.downstream.classes import Colour, palette_of
from fusion_hub.downstream.protocols import Segmentation
from fusion_hub.downstream.transformers_loading import check_finite, class_names, load_network
from fusion_hub.image.processor import FusionImageProcessor, ImageInput, InfraredRange, pad_to_multiple
from fusion_hub.image.tiling import Window, run_tiled

STRIDE = 32  # the coarsest features of SegFormer


class SegformerSegmenter:
    """A [`Segmenter`] around a `transformers` SegFormer.

    Args:
        model: the network, in evaluation mode.
        processor: its image processor; only its size and its normalisation are used.
        inference: "resize": the whole picture in the size that the processor names (or its own, padded, where the
            processor does not resize); "slide": overlapping windows in the picture's own resolution, blended.
        window: side of a window in pixels, a multiple of 32, at least 64; neighbours share a third or more.

    Attributes:
        names: name of each class, by class id.
        palette: colour of each class, by class id; `MSRS_PALETTE` for the classes of MSRS.
    """

    def __init__(
        self, model: Any, processor: Any, *, inference: Literal["resize", "slide"] = "resize", window: int = 512
    ) -> None:
        if inference not in ("resize", "slide"):
            raise ValueError(f"inference must be 'resize' or 'slide', got {inference!r}")
        if window < 2 * STRIDE or window % STRIDE:
            raise ValueError(f"window must be a multiple of {STRIDE} and at least {2 * STRIDE}, got {window}")
        self.model = model
        self.processor = processor
        self.inference = inference
        self.window = window
        self.names: Mapping[int, str] = class_names(model)
        self.palette: Mapping[int, Colour] = palette_of(self.names)
        self._pictures = FusionImageProcessor()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> Self:
        """Load by bundled name, `"segformer-b0-msrs"`, from a folder, or from the Hub, `"owner/name"`, in float32.

        Args:
            name_or_path: a bundled name, a folder that `save_pretrained` wrote, or a Hub id. Safetensors only; no code
                is run from it.
            device: where the network runs.
            revision, token, cache_dir, local_files_only: as in huggingface_hub.
            settings: `inference` and `window` of the class.

        Raises:
            ImportError: if transformers is not installed.
            OSError: if files are missing, or the repository cannot be reached.
            ValueError: if the weights do not fit, the network is no SegFormer, or a setting is impossible.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        place = pretrained.resolve_segmenter(os.fspath(name_or_path)) or name_or_path
        return cls(*load_network("AutoModelForSemanticSegmentation", place, device, hub, "segformer"), **settings)

    @torch.inference_mode()
    def segment(self, image: ImageInput, *, value_range: InfraredRange | None = None) -> Segmentation:
        """The class of each pixel, in the size of the picture.

        Args:
            image: of any kind that a pipeline takes; grey becomes three equal channels.
            value_range: of pictures with more than 8 bits, see `FusionImageProcessor.to_rgb`.

        Raises:
            ValueError, TypeError: for an image that cannot be used.
        """
        pixels = self._pictures.to_rgb(image, value_range=value_range)
        size = (pixels.shape[0], pixels.shape[1])
        if self.inference == "slide":
            whole = self._normalised(pixels, resize=False)
            share = self.window // 3
            logits = run_tiled(self._tile, whole, whole, tile=self.window, overlap=share, multiple=STRIDE)
        elif self.processor.do_resize:
            logits = self._logits(self._normalised(pixels, resize=True), size)
        else:
            logits = self._tile(self._normalised(pixels, resize=False), None, None)
        return Segmentation(logits[0].argmax(dim=0).cpu().numpy().astype(np.int64), self.names, self.palette)

    def _normalised(self, pixels: np.ndarray, resize: bool) -> Tensor:
        picture = Image.fromarray(pixels)
        inputs = self.processor(images=picture, do_resize=resize, return_tensors="pt")
        return inputs["pixel_values"].to(self.model.device, self.model.dtype)

    def _tile(self, pixels: Tensor, _: Tensor | None, __: Window | None) -> Tensor:
        """Logits `(1, C, h, w)` of a part of a picture, padded by reflection to what the network can halve."""
        padded, (height, width) = pad_to_multiple(pixels, STRIDE)
        logits = self._logits(padded, (padded.shape[-2], padded.shape[-1]))
        return logits[..., :height, :width]

    def _logits(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits `(1, C, H, W)` in the given size; the network's own are a quarter of its input."""
        logits = self.model(pixel_values=pixels).logits
        check_finite(logits)
        return interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
