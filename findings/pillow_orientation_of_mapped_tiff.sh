#!/usr/bin/env bash
# Pillow ignores the Orientation of an uncompressed one-channel TIFF, but only when it is opened by path.
#
# Packages: pillow==12.3.0, tifffile==2026.3.3, numpy==2.4.6; Python 3.11.
# Behavior: Pillow turns TIFFs by their Orientation tag while loading. A raw file that is opened by path
#   is mapped into memory, and its pixels then stay in stored order; the same bytes from memory are turned.
# Who is hurt: users whose cameras write a turned monochrome frame: one image of a pair is turned and the
#   other (a JPEG, a compressed TIFF) is upright, depending on how the program opened the file.
# Output seen:
#     raw, from memory: (8, 6), upright
#     raw, by path: (6, 8), not turned
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
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

stored = np.arange(48, dtype=np.uint8).reshape(6, 8)
tags = [(274, "H", 1, 6, True)]
tifffile.imwrite("raw.tif", stored, photometric="minisblack", metadata=None, extratags=tags)
upright = np.rot90(stored, -1)
memory = np.asarray(Image.open(io.BytesIO(Path("raw.tif").read_bytes())))
path = np.asarray(Image.open("raw.tif"))
for name, read in (("from memory", memory), ("by path", path)):
    print(f"raw, {name}: {read.shape}, {'upright' if np.array_equal(read, upright) else 'not turned'}")
sys.exit(not (np.array_equal(memory, upright) and not np.array_equal(path, upright)))
PYTHON
"$folder/venv/bin/python" check.py
