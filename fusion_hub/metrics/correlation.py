"""How the fused image varies with its sources: CC and SCD, and the standard deviation SD.

Every function takes `(B, 1, H, W)` tensors of gray values 0..255 (any real dtype, any device), computes in double
precision and returns a `(B,)` double tensor.
"""

import torch
from torch import Tensor

from fusion_hub.metrics._common import IMAGE, inner_product


def pearson(x: Tensor, y: Tensor, dim: tuple[int, ...] = IMAGE, eps: float = 0.0) -> Tensor:
    """Pearson correlation over `dim`, -1..1, in the dtype of its arguments. A constant image has correlation 0.

    `eps` is added to the product of both sums of squares; with `eps` > 0 the gradient of a constant image is finite.

    >>> x = torch.arange(6.0).view(1, 1, 2, 3)
    >>> pearson(x, 7 - 2 * x)
    tensor([-1.])
    """
    x = x - x.mean(dim, keepdim=True)
    y = y - y.mean(dim, keepdim=True)
    scale = (inner_product(x, x, dim) * inner_product(y, y, dim) + eps).sqrt()
    return inner_product(x, y, dim) / torch.where(scale > 0, scale, 1.0)


def standard_deviation(fused: Tensor) -> Tensor:
    """SD: population standard deviation sqrt(mean((F - mean F)^2)), 0..127.5 (Rao, 1997).

    Not the 8-bit quantity of the SeAFusion suite, `legacy.standard_deviation_uint8`, which saturates at 16.

    >>> standard_deviation(torch.tensor([[[[0, 255]]]]))
    tensor([127.5000], dtype=torch.float64)
    """
    fused = fused.double()
    deviation = fused - fused.mean(IMAGE, keepdim=True)
    return (inner_product(deviation, deviation) / deviation[0].numel()).sqrt()


def correlation(fused: Tensor, source: Tensor) -> Tensor:
    """CC with one source: Pearson correlation r(source, fused), -1..1; 0 for a constant image.

    >>> image = torch.arange(6).view(1, 1, 2, 3)
    >>> correlation(255 - image, image)
    tensor([-1.], dtype=torch.float64)
    """
    return pearson(source.double(), fused.double())


def correlation_of_difference(fused: Tensor, source: Tensor, other: Tensor) -> Tensor:
    """SCD for one source: r(fused - other, source), -1..1 (Aslantas and Bendes, 2015). SCD is the sum for both sources.

    The part of the fused image that one source does not explain should look like the other. Differences are signed. A
    difference without contrast (the fused image is one of the sources) has correlation 0.

    >>> visible, infrared = torch.arange(6).view(1, 1, 2, 3), torch.tensor([[[[9, 0, 9], [0, 9, 0]]]])
    >>> correlation_of_difference(visible + infrared, visible, infrared)
    tensor([1.], dtype=torch.float64)
    """
    return pearson(fused.double() - other.double(), source.double())
