"""Where frames come from: video files, RTSP streams and V4L2 cameras through FFmpeg, and folders of pictures.

A file is handed to FFmpeg as an open file, with a list of containers and no protocol. A path is never understood as an
address, and a playlist cannot open what it names.
"""

import glob
import itertools
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fusion_hub.image.io import EXTENSIONS, read_picture
from fusion_hub.image.luminance import Role
from fusion_hub.image.picture import Picture
from fusion_hub.video.frames import Frame, from_video_frame

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from av.container import InputContainer

INSTALL = "video needs PyAV: pip install 'fusion-hub[video]'"
MAX_PIXELS = 8192 * 4352  # 8K; a decoder holds up to 17 frames
STALL = 10.0  # seconds without data after which a stream counts as stopped
DEFAULT_RATE = 25  # frames a second, where nothing states it

_CONTAINERS = (
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,avi,mpegts,mpeg,mpegvideo,flv,ogg,nut,asf,mxf,gif,apng,wtv,dv,ivf,"
    "h264,hevc,mjpeg,m4v,yuv4mpegpipe"
)
_NETWORK = "rtsp,rtp,srtp,tcp,udp,tls,crypto"
_EPOCH = time.monotonic()


class Source:
    """Frames of one camera, in order. `frames` may be called once.

    Attributes:
        label: for messages: the role and the path or address.
        size: `(H, W)` in pixels, upright.
        interval: seconds between two frames, on average.
        time_base: unit of the times, seconds.
        start: time stamp of the first frame in the file, seconds; times count from there.
        aspect: width of a pixel divided by its height; None where it is not stated.
        files: the files that are read; none for a stream.
        audio: a track that is copied; its packets arrive in `audio_packets` while frames are read.
        count: number of frames as the file states it; None where it does not.
        live: whether frames arrive as they happen, and wait for nobody.
        deep: whether it is gray of more than 8 bits.
        dropped: frames of a live source that nobody took in time.
        problems: what was wrong with it, one sentence each; complete when the frames have ended.
    """

    live = False

    def __init__(self, label: str, size: tuple[int, int], interval: Fraction, count: int | None, deep: bool) -> None:
        self.label, self.size, self.interval, self.count, self.deep = label, size, interval, count, deep
        self.problems: list[str] = []
        self.dropped = 0
        self.time_base = Fraction(1, 90000)
        self.aspect: Fraction | None = None
        self.files: list[Path] = []
        self.start = Fraction(0)
        self.audio: AudioStream | None = None
        self.audio_packets: deque[Packet] = deque()

    def frames(self) -> Iterator[Frame]:
        raise NotImplementedError

    def close(self) -> None:
        """Release the file. Not while another thread reads from it."""


def open_sources(
    visible: str, infrared: str, frame_rate: float | None = None, stall: float = STALL
) -> tuple[Source, Source]:
    """Both sources of a fusion.

    Args:
        visible, infrared: a video file, a folder or pattern of pictures, `rtsp://...`, `/dev/video0` or `v4l2:0`.
        frame_rate: of pictures; by default that of the other source, else 25 frames a second.
        stall: seconds without data after which a stream counts as stopped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a source that cannot be read, or two that cannot be paired.
        ImportError: PyAV is missing.
    """
    rate = None if frame_rate is None else Fraction(frame_rate).limit_denominator(1001)
    first, second = (
        open_source(text, role, rate, stall) for text, role in ((visible, "VISIBLE"), (infrared, "INFRARED"))
    )
    if first.live != second.live:
        raise ValueError(f"{visible} and {infrared}: give two recordings or two live streams, not one of each")
    if isinstance(first, PictureSource) and isinstance(second, PictureSource):
        _align_numbers(first, second)
    elif rate is None:
        for one, other in ((first, second), (second, first)):
            if isinstance(one, PictureSource):
                one.interval = other.interval
    return first, second


def open_source(
    text: str, role: str, frame_rate: Fraction | None = None, stall: float = STALL, max_pixels: int | None = None
) -> Source:
    """One source, see [`open_sources`]. `role` is how messages call it; larger frames of a video file are refused."""
    path = Path(text)
    if re.match(r"(?i)rtsps?://", text):
        shown = re.sub(r"//[^/@]*@", "//", text)  # without a password
        return StreamSource(f"{role} ({shown})", text, stall=stall, keep_rgb=role == "INFRARED")
    if camera := re.fullmatch(r"v4l2:(\d+)|(/dev/video\d+)", text):
        device = camera[2] or f"/dev/video{camera[1]}"
        return StreamSource(f"{role} ({device})", device, device=True, stall=stall, keep_rgb=role == "INFRARED")
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if stat.S_ISDIR(mode):
        found = [file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS and file.name[0] != "."]
        return PictureSource(role, text, found, frame_rate)
    if not mode and glob.has_magic(text):
        return PictureSource(role, text, [Path(file) for file in glob.glob(text, recursive=True)], frame_rate)
    if not mode and "://" in text:
        raise ValueError(f"{role} is the address {text}: give a file, or a stream that begins with rtsp://")
    if not mode:
        raise FileNotFoundError(f"{role}: there is no file or folder {text!r}")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{role}: {text!r} is not a regular file: give a video file")
    if path.suffix.lower() in EXTENSIONS - {".gif"}:
        raise ValueError(f"{role}: {text} is one picture: give a video or a folder of pictures, or use fusion-hub fuse")
    return StreamSource(f"{role} ({text})", path, stall=stall, keep_rgb=role == "INFRARED", max_pixels=max_pixels)


class StreamSource(Source):
    """A video file, or a live stream or camera, decoded by FFmpeg."""

    def __init__(
        self,
        label: str,
        place: str | Path,
        device: bool = False,
        stall: float = STALL,
        keep_rgb: bool = False,
        max_pixels: int | None = None,
    ) -> None:
        try:
            import av
        except ImportError as error:
            raise ImportError(INSTALL) from error
        self._av, self._stall, self._keep_rgb = av, stall, keep_rgb
        self._input: InputContainer
        self.live = isinstance(place, str)
        options = {"max_pixels": str(MAX_PIXELS)}
        container: dict[str, str] = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
        try:
            if device:
                self._input = av.open(str(place), "r", format="v4l2", options=options, timeout=stall)
            elif self.live:
                container = {"protocol_whitelist": _NETWORK, "rtsp_transport": "tcp"}
                self._input = av.open(
                    str(place), "r", format="rtsp", options=options, container_options=container, timeout=stall
                )
            else:
                file = open(place, "rb")  # noqa: SIM115  # closed with the container
                self._input = av.open(file, "r", options=options, container_options=container)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ValueError(_refusal(label, error, self.live, stall)) from error
        cover = av.stream.Disposition.attached_pic  # a picture that belongs to music
        videos = [stream for stream in self._input.streams.video if not stream.disposition & cover]
        if not videos:
            raise ValueError(f"{label} holds no video: give a file with a video track")
        self._stream = stream = videos[0]
        context = stream.codec_context
        if context is None:
            raise ValueError(f"{label} is of an unknown codec: export it as H.264 or FFV1")
        _check_size(context.height, context.width, label, max_pixels)
        context.thread_count = 1  # decoding is quick beside the fusion; threads hold more frames
        rate = stream.average_rate or stream.guessed_rate
        rate = rate if rate is not None and 0.01 <= rate <= 1000 else Fraction(DEFAULT_RATE)
        super().__init__(label, (0, 0), 1 / rate, None, False)
        self.files = [] if isinstance(place, str) else [place]
        self.time_base = stream.time_base or self.time_base
        if not self.live:
            self.start = (stream.start_time or 0) * self.time_base
            self.count = stream.frames or None
            self.audio = next(iter(self._input.streams.audio), None)
        # A live stream is read at once and all the time, so that nothing old waits in the network.
        self._decoded = in_background(self._decode(), on_drop=self._count_drop) if self.live else self._decode()
        first = next(self._decoded, None)
        if first is None:
            if self.live and self.problems:
                raise ValueError(self.problems[0])
            limit = f"the limit of {MAX_PIXELS} pixels"
            raise ValueError(f"{label} holds no frame that can be decoded: it is damaged, or larger than {limit}")
        self._first: Frame | None = None if self.live else first
        self.size = first.picture.size
        _check_size(*self.size, label, max_pixels)  # headers may state another size
        self.deep = first.colors is None and first.picture.depth != "uint8"
        aspect = context.sample_aspect_ratio
        if aspect:
            self.aspect = 1 / aspect if self._turns % 2 else aspect

    def frames(self) -> Iterator[Frame]:
        self.dropped = 0
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._decoded

    def close(self) -> None:
        if not self.live:  # its thread may wait for data
            self._input.close()

    def _count_drop(self) -> None:
        self.dropped += 1

    def _decode(self) -> Iterator[Frame]:
        """Upright frames with rising times; what is wrong with the file goes to `problems`."""
        last: Fraction | None = None
        size: tuple[int, int] | None = None
        number = damaged = 0
        for frame in self._read():
            if frame is None or frame.is_corrupt:
                damaged += 1
                continue
            seconds = Fraction(-1) if frame.pts is None else frame.pts * frame.time_base - self.start
            if self.live and last is None:  # two streams have no common clock: the first frames tell the difference
                arrival = Fraction(time.monotonic() - _EPOCH).limit_denominator(10**6)
                self.start, seconds = self.start + seconds - arrival, arrival
            if last is not None and seconds <= last:  # no time stamp, or one that runs back
                seconds = last + self.interval
            seconds = max(seconds, Fraction(0))
            self._turns = round(frame.rotation / 90) % 4
            shape = (frame.height, frame.width)
            if size is not None and shape != size:
                self.problems.append(
                    f"{self.label} changes its size from {size[1]}x{size[0]} to {shape[1]}x{shape[0]} (width x height) "
                    f"at {float(seconds):.2f} s: the frames up to there are fused, split the file there for the others"
                )
                return
            size, last = shape, seconds
            yield from_video_frame(frame, seconds, f"{number:06d}", self._turns, self._keep_rgb)
            number += 1
        if self.problems:
            return
        if not self.live and last is not None and (missing := self._missing(number, damaged, last + self.interval)):
            self.problems.append(f"{self.label} is cut off: {missing} could be read")
        elif damaged:
            self.problems.append(f"{self.label} is damaged: {damaged} of its frames cannot be decoded and are left out")

    def _read(self) -> Iterator[Any]:
        """Decoded frames, None for a packet that cannot be decoded. Audio packets are put aside."""
        av = self._av
        wanted = [self._stream] if self.audio is None else [self._stream, self.audio]
        packets = self._input.demux(wanted)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                cause = "sent no data for " + f"{self._stall:g} s" if self.live else "cannot be read further"
                if self.live and not isinstance(error, av.error.TimeoutError | av.error.ExitError):
                    cause = "was lost"
                self.problems.append(f"{self.label} {cause}: what had arrived by then is fused")
                return
            if packet is None:
                if self.live:
                    self.problems.append(f"{self.label} has ended: what had arrived by then is fused")
                return
            if self.audio is not None and packet.stream is self.audio:
                if packet.dts is not None and packet.time_base is not None:
                    self.audio_packets.append(packet)
                continue
            try:
                yield from packet.decode()
            except av.FFmpegError:
                yield None

    def _missing(self, number: int, damaged: int, end: Fraction) -> str | None:
        """What was read of a file that stops before the end that its header states."""
        stream, length = self._stream, None
        if stream.duration and stream.time_base:
            length = stream.duration * stream.time_base
        elif found := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d{0,6})\d*", stream.metadata.get("DURATION", "")):
            # In Matroska this is the time at which the last frame ends, also where the first one begins late.
            length = int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3]) - max(self.start, Fraction(0))
        if length is None or end + 2 * self.interval >= length:
            return None
        if self.count is not None and number + damaged < self.count:
            return f"{number} of its {self.count} frames"
        return None if end + Fraction(1, 2) >= length else f"{float(end):.2f} of its {float(length):.2f} s"


class PictureSource(Source):
    """A folder or pattern of pictures, as frames at a steady rate, ordered by the numbers in their names."""

    def __init__(self, role: str, text: str, found: Sequence[Path], frame_rate: Fraction | None) -> None:
        if not found:
            raise ValueError(f"{role}: {text} holds no pictures: give a video, a folder of pictures, or a pattern")
        files = sorted(found, key=_natural)
        self._name, self._role = role, cast(Role, role.lower())
        first = None
        for file in files:  # damaged ones are reported when their turn comes
            try:
                first = self._read(file)
                break
            except ValueError as error:
                trouble = error
        if first is None:
            raise trouble
        deep = first.pixels.ndim == 2 and first.depth != "uint8"
        super().__init__(f"{role} ({text})", first.size, 1 / (frame_rate or Fraction(DEFAULT_RATE)), len(files), deep)
        self.files, self.positions = files, list(range(len(files)))

    def _read(self, file: Path) -> Picture:
        return read_picture(file, self._name, MAX_PIXELS, self._role)

    def frames(self) -> Iterator[Frame]:
        for file, position in zip(self.files, self.positions, strict=True):
            try:
                picture = self._read(file)
                if picture.size != self.size:
                    sizes = [f"{width}x{height}" for height, width in (picture.size, self.size)]
                    raise ValueError(f"{self._name} ({str(file)!r}) is {sizes[0]}, the first picture {sizes[1]}")
            except ValueError as error:
                self.problems.append(str(error))
                continue
            yield Frame(picture, position * self.interval, file.stem)


def in_background(
    frames: Iterator[Any], depth: int = 4, on_drop: Callable[[], None] | None = None
) -> Generator[Any, None, None]:
    """The same items, made by a thread that is up to `depth` ahead; with `on_drop` old ones give way to new ones."""
    import threading

    ready, waiting = threading.Condition(), deque[Any]()
    ended = False

    def work() -> None:
        last: tuple[bool, Any] = (True, None)
        try:
            for item in frames:
                with ready:
                    while len(waiting) >= depth and not ended:
                        if on_drop is None:
                            ready.wait()
                        else:
                            waiting.popleft()
                            on_drop()
                    if ended:
                        return
                    waiting.append((False, item))
                    ready.notify_all()
        except BaseException as error:
            last = (True, error)
        with ready:
            waiting.append(last)
            ready.notify_all()

    thread = threading.Thread(target=work, name="frames", daemon=True)
    thread.start()
    try:
        while True:
            with ready:
                while not waiting:
                    ready.wait()
                done, item = waiting.popleft()
                ready.notify_all()
            if done and item is not None:
                raise item
            if done:
                return
            yield item
    finally:
        with ready:
            ended = True
            ready.notify_all()
        if on_drop is None:
            thread.join()


def _align_numbers(first: PictureSource, second: PictureSource) -> None:
    """Give pictures of one number one time; without common numbers they are paired in order.

    A name may hold several numbers (`0003_ir16`, `f_0001_640x480`): those count that differ from picture to picture and
    are the most common to both; the last ones, if several are.
    """
    counters = [_counters(source.files) for source in (first, second)]
    fewest = min(len(first.files), len(second.files))
    pairs: list[tuple[list[int], ...]] = list(itertools.product(*counters)) or [([], [])]
    numbers = max(pairs, key=lambda both: len(set(both[0]) & set(both[1])))
    if 2 * len(set(numbers[0]) & set(numbers[1])) >= fewest:
        zero = min(map(min, numbers))
        for source, each in zip((first, second), numbers, strict=True):
            source.positions = [number - zero for number in each]
    elif len(first.files) != len(second.files):
        raise ValueError(
            f"{first.label} holds {len(first.files)} pictures and {second.label} {len(second.files)}, and their names "
            "do not tell which belong together: give those of one moment the same number"
        )


def _counters(files: Sequence[Path]) -> list[list[int]]:
    """The numbers at one place in the names, counted from their ends or beginnings, where no two pictures share one."""
    found = [[int(digits) for digits in re.findall(r"\d+", file.stem)] for file in files]
    least = min(map(len, found), default=0)
    places = [*range(-1, -least - 1, -1), *range(least)]
    columns = [[numbers[place] for numbers in found] for place in places]
    return [column for column in columns if len(set(column)) == len(column)]


def _natural(file: Path) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _check_size(height: int, width: int, label: str, max_pixels: int | None = None) -> None:
    max_pixels = max_pixels or MAX_PIXELS
    if height * width > max_pixels:
        raise ValueError(
            f"{label} is {width}x{height} (width x height), more than the limit of {max_pixels} pixels for video: "
            "export it smaller"
        )


def _refusal(label: str, error: Exception, live: bool, stall: float) -> str:
    import av

    if isinstance(error, av.error.TimeoutError | av.error.ExitError):
        return f"{label} does not answer within {stall:g} s: check address and network"
    if live:
        return (
            f"{label} cannot be opened ({getattr(error, 'strerror', None) or error}): check the address and the device"
        )
    if isinstance(error, PermissionError):
        return f"{label} cannot be opened: check its permissions"
    return f"{label} is not a video that can be read: it is damaged, cut off, or of an unknown kind"
