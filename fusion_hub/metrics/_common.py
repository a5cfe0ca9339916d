"""Shared by the modules of metrics: reductions over one image and checks of shape."""

import torch
from torch import Tensor

IMAGE = (-3, -2, -1)
"""The dimensions of one image in a batch `(B, 1, H, W)`, or in several of them, `(S, B, 1, H, W)`."""


def inner_product(x: Tensor, y: Tensor, dim: tuple[int, ...] = IMAGE) -> Tensor:
    """Sum of `x * y` over `dim`; over whole images in double precision without a map of the products."""
    if dim != IMAGE or x.dtype != torch.float64 or x.shape != y.shape:
        return (x * y).sum(dim)
    vectors = (image.flatten(-3).flatten(0, -2) for image in (x, y))
    return torch.stack([torch.dot(*pair) for pair in zip(*vectors, strict=True)]).view(x.shape[:-3])


def require_side(name: str, image: Tensor, side: int) -> None:
    """Raise a ValueError if a side of the images is shorter than metric `name` needs."""
    height, width = image.shape[-2:]
    if min(height, width) < side:
        raise ValueError(
            f"{name} needs images of at least {side}x{side} pixels, got height x width = {height}x{width}: "
            f"leave {name} out for images this small."
        )


def require_batch(fused: Tensor, visible: Tensor, infrared: Tensor) -> None:
    """Raise a ValueError or TypeError unless the images are tensors `(B, 1, H, W)`, not empty, and of one shape."""
    for name, image in (("fused", fused), ("visible", visible), ("infrared", infrared)):
        if not isinstance(image, Tensor):
            raise TypeError(
                f"{name} is {type(image).__name__}: pass a tensor (B, 1, H, W), such as a torch.stack of (1, H, W); "
                "evaluate_pair takes arrays and pictures, one at a time."
            )
        if image.ndim != 4 or image.shape[1] != 1 or image.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(image.shape)}: pass non-empty luminance tensors (B, 1, H, W).")
        if image.shape != fused.shape:
            raise ValueError(
                f"{name} has shape {tuple(image.shape)} but fused has {tuple(fused.shape)}: "
                "metrics compare pixel by pixel, so all three images must have one size."
            )
