"""Pipelines: images in, images out."""

from .difffusenet import DiffFuseNetPipeline
from .fusion_pipeline import FusionOutput, FusionPipeline
from .red import REDPipeline

__all__ = ["DiffFuseNetPipeline", "FusionOutput", "FusionPipeline", "REDPipeline"]
