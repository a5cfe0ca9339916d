"""How much edge there is, and how much of it comes from the sources: SF, AG, EI, Qabf, Nabf, Labf.

Every function takes `(B, 1, H, W)` tensors of gray values 0..255 (any real dtype, any device), computes in double
precision and returns a `(B,)` double tensor. Qabf and Nabf compare gradients for exact equality, so they are well
defined for integer values only: round to 8 bit first.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.metrics._common import IMAGE, inner_product, require_side


def sobel(image: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical Sobel responses with weights 1 2 1, each like `image`. Exact for integer values.

    `padding` is a mode of `torch.nn.functional.pad`: constant (zeros), replicate or reflect.

    >>> horizontal, vertical = sobel(torch.tensor([[[[0.0, 1.0, 2.0]]]]), "replicate")
    >>> horizontal, vertical
    (tensor([[[[4., 8., 4.]]]]), tensor([[[[0., 0., 0.]]]]))
    """
    x = F.pad(image, (1, 1, 1, 1), mode=padding)
    rows = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    columns = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    return rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]


def spatial_frequency(fused: Tensor) -> Tensor:
    """SF: root of the mean squared horizontal plus mean squared vertical differences (Eskicioglu and Fisher, 1995).

    Each mean runs over the differences that exist; a side of one pixel has none and adds nothing.

    >>> spatial_frequency(torch.arange(0, 40, 4).repeat(1, 1, 10, 1))
    tensor([4.], dtype=torch.float64)
    """
    fused = fused.double()
    total = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    for dim in (2, 3):
        if fused.shape[dim] > 1:
            difference = fused.diff(dim=dim)
            total = total + inner_product(difference, difference) / difference[0].numel()
    return total.sqrt()


def average_gradient(fused: Tensor) -> Tensor:
    """AG: mean over all pixels of sqrt((Gx^2 + Gy^2) / 2), central differences, one-sided at the border (Cui, 2015).

    The MATLAB suites divide by (H - 1)(W - 1) instead of H W: `legacy.average_gradient_inner`.

    >>> average_gradient(torch.arange(0, 40, 4).repeat(1, 1, 10, 1))
    tensor([2.8284], dtype=torch.float64)
    """
    fused = fused.double()
    squares = torch.zeros_like(fused)
    for x, total in ((fused, squares), (fused.mT, squares.mT)):
        if x.shape[-1] > 1:
            twice, first, last = x[..., 2:] - x[..., :-2], x[..., 1] - x[..., 0], x[..., -1] - x[..., -2]
            total[..., 1:-1].addcmul_(twice, twice, value=1 / 4)
            total[..., 0] += first.square()
            total[..., -1] += last.square()
    return squares.div_(2).sqrt_().mean(IMAGE)


def edge_intensity(fused: Tensor) -> Tensor:
    """EI: mean of sqrt(Sx^2 + Sy^2), Sobel with integer weights, border replicated (Rajalingam and Priya, 2018).

    >>> edge_intensity(torch.arange(0, 40, 4).repeat(1, 1, 10, 1))
    tensor([28.8000], dtype=torch.float64)
    """
    return torch.hypot(*sobel(fused.double(), "replicate")).mean(IMAGE)


def _strength_and_angle(image: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel strength, and angle arctan(sy / sx) with pi/2 where sx is 0. The border is padded with zeros.

    sy points up here, as in the common programs: the sign matters, since only one of +-pi/2 is used.
    """
    exact = image.short() if image.dtype == torch.uint8 else image.double()
    sx, sy = (response.double() for response in sobel(exact, "constant"))
    steep = torch.finfo(torch.float64).max  # the arctan of which is pi/2; y / 0 is infinite, 0 / 0 is nan
    angle = (-sy / sx).nan_to_num_(nan=steep, posinf=steep, neginf=steep).atan_()
    return (sx.square_() + sy.square_()).sqrt_(), angle


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Smaller over larger of two strengths, 0 where the larger is 0."""
    larger = torch.maximum(a, b)
    return torch.minimum(a, b) / larger.where(larger > 0, 1.0)


def _kept_and_total(edges: tuple[Tensor, Tensor], source: Tensor) -> tuple[Tensor, Tensor]:
    """sum(Q^XF g_X) and sum(g_X) of Xydeas and Petrovic (2000), `(B,)` each; `edges` are those of the fused image."""
    (g_x, angle_x), (g_f, angle_f) = _strength_and_angle(source), edges
    # Equal strengths give the strength itself, not 1, in every common program. On 0..255 data that is at least 1.
    strength = torch.where(g_x == g_f, g_f, torch.minimum(g_x, g_f) / torch.maximum(g_x, g_f))
    orientation = 1 - (angle_x - angle_f).abs_() / (math.pi / 2)  # not wrapped: -1..1
    q_strength = torch.sigmoid(15 * (strength - 0.5)).mul_(0.9994)
    q_orientation = torch.sigmoid(22 * (orientation - 0.8)).mul_(0.9879)
    return inner_product(q_strength * q_orientation, g_x.expand_as(q_strength)), g_x.sum(IMAGE)


def edge_preservation(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Qabf: share of the sources' edge strength that the fused image keeps, 0..1 (Xydeas and Petrovic, 2000).

    sum(Q^AF g_A + Q^BF g_B) / sum(g_A + g_B). Two black sources give nan (0/0); the frame of zeros around any other
    source is an edge.

    >>> image = torch.arange(0, 250, 10).view(1, 1, 5, 5)
    >>> edge_preservation(image, image, 0 * image).round(decimals=4)
    tensor([0.9753], dtype=torch.float64)
    """
    edges = _strength_and_angle(fused)
    kept, total = zip(*(_kept_and_total(edges, source) for source in (infrared, visible)), strict=True)
    return (kept[0] + kept[1]) / (total[0] + total[1])


def edge_preservation_source(fused: Tensor, source: Tensor) -> Tensor:
    """Qabf for one source alone: sum(Q^XF g_X) / sum(g_X), 0..1. A black source gives nan.

    >>> image = torch.arange(0, 250, 10).view(1, 1, 5, 5)
    >>> edge_preservation_source(image, image.mT).round(decimals=4)
    tensor([0.1898], dtype=torch.float64)
    """
    kept, total = _kept_and_total(_strength_and_angle(fused), source)
    return kept / total


class PetrovicLosses(NamedTuple):
    """Maps `(B, 1, H, W)` of Petrovic and Xydeas (2005); Q is the edge preservation of a source at a pixel."""

    weighted: Tensor  # (1 - Q^AF) w_A + (1 - Q^BF) w_B
    unweighted: Tensor  # (1 - Q^AF) + (1 - Q^BF)
    weights: Tensor  # w_A + w_B
    artifact: Tensor  # bool: the fused edge is stronger than both sources'


def petrovic_losses(fused: Tensor, visible: Tensor, infrared: Tensor) -> PetrovicLosses:
    """Loss of the fused image at each pixel (Petrovic and Xydeas, 2005); both sides at least 2 pixels.

    Constants, border and angle differ from those of Qabf: see the definitions in the documentation of the metrics.
    """

    def edges(image: Tensor) -> tuple[Tensor, Tensor]:
        gv, gh = (s / 8 for s in sobel(image.double(), "reflect"))
        angle = torch.where(gv == 0, 0.0, torch.atan(gv / gh))  # gv / 0 is infinite: pi/2 with its sign
        return (gv.square() + gh.square()).sqrt(), angle

    g_f, angle_f = edges(fused)
    weighted, unweighted, weights = (torch.zeros_like(g_f) for _ in range(3))
    artifact = torch.ones_like(g_f, dtype=torch.bool)
    for image in (infrared, visible):
        g_x, angle_x = edges(image)
        orientation = ((angle_x - angle_f).abs() - math.pi / 2).abs() * (2 / math.pi)
        q_strength = 0.9999 * torch.sigmoid(19 * (_ratio(g_x, g_f) - 0.5))
        q_orientation = 0.9995 * torch.sigmoid(22 * (orientation - 0.5))
        weight = torch.where(g_x >= 2, g_x.pow(1.5), 0.001)
        loss = 1 - (q_strength * q_orientation).sqrt()
        weighted = weighted + loss * weight
        unweighted = unweighted + loss
        weights = weights + weight
        artifact = artifact & (g_f > g_x)  # an edge stronger than in either source was made by the fusion
    return PetrovicLosses(weighted, unweighted, weights, artifact)


def fusion_artifacts(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Nabf: weighted loss where the fused edge is stronger than both sources', 0..1 (Shreyamsha Kumar, 2013).

    Smaller is better. Both sides must have at least 2 pixels (mirrored border).

    >>> image = torch.arange(0, 250, 10).view(1, 1, 5, 5)
    >>> fusion_artifacts(image, image, image)
    tensor([0.], dtype=torch.float64)
    """
    require_side("Nabf", fused, 2)
    losses = petrovic_losses(fused, visible, infrared)
    return (losses.weighted * losses.artifact).sum(IMAGE) / losses.weights.sum(IMAGE)


def fusion_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Labf: weighted loss at the other pixels, 0..1 (Petrovic and Xydeas, 2005). Smaller is better.

    Qabf of the same authors, Labf and Nabf add up to 1. Both sides must have at least 2 pixels (mirrored border).

    >>> image = torch.arange(0, 250, 10).view(1, 1, 5, 5)
    >>> fusion_loss(0 * image, image, image).round(decimals=4)
    tensor([0.9916], dtype=torch.float64)
    """
    require_side("Labf", fused, 2)
    losses = petrovic_losses(fused, visible, infrared)
    return (losses.weighted * ~losses.artifact).sum(IMAGE) / losses.weights.sum(IMAGE)
