"""The networks that the speed benchmarks time, their FLOPs, and the convolution that is the unit of time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fusion_hub import DiffFuseNetModel, DiffFuseNetPipeline, FusionPipeline
from fusion_hub.models import DIFFFUSENET_VARIANTS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIZE = {"height": 480, "width": 640}  # of the pair that is timed


def build_pipeline(name: str) -> Any:
    """A pipeline from a size of DiffFuseNet, a bundled name or a pipeline folder, on the CPU, in eval mode."""
    pipeline: FusionPipeline
    if name in DIFFFUSENET_VARIANTS:
        torch.manual_seed(0)
        model = DiffFuseNetModel(**DIFFFUSENET_VARIANTS[name]).eval()
        pipeline = DiffFuseNetPipeline(model, model.build_scheduler())
    else:
        pipeline = FusionPipeline.from_pretrained(name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_model(name: str, device: str, dtype: torch.dtype) -> Any:
    """The network of `build_pipeline` in channels_last."""
    return build_pipeline(name).to(device, dtype).model.to(memory_format=torch.channels_last)


def inference_form(model: Any) -> Any | None:
    """The folded network that the pipelines run without noise; None where there is none."""
    return model.fuse_for_inference() if hasattr(model, "fuse_for_inference") else None


def luminance_pair(height: int, width: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Visible and infrared, `(1, 1, H, W)` in [0, 1]."""
    visible, infrared = torch.rand(2, 1, 1, height, width).to(device, dtype)
    return visible, infrared


def plain_convolution(height: int, width: int, device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """The unit: 64 to 64 channels, 3x3, on an image of this size, in channels_last."""
    layer = nn.Conv2d(64, 64, 3, padding=1, device=device, dtype=dtype)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    features = torch.rand(1, 64, height, width).to(device, dtype, memory_format=torch.channels_last)
    return lambda: layer(features)


def count_flops(model: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of one call, 2 for each multiply-add, in convolutions and matrix products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops()
