"""Quantities that other evaluation suites compute under the names of our metrics, to compare with their tables only.

The MATLAB suite of SeAFusion and PIAFusion (Tang et al., 2022) feeds some functions 8-bit integers, whose arithmetic
rounds and saturates, and others data on 0..1. CDDFuse's program, Z. Liu's toolbox and Petrovic's measures have forms
of their own. None of this is recommended: the other modules hold the conventions for new work. Forms that differ from
ours by a factor or an offset are lines of `registry`.

Every function takes `(B, 1, H, W)` tensors of gray values 0..255 (integers, any real dtype, any device), computes in
double precision and returns a `(B,)` double tensor.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.metrics._common import IMAGE, require_side
from fusion_hub.metrics.fidelity import filter_valid, gaussian, local_moments, mean_squared_error, ssim_maps
from fusion_hub.metrics.gradient import average_gradient, petrovic_losses, sobel
from fusion_hub.metrics.information import LEVELS, entropies, gray_levels

MEF_WINDOW = 11
MEF_WEIGHTS = (0.0448, 0.2856, 0.3001)
MEF_MS_SSIM_MIN_SIDE = MEF_WINDOW * 2 ** (len(MEF_WEIGHTS) - 1)  # the third scale still has one window


def standard_deviation_uint8(fused: Tensor) -> Tensor:
    """SD_uint8: root mean square of the excess over the mean, in 8-bit arithmetic, 0..16 (SeAFusion suite).

    Differences below 0 become 0 and squares saturate at 255, so it is not a standard deviation.

    >>> standard_deviation_uint8(torch.tensor([[[[0, 8]]]]))
    tensor([2.8284], dtype=torch.float64)
    """
    fused = fused.double()
    excess = (fused - fused.mean(IMAGE, keepdim=True) + 0.5).floor().clamp(min=0)  # halves up
    return excess.square().clamp(max=255).mean(IMAGE).sqrt()


def average_gradient_inner(fused: Tensor) -> Tensor:
    """AG_inner: sum of the gradients over all pixels, divided by (H - 1)(W - 1) (MATLAB suites).

    Both sides must have at least 2 pixels.

    >>> average_gradient_inner(torch.arange(0, 40, 4).repeat(1, 1, 10, 1))
    tensor([3.4919], dtype=torch.float64)
    """
    require_side("AG_inner", fused, 2)
    height, width = fused.shape[-2:]
    return average_gradient(fused) * (height * width / ((height - 1) * (width - 1)))


def mutual_information_merged(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """MI_merged: MI in bits with levels 254 and 255 in one bin of the joint histogram only (MATLAB suites).

    The joint entropy is too small where pixels are saturated, which raises the result.

    >>> image = torch.tensor([[[[254, 255]]]])
    >>> mutual_information_merged(image, image, image)
    tensor([4.], dtype=torch.float64)
    """
    total = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    for source in (infrared, visible):
        h_source, h_fused, _ = entropies(fused, source)
        merged = (gray_levels(image).clamp(max=LEVELS - 2).view(image.shape) for image in (fused, source))
        total = total + h_source + h_fused - entropies(*merged)[2]
    return total / math.log(2)


def peak_signal_to_noise_max(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """PSNR_max: peak = maximum of the fused image (CDDFuse's program); -inf for a black one, inf for equal images.

    >>> image = torch.full((1, 1, 2, 2), 100)
    >>> peak_signal_to_noise_max(image, image + 1, image - 1)
    tensor([40.], dtype=torch.float64)
    """
    error = mean_squared_error(fused, torch.stack([visible, infrared])).mean(0)
    peak = fused.double().amax(IMAGE)
    return torch.where(error > 0, 20 * peak.log10() - 10 * error.log10(), math.inf)


def ssim_matlab(fused: Tensor, source: Tensor) -> Tensor:
    """SSIM_matlab with one source: 11x11 Gaussian, border replicated, L = 1 on 0..255 data (later Tang suite).

    >>> image = torch.arange(9).view(1, 1, 3, 3)
    >>> ssim_matlab(image, image)
    tensor([1.], dtype=torch.float64)
    """
    f, x = (F.pad(image.double(), (5, 5, 5, 5), mode="replicate") for image in (fused, source))
    return ssim_maps(f, x, gaussian(11, 1.5), 1)[0].mean(IMAGE)


def edge_preservation_liu(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Qg: mean over the pixels of the weighted edge preservation, 0..1 (Z. Liu's toolbox, after Xydeas and Petrovic).

    Constants differ from Qabf, angles are wrapped, and every pixel has the same weight however weak its edges are.

    >>> image = torch.arange(0, 250, 10).view(1, 1, 5, 5)
    >>> edge_preservation_liu(image, image, image).round(decimals=4)
    tensor([0.9867], dtype=torch.float64)
    """
    tiny = 1e-5  # stands for a strength or a horizontal response of 0

    def edges(image: Tensor) -> tuple[Tensor, Tensor]:
        sx, sy = sobel(image.double(), "constant")
        return (sx.square() + sy.square()).sqrt(), torch.atan(sy / sx.where(sx != 0, tiny))

    g_f, angle_f = edges(fused)
    floored_f = g_f.where(g_f > 0, tiny)
    kept, weight = torch.zeros_like(g_f), torch.zeros_like(g_f)
    # That program raises strengths of 0 in the fused image only after it has used them with the first source.
    for image, weaker in ((infrared, g_f), (visible, floored_f)):
        g_x, angle_x = edges(image)
        floored_x = g_x.where(g_x > 0, tiny)
        strength = torch.where(g_x > weaker, weaker / floored_x, floored_x / floored_f)
        orientation = ((angle_x - angle_f).abs() - math.pi / 2).abs() * (2 / math.pi)
        kept = kept + torch.sigmoid(10 * (strength - 0.5)) * torch.sigmoid(20 * (orientation - 0.75)) * floored_x
        weight = weight + floored_x
    return (kept / weight).mean(IMAGE)


def edge_preservation_petrovic(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Qabf_P: Petrovic and Xydeas (2005), exactly 1 - Labf - Nabf, 0..1. Both sides must have at least 2 pixels.

    >>> image = torch.arange(0, 250, 10).view(1, 1, 5, 5)
    >>> edge_preservation_petrovic(image, image, image).round(decimals=4)
    tensor([0.9997], dtype=torch.float64)
    """
    require_side("Qabf_P", fused, 2)
    losses = petrovic_losses(fused, visible, infrared)
    return 1 - losses.weighted.sum(IMAGE) / losses.weights.sum(IMAGE)


def fusion_artifacts_petrovic(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Nabf_P: artifacts of Petrovic and Xydeas (2005), 0..2; smaller is better. Both sides at least 2 pixels.

    sum (2 - Q^AF - Q^BF)(w_A + w_B) / sum (w_A + w_B): with Labf and Qabf_P it does not add up to 1, which Nabf does.

    >>> image = torch.arange(0, 250, 10).view(1, 1, 5, 5)
    >>> fusion_artifacts_petrovic(image, image, image)
    tensor([0.], dtype=torch.float64)
    """
    require_side("Nabf_P", fused, 2)
    losses = petrovic_losses(fused, visible, infrared)
    return (losses.unweighted * losses.weights * losses.artifact).sum(IMAGE) / losses.weights.sum(IMAGE)


def _mef_target(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Factors `(p, q)` for each window such that the target structure is p (a - mean a) + q (b - mean b).

    Unit structures of both sources, weighted by strength^p with p from their consistency, at the larger strength
    (Ma, Zeng and Wang, 2015, eqs. 6 to 10).
    """
    samples = MEF_WINDOW**2
    moments = local_moments(a, b, lambda image: filter_valid(image, [1 / MEF_WINDOW] * MEF_WINDOW))
    var_a, var_b = moments.var_x.clamp(min=0) * samples, moments.var_y.clamp(min=0) * samples
    between = moments.covariance * samples
    eps = torch.finfo(torch.float64).eps
    together = (var_a + var_b + 2 * between).clamp(min=0).sqrt()
    consistency = ((together + eps) / (var_a.sqrt() + var_b.sqrt() + eps)).clamp(max=1 - eps)
    power = torch.tan(math.pi / 2 * consistency).clamp(max=10)

    strength_a, strength_b = var_a.sqrt() + 0.001, var_b.sqrt() + 0.001
    weight_a, weight_b = ((s / MEF_WINDOW) ** power + eps for s in (strength_a, strength_b))
    p, q = weight_a / (weight_a + weight_b) / strength_a, weight_b / (weight_a + weight_b) / strength_b
    norm = (p.square() * var_a + q.square() * var_b + 2 * p * q * between).clamp(min=0).sqrt()
    scale = torch.maximum(strength_a, strength_b) / norm.where(norm > 0, 1.0)
    return p * scale, q * scale


def mef_ssim(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """MEF_SSIM: structure of the fused image against the stronger structure of the sources (Ma, Zeng and Wang, 2015).

    One scale, 11x11 windows. The SeAFusion suite calls it SSIM. Both sides must have at least 11 pixels.

    >>> image = torch.arange(144).view(1, 1, 12, 12)
    >>> mef_ssim(image, image, image).round(decimals=4)
    tensor([1.], dtype=torch.float64)
    """
    require_side("MEF_SSIM", fused, MEF_WINDOW)
    a, b, f = infrared.double(), visible.double(), fused.double()
    p, q = _mef_target(a, b)
    window, constant = gaussian(MEF_WINDOW, 1.5), (0.03 * 255) ** 2
    of_a, of_b, of_both = (
        local_moments(x, y, lambda image: filter_valid(image, window)) for x, y in ((a, f), (b, f), (a, b))
    )
    with_fused = p * of_a.covariance + q * of_b.covariance
    of_target = p.square() * of_a.var_x + q.square() * of_b.var_x
    of_target = of_target + 2 * p * q * of_both.covariance
    return ((2 * with_fused + constant) / (of_target + of_a.var_y + constant)).mean(IMAGE)


def mef_ms_ssim(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """MEF_MS_SSIM: product of `mef_ssim` over three scales with their weights (Ma, Zeng and Wang, 2015), 0..1.

    MATLAB suites call it MS_SSIM. Both sides must have at least 44 pixels. Negative terms count as 0.

    >>> image = torch.arange(44).repeat(1, 1, 44, 1)
    >>> mef_ms_ssim(image, image, image).round(decimals=4)
    tensor([1.], dtype=torch.float64)
    """
    require_side("MEF_MS_SSIM", fused, MEF_MS_SSIM_MIN_SIDE)
    images = [image.double() for image in (fused, visible, infrared)]
    result = torch.ones(len(fused), dtype=torch.float64, device=fused.device)
    for scale, weight in enumerate(MEF_WEIGHTS):
        if scale > 0:
            odd = (0, images[0].shape[-1] % 2, 0, images[0].shape[-2] % 2)
            images = [F.avg_pool2d(F.pad(image, odd, mode="replicate"), 2) for image in images]
        result = result * mef_ssim(*images).clamp(min=0) ** (weight / sum(MEF_WEIGHTS))
    return result
