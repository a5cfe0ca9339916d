#!/usr/bin/env bash
# Pillow inverts TIFFs in which 0 is white at 8 bits, but not at 16.
#
# Packages: pillow==12.3.0, tifffile==2026.3.3, numpy==2.4.6; Python 3.11.
# Behavior: with PhotometricInterpretation 0 the smallest sample is white. Pillow returns brightness
#   for 8-bit files and the samples as stored, a negative, for 16-bit files of the same picture.
# Who is hurt: users of X-ray and thermal TIFFs: the 16-bit original is shown hot for cold, its 8-bit copy is right.
# Output seen:
#     uint8: samples [0, 1, 2] read as [255, 254, 253]
#     uint16: samples [0, 1, 2] read as [0, 1, 2]
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.3.0 tifffile==2026.3.3 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import io
import sys

import numpy as np
import tifffile
from PIL import Image

first = {}
for kind in ("uint8", "uint16"):
    file = io.BytesIO()
    tifffile.imwrite(file, np.arange(48, dtype=kind).reshape(6, 8), photometric="miniswhite", metadata=None)
    first[kind] = np.asarray(Image.open(io.BytesIO(file.getvalue())))[0, :3].tolist()
    print(f"{kind}: samples [0, 1, 2] read as {first[kind]}")
sys.exit(first != {"uint8": [255, 254, 253], "uint16": [0, 1, 2]})
PYTHON
"$folder/venv/bin/python" check.py
