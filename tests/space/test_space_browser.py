"""The page in a real browser, as a visitor uses it; no request may leave this machine."""

import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tifffile
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect
from space_load import Page as Server

from fusion_hub import volumes
from fusion_hub.data import generate_scene
from fusion_hub.data.samples import unregistered_pair
from fusion_hub.image import overlay_pair
from fusion_hub.rigs import Rig
from tests.support import flir_file, scans
from tests.support.browser import chromium
from tests.support.clips import moving_square, write_clip

TABS = {
    "fuse": "Fuse",
    "medical": "Medical",
    "cameras": "Two cameras",
    "detect": "Detect and segment",
    "measure": "Measure",
    "how": "How it works",
    "batch": "Batch",
}
# The tabs in Two cameras and Medical; those with which these open come last, so that later tests find them.
KINDS = {"flir": "cameras", "clip": "cameras", "pictures": "cameras", "volumes": "medical", "slices": "medical"}
PATIENCE = 60_000  # milliseconds; a loaded machine is slow
LOCAL_SCHEMES = ("blob", "data", "about")  # of addresses that send no request
PALE = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
# Whether an element has at least `count` pictures, all of them decoded.
DRAWN = """(element, count) => {
    const pictures = [...element.querySelectorAll("img")].filter(picture => picture.checkVisibility());
    return pictures.length >= count && pictures.every(picture => picture.complete && picture.naturalWidth > 0);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def opened(browser: Browser, space_page: Server) -> Iterator["Visit"]:
    with Visit(browser.new_page(viewport={"width": 1280, "height": 900}), space_page) as visit:
        yield visit


@pytest.fixture
def page(opened: "Visit") -> Iterator[Page]:
    """The one page of most tests, at its first tab: opening it takes longer than what they do with it."""
    open_tab(opened.page, "fuse")
    yield opened.page
    opened.check()


class Visit:
    """The open page of a visitor, and the hosts that it sent requests to."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def __enter__(self) -> "Visit":
        self.page.goto(self.server.url)
        expect(self.page.locator("#fuse")).to_be_visible()
        wait_until_drawn(self.page.locator("#slider"), 2)  # the first example
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def check(self) -> None:
        """No error in the page, and no request to another server."""
        assert self.hosts == {urlsplit(self.server.url).netloc}
        assert not self.errors

    def _note(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in LOCAL_SCHEMES:
            self.hosts.add(parts.netloc)


@pytest.fixture(scope="module")
def small_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A drawn pair of 160 x 128 pixels."""
    return draw_pair(tmp_path_factory.mktemp("pair"), "street", seed=5)


def draw_pair(folder: Path, name: str, seed: int) -> tuple[Path, Path]:
    scene = generate_scene(seed, 128, 160)
    visible, infrared = folder / f"{name}.png", folder / f"{name}_ir.png"
    Image.fromarray(scene.visible).save(visible)
    Image.fromarray(scene.infrared).save(infrared)
    return visible, infrared


def expected(visible: Path, infrared: Path, model: str, **options: object) -> np.ndarray:
    """What the page's pipeline gives in this process."""
    from fuse import load_pipeline

    pipeline = load_pipeline(model)
    return np.asarray(pipeline(Image.open(visible), Image.open(infrared), **options).images[0])


EXAMPLE = "button.example:has-text('Smoke')"


def put(page: Page, place: str, file: Path | bytes, stays: bool = True) -> None:
    """Choose a file for an input, in place of what it holds; refused ones do not stay there."""
    box = empty(page, place)
    field = box.locator("input[type=file]").first
    content = file if isinstance(file, Path) else FilePayload(name="picture.png", mimeType="image/png", buffer=file)
    with page.expect_response(lambda response: "/gradio_api/upload?" in response.url):
        field.set_input_files(content)
    expect(box.locator("img")).to_have_count(1 if stays else 0)


def empty(page: Page, place: str) -> Locator:
    """Remove the picture from an input."""
    box = page.locator(f"#{place}")
    if box.get_by_label("Remove Image").count():
        box.get_by_label("Remove Image").click()
        expect(box.locator("img")).to_have_count(0)
    return box


def put_pair(page: Page, pair: tuple[Path, Path], prefix: str = "") -> None:
    for place, file in zip(("visible", "infrared"), pair, strict=True):
        put(page, f"{prefix}{place}", file)


def captions(page: Page, gallery: str) -> list[str]:
    return [caption.strip() for caption in page.locator(f"#{gallery} .caption-label").all_inner_texts()]


def fused_source(page: Page, slider: str = "slider") -> str:
    pictures = page.locator(f"#{slider} img")
    return (pictures.last.get_attribute("src") or "") if pictures.count() else ""


def fuse(page: Page, button: str = "#fuse", slider: str = "slider") -> None:
    """Start a fusion and wait for its picture, which has a new address each time."""
    before = fused_source(page, slider)
    page.locator(button).click()
    wait_for_new_picture(page, before, slider)


def wait_for_new_picture(page: Page, before: str, slider: str = "slider") -> None:
    expect(page.locator(f"#{slider} img").last).not_to_have_attribute("src", before)
    wait_until_drawn(page.locator(f"#{slider}"), 2)


def wait_until_drawn(place: Locator, count: int) -> None:
    place.scroll_into_view_if_needed()
    place.page.wait_for_function(f"element => ({DRAWN})(element, {count})", arg=place.element_handle())


def download(page: Page, folder: Path, button: str = "download") -> np.ndarray:
    with page.expect_download() as answer:
        page.locator(f"#{button}").click()
    path = folder / answer.value.suggested_filename
    answer.value.save_as(path)
    assert path.suffix == ".png"
    return np.asarray(Image.open(path))


def fetched(page: Page, picture: Locator) -> np.ndarray:
    """The pixels of a picture of the page, as the server sends them."""
    return np.asarray(Image.open(io.BytesIO(page.request.get(picture.get_attribute("src") or "").body())))


def open_tab(page: Page, name: str) -> None:
    page.locator(f"#tab_{name}-button").click()
    expect(page.locator(f"#tab_{name}")).to_be_visible()


def shown_parts(page: Page, prefix: str = "") -> list[int]:
    """How many pictures are in both boxes, the slider and the gallery."""
    return [page.locator(f"#{prefix}{place} img").count() for place in ("visible", "infrared", "slider", "gallery")]


def expect_refusal(page: Page, text: str, prefix: str = "") -> None:
    """A message beside the picture, and nothing of an older result."""
    message = page.locator(f"#{prefix}message [role=alert]")
    expect(message).to_contain_text(re.compile(text))
    assert not re.search(r"/tmp|\.py|Traceback", message.inner_text())
    assert page.locator(f"#{prefix}message").get_attribute("aria-live") == "polite"
    assert shown_parts(page, prefix)[2:] == [0, 0]
    expect(page.locator(f"#{prefix}time")).to_have_text(re.compile(r"^\s*$"))  # Gradio may still count seconds there
    expect(page.locator(f"#{prefix}download")).not_to_be_visible()
    expect(page.get_by_test_id("toast-body")).to_have_count(0)


def test_a_real_pair_is_fused_to_the_pixel(page: Page, data_root: Path, tmp_path: Path) -> None:
    visible = min((data_root / "data/msrs/test/vis").iterdir())
    infrared = data_root / "data/msrs/test/ir" / visible.name
    put_pair(page, (visible, infrared))
    fuse(page)

    result = download(page, tmp_path)
    np.testing.assert_array_equal(result, expected(visible, infrared, "difffusenet-msrs"))
    np.testing.assert_array_equal(fetched(page, page.locator("#slider img").last), result)
    np.testing.assert_array_equal(fetched(page, page.locator("#slider img").first), np.asarray(Image.open(visible)))
    expect(page.locator("#time")).to_contain_text(re.compile(r"640 x 480 .* \d+\.\d+ s"))
    wait_until_drawn(page.locator("#gallery"), 3)
    assert captions(page, "gallery") == ["Visible", "Infrared", "Fused"]
    np.testing.assert_array_equal(fetched(page, page.locator("#gallery img").last), result)


def test_a_pair_and_its_result_are_there_from_the_start(browser: Browser, space_page: Server) -> None:
    with Visit(browser.new_page(viewport={"width": 1280, "height": 900}), space_page) as visit:
        for place, count in (("slider", 2), ("visible", 1), ("infrared", 1), ("gallery", 3)):
            wait_until_drawn(visit.page.locator(f"#{place}"), count)
        left, right = (visit.page.locator(f"#{place}").bounding_box() for place in ("slider", "visible"))
        assert left is not None and right is not None and max(left["y"], right["y"]) < 400
        expect(visit.page.locator("#time")).to_contain_text("People in the dark become bright")
        open_tab(visit.page, "detect")
        expect(visit.page.locator("#tab_detect")).to_contain_text("Pair: night.jpg")
        visit.check()


def test_an_example_is_fused_on_click(page: Page, tmp_path: Path) -> None:
    wait_until_drawn(page.locator("#slider"), 2)
    before = download(page, tmp_path)  # something is there from the start
    fuse(page, EXAMPLE)
    for place in ("visible", "infrared"):
        wait_until_drawn(page.locator(f"#{place}"), 1)
    after = download(page, tmp_path)
    assert after.shape == before.shape and not np.array_equal(after, before)


def test_the_slider_shows_more_of_one_side(page: Page) -> None:
    slider = page.locator("#slider")
    wait_until_drawn(slider, 2)
    handle, wrap = slider.get_by_test_id("slider"), slider.locator(".slider-wrap")
    middle, box = wrap.screenshot(), wrap.bounding_box()
    knob = handle.bounding_box()
    assert box is not None and knob is not None
    page.mouse.move(knob["x"] + knob["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert shown_from(slider) > 60
    assert wrap.screenshot() != middle
    dragged = shown_from(slider)
    handle.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert shown_from(slider) < dragged, "the line follows the arrow keys"

    before = slider.locator("img").first.get_attribute("src")
    page.locator("#left").get_by_label("Infrared").check()
    expect(slider.locator("img").first).not_to_have_attribute("src", before or "")
    wait_until_drawn(slider, 2)


def shown_from(slider: Locator) -> float:
    """Where the fused picture begins, in percent of the width from the left."""
    clip = slider.locator("img").last.evaluate("picture => getComputedStyle(picture).clipPath")
    return float(re.search(r"([\d.]+)%\)$", clip)[1])  # type: ignore[index]


def test_bad_inputs_give_messages(page: Page, small_pair: tuple[Path, Path], tmp_path: Path) -> None:
    visible, infrared = small_pair
    turned = tmp_path / "turned.png"
    Image.open(infrared).transpose(Image.Transpose.ROTATE_90).save(turned)
    fuse(page, EXAMPLE)
    put(page, "visible", visible)
    page.locator("#fuse").click()
    expect_refusal(page, "Add the infrared image first")
    put(page, "infrared", turned)
    page.locator("#fuse").click()
    expect_refusal(page, "160x128.*128x160")
    put(page, "infrared", b"<html>not an image</html>", stays=False)
    expect_refusal(page, "Not an image.*not an image that can be read")
    put(page, "infrared", infrared)
    expect(page.locator("#message [role=alert]")).to_have_count(0)
    fuse(page)


def test_an_own_picture_is_never_fused_with_an_example(page: Page, small_pair: tuple[Path, Path]) -> None:
    visible, infrared = small_pair
    fuse(page, EXAMPLE)
    wait_until_drawn(page.locator("#gallery"), 3)
    put(page, "infrared", infrared)
    assert shown_parts(page) == [0, 1, 0, 0], "the example and its result are gone"
    open_tab(page, "measure")
    expect(page.locator("#tab_measure")).not_to_contain_text("smoke.jpg")
    open_tab(page, "fuse")
    put(page, "visible", visible)
    assert shown_parts(page) == [1, 1, 0, 0]
    put(page, "infrared", infrared)  # another own one: the first stays
    assert shown_parts(page) == [1, 1, 0, 0]
    fuse(page)
    expect(page.locator("#time")).to_contain_text("160 x 128 pixels fused in")
    before = fused_source(page)
    page.locator(EXAMPLE).dblclick()
    wait_for_new_picture(page, before)
    expect(page.locator("#time")).to_contain_text("Smoke. Three people")
    assert shown_parts(page)[:2] == [1, 1]
    empty(page, "visible")
    assert shown_parts(page)[:2] == [0, 1]
    put(page, "visible", visible)
    expect(page.locator("#slider img")).to_have_count(0)  # the second click's result may have been on its way
    expect(page.locator("#gallery img")).to_have_count(0)
    assert shown_parts(page) == [1, 0, 0, 0]
    open_tab(page, "measure")
    expect(page.locator("#tab_measure")).to_contain_text("Fuse a pair first")  # nor does another tab name it


def test_a_file_that_is_too_large_takes_the_example_away(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(33 << 20))
    fuse(page, EXAMPLE)
    empty(page, "visible").locator("input[type=file]").first.set_input_files(large)
    expect(page.locator("#message [role=alert]")).to_contain_text("File too large A file may have at most 32 MiB")
    assert shown_parts(page) == [0, 0, 0, 0]
    page.get_by_test_id("toast-body").get_by_label("Close").click()  # Gradio's own words


# Puts a small picture into the clipboard.
COPY = """async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 80, height: 60 });
    canvas.getContext("2d").fillRect(0, 0, 40, 40);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""


def test_a_pasted_picture_takes_the_example_away(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    fuse(page, EXAMPLE)
    page.evaluate(COPY)
    page.locator("#infrared").get_by_label("Paste from clipboard").click()
    expect(page.locator("#visible img")).to_have_count(0)
    expect(page.locator("#infrared img")).to_have_js_property("naturalWidth", 80)
    assert shown_parts(page) == [0, 1, 0, 0]
    page.locator("#infrared").get_by_label("Upload file").click()  # from now on, for the next test


def test_a_choice_stops_the_fusion_of_the_pair_before(page: Page, small_pair: tuple[Path, Path]) -> None:
    fuse(page, EXAMPLE)  # 640 x 480
    page.locator("#model").get_by_label("red-small-msrs").check()
    page.locator("#steps").get_by_label("All").check()
    page.locator("#fuse").click()
    expect(page.locator("#slider")).to_contain_text(re.compile("[01]/2 steps"))
    put(page, "visible", small_pair[0])
    page.locator("#model").get_by_label("difffusenet-msrs").check()
    put(page, "infrared", small_pair[1])
    fuse(page)  # as soon as the network is free
    expect(page.locator("#time")).to_contain_text("160 x 128 pixels fused in")
    assert not page.locator("#message [role=alert]").count()


# Drops a file that the browser knows no type of, as from a folder.
DROP = """(box, name) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(128), "DICM", new Uint8Array(200)], name));
    box.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
}"""


def test_a_refused_scan_leaves_no_other_head_behind(page: Page) -> None:
    open_tab(page, "medical")
    fuse(page, "button.example:has-text('PET + MRI')", "medical_slider")
    page.locator("#medical_visible .image-frame").evaluate(DROP, "scan.dcm")
    expect_refusal(page, r"scan \('scan.dcm'\) is a DICOM file: save the slice as 16-bit PNG", "medical_")
    assert shown_parts(page, "medical_") == [0, 0, 0, 0]
    page.locator("#medical_fuse").click()
    expect_refusal(page, "Add the scan image first", "medical_")


def test_ranges_are_chosen_and_doubts_are_shown(page: Page, small_pair: tuple[Path, Path], tmp_path: Path) -> None:
    visible, infrared = small_pair
    put_pair(page, (visible, infrared))
    page.locator("#advanced button").first.click()
    field = page.locator("#infrared_range input")
    field.fill("20,90")
    field.press("Enter")
    fuse(page)
    result = download(page, tmp_path)
    np.testing.assert_array_equal(result, expected(*small_pair, "difffusenet-msrs", infrared_range=(20, 90)))
    field.fill("auto")
    field.press("Enter")
    flat = tmp_path / "flat.pgm"  # a file that the browser cannot show
    flat.write_bytes(b"P5 160 128 255\n" + bytes([100]) * 160 * 128)
    put(page, "infrared", flat)
    page.locator("#fuse").click()
    message = page.get_by_test_id("toast-body")
    expect(message).to_contain_text("Infrared is constant")
    message.get_by_label("Close").click()
    expect(page.locator("#time")).to_contain_text("Please check: Infrared is constant")
    page.locator("#advanced button").first.click()


def test_red_offers_its_steps(page: Page, small_pair: tuple[Path, Path], tmp_path: Path) -> None:
    expect(page.locator("#steps")).not_to_be_visible()
    page.locator("#model").get_by_label("red-small-msrs").check()
    page.locator("#steps").get_by_label("1", exact=True).check()
    put_pair(page, small_pair)
    fuse(page)
    result = download(page, tmp_path)
    np.testing.assert_array_equal(result, expected(*small_pair, "red-small-msrs", num_inference_steps=1))
    page.locator("#model").get_by_label("difffusenet-msrs").check()
    expect(page.locator("#steps")).not_to_be_visible()


def test_the_pair_is_looked_at_in_the_other_tabs(page: Page, small_pair: tuple[Path, Path]) -> None:
    put_pair(page, small_pair)
    fuse(page)

    open_tab(page, "detect")
    expect(page.locator("#tab_detect")).to_contain_text("Pair: street.png and street_ir.png, fused by difffusenet-msrs")
    page.locator("#detect_run").click()
    for gallery in ("detect_gallery", "segment_gallery"):
        wait_until_drawn(page.locator(f"#{gallery}"), 3)
        assert captions(page, gallery) == ["Visible", "Infrared", "Fused"]
    for text in ("bicycle", "the fused image shows"):  # each class of the bundled detector, found or not
        expect(page.locator("#detect_counts")).to_contain_text(text)
    expect(page.locator("#segment_shares")).to_contain_text(re.compile("Share of the picture|No class"))
    assert "FUSION_HUB" not in page.locator("#tab_detect").inner_text()

    open_tab(page, "measure")
    page.locator("#measure_run").click()
    expect(page.locator("#measure_notes")).to_contain_text("Guard rails")
    rows = page.locator("#measure_table tbody tr")
    for name, row in zip(("EN ↑", "SD ↑", "SF ↑", "AG ↑", "MI, sum ↑"), rows.all(), strict=False):
        expect(row.locator("th")).to_have_text(name)
        values = [float(cell.strip("● \n")) for cell in row.locator("td:not(.meaning)").all_inner_texts()]
        best = [float(cell.strip("● \n")) for cell in row.locator("td:has-text('●')").all_inner_texts()]
        assert len(values) == 3 and set(best) == {max(values)}
    assert not page.locator("#tab_measure").evaluate(PALE)

    open_tab(page, "how")
    page.locator("#how_run").click()
    wait_until_drawn(page.locator("#how_gallery"), 6)
    assert [caption[:2] for caption in captions(page, "how_gallery")] == [f"{number}." for number in range(1, 7)]
    expect(page.locator("#how_all_gallery")).not_to_be_visible()

    open_tab(page, "fuse")
    fuse(page, EXAMPLE)
    open_tab(page, "measure")
    expect(page.locator("#measure_notes")).not_to_contain_text("Guard rails")  # nothing of the pair before
    expect(page.locator("#tab_measure")).to_contain_text("Pair: smoke.jpg")


def test_a_head_is_fused_for_research_only(page: Page, tmp_path: Path) -> None:
    open_tab(page, "medical")
    expect(page.locator("#tab_medical")).to_contain_text("Not for clinical use")
    scene = generate_scene(3, 128, 128, "brain")
    pair = tmp_path / "pet.png", tmp_path / "mri.png"
    for path, array in zip(pair, (scene.visible, scene.infrared), strict=True):
        Image.fromarray(array).save(path)
    put_pair(page, pair, "medical_")
    fuse(page, "#medical_fuse", "medical_slider")
    wait_until_drawn(page.locator("#medical_gallery"), 3)
    assert captions(page, "medical_gallery") == ["CT, PET, SPECT", "MRI", "Fused"]
    result = download(page, tmp_path, "medical_download")
    np.testing.assert_array_equal(result, expected(*pair, "difffusenet-medical"))

    open_tab(page, "measure")
    expect(page.locator("#tab_measure")).to_contain_text("Pair: pet.png and mri.png, fused by difffusenet-medical")
    page.locator("#measure_run").click()
    expect(page.locator("#measure_table")).to_contain_text("VIF, PET")
    open_tab(page, "how")
    page.locator("#how_run").click()
    wait_until_drawn(page.locator("#how_gallery"), 6)
    assert "Edges, PET" in captions(page, "how_gallery")[0]
    open_tab(page, "detect")
    expect(page.locator("#tab_detect")).not_to_contain_text("pet.png")  # of streets

    open_tab(page, "medical")
    before = fused_source(page, "medical_slider")
    page.locator("#medical_colors").get_by_label("Overlay").check()  # the result follows by itself
    wait_for_new_picture(page, before, "medical_slider")
    np.testing.assert_array_equal(download(page, tmp_path, "medical_download"), overlay_pair(*pair))
    wait_until_drawn(page.locator("#medical_gallery"), 3)
    assert captions(page, "medical_gallery")[-1] == "Overlay"
    page.locator("#medical_colors").get_by_label("Fused").check()


def test_a_batch_comes_back_as_a_zip_file(page: Page, tmp_path: Path) -> None:
    pairs = {name: draw_pair(tmp_path, name, seed) for seed, name in enumerate(("first", "second"), start=1)}
    open_tab(page, "batch")
    upload(page.locator("#batch_files"), [file for pair in pairs.values() for file in pair])
    expect(page.locator("#batch_files")).to_contain_text("second_ir")
    page.locator("#batch_run").click()
    link = page.locator("#batch_zip a[download]").first
    expect(link).to_be_visible()
    path = tmp_path / "fused.zip"
    path.write_bytes(page.request.get(link.get_attribute("href") or "").body())
    with zipfile.ZipFile(path) as archive:
        for name, pair in pairs.items():
            with archive.open(f"{name}.png") as file:
                np.testing.assert_array_equal(np.asarray(Image.open(file)), expected(*pair, "difffusenet-msrs"))


def test_a_cancelled_batch_stops(browser: Browser, space_page: Server, tmp_path: Path) -> None:
    visible, infrared = draw_pair(tmp_path, "pair", seed=1)
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as opened:
        for number in range(50):
            opened.write(visible, f"vis/{number}.png")
            opened.write(infrared, f"ir/{number}.png")
    with Visit(browser.new_page(), space_page) as visit:
        page, result = visit.page, visit.page.locator("#batch_zip")
        open_tab(page, "batch")
        upload(page.locator("#batch_files"), tmp_path / "pairs.zip")
        expect(page.locator("#batch_files")).to_contain_text("pairs")
        page.locator("#batch_run").click()
        expect(result).to_contain_text(re.compile(r"Fusing \d"))
        assert unpacked(space_page), "it works on the files"
        page.locator("#batch_cancel").click()
        expect(result).not_to_contain_text("Fusing")
        for _ in range(100):
            if not unpacked(space_page):
                break
            page.wait_for_timeout(200)
        assert not unpacked(space_page), "they must go"
        assert not result.locator("a[download]").count()
        visit.check()


def unpacked(server: Server) -> list[Path]:
    """Folders of batches that the server works on."""
    return [*server.files.rglob("fusion_hub_batch_*")]


def open_kind(page: Page, kind: str) -> None:
    """One of the tabs in another one."""
    open_tab(page, KINDS[kind])
    page.locator(f"#tab_{kind}-button").click()
    expect(page.locator(f"#tab_{kind}")).to_be_visible()


def test_a_pair_of_two_cameras_is_aligned_and_fused(page: Page, small_pair: tuple[Path, Path], tmp_path: Path) -> None:
    open_kind(page, "pictures")
    fuse(page, "#tab_pictures button.example", "rig_slider")
    names = [picture.get_attribute("alt") for picture in page.locator("#rig_slider img").all()]
    assert names == ["Edges before alignment", "Edges after alignment"]
    expect(page.locator("#rig_time")).to_contain_text(
        re.compile(r"Aligned: .* score of 0\.\d\d.*640 x 480 pixels fused", re.S)
    )
    with page.expect_download() as answer:
        page.locator("#rig_json").click()
    answer.value.save_as(tmp_path / "rig.json")
    rig = Rig.load(tmp_path / "rig.json")
    files = [tmp_path / name for name in unregistered_pair()]
    for file, content in zip(files, unregistered_pair().values(), strict=True):
        file.write_bytes(content)
    result = download(page, tmp_path, "rig_download")
    np.testing.assert_array_equal(result, expected(*files, "difffusenet-msrs", rig=rig))
    before = fused_source(page, "rig_slider")
    page.locator("#rig_left").get_by_label("Infrared and fused").check()
    wait_for_new_picture(page, before, "rig_slider")
    np.testing.assert_array_equal(fetched(page, page.locator("#rig_slider img").last), result)
    expect(page.locator("#rig_slider img").first).to_have_attribute("alt", "Before: Infrared")

    put(page, "rig_infrared", small_pair[1])  # the first own file empties both boxes
    assert shown_parts(page, "rig_") == [0, 1, 0, 0]
    flat = io.BytesIO()
    Image.new("L", (160, 120), 90).save(flat, "PNG")
    put(page, "rig_visible", small_pair[0])
    put(page, "rig_infrared", flat.getvalue())
    page.locator("#rig_fuse").click()
    expect_refusal(page, "could not be aligned with confidence|cannot be aligned", "rig_")
    expect(page.locator("#rig_json")).not_to_be_visible()


def test_temperatures_of_a_flir_file(page: Page, tmp_path: Path) -> None:
    open_kind(page, "flir")
    photo, scan, plain = tmp_path / "photo.jpg", tmp_path / "scan.jpg", tmp_path / "plain.jpg"
    photo.write_bytes(flir_file.photo())
    scan.write_bytes(flir_file.jpeg(flir_file.block()))
    Image.new("RGB", (64, 48)).save(plain)
    for file, fused in ((photo, True), (scan, False)):
        put_file(page, "flir_file", file)
        expect(page.locator("#flir_text")).to_contain_text("32 x 24 pixels")
        wait_until_drawn(page.locator("#flir_picture"), 1)
        expect(page.locator("#flir_gallery img")).to_have_count(3 if fused else 0)
        assert page.locator("#flir_fused").is_visible() == fused
        with page.expect_download() as answer:
            page.locator("#flir_values").click()
        answer.value.save_as(tmp_path / "temperatures.tif")
        degrees = tifffile.imread(tmp_path / "temperatures.tif")
        assert degrees.shape == ((60, 80) if fused else (24, 32)) and degrees.dtype == np.float32
    before = page.locator("#flir_picture img").get_attribute("src") or ""
    page.locator("#flir_palette").get_by_label("rainbow").check()  # without another click
    expect(page.locator("#flir_picture img")).not_to_have_attribute("src", before)
    page.locator("#flir_emissivity input").fill("7")
    page.locator("#flir_run").click()
    message = page.locator("#flir_message [role=alert]")
    expect(message).to_contain_text("The emissivity is a number from 0.01 to 1, or empty, not '7'.")
    expect(page.locator("#flir_picture img")).to_have_count(0)  # nothing of the result before
    expect(page.locator("#flir_values")).not_to_be_visible()
    page.locator("#flir_emissivity input").fill("")
    put_file(page, "flir_file", plain)
    expect(message).to_contain_text("holds no radiometric data of FLIR")


def put_file(page: Page, place: str, file: Path) -> None:
    """Choose a file for a file input, in place of what it holds."""
    box = page.locator(f"#{place}")
    clear, field = box.get_by_label("Clear"), box.locator("input[type=file]").first
    expect(clear.or_(field).first).to_be_attached()
    if clear.count():
        clear.click()
    upload(box, file)
    expect(box).to_contain_text(file.stem)


def upload(box: Locator, files: Path | list[Path]) -> None:
    """Choose files for an empty file input, and wait until the server has them.

    Their names are there before. Gradio loses a run that starts then: the event of the upload cancels it before it has
    a number, so the page forgets it, and the server goes on.
    """
    box.locator("input[type=file]").first.set_input_files(files)
    expect(box.get_by_label("Clear")).to_be_visible()


# Of both videos of a clip: whether they can be played, their length in seconds, their width, their time.
VIDEOS = """all => all.map(video => [video.readyState, video.duration, video.videoWidth, video.currentTime])"""


def test_a_clip_plays_beside_what_was_visible(page: Page, tmp_path: Path) -> None:
    open_kind(page, "clip")
    page.locator("#tab_clip button.example").click()
    videos = page.locator("#clip_videos video")
    expect(videos).to_have_count(2)
    page.wait_for_function("document.querySelectorAll('#clip_videos video').length == 2")
    page.wait_for_function("[...document.querySelectorAll('#clip_videos video')].every(video => video.readyState == 4)")
    assert [state[:3] for state in videos.evaluate_all(VIDEOS)] == [[4, 1, 320]] * 2, "the browser plays H.264"
    expect(page.locator("#clip_text")).to_contain_text("10 frames of 320 x 240 pixels fused in")
    videos.first.evaluate("video => { video.currentTime = 0.5 }")
    page.wait_for_function("document.querySelector('#clip_after video').currentTime == 0.5")  # both show one moment

    own = write_clip(tmp_path / "own.mp4", moving_square(3))
    put_file(page, "clip_visible", own)
    expect(page.locator("#clip_infrared")).not_to_contain_text("clip_infrared")  # the example is gone, and its result
    expect(videos).to_have_count(0)
    page.locator("#clip_run").click()
    expect(page.locator("#clip_message [role=alert]")).to_contain_text("Add the infrared clip first")
    (tmp_path / "text.mp4").write_text("no video")
    put_file(page, "clip_infrared", tmp_path / "text.mp4")
    page.locator("#clip_run").click()
    message = page.locator("#clip_message [role=alert]")
    expect(message).to_contain_text("The infrared clip (text.mp4) is not a video that can be read")
    assert "/tmp" not in message.inner_text()


def test_a_canceled_clip_stops(page: Page, tmp_path: Path) -> None:
    open_kind(page, "clip")
    long = write_clip(tmp_path / "long.mp4", moving_square(250, 480, 640))
    put_file(page, "clip_visible", long)
    put_file(page, "clip_infrared", long)
    page.locator("#clip_align input").uncheck()
    page.locator("#clip_run").click()
    expect(page.locator("#clip_after")).to_contain_text(re.compile(r"Fusing, about \d+ s left"))
    page.locator("#clip_cancel").click()
    expect(page.locator("#clip_after")).not_to_contain_text("Fusing")
    expect(page.locator("#clip_message [role=alert]")).to_have_count(0)
    assert not page.locator("#clip_videos video").count()


def slice_names(page: Page) -> list[str]:
    """What the pictures of the slices are called, for those who do not see them."""
    return [picture.get_attribute("alt") or "" for picture in page.locator("#volume_slices img").all()]


def slice_source(page: Page, number: int) -> str:
    return page.locator("#volume_slices img").nth(number).get_attribute("src") or ""


def test_volumes_are_fused_and_scrolled_through(page: Page, opened: Visit, tmp_path: Path) -> None:
    open_kind(page, "volumes")
    ramp = np.indices((12, 32, 32)).sum(axis=0).astype(np.int16)
    checks = ((np.indices((12, 32, 32)) // 4).sum(axis=0) % 2 * 60 + ramp).astype(np.int16)
    ct = scans.save(scans.series(checks, "CT", intercept=0.0), tmp_path / "ct")
    archive = Path(shutil.make_archive(str(tmp_path / "Plantedname"), "zip", ct))
    mr = volumes.from_array(ramp, (-20.0, 31.5, 7.25), (0.8, 1.2, 3.0), np.eye(3).flatten().tolist())
    volumes.write_volume(mr, tmp_path / "mr.nii.gz")
    page.locator("#volume_run").click()
    message = page.locator("#volume_message [role=alert]")
    expect(message).to_contain_text("Add the fixed volume first")

    put_file(page, "volume_fixed", tmp_path / "mr.nii.gz")
    expect(page.locator("#volume_fixed_info")).to_contain_text("NIfTI file, 32 x 32 x 12 voxels of 0.8 x 1.2 x 3 mm")
    expect(message).to_have_count(0)
    put_file(page, "volume_moving", archive)
    expect(page.locator("#volume_moving_info")).to_contain_text("CT, DICOM series, 32 x 32 x 12 voxels")
    expect(page.locator("#volume_slices img")).to_have_count(2)  # to choose windows by
    assert not [*opened.server.files.rglob("Plantedname*")], "uploads are deleted once they are read"
    page.locator("#volume_registration").get_by_label("None").check()
    page.locator("#volume_run").click()
    expect(page.locator("#volume_slices img")).to_have_count(4)
    expect(page.locator("#volume_text")).to_contain_text("Derived, not for diagnosis")
    place = "axial slice 6 of 12"
    assert slice_names(page) == [f"{name}, {place}" for name in ("Fixed volume", "CT", "Fused", "Checkerboard")]

    before = [slice_source(page, number) for number in range(4)]
    number = page.locator("#volume_number").get_by_role("slider")
    number.focus()
    page.keyboard.press("ArrowRight")  # a keyboard is enough
    expect(page.locator("#volume_slices img").nth(2)).to_have_attribute("alt", "Fused, axial slice 7 of 12")
    assert all(slice_source(page, number) != source for number, source in enumerate(before))
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#volume_slices img").nth(2)).to_have_attribute("src", before[2])

    page.locator("#volume_moving_white").get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#volume_slices img").nth(1)).not_to_have_attribute("src", before[1])
    assert [slice_source(page, number) for number in (0, 2)] == [before[0], before[2]], "no network ran"
    expect(page.locator("#volume_slices figcaption").nth(2)).to_have_text("Fused with earlier windows: fuse again")
    page.locator("#volume_plane").get_by_label("Coronal").check()
    expect(page.locator("#volume_slices img").nth(2)).to_have_attribute("alt", re.compile("coronal slice 16 of 32"))
    window = page.locator("#volume_moving_window input")
    window.fill("500,90")
    window.press("Enter")
    expect(message).to_contain_text("The window of the moving volume is LOW,HIGH")
    with page.expect_download() as answer:
        page.locator("#volume_result").click()
    answer.value.save_as(tmp_path / "fused.nii.gz")
    assert volumes.read_volume(tmp_path / "fused.nii.gz").array.shape == (12, 32, 32)
    text = page.content()
    assert not [value for value in scans.PLANTED.values() if value in text]

    notes = tmp_path / "notes.nii"
    notes.write_text("no volume")
    put_file(page, "volume_fixed", notes)
    expect(message).to_contain_text("cannot be read as NIfTI")
    expect(page.locator("#volume_slices img")).to_have_count(1)  # the other volume; nothing of the result
    expect(page.locator("#volume_result")).not_to_be_visible()
    open_kind(page, "slices")


def test_a_keyboard_is_enough(page: Page) -> None:
    wait_until_drawn(page.locator("#slider"), 2)
    before = fused_source(page)
    missing = {"visible", "infrared", "model", "fuse", "slider", "left", "download"}
    missing |= {f"tab_{tab}-button" for tab in TABS}
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.evaluate_handle("document.activeElement").as_element()
        assert focused is not None
        place, name, ring = focused.evaluate(
            "e => [e.closest('[id]')?.id, e.ariaLabel || e.innerText || e.value, getComputedStyle(e).outlineStyle]"
        )
        assert ring != "none" or place not in missing or focused.evaluate("e => e.type") == "radio", f"{place} hides it"
        missing.discard(place)
        if name.startswith("Smoke") and fused_source(page) == before:
            page.keyboard.press("Enter")
            wait_for_new_picture(page, before)
            focused.focus()
        if not missing:
            break
    assert not missing, "cannot be reached"
    assert fused_source(page) != before


def test_names_can_be_heard_and_texts_read(page: Page) -> None:
    wait_until_drawn(page.locator("#gallery"), 3)
    for tab in (*TABS, *KINDS):
        open_tab(page, tab) if tab in TABS else open_kind(page, tab)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("img, button, input:not([type=hidden]), textarea")]
                .filter(e => e.checkVisibility() && e.type !== "file")
                .filter(e => !(e.alt || e.ariaLabel || e.innerText || e.title || e.labels?.length))
                .map(e => e.outerHTML.slice(0, 200))"""
        )
        assert not nameless, f"in tab {tab}"
        pale = page.locator("body").evaluate(PALE)
        assert not pale, f"in tab {tab}"


def test_a_phone_in_the_dark(browser: Browser, space_page: Server) -> None:
    phone = browser.new_page(
        viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True, is_mobile=True
    )
    with Visit(phone, space_page) as visit:
        wait_until_drawn(phone.locator("#slider"), 2)
        place = phone.locator("#slider img").last.bounding_box()
        assert place is not None and place["y"] + place["height"] < 844, "a result is seen without a click"
        for tab in (*TABS, *KINDS):
            open_tab(phone, tab) if tab in TABS else open_kind(phone, tab)
            pale = phone.locator(f"#tab_{tab}").evaluate(PALE)
            assert not pale, f"in tab {tab}"
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390, f"tab {tab} is wider than the screen"
            ground, text = (
                np.array([float(value) for value in re.findall(r"[\d.]+", color)[:3]])
                for color in phone.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
            )
            assert ground.max() < 80 and text.min() > 150, f"{tab}: {text} on {ground}"
        open_tab(phone, "measure")
        phone.locator("#measure_run").click()
        expect(phone.locator("#measure_table tbody tr")).to_have_count(15)
        cut = phone.locator("#measure_table").evaluate(
            """table => [...table.querySelectorAll("th, td")].filter(
                cell => cell.scrollWidth > cell.clientWidth || cell.getBoundingClientRect().right > 390
            ).map(cell => cell.innerText)"""
        )
        assert not cut and phone.evaluate("document.documentElement.scrollWidth") <= 390
        assert not phone.locator("#tab_measure").evaluate(PALE)
        open_tab(phone, "medical")
        wait_until_drawn(phone.locator("#medical_slider"), 2)
        buttons, picture = (
            phone.locator(f"#medical_slider {part}").last.bounding_box() for part in (".icon-button-wrapper", "img")
        )
        assert buttons is not None and picture is not None
        assert buttons["x"] + buttons["width"] < picture["x"] + picture["width"] / 2, "the legend is at the right"
        open_tab(phone, "fuse")
        phone.locator("#fuse").click()  # the pair of the example
        expect(phone.locator("#time")).to_contain_text("640 x 480 pixels fused in")
        expect(phone.locator("#slider")).to_be_in_viewport(ratio=0.9)  # the page goes to the result
        visit.check()
