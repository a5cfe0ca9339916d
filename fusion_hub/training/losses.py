"""Losses of image fusion: pure functions on `(B, 1, H, W)` luminance in [0, 1]; each returns a scalar.

Every loss is a mean over samples of a per-sample value, so two processes with half the batch each give the gradients
of one with the whole. Equation numbers are those of DiffFuseNet (Wang et al., Pattern Recognition 180, 2026, 114259) as
its published description reports them; reductions run in float32.
"""

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.image.tiling import pad_reflect
from fusion_hub.metrics.correlation import pearson
from fusion_hub.metrics.fidelity import VIF_MIN_SIDE, local_moments, similarity
from fusion_hub.metrics.gradient import sobel
from fusion_hub.models.noise import estimate_noise

LEAST_DEVIATION = 0.4  # of a channel of unit-variance features over an image
LEAST_RESPONSE = 0.5  # part of the energy that noise should have in the features
LEAST_ERROR = (1 / 255) ** 2  # energy below which an image counts as clean


@lru_cache(maxsize=64)
def _gaussian_band(length: int, size: int, sigma: float, device: torch.device) -> Tensor:
    """Matrix `(length, length - size + 1)` whose columns are shifted Gaussian windows of sum 1, float32."""
    band = torch.zeros(length, length - size + 1)
    columns = torch.arange(length - size + 1)
    kernel = torch.exp(-((torch.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    for k, weight in enumerate(kernel / kernel.sum()):
        band[columns + k, columns] = weight
    return band.to(device)


def gaussian_blur(image: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Separable Gaussian mean over the valid part: `(..., H, W)` float32 to `(..., H - size + 1, W - size + 1)`.

    Two products with banded matrices: on training crops of one channel several times faster than convolutions.
    """
    rows = _gaussian_band(image.shape[-2], size, sigma, image.device)
    columns = _gaussian_band(image.shape[-1], size, sigma, image.device)
    with torch.autocast(image.device.type, enabled=False):
        return rows.T @ (image.float() @ columns)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation over the pixels of each channel, `(B, C, H, W)` twice to `(B, C)`."""
    return pearson(first.float(), second.float(), (2, 3), eps=1e-8)


def intensity_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """L1 distance to the brighter source, pixel by pixel."""
    return F.l1_loss(fused, torch.maximum(visible, infrared))


def salient_intensity_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """L1 distance to the visible image, raised to the infrared where that is salient.

        target = V + S max(I - V, 0),  S = clip(0.4 + 2.5 (I - mean(I)), 0, 1)

    The mean is that of a window of 63 pixels. A target of the brighter source alone bleaches colored signs, whose
    infrared is bright but plain, and draws the infrared's level into walls and roads.
    """
    side = min(63, *(2 * ((size - 1) // 2) + 1 for size in infrared.shape[-2:]))
    height, width = infrared.shape[-2:]
    around = pad_reflect(infrared, (height + side - 1, width + side - 1), center=True)
    around = F.avg_pool2d(F.avg_pool2d(around, (side, 1), 1), (1, side), 1)
    salience = (0.4 + 2.5 * (infrared - around)).clamp(0, 1)
    return F.l1_loss(fused, visible + salience * (infrared - visible).clamp_min(0))


def mean_intensity_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """Mean of the L1 distances to both sources: the same for any value between the two, so contrast gains nothing."""
    return (F.l1_loss(fused, visible) + F.l1_loss(fused, infrared)) / 2


def signed_gradient_loss(
    fused: Tensor, visible: Tensor, infrared: Tensor, gain: float = 1.0, noise_floor: float = 0.0
) -> Tensor:
    """L1 distance to the Sobel vector of the source whose gradient is stronger at the pixel, both directions summed.

    The usual target, the larger magnitude, leaves the sign free: an edge of reversed polarity has no loss. `gain`
    scales the target; values above 1 favor crisper edges than those of either source.

    With `noise_floor` f, a source's gradient counts by the share of its local energy, a mean over 5x5 pixels, that
    exceeds f times what the source's noise explains (`estimate_noise`). So a flat region takes its gradient, nearly 0,
    from the cleaner source, and the noise of the other is not drawn into it.
    """
    gradients = [sobel(source, "replicate") for source in (visible, infrared)]
    if noise_floor > 0:
        # A Sobel filter of kernel norm sqrt(12) has 12 sigma^2 of white noise in each direction.
        floors = [24 * noise_floor * estimate_noise(source).square() for source in (visible, infrared)]
        gradients = [_above_noise(*pair, floor) for pair, floor in zip(gradients, floors, strict=True)]
    (visible_x, visible_y), (infrared_x, infrared_y) = gradients
    fused_x, fused_y = sobel(fused, "replicate")
    stronger = visible_x.abs() + visible_y.abs() >= infrared_x.abs() + infrared_y.abs()
    target_x = gain * torch.where(stronger, visible_x, infrared_x)
    target_y = gain * torch.where(stronger, visible_y, infrared_y)
    return F.l1_loss(fused_x, target_x) + F.l1_loss(fused_y, target_y)


def _above_noise(x: Tensor, y: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient by the share of its local energy above the noise's, `(B,)`."""
    energy = F.avg_pool2d(x.square() + y.square(), 5, 1, 2, count_include_pad=False)
    share = (energy - floor.view(-1, 1, 1, 1)).clamp_min(0) / (energy + 1e-6)
    return x * share, y * share


def unsigned_gradient_loss(fused: Tensor, visible: Tensor, infrared: Tensor, gain: float = 1.0) -> Tensor:
    """L1 distance of the gradient's magnitude, |Sobel_x| + |Sobel_y|, to `gain` times the larger of both sources'."""

    def magnitude(image: Tensor) -> Tensor:
        horizontal, vertical = sobel(image, "replicate")
        return horizontal.abs() + vertical.abs()

    return F.l1_loss(magnitude(fused), gain * torch.maximum(magnitude(visible), magnitude(infrared)))


def edge_preservation_loss(fused: Tensor, visible: Tensor, infrared: Tensor, noise_floor: float = 0.0) -> Tensor:
    """1 - Qabf in a form with gradients: the share of both sources' edges, in strength and direction, that is lost.

    Qabf after Xydeas and Petrovic (2000), its two sigmoids with their usual constants. Unlike the metric, directions
    are compared modulo pi, the border is replicated, and strengths of less than a gray level have no sharp ratio.
    `noise_floor` as in `signed_gradient_loss`: edges of noise do not count. Not in the description.
    """
    fused_x, fused_y = sobel(fused, "replicate")
    fused_strength = (fused_x.square() + fused_y.square() + 1e-5).sqrt()
    kept, total = fused.new_zeros(len(fused)), fused.new_full((len(fused),), 1e-6)
    for source in (visible, infrared):
        x, y = sobel(source, "replicate")
        if noise_floor > 0:
            x, y = _above_noise(x, y, 24 * noise_floor * estimate_noise(source).square())
        strength = (x.square() + y.square() + 1e-5).sqrt()
        ratio = torch.minimum(strength, fused_strength) / torch.maximum(strength, fused_strength)
        along, across = (x * fused_x + y * fused_y).abs(), (x * fused_y - y * fused_x).abs()
        direction = 1 - torch.atan2(across + 1e-6, along + 1e-6) / (math.pi / 2)
        quality = 0.9994 * torch.sigmoid(15 * (ratio - 0.5)) * 0.9879 * torch.sigmoid(22 * (direction - 0.8))
        weight = (x.square() + y.square()).sqrt()
        kept = kept + (quality * weight).sum((1, 2, 3))
        total = total + weight.sum((1, 2, 3))
    return 1 - (kept / total).mean()


def ssim_losses(fused: Tensor, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
    """The variance-weighted SSIM loss and the structure loss.

    SSIM is that of Wang et al. (2004) with Gaussian windows of 11x11, sigma 1.5, valid part. The first loss is
    1 - mean(w SSIM(F, V) + (1 - w) SSIM(F, I)), w the visible image's share of the local variance, with the usual
    constants, which count flat regions as equal. The second is 1 - mean(SSIM(F, V) + SSIM(F, I)) / 2 with constants of
    1e-6 and 1e-5, which do not: they penalize noise in a flat sky. It is not in the description.
    """
    moments = local_moments(torch.stack([visible, infrared]), fused[None], gaussian_blur)
    of_visible, of_infrared = similarity(moments, 1e-4, 9e-4)[0]
    var_visible, var_infrared = moments.var_x.clamp_min(0)
    share = (var_visible + 1e-6) / (var_visible + var_infrared + 2e-6)
    weighted = torch.lerp(of_infrared, of_visible, share)
    return 1 - weighted.mean(), 1 - similarity(moments, 1e-6, 1e-5)[0].mean()


def ssim_loss(image: Tensor, *sources: Tensor) -> Tensor:
    """1 - SSIM of an image and a source, with the usual constants; the mean over several sources."""
    return 1 - similarity(local_moments(torch.stack(sources), image[None], gaussian_blur), 1e-4, 9e-4)[0].mean()


def fidelity_loss(fused: Tensor, visible: Tensor, infrared: Tensor, noise_variance: float = 2.0) -> Tensor:
    """1 - sqrt(VIFp(V, F) VIFp(I, F)): the share of the local information of both sources that the fused image keeps.

    The usual sum is high for a copy of one source; the geometric mean of a copy is only the root of the information
    that the other source shares with it.

    Visual information fidelity in the pixel domain (Sheikh and Bovik, 2006): four scales with Gaussian windows of 17,
    9, 5 and 3 pixels, `noise_variance` on the 0..255 scale. Not in the description.

    Raises:
        ValueError: for sides below 41 pixels, which are too small for the fourth scale.
    """
    if min(fused.shape[-2:]) < VIF_MIN_SIDE:
        raise ValueError(
            f"fidelity_loss needs sides of at least {VIF_MIN_SIDE} pixels, got {tuple(fused.shape[-2:])}: larger crops"
        )
    images = 255 * torch.stack([visible, infrared, fused])
    kept, total = fused.new_zeros(2, len(fused)), fused.new_zeros(2, len(fused))
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        if scale:
            images = gaussian_blur(images, size, size / 5)[..., ::2, ::2]
        moments = local_moments(images[:2], images[2:], partial(gaussian_blur, size=size, sigma=size / 5))
        source_variance, fused_variance = moments.var_x.clamp_min(0), moments.var_y.clamp_min(0)
        covariance = moments.covariance
        # Unlike the metric's, this gain has a finite gradient in flat regions.
        gain = covariance.clamp_min(0) / (source_variance + 1e-3)
        residual = (fused_variance - gain * covariance).clamp_min(0)
        kept = kept + torch.log1p(gain.square() * source_variance / (residual + noise_variance)).sum((2, 3, 4))
        total = total + torch.log1p(source_variance / noise_variance).sum((2, 3, 4))
    with_visible, with_infrared = kept / (total + 1e-6)
    return 1 - (with_visible * with_infrared + 1e-6).sqrt().mean()


def difference_correlation_loss(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
    """1 - (cc(F - I, V) + cc(F - V, I)) / 2: the fused image minus one source should look like the other.

    The quantity that SCD (Aslantas and Bendes, 2015) measures; not in the description.
    """
    added = correlation(fused - infrared, visible) + correlation(fused - visible, infrared)
    return 1 - added.mean() / 2


def range_loss(fused: Tensor, *sources: Tensor, ceiling: float = 1.0) -> Tensor:
    """How far the unclamped output leaves [0, `ceiling`]; where a source is brighter, that is the upper end.

    A `ceiling` below 1 keeps the texture of bright people: what exceeds 1 is clamped to white.
    """
    upper = torch.full_like(fused, ceiling)
    for source in sources:
        upper = torch.maximum(upper, source)
    return (F.relu(fused - upper) + F.relu(-fused)).mean()


def gate_balance_loss(gates: Sequence[Tensor]) -> Tensor:
    """Squared distance from 1 of the mean of each map of gates `(B, C, h, w)` in (0, 2).

    The mean of a gate only scales what the next layer can scale itself. Without this loss a gate can spend its range on
    that and saturate everywhere; with it, a gate can only move weight from one place to another.
    """
    means = [(gate.float().mean((2, 3)) - 1).square().mean() for gate in gates]
    return torch.stack(means).sum()


def decoupling_loss(specific: tuple[Tensor, Tensor], low: tuple[Tensor, ...]) -> Tensor:
    """cc(SMSF_V, SMSF_I)^2 / (1.01 + cc(L_V, L_I)): specific features differ, base features agree.

    The form of CDDFuse (Zhao et al., CVPR 2023); all arguments `(B, C, h, w)`, correlation is the mean over channels.
    """
    of_specific, of_low = correlation(*specific).mean(dim=1), correlation(*low).mean(dim=1)
    return (of_specific.square() / (1.01 + of_low)).mean()


def noise_prediction_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise over both modalities, `(2B, C, h, w)` (eq. 20, summed as in eq. 22)."""
    return 2 * F.mse_loss(predicted.float(), noise.float())


def clean_features_loss(enhanced: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of the clean estimate, `(2B, C, h, w)`, summed over modalities as in eq. 22.

    Eq. 20 in terms of F_0, (1 - abar_t) / abar_t times the error of the noise. The noise of an image is not white in
    its features, so what the estimate must meet are the features of the clean image.
    """
    return 2 * F.mse_loss(enhanced.float(), clean.float())


def feature_collapse_loss(noisy: Tensor, clean: Tensor, pixel_error: Tensor, noise_gain: float) -> Tensor:
    """How far the shallow features are from varying over the pictures and from holding the noise of their images.

    The losses on features, such as the two around this one, are 0 for an encoder with constant features, which says
    nothing of its image. Two hinges keep it from there: the standard deviation of each channel over an image is to be
    at least `LEAST_DEVIATION` (after Bardes, Ponce and LeCun, "VICReg", 2022, eq. 1), and the energy of
    F(noisy) - F(clean) at least `LEAST_RESPONSE` of what the timestep assumes, `noise_gain`^2 times that of the images.

    Args:
        noisy: features of the images as they are, `(2B, C, h, w)`.
        clean: features of the clean images, without gradients.
        pixel_error: mean squared difference of each image from the clean one, `(2B,)`, images in [0, 1].
    """
    noisy, clean = noisy.float(), clean.float()
    deviation = (noisy.var(dim=(2, 3)) + 1e-4).sqrt()
    variation = F.relu(1 - deviation / LEAST_DEVIATION).mean(dim=1)
    expected = LEAST_RESPONSE * (noise_gain**2 * pixel_error).clamp_max(1)  # unit-variance features hold no more
    response = (noisy - clean).square().mean(dim=(1, 2, 3))
    shortfall = F.relu(torch.log((expected + 1e-6) / (response + 1e-6)))
    return (variation + torch.where(pixel_error > LEAST_ERROR, shortfall, 0)).mean()


def consistency_loss(visible: Tensor, infrared: Tensor, pool: int = 4) -> Tensor:
    """L1 of the denoised features of both modalities (eq. 21) on `pool` x `pool` means.

    On the features themselves its optimum is equality, without modality-specific features; on means it constrains only
    the coarse layout.
    """
    return F.l1_loss(F.avg_pool2d(visible.float(), pool), F.avg_pool2d(infrared.float(), pool))
