#!/usr/bin/env bash
# The keypoint matchers of transformers lose the fraction of a pixel that EfficientLoFTR and LightGlue compute.
#
# Packages: transformers==5.23.0, torch==2.13.0, pillow==12.3.0; Python 3.11.
# Behavior: post_process_keypoint_matching multiplies normalized points by the sizes of the pictures and then drops
#   the fraction (int32), so points lie up to a pixel, half a pixel on average, too far left and up.
# Who is hurt: whoever registers pictures by these points; EfficientLoFTR's second stage is made for such fractions.
#   Target sizes multiplied by 256, and a division of the points by 256, keep them.
# Output seen:
#     EfficientLoFTRImageProcessorPil [[10, 20], [30, 40]] of [[10.9, 20.9], [30.2, 40.7]]
#     LightGlueImageProcessorPil [[10, 20], [30, 40]] of [[10.9, 20.9], [30.2, 40.7]]
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0 pillow==12.3.0
cat > "$folder/check.py" <<'PYTHON'
import sys
from types import SimpleNamespace

import torch
from transformers import EfficientLoFTRImageProcessorPil, LightGlueImageProcessorPil

points = [[10.9, 20.9], [30.2, 40.7]]  # pixels of a picture of 640x480
outputs = SimpleNamespace(
    keypoints=(torch.tensor(points) / torch.tensor([640, 480])).expand(1, 2, 2, 2),
    matches=torch.arange(2).expand(1, 2, 2),
    matching_scores=torch.ones(1, 2, 2),
    mask=torch.ones(1, 2, 2),
)
found = []
for kind in (EfficientLoFTRImageProcessorPil, LightGlueImageProcessorPil):
    found.append(kind().post_process_keypoint_matching(outputs, [[(480, 640)] * 2])[0]["keypoints0"].tolist())
    print(kind.__name__, found[-1], "of", points)
sys.exit(found != [[[10, 20], [30, 40]]] * 2)
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2> /dev/null
