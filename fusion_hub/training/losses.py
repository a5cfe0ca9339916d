"""Losses of image fusion: pure functions on `(B, 1, H, W)` luminance in [0, 1]; each returns a scalar.

Every loss is a mean over samples of a per-sample value, so two processes with half the batch each give the gradients
of one with the whole. Equation numbers are those of DiffFuseNet (Wang et al., Pattern Recognition 180, 2026, 114259) as
its published description reports them; reductions run in float32.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def sobel(image: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical Sobel responses (weights 1 2 1, border replicated), each like `image`."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]


@lru_cache(maxsize=64)
def _gaussian_band(length: int, size: int, sigma: float, device: torch.device) -> Tensor:
    """Matrix `(length, length - size + 1)` whose columns are shifted Gaussian windows of sum 1, float32."""
    offset = torch.arange(size) - (size - 1) / 2
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    band = torch.zeros(length, length - size + 1)
    columns = torch.arange(length - size + 1)
    for k, weight in enumerate(kernel):
        band[columns + k, columns] = weight
    return band.to(device)


def gaussian_blur(image: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Separable Gaussian mean over the valid part: `(B, C, H, W)` float32 to `(B, C, H - size + 1, W - size + 1)`.

    Two products with banded matrices: on training crops of one channel several times faster than convolutions.
    """
    rows = _gaussian_band(image.shape[-2], size, sigma, image.device)
    columns = _gaussian_band(image.shape[-1], size, sigma, image.device)
    with torch.autocast(image.device.type, enabled=False):
        return rows.T @ (image.float() @ columns)


def correlation(first: Tensor, second: Tensor, eps: float = 1e-8) -> Tensor:
    """Pearson correlation over the pixels of each channel, `(B, C, H, W)` twice to `(B, C)`."""
    first, second = first.float().flatten(2), second.float().flatten(2)
    first, second = first - first.mean(-1, keepdim=True), second - second.mean(-1, keepdim=True)
    covariance = (first * second).sum(-1)
    return covariance / (first.square().sum(-1) * second.square().sum(-1) + eps).sqrt()


def intensity_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """L1 distance to the brighter source, pixel by pixel."""
    return F.l1_loss(fused, torch.maximum(visible, infrared))


def mean_intensity_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Mean of the L1 distances to both sources. Any value between the two is as good: it asks for no contrast."""
    return (F.l1_loss(fused, visible) + F.l1_loss(fused, infrared)) / 2


def signed_gradient_loss(fused: Tensor, visible: Tensor, infrared: Tensor, gain: float = 1.0) -> Tensor:
    """L1 distance to the Sobel vector of the source whose gradient is stronger at the pixel, both directions summed.

    The usual target, the larger magnitude, leaves the sign free: an edge of reversed polarity costs nothing. `gain`
    scales the target; above 1 it asks for crisper edges than either source has.
    """
    fused_x, fused_y = sobel(fused)
    visible_x, visible_y = sobel(visible)
    infrared_x, infrared_y = sobel(infrared)
    stronger = visible_x.abs() + visible_y.abs() >= infrared_x.abs() + infrared_y.abs()
    target_x = gain * torch.where(stronger, visible_x, infrared_x)
    target_y = gain * torch.where(stronger, visible_y, infrared_y)
    return F.l1_loss(fused_x, target_x) + F.l1_loss(fused_y, target_y)


def unsigned_gradient_loss(fused: Tensor, visible: Tensor, infrared: Tensor, gain: float = 1.0) -> Tensor:
    """L1 distance of the gradient's magnitude, |Sobel_x| + |Sobel_y|, to `gain` times the larger of both sources'."""

    def magnitude(image: Tensor) -> Tensor:
        horizontal, vertical = sobel(image)
        return horizontal.abs() + vertical.abs()

    return F.l1_loss(magnitude(fused), gain * torch.maximum(magnitude(visible), magnitude(infrared)))


def ssim_maps(
    fused: Tensor, visible: Tensor, infrared: Tensor, constants: Sequence[tuple[float, float]] = ((1e-4, 9e-4),)
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """SSIM maps (Wang et al., 2004; Gaussian 11x11, sigma 1.5, valid part) of the fused image with either source.

    Args:
        constants: pairs (C1, C2) for images in [0, 1]; the local moments are computed once for all of them.

    Returns:
        For each pair of constants SSIM(F, V) and SSIM(F, I); and the visible image's share of both local variances. All
        `(B, 1, H - 10, W - 10)`.
    """
    stack = torch.cat(
        [fused, visible, infrared, fused**2, visible**2, infrared**2, fused * visible, fused * infrared], dim=1
    )
    mean_f, mean_v, mean_i, ff, vv, ii, fv, fi = gaussian_blur(stack).split(1, dim=1)
    var_f, var_v, var_i = ff - mean_f**2, vv - mean_v**2, ii - mean_i**2
    cov_v, cov_i = fv - mean_f * mean_v, fi - mean_f * mean_i

    def similarity(mean: Tensor, variance: Tensor, covariance: Tensor, c1: float, c2: float) -> Tensor:
        luminance = (2 * mean_f * mean + c1) / (mean_f**2 + mean**2 + c1)
        return luminance * (2 * covariance + c2) / (var_f + variance + c2)

    maps = [
        (similarity(mean_v, var_v, cov_v, c1, c2), similarity(mean_i, var_i, cov_i, c1, c2)) for c1, c2 in constants
    ]
    share = (var_v.clamp_min(0) + 1e-6) / (var_v.clamp_min(0) + var_i.clamp_min(0) + 2e-6)
    return maps, share


def ssim_losses(fused: Tensor, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
    """The variance-weighted SSIM loss and the structure loss.

    The first is 1 - mean(w SSIM(F, V) + (1 - w) SSIM(F, I)), w the visible image's share of the local variance, with
    the usual constants, which count flat regions as equal. The second is 1 - mean(SSIM(F, V) + SSIM(F, I)) / 2 with
    constants of 1e-6 and 1e-5, which do not: noise in a flat sky costs something. It is not in the description.
    """
    ((visible_map, infrared_map), strict), share = ssim_maps(
        fused, visible, infrared, constants=((1e-4, 9e-4), (1e-6, 1e-5))
    )
    weighted = torch.lerp(infrared_map, visible_map, share)
    return 1 - weighted.mean(), 1 - (strict[0] + strict[1]).mean() / 2


def mean_ssim_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """1 - (SSIM(F, V) + SSIM(F, I)) / 2 with the usual constants."""
    ((with_visible, with_infrared),), _ = ssim_maps(fused, visible, infrared)
    return 1 - (with_visible + with_infrared).mean() / 2


def reconstruction_ssim_loss(reconstructed: Tensor, image: Tensor) -> Tensor:
    """1 - SSIM of one image and its reconstruction."""
    maps, _ = ssim_maps(reconstructed, image, image)
    return 1 - maps[0][0].mean()


def fidelity_loss(fused: Tensor, visible: Tensor, infrared: Tensor, noise_variance: float = 2.0) -> Tensor:
    """1 - sqrt(VIFp(V, F) VIFp(I, F)): the share of the local information of both sources that the fused image keeps.

    The geometric mean, unlike the sum that is usually reported, cannot be had from one source: a copy of one is worth
    only the root of what the other shares with it.

    Visual information fidelity in the pixel domain (Sheikh and Bovik, 2006): four scales with Gaussian windows of 17,
    9, 5 and 3 pixels, `noise_variance` on the 0..255 scale. Not in the description.

    Raises:
        ValueError: for sides below 41 pixels, which leave nothing at the fourth scale.
    """
    if min(fused.shape[-2:]) < 41:
        raise ValueError(
            f"fidelity_loss needs sides of at least 41 pixels, got {tuple(fused.shape[-2:])}: larger crops"
        )
    batch = len(fused)
    images = 255 * torch.cat([visible, infrared, fused])
    kept, there = fused.new_zeros(2 * batch), fused.new_zeros(2 * batch)
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        if scale:
            images = gaussian_blur(images, size, size / 5)[..., ::2, ::2]
        sources, copies = images[: 2 * batch], images[2 * batch :].repeat(2, 1, 1, 1)
        moments = gaussian_blur(torch.cat([images, images.square(), sources * copies]), size, size / 5)
        mean, square, product = moments.split([3 * batch, 3 * batch, 2 * batch])
        variance = (square - mean.square()).clamp_min(0)
        source_variance, fused_variance = variance[: 2 * batch], variance[2 * batch :].repeat(2, 1, 1, 1)
        covariance = product - mean[: 2 * batch] * mean[2 * batch :].repeat(2, 1, 1, 1)
        gain = covariance.clamp_min(0) / (source_variance + 1e-3)
        residual = (fused_variance - gain * covariance).clamp_min(0)
        kept = kept + torch.log1p(gain.square() * source_variance / (residual + noise_variance)).sum((1, 2, 3))
        there = there + torch.log1p(source_variance / noise_variance).sum((1, 2, 3))
    with_visible, with_infrared = (kept / (there + 1e-6)).chunk(2)
    return 1 - (with_visible * with_infrared + 1e-6).sqrt().mean()


def difference_correlation_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """1 - (cc(F - I, V) + cc(F - V, I)) / 2: what fusion adds to one source should come from the other.

    The quantity that SCD (Aslantas and Bendes, 2015) measures; not in the description.
    """
    added = correlation(fused - infrared, visible) + correlation(fused - visible, infrared)
    return 1 - added.mean() / 2


def range_loss(fused: Tensor) -> Tensor:
    """How far the unclamped output leaves [0, 1]."""
    return (F.relu(fused - 1) + F.relu(-fused)).mean()


def decoupling_loss(specific: tuple[Tensor, Tensor], low: tuple[Tensor, Tensor]) -> Tensor:
    """cc(SMSF_V, SMSF_I)^2 / (1.01 + cc(L_V, L_I)): specific features unlike, base features alike.

    The form of CDDFuse (Zhao et al., CVPR 2023); all arguments `(B, C, h, w)`, correlation is the mean over channels.
    """
    unlike = correlation(*specific).mean(dim=1)
    alike = correlation(*low).mean(dim=1)
    return (unlike.square() / (1.01 + alike)).mean()


def noise_prediction_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise over both modalities, `(2B, C, h, w)` (eq. 20, summed as in eq. 22)."""
    return 2 * F.mse_loss(predicted.float(), noise.float())


def consistency_loss(visible: Tensor, infrared: Tensor, pool: int = 4) -> Tensor:
    """L1 of the denoised features of both modalities (eq. 21) on `pool` x `pool` means.

    On the features themselves its optimum is equality, which would leave nothing modality-specific; on means it ties
    only the coarse layout.
    """
    return F.l1_loss(F.avg_pool2d(visible.float(), pool), F.avg_pool2d(infrared.float(), pool))
