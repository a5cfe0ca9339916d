"""Run a pipeline over a sequence of pairs: in Python, and from sources to a writer."""

import itertools
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from fusion_hub.image.inputs import to_picture
from fusion_hub.image.luminance import Role, ValueRange, to_plane
from fusion_hub.image.picture import InputWarning, Picture
from fusion_hub.video.display_range import RangeTracker
from fusion_hub.video.frames import Frame
from fusion_hub.video.pairing import PairCount, default_tolerance, pair_frames
from fusion_hub.video.sources import Source, in_background

if TYPE_CHECKING:
    from fusion_hub import FusionPipeline
    from fusion_hub.video.writers import Writer

LARGE_FRAME = 1920 * 1088  # pixels above which one frame is fused at a time
MOST_WORKERS = 8  # frames in work at a time, each of which takes memory
_FALSE_COLORS = (
    "the infrared holds colors, as a false-color map does, whose luma need not rise with temperature: record it in "
    "white-hot gray or as raw counts"
)


def fuse_frames(
    pairs: Iterable[tuple[Any, Any]],
    pipeline: "FusionPipeline",
    *,
    rig: Any = None,
    infrared_range: ValueRange | None = None,
    visible_range: ValueRange | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Fuse the frames of a sequence, one at a time.

    Args:
        pairs: (visible, infrared) in order, each an image that a pipeline takes, or a [`Frame`]. Only the current pair
            is held. Where visible is None, the infrared frame only moves the display range.
        pipeline: any fusion pipeline.
        rig: a `fusion_hub.rigs.Rig` that brings the infrared onto the grid of the visible.
        infrared_range: "auto" follows the percentiles of counts and temperatures slowly, see [`RangeTracker`]; 8-bit
            frames are taken as they are. Other rules are applied frame by frame, as in the pipeline. None: the
            pipeline's own.
        visible_range, options: of the pipeline's call.

    Yields:
        For each pair an array `(H, W[, C])` of the visible image's kind: uint8, uint16 or float32 in [0, 1]. For a
        [`Frame`] a [`Frame`].

    Raises:
        ValueError, TypeError: as the pipeline's call.

    Warns:
        InputWarning: once for each kind.

    Examples:
        >>> from fusion_hub import DiffFuseNetPipeline
        >>> pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
        >>> clip = ((np.full((32, 32, 3), 90 + i, np.uint8), np.full((32, 32), i, np.uint8)) for i in range(2))
        >>> [fused.shape for fused in fuse_frames(clip, pipe)]
        [(32, 32, 3), (32, 32, 3)]
    """
    fuser = _Fuser(pipeline, rig, infrared_range, visible_range, options)
    for visible, infrared in pairs:
        fuser.follow(infrared)
        if visible is None:
            continue
        with fuser.warnings() as report:
            fused = fuser.fuse(fuser.prepare(visible, infrared))
            report()
        yield fused if isinstance(visible, Frame) else fused.picture.pixels


class _Fuser:
    """Fuses pairs with what they share: the display range, and the warnings that were given."""

    def __init__(
        self,
        pipeline: "FusionPipeline",
        rig: Any,
        infrared_range: ValueRange | None,
        visible_range: ValueRange | None,
        options: dict[str, Any],
    ) -> None:
        processor = pipeline.image_processor
        self.pipeline, self.max_pixels = pipeline, processor.max_pixels
        rule = processor.infrared_range if infrared_range is None else infrared_range
        self.tracker = RangeTracker(processor.percentile) if rule == "auto" else None
        self.options = {**options, "visible_range": visible_range, "infrared_range": rule}
        self.guesses_bits = (processor.visible_range if visible_range is None else visible_range) == "auto"
        self.white = 0.0
        if rig is not None:
            self.options["rig"] = rig
        self.is_first, self.seen = True, set[str]()
        self.notes: deque[tuple[str, type[Warning]]] = deque()

    def follow(self, infrared: Any) -> None:
        """Move the display range by the next infrared frame, whether it is fused or not."""
        if self.tracker is not None:
            self.options["infrared_range"] = self.tracker.update(self._load(infrared, "infrared"))

    def prepare(self, visible: Any, infrared: Any) -> "_Task":
        """A pair with the display range of now, to be fused now or later."""
        frame = visible if isinstance(visible, Frame) else Frame(self._load(visible, "visible"), Fraction(0), "")
        if self.guesses_bits and frame.picture.white == 65535:
            self.options["visible_range"] = 0.0, self._steady_white(frame.picture)
        if self.is_first and isinstance(infrared, Frame) and infrared.colors is not None and infrared.colors.are_strong:
            self._note(_FALSE_COLORS)
        self.is_first = False
        return _Task(frame, self._load(infrared, "infrared"), dict(self.options))

    def fuse(self, task: "_Task") -> Frame:
        """The fused frame: where it has colors its luma as float32 in [0, 1], else what the pipeline gives.

        May run in several threads.
        """
        frame = task.visible
        kind: Literal["pil", "np"] = "pil" if frame.colors is None else "np"
        fused = self.pipeline(frame.picture, task.infrared, output_type=kind, **task.options).images[0]
        if frame.colors is not None:
            return replace(frame, picture=replace(frame.picture, pixels=fused[..., 0], white=1.0))
        pixels = getattr(fused, "samples", None)
        pixels = np.asarray(fused) if pixels is None else pixels
        return replace(frame, picture=replace(frame.picture, pixels=pixels, alpha=None, valid=None))

    @contextmanager
    def warnings(self) -> Iterator[Callable[[], None]]:
        """Hold back the warnings of all threads; the function that it gives shows those of kinds not seen before."""
        show = warnings.showwarning

        def collect(message: Any, category: Any, filename: str, lineno: int, *rest: Any, **named: Any) -> None:
            if issubclass(category, InputWarning):
                self._note(str(message), category)
            else:
                show(message, category, filename, lineno, *rest, **named)

        def report() -> None:
            while self.notes:
                text, category = self.notes.popleft()
                show(category(text), category, __file__, 0)

        with warnings.catch_warnings():
            warnings.simplefilter("always", InputWarning)
            warnings.showwarning = collect
            yield report

    def _load(self, source: Any, role: Role) -> Picture:
        return source.picture if isinstance(source, Frame) else to_picture(source, role, role, self.max_pixels)[0]

    def _steady_white(self, picture: Picture) -> float:
        """White of a visible frame that holds the 10, 12 or 14 bits of a camera in 16; it never falls."""
        plane = to_plane(picture, "visible", "auto", (0, 100), "visible")
        for note in plane.notes:
            self._note(note)
        self.white = max(self.white, plane.limits[1])
        return self.white

    def _note(self, text: str, category: type[Warning] = InputWarning) -> None:
        """Keep a warning, once for each kind, whatever numbers and names are in the text."""
        kind = re.sub(r"'[^']*'|[\d.]+", "", text)
        if kind not in self.seen:
            self.seen.add(kind)
            self.notes.append((text, category))


class _Task(NamedTuple):
    visible: Frame
    infrared: Picture
    options: dict[str, Any]


@dataclass
class Report:
    """What [`fuse_video`] did.

    Attributes:
        fused: frames that were fused and written.
        kept: frames that were there already.
        dropped: frames of live sources that came faster than they could be fused.
        pairing: the counts of [`pair_frames`].
        tolerance: seconds, of the pairing.
        end: of the last frame, seconds.
        failed: names of frames that could not be fused, with the reason.
        problems: what was wrong with the sources, one sentence each.
        stopped: whether the user stopped it.
    """

    fused: int = 0
    kept: int = 0
    dropped: int = 0
    pairing: PairCount = field(default_factory=PairCount)
    tolerance: Fraction = Fraction(0)
    end: Fraction = Fraction(0)
    failed: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def visible_read(self) -> int:
        """Visible frames that are done, one way or another."""
        return self.fused + self.kept + len(self.failed) + self.pairing.visible_alone


@contextmanager
def _workers(pipeline: "FusionPipeline", size: tuple[int, int]) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that fuse frames of a size `(H, W)`, and their number.

    On a CPU one for each core, each with one frame: quicker than all cores on one frame after the other. Large frames
    keep all cores busy by themselves, and several would take too much memory.
    """
    import torch

    threads = torch.get_num_threads()
    several = pipeline.device.type == "cpu" and size[0] * size[1] <= LARGE_FRAME
    count = min(threads, MOST_WORKERS) if several else 1
    try:
        with ThreadPoolExecutor(count, "fusion", torch.set_num_threads, (threads // count,)) as workers:
            yield workers, count
    finally:
        torch.set_num_threads(threads)  # the number of a thread becomes that of threads that start later


def fuse_video(
    visible: Source,
    infrared: Source,
    writer: "Writer",
    pipeline: "FusionPipeline",
    *,
    tolerance: Fraction | None = None,
    time_offset: Fraction = Fraction(0),
    limit: int | None = None,
    is_done: Callable[[Frame, Frame], bool] | None = None,
    on_frame: Callable[[Report], object] | None = None,
    **options: Any,
) -> Report:
    """Fuse two sources into a file or folder. Reading, fusing and encoding overlap, and few frames are held.

    Ctrl-C, a stream that stops, and a damaged file end the video early: what was fused until then is complete.

    Args:
        visible, infrared: from [`open_sources`], of one size, or of the rig's sizes; they are closed at the end.
        writer: a [`VideoWriter`] or [`FolderWriter`]; it is finished here.
        pipeline: any fusion pipeline.
        tolerance: largest difference in time of a pair, seconds; by default half of the shorter frame interval.
        time_offset: seconds by which the infrared is late.
        limit: number of pairs.
        is_done: tells of a pair whether its result is there already.
        on_frame: called with the report after each frame.
        options: of [`fuse_frames`].
    """
    if tolerance is None:
        tolerance = default_tolerance(visible.interval, infrared.interval)
    report = Report(tolerance=tolerance)

    pairs = pair_frames(visible.frames(), infrared.frames(), tolerance, time_offset, report.pairing)
    if not visible.live:  # those are read in the background anyway
        pairs = in_background(pairs)
    fuser = _Fuser(
        pipeline,
        options.pop("rig", None),
        options.pop("infrared_range", None),
        options.pop("visible_range", None),
        options,
    )
    waiting: deque[tuple[Frame, Future[Frame]]] = deque()
    with (
        writer,
        _workers(pipeline, visible.size) as (workers, count),
        ThreadPoolExecutor(1, "encoder") as encoder,
        fuser.warnings() as warn,
    ):
        written: Future[None] | None = None

        def finish_first() -> None:
            """Hand the oldest frame in work to the encoder; one frame waits there at most."""
            nonlocal written
            seen, fusing = waiting.popleft()
            try:
                fused = fusing.result()
            except ValueError as error:  # one bad frame must not cost the others
                report.failed.append((seen.name, str(error)))
            else:
                if written is not None:
                    written.result()
                written = encoder.submit(writer.write, fused)
                report.fused += 1
                report.end = seen.time + visible.interval
            warn()
            if on_frame is not None:
                on_frame(report)

        try:
            for seen, warm in itertools.islice(pairs, limit):
                try:
                    fuser.follow(warm)
                    kept = is_done is not None and is_done(seen, warm)
                    task = None if kept else fuser.prepare(seen, warm)
                except ValueError as error:
                    report.failed.append((seen.name, str(error)))
                    continue
                if task is None:
                    report.kept += 1
                    if on_frame is not None:
                        on_frame(report)
                    continue
                waiting.append((seen, workers.submit(fuser.fuse, task)))
                if len(waiting) > count:
                    finish_first()
            while waiting:
                finish_first()
        except KeyboardInterrupt:
            report.stopped = True
            for _, fusing in waiting:
                fusing.cancel()
        if written is not None:
            written.result()
    pairs.close()
    for source in (visible, infrared):
        source.close()
    report.dropped = visible.dropped
    report.problems = [*visible.problems, *infrared.problems]
    return report
