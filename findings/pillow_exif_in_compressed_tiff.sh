#!/usr/bin/env bash
# Pillow cannot save a compressed TIFF with an EXIF directory.
#
# Packages: pillow==12.3.0; Python 3.11.
# Behavior: saving with exif= works for an uncompressed TIFF. With LZW or Deflate, an Exif directory
#   (exposure time and the like) ends in "RuntimeError: Error setting from dictionary".
# Who is hurt: drone users who want position and camera of the source in a compressed result.
# Output seen:
#     uncompressed: saved
#     tiff_lzw: RuntimeError
#     tiff_adobe_deflate: RuntimeError
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.3.0
cd "$folder"
cat > check.py <<'PYTHON'
import io
import sys

from PIL import Image

source = Image.Exif()
source[0x010F] = "Camera"
source.get_ifd(0x8769)[0x829A] = 0.01  # exposure time
found = {}
for compression in (None, "tiff_lzw", "tiff_adobe_deflate"):
    exif = Image.Exif()
    exif.load(source.tobytes())
    try:
        Image.new("L", (8, 8)).save(io.BytesIO(), "TIFF", compression=compression, exif=exif)
        found[compression] = "saved"
    except RuntimeError as error:
        found[compression] = type(error).__name__
    print(f"{compression or 'uncompressed'}: {found[compression]}")
sys.exit(list(found.values()) != ["saved", "RuntimeError", "RuntimeError"])
PYTHON
"$folder/venv/bin/python" check.py
