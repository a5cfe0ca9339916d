"""A short clip of two cameras: checked, aligned, fused frame by frame, and shown beside what the visible camera saw."""

import html
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
from cameras import describe
from fuse import LANE, load_pipeline, quick_model
from gpu import on_gpu
from stopping import check
from storage import new_folder
from uploads import Refusal, error_messages, sentence

from fusion_hub import InputWarning
from fusion_hub.data.layouts import safe_name
from fusion_hub.image.io import EXTENSIONS
from fusion_hub.rigs import Rig, RigCalibrator, RigError
from fusion_hub.video import Frame, Source, VideoWriter, fuse_frames, open_source, pair_frames
from fusion_hub.video.pairing import PairCount, default_tolerance

MAX_FRAMES = 300
MAX_FRAME = 1280 * 1024  # pixels
MAX_PIXELS = 150_000_000  # of all frames of a clip together
ALIGNED = 16  # frames from which the cameras are aligned: more take longer and change little
ADVICE = "cut it or make it smaller, or use fusion-hub fuse-video"
Made = Iterator[tuple[str | None, str | None, str]]


def fuse_clip(
    visible: str | None,
    infrared: str | None,
    align: bool = True,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio's way to ask for it
) -> Made:
    """Fuse a short clip of a visible and an infrared camera, frame by frame.

    Args:
        visible: a video file of at most 300 frames, 1280 x 1024 pixels a frame and 150 megapixels in all.
        infrared: the video of the infrared camera, recorded at the same time. It may have another size and frame rate.
        align: whether the cameras have different views, which are aligned first. Otherwise the frames must match.

    Returns:
        The visible clip and the fused clip as MP4 files with the same frames, without sound; a text.
    """
    yield from fuse_all(progress, visible, infrared, align)


@on_gpu(seconds=110)
def fuse_all(progress: gr.Progress, visible: str | None, infrared: str | None, align: bool) -> Made:
    """`fuse_clip`."""
    paths, begun = (visible, infrared), time.monotonic()
    with error_messages(), _refusals(paths):
        progress(0, desc="Reading the frames")
        # Twice through the files: what is too long is refused before anything is fused.
        calibrator = RigCalibrator() if align else None
        total, sources = 0, _open(paths, align)
        every = max(1, (sources[0].count or MAX_FRAMES) // ALIGNED)
        for seen, warm in _pairs(sources, PairCount()):
            if calibrator is not None and total % every == 0:
                calibrator.add(seen.picture, warm.picture)
            total += 1
            yield None, None, ""  # a canceled run ends here
        if total == 0:
            raise Refusal("No pairs", "The clips have no frame of one time: record both cameras at the same time.")

        def report(share: float) -> None:
            check()
            progress(share, desc="Aligning the cameras")

        rig = calibrator.estimate(report) if calibrator is not None else None
        stem, folder = safe_name(Path(str(visible)).stem)[:80], new_folder()
        before, after = folder / f"{stem}_visible.mp4", folder / f"{stem}_fused.mp4"
        sources, count = _open(paths, align), PairCount()
        notes: dict[str, None] = {}
        started = time.monotonic()
        for number in _write(sources, count, rig, (before, after), notes):
            left = (time.monotonic() - started) / number * (total - number)
            progress((number, total), desc=f"Fusing, about {math.ceil(left)} s left", unit="frames")
            yield None, None, ""
        height, width = sources[0].size
        seconds = time.monotonic() - begun
        text = f"{count.pairs} frames of {width} x {height} pixels fused in {seconds:.0f} s by {quick_model()}."
        if rig:
            text = f"{describe(rig)}\n\n{text}"
        if count.visible_alone:
            notes[f"{count.visible_alone} visible frames have no infrared frame of their time and are left out"] = None
        for note in (*(problem for source in sources for problem in source.problems), *notes):
            text += f"\n\n**Please check:** {html.escape(_without_folders(sentence(note), paths), quote=False)}"
        yield str(before), str(after), text


def _write(
    sources: tuple[Source, Source],
    count: PairCount,
    rig: Rig | None,
    targets: tuple[Path, Path],
    notes: dict[str, None],
) -> Iterator[int]:
    """Fuse the clips; gives the number of frames that are done. Unfinished files are removed."""
    waiting: list[Frame] = []

    def pairs() -> Iterator[tuple[Frame, Frame]]:
        for seen, warm in _pairs(sources, count):
            waiting.append(seen)
            yield seen, warm

    fused = fuse_frames(pairs(), load_pipeline(quick_model()), rig=rig)
    with ExitStack() as stack:
        before, after = (stack.enter_context(VideoWriter(target, sources[0], audio=False)) for target in targets)
        while True:
            with LANE, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", InputWarning)
                check()
                frame = next(fused, None)
            notes.update((str(warning.message), None) for warning in caught if warning.category is InputWarning)
            if frame is None:
                return
            before.write(_as_fused(waiting.pop()))
            after.write(frame)
            yield count.pairs


def _as_fused(frame: Frame) -> Frame:
    """A frame as the writer wants it: where it has colors, its luma in [0, 1]."""
    picture = frame.picture
    if frame.colors is None:
        return frame
    pixels = picture.pixels / np.float32(picture.white or 1)
    return replace(frame, picture=replace(picture, pixels=pixels, white=1.0))


def _open(paths: tuple[str | None, str | None], align: bool) -> tuple[Source, Source]:
    """Both clips, their first frames decoded; a `Refusal` for what the page does not take."""
    visible, infrared = (_open_one(path, role) for path, role in zip(paths, ("visible", "infrared"), strict=True))
    if visible.deep:
        text = "The visible clip has more than 8 bits, which this page's video has not: use fusion-hub fuse-video."
        raise Refusal("Too many bits", text)
    if not align and visible.size != infrared.size:
        seen, warm = ("{1}x{0}".format(*source.size) for source in (visible, infrared))
        text = f"The visible frames are {seen}, the infrared ones {warm} (width x height): turn on the alignment."
        raise Refusal("Not the same size", text)
    return visible, infrared


def _open_one(path: str | None, role: str) -> Source:
    if path is None:
        raise Refusal("Nothing to read yet", f"Add the {role} clip first.")
    if not Path(path).is_file():
        raise Refusal("Too long ago", f"The {role} clip was deleted after an hour: upload it again.")
    if Path(path).suffix.lower() in EXTENSIONS - {".gif"}:
        raise Refusal(
            "Not a video", f"The {role} clip ({Path(path).name}) is one picture: the tab Two pictures takes it."
        )
    source = open_source(path, role.upper(), max_pixels=MAX_FRAME)
    if (source.count or 0) > _most(source):
        raise _too_long(source, f"{source.count} frames")
    return source


def _most(source: Source) -> int:
    """Frames that a clip of its size may have."""
    height, width = source.size
    return min(MAX_FRAMES, MAX_PIXELS // (height * width))


def _too_long(source: Source, length: str) -> Refusal:
    height, width = source.size
    text = f"{source.label} has {length} of {width} x {height} pixels, and at most {_most(source)} are allowed here"
    return Refusal("Clip too long", f"{text}: {ADVICE}.")


def _pairs(sources: tuple[Source, Source], count: PairCount) -> Iterator[tuple[Frame, Frame]]:
    visible, infrared = sources
    tolerance = default_tolerance(visible.interval, infrared.interval)
    yield from pair_frames(_frames(visible), _frames(infrared), tolerance, count=count)


def _frames(source: Source) -> Iterator[Frame]:
    """The frames of a clip, whatever number of them its header states."""
    for number, frame in enumerate(source.frames()):
        check()
        if number >= _most(source):
            raise _too_long(source, f"more than {number} frames")
        yield frame


@contextmanager
def _refusals(paths: tuple[str | None, str | None]) -> Iterator[None]:
    """Errors of the library as messages for visitors, without the folders of the server."""
    try:
        yield
    except RigError as error:
        advice = "if the frames match already, turn off the alignment"
        raise Refusal("Not aligned", sentence(f"{error}; {advice}")) from error
    except Refusal as error:
        raise Refusal(str(error.title), _without_folders(error.text, paths)) from error
    except (TypeError, ValueError) as error:
        raise Refusal("This clip cannot be fused", _without_folders(sentence(error), paths)) from error


def _without_folders(text: str, paths: tuple[str | None, str | None]) -> str:
    for path, role in zip(paths, ("visible", "infrared"), strict=True):
        text = text.replace(role.upper(), f"the {role} clip").replace(str(path), Path(str(path)).name)
    return f"{text[:1].upper()}{text[1:]}"
