#!/usr/bin/env bash
# PyAV: a damaged FFV1 video is decoded without an error, although it has check sums.
#
# Packages: av==18.1.0 (bundles FFmpeg 8.1.2), numpy==2.4.6; Python 3.11.
# Behavior: FFV1 of level 3 stores a CRC of each slice. Where it does not match, FFmpeg's decoder writes a line to its
#   log, which PyAV drops, and shows the slice of an earlier frame or noise. There is no exception, also with
#   err_detect=crccheck+explode, and frame.is_corrupt is False.
# Who is hurt: archives and measurements that chose FFV1 because it notices damage.
# Output seen:
#     10 frames decoded, wrong pixels in 7, errors 0, marked as corrupt 0
# Exits with 0 while the behavior is as described, with 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import io
import sys

import av
import numpy as np

random = np.random.default_rng(0)
y, x = np.mgrid[:96, :128]
frames = [(y * 300 + x * 7 + i * 1000 + random.integers(0, 50, (96, 128))).astype(np.uint16) for i in range(10)]
file = io.BytesIO()
with av.open(file, "w", format="matroska") as out:
    stream = out.add_stream("ffv1", rate=10, options={"level": "3", "slicecrc": "1"})
    stream.width, stream.height, stream.pix_fmt = 128, 96, "gray16le"
    for pixels in frames:
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray16le")))
    out.mux(stream.encode())
data = bytearray(file.getvalue())
for place in random.integers(len(data) // 3, len(data) * 2 // 3, 40):
    data[place] ^= 255
video = av.open(io.BytesIO(bytes(data)))
video.streams.video[0].codec_context.options = {"err_detect": "crccheck+explode"}
decoded = wrong = errors = marked = 0
for packet in video.demux(video=0):
    try:
        for frame in packet.decode():
            wrong += not np.array_equal(frame.to_ndarray(), frames[decoded])
            decoded, marked = decoded + 1, marked + frame.is_corrupt
    except av.FFmpegError:
        errors += 1
print(f"{decoded} frames decoded, wrong pixels in {wrong}, errors {errors}, marked as corrupt {marked}")
sys.exit(not (wrong > 0 and errors == marked == 0))
PYTHON
"$folder/venv/bin/python" check.py
