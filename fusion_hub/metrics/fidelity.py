"""How faithful the fused image is to its sources: MSE, PSNR, SSIM, VIF, VIFF, Qcv, Qcb.

Every function takes `(B, 1, H, W)` tensors with grey values 0..255 (any real dtype, any device), computes in double
precision and returns a `(B,)` double tensor. Functions whose name ends in `_source` compare the fused image with one
source; the usual fusion value is the sum over both.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.metrics._common import IMAGE, require_side
from fusion_hub.metrics.gradient import sobel

__all__ = [
    "chen_blum",
    "chen_varshney",
    "filter_valid",
    "gaussian",
    "mean_squared_error",
    "mean_squared_error_source",
    "ms_ssim",
    "ms_ssim_source",
    "peak_signal_to_noise",
    "ssim",
    "ssim_cddfuse",
    "ssim_cddfuse_source",
    "ssim_maps",
    "ssim_source",
    "vif",
    "vif_source",
    "viff",
]

VIF_MIN_SIDE = 41  # the fourth scale still has one 3x3 window
MS_SSIM_MIN_SIDE = 161  # the fifth scale still has one 11x11 window
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def gaussian(size: int, sigma: float) -> list[float]:
    """Samples of a Gaussian, centred, with sum 1."""
    samples = [math.exp(-((k - (size - 1) / 2) ** 2) / (2 * sigma**2)) for k in range(size)]
    total = sum(samples)
    return [s / total for s in samples]


def filter_valid(x: Tensor, window: Sequence[float]) -> Tensor:
    """Filter rows and columns of `(..., H, W)` with a symmetric window, valid part only; same dtype as `x`.

    A sum of shifted views, in double: much faster on a CPU than a convolution in double precision.
    """
    for dim in (-2, -1):
        length = x.shape[dim] - len(window) + 1
        total = x.narrow(dim, 0, length).double() * window[0]
        for k, weight in enumerate(window[1:], start=1):
            total.add_(x.narrow(dim, k, length), alpha=weight)
        x = total.to(x.dtype)
    return x


# --- squared error ---------------------------------------------------------------------------------------------------


def mean_squared_error_source(fused: Tensor, source: Tensor) -> Tensor:
    """MSE with one source: mean squared difference, on 0..255. Smaller is better."""
    return (fused.double() - source.double()).square().mean(IMAGE)


def mean_squared_error(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """MSE: mean of `mean_squared_error_source` over both sources, on 0..255. Smaller is better."""
    return (mean_squared_error_source(fused, infrared) + mean_squared_error_source(fused, visible)) / 2


def peak_signal_to_noise(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """PSNR: 10 log10(255^2 / MSE) in dB, with the MSE over both sources; inf where the three images are equal.

    CDDFuse's evaluator uses the maximum of the fused image as peak: `legacy.peak_signal_to_noise_max`.
    """
    return 10 * torch.log10(255**2 / mean_squared_error(fused, visible, infrared))


# --- structural similarity -------------------------------------------------------------------------------------------


def ssim_maps(
    source: Tensor, fused: Tensor, window: Sequence[float], value_range: float, covariance_factor: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Local SSIM, and its contrast-structure part alone, over the valid windows (Wang et al., 2004, eqs. 12, 13)."""
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    mean_x, mean_f = filter_valid(source, window), filter_valid(fused, window)
    var_x = (filter_valid(source.square(), window) - mean_x.square()) * covariance_factor
    var_f = (filter_valid(fused.square(), window) - mean_f.square()) * covariance_factor
    covariance = (filter_valid(source * fused, window) - mean_x * mean_f) * covariance_factor
    structure = (2 * covariance + c2) / (var_x + var_f + c2)
    return (2 * mean_x * mean_f + c1) / (mean_x.square() + mean_f.square() + c1) * structure, structure


def ssim_source(fused: Tensor, source: Tensor) -> Tensor:
    """SSIM with one source as published by Wang et al. (2004), -1..1: 11x11 Gaussian window of sigma 1.5, L = 255."""
    require_side("SSIM", fused, 11)
    return ssim_maps(source.double(), fused.double(), gaussian(11, 1.5), 255)[0].mean(IMAGE)


def ssim(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SSIM: sum of `ssim_source` over both sources, -2..2 (convention gauss11_L255)."""
    return ssim_source(fused, visible) + ssim_source(fused, infrared)


def ssim_cddfuse_source(fused: Tensor, source: Tensor) -> Tensor:
    """SSIM with one source in the convention of CDDFuse's tables, -1..1: 7x7 mean filter, sample covariance, L = 2.

    That evaluator takes the range as -1..1 although its data are 0..255. Needed to compare with its tables. Its maps
    are single precision, which such a small L makes visible in flat areas (2e-5), so they are here too.
    """
    require_side("SSIM_cddfuse", fused, 7)
    whole, _ = ssim_maps(source.float(), fused.float(), [1 / 7] * 7, 2, covariance_factor=49 / 48)
    return whole.double().mean(IMAGE)


def ssim_cddfuse(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """SSIM_cddfuse: sum of `ssim_cddfuse_source` over both sources, -2..2 (convention uniform7_L2)."""
    return ssim_cddfuse_source(fused, visible) + ssim_cddfuse_source(fused, infrared)


def ms_ssim_source(fused: Tensor, source: Tensor) -> Tensor:
    """MS-SSIM with one source, five scales, 0..1 (Wang, Simoncelli and Bovik, 2003); both sides at least 161 pixels.

    Down-sampling and border as in piq: odd sides are padded by replication, then averaged over 2x2. Negative terms
    count as 0, since their fractional power is not real.
    """
    require_side("MS_SSIM", fused, MS_SSIM_MIN_SIDE)
    x, f = source.double(), fused.double()
    window = gaussian(11, 1.5)
    result = torch.ones(len(f), dtype=torch.float64, device=f.device)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale > 0:
            odd = max(f.shape[-2] % 2, f.shape[-1] % 2)
            x, f = (F.avg_pool2d(F.pad(y, (odd, 0, odd, 0), mode="replicate"), 2) for y in (x, f))
        whole, structure = ssim_maps(x, f, window, 255)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        result = result * (whole if last else structure).mean(IMAGE).clamp(min=0) ** weight
    return result


def ms_ssim(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """MS_SSIM: sum of `ms_ssim_source` over both sources, 0..2."""
    return ms_ssim_source(fused, visible) + ms_ssim_source(fused, infrared)


# --- visual information fidelity -------------------------------------------------------------------------------------


def _vif_model(source: Tensor, fused: Tensor, ceiling: float | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gain g, residual variance e and source variance at each of four scales (Sheikh and Bovik, 2006, pixel domain).

    Products of grey values saturate at `ceiling` at the first scale (8-bit arithmetic of an old suite); None: never.
    """
    source, fused = source.double(), fused.double()
    tiny = 1e-10
    for scale in range(1, 5):
        size = 2 ** (5 - scale) + 1
        window = gaussian(size, size / 5)
        if scale > 1:
            source, fused = (filter_valid(x, window)[..., ::2, ::2] for x in (source, fused))
        mean_x, mean_f = filter_valid(source, window), filter_valid(fused, window)
        products = [source.square(), fused.square(), source * fused]
        if scale == 1 and ceiling is not None:
            products = [product.clamp(max=ceiling) for product in products]
        square_x, square_f, both = (filter_valid(product, window) for product in products)
        var_x = (square_x - mean_x.square()).clamp(min=0)
        var_f = (square_f - mean_f.square()).clamp(min=0)
        gain = (both - mean_x * mean_f) / (var_x + tiny)
        residual = var_f - gain.square() * (var_x + tiny)

        flat = var_x < tiny
        gain, residual, var_x = (
            gain.masked_fill(flat, 0),
            torch.where(flat, var_f, residual),
            var_x.masked_fill(flat, 0),
        )
        flat = var_f < tiny
        gain, residual = gain.masked_fill(flat, 0), residual.masked_fill(flat, 0)
        inverted = gain < 0
        residual = torch.where(inverted, var_f, residual).clamp(min=tiny)
        yield gain.masked_fill(inverted, 0), residual, var_x


def vif_source(fused: Tensor, source: Tensor, ceiling: float | None = None) -> Tensor:
    """VIFp with one source, 0..about 1: information kept over information there, four scales together, noise
    variance 2 (Sheikh and Bovik, 2006). Both sides at least 41 pixels. A source without contrast gives nan.

    `ceiling` is for `legacy.vif_uint8` alone.
    """
    require_side("VIF", fused, VIF_MIN_SIDE)
    kept = there = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    for gain, residual, variance in _vif_model(source, fused, ceiling):
        kept = kept + torch.log1p(gain.square() * variance / (residual + 2)).sum(IMAGE)
        there = there + torch.log1p(variance / 2).sum(IMAGE)
    return kept / there


def vif(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """VIF: sum of `vif_source` over both sources, 0..about 2. CDDFuse's program calls this function VIFF."""
    return vif_source(fused, visible) + vif_source(fused, infrared)


def viff(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """VIFF: the sources compete at each place, 0..about 1 (Han, Cai, Cao and Xu, 2013). Both sides at least 41 pixels.

    Noise variance 0.005 * 255^2; ties go to the visible image; scale weights 1, 0, 0.15, 1.
    """
    require_side("VIFF", fused, VIF_MIN_SIDE)
    noise = 0.005 * 255**2
    result = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    scales = zip((1.0, 0.0, 0.15, 1.0), _vif_model(infrared, fused), _vif_model(visible, fused), strict=True)
    for weight, of_infrared, of_visible in scales:
        take_infrared = of_infrared[0] < of_visible[0]
        gain, residual, variance = (
            torch.where(take_infrared, a, b) for a, b in zip(of_infrared, of_visible, strict=True)
        )
        kept = torch.log10(1 + gain.square() * variance / (residual + noise)) + 1e-7
        there = torch.log10(1 + variance / noise) + 1e-7
        result = result + weight * kept.sum(IMAGE) / there.sum(IMAGE)
    return result / 2.15


# --- models of human contrast sensitivity ----------------------------------------------------------------------------


def _stretch(image: Tensor) -> Tensor:
    """Each image stretched to 0..255 and rounded, halves up; a constant image stays as it is."""
    image = image.double()
    low, high = image.amin(IMAGE, keepdim=True), image.amax(IMAGE, keepdim=True)
    flat = high == low
    return (torch.where(flat, image, (image - low) / (high - low).where(~flat, 1.0) * 255) + 0.5).floor()


def _radius(image: Tensor, pixels_per_degree: float) -> Tensor:
    """Radial frequency of each coefficient of the two-dimensional FFT, `(H, W)`, in cycles per degree."""
    height, width = image.shape[-2:]
    v = 2 * torch.fft.fftfreq(height, dtype=torch.float64, device=image.device) * height / pixels_per_degree
    u = 2 * torch.fft.fftfreq(width, dtype=torch.float64, device=image.device) * width / pixels_per_degree
    return torch.hypot(v.unsqueeze(1), u)


def chen_varshney(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Qcv: visible error in 16x16 blocks, weighted by the edges of the source (Chen and Varshney, 2007).

    Smaller is better, not bounded. Two black sources give nan (0/0).
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
    """Qcb: similarity of the perceived local contrast, weighted by that of the sources, 0..1 (Chen and Blum, 2009)."""
    p_fused = _perceived_contrast(fused)
    kept = torch.zeros_like(p_fused)
    weight = torch.zeros_like(p_fused)
    for image in (infrared, visible):
        p = _perceived_contrast(image)
        larger = torch.maximum(p, p_fused)
        similarity = torch.where(larger > 0, torch.minimum(p, p_fused) / larger.where(larger > 0, 1.0), 1.0)
        kept = kept + similarity * p.square()
        weight = weight + p.square()
    return torch.where(weight > 0, kept / weight.where(weight > 0, 1.0), 1.0).mean(IMAGE)
