#!/usr/bin/env bash
# Pillow multiplies the counts of 12-bit JPEG 2000 files by 16.
#
# Packages: pillow==12.3.0, imagecodecs==2026.3.6, numpy==2.4.6; Python 3.11.
# Behavior: a lossless 12-bit JPEG 2000 file is opened as mode I;16 with every sample shifted to the
#   top of the 16 bits, which no property of the image tells.
# Who is hurt: users of medical and satellite files who apply a fixed range in counts (2600 to 2800): nothing of
#   the image lies in it.
# Output seen:
#     stored [0, 64, 128, 192], read [0, 1024, 2048, 3072], mode I;16
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.3.0 imagecodecs==2026.3.6 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import io
import sys

import imagecodecs
import numpy as np
from PIL import Image

counts = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
data = imagecodecs.jpeg2k_encode(counts, level=0, reversible=True, bitspersample=12)
assert np.array_equal(imagecodecs.jpeg2k_decode(data), counts)
image = Image.open(io.BytesIO(data))
read = np.asarray(image)
print(f"stored {counts[0, :4].tolist()}, read {read[0, :4].tolist()}, mode {image.mode}")
sys.exit(not np.array_equal(read, counts * 16))
PYTHON
"$folder/venv/bin/python" check.py
