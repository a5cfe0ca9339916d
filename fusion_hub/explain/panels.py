"""The panels of any network: one entry point."""

from typing import Any

import torch

from fusion_hub.explain.difffusenet import explain_difffusenet
from fusion_hub.explain.pictures import Panel
from fusion_hub.explain.red import explain_red
from fusion_hub.models.difffusenet import DiffFuseNetOutput
from fusion_hub.models.layers import map_tensors
from fusion_hub.models.red import REDOutput


def explain(output: Any, names: tuple[str, str] = ("visible", "infrared")) -> list[Panel]:
    """Pictures of the intermediate results of a network, in the order of the computation.

    Args:
        output: a [`FusionOutput`] of a call with `return_intermediates=True`, or its `intermediates`: a
            [`DiffFuseNetOutput`] or [`REDOutput`] of one pair.
        names: names in titles and captions of the image that went in as `visible` and of the other.

    Returns:
        Panels, each picture 8-bit RGB of the size of the fused image. The same for the same input.

    Raises:
        TypeError: if `output` is of another kind.
        ValueError: if it holds no intermediates, or those of more than one pair.
    """
    inner = output.intermediates if hasattr(output, "intermediates") else output
    if inner is None:
        raise ValueError("the output holds no intermediates: call the pipeline with return_intermediates=True")
    if not isinstance(inner, DiffFuseNetOutput | REDOutput):
        raise TypeError(
            f"output is of type {type(output).__name__}: pass the output of a pipeline with return_intermediates=True"
        )
    if len(inner.fused) != 1:
        raise ValueError(f"the output is of {len(inner.fused)} pairs: explain one at a time")
    inner = map_tensors(inner, lambda tensor: tensor.detach().to("cpu", torch.float32))
    return explain_difffusenet(inner, names) if isinstance(inner, DiffFuseNetOutput) else explain_red(inner, names)
