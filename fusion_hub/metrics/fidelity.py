"""How faithful the fused image is to its sources: MSE, PSNR, SSIM, MS-SSIM, VIF, VIFF, Qcv, Qcb.

Every function takes `(B, 1, H, W)` tensors of gray values 0..255 (any real dtype, any device), computes in double
precision and returns a `(B,)` double tensor. Functions of `(fused, source)` compare with one source, or with several
stacked as `(S, B, 1, H, W)`, which gives `(S, B)`; tables print the sum over both sources, and the mean of MSE.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.metrics._common import IMAGE, inner_product, require_side
from fusion_hub.metrics.gradient import sobel

VIF_MIN_SIDE = 41  # the fourth scale still has one 3x3 window
MS_SSIM_MIN_SIDE = 161  # the fifth scale still has one 11x11 window
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def gaussian(size: int, sigma: float) -> list[float]:
    """Samples of a centered Gaussian with sum 1."""
    samples = [math.exp(-((k - (size - 1) / 2) ** 2) / (2 * sigma**2)) for k in range(size)]
    total = sum(samples)
    return [s / total for s in samples]


def filter_valid(x: Tensor, window: Sequence[float], step: int = 1) -> Tensor:
    """Filter rows and columns of `(..., H, W)` with a symmetric window; every `step`-th value of the valid part.

    A sum of shifted views in double, rounded to the dtype of `x` after each direction: much faster on a CPU than a
    convolution in double precision.
    """
    height, width = (side - len(window) + 1 for side in x.shape[-2:])

    def weighted_sum(views: Iterator[Tensor]) -> Tensor:
        total = next(views) * window[0]
        for weight, view in zip(window[1:], views, strict=True):
            total.add_(view, alpha=weight)
        return total

    dtype, x = x.dtype, x.double()
    x = weighted_sum(x[..., k : k + height : step, :] for k in range(len(window))).to(dtype).double()
    return weighted_sum(x[..., k : k + width] for k in range(len(window)))[..., ::step].to(dtype)


class Moments(NamedTuple):
    """Local means, variances and covariance of two images, maps of the size that the filter leaves."""

    mean_x: Tensor
    mean_y: Tensor
    var_x: Tensor
    var_y: Tensor
    covariance: Tensor


def local_moments(x: Tensor, y: Tensor, blur: Callable[[Tensor], Tensor]) -> Moments:
    """Moments of two images `(..., H, W)`, whose shapes may broadcast, under the windows of a linear filter `blur`."""
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x.square()).sub_(mean_x.square()), blur(y.square()).sub_(mean_y.square())
    return Moments(mean_x, mean_y, var_x, var_y, blur(x * y).sub_(mean_x * mean_y))


def similarity(moments: Moments, c1: float, c2: float) -> tuple[Tensor, Tensor]:
    """Local SSIM, and its contrast-structure part alone (Wang et al., 2004, eqs. 12, 13)."""
    mean_x, mean_y, var_x, var_y, covariance = moments
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1) * structure, structure


def mean_squared_error(fused: Tensor, source: Tensor) -> Tensor:
    """MSE with one source: mean squared difference, on 0..255. Smaller is better.

    >>> mean_squared_error(torch.tensor([[[[0, 4]]]]), torch.tensor([[[[0, 0]]]]))
    tensor([8.], dtype=torch.float64)
    """
    difference = fused.double() - source.double()
    return inner_product(difference, difference) / math.prod(difference.shape[-3:])


def peak_signal_to_noise(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """PSNR: 10 log10(255^2 / MSE) in dB, with the mean MSE of both sources; inf where the three images are equal.

    CDDFuse's evaluator uses the maximum of the fused image as peak: `legacy.peak_signal_to_noise_max`.

    >>> image = torch.full((1, 1, 2, 2), 100)
    >>> peak_signal_to_noise(image, image + 1, image - 1).round(decimals=2)
    tensor([48.1300], dtype=torch.float64)
    """
    return 10 * torch.log10(255**2 / mean_squared_error(fused, torch.stack([visible, infrared])).mean(0))


def ssim_maps(fused: Tensor, source: Tensor, window: Sequence[float], value_range: float) -> tuple[Tensor, Tensor]:
    """`similarity` over the valid windows with the usual constants for `value_range`."""
    moments = local_moments(source, fused, lambda image: filter_valid(image, window))
    return similarity(moments, (0.01 * value_range) ** 2, (0.03 * value_range) ** 2)


def ssim(fused: Tensor, source: Tensor) -> Tensor:
    """SSIM with one source as published by Wang et al. (2004), -1..1: 11x11 Gaussian window of sigma 1.5, L = 255.

    >>> image = torch.arange(144).view(1, 1, 12, 12)
    >>> ssim(image, image), ssim(143 - image, image).round(decimals=4)
    (tensor([1.], dtype=torch.float64), tensor([-0.8232], dtype=torch.float64))
    """
    require_side("SSIM", fused, 11)
    return ssim_maps(fused.double(), source.double(), gaussian(11, 1.5), 255)[0].mean(IMAGE)


def ssim_cddfuse(fused: Tensor, source: Tensor) -> Tensor:
    """SSIM with one source in the convention of CDDFuse's tables, -1..1: 7x7 mean filter, sample covariance, L = 2.

    That evaluator takes the range as -1..1 although its data are 0..255. Needed to compare with its tables. Its maps
    are single precision, which such a small L makes visible in flat areas (2e-5), so they are here too.

    >>> image = torch.arange(144).view(1, 1, 12, 12)
    >>> ssim_cddfuse(image, image), ssim_cddfuse(143 - image, image).round(decimals=4)
    (tensor([1.], dtype=torch.float64), tensor([-0.8551], dtype=torch.float64))
    """
    require_side("SSIM_cddfuse", fused, 7)
    moments = local_moments(source.float(), fused.float(), lambda image: filter_valid(image, [1 / 7] * 7))
    sampled = Moments(*moments[:2], *(moment * (49 / 48) for moment in moments[2:]))
    return similarity(sampled, (0.01 * 2) ** 2, (0.03 * 2) ** 2)[0].mean(IMAGE, dtype=torch.float64)


def ms_ssim(fused: Tensor, source: Tensor) -> Tensor:
    """MS_SSIM with one source, five scales, 0..1 (Wang, Simoncelli and Bovik, 2003); both sides at least 161 pixels.

    Down-sampling and border as in piq: odd sides are padded by replication, then averaged over 2x2. Negative terms
    count as 0, since their fractional power is not real.

    >>> image = torch.arange(161).repeat(1, 1, 161, 1)
    >>> ms_ssim(image, image), ms_ssim(160 - image, image)
    (tensor([1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    require_side("MS_SSIM", fused, MS_SSIM_MIN_SIDE)
    x, f = source.double(), fused.double()
    window = gaussian(11, 1.5)
    result = torch.ones((), dtype=torch.float64, device=f.device)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale > 0:
            odd = max(f.shape[-2] % 2, f.shape[-1] % 2)
            x, f = (_halved(y, odd) for y in (x, f))
        whole, structure = ssim_maps(f, x, window, 255)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        result = result * (whole if last else structure).mean(IMAGE).clamp(min=0) ** weight
    return result


def _halved(image: Tensor, odd: int) -> Tensor:
    """Means of 2x2 pixels of `(..., H, W)`, with `odd` rows and columns repeated at the top and the left."""
    batch = F.pad(image.flatten(0, -4), (odd, 0, odd, 0), mode="replicate")
    return F.avg_pool2d(batch, 2).unflatten(0, image.shape[:-3])


def _vif_model(fused: Tensor, source: Tensor, ceiling: float | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gain g, residual variance e and source variance at each of four scales (Sheikh and Bovik, 2006, pixel domain).

    Products of gray values saturate at `ceiling` at the first scale (8-bit arithmetic of an old suite); None: never.
    """
    source, fused = source.double(), fused.double()
    tiny = 1e-10
    for scale in range(1, 5):
        size = 2 ** (5 - scale) + 1
        window, top = gaussian(size, size / 5), ceiling if scale == 1 else None
        if scale > 1:
            source, fused = (filter_valid(x, window, step=2) for x in (source, fused))

        def blur(image: Tensor, window: Sequence[float] = window, top: float | None = top) -> Tensor:
            return filter_valid(image if top is None else image.clamp(max=top), window)

        _, _, var_x, var_f, covariance = local_moments(source, fused, blur)
        var_x, var_f = (F.threshold(variance, tiny, 0) for variance in (var_x, var_f))
        divisor = var_x + tiny
        gain = (covariance / divisor).clamp_(min=0)  # an inverted window keeps nothing, nor does a flat one
        gain = gain.masked_fill_((var_x == 0) | (var_f == 0), 0)
        yield gain, (var_f - gain.square() * divisor).clamp_(min=tiny), var_x


def vif(fused: Tensor, source: Tensor, ceiling: float | None = None) -> Tensor:
    """VIFp with one source, 0..about 1 (Sheikh and Bovik, 2006). Both sides at least 41 pixels.

    sum log(1 + g^2 vX / (e + 2)) / sum log(1 + vX / 2) over four scales together. A source without contrast gives nan.
    `ceiling` is for the 8-bit form of an old suite. CDDFuse's program calls the sum over both sources VIFF.

    >>> image = torch.arange(48).repeat(1, 1, 48, 1)
    >>> vif(image, image).round(decimals=4), vif(128 + 0 * image, image)
    (tensor([1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    require_side("VIF", fused, VIF_MIN_SIDE)
    kept = total = torch.zeros((), dtype=torch.float64, device=fused.device)
    for gain, residual, variance in _vif_model(fused, source, ceiling):
        kept = kept + torch.log1p(gain.square() * variance / (residual + 2)).sum(IMAGE)
        total = total + torch.log1p(variance / 2).sum(IMAGE)
    return kept / total


def viff(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """VIFF: the sources compete at each pixel, 0..about 1 (Han, Cai, Cao and Xu, 2013). Both sides at least 41 pixels.

    Noise variance 0.005 * 255^2; ties go to the visible image; scale weights 1, 0, 0.15, 1.

    >>> image = torch.arange(48).repeat(1, 1, 48, 1)
    >>> viff(image, image, image).round(decimals=4)
    tensor([1.], dtype=torch.float64)
    """
    require_side("VIFF", fused, VIF_MIN_SIDE)
    noise = 0.005 * 255**2
    result = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    scales = zip((1.0, 0.0, 0.15, 1.0), _vif_model(fused, torch.stack([infrared, visible])), strict=True)
    for weight, maps in scales:
        take_infrared = maps[0][0] < maps[0][1]
        gain, residual, variance = (torch.where(take_infrared, of_both[0], of_both[1]) for of_both in maps)
        kept = torch.log10(1 + gain.square() * variance / (residual + noise)) + 1e-7
        total = torch.log10(1 + variance / noise) + 1e-7
        result = result + weight * kept.sum(IMAGE) / total.sum(IMAGE)
    return result / 2.15


def _stretch(image: Tensor) -> Tensor:
    """Each image stretched to 0..255 and rounded, halves up; a constant image stays as it is."""
    image = image.double()
    low, high = image.amin(IMAGE, keepdim=True), image.amax(IMAGE, keepdim=True)
    flat = high == low
    return (torch.where(flat, image, (image - low) / (high - low).where(~flat, 1.0) * 255) + 0.5).floor()


def _radius(image: Tensor, pixels_per_degree: float) -> Tensor:
    """Radial frequency of each coefficient of the two-dimensional FFT, `(H, W)`, in cycles per degree."""
    v, u = (
        2 * torch.fft.fftfreq(side, dtype=torch.float64, device=image.device) * side / pixels_per_degree
        for side in image.shape[-2:]
    )
    return torch.hypot(v.unsqueeze(1), u)


def chen_varshney(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Qcv: visible error in 16x16 blocks, weighted by the edges of the source (Chen and Varshney, 2007).

    Smaller is better, not bounded. Two black sources give nan (0/0).

    >>> image = torch.arange(16).repeat(1, 1, 16, 1)
    >>> chen_varshney(image, image, image)
    tensor([0.], dtype=torch.float64)
    """
    fused = _stretch(fused)
    frequency = 0.144 * _radius(fused, 8)
    sensitivity = 2.6 * (0.0192 + frequency) * torch.exp(-(frequency**1.1))
    fill = (0, -fused.shape[-1] % 16, 0, -fused.shape[-2] % 16)  # zeros to full blocks at the right and the bottom
    error = weight = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    for image in (infrared, visible):
        source = _stretch(image)
        seen = torch.fft.ifft2(torch.fft.fft2(source - fused) * sensitivity).real
        sx, sy = sobel(source, "constant")
        edges = F.avg_pool2d(F.pad((sx.square() + sy.square()) ** 2.5, fill), 16)
        error = error + (F.avg_pool2d(F.pad(seen.square(), fill), 16) * edges).sum(IMAGE)
        weight = weight + edges.sum(IMAGE)
    return error / weight


def _perceived_contrast(image: Tensor) -> Tensor:
    """Masked local contrast of Chen and Blum: C^3 / (C^2 + 0.0001), C = |narrow / wide Gaussian - 1|."""
    image = _stretch(image)
    radius = _radius(image, 30)
    sensitivity = torch.exp(-((radius / 15.387) ** 2)) - 0.7622 * torch.exp(-((radius / 1.3456) ** 2))
    seen = F.pad(torch.fft.ifft2(torch.fft.fft2(image) * sensitivity).real, (15, 15, 15, 15))

    def blurred(sigma: float) -> Tensor:
        window = [math.exp(-(k**2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma) for k in range(-15, 16)]
        return filter_valid(seen, window)

    wide = blurred(4)
    contrast = (blurred(2) / wide.where(wide != 0, 1.0) - 1).abs().where(wide != 0, 0.0)
    return contrast**3 / (contrast.square() + 0.0001)


def chen_blum(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Qcb: similarity of the perceived local contrast, weighted by that of the sources, 0..1 (Chen and Blum, 2009).

    >>> image = torch.arange(16).repeat(1, 1, 16, 1)
    >>> chen_blum(image, image, image)
    tensor([1.], dtype=torch.float64)
    """
    p_fused = _perceived_contrast(fused)
    kept, weight = torch.zeros_like(p_fused), torch.zeros_like(p_fused)
    for image in (infrared, visible):
        p = _perceived_contrast(image)
        larger = torch.maximum(p, p_fused)
        ratio = torch.where(larger > 0, torch.minimum(p, p_fused) / larger.where(larger > 0, 1.0), 1.0)
        kept = kept + ratio * p.square()
        weight = weight + p.square()
    return torch.where(weight > 0, kept / weight.where(weight > 0, 1.0), 1.0).mean(IMAGE)
