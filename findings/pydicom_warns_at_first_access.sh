#!/usr/bin/env bash
# pydicom warns about an invalid tag when the tag is first read, not when the file is, and quotes its value.
#
# Packages: pydicom==3.0.2; Python 3.11.
# Behavior: dcmread converts elements lazily. A UID with a leading zero in a component, or text where a number must be, is
#   converted when the element is first accessed, with get() as well, and only then a UserWarning is issued, which holds the
#   value. So warnings that are caught or silenced around dcmread are the wrong ones: the file reads without a warning, and
#   the value appears later, on stderr by default.
# Who is hurt: programs that must not repeat identifiers. UIDs built from birth dates with padded components are common in
#   hospitals, and such a value ends up in a log although the reading was guarded.
# Output seen:
#     while reading: 0 warnings
#     while using SeriesInstanceUID: Invalid value for VR UI: '1.2.840.99.0019530417.01'. [...]
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2
cat > "$folder/check.py" <<'PYTHON'
import sys
import warnings

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

UID = "1.2.840.99.0019530417.01"
dataset = Dataset()
dataset.file_meta = FileMetaDataset()
dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    dataset.SeriesInstanceUID = UID
    dataset.save_as(sys.argv[1], enforce_file_format=True)

with warnings.catch_warnings(record=True) as reading:
    warnings.simplefilter("always")
    again = pydicom.dcmread(sys.argv[1])
print(f"while reading: {len(reading)} warnings")
with warnings.catch_warnings(record=True) as using:
    warnings.simplefilter("always")
    again.get("SeriesInstanceUID")
for one in using:
    print(f"while using SeriesInstanceUID: {one.message}")
quoted = any(UID in str(one.message) for one in using)
sys.exit(not (len(reading) == 0 and quoted))
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/one.dcm"
