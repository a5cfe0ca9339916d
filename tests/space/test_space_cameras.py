"""The tab Two cameras through its functions: aligned pairs, radiometric files, clips, and what is refused.

In a browser it is tested in `test_space_browser.py`, hostile files in `test_space_hostile.py`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import camera_tabs
import cameras
import clips
import examples
import fuse
import gradio as gr
import numpy as np
import pytest
import storage
import tifffile
from PIL import Image

from fusion_hub import FusionPipeline
from fusion_hub.data.samples import sample_clip, unregistered_pair
from fusion_hub.image import PALETTES, read_radiometric
from fusion_hub.pipelines import checkpoints
from fusion_hub.rigs import Rig
from tests.support import flir_file
from tests.support.clips import moving_square, read_clip, write_clip
from tests.support.tiny import tiny_pipeline

MODEL = "difffusenet-msrs"


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One tiny model in place of the bundled ones."""
    bundled, root = checkpoints.ROOT, tmp_path_factory.mktemp("pretrained")
    tiny_pipeline().save_pretrained(root / MODEL)
    checkpoints.ROOT = root
    fuse.load_once.cache_clear()
    yield
    checkpoints.ROOT = bundled
    fuse.load_once.cache_clear()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The sample of a pair that does not match: 640 x 480 and 320 x 256 pixels."""
    folder = tmp_path_factory.mktemp("pair")
    for name, content in unregistered_pair().items():
        (folder / name).write_bytes(content)
    return str(folder / "visible.jpg"), str(folder / "infrared.png")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The sample clip: ten frames of 320 x 240 pixels, both views match."""
    files = [tmp_path_factory.mktemp("clip") / f"{name}.mp4" for name in ("street", "street_ir")]
    for file, frames in zip(files, sample_clip(), strict=True):
        examples.write_clip(file, frames)
    return str(files[0]), str(files[1])


def pixels(file: str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def one_sentence(error: gr.Error) -> str:
    text = error.message
    assert text.endswith(".") and "\n" not in text and not re.search(r"\. [A-Z]", text), text
    assert not re.search(r"/tmp|\.py|Errno|None|tuple|\bVISIBLE|\bINFRARED", text), text
    return text


def test_a_pair_of_two_sizes_is_aligned_and_fused(pair: tuple[str, str]) -> None:
    file, rig_file, edges, text = cameras.align(*pair)
    rig = Rig.load(rig_file)
    expected = FusionPipeline.from_pretrained(MODEL)(*pair, rig=rig).images[0]
    np.testing.assert_array_equal(pixels(file), np.asarray(expected))
    truth = np.array([[1.5, 0, 70.25], [0, 1.5, 84.25], [0, 0, 1]])  # of the sample
    corners = np.array([[0, 0, 1], [319, 0, 1], [319, 255, 1], [0, 255, 1]]).T
    found, true = (matrix @ corners for matrix in (rig.homography, truth))
    assert np.abs(found[:2] / found[2] - true[:2]).max() < 1
    before, after = (pixels(edge).astype(int) for edge in edges)
    assert before.shape == after.shape == (480, 640, 3)
    orange = [np.argwhere(edge[..., 0] - edge[..., 2] > 100) for edge in (before, after)]
    assert np.ptp(orange[1], axis=0).max() < np.ptp(orange[0], axis=0).max(), "the infrared view is narrower"
    assert re.search(r"\*\*Aligned:\*\* .* score of 0\.\d\d, .* ahead of .*100% of the smaller view", text)
    assert "640 x 480 pixels fused in" in text


def test_the_page_keeps_all_pictures_of_an_aligned_pair(pair: tuple[str, str]) -> None:
    shown = cameras.align_and_show(*pair, MODEL)
    assert shown.edges and shown.slider("Edges") == shown.edges
    assert shown.slider("Infrared") == (shown.infrared, shown.fused)
    infrared = pixels(shown.infrared)
    assert infrared.shape == (480, 640, 3) and not infrared[:60].any(), "black where the infrared camera sees nothing"
    assert infrared[200:300, 200:400].any()
    assert json.loads(Path(shown.rig).read_text())["visible"] == {"width": 640, "height": 480}
    folder = Path(shown.result).parent
    assert folder.parent.name == "fusion_hub_results" and {Path(shown.rig).parent, Path(shown.edges[0]).parent} == {
        folder
    }, "all of it goes after an hour"


def test_a_pair_that_cannot_be_aligned_is_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    flat, noise = tmp_path / "flat.png", tmp_path / "noise.png"
    Image.new("L", (160, 120), 90).save(flat)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160), dtype=np.uint8)).save(noise)
    for infrared in (flat, noise):
        with pytest.raises(gr.Error) as refusal:
            cameras.align(pair[0], str(infrared))
        assert refusal.value.title in ("Not aligned", "These images cannot be aligned")
        one_sentence(refusal.value)
    with pytest.raises(gr.Error, match="Add the infrared image first"):
        cameras.align(pair[0], None)
    with pytest.raises(gr.Error, match="There is no model 'x'"):
        cameras.align(*pair, model="x")
    with pytest.raises(gr.Error, match="Edges, Visible or Infrared, not 'up'"):
        cameras.align(*pair, left="up")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["wide", "0", "-1", "nan", "inf", "1e9", "0.6.1", "None", {"a": 1}])
def test_numbers_are_checked(pair: tuple[str, str], text: Any) -> None:
    with pytest.raises(gr.Error, match=r"ratio of the fields of view is a number from 0\.2 to 3, or empty, not"):
        cameras.align(*pair, fov_ratio=text)
    assert cameras.parse_number("", "x", (0, 1)) is None is cameras.parse_number(None, "x", (0, 1))
    assert cameras.parse_number(" 0,75 ", "x", (0, 1)) == 0.75


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_a_radiometric_file_gives_temperatures(tmp_path: Path) -> None:
    file = write(tmp_path / "scan.jpg", flir_file.jpeg(flir_file.block()))
    drawn, values, fused, gallery, text = cameras.temperatures(file)
    degrees = tifffile.imread(values)
    np.testing.assert_array_equal(degrees, read_radiometric(file).temperatures())
    assert fused is None and gallery == [] and Path(values).name == "scan_temperatures.tif"
    assert pixels(drawn).ndim == 3 and "32 x 24 pixels" in text and f"{degrees.max():.1f} °C" in text
    assert "emissivity 0.95, distance 2 m" in text
    changed = tifffile.imread(cameras.temperatures(file, emissivity="0.5", distance="10")[1])
    expected = read_radiometric(file).temperatures(emissivity=0.5, distance=10)
    np.testing.assert_array_equal(changed, expected)
    pictures = {palette: pixels(cameras.temperatures(file, palette)[0]).tobytes() for palette in PALETTES}
    assert len(set(pictures.values())) == len(PALETTES)
    hot = f">{degrees.mean():.1f}C"
    assert pixels(cameras.temperatures(file, highlight=hot)[0]).tobytes() != pixels(drawn).tobytes()


def test_a_radiometric_file_with_a_visible_picture_is_fused(tmp_path: Path) -> None:
    file = write(tmp_path / "photo.jpg", flir_file.photo())
    drawn, values, fused, gallery, text = cameras.temperatures(file)
    assert fused is not None and pixels(fused).shape == (60, 80, 3) and Path(fused).name == "photo_fused.png"
    assert [caption for _, caption in gallery] == ["Visible", "Infrared", "Fused"]
    degrees = tifffile.imread(values)
    assert degrees.shape == (60, 80) and np.isnan(degrees[0, 0]) and np.isfinite(degrees[30, 40])
    assert "aligned by the geometry that the camera states" in text  # noise has no edges to go by
    assert pixels(drawn).shape[0] == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"palette": "pink"}, "The palette is iron or .*not 'pink'"),
        ({"emissivity": "2"}, "emissivity is a number from 0.01 to 1"),
        ({"distance": "far"}, "distance in meters is a number"),
        ({"highlight": "hot"}, "'hot' is no temperature"),
    ],
)
def test_wrong_conditions_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    file = write(tmp_path / "scan.jpg", flir_file.jpeg(flir_file.block()))
    with pytest.raises(gr.Error, match=message) as refusal:
        cameras.temperatures(file, **options)
    one_sentence(refusal.value)


def test_files_without_temperatures_are_refused(tmp_path: Path) -> None:
    good = flir_file.block()
    plain = tmp_path / "plain.jpg"
    Image.new("RGB", (64, 48)).save(plain)
    damaged = write(tmp_path / "damaged.jpg", flir_file.jpeg(good[: len(good) // 2]))
    for file, message in (
        (str(plain), "holds no radiometric data of FLIR"),
        (damaged, "damaged FLIR block"),
        (write(tmp_path / "text.jpg", b"no picture"), "holds no radiometric data|not an image"),
        (None, "Add the radiometric file first"),
        (str(tmp_path / "gone.jpg"), "deleted after an hour"),
    ):
        with pytest.raises(gr.Error, match=message) as refusal:
            cameras.temperatures(file)
        if "hour" not in message:
            one_sentence(refusal.value)


def last(made: clips.Made) -> tuple[str, str, str]:
    before, after, text = list(made)[-1]
    assert before and after
    return before, after, text


def fuse_clip(visible: str | None, infrared: str | None, align: bool = False) -> tuple[str, str, str]:
    return last(clips.fuse_clip(visible, infrared, align, gr.Progress()))


def test_a_clip_is_fused_frame_by_frame(clip: tuple[str, str]) -> None:
    before, after, text = fuse_clip(*clip)
    assert re.fullmatch(r"10 frames of 320 x 240 pixels fused in \d+ s by difffusenet-msrs\.", text)
    for file in (before, after):
        with av.open(file) as opened:
            stream = opened.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p"), "browsers play it"
            assert stream.frames == 10 and (stream.width, stream.height) == (320, 240)
    (shown, times), (fused, other_times), (seen, _) = (read_clip(Path(file)) for file in (before, after, clip[0]))
    assert times == other_times, "both show the same moments"
    for one, other in zip(shown, seen, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 2
    assert all(np.abs(one.astype(int) - other).mean() > 3 for one, other in zip(fused, shown, strict=True))


def test_a_clip_of_two_views_is_aligned_once(clip: tuple[str, str], tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.mp4"
    frames = [frame.crop((40, 30, 280, 210)).resize((200, 150)) for frame in sample_clip()[1]]
    examples.write_clip(narrow, frames)
    text = fuse_clip(clip[0], str(narrow), align=True)[-1]
    assert text.startswith("**Aligned:** ") and "10 frames of 320 x 240" in text
    with pytest.raises(gr.Error, match=r"frames are 320x240, the infrared ones 200x150 .* turn on the alignment"):
        fuse_clip(clip[0], str(narrow))
    flat = write_clip(tmp_path / "flat.mp4", [np.full((120, 160), 90, np.uint8)] * 10, rate=10)
    with pytest.raises(gr.Error, match="if the frames match already, turn off the alignment") as refusal:
        fuse_clip(clip[0], str(flat), align=True)
    one_sentence(refusal.value)


def test_frames_without_a_partner_are_named(tmp_path: Path) -> None:
    visible = write_clip(tmp_path / "v.mp4", moving_square(12), rate=25)
    infrared = write_clip(tmp_path / "i.mp4", moving_square(6), rate=25)
    _, after, text = fuse_clip(str(visible), str(infrared))
    assert "6 frames of" in text and "6 visible frames have no infrared frame of their time" in text
    assert len(read_clip(Path(after))[0]) == 6


def test_clips_beyond_the_limits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = str(write_clip(tmp_path / "good.mp4", moving_square(5)))
    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    wide = str(write_clip(tmp_path / "wide.mkv", [np.zeros((48, 28_000), np.uint8)], codec="ffv1"))
    deep = str(write_clip(tmp_path / "deep.mkv", [np.zeros((48, 64), np.uint16)] * 3, "ffv1", "gray16le"))
    for visible, infrared, message in (
        (wide, good, r"The visible clip \(wide.mkv\) is 28000x48 .* limit of 1310720 pixels"),
        (deep, good, "more than 8 bits"),
        (good, None, "Add the infrared clip first"),
        (str(tmp_path / "picture.png"), good, r"The visible clip \(picture.png\) is one picture: the tab Two pictures"),
        (good, str(tmp_path / "gone.mp4"), "The infrared clip was deleted after an hour"),
    ):
        with pytest.raises(gr.Error, match=message) as refusal:
            fuse_clip(visible, infrared)
        if infrared == good:
            one_sentence(refusal.value)
    for name, value, count in (("MAX_FRAMES", 4, 4), ("MAX_PIXELS", 4 * 48 * 64 + 9, 4)):
        with monkeypatch.context() as patch:
            patch.setattr(clips, name, value)
            for stated in (True, False):  # a Matroska file need not state how many frames it has
                path = good if stated else str(write_clip(tmp_path / "good.mkv", moving_square(5)))
                message = f"of 64 x 48 pixels, and at most {count} are allowed here"
                with pytest.raises(gr.Error, match=message) as refusal:
                    fuse_clip(path, good)
                one_sentence(refusal.value)


def test_a_canceled_clip_leaves_no_unfinished_video(clip: tuple[str, str]) -> None:
    made = clips.fuse_clip(*clip, False, gr.Progress())
    for _ in range(13):  # ten frames are read, three are fused
        next(made)
    made.close()
    [newest] = sorted((storage.root() / "fusion_hub_results").iterdir(), key=lambda one: one.stat().st_mtime)[-1:]
    assert not [*newest.iterdir()]


def test_a_mixture_of_an_example_clip_is_never_fused(tmp_path: Path) -> None:
    (tmp_path / examples.FOLDER).mkdir()
    pair, clip = examples.write_camera_examples(tmp_path)
    assert clip.visible.is_file() and examples.thumbnail(pair).is_file() and examples.thumbnail(clip).is_file()
    with gr.Blocks() as page:
        camera_tabs.cameras_tab(pair, clip)
    run = next(event.fn for event in page.fns.values() if getattr(event.fn, "__name__", "") == "run").__wrapped__
    own = str(write_clip(tmp_path / "own.mp4", moving_square(3)))
    *_, message = list(run(gr.Progress(), own, str(clip.infrared), False))[-1]
    assert "The first image is yours, the other one belongs to the example" in message
    *_, message = list(run(gr.Progress(), own, None, False))[-1]
    assert "Add the infrared clip first" in message and 'role="alert"' in message
