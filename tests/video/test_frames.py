"""Levels, colors and sizes of frames on their way from one video to another."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fusion_hub import video
from fusion_hub.image import Picture
from fusion_hub.video.frames import from_video_frame, to_video_frame
from tests.support.clips import identity_pipeline, read_clip, write_clip

RAMP = np.tile(np.arange(256, dtype=np.uint8), (48, 1))
FULL, LIMITED, BT709, BT601 = 2, 1, 1, 5


def gray_levels(path: Path) -> np.ndarray:
    """Luma of the third frame, 0..255 whatever its range and bits."""
    with av.open(str(path)) as clip:
        frame = [*clip.decode(video=0)][2]
    bits = frame.format.components[0].bits
    rows = np.frombuffer(memoryview(frame.planes[0]), np.uint16 if bits > 8 else np.uint8).reshape(frame.height, -1)
    luma = rows[:, : frame.width].astype(float) / 2 ** (bits - 8)
    full = int(frame.color_range) == FULL or frame.format.name.startswith(("yuvj", "gray"))
    return luma if full else (luma - 16) * 255 / 219


def pass_on(visible: str, output: Path) -> video.Report:
    """A fusion that leaves the visible as it is."""
    sources = video.open_sources(visible, visible)
    return video.fuse_video(*sources, video.VideoWriter(output, sources[0]), identity_pipeline())


@pytest.mark.parametrize("layout", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12", "yuyv422"])
@pytest.mark.parametrize("turns", [0, 1])
def test_every_level_comes_back(layout: str, turns: int) -> None:
    full = layout.startswith("yuvj")
    source = av.VideoFrame.from_ndarray(RAMP, format="gray").reformat(
        format=layout, dst_color_range=FULL if full else LIMITED
    )
    frame = from_video_frame(source, Fraction(0), "0", turns)
    assert frame.colors is not None and frame.picture.size == ((256, 48) if turns else (48, 256))
    white = float(frame.picture.white or 0)
    shown = np.rot90(frame.picture.pixels, -turns) / white * 255
    assert np.abs(shown - RAMP).max() <= 1
    unit = (frame.picture.pixels / np.float32(white)).astype(np.float32)
    back = to_video_frame(replace(frame, picture=Picture(unit, white=1.0)), frame.colors.layout)
    again = from_video_frame(back, Fraction(0), "0")
    assert np.array_equal(again.picture.pixels, frame.picture.pixels)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("layout", "tags"),
    [
        ("yuv420p", {}),
        ("yuv420p", {"color_range": LIMITED, "colorspace": BT709, "color_primaries": 1, "color_trc": 1}),
        ("yuv420p", {"color_range": FULL, "colorspace": BT601}),
        ("yuv444p", {"color_range": LIMITED, "colorspace": BT709}),
        ("yuv420p10le", {"color_range": LIMITED, "colorspace": BT709}),
    ],
)
@pytest.mark.filterwarnings("ignore:the infrared holds colors")
def test_a_gray_ramp_and_colors_survive_a_file(tmp_path: Path, suffix: str, layout: str, tags: dict[str, int]) -> None:
    colors = np.dstack([RAMP, np.full_like(RAMP, 90), RAMP[:, ::-1]])
    for name, picture in (("gray", RAMP), ("colors", colors)):
        clip = write_clip(tmp_path / f"{name}.mkv", [picture] * 4, pix_fmt=layout, tags=tags)
        assert pass_on(str(clip), tmp_path / f"out{suffix}").fused == 4
        out_path = tmp_path / f"out{suffix}"
        if name == "gray":
            assert np.abs(gray_levels(out_path) - gray_levels(clip)).mean() < 0.5  # H.264 is lossy
            assert np.abs(gray_levels(out_path) - RAMP).mean() < 0.75
        else:
            before, after = (read_clip(path, "rgb24")[0][2].astype(int) for path in (clip, out_path))
            assert np.abs(before - after).mean() < 2
        with av.open(str(tmp_path / f"out{suffix}")) as out:
            context = out.streams.video[0].codec_context
            for name, value in tags.items():
                same = (value, 6) if name == "colorspace" and value == BT601 else (value,)  # two numbers of one matrix
                assert int(getattr(context, name)) in same
            deep = suffix == ".mkv" and "10" in layout
            kept = layout if suffix == ".mkv" else "yuv420p"
            assert str(context.pix_fmt).replace("yuvj", "yuv") == kept and ("10" in str(context.pix_fmt)) == deep


@pytest.mark.filterwarnings("ignore:the infrared holds colors")
def test_pictures_of_a_folder_become_a_video_with_their_levels(tmp_path: Path) -> None:
    from PIL import Image

    for kind, picture in (("gray", RAMP), ("rgb", np.dstack([RAMP] * 3))):
        (tmp_path / kind).mkdir()
        for index in range(3):
            Image.fromarray(picture).save(tmp_path / kind / f"{index}.png")
        pass_on(str(tmp_path / kind), tmp_path / f"{kind}.mp4")
        shown = read_clip(tmp_path / f"{kind}.mp4", "rgb24")[0][1].astype(int)
        assert np.abs(shown - RAMP[..., None]).mean() < 0.5 and np.abs(shown - RAMP[..., None]).max() <= 2


def test_counts_of_16_bits_are_exact(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [random.integers(0, 65536, (47, 63)).astype(np.uint16) for _ in range(5)]
    clip = write_clip(tmp_path / "deep.mkv", frames, "ffv1", "gray16le")
    source = video.open_source(str(clip), "INFRARED")
    assert source.deep and all(
        np.array_equal(a.picture.pixels, b) for a, b in zip(source.frames(), frames, strict=True)
    )
    sources = video.open_sources(str(clip), str(clip))
    report = video.fuse_video(
        *sources, video.VideoWriter(tmp_path / "out.mkv", sources[0]), identity_pipeline(), visible_range="dtype"
    )
    assert report.fused == 5 and not report.problems
    back, _ = read_clip(tmp_path / "out.mkv", "gray16le")
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(frames, back, strict=True)) == 0


@pytest.mark.parametrize(("suffix", "size"), [(".mp4", (50, 66)), (".mkv", (50, 66))])
def test_odd_sides_grow_by_one_where_chroma_is_halved(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(40, 200, (7, 9)), np.ones((7, 8)))[:49, :65].astype(np.uint8)
    clip = write_clip(tmp_path / "odd.mkv", [picture] * 3, "ffv1", "yuv420p")
    sources = video.open_sources(str(clip), str(clip))
    assert sources[0].size == (49, 65)
    writer = video.VideoWriter(tmp_path / f"out{suffix}", sources[0])
    video.fuse_video(*sources, writer, identity_pipeline())
    (shown, *_), _ = read_clip(tmp_path / f"out{suffix}")
    assert shown.shape == size and "even sides" in writer.notes[0]
    assert np.abs(shown[:49, :65].astype(int) - picture).mean() < 1.5
    assert np.abs(shown[49, :65].astype(int) - shown[48, :65]).mean() < 3


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    picture = np.zeros((48, 96), np.uint8)
    picture[:24, :48] = 200  # top left
    clip = write_clip(tmp_path / "turned.mp4", [picture] * 3, aspect=Fraction(4, 3))
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version, times and ids, reserved, layer to volume
    turned = [0, 1, 0, -1, 0, 0, 0, 0, 16384]  # a phone that was held upright: shown turned by 90 degrees clockwise
    data[matrix : matrix + 36] = b"".join((value * 65536).to_bytes(4, "big", signed=True) for value in turned)
    clip.write_bytes(data)
    source = video.open_source(str(clip), "VISIBLE")
    assert source.size == (96, 48) and source.aspect == Fraction(3, 4)
    frame = next(source.frames()).picture.pixels
    assert frame[10, 40] > 180 and frame[10, 5] < 20 and frame[90, 40] < 20  # top right
    pass_on(str(clip), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        shown = next(out.decode(video=0))
        assert (shown.height, shown.width, shown.rotation) == (96, 48, 0)
        assert out.streams.video[0].sample_aspect_ratio == Fraction(3, 4)
