#!/usr/bin/env bash
# PyAV: a "video" that is handed over as bytes or as an open file can open other files.
#
# Packages: av==18.1.0 (bundles FFmpeg 8.1.2), numpy==2.4.6; Python 3.11.
# Behavior: av.open looks at the content, not at the name. A text that begins with "ffconcat version 1.0" is a playlist,
#   also in a BytesIO or an open file, and FFmpeg opens the files of the working directory that it names. An SDP text in
#   an open file makes it listen on a UDP port, for 20 seconds. A Python file object looks like a sandbox and is none;
#   the options format_whitelist and protocol_whitelist make it one.
# Who is hurt: servers that take uploads, whose visitors then see or probe other files.
# Output seen:
#     BytesIO with a playlist: concat, 5 frames of another file
#     the same with whitelists: refused (ArgumentError)
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

with av.open("private.mp4", "w") as out:
    stream = out.add_stream("mpeg4", rate=5)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for _ in range(5):
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
    out.mux(stream.encode())
upload = b"ffconcat version 1.0\nfile 'private.mp4'\n"
changed = False
try:
    video = av.open(io.BytesIO(upload))
    print(f"BytesIO with a playlist: {video.format.name}, {sum(1 for _ in video.decode(video=0))} frames of another file")
except av.FFmpegError as error:
    print(f"BytesIO with a playlist: refused ({type(error).__name__})")
    changed = True
try:
    av.open(io.BytesIO(upload), container_options={"format_whitelist": "mov,mp4", "protocol_whitelist": "none"})
    print("the same with whitelists: opened")
    changed = True
except av.FFmpegError as error:
    print(f"the same with whitelists: refused ({type(error).__name__})")
sys.exit(changed)
PYTHON
"$folder/venv/bin/python" check.py
