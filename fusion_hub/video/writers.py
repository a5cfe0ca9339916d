"""Where fused frames go: a video file by FFmpeg, or a folder of pictures.

An .mp4 is H.264 with 8 bits and halved chroma, which every browser plays. An .mkv keeps the visible video's bits and
chroma; gray of more than 8 bits becomes FFV1, which is lossless. A file appears under its name when it is complete.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from PIL import Image

from fusion_hub.files import write_aside
from fusion_hub.image.io import save_image, to_image
from fusion_hub.video.frames import Frame, to_rgb, to_video_frame
from fusion_hub.video.sources import INSTALL, Source

if TYPE_CHECKING:
    from av.container import OutputContainer

VIDEO_SUFFIXES = (".mp4", ".mkv")
_FORMATS = {".mp4": "mp4", ".mkv": "matroska"}
LARGEST_SIDE = 16384
_H264 = {"preset": "veryfast", "crf": "18"}  # visually lossless; slower presets save a third of the size
_FFV1 = {"level": "3", "slicecrc": "1", "slices": "4"}


class Writer(Protocol):
    """Takes the fused frames in order. As a context it finishes the output, or removes it after an error."""

    notes: list[str]

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def write(self, frame: Frame) -> None:
        """Add a frame."""


class VideoWriter:
    """An .mp4 or .mkv file.

    Args:
        target: the file. It is replaced when the new one is complete.
        visible: gives frame rate, time base, aspect ratio, bits and sound.
        audio: copy its first audio track, without encoding it again.
        comment: is written into the file.

    Raises:
        ValueError: the file cannot hold the bits, the size or the audio of the visible video.
    """

    def __init__(self, target: Path, visible: Source, audio: bool = True, comment: str = "") -> None:
        try:
            import av
        except ImportError as error:
            raise ImportError(INSTALL) from error
        self.target, self.visible, self.comment, self.notes = target, visible, comment, list[str]()
        self._kind = _FORMATS[target.suffix.lower()]
        self._sound = visible.audio if audio else None
        if visible.deep and self._kind == "mp4":
            raise ValueError(
                f"{visible.label} holds more than 8 bits, which {target.name} cannot: give an .mkv file or a folder"
            )
        if max(visible.size) > LARGEST_SIDE and not visible.deep:
            raise ValueError(
                f"{visible.label} is {visible.size[1]}x{visible.size[0]} (width x height), and H.264 holds sides of "
                f"{LARGEST_SIDE} pixels at most: give a folder"
            )
        if self._sound is not None:
            import io

            codec = self._sound.codec_context.name
            with av.open(io.BytesIO(), "w", format=self._kind) as probe:
                held = codec in probe.supported_codecs
            if not held:
                other = "" if self._kind == "matroska" else "give an .mkv file, or "
                raise ValueError(
                    f"the audio of {visible.label} is {codec}, which {target.name} cannot hold: {other}add --no-audio"
                )
        self._stack, self._last = ExitStack(), -1
        self._output: OutputContainer | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, frame: Frame) -> None:
        output = self._output or self._open(frame)
        made = to_video_frame(frame, self._layout)
        made.time_base = self._time_base
        made.pts = self._last = max(round((frame.time - self._zero) / self._time_base), self._last + 1)
        self._copy_sound(frame.time)
        output.mux(self._stream.encode(made))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._output is None:
            return
        with self._stack:  # renames the finished file, or removes it after an error
            try:
                if error is None:
                    self._copy_sound(self._last * self._time_base + self.visible.interval)
                    self._output.mux(self._stream.encode())
            finally:
                self._output.close()
            if error is not None:
                raise error

    def _open(self, frame: Frame) -> "OutputContainer":
        import av

        aside = self._stack.enter_context(write_aside(self.target))
        options = {"movflags": "+faststart"} if self._kind == "mp4" else {}
        # "file:" keeps FFmpeg from reading a protocol or a pattern into the path.
        output = av.open(f"file:{aside.resolve()}", "w", format=self._kind, container_options=options)
        output.metadata["comment"] = self.comment
        self._layout = self._choose_layout(frame)
        codec, settings = ("ffv1", _FFV1) if self._layout.startswith("gray") else ("libx264", _H264)
        stream = output.add_stream(codec, rate=1 / self.visible.interval, options=dict(settings))
        assert isinstance(stream, av.VideoStream)
        made = to_video_frame(frame, self._layout)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = made.width, made.height, self._layout
        context.color_range, context.colorspace = made.color_range, made.colorspace
        context.color_primaries, context.color_trc = made.color_primaries, made.color_trc
        context.thread_count = 1  # it runs beside the fusion, which takes far longer
        context.time_base = self._time_base = self.visible.time_base
        if self.visible.aspect is not None:
            context.sample_aspect_ratio = self.visible.aspect
        self._stream, self._output = stream, output
        self._zero = frame.time if self.visible.live else Fraction(0)
        self._track = None if self._sound is None else output.add_stream_from_template(self._sound)
        if (made.height, made.width) != frame.picture.size:
            self.notes.append(
                f"{self.target.name} is {made.width}x{made.height}, the last row or column twice: H.264 with halved "
                "chroma has even sides"
            )
        return output

    def _choose_layout(self, frame: Frame) -> str:
        pixels, colors = frame.picture.pixels, frame.colors
        if self.visible.deep and pixels.ndim == 2:
            return "gray16le"
        bits = colors.bits if colors is not None else 8 if pixels.dtype == np.uint8 else 16
        deep = self._kind == "matroska" and colors is not None and bits > 8
        if bits > (10 if deep else 8):
            advice = "an .mkv file keeps 10" if colors is not None and not deep else "a folder of pictures keeps all"
            self.notes.append(f"{self.visible.label} has {bits} bits, {self.target.name} {10 if deep else 8}: {advice}")
        sampling = "yuv420p"
        if self._kind == "matroska" and colors is not None and colors.layout[:7] in ("yuv422p", "yuv444p"):
            sampling = colors.layout[:7]
        return sampling + ("10le" if deep else "")

    def _copy_sound(self, until: Fraction) -> None:
        """Pass on the audio up to a time; it was read with the frames."""
        waiting, start = self.visible.audio_packets, self.visible.start
        while self._output is not None and self._track is not None and waiting:
            packet = waiting[0]
            assert packet.dts is not None and packet.time_base is not None  # the source looks
            if packet.dts * packet.time_base - start > until:
                return
            waiting.popleft()
            shift = round(start / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = self._track
            self._output.mux(packet)


class FolderWriter:
    """A picture for each frame: PNG, or TIFF where the visible pictures are float.

    Args:
        folder: is made if it is missing.
        comment: is written into the pictures as the program that made them.
        metadata: write camera, date and position of the visible pictures.
        on_saved: called with each frame and its file.
    """

    def __init__(
        self,
        folder: Path,
        comment: str = "",
        metadata: bool = True,
        on_saved: Callable[[Frame, Path], None] | None = None,
    ) -> None:
        self.folder, self.comment, self.metadata, self.on_saved = folder, comment, metadata, on_saved
        self.notes: list[str] = []

    def __enter__(self) -> "FolderWriter":
        return self

    def __exit__(self, *error: object) -> None:
        """Each picture is complete by itself."""

    def write(self, frame: Frame) -> None:
        made = _to_image(frame)
        inherited: Mapping[str, Any] = vars(frame.picture.metadata)
        made.info.update({key: value for key, value in inherited.items() if value}, fusion_hub=self.comment)
        suffix = ".tif" if frame.picture.depth == "float32" else ".png"
        target = save_image(made, self.folder / f"{frame.name}{suffix}", metadata=self.metadata)
        if self.on_saved is not None:
            self.on_saved(frame, target)


def _to_image(frame: Frame) -> Image.Image:
    if frame.colors is not None:
        return Image.fromarray(to_rgb(frame))
    return to_image(frame.picture)
