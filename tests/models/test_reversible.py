"""The wired chain against plain autograd: same values, same gradients, less memory, in every surrounding."""

import doctest
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from fusion_hub.models import reversible
from fusion_hub.models.reversible import MEMORY_MODES, WiredStep, invert_chain, wired_chain

Chain = Callable[[list[WiredStep], Tensor, Tensor], tuple[Tensor, Tensor]]

CHAINS: dict[str, Chain] = {mode: partial(wired_chain, mode=mode) for mode in MEMORY_MODES}
CHAINS["stored"] = partial(wired_chain, mode="reversible", store_states=True)
SAVING = [name for name in CHAINS if name != "none"]


def plain_chain(steps: list[WiredStep], x: Tensor, x_prev: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, for plain autograd."""
    for step in steps:
        x, x_prev = (1 - step.v) * step.body(x, *step.side) + step.v * x_prev, x
    return x, x_prev


class Block(nn.Module):
    """Changes its width for a moment; uses a side tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.wide = nn.GroupNorm(2, channels), nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        return x + self.narrow(torch.tanh(self.wide(self.norm(x)) + side.repeat(1, 2, 1, 1)))


class TwoLevels(nn.Module):
    """As in RED: DDIM steps over one network are the bodies of a chain, blocks of that network those of another."""

    def __init__(self, steps: int, outer: Chain = plain_chain, inner: Chain = plain_chain) -> None:
        super().__init__()
        self.outer, self.inner = outer, inner
        self.stem, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.blocks = nn.ModuleList(Block(4) for _ in range(3))
        self.inner_v = nn.Parameter(torch.rand(3) * 0.3 + 0.35)
        self.merge = nn.Parameter(torch.tensor(0.2))
        self.outer_v = nn.Parameter(torch.randn(steps))
        self.levels = nn.Parameter(torch.rand(steps) * 0.4 + 0.4)

    def network(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.stem(x)
        steps = [
            WiredStep(block, v, (condition * h if k else h,), tuple(block.parameters()))  # every block has a skip
            for k, (block, v) in enumerate(zip(self.blocks, self.inner_v, strict=True))
        ]
        last, before = self.inner(steps, h, self.merge * h)
        return self.head(last + self.merge * before)

    def ddim(self, x: Tensor, level: Tensor, next_level: Tensor, condition: Tensor) -> Tensor:
        noise = self.network(x, condition)
        clean = (x - (1 - level).sqrt() * noise) / level.sqrt()
        return next_level.sqrt() * clean + (1 - next_level).sqrt() * noise

    def forward(self, x: Tensor, x_prev: Tensor, condition: Tensor) -> Tensor:
        levels = torch.cat([torch.ones_like(self.levels[:1]), self.levels.cumprod(0)])
        v = 0.3 + 0.4 * self.outer_v.sigmoid()
        network = (self.stem, self.head, self.blocks)
        weights = (*(p for part in network for p in part.parameters()), self.inner_v, self.merge)
        steps = [
            WiredStep(self.ddim, v[t - 1], (levels[t], levels[t - 1], condition), weights)
            for t in range(len(self.levels), 0, -1)
        ]
        last, before = self.outer(steps, x, x_prev)
        return 0.9 * last + 0.1 * before


def two_levels(steps: int, outer: str = "", inner: str = "", dtype: torch.dtype = torch.float64) -> TwoLevels:
    """The same weights whatever the modes; an empty name is the definition."""
    torch.manual_seed(steps)
    return TwoLevels(steps, CHAINS.get(outer, plain_chain), CHAINS.get(inner, plain_chain)).to(dtype)


def inputs(dtype: torch.dtype = torch.float64, batch: int = 2, side: int = 8) -> list[Tensor]:
    """x, x_prev and the condition."""
    torch.manual_seed(1)
    sizes = ((batch, 1, side, side), (batch, 1, side, side), (batch, 4, 1, 1))
    return [torch.randn(size, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def gradients(model: nn.Module, tensors: list[Tensor]) -> dict[str, Tensor]:
    named = dict(model.named_parameters()) | {f"input {i}": tensor for i, tensor in enumerate(tensors)}
    loss = model(*tensors).square().mean()
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative distance of any tensor."""
    assert found.keys() == expected.keys() and all(tensor.norm() > 0 for tensor in expected.values())
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


@pytest.mark.parametrize("inner", SAVING)
@pytest.mark.parametrize("outer", CHAINS)
@pytest.mark.parametrize("steps", [1, 4])
def test_gradients_of_both_levels_are_those_of_plain_autograd(steps: int, outer: str, inner: str) -> None:
    expected = gradients(two_levels(steps), inputs())
    assert distance(gradients(two_levels(steps, outer, inner), inputs()), expected) < 1e-12


@pytest.mark.parametrize("keep_last", [1, 9])
@pytest.mark.parametrize("name", SAVING)
def test_kept_steps_change_no_gradient(name: str, keep_last: int) -> None:
    expected = gradients(two_levels(4), inputs())
    model = two_levels(4)
    model.outer = model.inner = partial(CHAINS[name], keep_last=keep_last)
    assert distance(gradients(model, inputs()), expected) < 1e-12


@pytest.mark.parametrize("name", SAVING)
def test_gradients_in_single_precision(name: str) -> None:
    expected = gradients(two_levels(2), inputs())
    found = gradients(two_levels(2, name, name, torch.float32), inputs(torch.float32))
    assert distance({key: tensor.double() for key, tensor in found.items()}, expected) < 1e-4


def test_values_do_not_depend_on_the_mode() -> None:
    expected = two_levels(4, "none", "none")(*inputs())
    torch.testing.assert_close(two_levels(4)(*inputs()), expected, rtol=1e-13, atol=1e-13)
    x, x_prev, _ = inputs()
    for name, chain in CHAINS.items():
        assert torch.equal(two_levels(4, name, name)(*inputs()), expected)
        assert chain([], x, x_prev) == (x, x_prev), "an empty chain returns its inputs"


@pytest.mark.parametrize("steps", [1, 8])
def test_the_inverse_gives_the_inputs_back(steps: int) -> None:
    x, x_prev, condition = inputs()
    block, v = Block(2).double(), torch.rand(steps, dtype=torch.float64) * 0.4 + 0.4
    x, x_prev, side = x.repeat(1, 2, 1, 1), x_prev.repeat(1, 2, 1, 1), condition[:, :2]
    chain = [WiredStep(block, v[k], (side,), tuple(block.parameters())) for k in range(steps)]
    ends = wired_chain(chain, x, x_prev)
    for found, expected in zip(invert_chain(chain, *ends), (x, x_prev), strict=True):
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SAVING)
@pytest.mark.parametrize("which", [0, 1])
def test_one_of_the_two_results_is_enough(name: str, which: int) -> None:
    block, v, (x, x_prev, _) = Block(2).double(), torch.tensor(0.4, dtype=torch.float64), inputs()
    side = torch.randn(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    v.requires_grad_()

    def found(chain: Chain) -> tuple[Tensor, ...]:
        steps = [WiredStep(block, v, (side,), tuple(block.parameters()))] * 3
        ends = chain(steps, x.repeat(1, 2, 1, 1), x_prev.repeat(1, 2, 1, 1))
        return torch.autograd.grad(ends[which].square().sum(), [x, x_prev, v, side, *block.parameters()])

    torch.testing.assert_close(found(CHAINS[name]), found(plain_chain), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SAVING)
def test_shared_tensors_get_the_sum(name: str) -> None:
    """One v, side tensor and weight for all steps, some twice in one step; a side tensor computed from another."""
    x, _, _ = inputs()
    weight = nn.Parameter(torch.randn(1, 1, 3, 3, dtype=torch.float64))
    v, first = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.4, 0.7))

    def body(x: Tensor, a: Tensor, b: Tensor, same_weight: Tensor, same_x: Tensor, same_a: Tensor) -> Tensor:
        y = nn.functional.conv2d(x, weight, padding=1) * a + b.sin() * same_x + same_a.exp()
        return y + nn.functional.conv2d(same_x, same_weight, padding=1)

    def found(chain: Chain) -> tuple[Tensor, ...]:
        second = first * first  # its gradient must reach `first` once
        steps = [WiredStep(body, v, (first, second, weight, x, first), (weight, weight))] * 3
        last, before = chain(steps, x, x)
        return torch.autograd.grad((last * before).sum(), [x, v, first, weight])

    torch.testing.assert_close(found(CHAINS[name]), found(plain_chain), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAVING)
def test_sums_are_not_taken_in_place(name: str) -> None:
    """Autograd hands out one and the same tensor as the gradient of all three terms."""
    x, a, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def found(chain: Chain) -> tuple[Tensor, ...]:
        steps = [WiredStep(lambda x, a, b: x + a + b, torch.tensor(0.5).double(), (a, b))] * 4
        return torch.autograd.grad(chain(steps, x, x)[0].square().sum(), [x, a, b])

    torch.testing.assert_close(found(CHAINS[name]), found(plain_chain), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAVING)
def test_only_what_needs_a_gradient_gets_one(name: str) -> None:
    """Fixed v, inputs and weight; a side tensor of integers; a parameter that no step uses."""
    x, x_prev, _ = (tensor.detach() for tensor in inputs())
    used, fixed, unused = (nn.Parameter(torch.ones(8, dtype=torch.float64) / k) for k in (2, 3, 4))
    fixed.requires_grad_(False)
    index = torch.arange(8).flip(0)

    def body(x: Tensor, index: Tensor) -> Tensor:
        return x[..., index] * used + fixed

    def found(chain: Chain) -> tuple[Tensor | None, ...]:
        steps = [WiredStep(body, torch.tensor(0.4).double(), (index,), (used, fixed, unused))] * 3
        last, before = chain(steps, x, x_prev)
        return torch.autograd.grad(last.square().sum() + before.sum(), [used, unused], allow_unused=True)

    torch.testing.assert_close(found(CHAINS[name])[0], found(plain_chain)[0], rtol=1e-12, atol=1e-12)
    assert found(CHAINS[name])[1] is None


@pytest.mark.parametrize("name", SAVING)
@pytest.mark.parametrize("body", [lambda x: x, lambda x: x.detach().sin(), lambda x: x.transpose(2, 3)])
def test_bodies_without_parameters(name: str, body: reversible.Body) -> None:
    x, x_prev, _ = inputs()
    v = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def found(chain: Chain) -> tuple[Tensor, ...]:
        last, before = chain([WiredStep(body, v)] * 4, x, x_prev)
        return torch.autograd.grad((last * before).sum(), [x, x_prev, v])

    torch.testing.assert_close(found(CHAINS[name]), found(plain_chain), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SAVING)
def test_gradients_accumulate_over_backward_passes_and_grad_is_not_written(name: str) -> None:
    model, tensors = two_levels(2, name, name), inputs()
    expected = gradients(model, tensors)
    torch.autograd.grad(model(*tensors).sum(), [model.merge])  # a part is enough
    assert all(tensor.grad is None for tensor in (*model.parameters(), *tensors))
    loss = model(*tensors).square().mean()
    loss.backward(retain_graph=True)
    loss.backward()
    model(*tensors).square().mean().backward()
    found = {key: parameter.grad / 3 for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert distance(found, {key: expected[key] for key in dict(model.named_parameters())}) < 1e-14


@pytest.mark.parametrize("name", CHAINS)
def test_without_gradients_nothing_is_kept(name: str) -> None:
    model, tensors = two_levels(3, name, name), inputs()
    expected = model(*tensors)
    with torch.no_grad():
        fused = model(*tensors)
    assert torch.equal(fused, expected) and not fused.requires_grad
    with torch.inference_mode():
        assert torch.equal(model(*tensors), expected)
    fused = model.requires_grad_(False)(*(tensor.detach() for tensor in tensors))
    assert torch.equal(fused, expected) and not fused.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_states_are_at_least_single_precision(name: str, dtype: torch.dtype) -> None:
    seen = []

    def body(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x.sin().bfloat16()

    x, x_prev, _ = inputs(dtype)
    ends = CHAINS[name]([WiredStep(body, torch.tensor(0.5, requires_grad=True))] * 2, x, x_prev)
    sum(end.sum() for end in ends).backward()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert set(seen) == {wide} and {end.dtype for end in ends} == {wide}
    assert x.grad is not None and x.grad.dtype == dtype and x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["checkpoint", "stored"])
def test_autocast_is_entered_again_in_the_backward_pass(name: str) -> None:
    """With the inputs of the bodies kept, the recomputation repeats every bf16 rounding: equal, not only close."""
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 4, 1))
    x, x_prev, v = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([0.4, 0.6], requires_grad=True)

    def found(name: str, enabled: bool = True) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled, cache_enabled=False):
            last, before = CHAINS[name]([WiredStep(net, v[k], (), tuple(net.parameters())) for k in (0, 1)], x, x_prev)
        loss = (last * before).sum()  # the backward pass runs outside, as usual
        return last, before, *torch.autograd.grad(loss, [*net.parameters(), v])

    *exact, v_grad = found("none")
    *again, again_v = found(name)
    assert all(torch.equal(*pair) for pair in zip(again, exact, strict=True))
    torch.testing.assert_close(again_v, v_grad, rtol=1e-5, atol=1e-5)  # a long sum, taken in another order
    assert not torch.equal(found(name, enabled=False)[2], exact[2])


@pytest.mark.parametrize("name", SAVING)
@pytest.mark.parametrize("keep_last", [0, 1])
def test_casts_cached_by_the_caller_do_not_lose_gradients(name: str, keep_last: int) -> None:
    """Forward and backward pass in one autocast region: a cast made without a graph must not be found again."""

    def found(name: str) -> dict[str, Tensor]:
        model, tensors = two_levels(2, name, name, torch.float32), inputs(torch.float32)
        model.outer = partial(CHAINS[name], keep_last=keep_last)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=True):
            return gradients(model, tensors)

    assert distance(found(name), found("none")) < 0.05


def test_bodies_may_be_compiled() -> None:
    net, x, v = nn.Conv2d(2, 2, 3, padding=1).double(), torch.randn(1, 2, 8, 8).double(), torch.tensor(0.4).double()
    side = torch.randn(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)

    def body(x: Tensor, side: Tensor) -> Tensor:
        return torch.tanh(net(x) * side)

    def found(chain: Chain, body: reversible.Body) -> tuple[Tensor, ...]:
        last, before = chain([WiredStep(body, v, (side,), tuple(net.parameters()))] * 3, x, x)
        return torch.autograd.grad((last * before).sum(), [side, *net.parameters()])

    compiled = torch.compile(body, backend="aot_eager")
    for name in SAVING:
        torch.testing.assert_close(found(CHAINS[name], compiled), found(plain_chain, body), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAVING)
def test_saved_tensors_may_be_moved_away(name: str) -> None:
    """Hooks that hand back copies, as those that offload activations do."""
    expected = gradients(two_levels(2, name, name), inputs())
    with torch.autograd.graph.save_on_cpu(), torch.autograd.graph.saved_tensors_hooks(Tensor.clone, lambda x: x):
        assert distance(gradients(two_levels(2, name, name), inputs()), expected) < 1e-14


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", SAVING)
def test_a_chain_may_be_recomputed_itself(name: str, reentrant: bool) -> None:
    model, tensors = two_levels(2, name, name), inputs()
    expected = gradients(model, tensors)
    model.zero_grad()
    checkpoint(model, *tensors, use_reentrant=reentrant).square().mean().backward()
    named = list(model.named_parameters()) + [(f"input {i}", tensor) for i, tensor in enumerate(tensors)]
    assert distance({key: tensor.grad for key, tensor in named}, expected) < 1e-14


class SavedBytes:
    """Bytes of distinct storages that are saved for backward, parameters aside: now, and at the worst moment."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.now = self.peak = 0
        self.uses: dict[int, int] = {parameter.untyped_storage().data_ptr(): 1 for parameter in parameters}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(partial(_Saved, self), lambda saved: saved.tensor)

    def count(self, tensor: Tensor, change: int) -> None:
        storage = tensor.untyped_storage()
        before = self.uses.get(storage.data_ptr(), 0)
        self.uses[storage.data_ptr()] = before + change
        if 0 in (before, before + change):
            self.now += change * storage.nbytes()
            self.peak = max(self.peak, self.now)


class _Saved:
    def __init__(self, total: SavedBytes, tensor: Tensor) -> None:
        self.total, self.tensor = total, tensor.detach()
        total.count(tensor, 1)

    def __del__(self) -> None:
        self.total.count(self.tensor, -1)


def saved_bytes(steps: int, outer: str, inner: str) -> tuple[int, int]:
    """Kept between forward and backward, and the peak with the recomputation."""
    model, tensors = two_levels(steps, outer, inner), inputs(side=32)
    saved = SavedBytes(model.parameters())
    with saved.hooks():
        loss = model(*tensors).square().mean()
        kept = saved.now
        loss.backward()
    del loss
    assert saved.now == 0
    return kept, saved.peak


def test_memory_does_not_grow_with_the_steps() -> None:
    none = {steps: saved_bytes(steps, "none", "none") for steps in (2, 4, 8)}
    assert none[8][1] > 3.9 * none[2][1]
    both = {steps: saved_bytes(steps, "reversible", "reversible") for steps in (2, 8)}
    assert both[8][0] < 1.02 * both[2][0] and both[8][1] < 1.02 * both[2][1]
    assert both[8][1] < 0.25 * none[4][1]
    image = 2 * 32 * 32 * 8
    for outer in ("stored", "checkpoint"):  # one image for each step
        kept = {steps: saved_bytes(steps, outer, "reversible")[0] for steps in (2, 8)}
        assert kept[8] - kept[2] == pytest.approx(6 * image, rel=0.05)
    assert saved_bytes(2, "reversible", "none")[1] > 1.5 * both[2][1]  # the second level matters too


def _train_in_parallel(rank: int, world: int, folder: str) -> None:
    """One process of two: its half of the batch, two accumulated backward passes."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(minutes=2))
    for name in SAVING:
        model = DistributedDataParallel(two_levels(2, name, name))
        tensors = [tensor.detach() for tensor in inputs(batch=4)]
        halves = [tensor.chunk(world)[rank] for tensor in tensors]
        with model.no_sync():
            model(*halves).square().mean().backward()
        model(*(half.flip(-1) for half in halves)).square().mean().backward()
        if rank == 0:
            torch.save({key: p.grad for key, p in model.module.named_parameters()}, f"{folder}/{name}.pt")
    dist.barrier()
    os._exit(0)  # tearing Gloo down waits, with Python's lock, for a thread that may want that lock


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_in_parallel, (2, str(tmp_path)), nprocs=2)
    model, tensors = two_levels(2), [tensor.detach() for tensor in inputs(batch=4)]
    for batch in (tensors, [tensor.flip(-1) for tensor in tensors]):
        model(*batch).square().mean().backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    for name in SAVING:
        assert distance(torch.load(tmp_path / f"{name}.pt", weights_only=True), expected) < 1e-12


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(reversible) == (0, 10)


def chain_of(**fields: Any) -> list[WiredStep]:
    return [WiredStep(**({"body": torch.sin, "v": torch.tensor(0.5)} | fields))]


@pytest.mark.parametrize(
    ("steps", "settings", "message"),
    [
        (chain_of(), {"mode": "invert"}, "mode must be one of reversible, checkpoint, none, got 'invert'"),
        (chain_of(), {"x_prev": torch.ones(2, 1)}, r"x \(2, 3\) and x_prev \(2, 1\) must have one shape"),
        (chain_of(), {"keep_last": -1}, "keep_last must be at least 0, got -1"),
        (chain_of(v=torch.ones(2)), {}, r"v of step 0 must be a 0-dim tensor, got \(2,\)"),
        (chain_of(v=0.5), {}, r"v of step 0 must be a 0-dim tensor, got 0\.5: .* torch.tensor"),
        (chain_of(body=lambda x: x[:1]), {}, r"keep the shape of its state: got \(2, 3\), returned \(1, 3\)"),
        (
            chain_of(parameters=(torch.ones(3, requires_grad=True).exp(),)),
            {},
            r"parameters\[0\] of step 0, shape \(3,\), was computed from other tensors: .* WiredStep.side",
        ),
    ],
)
def test_wrong_arguments_are_named(steps: list[WiredStep], settings: dict[str, Any], message: str) -> None:
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        wired_chain(steps, **({"x": x, "x_prev": x} | settings))


@pytest.mark.parametrize("name", SAVING)
def test_a_hidden_tensor_is_an_error_not_a_missing_gradient(name: str) -> None:
    x, hidden = torch.ones(2, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    for body in (lambda x: x * hidden, lambda x: x * hidden.exp()):
        last, _ = CHAINS[name](chain_of(body=body), x, x)
        with pytest.raises(RuntimeError, match=r"tensor of shape \(3,\) that needs a gradient and is not listed"):
            last.sum().backward()


@pytest.mark.parametrize("name", SAVING)
def test_no_second_derivative(name: str) -> None:
    model, tensors = two_levels(2, name, name), inputs()
    with pytest.raises(RuntimeError, match=r"no second derivative: .* mode='none'"):
        torch.autograd.grad(model(*tensors).sum(), tensors, create_graph=True)
    model = two_levels(2, "none", "none")
    torch.autograd.grad(torch.autograd.grad(model(*tensors).sum(), tensors, create_graph=True)[0].sum(), tensors)


@pytest.mark.parametrize("name", SAVING)
def test_a_step_of_the_optimizer_in_between_is_an_error(name: str) -> None:
    model, tensors = two_levels(2, name, name), inputs()
    loss = model(*tensors).sum()
    with torch.no_grad():
        model.head.weight.add_(1)
    with pytest.raises(RuntimeError, match=r"shape \(1, 4, 3, 3\) was changed in place between"):
        loss.backward()
