"""The demo page through its API and its functions: what it fuses, shows and measures, and what it refuses.

The page in a browser is tested in `test_space_browser.py`, hostile input in `test_space_hostile.py`.
"""

import csv
import io
import os
import re
import shutil
import signal
import sys
import threading
import unicodedata
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import analysis
import app as space
import batch
import examples
import fuse
import gradio as gr
import httpx
import imagecodecs
import numpy as np
import pairs
import pytest
import serving
import storage
import style
import tifffile
import uploads
import yaml
from gradio_client import Client, handle_file
from phantom import write_phantom
from PIL import ExifTags, Image

from fusion_hub import FusionPipeline, evaluate_pair, evaluation, pretrained
from fusion_hub.data import Pair, SamplePair, generate_scene, sample_pairs
from fusion_hub.data.samples import sample_clip, unregistered_pair
from fusion_hub.downstream.protocols import COCO_CLASSES, MSRS_CLASSES, MSRS_PALETTE, color_of
from fusion_hub.image import overlay, with_legend
from fusion_hub.image.io import READ_FORMATS
from fusion_hub.pipelines import checkpoints
from fusion_hub.rigs import Rig
from tests.support import flir_file
from tests.support.space_page import black_png, encoded, noise, zipped
from tests.support.tiny import tiny_pipeline
from tests.support.tiny_onnx import write_yolo
from tests.support.tiny_transformers import save_segformer

SPACE = Path(__file__).parents[2] / "space"
MODEL = "difffusenet-msrs"
BUNDLED = checkpoints.ROOT
RANGES = ["infrared_range", "visible_range"]
ENDPOINTS = {
    "/fuse": ["visible", "infrared", "model", "steps", "left", *RANGES, "keep_metadata", "colors"],
    "/align": ["visible", "infrared", "model", "steps", "left", *RANGES, "keep_metadata", "fov_ratio"],
    "/temperatures": ["file", "palette", "emissivity", "distance", "highlight"],
    "/fuse_clip": ["visible", "infrared", "align"],
    "/fuse_volume": [
        *("fixed", "moving", "model", "registration", "window", "moving_window", "modality", "moving_modality"),
        *("series", "moving_series", "color", "accept_unsure"),
    ],
    "/detect": ["visible", "infrared", "model", "threshold", *RANGES, "steps"],
    "/measure": ["visible", "infrared", "model", *RANGES, "steps"],
    "/explain": ["visible", "infrared", "model", *RANGES, "steps"],
    "/batch": ["files", "model", *RANGES, "keep_metadata"],
}


# Pillow warns above the page's limit and raises above twice of it; the page refuses both.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of bundled checkpoints with two tiny models in it."""
    root = tmp_path_factory.mktemp("pretrained")
    for name in (MODEL, fuse.MEDICAL):
        tiny_pipeline().save_pretrained(root / name)
    checkpoints.ROOT = root
    fuse.load_once.cache_clear()
    yield root
    checkpoints.ROOT = BUNDLED
    fuse.load_once.cache_clear()


@pytest.fixture(scope="module")
def example(models: Path, tmp_path_factory: pytest.TempPathFactory) -> SamplePair:
    """A small scene as an example of the page."""
    folder, arrays = tmp_path_factory.mktemp("examples"), street(96, 128)
    files = [
        Path(save(folder / name, array)) for name, array in zip(("night.png", "night_ir.png"), arrays, strict=True)
    ]
    return examples.write_examples(folder, [SamplePair("night", "Street", "Look.", MODEL, *files)])[0]


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    """The page."""
    return space.build_app(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def client(app: gr.Blocks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The page, served on a free port of this machine, and a client of its API."""
    space.launch(app, "127.0.0.1", port=None, block=False)
    downloads = tmp_path_factory.mktemp("downloads")
    yield Client(app.local_url, verbose=False, download_files=str(downloads), analytics_enabled=False)
    app.close(verbose=False)


@pytest.fixture
def no_previews(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server without detector and segmenter."""
    monkeypatch.delenv(analysis.DETECTOR_VARIABLE, raising=False)
    monkeypatch.delenv(analysis.SEGMENTER_VARIABLE, raising=False)
    assert not pretrained.SEGMENTERS[analysis.BUNDLED_SEGMENTER].available, "the folder of tiny models has none"
    analysis.load_once.cache_clear()
    yield
    analysis.load_once.cache_clear()


def save(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path)
    return str(path)


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def pixels(file: str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_fuses_an_example(example: SamplePair, models: Path) -> None:
    file, slider, text = fuse.fuse(example.visible, example.infrared, MODEL, "all", "Infrared")
    shown = fuse.fuse_and_show(example.visible, example.infrared, MODEL)
    expected = FusionPipeline.from_pretrained(MODEL)(example.visible, example.infrared).images[0]
    np.testing.assert_array_equal(pixels(file), np.asarray(expected))
    assert Image.open(file).format == "PNG" and Path(file).name == "night_fused.png"
    assert re.fullmatch(r"128 x 96 pixels fused in \d+\.\d\d s by difffusenet-msrs\.", text)
    assert pixels(slider[0]).tobytes() == pixels(shown.infrared).tobytes()
    assert fuse.move_slider(shown, "Visible") == (shown.visible, shown.fused)
    np.testing.assert_array_equal(pixels(shown.visible), pixels(example.visible))
    np.testing.assert_array_equal(pixels(shown.infrared)[..., 0], pixels(example.infrared))
    np.testing.assert_array_equal(pixels(shown.fused), pixels(file))


def test_results_are_private_and_go(app: gr.Blocks, example: SamplePair) -> None:
    assert app.delete_cache == (storage.LIFETIME, storage.LIFETIME), "what Gradio keeps goes too"
    shown, other = (fuse.fuse_and_show(example.visible, example.infrared, MODEL) for _ in range(2))
    assert Path(shown.fused).parent != Path(other.fused).parent, "equal pictures of two visitors share no file"
    Path(shown.fused).unlink()
    with pytest.raises(gr.Error, match="deleted after an hour"):
        fuse.move_slider(shown, "Visible")
    assert fuse.move_slider(None, "Visible") is None


def test_a_page_opens_with_its_first_example_or_without(
    example: SamplePair, app: gr.Blocks, caplog: pytest.LogCaptureFixture
) -> None:
    shown = examples.fuse_in_background(example).result()
    expected = FusionPipeline.from_pretrained(MODEL)(example.visible, example.infrared).images[0]
    np.testing.assert_array_equal(pixels(shown.result), np.asarray(expected))
    assert shown.text == f"**Street.** Look. Fused by {MODEL}." and shown.opening
    with pytest.raises(gr.Error, match="no model 'no such model': choose difffusenet-msrs"):
        examples.fuse_in_background(example._replace(model="no such model")).result()
    assert "the page opens without it" in caplog.text


def test_the_opening_example_replaces_nothing(models: Path, example: SamplePair, tmp_path: Path) -> None:
    with gr.Blocks() as page:
        pairs.pair_tab([example])
    open_with = one_named(page, "open_with")
    own, held = str(tmp_path / "own.png"), (str(example.visible), str(example.infrared))
    examples._worker.submit(int).result()  # it is fused, before this in line
    shown = open_with(*held, "", None)
    assert shown[0][1].endswith("night_fused.png") and "**Street.** Look." in shown[1]
    for seen in ((own, None, "", None), (None, None, "", None), (*held, "a refusal", None), (*held, "", shown[-1])):
        assert open_with(*seen) == [gr.skip()] * 6


def one_named(page: gr.Blocks, name: str) -> Any:
    """The first function of that name that an event of the page calls."""
    return next(event.fn for event in page.fns.values() if getattr(event.fn, "__name__", "") == name)


def test_a_mixture_with_an_example_is_never_fused(models: Path, example: SamplePair, tmp_path: Path) -> None:
    with gr.Blocks() as page:
        pairs.pair_tab([example])
    fuse_here = one_named(page, "fuse_here").__wrapped__
    own, options = save(tmp_path / "own.png", street(96, 128)[0]), [MODEL, "all", "Visible", "auto", "auto", False]
    visible, infrared = str(example.visible), str(example.infrared)
    for pair, which in (((own, infrared), "first"), ((visible, own), "second")):
        *nothing, message, shown = fuse_here(gr.Progress(), *pair, *options, "fused")
        assert nothing == [None, "", None, []] and shown is None, "and no old result stays"
        assert f"The {which} image is yours" in message and 'role="alert"' in message and "Not one pair" in message
    assert "**Street.** Look. 128 x 96" in fuse_here(gr.Progress(), visible, infrared, *options, "fused")[1]
    assert "Street" not in fuse_here(gr.Progress(), own, own, *options, "fused")[1]
    missing = fuse_here(gr.Progress(), visible, None, *options, "fused")
    assert "Add the infrared image first" in missing[-2]


def test_refusals_of_the_medical_tab_use_its_words() -> None:
    assert pairs.in_medical_words("Visible is 8x6 but infrared is 6x8.") == "The scan is 8x6 but MRI is 6x8."
    assert pairs.in_medical_words("Add the visible image first.") == "Add the scan image first."


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_the_first_example_has_a_lower_priority() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert examples._worker.submit(priority).result() >= 10 > priority()


def test_every_sample_pair_is_an_example_with_a_thumbnail(tmp_path: Path) -> None:
    rows = examples.write_examples(tmp_path, sample_pairs())
    assert len(rows) >= 8 and {row.model for row in rows} == {MODEL, fuse.MEDICAL}
    for row, pair in zip(rows, sample_pairs(), strict=True):
        assert row.visible.read_bytes() == pair.visible.read_bytes() and row.description.endswith(".")
        assert examples.FOLDER in row.visible.parts and gr.utils.is_static_file(row.infrared), "its path tells it"
        assert examples.thumbnail(row).stat().st_size < 20_000
        picture = pixels(str(examples.thumbnail(row))).astype(float)
        height, width = picture.shape[:2]
        assert (width, height) == examples.THUMBNAIL and picture.std() > 20
        for half in (picture[:, : width // 3], picture[:, 2 * width // 3 :]):
            assert half.max() - half.min() > 100, "both images can be seen, 16-bit counts too"


def test_deep_gray_gives_sixteen_bits(models: Path, tmp_path: Path) -> None:
    counts = np.linspace(2600, 2700, 64 * 48).reshape(48, 64).astype(np.uint16)
    visible = save(tmp_path / "visible.png", counts * 20)
    shown = fuse.fuse_and_show(visible, save(tmp_path / "infrared.tiff", counts), MODEL)
    assert Image.open(file := shown.result).mode == "I;16" and len(np.unique(pixels(file))) > 256
    assert np.ptp(pixels(shown.infrared)) > 200, "16-bit infrared is shown over its own range"
    gray = save(tmp_path / "float.tiff", np.random.default_rng(0).random((40, 56), dtype=np.float32))
    with Image.open(fuse.fuse(gray, gray, MODEL)[0]) as image:
        assert (image.mode, image.size) == ("I;16", (56, 40))


def test_only_red_has_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fuse.has_steps("red-small-msrs") and not fuse.has_steps(MODEL)
    assert fuse.parse_steps("red-small-msrs", "1") == 1
    assert fuse.parse_steps("red-small-msrs", "auto") == "auto"
    assert fuse.parse_steps("red-small-msrs", "default") is None
    assert fuse.parse_steps(MODEL, "1") is None
    with pytest.raises(gr.Error, match="default, all, auto or a number"):
        fuse.parse_steps("red-small-msrs", "many")
    monkeypatch.setattr(checkpoints, "ROOT", BUNDLED)
    assert [value for _, value in fuse.step_choices()] == ["default", "all", "auto", "1", "2"]
    assert fuse.parse_steps("red-small-msrs", "all") == 2
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    assert [value for _, value in fuse.step_choices()] == ["default", "all", "auto", "1"]


def street(height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A generated pair: RGB and gray, 8 bits."""
    scene = generate_scene(5, height, width)
    return scene.visible, scene.infrared


def fused(visible: Path | str, infrared: Path | str, **options: Any) -> np.ndarray:
    """The result of the page with all its bits."""
    return imagecodecs.imread(fuse.fuse(str(visible), str(infrared), MODEL, **options)[0])


def test_sixteen_bit_color_stays_so(models: Path, tmp_path: Path) -> None:
    color, infrared = street()
    deep = color.astype(np.uint16) * 257
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    warm = save(tmp_path / "ir.png", infrared)
    got = fused(tmp_path / "deep.png", warm)
    assert got.dtype == np.uint16 and got.shape == (48, 64, 3) and (got % 257 != 0).any()
    plain = fused(save(tmp_path / "plain.png", color), warm)
    assert np.abs(got / 257 - plain).max() <= 1, "the same picture in fewer bits"
    shown = fuse.fuse_and_show(str(tmp_path / "deep.png"), warm, MODEL)
    np.testing.assert_array_equal(pixels(shown.visible), color)
    assert np.abs(pixels(shown.fused).astype(int) - plain).max() <= 1


@pytest.mark.parametrize("kind", ["tiff", "overview.tiff", "pgm", "jp2", "gif", "float64.tiff", "nan.tiff"])
def test_the_page_reads_what_the_command_line_reads(models: Path, tmp_path: Path, kind: str) -> None:
    color, infrared = street()
    visible, file = save(tmp_path / "visible.png", color), tmp_path / f"infrared.{kind}"
    values, valid = infrared.astype(np.uint16) + 2600, np.ones(infrared.shape, dtype=bool)
    if kind == "pgm":
        file.write_bytes(b"P5 64 48 16383\n" + values.astype(">u2").tobytes())
    elif kind == "jp2":
        file.write_bytes(imagecodecs.jpeg2k_encode(values, level=0, reversible=True))
    elif kind == "gif":
        save(file, infrared)
    elif kind == "overview.tiff":
        with tifffile.TiffWriter(file) as writer:
            writer.write(values, subfiletype=0)
            writer.write(values[::2, ::2], subfiletype=1)
    elif kind == "nan.tiff":
        valid[:8] = False
        tifffile.imwrite(file, np.where(valid, values, np.nan).astype(np.float32))
    else:
        tifffile.imwrite(file, values if kind == "tiff" else values.astype(np.float64))
    expected = fused(visible, save(tmp_path / "infrared.png", infrared))
    got = fused(visible, file, infrared_range="auto" if kind == "gif" else "2600,2855")
    near = valid & np.roll(valid, 16, 0)
    assert np.abs(got.astype(int) - expected)[near].mean() < 0.1


def test_ranges_are_those_of_the_pipeline(models: Path, tmp_path: Path) -> None:
    color, infrared = street()
    visible, warm = save(tmp_path / "v.png", color), save(tmp_path / "i.png", infrared.astype(np.uint16) * 8 + 1000)
    pipeline = FusionPipeline.from_pretrained(MODEL)
    for text, rule in (("dtype", "dtype"), ("minmax", "minmax"), ("1000, 4000", (1000.0, 4000.0)), (None, "auto")):
        expected = pipeline(visible, warm, infrared_range=rule).images[0]
        np.testing.assert_array_equal(fused(visible, warm, infrared_range=text), np.asarray(expected))
    expected = pipeline(visible, warm, visible_range=(0, 128)).images[0]
    np.testing.assert_array_equal(fused(visible, warm, visible_range="0;128"), np.asarray(expected))
    for text in ("full", "2,1", "1,2,3", "a,b", "nan,1", 7):
        with pytest.raises(gr.Error, match=r"two rising numbers LOW,HIGH such as 2600,2800\."):
            fuse.fuse(visible, warm, MODEL, visible_range=text)  # type: ignore[arg-type]


def test_warnings_are_shown(models: Path, tmp_path: Path) -> None:
    color, infrared = street()
    visible, flat = save(tmp_path / "v.png", color), save(tmp_path / "flat.png", np.full_like(infrared, 100))
    with pytest.warns(UserWarning, match="constant"):  # a message on the page
        _, _, text = fuse.fuse(visible, flat, MODEL)
    assert re.search(r"\n\n\*\*Please check:\*\* Infrared is constant.*\.$", text)
    assert "Please check" not in fuse.fuse(visible, save(tmp_path / "i.png", infrared), MODEL)[2]


def test_position_and_camera_are_left_out_unless_kept(models: Path, tmp_path: Path) -> None:
    color, infrared = street()
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera 7"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (50.0, 0.0, 0.0)
    Image.fromarray(color).save(tmp_path / "v.jpg", exif=exif, quality=95)
    warm = save(tmp_path / "i.png", infrared)
    for keep in (False, True):
        result = fuse.fuse(str(tmp_path / "v.jpg"), warm, MODEL, keep_metadata=keep)[0]
        found = Image.open(result).getexif()
        assert bool(found.get_ifd(ExifTags.IFD.GPSInfo)) == keep and (ExifTags.Base.Model in found) == keep
        assert (b"Camera 7" in Path(result).read_bytes()) == keep


def test_documented_formats_are_complete() -> None:
    assert all(name in (SPACE / "README.md").read_text(encoding="utf-8") for name in READ_FORMATS)
    assert all(name in uploads.FORMATS and name in str(fuse.fuse.__doc__) for name in READ_FORMATS if name != "PPM")


def test_every_function_refuses_bad_input(models: Path, tmp_path: Path) -> None:
    """Kinds of bad files are in `test_space_hostile.py`."""
    good, large = save(tmp_path / "good.png", noise()), write(tmp_path / "large.png", black_png(4000, 4000, rows=False))
    for pair, message in (((None, good), "visible image first"), ((good, large), "4000 x 4000 pixels")):
        for function in (fuse.fuse, analysis.detect, analysis.measure, analysis.explain):
            with pytest.raises(gr.Error, match=message):
                function(*pair, MODEL)


@pytest.mark.parametrize("model", [None, "no-such-model", {}, 7])
def test_an_api_call_without_a_known_model_is_refused(models: Path, tmp_path: Path, model: Any) -> None:
    good = save(tmp_path / "good.png", noise())
    for function in (fuse.fuse, analysis.detect, analysis.measure, analysis.explain):
        with pytest.raises(gr.Error, match=f"There is no model .*: choose {MODEL}"):
            function(good, good, model)
    with pytest.raises(gr.Error, match="Steps are default, all, auto or a number"):
        fuse.fuse(good, good, MODEL, steps=None)  # type: ignore[arg-type]
    with pytest.raises(gr.Error, match=r"a number from 0\.1 to 0\.9"):
        analysis.detect(good, good, MODEL, threshold=None)  # type: ignore[arg-type]


def test_a_bug_is_reported_without_details(
    example: SamplePair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Path:
        raise RuntimeError("secret at /home/somebody")

    monkeypatch.setattr(fuse, "new_folder", fail)
    with pytest.raises(gr.Error, match="server's log has the details") as refusal:
        fuse.fuse_and_show(example.visible, example.infrared, MODEL)
    assert "secret" not in refusal.value.message
    assert "secret" in caplog.text


def test_large_pairs_are_not_for_red_measured_or_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "ROOT", BUNDLED)
    for function, model, side, most in (
        (fuse.fuse, "red-small-msrs", 2001, 4),
        (analysis.measure, MODEL, 1500, 2),
        (analysis.explain, MODEL, 1500, 1),
    ):
        large = write(tmp_path / "large.png", black_png(side, side, rows=False))
        with pytest.raises(gr.Error, match=f"{side} x {side} pixels. At most {most} megapixels"):
            function(large, large, model)


def test_previews_with_both_networks(
    example: SamplePair, no_previews: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_yolo(tmp_path / "tiny.onnx", "yolox")
    monkeypatch.setenv(analysis.DETECTOR_VARIABLE, str(tmp_path / "tiny.onnx"))
    folder = save_segformer(tmp_path / "segformer", ("unlabelled", "car", "person"))
    monkeypatch.setenv(analysis.SEGMENTER_VARIABLE, str(folder))
    detected, counts, segmented, shares = analysis.detect(example.visible, example.infrared, MODEL, 0.4)
    for gallery in (detected, segmented):
        assert [caption for _, caption in gallery] == [*analysis.TITLES]
        assert all(Image.open(file).size == (128, 96) for file, _ in gallery)
    assert "At a threshold of 0.40 the fused image shows" in counts
    heads = "".join(f'<th scope="col">{title}</th>' for title in analysis.TITLES)
    assert heads in counts and heads in shares
    found = re.findall(r"background:rgb\((.+?)\)\"></span>(\w+)</th>((?:<td>\S+?</td>){3})", shares)
    assert {name for _, name, _ in found} == {"car", "person"}, "the legend"
    whole = [sum(int(number) for number in re.findall(r"(\d+)%", column[2])) for column in found]
    assert sum(whole) <= 300


def test_a_class_has_one_color_in_boxes_and_maps() -> None:
    for detected, segmented in (("person", "person"), ("bicycle", "bike"), ("car", "car")):
        color = MSRS_PALETTE[MSRS_CLASSES.index(segmented)]
        assert color_of(COCO_CLASSES.index(detected)) == color


def test_a_table_of_classes_is_safe_html() -> None:
    table = analysis.swatch_table("Objects", {"<b>car": [1, 2, "<1%"]}, {"<b>car": (1, 2, 3)})
    assert "&lt;b&gt;car" in table and "<b>" not in table and "<td>&lt;1%</td>" in table and "rgb(1, 2, 3)" in table


def test_previews_with_broken_weights_or_none(
    example: SamplePair, no_previews: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_text("no network")
    monkeypatch.setenv(analysis.DETECTOR_VARIABLE, str(tmp_path / "broken.onnx"))
    detected, counts, segmented, shares = analysis.detect(example.visible, example.infrared, MODEL)
    assert detected == segmented == [] and "log says why" in counts and "not set up" in shares
    assert not re.search("FUSION_HUB|/", re.sub("<.*?>", "", counts + shares)), "nothing for operators"


def test_measures_and_warns(example: SamplePair) -> None:
    table, notes = analysis.measure(example.visible, example.infrared, MODEL)
    assert [row[0] for row in table][:2] == ["EN ↑", "SD ↑"]
    assert "VIF, visible ↑" in [row[0] for row in table]
    assert all(len(row) == len(analysis.MEASURED) and row[-1].count(".") >= 2 for row in table)
    assert "Guard rails" in notes
    values = {row[0]: float(row[1]) for row in table}
    for name in ("SSIM", "VIF"):
        parts = (values[f"{name}, {band} ↑"] for band in ("visible", "infrared"))
        assert values[f"{name}, sum ↑"] == pytest.approx(sum(parts), abs=2e-3), "its name says which one it is"
    assert "SSIM_cddfuse" in style.MEASURE
    # The rules have the numbers of `fusion-hub evaluate`.
    pair = Pair("pair", Path(example.visible), Path(example.infrared))
    for rule, shown in zip(("average", "maximum"), table[0][2:4], strict=True):
        fused = evaluation.luminance(evaluation.baseline_method(rule).fuse(pair, ""))
        assert shown == f"{evaluate_pair(fused, *evaluation.source_luminance(pair), ['EN'])['EN']:.2f}"


def test_the_best_value_is_marked_in_the_right_direction() -> None:
    rows = [
        ["EN ↑", "7.1", "6.0", "7.1", "Higher is better: up & <more>."],
        ["CE ↓", "n/a", "0.5", "-0.2", "Lower is better: down."],
    ]
    lines = analysis.measured_table(rows).split("<tr>")[2:]
    for line, best in zip(lines, (["7.1", "7.1"], ["-0.2"]), strict=True):
        assert re.findall(r"<strong>([-\d.]+)<", line) == best and line.count("●") == len(best)
    assert re.findall(r"width:(\d+)%", lines[0]) == ["100", "85", "100"] and "Up &amp; &lt;more&gt;." in lines[0]
    assert re.findall(r"width:(\d+)%", lines[1]) == ["0", "100", "0"]


def test_medical_texts_name_the_scan(models: Path, tmp_path: Path) -> None:
    assert analysis.names_of("/a/brain_spect_3.png", fuse.MEDICAL) == ("SPECT", "MRI")
    assert analysis.names_of("/a/direct.png", fuse.MEDICAL) == ("scan", "MRI")
    assert analysis.names_of("/a/pet.png", MODEL) == ("visible", "infrared")


def test_an_overlay_keeps_the_colors_of_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "ROOT", BUNDLED)
    fuse.load_once.cache_clear()
    scene = generate_scene(0, 96, 128, "brain")
    pair = save(tmp_path / "pet.png", scene.visible), save(tmp_path / "mri.png", scene.infrared)
    shown = fuse.fuse_and_show(*pair, fuse.MEDICAL, "all", "Visible", "auto", "auto", False, "overlay")
    file, text = shown.result, shown.text
    expected = with_legend(*overlay(scene.visible, scene.infrared))
    np.testing.assert_array_equal(pixels(file), expected)
    assert Path(file).name == "pet_overlay.png" and "colors of the scan" in text and shown.colors == "overlay"
    np.testing.assert_array_equal(pixels(shown.fused), expected)
    assert pixels(shown.visible).shape == pixels(shown.infrared).shape == expected.shape, "the slider needs one size"
    np.testing.assert_array_equal(pixels(shown.visible)[:, :128], scene.visible)
    assert shown.other is not None
    expected = FusionPipeline.from_pretrained(fuse.MEDICAL)(*pair).images[0]
    np.testing.assert_array_equal(pixels(shown.other.result), np.asarray(expected), "kept for the other choice")
    with pytest.raises(gr.Error, match="fused or, with difffusenet-medical, overlay, not 'overlay'"):
        fuse.fuse(*pair, MODEL, colors="overlay")


def test_other_colors_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "ROOT", BUNDLED)
    fuse.load_once.cache_clear()
    scene = generate_scene(0, 48, 64, "brain")
    pair = save(tmp_path / "pet.png", scene.visible), save(tmp_path / "mri.png", scene.infrared)
    with gr.Blocks() as page:
        pairs.pair_tab([], "medical")
    shown = fuse.fuse_and_show(*pair, fuse.MEDICAL)
    monkeypatch.setattr(fuse, "fuse_pair", None)
    recolor = one_named(page, "recolor")
    skipped = [gr.skip()] * 6
    assert recolor(shown, "fused", "Visible") == recolor(None, "overlay", "Visible") == skipped
    slider, text, file, gallery, message, overlaid = recolor(shown, "overlay", "Infrared")
    assert Path(file).name == "pet_overlay.png" and "colors of the scan" in text and not message
    assert slider == (overlaid.infrared, overlaid.fused) and gallery[-1][1] == "Overlay"
    assert overlaid.call == shown.call, "other tabs look at the same fusion"
    assert recolor(overlaid, "fused", "Visible")[2] == shown.result
    Path(shown.result).unlink()
    assert "deleted after an hour" in recolor(overlaid, "fused", "Visible")[-2]


def test_a_result_for_an_empty_box_is_forgotten(models: Path, example: SamplePair) -> None:
    with gr.Blocks() as page:
        pairs.pair_tab([example])
    settle = one_named(page, "settle")
    shown = fuse.fuse_and_show(example.visible, example.infrared, MODEL)
    assert settle("a", "b", shown) is shown and settle("a", None, shown) is None and settle(None, "b", shown) is None


def test_a_copy_of_a_source_is_warned_of(example: SamplePair, monkeypatch: pytest.MonkeyPatch) -> None:
    fusion, _ = fuse.fuse_pair(example.visible, example.infrared, MODEL)
    copied = fusion._replace(image=Image.open(example.visible))
    monkeypatch.setattr(analysis, "fuse_pair", lambda *arguments, **options: (copied, None))
    _, notes = analysis.measure(example.visible, example.infrared, MODEL)
    assert "Near the visible source" in notes


def test_explains(example: SamplePair) -> None:
    story, steps = analysis.explain(example.visible, example.infrared, MODEL)
    assert len(steps) > 10 and steps[0][1].startswith("Features, visible. ")
    files = [file for file, _ in steps]
    assert len(set(files)) == len(files)
    assert [caption[:2] for _, caption in story] == [f"{number}." for number in range(1, 7)]
    assert [files.index(file) for file, _ in story] == sorted(files.index(file) for file, _ in story), "in order"


def test_pairs_are_found_by_name_or_folder() -> None:
    names = ["street.png", "street_ir.png", "a_vis.jpg", "a_ir.png", "set/vis/1.png", "set/IR/1.tif", "b.png", "x.txt"]
    pairs, alone, others = batch.pair_up({PurePosixPath(name): Path(name) for name in names})
    assert {key: tuple(map(str, pair)) for key, pair in pairs.items()} == {
        "a": ("a_vis.jpg", "a_ir.png"),
        "set/1": ("set/vis/1.png", "set/IR/1.tif"),
        "street": ("street.png", "street_ir.png"),
    }
    assert alone == ["b.png"] and others == ["x.txt"]
    with pytest.raises(gr.Error, match="same name"):
        batch.pair_up({PurePosixPath(name): Path(name) for name in ("1.png", "1.jpg")})


def test_batch_of_a_zip(models: Path, tmp_path: Path) -> None:
    good = encoded(noise())
    names = {"d/vis/1.png": good, "d\\ir\\1.png": good, "d/vis/2.png": good, "d/ir/2.png": encoded(noise().T)}
    names |= {"d/vis/3.png": good, "d/vis/4.png": good, "d/ir/4.png": encoded(np.full((48, 64), 9, np.uint8))}
    names |= {"d/vis/5.png": good, "d/ir/5.png": b"", "__MACOSX/._1.png": b"", "readme.txt": b"hello"}
    content, report = run_batch([write(tmp_path / "pairs.zip", zipped(names))])
    assert sorted(content) == ["d_1.png", "d_4.png"]
    expected = FusionPipeline.from_pretrained(MODEL)(noise(), noise()).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content["d_1.png"]))), np.asarray(expected))
    rows = {row["name"]: row for row in report}
    assert rows["d/1"]["result"] == rows["d/4"]["result"] == "fused" and "constant" in rows["d/4"]["notes"]
    assert rows["d/vis/3.png"]["result"] == "no partner" and "48" in rows["d/2"]["result"]
    assert "is empty (0 bytes)" in rows["d/5"]["result"] and not rows["d/5"]["file"]
    assert rows["readme.txt"]["result"] == "not an image that can be read" and len(rows) == 6


def run_batch(files: list[str], **options: Any) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    """The pictures of the zip file by name, and the report."""
    *waiting, last = batch.batch(files, MODEL, progress=lambda *arguments, **options: None, **options)
    assert last is not None and set(waiting) == {None}
    with zipfile.ZipFile(last) as output:
        assert len(set(output.namelist())) == len(output.namelist())
        content = {name: output.read(name) for name in output.namelist()}
    return content, list(csv.DictReader(io.StringIO(content.pop("report.csv").decode())))


def test_batch_names_never_collide(models: Path, tmp_path: Path) -> None:
    names = ["a/b", "a_b", "A_b", "a_b-2", "x?", "x_", "report.csv", "m\u00fc", "mu\u0308"]
    files, right, pipeline = {}, {}, FusionPipeline.from_pretrained(MODEL)
    for index, name in enumerate(names):
        pair = [noise(2 * index), noise(2 * index + 1)]
        for band, array in zip(("vis", "ir"), pair, strict=True):
            files[f"{band}/{name}.png"] = encoded(array)
        right[name] = np.asarray(pipeline(*pair).images[0])
    content, report = run_batch([write(tmp_path / "pairs.zip", zipped(files))])
    folded = {unicodedata.normalize("NFC", name).casefold() for name in (*content, "report.csv")}
    assert len(folded) == len(content) + 1 == len(report) + 1
    assert {row["name"] for row in report} >= {"a/b", "a_b"}
    for row in report:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content[row["file"]]))), right[row["name"]])


def test_batch_refuses(models: Path, tmp_path: Path) -> None:
    """Bad zip files and too many files are in `test_space_hostile.py`."""
    one, two = (save(tmp_path / folder / "a.png", noise()) for folder in ("one", "two"))
    outer = write(tmp_path / "outer.zip", zipped({"inner.zip": b"x"}))
    for message, files in (
        ("Add images or a zip file", []),
        ("No pair was found", [one]),
        (r"Two files are named 'a\.png'", [one, two]),
        (r"'inner\.zip' inside the zip file is not opened", [outer]),
    ):
        with pytest.raises(gr.Error, match=message):
            run_batch(files)


def test_api_is_documented(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {
        name: [part["parameter_name"] for part in found["parameters"]] for name, found in named.items()
    } == ENDPOINTS
    described = httpx.get(f"{client.src}gradio_api/info").json()["named_endpoints"]
    for name in ENDPOINTS:  # who forgets an image must not get an example
        assert not [one for one in described[name]["parameters"] if "path" in str(one["parameter_default"])]
        assert described[name].get("description")


def test_the_lines_of_the_readme_run(
    client: Client, example: SamplePair, no_previews: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(example.visible, "street.png")
    shutil.copyfile(example.infrared, "street_ir.png")
    with zipfile.ZipFile("pairs.zip", "w") as archive:
        for name in ("street.png", "street_ir.png"):
            archive.write(name)
    for name, content in unregistered_pair().items():
        Path(name).write_bytes(content)
    visible, infrared = sample_clip()
    examples.write_clip(Path("visible.mp4"), visible)
    examples.write_clip(Path("infrared.mp4"), [frame.crop((40, 30, 280, 210)) for frame in infrared])
    Path("FLIR0042.jpg").write_bytes(flir_file.photo())
    for file, name in zip(write_phantom(tmp_path), ("mr.nii.gz", "pet.nii.gz"), strict=True):
        file.rename(name)
    names: dict[str, Any] = {}
    exec(program.replace("http://127.0.0.1:7860", client.src), names)
    expected = fuse.fuse(example.visible, example.infrared, MODEL)[0]
    for name, picture in (("fused", expected), ("left", example.visible), ("right", expected)):
        assert Image.open(names[name]).format == "PNG"
        np.testing.assert_array_equal(pixels(names[name]), pixels(picture))
    assert " s by " in names["time"] and names["detected"] == names["segmented"] == []
    assert "not set up" in names["counts"] and "not set up" in names["shares"]
    assert names["table"]["headers"] == list(analysis.MEASURED) and len(names["table"]["data"]) > 9 and names["notes"]
    assert len(names["story"]) == 6 and Path(names["story"][0]["image"]).is_file() and len(names["steps"]) > 10
    with zipfile.ZipFile(names["archive"]) as archive:
        assert archive.namelist() == ["street.png", "report.csv"]
    assert Rig.load(names["rig"]).infrared_size == (256, 320) and "Aligned" in names["confidence"]
    assert Image.open(names["aligned"]).size == (640, 480) and len(names["edges"]) == 2
    assert "10 frames" in names["report"] and "Aligned" in names["report"] and str(names["after"]).endswith("fused.mp4")
    assert Path(names["degrees"]).suffix == ".tif" and Image.open(names["photo"]).size == (80, 60)
    assert names["volume"].endswith(".nii.gz") and "Registered" in names["quality"] and Path(names["sheet"]).is_file()
    assert len(names["pictures"]) == 3 and "emissivity 0.95" in names["summary"] and Path(names["drawn"]).is_file()


def test_api_keeps_sixteen_bits(client: Client, tmp_path: Path) -> None:
    counts = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    grey = handle_file(save(tmp_path / "grey.png", counts))
    assert Image.open(client.predict(grey, grey, MODEL, api_name="/fuse")[0]).mode == "I;16"


def test_help_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        space.main(["--help"])
    shown = capsys.readouterr().out
    assert "--host" in shown and "--port" in shown
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    assert space.main(["--port", str(serving._free_port("127.0.0.1", 7870))]) == 1
    assert re.search("no checkpoint is installed .*difffusenet-msrs", capsys.readouterr().err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_server_deletes_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    own = tmp_path / f"{storage.PREFIX}own"
    (own / "hash").mkdir(parents=True)
    monkeypatch.setattr(space, "FOLDER", own)
    monkeypatch.setattr(space, "build_app", lambda folder: folder)
    monkeypatch.setattr(space, "launch", lambda *_: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert space.main(["--port", str(serving._free_port("127.0.0.1", 7870))]) == 0 and not own.exists()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_front_matter_and_requirements_match_the_package() -> None:
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["sdk_version"] == version("gradio")
    assert (SPACE / front["app_file"]).is_file()
    assert all(f'api_name="{name}"' in text for name in ENDPOINTS), "the README shows every name"
    pinned = set((SPACE.parent / "requirements.in").read_text(encoding="utf-8").split("\n"))
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").split("\n")
    needed = {line for line in lines if line and not line.startswith("#")}
    assert needed <= pinned, "the Space must run on the versions that CI tests"
    assert not any(line.startswith("gradio") for line in needed), "sdk_version rules"
