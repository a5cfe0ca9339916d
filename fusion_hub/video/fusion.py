"""Run a pipeline over a sequence of pairs: in Python, and from sources to a writer."""

import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fusion_hub.image.inputs import to_picture
from fusion_hub.image.luminance import Role, ValueRange
from fusion_hub.image.picture import InputWarning, Picture
from fusion_hub.video.display_range import RangeTracker
from fusion_hub.video.frames import Frame
from fusion_hub.video.pairing import PairCount, default_tolerance, pair_frames
from fusion_hub.video.sources import Source, in_background

if TYPE_CHECKING:
    from fusion_hub import FusionPipeline
    from fusion_hub.video.writers import Writer

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
    fuse = _Fuser(pipeline, rig, infrared_range, visible_range, options)
    for visible, infrared in pairs:
        if (fused := fuse(visible, infrared)) is not None:
            yield fused if isinstance(visible, Frame) else fused.picture.pixels


class _Fuser:
    """Fuses one pair after the other, with what they share: the display range, and the warnings that were given."""

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
        if rig is not None:
            self.options["rig"] = rig
        self.is_first, self.warned = True, set[str]()

    def __call__(self, visible: Any, infrared: Any) -> Frame | None:
        """The fused frame: where it has colors its luma as float32 in [0, 1], else what the pipeline gives."""
        warm = self._load(infrared, "infrared")
        if self.tracker is not None:
            self.options["infrared_range"] = self.tracker.update(warm)
        if visible is None:
            return None
        frame = visible if isinstance(visible, Frame) else Frame(self._load(visible, "visible"), Fraction(0), "")
        if self.is_first and isinstance(infrared, Frame) and infrared.colors is not None and infrared.colors.are_strong:
            self._warn(_FALSE_COLORS)
        self.is_first = False
        kind: Literal["pil", "np"] = "pil" if frame.colors is None else "np"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InputWarning)
            fused = self.pipeline(frame.picture, warm, output_type=kind, **self.options).images[0]
        for warning in caught:
            self._warn(str(warning.message), warning.category)
        if frame.colors is not None:
            return replace(frame, picture=replace(frame.picture, pixels=fused[..., 0], white=1.0))
        pixels = getattr(fused, "samples", None)
        pixels = np.asarray(fused) if pixels is None else pixels
        return replace(frame, picture=replace(frame.picture, pixels=pixels, alpha=None, valid=None))

    def _load(self, source: Any, role: Role) -> Picture:
        return source.picture if isinstance(source, Frame) else to_picture(source, role, role, self.max_pixels)[0]

    def _warn(self, text: str, category: type[Warning] = InputWarning) -> None:
        """Warn once for each kind, whatever numbers and names are in the text."""
        kind = re.sub(r"'[^']*'|[\d.]+", "", text)
        if kind not in self.warned:
            self.warned.add(kind)
            warnings.warn(text, category, stacklevel=4)


@dataclass
class Report:
    """What [`fuse_video`] did.

    Attributes:
        fused: frames that were fused and written.
        kept: frames that were there already.
        dropped: frames of live sources that came faster than they could be fused.
        pairing: the counts of [`pair_frames`].
        tolerance: seconds, of the pairing.
        end: time of the last frame, seconds.
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
        visible, infrared: from [`open_sources`], of one size, or of the rig's sizes.
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
    fuse = _Fuser(
        pipeline,
        options.pop("rig", None),
        options.pop("infrared_range", None),
        options.pop("visible_range", None),
        options,
    )
    with writer, ThreadPoolExecutor(1, "encoder") as encoder:
        written: Future[None] | None = None
        try:
            for seen, warm in itertools.islice(pairs, limit):
                done = is_done is not None and is_done(seen, warm)
                try:
                    fused = fuse(None if done else seen, warm)
                except ValueError as error:  # one bad frame must not cost the others
                    report.failed.append((seen.name, str(error)))
                    continue
                if fused is None:
                    report.kept += 1
                else:
                    if written is not None:
                        written.result()  # one frame waits at most
                    written = encoder.submit(writer.write, fused)
                    report.fused += 1
                    report.end = seen.time
                if on_frame is not None:
                    on_frame(report)
        except KeyboardInterrupt:
            report.stopped = True
        if written is not None:
            written.result()
    report.dropped = visible.dropped
    report.problems = [*visible.problems, *infrared.problems]
    return report
