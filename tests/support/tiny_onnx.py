"""YOLO files of a few nodes: each cell's scores are the mean red and the mean blue of its pixels, its box is the cell.

So what is found shows the order of the channels, the scale of the values, and where the letterbox put the picture.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fusion_hub.downstream.yolo import Family, grid

STRIDES = (8, 16, 32)
BLUR = np.random.default_rng(0).uniform(0, 1, (1, 2, 9, 9)).astype(np.float32)
BLUR /= BLUR.sum()


def write_yolo(
    path: Path,
    family: Family,
    size: tuple[int, int] = (64, 96),
    *,
    metadata: dict[str, str] | None = None,
    input_shape: Sequence[int | str | None] | None = None,
    output_shape: Sequence[int | str | None] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> Path:
    """An ONNX file with two classes; names are written unless `metadata` says otherwise."""
    precision = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
    nodes, constants = _scores(family, dtype)
    cells, strides = grid(size, STRIDES)
    shape = _place(nodes, constants, family, cells, strides, dtype)
    if output_shape:
        _hide_shape(nodes, constants, shape)
    outputs = [helper.make_tensor_value_info("output", precision, output_shape or shape)]
    inputs = [helper.make_tensor_value_info("images", precision, input_shape or (1, 3, *size))]
    names = {"names": "{0: 'red', 1: 'blue'}"}
    return _save(path, nodes, inputs, outputs, constants, names if metadata is None else metadata)


def _hide_shape(nodes: list[Any], constants: list[Any], shape: tuple[int, ...]) -> None:
    """Let the length of the last axis follow from the pixels, as far as onnxruntime can know before it runs."""
    nodes[-1].output[0] = "all"
    constants += [
        numpy_helper.from_array(np.array(-1, dtype=np.float32), "least"),
        numpy_helper.from_array(np.array(shape[-1:], dtype=np.int64), "length"),
    ]
    nodes += [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "least"], ["true"]),
        helper.make_node("Expand", ["true", "length"], ["which"]),
        helper.make_node("Compress", ["all", "which"], ["output"], axis=2),
    ]


def write_constant(
    path: Path,
    input_shape: Sequence[int],
    *outputs: np.ndarray,
    input_type: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> Path:
    """An ONNX file that returns the same arrays whatever it is shown."""
    constants = [numpy_helper.from_array(value, f"value{i}") for i, value in enumerate(outputs)]
    nodes = [helper.make_node("Identity", [f"value{i}"], [f"output{i}"]) for i in range(len(outputs))]
    infos = [
        helper.make_tensor_value_info(f"output{i}", constant.data_type, value.shape)
        for i, (constant, value) in enumerate(zip(constants, outputs, strict=True))
    ]
    inputs = [helper.make_tensor_value_info("images", input_type, input_shape)]
    return _save(path, nodes, inputs, infos, constants, metadata or {})


def write_fusion_network(path: Path, pipe: Any, **facts: Any) -> Path:
    """A file for `FusionSession`: one convolution; an adaptive network makes the result darker by both noise levels."""
    image, level = ["batch", 1, "height", "width"], ["batch", 2]
    values = {"visible": image, "infrared": image}
    nodes = [
        helper.make_node("Concat", ["visible", "infrared"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "kernel"], ["blurred"], pads=[4] * 4),
    ]
    constants = [numpy_helper.from_array(BLUR, "kernel")]
    if facts.get("adaptive"):
        values["noise_level"] = level
        constants.append(numpy_helper.from_array(np.array([-1, 1, 1, 1]), "shape"))
        nodes.append(helper.make_node("ReduceSum", ["noise_level", "last"], ["sum"], keepdims=1))
        constants.append(numpy_helper.from_array(np.array([1]), "last"))
        nodes.append(helper.make_node("Reshape", ["sum", "shape"], ["offset"]))
        nodes.append(helper.make_node("Sub", ["blurred", "offset"], ["fused"]))
    else:
        nodes.append(helper.make_node("Identity", ["blurred"], ["fused"]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
    outputs = [helper.make_tensor_value_info("fused", TensorProto.FLOAT, image)]
    known = {"format": 1, "model": "blur", "network": "difffusenet", "multiple": pipe.model.multiple}
    known |= {"tile_multiple": pipe.model.tile_multiple, "receptive_margin": pipe.model.receptive_margin}
    known |= {"infrared_range": "auto", "adaptive": False, "license": "Apache-2.0", "version": "0.1.0"}
    return _save(path, nodes, infos, outputs, constants, {"fusion_hub": json.dumps(known | facts)})


def _save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any], metadata: dict[str, str]
) -> Path:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _scores(family: Family, dtype: str) -> tuple[list[Any], list[Any]]:
    """Nodes that end in `scores` `(1, 2, cells)`: mean red and mean blue in 0..1."""
    red_and_blue = [2, 0] if family == "yolox" else [0, 2]  # YOLOX takes BGR
    scale = 255 if family == "yolox" else 1
    constants = [
        numpy_helper.from_array(np.array(red_and_blue, dtype=np.int64), "channels"),
        numpy_helper.from_array(np.array(scale, dtype=dtype), "scale"),
        numpy_helper.from_array(np.array([0, 0, -1], dtype=np.int64), "flat"),
    ]
    nodes = [
        helper.make_node("Gather", ["images", "channels"], ["two"], axis=1),
        helper.make_node("Div", ["two", "scale"], ["unit"]),
    ]
    for stride in STRIDES:
        nodes += [
            helper.make_node(
                "AveragePool", ["unit"], [f"mean{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("Reshape", [f"mean{stride}", "flat"], [f"cells{stride}"]),
        ]
    nodes.append(helper.make_node("Concat", [f"cells{stride}" for stride in STRIDES], ["scores"], axis=2))
    return nodes, constants


def _place(
    nodes: list[Any], constants: list[Any], family: Family, cells: np.ndarray, strides: np.ndarray, dtype: str
) -> tuple[int, ...]:
    """Add the boxes, and objectness 1 where the family has it, in its layout; returns the shape of the output."""
    count = len(cells)
    if family == "yolox":
        places = np.tile([[0.5, 0.5, 0, 0, 1]], (count, 1))
    else:
        places = np.concatenate([(cells + 0.5) * strides, strides, strides], axis=1)
        places = places if family == "yolov8" else np.concatenate([places, np.ones((count, 1))], axis=1)
    constants.append(numpy_helper.from_array(places.T[None].astype(dtype), "places"))
    nodes.append(helper.make_node("Concat", ["places", "scores"], ["columns"], axis=1))
    if family == "yolov8":
        nodes.append(helper.make_node("Identity", ["columns"], ["output"]))
        return (1, 6, count)
    nodes.append(helper.make_node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]))
    if family == "yolox":
        nodes.append(helper.make_node("Identity", ["rows"], ["output"]))
        return (1, count, 7)
    nodes.append(helper.make_node("Concat", ["rows"] * 3, ["output"], axis=1))  # three anchors that agree
    return (1, 3 * count, 7)
