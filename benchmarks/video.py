"""Flicker, speed and memory of video fusion.

    python benchmarks/video.py flicker      # display ranges on 16-bit sequences with drift and a passing hot object
    python benchmarks/video.py speed        # fusion-hub fuse-video on the clip of data/rigs/video
    python benchmarks/video.py memory       # resident memory over 2,000 frames, and CPU time without the network

The sequences of `flicker` are made from one real frame, of 16 bits (data/thermal16) or 8 (data/m3svd_video): 28 frames
in which the counts rise by 4 % of the scene's span, with the noise of a sensor, while an object twice as hot as the
scene passes. Static areas are all pixels that it never comes near. Numbers are luminance, 0..255: the largest change of
their mean from frame to frame, and between any two frames; the standard deviation of a pixel over time; the contrast is
the standard deviation over the static areas, relative to the first row. "corner": how far the pixels away from a corner
move, on average, in the frame in which a hot patch appears in that corner of the infrared, and in the 27th after it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from fusion_hub import FusionPipeline, image, video
from fusion_hub.evaluation.report import markdown_table

FRAMES = 28
ROOT = Path(os.environ.get("FUSION_HUB_DATA", "../shared")) / "data"
SCENES = ("FLIR_T640", "FLIR", "FLIR_B60", "0111_1716")
RULES: dict[str, Any] = {
    "auto by frame": "by frame",
    "minmax": "minmax",
    "fixed": "fixed",
    "tracked (auto)": "auto",
}
Pair = tuple[np.ndarray, np.ndarray]


def load_scene(data: Path, name: str) -> Pair:
    """The visible picture as `(H, W, 3)` uint8 on the grid of the infrared, and the counts `(H, W)`."""
    if name[0] == "0":  # a registered pair of 8 bits, taken as counts
        clip = data / "m3svd_video" / name
        warm = image.read_picture(clip / "ir" / "0000.png").pixels.astype(np.uint16)
        return np.asarray(Image.open(clip / "vis" / "0000.webp").convert("RGB")), 7000 + 8 * warm
    folder = data / "thermal16" / "radiometric"
    counts = image.read_picture(folder / "ir" / f"{name}.png").pixels
    file = next((folder / "vis").glob(f"{name}.*"))
    size = (counts.shape[1], counts.shape[0])
    return np.asarray(Image.open(file).convert("RGB").resize(size, Image.Resampling.LANCZOS)), counts


def make_sequence(visible: np.ndarray, counts: np.ndarray, hot: bool = True) -> tuple[list[Pair], np.ndarray]:
    """The frames, and where the object is never seen `(H, W)` bool."""
    random = np.random.default_rng(0)
    height, width = counts.shape
    low, high = np.percentile(counts, (0.5, 99.5))
    touched = np.zeros(counts.shape, bool)
    frames = []
    for index in range(FRAMES):
        frame = counts + 0.04 * (high - low) * index / (FRAMES - 1)
        if hot:  # about 2 % of the picture, from the left to the right
            left, top = int((index / FRAMES * 1.4 - 0.2) * width), int(0.35 * height)
            place = np.s_[top : top + height // 4, max(left, 0) : max(left + width // 12, 0)]
            frame[place] = high + (high - low)
            touched[place] = True
        frame += random.normal(0, 0.002 * (high - low), counts.shape)
        noisy = visible + random.normal(0, 1.0, visible.shape)
        frames.append((image.quantize(noisy, white=255), np.clip(np.rint(frame), 0, 65535).astype(np.uint16)))
    return frames, ~ndimage.binary_dilation(touched, iterations=24)


def fuse(pipeline: FusionPipeline, frames: Sequence[Pair], rule: Any) -> Iterator[np.ndarray]:
    """Luminance `(H, W)` of the fused frames, 0..255."""
    low, high = np.percentile(frames[0][1], (0.5, 99.5))
    known = {"by frame": "percentile", "fixed": (float(low), float(high))}
    for fused in video.fuse_frames(frames, pipeline, infrared_range=known.get(rule, rule)):
        yield image.luma(fused)


def measure_flicker(pipeline: FusionPipeline, data: Path, name: str) -> Iterator[list[str]]:
    """A row for each rule."""
    frames, still = make_sequence(*load_scene(data, name))
    calm = make_sequence(*load_scene(data, name), hot=False)[0][0]
    patch = np.zeros(still.shape, bool)
    patch[: still.shape[0] // 5, : still.shape[1] // 5] = True
    far = ~ndimage.binary_dilation(patch, iterations=120)
    heated = np.where(patch, calm[1].max() + np.ptp(calm[1]) // 2, calm[1]).astype(np.uint16)
    lit = [calm, *[(calm[0], heated)] * (FRAMES - 1)]
    whole = 0.0
    for label, rule in RULES.items():
        planes = np.stack([plane[still] for plane in fuse(pipeline, frames, rule)]).astype(np.float32)
        means, contrast = planes.mean(1), float(planes.std(1).mean())
        whole = whole or contrast
        cells = [f"{np.abs(np.diff(means)).max():.1f}", f"{np.ptp(means):.1f}", f"{planes.std(0).mean():.1f}"]
        corner = ["-", "-"]  # where the picture is too small for pixels beyond the reach of the network
        if far.mean() > 0.2:
            first, *others = (plane[far].astype(np.float32) for plane in fuse(pipeline, lit, rule))
            corner = [f"{np.abs(plane - first).mean():.2f}" for plane in (others[0], others[-1])]
        yield [name, label, *cells, f"{contrast / whole:.0%}", *corner]


def run_command(*words: object) -> tuple[float, float, str]:
    """Wall seconds and CPU seconds of the command line, and what it printed."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "fusion_hub", "fuse-video", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip()}")
    return time.perf_counter() - wall, used, done.stdout.strip()


def measure_speed(model: str, dtype: str, clip: Sequence[Path], frames: int) -> list[str]:
    """A row: the command on the clip. The start is left out by the difference to a run of ten frames."""
    with tempfile.TemporaryDirectory() as folder:
        common_words = (*clip, "--output", Path(folder) / "fused.mp4", "--model", model, "--dtype", dtype, "--limit")
        short, long = run_command(*common_words, 10), run_command(*common_words, 10 + frames)
    wall, used = ((b - a) / frames for a, b in zip(short[:2], long[:2], strict=True))
    return [model, dtype, f"{1 / wall:.1f}", f"{wall * 1000:.0f}", f"{used * 1000:.0f}"]


def measure_overhead(clip: Sequence[Path], folder: Path, frames: int) -> tuple[float, list[int]]:
    """CPU milliseconds a frame of everything but the network, which is a mean here, and resident MiB at each eighth."""
    pipeline = FusionPipeline.from_pretrained("difffusenet-msrs")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.fuse_luminance = lambda seen, warm, *_: (seen + warm) / 2  # type: ignore[method-assign]
    for path in clip:
        repeat(path, folder / path.name, frames)
    visible, infrared = video.open_sources(str(folder / clip[0].name), str(folder / clip[1].name))
    sizes: list[int] = []

    def note(report: video.Report) -> None:
        if report.fused % (frames // 8) == 0:
            sizes.append(common.resident_memory() // common.MIB)

    used = time.process_time()
    video.fuse_video(visible, infrared, video.VideoWriter(folder / "fused.mp4", visible), pipeline, on_frame=note)
    return (time.process_time() - used) / frames * 1000, sizes


def repeat(clip: Path, target: Path, frames: int) -> None:
    """Write a clip again and again, until it has so many frames, without decoding it."""
    import av

    with av.open(str(target), "w") as out:
        track, shift, written = None, 0, 0
        while written < frames:
            with av.open(str(clip)) as source:
                stream = source.streams.video[0]
                track = track or out.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.dts is None or packet.pts is None or written == frames:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, track
                    out.mux(packet)
                    written += 1
                shift += stream.duration or 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line arguments."""
    parser = common.new_parser(__doc__)
    parser.add_argument("part", choices=("flicker", "speed", "memory"))
    parser.add_argument("--model", default="difffusenet-msrs", help="the network")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of `speed`")
    parser.add_argument("--frames", type=int, help="of `speed` (200) and `memory` (2000)")
    parser.add_argument("--data", type=Path, default=ROOT, help="folder with thermal16/ and rigs/video/")
    return common.parse_checked(parser, argv, ("frames",))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    head: tuple[str, ...]
    clip = [arguments.data / "rigs" / "video" / f"0113_1714_{band}.mp4" for band in ("visible", "infrared")]
    provenance = common.versions(torch.get_num_threads(), cpu=common.cpu_model())
    if arguments.part == "flicker":
        warnings.simplefilter("ignore", image.InputWarning)
        pipeline = FusionPipeline.from_pretrained(arguments.model)
        pipeline.set_progress_bar_config(disable=True)
        rows = [row for name in SCENES for row in measure_flicker(pipeline, arguments.data, name)]
        head = ("scene", "range", "largest jump", "drift", "std in time", "contrast", "corner", "corner after 27")
        common.report(provenance, markdown_table(head, rows), None)
    elif arguments.part == "speed":
        rows = [measure_speed(arguments.model, dtype, clip, arguments.frames or 200) for dtype in arguments.dtypes]
        head = ("model", "dtype", "frames a second", "wall ms", "CPU ms")
        common.report(provenance, markdown_table(head, rows), None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            spent, sizes = measure_overhead(clip, Path(folder), arguments.frames or 2000)
        text = f"without the network: {spent:.1f} CPU ms a frame; resident MiB at each eighth: {sizes}"
        common.report(provenance, text, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
