"""Run a small convolutional network from an ONNX file in PyTorch, with frozen weights and gradients for its input.

Only the operators of YOLOX are known; onnx2torch knows more, but it needs torchvision, which this project avoids.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Operation = Callable[..., Tensor]

_ADVICE = "give YOLOX, exported without the decoding of its boxes"


class _Node(NamedTuple):
    run: Operation
    inputs: tuple[str, ...]
    output: str


class OnnxGraph(nn.Module):
    """A network with one input and one output; the first axis of both is the batch, of any size.

    Shapes that the file states for its input do not bind: a fully convolutional network takes any height and width that
    its strides divide. The weights are buffers, so they move with `.to()`; they are not in the `state_dict`.

    Args:
        path: an ONNX file.

    Raises:
        ImportError: onnx is not installed.
        ValueError: not an ONNX file, or one with another operator than those of YOLOX.
        OSError: there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        try:
            onnx = importlib.import_module("onnx")
        except ImportError as error:
            advice = "pip install 'fusion-hub[downstream]'"
            raise ImportError(
                f"a loss through an ONNX network needs onnx, which cannot be imported: {advice}"
            ) from error
        from google.protobuf.message import DecodeError  # a dependency of onnx

        try:
            graph = onnx.load(path).graph
        except DecodeError as error:
            raise ValueError(f"{os.fspath(path)!r} is not an ONNX file: download or export it again") from error
        constants = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in graph.initializer}
        inputs = [one.name for one in graph.input if one.name not in constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            counts = f"{len(inputs)} inputs and {len(graph.output)} outputs"
            raise ValueError(f"{os.fspath(path)!r} has {counts}: give a network with one of each")
        self._input, self._output = inputs[0], graph.output[0].name
        self._nodes: list[_Node] = []
        for node in graph.node:
            attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            if node.op_type not in _OPERATIONS:
                raise ValueError(
                    f"{os.fspath(path)!r} has the operator {node.op_type!r}, but only {', '.join(_OPERATIONS)} are "
                    f"known: {_ADVICE}"
                )
            run, names = _OPERATIONS[node.op_type](attributes, list(node.input), constants)
            self._nodes.append(_Node(run, tuple(names), node.output[0]))
        self._buffer_names = {}
        for number, name in enumerate(sorted({name for node in self._nodes for name in node.inputs} & set(constants))):
            self._buffer_names[name] = f"weight_{number}"
            self.register_buffer(f"weight_{number}", constants[name], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the network, float32, for an input `(B, C, H, W)` float32."""
        values = {self._input: x} | {name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()}
        for node in self._nodes:
            values[node.output] = node.run(*(values[name] for name in node.inputs))
        return values[self._output]


# --- operators: from attributes, names of the inputs and constants to a function and the inputs that it takes ---------

Attributes = Mapping[str, Any]
Constants = Mapping[str, Tensor]
Built = tuple[Operation, Sequence[str]]


def _plain(function: Operation) -> Callable[[Attributes, list[str], Constants], Built]:
    return lambda attributes, inputs, constants: (function, inputs)


def _conv(attributes: Attributes, inputs: list[str], constants: Constants) -> Built:
    options = {
        "stride": attributes.get("strides", [1, 1]),
        "padding": _padding(attributes),
        "dilation": attributes.get("dilations", [1, 1]),
        "groups": attributes.get("group", 1),
    }
    return lambda x, weight, bias=None: F.conv2d(x, weight, bias, **options), inputs


def _max_pool(attributes: Attributes, inputs: list[str], constants: Constants) -> Built:
    size, strides, padding = attributes["kernel_shape"], attributes.get("strides", [1, 1]), _padding(attributes)
    ceil = bool(attributes.get("ceil_mode", 0))
    return lambda x: F.max_pool2d(x, size, strides, padding, ceil_mode=ceil), inputs


def _padding(attributes: Attributes) -> list[int]:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"the ONNX network pads opposite sides differently ({attributes}): {_ADVICE}")
    return [top, left]


def _concat(attributes: Attributes, inputs: list[str], constants: Constants) -> Built:
    return lambda *parts: torch.cat(parts, attributes["axis"]), inputs


def _transpose(attributes: Attributes, inputs: list[str], constants: Constants) -> Built:
    return lambda x: x.permute(attributes["perm"]), inputs


def _slice(attributes: Attributes, inputs: list[str], constants: Constants) -> Built:
    starts, ends, axes, steps = (constants[name].tolist() for name in inputs[1:])
    parts = [slice(None)] * (max(axes) + 1)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[axis] = slice(start, end, step)
    return lambda x: x[tuple(parts)], inputs[:1]


def _reshape(attributes: Attributes, inputs: list[str], constants: Constants) -> Built:
    _, *shape = constants[inputs[1]].tolist()  # the first is the batch, 1 in the file
    return lambda x: x.reshape(len(x), *shape), inputs[:1]


def _resize(attributes: Attributes, inputs: list[str], constants: Constants) -> Built:
    *_, vertical, horizontal = constants[inputs[2]].tolist()
    mode = attributes.get("mode"), attributes.get("coordinate_transformation_mode"), attributes.get("nearest_mode")
    if mode != (b"nearest", b"asymmetric", b"floor"):
        raise ValueError(f"the ONNX network resizes by {mode}, not by nearest, asymmetric, floor: {_ADVICE}")
    return lambda x: F.interpolate(x, scale_factor=(vertical, horizontal), mode="nearest"), inputs[:1]


_OPERATIONS = {
    "Add": _plain(torch.add),
    "Concat": _concat,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Transpose": _transpose,
}
