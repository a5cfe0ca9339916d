#!/usr/bin/env bash
# SimpleITK reads NaN in a NIfTI file as 0, and a NIfTI file that is cut short without an error.
#
# Packages: SimpleITK==2.5.7, nibabel==5.4.2, numpy==2.4.6; Python 3.11.
# Behavior: the NIfTI reader of ITK replaces voxels that are NaN or infinite by 0 while reading. Of an uncompressed file
#   whose end is missing it returns the voxels that are there, and others for the rest. Neither raises or warns. nibabel
#   keeps NaN and refuses the cut file; SimpleITK itself refuses a cut NRRD or MetaImage file.
# Who is hurt: programs that mark missing data with NaN and check for it after reading. 0 is water in CT, and a low
#   signal in MR. And everybody with an interrupted download.
# Output seen:
#     voxels that are NaN: 3 written, SimpleITK 0, nibabel 3
#     SimpleITK has 0 there: True
#     400 of 16384 bytes missing: SimpleITK reads (16, 16, 16), nibabel raises OSError
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SimpleITK==2.5.7 nibabel==5.4.2 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import sys

import nibabel
import numpy as np
import SimpleITK as sitk

values = np.random.default_rng(0).uniform(1, 2, (16, 16, 16)).astype(np.float32)
values[3, 4, 5:8] = np.nan
nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), "nan.nii")
ours, theirs = sitk.GetArrayFromImage(sitk.ReadImage("nan.nii")).T, nibabel.load("nan.nii").get_fdata()
counts = [int(np.isnan(array).sum()) for array in (values, ours, theirs)]
print(f"voxels that are NaN: {counts[0]} written, SimpleITK {counts[1]}, nibabel {counts[2]}")
zero = bool((ours[3, 4, 5:8] == 0).all())
print(f"SimpleITK has 0 there: {zero}")

whole = open("nan.nii", "rb").read()
open("cut.nii", "wb").write(whole[:-400])
try:
    size = sitk.ReadImage("cut.nii").GetSize()
    found = f"reads {size}"
except RuntimeError:
    size, found = None, "raises"
try:
    nibabel.load("cut.nii").get_fdata()
    other = "reads it"
except OSError:
    other = "raises OSError"
print(f"400 of {values.nbytes} bytes missing: SimpleITK {found}, nibabel {other}")
sys.exit(counts != [3, 0, 3] or not zero or size is None or other != "raises OSError")
PYTHON
"$folder/venv/bin/python" check.py
