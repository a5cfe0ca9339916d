#!/usr/bin/env bash
# SimpleITK's array view does not keep its image alive: it shows freed memory, without an error.
#
# Packages: SimpleITK==2.5.7, numpy==2.4.6; Python 3.11.
# Behavior: an array normally keeps the object alive whose memory it shows. GetArrayViewFromImage returns an array over
#   a plain memory block that nothing owns. Once the last name of the image is gone, as in
#   `GetArrayViewFromImage(ReadImage(file))`, in a loop, or in a property that returns the view of a temporary object,
#   later images overwrite the values.
# Who is hurt: everybody who takes the view for a copy that costs nothing. The values are plausible for a while.
# Output seen:
#     the view of an image that is still there is right: True
#     the view of an image that is gone is right: False
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SimpleITK==2.5.7 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import sys

import numpy as np
import SimpleITK as sitk

values = np.full((32, 32, 32), 7, dtype=np.float32)
kept = sitk.GetImageFromArray(values)
right = sitk.GetArrayViewFromImage(kept)
wrong = sitk.GetArrayViewFromImage(sitk.GetImageFromArray(values))
others = [sitk.GetImageFromArray(np.full_like(values, n)) for n in range(20)]
safe, lost = bool((right == 7).all()), bool((wrong == 7).all())
print(f"the view of an image that is still there is right: {safe}")
print(f"the view of an image that is gone is right: {lost}")
sys.exit(not safe or lost)
PYTHON
"$folder/venv/bin/python" check.py
