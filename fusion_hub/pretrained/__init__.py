"""The weights of the bundled checkpoints, and the public names of their table in `fusion_hub.pipelines.checkpoints`."""

from fusion_hub.pipelines.checkpoints import (
    DETECTORS,
    PRETRAINED,
    ROOT,
    SEGMENTERS,
    Bundled,
    DetectorInfo,
    PretrainedInfo,
    SegmenterInfo,
    list_models,
    resolve,
    resolve_detector,
    resolve_segmenter,
)

__all__ = [
    "DETECTORS",
    "PRETRAINED",
    "ROOT",
    "SEGMENTERS",
    "Bundled",
    "DetectorInfo",
    "PretrainedInfo",
    "SegmenterInfo",
    "list_models",
    "resolve",
    "resolve_detector",
    "resolve_segmenter",
]
