"""What a fusion network does between its two images and the fused one, as pictures with a sentence each.

    from fusion_hub import DiffFuseNetPipeline
    from fusion_hub.explain import explain

    pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
    for panel in explain(pipe("street.png", "street_ir.png", return_intermediates=True)):
        panel.image.save(f"{panel.title}.png")
        print(panel.stage, panel.title, panel.caption, sep=": ")

Numbers in the sentences are those of the pair, not of the model in general.
"""

from typing import Any

import torch

from fusion_hub.explain.difffusenet import explain_difffusenet
from fusion_hub.explain.panel import Panel
from fusion_hub.explain.red import explain_red
from fusion_hub.models.difffusenet import DiffFuseNetOutput
from fusion_hub.models.outputs import map_tensors
from fusion_hub.models.red import REDOutput

__all__ = ["Panel", "explain"]


def explain(output: Any, names: tuple[str, str] = ("visible", "infrared")) -> list[Panel]:
    """Pictures of what a network computed on its way, in the order in which it did.

    Args:
        output: a [`FusionOutput`] of a call with `return_intermediates=True`, or its `intermediates`: a
            [`DiffFuseNetOutput`] or [`REDOutput`] of one pair.
        names: what the titles and sentences call the image that went in as `visible` and the other.

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
            f"output is of type {type(output).__name__}: give what a pipeline returns with return_intermediates=True"
        )
    if len(inner.fused) != 1:
        raise ValueError(f"the output is of {len(inner.fused)} pairs: explain one at a time")
    inner = map_tensors(inner, lambda tensor: tensor.detach().to("cpu", torch.float32))
    return explain_difffusenet(inner, names) if isinstance(inner, DiffFuseNetOutput) else explain_red(inner, names)
