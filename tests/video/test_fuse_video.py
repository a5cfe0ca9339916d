"""The command `fusion-hub fuse-video`, and its Python form."""

import errno
import gc
import os
import re
import signal
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusion_hub import cli, rigs, video
from fusion_hub.video import writers
from tests.support.browser import chromium
from tests.support.clips import identity_pipeline, moving_square, read_clip, write_clip
from tests.support.rtsp import serve_rtsp
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and clips of one scene: with sound, of 16 bits, at another rate, cut off."""
    path = tmp_path_factory.mktemp("clips")
    tiny_pipeline().save_pretrained(path / "model")
    color = [np.dstack([frame, frame // 2, 255 - frame]) for frame in moving_square(20)]
    write_clip(path / "visible.mp4", color, sound="aac")
    write_clip(path / "infrared.mp4", moving_square(20, seed=1))
    counts = [7000 + 4 * frame.astype(np.uint16) + index for index, frame in enumerate(moving_square(20))]
    write_clip(path / "infrared16.mkv", counts, "ffv1", "gray16le")
    write_clip(path / "gray16.mkv", counts, "ffv1", "gray16le")
    write_clip(path / "slow.mkv", moving_square(8, seed=1), rate=10)
    write_clip(path / "small.mp4", moving_square(5, 32, 32))
    whole = write_clip(
        path / "whole.mkv", [np.random.default_rng(i).integers(0, 255, (48, 64)).astype(np.uint8) for i in range(40)]
    )
    (path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


def run(folder: Path, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error; paths are looked up in the folder of clips."""
    found = [str(folder / str(word)) if (folder / str(word)).exists() else str(word) for word in words]
    command = ["fuse-video", *found, "--model", str(folder / "model"), "--device", "cpu"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result.exit_code, result.stdout, result.stderr


def sound_of(path: Path) -> bytes:
    with av.open(str(path)) as clip:
        return b"".join(bytes(packet) for packet in clip.demux(audio=0))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_keeps_times_colors_and_sound(folder: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    code, printed, _ = run(folder, "visible.mp4", "infrared.mp4", "--output", out)
    assert (code, [*tmp_path.iterdir()]) == (0, [out]) and "20 frames fused, 0.8 s" in printed
    frames, times = read_clip(out, "rgb24")
    # AAC begins before the picture, and a Matroska file at 0: there both move by 21 ms.
    assert [round(float(time - times[0]), 3) for time in times] == [round(i / 25, 3) for i in range(20)]
    assert times[0] < 0.03
    assert sound_of(out) == sound_of(folder / "visible.mp4") != b""
    with av.open(str(out)) as clip:
        assert "Fusion Hub" in clip.metadata.get("comment", clip.metadata.get("COMMENT", ""))
        assert clip.streams.video[0].average_rate == 25
    pair = [
        read_clip(folder / f"{name}.mp4", kind)[0][9] for name, kind in (("visible", "rgb24"), ("infrared", "gray"))
    ]
    wanted = np.asarray(tiny_pipeline()(*pair).images[0]).astype(int)
    assert np.abs(frames[9].astype(int) - wanted).mean() < 6  # BT.601, halved chroma, H.264
    assert run(folder, "visible.mp4", "infrared.mp4", "--output", out, "--no-audio", "--limit", 3)[0] == 0
    with av.open(str(out)) as clip:
        assert not clip.streams.audio
    code, printed, _ = run(folder, "visible.mp4", "infrared.mp4", "--output", out, "--no-overwrite")
    assert code == 0 and "kept" in printed


def test_another_rate_leaves_frames_out_and_says_so(folder: Path, tmp_path: Path) -> None:
    code, printed, _ = run(folder, "visible.mp4", "slow.mkv", "--output", tmp_path / "out.mp4")
    assert code == 0 and "12 frames fused" in printed  # ties: two of them take one infrared frame
    assert "8 visible frames left out without an infrared frame within 0.02 s (--tolerance)" in printed
    _, times = read_clip(tmp_path / "out.mp4")
    assert [round(float(time) * 25) for time in times] == [0, 2, 3, 5, 7, 8, 10, 12, 13, 15, 17, 18]
    code, printed, _ = run(folder, "visible.mp4", "slow.mkv", "--output", tmp_path / "out.mp4", "--tolerance", 0.06)
    assert code == 0 and "20 frames fused" in printed
    code, _, told = run(folder, "visible.mp4", "slow.mkv", "--output", tmp_path / "no.mp4", "--time-offset", 50)
    assert code == 1 and "no visible frame has an infrared frame" in told and not (tmp_path / "no.mp4").exists()


def test_16_bits_go_in_and_out(folder: Path, tmp_path: Path) -> None:
    code, _, _ = run(
        folder, "gray16.mkv", "infrared16.mkv", "--output", tmp_path / "out.mkv", "--visible-range", "7000,8100"
    )
    assert code == 0
    with av.open(str(tmp_path / "out.mkv")) as clip:
        context = clip.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("ffv1", "gray16le")
    assert len(np.unique(read_clip(tmp_path / "out.mkv", "gray16le")[0][3])) > 256


def test_two_cameras_are_joined_by_their_rig(folder: Path, tmp_path: Path) -> None:
    rig = rigs.Rig([[1.25, 0, 14.0], [0, 1.25, 6.0], [0, 0, 1]], (48, 64), (32, 32), time_offset=0.04)
    rig.save(tmp_path / "rig.json")
    words = ("visible.mp4", "small.mp4", "--rig", tmp_path / "rig.json", "--output", tmp_path / "out.mkv")
    code, printed, _ = run(folder, *words)
    assert code == 0 and "4 frames fused" in printed and "1 infrared frames not used" in printed  # the first came early
    seen, warm = (read_clip(folder / name, "gray")[0] for name in ("visible.mp4", "small.mp4"))
    wanted = np.asarray(tiny_pipeline()(seen[2], warm[3], rig=rig).images[0]).astype(int)
    assert np.abs(read_clip(tmp_path / "out.mkv")[0][2].astype(int) - wanted).mean() < 2
    code, _, told = run(folder, "visible.mp4", "infrared.mp4", *words[2:])
    assert code == 2 and "the rig is for infrared pictures of 32x32" in told
    code, _, told = run(folder, *words[:2], "--rig", "none.json", *words[4:])
    assert code == 2 and "--rig none.json cannot be read" in told
    words = (*words[:4], "--output", tmp_path / "frames", "--limit", 1)
    assert run(folder, *words)[0] == 0
    rigs.Rig(rig.homography, rig.visible_size, rig.infrared_size).save(tmp_path / "rig.json")
    code, _, told = run(folder, *words, "--time-offset", 0.04)
    assert code == 2 and re.search(r"made with --rig rig\.json \(\w{8}\); it is now rig\.json \(\w{8}\)", told)


def test_one_recording_is_no_pair(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "same.mp4").symlink_to(folder / "visible.mp4")
    for other in ("visible.mp4", tmp_path / "same.mp4"):
        code, _, told = run(folder, "visible.mp4", other, "--output", tmp_path / "out.mp4")
        assert code == 2 and "visible.mp4 was given as both recordings" in told and not (tmp_path / "out.mp4").exists()


def test_what_a_container_cannot_hold_is_refused_first(folder: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "rare.mkv", moving_square(5), sound="tta")
    for words, why in (
        (
            ("gray16.mkv", "infrared16.mkv"),
            "more than 8 bits, which out.mp4 cannot: give an .mkv file or a folder",
        ),
        ((clip, "infrared.mp4"), "is tta, which out.mp4 cannot hold: give an .mkv file, or add --no-audio"),
    ):
        code, _, told = run(folder, *words, "--output", tmp_path / "out.mp4")
        assert code == 2 and why in told and len(told.splitlines()) == 1
    assert run(folder, clip, "infrared.mp4", "--output", tmp_path / "out.mkv")[0] == 0
    assert sound_of(tmp_path / "out.mkv") == sound_of(clip)


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("visible.mp4", "none.mp4", "--output", "{}/o.mp4"), 2, "INFRARED: there is no file or folder 'none.mp4'"),
        (("visible.mp4", "small.mp4", "--output", "{}/o.mp4"), 2, "is 32x32 (width x height): align the cameras"),
        (("visible.mp4", "infrared.mp4", "--output", "{}/o.avi"), 2, "end it with .mp4 or .mkv, or give a folder"),
        (("visible.mp4", "infrared.mp4", "--output", "visible.mp4"), 2, "is one of the inputs"),
        (("visible.mp4", "model", "--output", "{}/o.mp4"), 1, "holds no pictures"),
        (("http://x/a.mp4", "infrared.mp4", "--output", "{}/o.mp4"), 1, "a stream that begins with rtsp://"),
        (("visible.mp4", "infrared.mp4", "--output", "{}/o.mp4", "--infrared-range", "9,1"), 2, "--infrared-range 9,1"),
        (("visible.mp4", "infrared.mp4", "--output", "{}/o.mp4", "--tile", 3), 2, "--tile 3 must be"),
    ],
)
def test_wrong_use_is_one_sentence(folder: Path, tmp_path: Path, words: tuple, code: int, why: str) -> None:
    found, _, told = run(folder, *(str(word).format(tmp_path) for word in words))
    assert (found, len(told.splitlines())) == (code, 1) and why in told and not [*tmp_path.iterdir()]


def test_a_missing_pyav_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, told = run(folder, "visible.mp4", "infrared.mp4", "--output", tmp_path / "o.mp4")
    assert code == 1 and "pip install 'fusion-hub[video]'" in told and len(told.splitlines()) == 1


def test_a_cut_off_file_is_fused_as_far_as_it_goes(folder: Path, tmp_path: Path) -> None:
    code, printed, told = run(folder, "whole.mkv", "cut.mkv", "--output", tmp_path / "out.mp4")
    frames, _ = read_clip(tmp_path / "out.mp4")
    assert code == 1 and f"{len(frames)} frames fused" in printed and 5 < len(frames) < 35
    assert "INFRARED" in told and "is cut off" in told


def test_ctrl_c_leaves_a_playable_video(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = video.VideoWriter.write

    def write_then_stop(self: video.VideoWriter, frame: video.Frame) -> None:
        write(self, frame)
        if frame.name == "000006":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(video.VideoWriter, "write", write_then_stop)
    code, _, told = run(folder, "visible.mp4", "infrared.mp4", "--output", tmp_path / "out.mp4")
    frames, _ = read_clip(tmp_path / "out.mp4")
    assert code == 130 and 7 <= len(frames) <= 10 and f"{len(frames)} frames fused" in told and "complete" in told
    assert [*tmp_path.iterdir()] == [tmp_path / "out.mp4"]


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, count = writers.to_video_frame, 0

    def fail(*values: Any) -> Any:
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*values)

    monkeypatch.setattr(writers, "to_video_frame", fail)
    code, _, told = run(folder, "visible.mp4", "infrared.mp4", "--output", tmp_path / "out.mp4")
    assert code == 1 and "the disk is full" in told and not [*tmp_path.iterdir()]


def test_a_folder_is_resumed_as_if_nothing_had_happened(folder: Path, tmp_path: Path) -> None:
    for name, numbers in (("vis", range(12)), ("ir", range(12))):
        (tmp_path / name).mkdir()
        clip = read_clip(
            folder / ("visible.mp4" if name == "vis" else "infrared16.mkv"), "rgb24" if name == "vis" else "gray16le"
        )[0]
        for number in numbers:
            Image.fromarray(clip[number]).save(tmp_path / name / f"{number:02d}.png")
    words = (tmp_path / "vis", tmp_path / "ir", "--output")
    assert run(folder, *words, tmp_path / "once")[0] == 0
    assert run(folder, *words, tmp_path / "twice", "--limit", 5)[0] == 0
    code, printed, _ = run(folder, *words, tmp_path / "twice")
    assert code == 0 and "7 frames fused; 5 already there" in printed
    for file in (tmp_path / "once").glob("*.png"):
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes()
    code, _, told = run(folder, *words, tmp_path / "twice", "--infrared-range", "7000,8000")
    assert code == 2 and "holds pictures made with --infrared-range by default" in told
    (tmp_path / "ir" / "03.png").write_bytes(b"damaged")
    code, printed, told = run(folder, *words, tmp_path / "third")
    assert code == 1 and "11 frames fused" in printed and "03.png" in told
    code, _, told = run(folder, tmp_path / "vis", tmp_path / "ir", "--output", tmp_path / "vis")
    assert code == 2 and "holds the inputs" in told


def test_frames_of_a_video_in_a_folder(folder: Path, tmp_path: Path) -> None:
    words = ("visible.mp4", "infrared16.mkv", "--output", tmp_path / "out")
    assert run(folder, *words, "--limit", 4)[0] == 0
    code, printed, _ = run(folder, *words)
    assert code == 0 and "16 frames fused; 4 already there" in printed
    saved = sorted((tmp_path / "out").glob("*.png"))
    assert [file.name for file in saved] == [f"{i:06d}.png" for i in range(20)]
    assert Image.open(saved[0]).mode == "RGB"


def test_two_streams_end_when_one_stops(folder: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "camera.mp4", moving_square(40), "mpeg4")
    with serve_rtsp(clip) as first, serve_rtsp(clip) as second:
        code, printed, told = run(
            folder, first, second, "--output", tmp_path / "out.mkv", "--timeout", 2, "--tolerance", 0.5
        )
    assert code == 1 and "sent no data for 2 s" in told and "frames fused" in printed
    assert len(read_clip(tmp_path / "out.mkv")[0]) >= 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for name, wanted in (("new", 1), ("full", 2)):
        with serve_rtsp(clip, stalls=False, speed=4) as first, serve_rtsp(clip, stalls=False, speed=4) as second:
            code, _, told = run(folder, first, second, "--output", tmp_path / name, "--timeout", 2, "--tolerance", 0.5)
        assert code == wanted and len(told.splitlines()) == (2 if wanted == 1 else 1)
    assert [*(tmp_path / "new").glob("*.png")] and "is not empty: give a new folder" in told


def test_python_form_gives_what_the_pipeline_gives() -> None:
    pipeline = tiny_pipeline()
    pairs = [(np.dstack([a] * 3), b) for a, b in zip(moving_square(3), moving_square(3, seed=1), strict=True)]
    for fused, pair in zip(video.fuse_frames(pairs, pipeline), pairs, strict=True):
        assert fused.dtype == np.uint8 and np.array_equal(fused, np.asarray(pipeline(*pair).images[0]))
    counts = [
        (a.astype(np.uint16) * 200, b.astype(np.uint16) * 9 + 7000)
        for a, b in zip(moving_square(3), moving_square(3), strict=True)
    ]
    fused = [*video.fuse_frames(counts, pipeline, infrared_range="percentile", visible_range="dtype")]
    wanted = pipeline(*counts[2], infrared_range="percentile", visible_range="dtype").images[0]
    assert fused[2].dtype == np.uint16 and np.array_equal(fused[2], np.asarray(wanted))
    bright = [(frame * np.uint16(2 if index == 1 else 1), frame) for index, frame in enumerate([counts[0][0] // 4] * 3)]
    before, _, after = video.fuse_frames(bright, identity_pipeline())  # 14 bits, then 16: white does not come back
    assert before.max() > 3.9 * after.max()
    tracked = [*video.fuse_frames([*counts[:2], (None, counts[2][1]), counts[2]], pipeline, visible_range="dtype")]
    assert len(tracked) == 3


def test_any_length_takes_the_memory_of_a_few_frames() -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def endless() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal most
        while True:
            pair = (np.zeros((32, 32), np.uint8), np.ones((32, 32), np.uint8))
            alive.extend(weakref.ref(part) for part in pair)
            most = max(most, sum(ref() is not None for ref in alive))
            yield pair

    fused = video.fuse_frames(endless(), identity_pipeline())
    with pytest.warns(match="constant") as caught:
        for _ in range(60):
            next(fused)
    gc.collect()
    assert most <= 6 and len(caught) == 2  # one warning for each kind, not for each frame


def test_an_mp4_plays_in_a_browser(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "visible.mp4", "infrared.mp4", "--output", tmp_path / "out.mp4")[0] == 0
    (tmp_path / "page.html").write_text('<video id="v" src="out.mp4" muted></video>')
    with chromium() as browser:
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        played = page.evaluate(
            """async () => {
                const video = document.getElementById("v");
                if (!video.canPlayType('video/mp4; codecs="avc1.64000A"')) return null;
                await video.play();
                await new Promise(done => video.addEventListener("ended", done));
                return [video.videoWidth, video.videoHeight, video.currentTime, video.error];
            }"""
        )
    if played is None:
        pytest.skip("this Chromium has no decoder for H.264")
    assert played[:2] == [64, 48] and played[2] == pytest.approx(0.8, abs=0.1) and played[3] is None
