#!/usr/bin/env bash
# Pillow decodes compressed big-endian TIFF samples of 16 and 32 bits with their bytes swapped.
#
# Packages: pillow==12.3.0, tifffile==2026.3.3, imagecodecs==2026.3.6, numpy==2.4.6; Python 3.11.
# Behavior: uncompressed big-endian float32, int16 and int32 TIFFs are read rightly. The same samples
#   with LZW or Deflate come out as other numbers, without an error or a warning.
# Who is hurt: users of thermal and microscope TIFFs from big-endian writers: temperatures become noise
#   or nonsense, and a program that stretches them shows a plausible picture of it.
# Output seen:
#     float32 raw: equal
#     float32 lzw: differs, first value 1.5 read as 6.896e-41
#     float32 zlib: differs, first value 1.5 read as 6.896e-41
#     int16 raw: equal
#     int16 lzw: differs, first value 1 read as 256
#     int16 zlib: differs, first value 1 read as 256
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.3.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import io
import sys

import numpy as np
import tifffile
from PIL import Image

changed = False
for kind, step in (("float32", 1.5), ("int16", 1)):
    samples = (np.arange(1, 49).reshape(6, 8) * step).astype(kind)
    for compression in (None, "lzw", "zlib"):
        file = io.BytesIO()
        tifffile.imwrite(file, samples, byteorder=">", compression=compression, photometric="minisblack", metadata=None)
        assert np.array_equal(tifffile.imread(io.BytesIO(file.getvalue())), samples)
        read = np.asarray(Image.open(io.BytesIO(file.getvalue())))
        equal = np.array_equal(read, samples)
        found = "equal" if equal else f"differs, first value {samples[0, 0]:g} read as {read[0, 0]:.4g}"
        print(f"{kind} {compression or 'raw'}: {found}")
        changed |= equal != (compression is None)
sys.exit(changed)
PYTHON
"$folder/venv/bin/python" check.py
