"""Detectors of the `transformers` library: RT-DETRv2, D-FINE, YOLOS, DETR and their relatives."""

import os
from collections.abc import Mapping
from typing import Any, Self

import torch
from PIL import Image

from fusion_hub.downstream.protocols import Detections, check_threshold
from fusion_hub.downstream.transformers_loading import check_finite, class_names, load_network
from fusion_hub.image.processor import FusionImageProcessor, ImageInput, InfraredRange


class TransformersDetector:
    """A [`Detector`] around a `transformers` network for object detection.

    Args:
        model: the network, in evaluation mode.
        processor: its image processor, with `post_process_object_detection`.

    Attributes:
        names: name of each class, by class id.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.names: Mapping[int, str] = class_names(model)
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
    ) -> Self:
        """Load from a folder or from the Hub: `"PekingU/rtdetr_v2_r18vd"`, `"ustc-community/dfine-nano-coco"`.

        Args:
            name_or_path: a folder that `save_pretrained` wrote, or a Hub id. Safetensors only; no code is run from it.
            device: where the network runs.
            revision, token, cache_dir, local_files_only: as in huggingface_hub.

        Raises:
            ImportError: if transformers is not installed.
            OSError: if files are missing, or the repository cannot be reached.
            ValueError: if the weights do not fit, or the network is no detector.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        return cls(*load_network("AutoModelForObjectDetection", name_or_path, device, hub))

    @torch.inference_mode()
    def detect(
        self, image: ImageInput, *, threshold: float = 0.3, value_range: InfraredRange | None = None
    ) -> Detections:
        """Find objects; these networks need no non-maximum suppression.

        Args:
            image: of any kind that a pipeline takes; grey becomes three equal channels.
            threshold: the least score, in [0, 1].
            value_range: of pictures with more than 8 bits, see `FusionImageProcessor.to_rgb`.

        Raises:
            ValueError, TypeError: for an image that cannot be used, a threshold outside [0, 1], a broken network.
        """
        check_threshold(threshold)
        pixels = self._pictures.to_rgb(image, value_range=value_range)
        inputs = self.processor(images=Image.fromarray(pixels), return_tensors="pt").to(self.model.device)
        outputs = self.model(**inputs.to(self.model.dtype))
        check_finite(outputs.logits)
        size = (pixels.shape[0], pixels.shape[1])
        # Their threshold is "more than", and what their own post-processing keeps depends on nothing else.
        found = self.processor.post_process_object_detection(outputs, threshold=-1.0, target_sizes=[size])[0]
        boxes, scores, class_ids = (found[key].float().cpu().numpy() for key in ("boxes", "scores", "labels"))
        return Detections.of(boxes, scores, class_ids, self.names, size).above(threshold)
