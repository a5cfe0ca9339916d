#!/usr/bin/env bash
# OpenCV reads planar RGB TIFFs of 16 bits as other values, without an error.
#
# Packages: opencv-python-headless==5.0.0.93, tifffile==2026.3.3, numpy==2.4.6; Python 3.11.
# Behavior: with PlanarConfiguration 2 (planes apart) an 8-bit RGB TIFF is read rightly. A 16-bit one
#   comes out with the right shape and dtype and the wrong samples.
# Who is hurt: users of GIS and multispectral programs, which like to keep planes apart, and everybody who
#   checks another reader against OpenCV.
# Output seen:
#     uint8 contig: equal
#     uint8 separate: equal
#     uint16 contig: equal
#     uint16 separate: (32, 48, 3) uint16, differs by up to 47000
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 tifffile==2026.3.3 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import io
import sys

import cv2
import numpy as np
import tifffile

y, x = np.mgrid[:32, :48]
deep = np.dstack([x * 1000, y * 1500, (x + y) * 500]).astype(np.uint16)
changed = False
for samples in ((deep >> 8).astype(np.uint8), deep):
    for planes in ("contig", "separate"):
        file = io.BytesIO()
        data = samples if planes == "contig" else np.ascontiguousarray(np.moveaxis(samples, -1, 0))
        tifffile.imwrite(file, data, photometric="rgb", planarconfig=planes, metadata=None)
        read = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
        off = int(np.abs(read.astype(int) - samples).max())
        print(f"{samples.dtype} {planes}: " + ("equal" if off == 0 else f"{read.shape} {read.dtype}, differs by up to {off}"))
        changed |= (off == 0) == (samples.dtype == np.uint16 and planes == "separate")
sys.exit(changed)
PYTHON
"$folder/venv/bin/python" check.py
