"""The noise of a picture, estimated from its flattest blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion_hub.models.plane_noise import BLOCK, CLIPPED, FEW, FLATTEST, QUANTILE, RECTIFIED, ROUNDING


def estimate_noise(image: Tensor) -> Tensor:
    """Standard deviation of the noise of images `(B, 1, H, W)` in [0, 1]: `(B,)` float32, in the same unit.

    In a flat block the diagonal Haar band of a picture is its white noise (Donoho and Johnstone, 1994, use the median
    over the picture). What the other two bands have above it in a flat block are offsets of columns and rows, the fixed
    pattern of microbolometers. Both are taken at a low quantile over blocks of 16x16 pixels, since most blocks of a
    real scene have texture. In blocks at black or white, where half of the noise is clipped, the variance is corrected.
    A large constant background, as of medical pictures, means no noise; a small one is a border and does not count.
    Rounding to 8 bits is not noise. Pictures below 16 pixels have no block and count as clean.
    """
    with torch.autocast(image.device.type, enabled=False):
        image = image.detach().float()
        if min(image.shape[-2:]) < 2 * BLOCK:
            return image.new_zeros(len(image))
        height, width = (side // (2 * BLOCK) * 2 * BLOCK for side in image.shape[-2:])
        image = image[..., :height, :width]
        top, bottom = image[..., 0::2, :], image[..., 1::2, :]
        total, across = top + bottom, top - bottom
        left, right = total[..., 0::2], total[..., 1::2]
        horizontal = left - right
        level = F.avg_pool2d(left + right, BLOCK).flatten(1) / 4
        left, right = across[..., 0::2], across[..., 1::2]
        vertical, diagonal = left + right, left - right
        energy = torch.cat([diagonal, horizontal, vertical], dim=1).square_().mul_(0.25)
        white, columns, rows = F.avg_pool2d(energy, BLOCK).flatten(2).unbind(1)
        # Offsets of columns with variance s^2 have 2 s^2 in the horizontal band, and none in the diagonal one.
        variance = white + (columns - white).clamp_min(0) / 2 + (rows - white).clamp_min(0) / 2
        deviation = variance.sqrt()
        clipped = torch.minimum(level, 1 - level) < CLIPPED * deviation
        variance = torch.where(clipped, variance / RECTIFIED, variance)
        constant = variance == 0
        usable = ~(constant & (constant.float().mean(1, keepdim=True) < FEW))
        ordered = variance.masked_fill(~usable, torch.inf).sort(dim=1).values
        rank = (usable.sum(1) * QUANTILE).long()
        flattest = ordered.gather(1, rank[:, None])[:, 0] / FLATTEST
        return (flattest - ROUNDING).clamp_min(0).sqrt()
