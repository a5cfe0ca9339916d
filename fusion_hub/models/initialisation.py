"""First values of weights."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def zero_module(layer: Layer) -> Layer:
    """Set all parameters of `layer` to zero, in place, and return it: what follows starts without its influence."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
