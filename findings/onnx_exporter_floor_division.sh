#!/usr/bin/env bash
# torch.onnx.export writes Python's floor division of sizes as a division that rounds toward zero.
#
# Packages: torch==2.13.0, onnx==1.23.2, onnxscript==0.7.2, onnxruntime==1.32.0, numpy==2.4.6; Python 3.11.
# Behavior: with dynamic shapes, `-(-width // 4)`, the usual way to round up, is exported as an integer Div of ONNX.
#   Div truncates and Python floors, so negative quotients come out one larger: the file rounds down where the network
#   rounds up. `(width + 3) // 4` is right. torch.export itself, the step before, keeps the floor.
# Who is hurt: exporters of networks that pad to a multiple or count windows. The check that the exporter offers
#   (`verify=True`) runs the example only: a width that is a multiple of 4 passes.
# Output seen:
#     width 8, rounded up by -(-n // 4): PyTorch 2, torch.export 2, ONNX 2
#     width 9, rounded up by -(-n // 4): PyTorch 3, torch.export 3, ONNX 2
#     width 8, rounded up by (n + 3) // 4: PyTorch 2, torch.export 2, ONNX 2
#     width 9, rounded up by (n + 3) // 4: PyTorch 3, torch.export 3, ONNX 3
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import sys

import onnxruntime
import torch


class Negated(torch.nn.Module):
    """As many values as the columns have windows of four, the last of which may be narrower."""

    def forward(self, x):
        return x.new_ones(-(-x.shape[1] // 4)) * x.mean()


class Shifted(torch.nn.Module):
    def forward(self, x):
        return x.new_ones((x.shape[1] + 3) // 4) * x.mean()


changed = False
for network, rule in ((Negated(), "-(-n // 4)"), (Shifted(), "(n + 3) // 4")):
    shapes = ({1: torch.export.Dim("width", min=5, max=4096)},)
    program = torch.export.export(network, (torch.rand(1, 16),), dynamic_shapes=shapes)
    torch.onnx.export(program, (), "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    for width in (8, 9):
        x = torch.rand(1, width)
        expected, exported = len(network(x)), len(program.module()(x))
        found = len(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        print(f"width {width}, rounded up by {rule}: PyTorch {expected}, torch.export {exported}, ONNX {found}")
        wrong = width == 9 and isinstance(network, Negated)
        changed |= expected != exported or (found != expected) != wrong
sys.exit(changed)
PYTHON
"$folder/venv/bin/python" check.py 2> log || { cat log; exit 1; }
