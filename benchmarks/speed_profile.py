"""Where the time of one of our networks goes, by kind of operation: `speed.py --profile`.

The network is in the form that the pipelines run. Times of operators are torch.profiler's self CPU time: what the
calling thread spends in each, including its waits for the other threads. Activations and additions that run inside
oneDNN's convolutions count as convolution. The floor is the time of the same convolutions and matrix products alone,
one by one, on tensors of the same sizes and layouts, without those activations and additions.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import common
import networks
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fusion_hub.evaluation.report import markdown_table

CONVOLUTION, PRODUCT, OTHER = "convolution", "matrix product", "other"
KINDS = {
    CONVOLUTION: "_convolution_pointwise mkldnn_convolution convolution _convolution conv2d _slow_conv2d_forward",
    PRODUCT: "_linear_pointwise mm addmm bmm baddbmm matmul linear scaled_dot_product_attention "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math",
    "activation": "gelu silu sigmoid tanh relu leaky_relu softmax _softmax exp hardtanh",
    "norm": "layer_norm native_layer_norm group_norm native_group_norm batch_norm native_batch_norm",
    "element-wise": "add sub rsub mul div addcmul lerp abs neg square pow sqrt rsqrt maximum minimum where clamp",
    "layout, copies": "copy clone contiguous to _to_copy view _unsafe_view reshape permute transpose t expand slice "
    "select narrow split chunk unbind flatten unflatten unsqueeze squeeze alias as_strided resize roll repeat fill "
    "zero pixel_shuffle pixel_unshuffle empty empty_like empty_strided",
    "concatenation": "cat stack",
    "pooling, resizing, padding": "avg_pool2d max_pool2d upsample_nearest2d upsample_bilinear2d interpolate pad "
    "replication_pad2d reflection_pad2d constant_pad_nd",
}
"""Kinds of operations and the names of their operators, without the underscore of those in place."""
_KIND_OF = {operator: kind for kind, operators in KINDS.items() for operator in operators.split()}


def kind_of(operator: str) -> str:
    """The kind of an operator named as `aten::mul_`."""
    return _KIND_OF.get(operator.split("::")[-1].rstrip("_"), OTHER)


def profile_kinds(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds of each kind, median over calls."""
    sums: dict[str, list[float]] = {kind: [0.0] * repeats for kind in (*KINDS, OTHER)}
    for number in range(repeats):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            call()
        for event in profiler.key_averages():
            sums[kind_of(event.key)][number] += event.self_cpu_time_total / 1000
    return {kind: statistics.median(values) for kind, values in sums.items()}


class Recorder(TorchDispatchMode):
    """Keeps the convolutions and matrix products that run under it, as calls that can be repeated without the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator; keep it with sizes and layouts in place of its tensors."""
        if kind_of(func._schema.name) in (CONVOLUTION, PRODUCT):
            self.calls.append(_alone(func, args))
        return func(*args, **(kwargs or {}))


class Layout(tuple[Any, ...]):
    """Size, strides and dtype of a tensor."""

    def tensor(self) -> Tensor:
        """Random values in that layout."""
        size, strides, dtype = self
        elements = 1 + sum((side - 1) * stride for side, stride in zip(size, strides, strict=True))
        return torch.rand(elements).to(dtype).as_strided(size, strides)


def _alone(func: Any, args: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """An operator and its arguments without the activation or addition that runs inside, tensors as `Layout`."""
    if func._schema.name == "mkldnn::_convolution_pointwise_":  # adds to its first argument
        func, args = torch.ops.mkldnn._convolution_pointwise.default, (*args[1:8], "none", [], "")
    elif func._schema.name == "mkldnn::_convolution_pointwise":
        args = (*args[:7], "none", [], "")
    elif func._schema.name == "mkldnn::_linear_pointwise":
        args = (*args[:3], "none", [], "")
    packed = torch._mkldnn  # type: ignore[attr-defined]  # weights in oneDNN's own layout stay as they are
    return func, tuple(
        Layout((tuple(x.shape), x.stride(), x.dtype)) if isinstance(x, Tensor) and x.layout != packed else x
        for x in args
    )


def time_alone(call: Callable[[], Any], repeats: int, warm_up: int) -> dict[str, float]:
    """The floor: how many convolutions and matrix products a call has, how many differ, their milliseconds alone."""
    with Recorder() as recorder:
        call()
    groups: dict[str, list[tuple[Any, tuple[Any, ...]]]] = defaultdict(list)
    for func, args in recorder.calls:
        # Weights in oneDNN's layout have no strides, so their size stands for them.
        key = [tuple(x.shape) if isinstance(x, Tensor) else x for x in args]
        groups[f"{func} {key}"].append((func, args))
    total = 0.0
    for calls in groups.values():
        func, args = calls[0]
        tensors = [x.tensor() if isinstance(x, Layout) else x for x in args]
        ((walls, _),) = common.time_in_turn([partial(func, *tensors)], repeats, warm_up)
        total += len(calls) * statistics.median(walls)
    return {"calls": len(recorder.calls), "different": len(groups), "ms": 1000 * total}


@torch.no_grad()
def measure(
    name: str,
    dtype: str,
    *,
    threads: int = 2,
    repeats: int = 10,
    warm_up: int = 3,
    height: int,
    width: int,
) -> dict[str, Any]:
    """Milliseconds of one call, of its operators by kind, and of its convolutions and matrix products alone; CPU."""
    torch.set_num_threads(threads)
    model = networks.build_model(name, "cpu", networks.DTYPES[dtype])
    folded = networks.inference_form(model)
    network = model if folded is None else folded
    pair = networks.luminance_pair(height, width, "cpu", networks.DTYPES[dtype])
    ((walls, _),) = common.time_in_turn([lambda: network(*pair)], repeats, warm_up)
    return {
        "network": name,
        "dtype": dtype,
        "form": "eager" if folded is None else "folded",
        "size": [width, height],
        "call_ms": 1000 * statistics.median(walls),
        "kinds": profile_kinds(lambda: network(*pair), repeats),
        "floor": time_alone(lambda: network(*pair), repeats, warm_up),
    }


def table(row: dict[str, Any]) -> str:
    """One network as a sentence and a Markdown table."""
    floor, call, kinds = row["floor"], row["call_ms"], row["kinds"]
    whole = sum(kinds.values())
    ordered = sorted(kinds.items(), key=lambda item: -item[1])
    lines = [(kind, f"{ms:.1f}", f"{ms / whole:.0%}") for kind, ms in (*ordered, ("all", whole))]
    width, height = row["size"]
    sentence = (
        f"{row['network']}, {row['form']}, {row['dtype']}, {width}x{height}: {call:.1f} ms. Its {floor['calls']} "
        f"convolutions and matrix products ({floor['different']} different ones) alone take {floor['ms']:.1f} ms, "
        f"{floor['ms'] / call:.0%} of it. By kind, under the profiler:"
    )
    return sentence + "\n\n" + markdown_table(("kind", "ms", "share"), lines)
