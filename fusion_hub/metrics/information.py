"""Information in the gray values: entropy, mutual information, cross-entropy and feature mutual information.

Every function takes `(B, 1, H, W)` tensors of gray values 0..255 (any real dtype, any device), computes in double
precision and returns a `(B,)` double tensor. Histograms have one bin for each of the 256 integer levels; other values
are rounded to the nearest level.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.metrics._common import require_side

LEVELS = 256
FMI_WINDOW = 3


def gray_levels(image: Tensor) -> Tensor:
    """Gray levels as integers, uint8 `(..., H * W)`."""
    levels = image if image.dtype == torch.uint8 else image.double().round().clamp(0, LEVELS - 1).byte()
    return levels.flatten(-3)


def _shares(codes: Tensor, bins: int) -> Tensor:
    """Share of the pixels in each of `bins` bins, `(..., bins)`, from integer codes `(..., N)`."""
    counts = torch.stack([torch.bincount(image, minlength=bins) for image in codes.flatten(0, -2)])
    return counts.view(*codes.shape[:-1], bins).double() / codes.shape[-1]


def _nats(p: Tensor) -> Tensor:
    """Shannon entropy of distributions in the last dimension; empty bins count as 0 exactly."""
    return 0 - torch.special.xlogy(p, p).sum(-1)  # 0 and not -0 for a single bin


def entropies(fused: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H(source), H(fused) and H(source, fused) in nats, each with one value for each source image."""
    x, f = gray_levels(source), gray_levels(fused)
    joint = _shares(x.int() * LEVELS + f, LEVELS * LEVELS)
    marginals = joint.unflatten(-1, (LEVELS, LEVELS))
    return _nats(marginals.sum(-1)), _nats(marginals.sum(-2)), _nats(joint)


def entropy(fused: Tensor) -> Tensor:
    """EN: Shannon entropy -sum p log2 p of the gray values in bits, 0..8 (Roberts, van Aardt and Ahmed, 2008).

    >>> entropy(torch.arange(256).view(1, 1, 16, 16))
    tensor([8.], dtype=torch.float64)
    """
    return _nats(_shares(gray_levels(fused), LEVELS)) / math.log(2)


def mutual_information(fused: Tensor, source: Tensor) -> Tensor:
    """MI with one source: I(X; F) = H(X) + H(F) - H(X, F) in nats (Qu, Zhang and Yan, 2002). Tables print the sum.

    >>> image = torch.arange(256).view(1, 1, 16, 16)
    >>> mutual_information(255 - image, image) / math.log(2)
    tensor([8.], dtype=torch.float64)
    """
    h_source, h_fused, h_joint = entropies(fused, source)
    return (h_source + h_fused - h_joint).clamp(min=0)  # rounding may leave -1e-15


def normalized_mutual_information(fused: Tensor, source: Tensor) -> Tensor:
    """NMI with one source: 2 I(X; F) / (H(X) + H(F)), 0..1 (Hossny et al., 2008); 0 where both images are constant.

    The stretch of the original program to 0..255 only renames gray levels, so it is left out.

    >>> image = torch.arange(256).view(1, 1, 16, 16)
    >>> normalized_mutual_information(255 - image, image)
    tensor([1.], dtype=torch.float64)
    """
    h_source, h_fused, h_joint = entropies(fused, source)
    own = h_source + h_fused
    return 2 * (own - h_joint).clamp(min=0) / own.where(own > 0, 1.0)


def cross_entropy(fused: Tensor, source: Tensor) -> Tensor:
    """CE with one source: sum p_X log2(p_X / p_F) over the levels that both images have. Smaller is better.

    This is the form of the VIFB suite. It is not a true divergence: levels that only one image has are skipped.

    >>> cross_entropy(torch.tensor([[[[0, 0, 1, 1]]]]), torch.tensor([[[[0, 1, 1, 1]]]])).round(decimals=4)
    tensor([0.1887], dtype=torch.float64)
    """
    p, p_fused = _shares(gray_levels(source), LEVELS), _shares(gray_levels(fused), LEVELS)
    both = (p > 0) & (p_fused > 0)
    ratio = torch.where(both, p / p_fused.where(both, 1.0), 1.0)
    return (p * ratio.log2()).sum(-1)


def feature_mutual_information(fused: Tensor, source: Tensor, chunk: int = 1 << 14) -> Tensor:
    """FMI_gray with one source: mean over all 3x3 windows of 2 I(X; F) / (H(X) + H(F)), 0..1.

    Haghighat, Aghagolzadeh and Seyedarabi (2011); Fast-FMI of Haghighat and Razian (2014). Both sides must have at
    least 3 pixels. `chunk` windows are computed at a time.

    >>> image = torch.arange(25).view(1, 1, 5, 5)
    >>> feature_mutual_information(image, image)
    tensor([1.], dtype=torch.float64)
    """
    require_side("FMI", fused, FMI_WINDOW)
    # Transposed: each window is read column by column, (B, 9, L).
    windows_x, windows_f = (F.unfold(image.double().mT, FMI_WINDOW) for image in (source, fused))
    total = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    for x, f in zip(windows_x.split(chunk, dim=2), windows_f.split(chunk, dim=2), strict=True):
        total = total + _window_information(x, f).sum(1)
    return total / windows_f.shape[2]


def feature_mutual_information_dct(fused: Tensor, source: Tensor) -> Tensor:
    """FMI_dct with one source: `feature_mutual_information` of the orthonormal 2-D DCT-II of each whole image.

    >>> image = torch.arange(25).view(1, 1, 5, 5)
    >>> feature_mutual_information_dct(image, image)
    tensor([1.], dtype=torch.float64)
    """

    def basis(n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64, device=fused.device)
        matrix = torch.cos(math.pi / n * (k + 0.5) * k.unsqueeze(1)) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix

    rows, columns = basis(fused.shape[-2]), basis(fused.shape[-1]).T
    return feature_mutual_information(rows @ fused.double() @ columns, rows @ source.double() @ columns)


def _window_distribution(window: Tensor) -> Tensor:
    """Each window `(B, 9, L)` stretched to 0..1 (ones where constant) and divided by its sum."""
    low, high = window.amin(1, keepdim=True), window.amax(1, keepdim=True)
    flat = high == low
    stretched = torch.where(flat, 1.0, (window - low) / (high - low).where(~flat, 1.0))
    return stretched / stretched.sum(1, keepdim=True)


def _window_information(x: Tensor, f: Tensor) -> Tensor:
    """Normalized mutual information of windows `(B, 9, L)` -> `(B, L)`, with the joint distribution of Fast-FMI.

    The joint distribution is a mixture of the independent one and the Frechet bound that has the sign of the
    correlation; the weight phi makes its covariance that of the two windows. The lower bound for two windows is the
    upper bound for one of them and the other read backwards, so only the upper one, min(P_i, Q_j), is written out.
    """
    identical = (x == f).all(1)
    p, q = _window_distribution(x), _window_distribution(f)

    # Zero at rounding level, so that a constant window has correlation 0 and not noise over noise.
    p_centered, q_centered = p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)
    scale = (p_centered.square().sum(1) * q_centered.square().sum(1)).sqrt()
    correlation = torch.where(scale > 1e-20, (p_centered * q_centered).sum(1) / scale.where(scale > 0, 1.0), 0.0)
    q = torch.where((correlation < 0).unsqueeze(1), q.flip(1), q)

    p_sum, q_sum = p.cumsum(1), q.cumsum(1)
    spread = -p_sum.sum(1) * q_sum.sum(1)  # sum over i, j of min(P_i, Q_j) - P_i Q_j
    for j in range(9):
        spread += torch.minimum(p_sum, q_sum[:, j : j + 1]).sum(1)
    phi = correlation.abs() * _position_deviation(p) * _position_deviation(q) / spread
    phi = torch.where((correlation != 0) & (spread > 0), phi, 0.0).unsqueeze(1)

    # The second difference of min(P_i, Q_j) is the overlap of the intervals [P_i-1, P_i] and [Q_j-1, Q_j].
    p_start, q_start = p_sum - p, q_sum - q
    joint_entropy = torch.zeros_like(correlation)
    for j in range(9):
        one = slice(j, j + 1)
        overlap = torch.minimum(p_sum, q_sum[:, one]) - torch.maximum(p_start, q_start[:, one])
        joint = phi * overlap.clamp_(min=0) + (1 - phi) * p * q[:, one]
        joint_entropy -= torch.special.xlogy(joint, joint.abs()).sum(1)

    own = _nats(p.mT) + _nats(q.mT)
    information = torch.where(own > 0, 2 * (own - joint_entropy) / own.where(own > 0, 1.0), 0.0)
    return torch.where(identical, 1.0, information)


def _position_deviation(share: Tensor) -> Tensor:
    """Standard deviation of the position 1..9 under each distribution `(B, 9, L)`, `(B, L)`."""
    position = torch.arange(1, 10, dtype=share.dtype, device=share.device).view(1, 9, 1)
    mean = (position * share).sum(1)
    return ((position.square() * share).sum(1) - mean.square()).clamp(min=0).sqrt()
