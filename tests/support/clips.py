"""Small videos for the tests, and what is in a video."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fusion_hub import DiffFuseNetPipeline
from tests.support.tiny import tiny_pipeline

LOSSLESS = {"libx264": {"qp": "0", "preset": "ultrafast"}, "ffv1": {"level": "3"}, "mpeg4": {"qscale": "2"}}


def moving_square(count: int, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray]:
    """Gray frames `(H, W)` uint8: smooth noise that stays, and a bright square that moves to the right."""
    random = np.random.default_rng(seed)
    ground = np.kron(random.integers(60, 120, (height // 8, width // 8)), np.ones((8, 8))).astype(np.uint8)
    frames = []
    for index in range(count):
        frame = ground.copy()
        frame[8:20, 2 * index % width : 2 * index % width + 10] = 230
        frames.append(frame)
    return frames


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    tags: dict[str, int] | None = None,
    sound: str | None = None,
    aspect: Fraction | None = None,
    container: str | None = None,
) -> Path:
    """A clip of gray or RGB frames, uint8 or uint16; `times` are milliseconds."""
    import av

    kind = {(2, "uint8"): "gray", (2, "uint16"): "gray16le", (3, "uint8"): "rgb24", (3, "uint16"): "rgb48le"}
    with av.open(str(path), "w", format=container) as out:
        options = dict(LOSSLESS.get(codec, {}))
        stream: Any = out.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        context = stream.codec_context
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if times is not None:
            context.time_base = Fraction(1, 1000)
        for name, value in (tags or {}).items():
            setattr(context, name, value)
        if sound is not None:
            track: Any = out.add_stream(sound, rate=48000)
            track.layout = "mono"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format=kind[pixels.ndim, pixels.dtype.name])
            if frame.format.name != pix_fmt:
                full = (tags or {}).get("color_range", 1)
                frame = frame.reformat(
                    format=pix_fmt, dst_color_range=full, dst_colorspace=(tags or {}).get("colorspace")
                )
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), times[index]
            else:
                frame.time_base, frame.pts = 1 / Fraction(rate), index
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound is not None:
            wave = np.sin(np.arange(48000 * len(frames) // int(rate)) * 0.05).astype(np.float32)[None] * 0.2
            for start in range(0, wave.shape[1], 1024):
                part = np.ascontiguousarray(wave[:, start : start + 1024])
                layout = "fltp" if sound in ("aac", "libopus", "libmp3lame") else "s16"
                part = part if layout == "fltp" else (part * 32767).astype(np.int16)
                heard = av.AudioFrame.from_ndarray(part, format=layout, layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = 48000, start, Fraction(1, 48000)
                out.mux(track.encode(heard))
            out.mux(track.encode())
    return path


def read_clip(path: Path, pixels: str | None = "gray") -> tuple[list[np.ndarray], list[Fraction]]:
    """Arrays of the frames in a pixel format (None: as stored), and their times in seconds."""
    import av

    with av.open(str(path)) as clip:
        frames = [(frame.to_ndarray(format=pixels), frame.pts * frame.time_base) for frame in clip.decode(video=0)]
    return [array for array, _ in frames], [time for _, time in frames]


def identity_pipeline() -> DiffFuseNetPipeline:
    """A pipeline whose network returns the visible luminance as it is."""
    pipeline = tiny_pipeline()
    pipeline.fuse_luminance = lambda visible, *_, **__: visible  # type: ignore[method-assign]
    return pipeline
