"""The demo page: what it fuses, what it refuses, and that it answers through its API."""

import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import yaml
from gradio_client import Client, handle_file
from PIL import Image
from tiny import tiny_pipeline

from fusion_hub import pretrained

SPACE = Path(__file__).parents[1] / "space"
sys.path.insert(0, str(SPACE))
import app as space  # noqa: E402  # the Space's file of that name

MODEL = "difffusenet-msrs"


# Pillow warns above the page's limit and raises above twice of it; the page refuses both.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of bundled checkpoints with one tiny model in it."""
    root = tmp_path_factory.mktemp("pretrained")
    tiny_pipeline().save_pretrained(root / MODEL)
    before, pretrained.ROOT = pretrained.ROOT, root
    space.load_pipeline.cache_clear()
    yield root
    pretrained.ROOT = before
    space.load_pipeline.cache_clear()


@pytest.fixture(scope="module")
def examples(models: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return space.draw_examples(tmp_path_factory.mktemp("examples"), space.EXAMPLES)


@pytest.fixture(scope="module")
def client(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The page, served on a free port of this machine, and a client of its API."""
    app = space.build_app(tmp_path_factory.mktemp("page"))
    space.launch(app, "127.0.0.1", port=None, block=False)
    downloads = tmp_path_factory.mktemp("downloads")
    yield Client(app.local_url, verbose=False, download_files=str(downloads), analytics_enabled=False)
    app.close(verbose=False)


def save(path: Path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path)
    return str(path)


def one_bit_png(path: Path, side: int) -> str:
    """A small file that claims a huge picture: the header alone, its pixels missing."""
    header = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    chunk = (len(header) - 4).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big"))
    return str(path)


def test_fuses_an_example(examples: list[list[str]]) -> None:
    visible, infrared, model = examples[0]
    fused, slider, previews = space.fuse(visible, infrared, model, "Infrared")
    assert (fused.mode, fused.size) == ("RGB", Image.open(visible).size)
    assert slider == (previews.infrared, previews.fused)
    assert space.compare(previews, "Visible") == (previews.visible, previews.fused)
    np.testing.assert_array_equal(np.asarray(previews.visible), np.asarray(Image.open(visible)))
    np.testing.assert_array_equal(np.asarray(previews.infrared)[..., 0], np.asarray(Image.open(infrared)))
    np.testing.assert_array_equal(np.asarray(previews.fused), np.asarray(fused))


def test_examples_fit_their_models(examples: list[list[str]]) -> None:
    assert [row[2] for row in examples] == [example.model for example in space.EXAMPLES]
    assert {row[2] for row in examples} <= {info.name for info in pretrained.list_models()}
    for visible, infrared, _ in examples:
        assert Image.open(visible).size == Image.open(infrared).size


def test_sixteen_bit_grey_stays_so(models: Path, tmp_path: Path) -> None:
    counts = np.linspace(2600, 2700, 64 * 48).reshape(48, 64).astype(np.uint16)
    visible = save(tmp_path / "visible.png", counts * 20)
    fused, _, previews = space.fuse(visible, save(tmp_path / "infrared.tiff", counts), MODEL)
    assert fused.mode == "I;16"
    assert len(np.unique(np.asarray(fused))) > 256
    assert np.ptp(np.asarray(previews.infrared)) > 200, "16-bit infrared is shown over its own range"


def test_float_result_becomes_a_png(models: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).random((40, 56), dtype=np.float32)
    fused, _, _ = space.fuse(save(tmp_path / "visible.tiff", grey), save(tmp_path / "infrared.tiff", grey), MODEL)
    assert (fused.mode, fused.size) == ("I;16", (56, 40))


def bad_pairs(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    grey = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    good = save(folder / "good.png", grey)
    half = folder / "half.png"
    half.write_bytes(Path(good).read_bytes()[: Path(good).stat().st_size // 2])
    text = folder / "text.png"
    text.write_text("not an image")
    pages = folder / "pages.tiff"
    Image.fromarray(grey).save(pages, save_all=True, append_images=[Image.fromarray(grey)])
    return {
        "visible image first": (None, good),
        "infrared image first": (good, None),
        "damaged or none of": (good, str(text)),
        "cannot be decoded": (good, str(half)),
        "48x64|64x48|64 x 48": (good, save(folder / "turned.png", grey.T)),
        "4000 x 4000 pixels": (one_bit_png(folder / "large.png", 4000), good),
        "too large": (one_bit_png(folder / "bomb.png", 13_000), good),
        "2 pictures": (good, str(pages)),
    }


def test_refuses_bad_input_without_naming_places(models: Path, tmp_path: Path) -> None:
    for message, (visible, infrared) in bad_pairs(tmp_path).items():
        with pytest.raises(gr.Error, match=message) as refusal:
            space.fuse(visible, infrared, MODEL)
        assert str(tmp_path) not in refusal.value.message


def test_api_fuses(client: Client, examples: list[list[str]], tmp_path: Path) -> None:
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/fuse"]
    visible, infrared, model = examples[0]
    fused, (left, right) = client.predict(
        handle_file(visible), handle_file(infrared), model, "Visible", api_name="/fuse"
    )
    expected, _, _ = space.fuse(visible, infrared, model)
    for file, picture in ((fused, expected), (left, Image.open(visible)), (right, expected)):
        assert Image.open(file).format == "PNG"
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(picture))


def test_api_keeps_sixteen_bits(client: Client, tmp_path: Path) -> None:
    counts = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    grey = save(tmp_path / "grey.png", counts)
    fused, _ = client.predict(handle_file(grey), handle_file(grey), MODEL, "Visible", api_name="/fuse")
    assert Image.open(fused).mode == "I;16"


def test_api_refuses_in_words(client: Client, tmp_path: Path) -> None:
    for message, (visible, infrared) in bad_pairs(tmp_path).items():
        files = [None if path is None else handle_file(path) for path in (visible, infrared)]
        with pytest.raises(ValueError, match=message):
            client.predict(*files, MODEL, "Visible", api_name="/fuse")


def test_api_reads_no_file_of_the_server(client: Client) -> None:
    # Past the client, which would upload the file.
    file = {"path": str(SPACE / "app.py"), "meta": {"_type": "gradio.FileData"}}
    call = f"{client.src}gradio_api/call/fuse"
    event = httpx.post(call, json={"data": [file, file, MODEL, "Visible"]}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=60).text
    assert "event: error" in answer
    assert "visible file" not in answer, "our function was given the file"


def test_says_when_no_checkpoint_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    assert space.main(["--port", "0"]) == 1
    assert re.search("no checkpoint is installed .*difffusenet-msrs", capsys.readouterr().err)


def test_front_matter_and_requirements_match_the_package() -> None:
    front = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk_version"] == version("gradio")
    assert (SPACE / front["app_file"]).is_file()
    pinned = set((SPACE.parent / "requirements.txt").read_text(encoding="utf-8").split("\n"))
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").split("\n")
    needed = {line for line in lines if line and not line.startswith("#")}
    assert needed <= pinned, "the Space must run on the versions that CI tests"
    assert not any(line.startswith("gradio") for line in needed), "sdk_version rules"


def test_the_command_has_help() -> None:
    shown = subprocess.run([sys.executable, SPACE / "app.py", "--help"], capture_output=True, text=True, check=True)
    assert "--host" in shown.stdout
    assert "--port" in shown.stdout
