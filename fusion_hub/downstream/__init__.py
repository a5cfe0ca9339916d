"""What fusion buys: objects found and scenes segmented in the visible, the infrared and the fused picture.

    from fusion_hub.downstream import OnnxDetector, compare, draw_detections

    detector = OnnxDetector.from_pretrained("yolox_nano.onnx")
    fused, visible, infrared = (detector.detect(picture, threshold=0.1) for picture in pictures)
    comparison = compare(fused, visible, infrared, threshold=0.3)
    print(comparison.sentence)
    draw_detections(pictures[0], fused.above(0.3), emphasise=comparison.only_fused).save("found.png")

Detectors: YOLO files in ONNX, and `transformers` detectors. Segmentation: SegFormer. The weights are the user's: a path
or a Hub id. `pip install "fusion-hub[downstream]"` brings both engines; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_hub.downstream.classes import COCO_CLASSES, MSRS_CLASSES, MSRS_PALETTE
    from fusion_hub.downstream.comparing import Comparison, compare
    from fusion_hub.downstream.drawing import draw_detections, overlay_segmentation
    from fusion_hub.downstream.loading import load_detector
    from fusion_hub.downstream.onnx_detector import OnnxDetector
    from fusion_hub.downstream.protocols import Detection, Detections, Detector, Segmentation, Segmenter
    from fusion_hub.downstream.segformer import SegformerSegmenter
    from fusion_hub.downstream.transformers_detector import TransformersDetector

_HOME = {
    "COCO_CLASSES": "classes",
    "Comparison": "comparing",
    "Detection": "protocols",
    "Detections": "protocols",
    "Detector": "protocols",
    "MSRS_CLASSES": "classes",
    "MSRS_PALETTE": "classes",
    "OnnxDetector": "onnx_detector",
    "SegformerSegmenter": "segformer",
    "Segmentation": "protocols",
    "Segmenter": "protocols",
    "TransformersDetector": "transformers_detector",
    "compare": "comparing",
    "draw_detections": "drawing",
    "load_detector": "loading",
    "overlay_segmentation": "drawing",
}

__all__ = [
    "COCO_CLASSES",
    "MSRS_CLASSES",
    "MSRS_PALETTE",
    "Comparison",
    "Detection",
    "Detections",
    "Detector",
    "OnnxDetector",
    "SegformerSegmenter",
    "Segmentation",
    "Segmenter",
    "TransformersDetector",
    "compare",
    "draw_detections",
    "load_detector",
    "overlay_segmentation",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
