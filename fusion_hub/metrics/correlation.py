"""How the fused image co-varies with its sources: CC and SCD, and the standard deviation SD.

Every function takes `(B, 1, H, W)` tensors with grey values 0..255 (any real dtype, any device), computes in double
precision and returns a `(B,)` double tensor.
"""

from torch import Tensor

from fusion_hub.metrics._common import IMAGE

__all__ = ["correlation", "correlation_of_differences", "standard_deviation"]


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over all pixels, `(B,)`. A constant image correlates with nothing: 0, not 0/0."""
    x = x - x.mean(IMAGE, keepdim=True)
    y = y - y.mean(IMAGE, keepdim=True)
    scale = (x.square().sum(IMAGE) * y.square().sum(IMAGE)).sqrt()
    return (x * y).sum(IMAGE) / scale.where(scale > 0, 1.0)


def standard_deviation(fused: Tensor) -> Tensor:
    """SD: population standard deviation of the grey values, 0..127.5 (Rao, 1997).

    Not the `uint8` quantity of the SeAFusion suite, which saturates at 16.
    """
    fused = fused.double()
    return (fused - fused.mean(IMAGE, keepdim=True)).square().mean(IMAGE).sqrt()


def correlation(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """CC: mean of the two Pearson correlations r(infrared, fused) and r(visible, fused), -1..1."""
    fused = fused.double()
    return (_pearson(infrared.double(), fused) + _pearson(visible.double(), fused)) / 2


def correlation_of_differences(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SCD: r(fused - visible, infrared) + r(fused - infrared, visible), -2..2 (Aslantas and Bendes, 2015).

    What one source does not explain should look like the other. The differences are signed. A difference without any
    contrast (the fused image is one of the sources) counts as correlation 0.
    """
    fused, visible, infrared = fused.double(), visible.double(), infrared.double()
    return _pearson(fused - visible, infrared) + _pearson(fused - infrared, visible)
