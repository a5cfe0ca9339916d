#!/usr/bin/env bash
# OpenVINO's CPU plugin adds a bias after a sum over the last axis along the wrong axis, without an error.
#
# Packages: openvino==2026.4.1, onnx==1.23.2, onnxruntime==1.32.0, numpy==2.4.6; Python 3.11, x86-64.
# Behavior: ReduceSum, ReduceMean or ReduceMax over the last axis of an (N, C, K) tensor with keepdims=0, then Add or
#   Mul with a vector of C values: example n of the batch gets value n of the vector in all its C channels. With
#   keepdims=1 and Squeeze, and over the middle axis of (N, K, C), the result is right.
# Who is hurt: exporters of networks that end a reduction in a bias or a scale (pooling over tokens, a linear layer
#   written as product and sum, per-channel statistics). The file converts and runs; only the numbers are wrong.
# Output seen:
#     ReduceSum, last axis, then Add: differs by up to 1.436
#     ReduceMean, last axis, then Add: differs by up to 1.436
#     ReduceMax, last axis, then Add: differs by up to 1.436
#     ReduceSum, last axis, then Mul: differs by up to 3.588
#     ReduceSum, last axis kept and squeezed, then Add: equal
#     ReduceSum, middle axis, then Add: equal
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

BATCH, CHANNELS, LENGTH = 3, 8, 4
rng = np.random.default_rng(0)
bias = rng.standard_normal(CHANNELS).astype(np.float32)
core = openvino.Core()


def differs(reduction, axis, keep, then):
    shape = [BATCH, CHANNELS, LENGTH] if axis == -1 else [BATCH, LENGTH, CHANNELS]
    nodes = [helper.make_node(reduction, ["x", "axis"], ["reduced"], keepdims=int(keep))]
    if keep:
        nodes.append(helper.make_node("Squeeze", ["reduced", "axis"], ["squeezed"]))
    nodes.append(helper.make_node(then, [nodes[-1].output[0], "bias"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, CHANNELS])],
        [numpy_helper.from_array(bias, "bias"), numpy_helper.from_array(np.array([axis]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    x = rng.standard_normal(shape).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    compiled = core.compile_model(core.read_model("model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return float(np.abs(compiled({"x": x})["y"] - expected).max())


cases = [
    ("ReduceSum", -1, False, "Add"),
    ("ReduceMean", -1, False, "Add"),
    ("ReduceMax", -1, False, "Add"),
    ("ReduceSum", -1, False, "Mul"),
    ("ReduceSum", -1, True, "Add"),
    ("ReduceSum", 1, False, "Add"),
]
changed = False
for reduction, axis, keep, then in cases:
    off = differs(reduction, axis, keep, then)
    place = "middle axis" if axis == 1 else "last axis kept and squeezed" if keep else "last axis"
    print(f"{reduction}, {place}, then {then}: " + (f"differs by up to {off:.3f}" if off > 1e-4 else "equal"))
    changed |= (off > 1e-4) != (axis == -1 and not keep)
sys.exit(changed)
PYTHON
"$folder/venv/bin/python" check.py
