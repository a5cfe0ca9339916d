from . import inputs, results, results_report, yolo_dataset, zero_shot
from .comparison import Comparison, compare
from .detectors import OnnxDetector, TransformersDetector, load_detector
from .draw import draw_detections, overlay_segmentation
from .inputs import open_inputs
from .options import DetectorConfig, SegFormerConfig
from .protocols import (
    COCO_CLASSES,
    MSRS_CLASSES,
    MSRS_PALETTE,
    Detection,
    Detections,
    Detector,
    Segmentation,
    Segmenter,
)
from .segmenter import SegformerSegmenter
from .train_detector import DetectorTask
from .train_segformer import SegFormerTask

__all__ = [
    "COCO_CLASSES",
    "MSRS_CLASSES",
    "MSRS_PALETTE",
    "Comparison",
    "Detection",
    "Detections",
    "Detector",
    "DetectorConfig",
    "DetectorTask",
    "OnnxDetector",
    "SegFormerConfig",
    "SegFormerTask",
    "SegformerSegmenter",
    "Segmentation",
    "Segmenter",
    "TransformersDetector",
    "compare",
    "draw_detections",
    "inputs",
    "load_detector",
    "open_inputs",
    "overlay_segmentation",
    "results",
    "results_report",
    "yolo_dataset",
    "zero_shot",
]
