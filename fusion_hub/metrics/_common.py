"""Shared by the modules of metrics: reductions over one image, and checks of shape."""

from torch import Tensor

IMAGE = (1, 2, 3)
"""The dimensions of one image in a batch `(B, 1, H, W)`."""


def require_side(name: str, image: Tensor, side: int) -> None:
    """ValueError if a side of the images is shorter than metric `name` needs."""
    height, width = image.shape[-2:]
    if min(height, width) < side:
        raise ValueError(
            f"{name} needs images of at least {side}x{side} pixels, got height x width = {height}x{width}: "
            f"leave {name} out for images this small."
        )


def require_same_shape(name: str, image: Tensor, fused: Tensor) -> None:
    """ValueError if a source has not the shape of the fused image."""
    if image.shape != fused.shape:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)} but fused has {tuple(fused.shape)}: "
            "metrics compare pixel by pixel, so all three images must have one size."
        )
