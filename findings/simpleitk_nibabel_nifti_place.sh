#!/usr/bin/env bash
# SimpleITK and nibabel put the same NIfTI file in different places where qform and sform differ.
#
# Packages: SimpleITK==2.5.7, nibabel==5.4.2, numpy==2.4.6; Python 3.11.
# Behavior: nibabel takes the sform wherever its code is above 0. SimpleITK does so beside a qform only where the sform's
#   code is 1 (scanner); with 2 (aligned) or 4 (MNI), which registration programs write, it takes the qform, without a
#   warning. Where the sform stands alone, SimpleITK takes its directions and origin, but the spacing from pixdim; it says
#   "unexpected scales in sform" on stderr, and the image is read.
# Who is hurt: programs that fuse or compare volumes of both libraries, or a volume with its own mask: they are shifted by
#   the whole registration, or scaled.
# Output seen (distance of the last voxel in the two libraries):
#     sform 1, qform 1: 0.0 mm
#     sform 2, qform 1: 20.0 mm
#     sform 4, qform 1: 20.0 mm
#     sform 1, pixdim 1 1 1: 18.1 mm, spacing (1.0, 1.0, 1.0) for 1.2 1.1 3.0
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import sys

import nibabel
import numpy as np
import SimpleITK as sitk

voxels = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
place = np.diag([1.2, 1.1, 3.0, 1.0])
moved = place + np.array([[0, 0, 0, 20.0], [0] * 4, [0] * 4, [0] * 4])


def apart(sform_code, qform_code, pixdim=None):
    """Distance in mm of the last voxel, and SimpleITK's spacing."""
    image = nibabel.Nifti1Image(voxels, None)
    image.set_qform(moved if qform_code else None, qform_code)
    image.set_sform(place, sform_code)
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    nibabel.save(image, sys.argv[1])
    last = [size - 1 for size in voxels.shape]
    first = (nibabel.load(sys.argv[1]).affine @ [*last, 1])[:3] * [-1, -1, 1]  # nibabel counts to the right and the front
    second = sitk.ReadImage(sys.argv[1])
    return np.linalg.norm(first - second.TransformIndexToPhysicalPoint(last)), second.GetSpacing()


both = {code: apart(code, 1)[0] for code in (1, 2, 4)}
for code, distance in both.items():
    print(f"sform {code}, qform 1: {distance:.1f} mm")
alone, spacing = apart(1, 0, (1, 1, 1))
print(f"sform 1, pixdim 1 1 1: {alone:.1f} mm, spacing {spacing} for 1.2 1.1 3.0")
same = both[1] < 1e-3 and abs(both[2] - 20) < 1e-3 and abs(both[4] - 20) < 1e-3 and spacing == (1, 1, 1)
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/one.nii"
