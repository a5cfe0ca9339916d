"""Parts that several networks share: loading and checks, a local norm, first values of weights, feature decoupling."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from reprlib import repr as shorten
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

# diffusers 0.42 warns at each `.to(dtype)` of modules to be kept in float32, also where there are none
# (findings/diffusers_to_dtype_warning.sh).
logging.getLogger("diffusers.models.modeling_utils").addFilter(lambda record: "float32: []" not in record.getMessage())

# Bounds of arguments, which come from the config.json of a checkpoint: without them a damaged file could ask for any
# amount of memory or time.
MAX_WIDTH = 8192  # channels
MAX_DEPTH = 64  # blocks or steps in a row

Layer = TypeVar("Layer", bound=nn.Module)


class FusionModel(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers types `config_name` twice
    """A network that fuses two registered luminance images `(B, C, H, W)`."""

    config: Any  # diffusers declares a dict; its entries are attributes too

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Self:
        """As diffusers' `from_pretrained`, but from safetensors whatever `use_safetensors` says.

        Pickled weights can run code. Raises `OSError` where there is no safetensors file.
        """
        kwargs["use_safetensors"] = True  # the default of diffusers is False
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        raise NotImplementedError

    def check_images(self, visible: Tensor, infrared: Tensor, channels: int = 1) -> None:
        """Raise a ValueError unless both are `(B, channels, H, W)` of one size, a multiple of `multiple`."""
        if visible.shape != infrared.shape or visible.ndim != 4 or visible.shape[1] != channels:
            raise ValueError(
                f"visible {tuple(visible.shape)} and infrared {tuple(infrared.shape)} must both be "
                f"(B, {channels}, H, W) of one size"
            )
        if visible.shape[2] % self.multiple or visible.shape[3] % self.multiple:
            raise ValueError(
                f"height and width must be multiples of {self.multiple}, got {tuple(visible.shape[2:])}: pad first, as "
                "the pipelines do"
            )


def map_tensors(output: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a dataclass with `fn` of each tensor in its fields, in lists and tuples too."""

    def apply(value: Any) -> Any:
        if isinstance(value, Tensor):
            return fn(value)
        return type(value)(map(apply, value)) if isinstance(value, list | tuple) else value

    return replace(output, **{field.name: apply(getattr(output, field.name)) for field in fields(output)})


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a ValueError unless `value` is one of the names in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {shorten(value)}")


def check_flags(**values: Any) -> None:
    """Raise a ValueError unless all values are True or False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {shorten(value)}")


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Raise a ValueError unless `value` is an int from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {shorten(value)}")


def check_wholes(name: str, values: Any, count: int, low: int, high: int) -> None:
    """Raise a ValueError unless `values` holds `count` ints from `low` to `high`."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"{name} must hold {count} numbers, got {shorten(values)}")
    for value in values:
        check_whole(f"each of {name}", value, low, high)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise a ValueError unless `value` is a finite number from `low` to `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {shorten(value)}")


def zero_module(layer: Layer) -> Layer:
    """Set all parameters of `layer` to zero, in place, and return it: training starts without its influence."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class LocalGroupNorm(nn.Module):
    """Normalize each pixel's channel vector `(B, C, H, W)` to zero mean and unit variance, then scale and shift.

    Statistics are computed in float32. Without `affine` the output keeps unit variance, which is what keeps the
    features from collapsing to a constant under the diffusion and consistency losses.
    """

    def __init__(self, channels: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, (self.channels,), self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class FeatureDecoupling(nn.Module):
    """EDFD, explicit feature decoupling of DiffFuseNet (Wang et al., Pattern Recognition 180, 2026, 114259).

    Cross-modality shared features (CMSF) and single-modality specific features (SMSF):

        F_CMSF   = M_c([F_V, F_I])
        F_SMSF^m = M_m(F_m - F_CMSF),  m in {V, I}
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.common = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.visible, self.infrared = (
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.GELU(), nn.Conv2d(channels, channels, 1))
            for _ in range(2)
        )

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two `(B, C, H, W)` feature maps to shared, visible-specific and infrared-specific features, same shape."""
        shared = self.common(torch.cat([visible, infrared], dim=1))
        return shared, self.visible(visible - shared), self.infrared(infrared - shared)


class DetailHead(nn.Module):
    """What to add to the share and the correction of DiffFuseNet, from pixels that its patches mix.

    Two convolutions at half the image size see both images with both maps. It starts at zero. Not in the article.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4 * 4 * channels, width, 3, padding=1)
        self.conv_out = zero_module(nn.Conv2d(width, 4 * 2 * channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 4C, H, W)`, visible, infrared, logit of the share and correction, to `(B, 2C, H, W)` for both maps."""
        cells = F.pixel_unshuffle(x.to(self.conv_in.weight.dtype), 2).contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(self.conv_out(F.gelu(self.conv_in(cells))), 2).to(x.dtype)
