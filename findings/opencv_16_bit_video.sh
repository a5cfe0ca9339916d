#!/usr/bin/env bash
# OpenCV turns 16-bit gray video into 8 bits, on reading and on writing, without an error.
#
# Packages: opencv-python-headless==5.0.0.93, av==18.1.0, numpy==2.4.6; Python 3.11.
# Behavior: VideoCapture gives a 16-bit gray FFV1 file as 8-bit BGR, unless CAP_PROP_CONVERT_RGB is 0. VideoWriter takes
#   16-bit frames, also with FFV1, and writes an 8-bit file of other values. PyAV keeps 16 bits only if pix_fmt is set
#   on the stream; without it the same frames become 8-bit yuv420p.
# Who is hurt: whoever records a thermal camera, and finds out when the temperatures are needed.
# Output seen:
#     PyAV, pix_fmt gray16le: gray16le, differs by up to 0
#     PyAV, no pix_fmt: yuv420p, differs by up to 394
#     VideoCapture: (96, 128, 3) uint8
#     VideoCapture, CONVERT_RGB 0: (96, 128) uint16
#     VideoWriter: gray
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 av==18.1.0 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import sys

import av
import cv2
import numpy as np

y, x = np.mgrid[:96, :128]
frames = [(y * 300 + x * 7 + i * 1000).astype(np.uint16) for i in range(10)]
found = []
for name, layout in (("deep", "gray16le"), ("plain", None)):
    with av.open(f"{name}.mkv", "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height = 128, 96
        if layout:
            stream.pix_fmt = layout
        for pixels in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray16le")))
        out.mux(stream.encode())
    frame = next(av.open(f"{name}.mkv").decode(video=0))
    off = np.abs(frame.to_ndarray(format="gray16le").astype(int) - frames[0]).max()
    print(f"PyAV, {f'pix_fmt {layout}' if layout else 'no pix_fmt'}: {frame.format.name}, differs by up to {off}")
    found.append(frame.format.name)
for convert in (None, 0):
    capture = cv2.VideoCapture("deep.mkv")
    if convert is not None:
        capture.set(cv2.CAP_PROP_CONVERT_RGB, convert)
    _, read = capture.read()
    print(f"VideoCapture{'' if convert is None else ', CONVERT_RGB 0'}: {read.shape} {read.dtype}")
    found.append(str(read.dtype))
writer = cv2.VideoWriter("written.mkv", cv2.VideoWriter_fourcc(*"FFV1"), 10, (128, 96), False)
for pixels in frames:
    writer.write(pixels)
writer.release()
found.append(next(av.open("written.mkv").decode(video=0)).format.name)
print(f"VideoWriter: {found[-1]}")
sys.exit(found != ["gray16le", "yuv420p", "uint8", "uint16", "gray"])
PYTHON
"$folder/venv/bin/python" check.py 2> /dev/null
