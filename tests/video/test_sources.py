"""What is read, in which order and with which times; and what is refused."""

import itertools
import os
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fusion_hub import video
from fusion_hub.video import sources
from tests.support.clips import moving_square, write_clip
from tests.support.rtsp import serve_rtsp


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_square(25))


def test_frames_and_times_of_a_file(clip: Path) -> None:
    source = video.open_source(str(clip), "VISIBLE")
    assert (source.size, source.interval, source.count) == ((48, 64), Fraction(1, 25), 25)
    frames = list(source.frames())
    assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(25)]
    assert [frame.name for frame in frames][-1] == "000024" and source.problems == []
    for frame, wanted in zip(frames, moving_square(25), strict=True):
        assert np.abs(frame.picture.pixels.astype(int) - wanted).max() <= 1


def test_times_are_kept_where_the_rate_varies(tmp_path: Path) -> None:
    times = [0, 40, 90, 250, 260, 400]
    path = write_clip(tmp_path / "vfr.mkv", moving_square(6), times=times)
    assert [frame.time * 1000 for frame in video.open_source(str(path), "VISIBLE").frames()] == times


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile 'clip.mp4'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "rtsp://127.0.0.1:1/x\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ffconcat", "list.sdp"])
def test_a_file_opens_no_other_file_or_address(clip: Path, text: str, name: str) -> None:
    path = clip.with_name(name)
    path.write_text(text)
    before = time.monotonic()
    with pytest.raises(ValueError, match="is not a video that can be read"):
        video.open_source(str(path), "VISIBLE")
    assert time.monotonic() - before < 5  # FFmpeg waits 20 s for the packets of an SDP file


@pytest.mark.parametrize("name", ["concat:a.mp4", "file:x", "pipe:0", "subfile,,start,0,end,9,,:clip.mp4", "a%03d.mp4"])
def test_a_path_is_a_path(clip: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        video.open_source(name, "VISIBLE")
    Path(name).write_bytes(clip.read_bytes())
    assert len(list(video.open_source(name, "VISIBLE").frames())) == 25
    Path(name).unlink()


@pytest.mark.parametrize("text", ["http://127.0.0.1/a.mp4", "ftp://x/y", "lavfi://testsrc"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"give a file, or a stream that begins with rtsp://"):
        video.open_source(text, "VISIBLE")


def test_what_is_no_video_is_refused(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 500)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:900])  # the index is at the end
    for name in ("empty", "text", "cut"):
        with pytest.raises(ValueError, match=rf"VISIBLE \(.*{name}.mp4\) is not a video that can be read"):
            video.open_source(str(tmp_path / f"{name}.mp4"), "VISIBLE")
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        track = out.add_stream("aac", rate=48000, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        out.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        out.mux(track.encode(frame))
        out.mux(track.encode())
    with pytest.raises(ValueError, match="holds no video"):
        video.open_source(str(tmp_path / "sound.mp4"), "VISIBLE")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="not a regular file"):
        video.open_source(str(tmp_path / "pipe.mp4"), "VISIBLE")
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="is one picture"):
        video.open_source(str(tmp_path / "one.png"), "VISIBLE")


def test_any_damage_gives_frames_or_a_sentence(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    clips = [
        write_clip(tmp_path / "a.mp4", moving_square(8)),
        write_clip(tmp_path / "b.mkv", moving_square(8), "ffv1", "gray"),
        write_clip(tmp_path / "c.avi", moving_square(8), "mpeg4"),
    ]
    for number in range(150):
        data = np.frombuffer(clips[number % 3].read_bytes(), np.uint8).copy()
        places = random.integers(0, len(data) if number % 2 else 600, random.choice((1, 5, 30)))
        data[places] = random.integers(0, 256, len(places))
        path = tmp_path / f"damaged{clips[number % 3].suffix}"
        path.write_bytes(data.tobytes())
        try:
            assert len(list(itertools.islice(video.open_source(str(path), "VISIBLE").frames(), 100))) > 0
        except ValueError as error:
            assert str(error).startswith("VISIBLE (")


def test_a_cut_off_file_gives_what_it_holds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (48, 64)).astype(np.uint8) for _ in range(50)]
    for codec, name in (("libx264", "a.mkv"), ("ffv1", "b.mkv"), ("mpeg4", "c.avi")):
        layout = "gray" if codec == "ffv1" else "yuv420p"
        data = write_clip(tmp_path / name, frames, codec, layout).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) * 6 // 10])
        source = video.open_source(str(tmp_path / f"cut_{name}"), "VISIBLE")
        number = len(list(source.frames()))
        assert 10 < number < 40 and len(source.problems) == 1
        assert "is cut off" in source.problems[0], name


def test_a_whole_file_that_begins_late_is_not_cut_off(tmp_path: Path) -> None:
    times = [5000 + 100 * number for number in range(20)]  # as segments of a recorder have it
    path = write_clip(tmp_path / "late.mkv", moving_square(20), times=times)
    source = video.open_source(str(path), "VISIBLE")
    assert len(list(source.frames())) == 20 and not source.problems
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    source = video.open_source(str(path), "VISIBLE")
    assert len(list(source.frames())) < 20 and source.problems


def test_damage_in_the_middle_is_counted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (48, 64)).astype(np.uint8) for _ in range(50)]
    data = bytearray(write_clip(tmp_path / "a.avi", frames, "mpeg4").read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 97):
        data[place] ^= 255
    (tmp_path / "a.avi").write_bytes(data)
    source = video.open_source(str(tmp_path / "a.avi"), "VISIBLE")
    assert 10 < len(list(source.frames())) < 50
    assert "is damaged" in source.problems[0] or "is cut off" in source.problems[0]


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "wide.mkv", [np.zeros((48, 8192), np.uint8)], "ffv1", "gray")
    monkeypatch.setattr(sources, "MAX_PIXELS", 8192 * 40)
    with pytest.raises(ValueError, match="larger than the limit of 327680 pixels"):
        video.open_source(str(path), "VISIBLE")
    # The header of the container may lie: what counts is what the decoder finds.
    path = write_clip(tmp_path / "wide.mp4", [np.zeros((48, 8192), np.uint8)])
    data = path.read_bytes()
    assert data.count(b"\x20\0\0\x30") == 1
    path.write_bytes(data.replace(b"\x20\0\0\x30", b"\0\x40\0\x30"))
    with pytest.raises(ValueError, match="than the limit"):
        video.open_source(str(path), "VISIBLE")


def test_a_change_of_size_ends_the_video(tmp_path: Path) -> None:
    parts = [write_clip(tmp_path / f"{i}.ts", moving_square(9, *size)) for i, size in enumerate(((48, 64), (64, 96)))]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    source = video.open_source(str(tmp_path / "both.ts"), "VISIBLE")
    assert {frame.picture.size for frame in source.frames()} == {(48, 64)}
    assert "changes its size from 64x48 to 96x64" in source.problems[0]


def test_folders_are_paired_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for folder, numbers in (("vis", (8, 9, 10, 12)), ("ir", (9, 10, 11, 12))):
        (tmp_path / folder).mkdir()
        for number in numbers:
            Image.fromarray(np.full((16, 16), number * 10, np.uint8)).save(tmp_path / folder / f"{folder}_{number}.png")
    visible, infrared = video.open_sources(str(tmp_path / "vis"), str(tmp_path / "ir" / "*.png"), 10)
    pairs = list(video.pair_frames(visible.frames(), infrared.frames(), Fraction(1, 100)))
    assert [(a.name, b.name) for a, b in pairs] == [(f"vis_{n}", f"ir_{n}") for n in (9, 10, 12)]
    (tmp_path / "ir" / "ir_9.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    visible, infrared = video.open_sources(str(tmp_path / "vis"), str(tmp_path / "ir"), 10)
    assert len(list(infrared.frames())) == 3 and "ir_9.png" in infrared.problems[0]
    for file in (tmp_path / "ir").glob("*"):
        file.rename(file.with_name(f"x{file.stem[-1]}x{abs(hash(file.stem)) % 10**6}.png"))
    (tmp_path / "vis" / "vis_12.png").unlink()
    with pytest.raises(ValueError, match=r"holds 3 pictures and INFRARED .* 4"):
        video.open_sources(str(tmp_path / "vis"), str(tmp_path / "ir"))


@pytest.mark.parametrize(
    ("visible_name", "infrared_name"),
    [
        ("{:04d}_rgb8", "{:04d}_ir16"),
        ("f_{:04d}_640x480", "f_{:04d}_640x512"),
        ("{}", "cam2-{:03d}-16bit"),
        ("IMG_{:05d}", "{:05d}_T"),
    ],
)
def test_the_counter_is_the_number_that_differs(tmp_path: Path, visible_name: str, infrared_name: str) -> None:
    kept = {"vis": (1, 2, 3, 4, 6, 7), "ir": (1, 2, 4, 5, 6, 7)}
    for folder, name in (("vis", visible_name), ("ir", infrared_name)):
        (tmp_path / folder).mkdir()
        for number in kept[folder]:
            Image.fromarray(np.full((16, 16), number, np.uint8)).save(tmp_path / folder / f"{name.format(number)}.png")
    visible, infrared = video.open_sources(str(tmp_path / "vis"), str(tmp_path / "ir"), 10)
    pairs = list(video.pair_frames(visible.frames(), infrared.frames(), Fraction(1, 100)))
    expected = [(visible_name.format(number), infrared_name.format(number)) for number in (1, 2, 4, 6, 7)]
    assert [(a.name, b.name) for a, b in pairs] == expected


def test_a_stream_that_stops_ends_after_the_timeout(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "camera.mp4", moving_square(20), "mpeg4")
    with serve_rtsp(clip, speed=4) as address:
        source = video.open_source(address.replace("//", "//user:secret@"), "VISIBLE", stall=1)
        assert source.live and source.size == (48, 64) and "secret" not in source.label
        frames = list(source.frames())
    assert 15 <= len(frames) + source.dropped <= 20
    times = [frame.time for frame in frames]
    assert all(a < b for a, b in itertools.pairwise(times))
    assert "sent no data for 1 s" in source.problems[0]
    with pytest.raises(ValueError, match=r"cannot be opened \(Connection refused\)"):
        video.open_source("rtsp://127.0.0.1:9/x", "VISIBLE")
    with pytest.raises(ValueError, match="give two recordings or two live streams"), serve_rtsp(clip) as address:
        video.open_sources(str(clip), address)


def test_a_missing_camera_is_named() -> None:
    with pytest.raises(ValueError, match=r"VISIBLE \(/dev/video97\) cannot be opened"):
        video.open_source("v4l2:97", "VISIBLE")
