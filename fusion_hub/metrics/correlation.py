"""How the fused image co-varies with its sources: CC and SCD, and the standard deviation SD.

Every function takes `(B, 1, H, W)` tensors with grey values 0..255 (any real dtype, any device), computes in double
precision and returns a `(B,)` double tensor.
"""

from torch import Tensor

from fusion_hub.metrics._common import IMAGE

__all__ = [
    "correlation",
    "correlation_of_difference",
    "correlation_of_differences",
    "correlation_source",
    "standard_deviation",
]


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over all pixels, `(B,)`. A constant image correlates with nothing: 0, not 0/0."""
    x = x - x.mean(IMAGE, keepdim=True)
    y = y - y.mean(IMAGE, keepdim=True)
    scale = (x.square().sum(IMAGE) * y.square().sum(IMAGE)).sqrt()
    return (x * y).sum(IMAGE) / scale.where(scale > 0, 1.0)


def standard_deviation(fused: Tensor) -> Tensor:
    """SD: population standard deviation of the grey values, 0..127.5 (Rao, 1997).

    Not the 8-bit quantity of the SeAFusion suite, `legacy.standard_deviation_uint8`, which saturates at 16.
    """
    fused = fused.double()
    return (fused - fused.mean(IMAGE, keepdim=True)).square().mean(IMAGE).sqrt()


def correlation_source(fused: Tensor, source: Tensor) -> Tensor:
    """CC with one source: Pearson correlation r(source, fused), -1..1; 0 for a constant image."""
    return _pearson(source.double(), fused.double())


def correlation(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """CC: mean of the two Pearson correlations r(infrared, fused) and r(visible, fused), -1..1."""
    return (correlation_source(fused, infrared) + correlation_source(fused, visible)) / 2


def correlation_of_difference(fused: Tensor, source: Tensor, other: Tensor) -> Tensor:
    """SCD for one source: r(fused - other, source), -1..1 (Aslantas and Bendes, 2015)."""
    return _pearson(fused.double() - other.double(), source.double())


def correlation_of_differences(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SCD: r(fused - visible, infrared) + r(fused - infrared, visible), -2..2 (Aslantas and Bendes, 2015).

    What one source does not explain should look like the other. The differences are signed. A difference without any
    contrast (the fused image is one of the sources) counts as correlation 0.
    """
    of_infrared = correlation_of_difference(fused, source=infrared, other=visible)
    return of_infrared + correlation_of_difference(fused, source=visible, other=infrared)
