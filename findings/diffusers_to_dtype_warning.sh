#!/usr/bin/env bash
# diffusers warns at every `model.to(dtype)` that an empty list of modules should be kept in float32.
#
# Packages: diffusers==0.42.1, torch==2.13.0 (any build); Python 3.11.
# Behavior: ModelMixin.to reads `self._keep_in_fp32_modules or []` and then warns unless the result is None, which it never
#   is. So each cast of a model that keeps nothing in float32 says that casting it "can lead to inconsistent results" and
#   advises from_pretrained(torch_dtype=...), which does the same thing to such a model. `pipe.to(torch.bfloat16)` prints it
#   once for each model in the pipeline.
# Who is hurt: users of diffusers-style pipelines who cast them, as every README shows, and look for an inconsistency that
#   is not there; authors who get reports of it. A real list of modules is hidden among the empty ones.
# Output seen:
#     modules to be kept in float32: None
#     a warning: There are modules in UNet2DModel that should be kept in float32: []. Casting directly with `to()` [...]
#     all parameters are torch.bfloat16: True
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.13.0 transformers accelerate
cat > "$folder/check.py" <<'PYTHON'
import logging
import sys

import torch
from diffusers import UNet2DModel

heard = []


class Listener(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())


logging.getLogger("diffusers").addHandler(Listener())
model = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
)
print("modules to be kept in float32:", model._keep_in_fp32_modules)
model.to(torch.bfloat16)
false_alarms = [text for text in heard if "kept in float32: []" in text]
print("a warning:", false_alarms[0][:110] if false_alarms else "none", "[...]")
print("all parameters are torch.bfloat16:", all(p.dtype == torch.bfloat16 for p in model.parameters()))
sys.exit(0 if model._keep_in_fp32_modules is None and false_alarms else 1)
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
