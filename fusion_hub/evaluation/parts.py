"""One part of a network switched off at inference: what then changes is what the part contributes.

The weights stay as they are: hooks change what a part passes on, and are removed afterwards.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fusion_hub.models.difffusenet import DiffFuseNetModel
from fusion_hub.models.frequency import CrossFrequencyAttention
from fusion_hub.models.pruned_unet import SelfAttention2D
from fusion_hub.models.red import REDModel


@dataclass(frozen=True)
class Part:
    """A part of one network.

    Attributes:
        name: in tables and for `without`.
        off: what the network computes without it.
        outputs: by module, the function of its arguments and its output that takes the place of the output.
        methods: by name of a method of the network, the function that takes its place.
    """

    name: str
    off: str
    outputs: Mapping[nn.Module, Callable[[tuple[Any, ...], Any], Any]] = field(default_factory=dict)
    methods: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def parts_of(model: nn.Module) -> list[Part]:
    """The parts of a DiffFuseNet or RED in the order of the computation, fewer in ablations; none of other networks."""
    if isinstance(model, DiffFuseNetModel):
        return list(_difffusenet_parts(model))
    return list(_red_parts(model)) if isinstance(model, REDModel) else []


@contextmanager
def without(model: nn.Module, name: str) -> Iterator[None]:
    """Switch the part of this name off in the forward pass, for all users of the network, until the end of the block.

    Raises:
        ValueError: the network has no such part.
    """
    parts = {part.name: part for part in parts_of(model)}
    if name not in parts:
        raise ValueError(f"{type(model).__name__} has no part {name!r}: choose among {', '.join(parts) or 'none'}")
    with ExitStack() as undo:
        # A hook on the network itself keeps the pipeline from the folded form, in which parts are merged.
        undo.callback(model.register_forward_hook(lambda *_: None).remove)
        for module, replace in parts[name].outputs.items():
            undo.callback(module.register_forward_hook(partial(_replaced, replace)).remove)
        for method, replacement in parts[name].methods.items():
            before = vars(model).get(method)  # of another part that is off
            undo.callback(*((setattr, model, method, before) if before else (delattr, model, method)))
            setattr(model, method, replacement)
        yield


def _replaced(replace: Callable[..., Any], _: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
    return replace(arguments, output)


def _zeros(_: tuple[Any, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _identity(arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    return arguments[0].to(output.dtype)


def _difffusenet_parts(model: Any) -> Iterator[Part]:
    config = model.config
    if config.use_d2fe:
        # With a timestep from the noise, this is what a noise level of 0 gives.
        bypass = {"denoise": lambda shallow, *_, **__: shallow}
        yield Part("D2FE", "F^De = F, and no residual", {model.injection: _zeros}, bypass)
        yield Part("residual", "0 at every pixel", {model.injection: _zeros})
    if config.use_edfd:
        decoupling = model.decoupling
        yield Part("shared", "CMSF = 0 (SMSF as before)", {decoupling: lambda _, out: (out[0] * 0, *out[1:])})
        yield Part(
            "specific", "SMSF = 0 for both images", {decoupling: lambda _, out: (out[0], out[1] * 0, out[2] * 0)}
        )
    if config.frequency == "haar_inn" and config.num_coupling > 0:
        yield Part("coupling", "the bands pass unchanged", dict.fromkeys(model.coupling, _identity))
    attention = getattr(model, "band_attention", None)
    if isinstance(attention, CrossFrequencyAttention):  # its gates are 2 sigmoid(...), 1 at 0
        both: tuple[nn.Module, ...] = (attention.spatial_pooled, attention.spatial_direct)
        yield Part("spatial gate", "1 everywhere", dict.fromkeys(both, _zeros))
        yield Part("channel gate", "1 everywhere", {attention.channel: _zeros})
    heads = [model.fusion_head]
    if config.detail_channels:
        yield Part("detail head", "share and correction of the patches alone", {model.detail_head: _zeros})
        heads.append(model.detail_head)
    yield Part("correction", "r = 0", dict.fromkeys(heads, _without_correction))


def _without_correction(_: tuple[Any, ...], output: Tensor) -> Tensor:
    logit, correction = output.chunk(2, dim=1)
    return torch.cat([logit, torch.zeros_like(correction)], dim=1)


def _red_parts(model: Any) -> Iterator[Part]:
    config, noise, schedule = model.config, model._noise, model._schedule
    if config.source_injection:
        blank = {"_noise": lambda t, x, *sources: noise(t, x, *map(torch.zeros_like, sources))}
        yield Part("sources", "0 beside the state in every step", methods=blank)
    if config.reversible_fusion:
        plain = {"_schedule": lambda dtype: (now := schedule(dtype))._replace(v=torch.zeros_like(now.v))}
        yield Part("wiring", "v_t = 0", methods=plain)
    attentions = [module for module in model.modules() if isinstance(module, SelfAttention2D)]
    yield Part("attention", "the features pass unchanged", dict.fromkeys(attentions, _identity))
    if config.learnable_lambda:
        last = {"_schedule": lambda dtype: (now := schedule(dtype))._replace(last=torch.ones_like(now.last))}
        yield Part("lambda", "1, so the result is x_0", methods=last)
