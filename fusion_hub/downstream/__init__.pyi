from . import inputs, results, results_report, yolo_dataset, zero_shot
from .comparison import Comparison, compare
from .detectors import OnnxDetector, TransformersDetector, load_detector
from .draw import draw_detections, overlay_segmentation
from .inputs import open_inputs
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
    "inputs",
    "load_detector",
    "open_inputs",
    "overlay_segmentation",
    "results",
    "results_report",
    "yolo_dataset",
    "zero_shot",
]
