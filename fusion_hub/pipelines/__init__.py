"""Pipelines: images in, images out."""

from .difffusenet import DiffFuseNetPipeline
from .fusion_pipeline import FusionOutput, FusionPipeline

__all__ = ["DiffFuseNetPipeline", "FusionOutput", "FusionPipeline"]
