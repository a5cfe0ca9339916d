"""Reversible chains: training memory that does not grow with the number of steps.

A wired chain gives every step a second connection that skips it: with a body f_k and a scalar v_k,

    x_{k+1} = (1 - v_k) f_k(x_k) + v_k x_{k-1}        so that        x_{k-1} = (x_{k+1} - (1 - v_k) f_k(x_k)) / v_k .

The last two states therefore determine all earlier ones, whatever f_k is. The forward pass keeps these two and no
activation of any body; the backward pass walks the chain from its end, runs each body once more, and recovers the state
before it. RED (arXiv 2601.20260) uses this twice: in "Reverse I" a body is one diffusion step through the whole U-Net,
in "Reverse II" (eq. 2 and 3) one block of that U-Net. The wiring is that of Re2TAL (Zhao et al., CVPR 2023) and of
Invertible Diffusion Models (Chen et al., TPAMI 2025). Chains nest: the body of an outer chain may run inner chains.

A chain around any noise predictor, here a convolution, with learnable noise levels:

>>> import torch
>>> from torch import nn
>>> unet, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 16, 16)
>>> v = nn.Parameter(torch.full((8,), 0.5))
>>> levels = nn.Parameter(torch.linspace(0.9, 0.1, 8))  # alpha bar, the cleanest first
>>> def ddim(x, level, next_level):
...     noise = unet(x)
...     clean = (x - (1 - level).sqrt() * noise) / level.sqrt()
...     return next_level.sqrt() * clean + (1 - next_level).sqrt() * noise
>>> steps = [
...     WiredStep(ddim, v[t], side=(levels[t], levels[t - 1]), parameters=tuple(unet.parameters()))
...     for t in range(7, 0, -1)
... ]
>>> last, before = wired_chain(steps, x, x)
>>> (last + 0.1 * before).square().mean().backward()  # as much memory as one step
>>> all(tensor.grad is not None for tensor in (*unet.parameters(), v, levels))
True
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fusion_hub.models.layers import check_choice

MEMORY_MODES = ("reversible", "checkpoint", "none")
"""Invert the chain; keep the inputs of the bodies and run the bodies again; plain autograd."""

Body = Callable[..., Tensor]
"""`body(x, *side)`: a tensor of the shape of `x`, of any floating dtype."""


@dataclass(frozen=True, eq=False)
class WiredStep:
    """One step, `x_next = (1 - v) body(x, *side) + v x_prev`.

    Attributes:
        body: `body(x, *side)` returns a tensor of the shape of `x`. It runs twice, so it must be deterministic (no
            dropout), without side effects (no running statistics), and must not change its arguments.
        v: 0-dim tensor, a parameter or a function of one. Inversion divides by it: rounding errors of the states grow
            by up to 1 / v for each inverted step. Use 0.3 or more, or store the states.
        side: every other tensor of the body that may need a gradient, of any shape and dtype: skip features, a time
            embedding, noise levels, conditions. Several steps may share a tensor.
        parameters: the parameters that the body closes over, `tuple(module.parameters())`. Steps may share them.
    """

    body: Body
    v: Tensor
    side: tuple[Tensor, ...] = ()
    parameters: tuple[Tensor, ...] = ()


def wired_chain(
    steps: Sequence[WiredStep],
    x: Tensor,
    x_prev: Tensor,
    *,
    mode: str = "reversible",
    store_states: bool = False,
    keep_last: int = 0,
) -> tuple[Tensor, Tensor]:
    """Run `x, x_prev = (1 - step.v) * step.body(x, *step.side) + step.v * x_prev, x` for each step.

    All modes compute the same values. They differ in what they keep for the backward pass:

    - `"reversible"`: the last two states, whatever the number of steps. Exact up to rounding, which grows with the
      number of inverted steps: with bodies in bfloat16 use it for few steps or with `store_states`.
    - `"reversible"` with `store_states=True`: all states. Exact, for one image per step; meant for an outer chain,
      whose states are images, around inner chains, whose states are features.
    - `"checkpoint"`: all states, which are the inputs of the bodies. Exact. For one chain it is the same as
      `store_states`; as the mode of a whole model the inner chains are not inverted either.
    - `"none"`: plain autograd, every activation of every body.

    In the first three a body runs twice. Gradients of `x`, `x_prev`, all `v`, `side` and `parameters` are returned to
    autograd, once for each distinct tensor; nothing is written into `.grad`. So DistributedDataParallel, gradient
    accumulation, `torch.autograd.grad`, a `torch.compile`d body and saved-tensor hooks work as in plain autograd.
    There is no second derivative. A `register_hook` on a parameter is called for each step and then with the sum.

    The bodies run under the autocast of the caller, in the backward pass too, but without its cache of weight casts: a
    cast made in the forward pass has no graph, and some versions of PyTorch use it in the backward pass.

    Args:
        steps: in order; an empty chain returns its inputs.
        x: floating, any shape. States are kept in float32, or in float64 if `x` or `x_prev` is float64; a body gets
            states of that dtype and may return another.
        x_prev: the state before `x`, of its shape; may be `x` itself.
        mode: one of `MEMORY_MODES`.
        store_states: keep the states in `"reversible"`; without effect in the other modes.
        keep_last: number of steps at the end that run by plain autograd, whatever the mode. The backward pass begins
            with them and would run them again at once: where the chain is the last thing before the loss, keeping one
            step saves its second run and does not raise the largest memory of the whole pass.

    Returns:
        The last state and the last but one, in the states' dtype.

    Raises:
        ValueError: for an unknown mode, a negative `keep_last`, `x` and `x_prev` of different shapes, a `v` that is no
            0-dim tensor, one of `parameters` that is itself computed from others, or a body that changes the shape.
        RuntimeError: in the backward pass, if a body uses a tensor that needs a gradient and is neither `side` nor
            `parameters`, if a parameter was changed since the forward pass, or for `create_graph=True`.
    """
    _check(steps, x, x_prev, mode)
    if keep_last < 0:
        raise ValueError(f"keep_last must be at least 0, got {keep_last}")
    dtype = torch.float64 if torch.float64 in (x.dtype, x_prev.dtype) else torch.float32
    x, x_prev = x.to(dtype), x_prev.to(dtype)
    if mode == "none" or not torch.is_grad_enabled():
        return _run(steps, x, x_prev)
    first = max(len(steps) - keep_last, 0)
    plan, tensors = _plan(steps[:first], store_states or mode == "checkpoint", x.device.type)
    learns = any(tensor.requires_grad for tensor in (x, x_prev, *tensors))
    if learns and first:
        x, x_prev = _WiredChain.apply(plan, x, x_prev, *tensors)
    else:
        x, x_prev = _run(steps[:first], x, x_prev)
    with plan.autocast():  # otherwise chains inside of these bodies find casts that were cached without a graph
        return _run(steps[first:], x, x_prev)


def _run(steps: Sequence[WiredStep], x: Tensor, x_prev: Tensor) -> tuple[Tensor, Tensor]:
    for step in steps:
        x, x_prev = _mix(_evaluate(step.body, x, step.side), x_prev, step.v), x
    return x, x_prev


def invert_chain(steps: Sequence[WiredStep], x: Tensor, x_prev: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs `(x, x_prev)` of `wired_chain` from its results `(x, x_prev)`, without a graph; same errors."""
    _check(steps, x, x_prev, "reversible")
    x, x_prev = x.detach(), x_prev.detach()
    with torch.no_grad():
        for step in reversed(steps):
            x, x_prev = x_prev, _unmix(x, _evaluate(step.body, x_prev, step.side), step.v)
    return x, x_prev


@dataclass(frozen=True, eq=False)
class _PlannedStep:
    """A step whose tensors are positions in the list of distinct tensors."""

    body: Body
    v: int
    side: tuple[int, ...]
    parameters: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Everything that the autograd function needs besides tensors, which would outlive the graph.

    `autocast` enters the autocast state of the caller again where the bodies run.
    """

    steps: tuple[_PlannedStep, ...]
    first_parameter: int
    stores: bool
    autocast: Callable[[], AbstractContextManager[Any]]


def _plan(steps: Sequence[WiredStep], stores: bool, device_type: str) -> tuple[_Plan, list[Tensor]]:
    """The plan and the distinct tensors: a parameter of all steps gets one gradient, not one for each step."""
    # By identity and by role: a side tensor is detached before the body gets it, a parameter is not.
    tensors: list[Tensor] = []
    positions: list[dict[int, int]] = []
    for role in (
        [step.v for step in steps],
        [tensor for step in steps for tensor in step.side],
        [tensor for step in steps for tensor in step.parameters],
    ):
        distinct = {id(tensor): tensor for tensor in role}
        positions.append({key: i for i, key in enumerate(distinct, len(tensors))})
        tensors += distinct.values()
    v_at, side_at, parameter_at = positions
    planned = tuple(
        _PlannedStep(
            step.body,
            v_at[id(step.v)],
            tuple(side_at[id(tensor)] for tensor in step.side),
            tuple(parameter_at[id(tensor)] for tensor in step.parameters),
        )
        for step in steps
    )
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    if torch.amp.is_autocast_available(device_type):
        enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
        autocast = partial(torch.autocast, device_type, dtype, enabled, cache_enabled=False)
    return _Plan(planned, len(tensors) - len(parameter_at), stores, autocast), tensors


class _WiredChain(torch.autograd.Function):
    """`tensors` are the distinct v, then side tensors, then parameters."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, x_prev: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        states = [x_prev, x]
        with plan.autocast():
            for step in plan.steps:
                y = _evaluate(step.body, states[-1], [tensors[i] for i in step.side])
                states.append(_mix(y, states[-2], tensors[step.v]))
                if not plan.stores:
                    del states[0]
        ctx.plan = plan
        # Parameters are not saved: a saved-tensor hook may return copies, and the body uses the originals.
        ctx.parameters = tensors[plan.first_parameter :]
        ctx.versions = [parameter._version for parameter in ctx.parameters]
        kept = states[:-1] if plan.stores else states  # the last state is needed for inversion only
        ctx.save_for_backward(*tensors[: plan.first_parameter], *kept)
        return states[-1], states[-2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_prev: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("wired_chain has no second derivative: for create_graph=True use mode='none'")
        for parameter, version in zip(ctx.parameters, ctx.versions, strict=True):
            if parameter._version != version:
                raise RuntimeError(
                    f"a parameter of shape {tuple(parameter.shape)} was changed in place between the forward and the "
                    "backward pass of wired_chain, which runs the bodies again: call backward before the optimizer's "
                    "step"
                )
        plan: _Plan = ctx.plan
        needs = ctx.needs_input_grad[3:]
        inputs = ctx.saved_tensors  # unpacked once, it may have to come back from elsewhere
        states = list(inputs[plan.first_parameter :])
        inputs = inputs[: plan.first_parameter]
        # Detached: a gradient must stop at the inputs of the chain even where one was computed from another.
        leaves = (tensor.detach().requires_grad_(need) for tensor, need in zip(inputs, needs, strict=False))
        tensors = [*leaves, *ctx.parameters]
        sums: list[Tensor | None] = [None] * len(tensors)

        for k in range(len(plan.steps) - 1, -1, -1):
            step = plan.steps[k]
            v = tensors[step.v].detach().to(grad)
            after = None if plan.stores else states.pop()
            x = states.pop().detach().requires_grad_(k > 0 or ctx.needs_input_grad[1])
            y, grad_x = _replay(plan, step, x, tensors, (1 - v) * grad, sums)
            x_prev = states[-1] if after is None else _unmix(after, y, v)
            if needs[step.v]:
                _add(sums, step.v, ((x_prev - y) * grad).sum().to(tensors[step.v]))
            if after is not None:
                states = [x_prev, x.detach()]
            grad, grad_prev = grad_prev if grad_x is None else grad_prev + grad_x, v * grad
        return None, grad, grad_prev, *sums


def _replay(
    plan: _Plan, step: _PlannedStep, x: Tensor, tensors: list[Tensor], cotangent: Tensor, sums: list[Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """Run a body again and back; add its gradients to `sums`. Returns its output and the gradient of `x`.

    The graph of the body is freed with this call, before the next body runs.
    """
    positions = (*step.side, *step.parameters)
    with torch.enable_grad(), plan.autocast():
        y = _evaluate(step.body, x, [tensors[i] for i in step.side])
    if not y.requires_grad:
        return y, None
    _check_listed(y, [x, *(tensors[i] for i in positions)])
    wanted = [i for i in dict.fromkeys(positions) if tensors[i].requires_grad]  # each once: a body may get one twice
    inputs = [*([x] if x.requires_grad else []), *(tensors[i] for i in wanted)]
    grads = list(torch.autograd.grad(y, inputs, cotangent.to(y.dtype), allow_unused=True))
    grad_x = grads.pop(0) if x.requires_grad else None
    for i, grad in zip(wanted, grads, strict=True):
        if grad is not None:
            _add(sums, i, grad)
    return y.detach(), grad_x


def _evaluate(body: Body, x: Tensor, side: Sequence[Tensor]) -> Tensor:
    y = body(x, *side)
    if y.shape != x.shape:
        raise ValueError(f"a body must keep the shape of its state: got {tuple(x.shape)}, returned {tuple(y.shape)}")
    return y


def _mix(y: Tensor, x_prev: Tensor, v: Tensor) -> Tensor:
    """(1 - v) y + v x_prev, in one pass."""
    return torch.lerp(y.to(x_prev.dtype), x_prev, v.to(x_prev))


def _unmix(x_next: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """(x_next - (1 - v) y) / v, which is y + (x_next - y) / v."""
    return torch.lerp(y.to(x_next.dtype), x_next, 1 / v.to(x_next))


def _add(sums: list[Tensor | None], i: int, grad: Tensor) -> None:
    total = sums[i]
    sums[i] = grad if total is None else total + grad  # not in place: autograd may have returned one tensor twice


def _check(steps: Sequence[WiredStep], x: Tensor, x_prev: Tensor, mode: str) -> None:
    check_choice("mode", mode, MEMORY_MODES)
    if x.shape != x_prev.shape:
        raise ValueError(f"x {tuple(x.shape)} and x_prev {tuple(x_prev.shape)} must have one shape")
    for k, step in enumerate(steps):
        if not isinstance(step.v, Tensor) or step.v.ndim:
            got = tuple(step.v.shape) if isinstance(step.v, Tensor) else repr(step.v)
            raise ValueError(f"v of step {k} must be a 0-dim tensor, got {got}: index a vector, or torch.tensor(0.5)")
        for i, parameter in enumerate(step.parameters):
            if not parameter.is_leaf:
                raise ValueError(
                    f"parameters[{i}] of step {k}, shape {tuple(parameter.shape)}, was computed from other tensors: "
                    "pass it to the body through WiredStep.side"
                )


def _check_listed(y: Tensor, listed: list[Tensor]) -> None:
    """Raise a RuntimeError if the graph of a body has a leaf that is not listed: its gradient would be lost."""
    known = {id(tensor) for tensor in listed}
    pending, seen = [y.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of the node that would write .grad
        if isinstance(variable, Tensor) and id(variable) not in known:
            raise RuntimeError(
                f"a body uses a tensor of shape {tuple(variable.shape)} that needs a gradient and is not listed: add "
                "it to WiredStep.parameters, or pass it to the body through WiredStep.side"
            )
        pending.extend(parent for parent, _ in node.next_functions)
