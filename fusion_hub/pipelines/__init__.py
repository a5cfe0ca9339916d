"""Pipelines: images in, images out."""

from fusion_hub.pipelines.difffusenet import DiffFuseNetPipeline
from fusion_hub.pipelines.fusion_pipeline import FusionOutput, FusionPipeline
from fusion_hub.pipelines.red import REDPipeline

__all__ = ["DiffFuseNetPipeline", "FusionOutput", "FusionPipeline", "REDPipeline"]
