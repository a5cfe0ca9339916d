"""Random image pairs for the tests of the metrics."""

import torch


def random_pair(height: int = 48, width: int = 56, batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Smooth random sources with noise, and their rounded mean, as `(B, 1, H, W)` uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, batch, 1, 6, 7, generator=generator).flatten(0, 1) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noisy = smooth + 12 * torch.randn(smooth.shape, generator=generator)
    visible, infrared = noisy.round().clamp(0, 255).split(batch)
    fused = ((visible + infrared) / 2).round()
    return {"fused": fused.byte(), "visible": visible.byte(), "infrared": infrared.byte()}
