"""The weights of the bundled checkpoints, and the public names of their table in `fusion_hub.pipelines.checkpoints`."""

from fusion_hub.pipelines.checkpoints import (
    PRETRAINED,
    ROOT,
    SEGMENTERS,
    Bundled,
    PretrainedInfo,
    SegmenterInfo,
    list_models,
    resolve,
    resolve_segmenter,
)

__all__ = [
    "PRETRAINED",
    "ROOT",
    "SEGMENTERS",
    "Bundled",
    "PretrainedInfo",
    "SegmenterInfo",
    "list_models",
    "resolve",
    "resolve_segmenter",
]
