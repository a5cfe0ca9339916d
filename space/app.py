"""Fusion Hub in the browser: two registered images in, one image out.

    python space/app.py                     # http://127.0.0.1:7860
    python space/app.py --host 0.0.0.0 --port 8000

Runs on the bundled checkpoints and its own drawn examples: it needs no network. The same file is the Hugging Face
Space, where `fusion_hub/` lies beside it.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import numpy as np
import torch
from gradio.data_classes import ImageData
from PIL import Image, UnidentifiedImageError

from fusion_hub import FusionPipeline, PretrainedInfo, list_models
from fusion_hub.data.generated import Kind, generate_scene

MAX_PIXELS = 4096 * 3072
MAX_FILE_SIZE = "32mb"
PREVIEW_SIDE = 1280
QUEUE_LENGTH = 8
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")  # JPEG includes the MPO files of phones

Image.init()  # all formats, so that `open(formats=...)` knows them
# Gradio opens uploads in places of its own too. Pillow raises at twice this value.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class Example(NamedTuple):
    """A pair that is drawn at start-up, and the checkpoint that is made for it."""

    label: str
    kind: Kind
    seed: int
    height: int
    width: int
    model: str


EXAMPLES = (
    Example("Night street", "night_street", 4, 480, 640, "difffusenet-msrs"),
    Example("Smoke", "smoke", 2, 480, 640, "difffusenet-msrs"),
    Example("Brain: PET + MRI", "brain", 1, 384, 384, "difffusenet-medical"),
)

INTRODUCTION = """
# Fusion Hub

Two registered images of one scene become one: the textures and colours of the **visible** image, the warm objects of
the **infrared** one. Medical pairs work too: CT, PET or SPECT with MRI. For research, not for diagnosis.
"""

NOTES = """
Both images must show the same view, pixel by pixel, and have the same size. PNG, JPEG, TIFF, WebP and BMP, 8 or 16 bit;
16-bit infrared keeps its range. At most {megapixels:.0f} megapixels. Images are deleted from the server after an hour.
"""

CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
#fuse { align-self: stretch; font-size: 1.15rem; }
"""

Left = Literal["Visible", "Infrared"]


class Refusal(gr.Error):
    """Shown to the user as a message; nothing for the server's log."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__(text, title=title, print_exception=False)


class Previews(NamedTuple):
    """The three pictures of one fusion as the slider shows them: 8-bit RGB, at most `PREVIEW_SIDE` pixels."""

    visible: Image.Image
    infrared: Image.Image
    fused: Image.Image

    def beside(self, left: Left) -> tuple[Image.Image, Image.Image]:
        """What stands on the left of the slider, and the fused image."""
        return (self.visible if left == "Visible" else self.infrared), self.fused


def available_models() -> list[PretrainedInfo]:
    """Checkpoints whose weights are installed.

    Raises:
        RuntimeError: there is none.
    """
    models = [info for info in list_models() if info.available]
    if not models:
        names = ", ".join(info.name for info in list_models())
        raise RuntimeError(
            f"no checkpoint is installed (known: {names}): install fusion-hub again with its bundled weights, or train "
            "one and put its pipeline folder under fusion_hub/pretrained/"
        )
    return models


@lru_cache
def load_pipeline(name: str) -> FusionPipeline:
    """A checkpoint, ready to use; stays in memory."""
    pipeline = FusionPipeline.from_pretrained(name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def open_upload(path: str | None, what: str) -> Image.Image:
    """Open an uploaded image and judge it by its header; no pixel is decoded here.

    Raises:
        gr.Error: nothing that can be fused. The message says why and never names a place on the server.
    """
    if path is None:
        raise Refusal("An image is missing", f"Add the {what} image first.")
    try:
        image = Image.open(path, formats=FORMATS)
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise Refusal("Image too large", f"The {what} image is too large. {_limit()}") from error
    except UnidentifiedImageError as error:
        raise Refusal("Not an image", f"The {what} file is damaged or none of {', '.join(FORMATS)}.") from error
    except Exception as error:  # headers of damaged files fail in many ways
        raise Refusal("Not an image", f"The {what} file cannot be read. It may be damaged.") from error
    if image.width * image.height > MAX_PIXELS:
        raise Refusal("Image too large", f"The {what} image has {image.width} x {image.height} pixels. {_limit()}")
    if pages > 1:
        raise Refusal("Several pictures", f"The {what} file holds {pages} pictures: save the one to fuse by itself.")
    return image


def fuse(
    visible: str | None, infrared: str | None, model: str, left: Left = "Visible"
) -> tuple[Image.Image, tuple[Image.Image, Image.Image], Previews]:
    """Fuse a pair of registered images of one size.

    Args:
        visible: the image that gives colour (PNG, JPEG, TIFF, WebP, BMP; 8 or 16 bit). CT, PET and SPECT go in here.
        infrared: the other image, of the same size. MRI goes in here.
        model: name of a bundled checkpoint.
        left: what stands on the left of the slider.

    Returns:
        The fused image, in the size, colour and depth of the visible one; the two pictures of the slider; and all three
        for the slider's switch.

    Raises:
        gr.Error: for images that cannot be fused.
    """
    with open_upload(visible, "visible") as visible_image, open_upload(infrared, "infrared") as infrared_image:
        pipeline = load_pipeline(model)
        processor = pipeline.image_processor
        try:
            visible_plane, infrared_plane, contexts = processor.preprocess(visible_image, infrared_image)
            fused = pipeline(visible_image, infrared_image).images[0]
        except (TypeError, ValueError, OSError) as error:
            text = str(error)
            raise Refusal("These images cannot be fused", text[:1].upper() + text[1:] + ".") from error
    # The visible image as it was read: upright, of a plain mode.
    shown: Any = processor.postprocess(visible_plane, contexts)[0]
    warm = Image.fromarray((infrared_plane[0, 0].numpy() * 255).round().astype(np.uint8))
    previews = Previews(_preview(shown), _preview(warm), _preview(fused))
    return _for_png(fused), previews.beside(left), previews


def compare(previews: Previews | None, left: Left) -> tuple[Image.Image, Image.Image] | None:
    """The slider for another choice of what stands on the left."""
    return previews.beside(left) if previews else None


def draw_examples(folder: Path, examples: Sequence[Example]) -> list[list[str]]:
    """Draw pairs as PNG files into `folder`; rows `[visible, infrared, model]`."""
    rows = []
    for example in examples:
        scene = generate_scene(example.seed, example.height, example.width, example.kind)
        visible, infrared = folder / f"{example.kind}.png", folder / f"{example.kind}_infrared.png"
        Image.fromarray(scene.visible).save(visible)
        Image.fromarray(scene.infrared).save(infrared)
        rows.append([str(visible), str(infrared), example.model])
    return rows


def build_app(examples_folder: Path) -> gr.Blocks:
    """The page.

    Args:
        examples_folder: existing folder into which the example pairs are drawn.

    Raises:
        RuntimeError: no checkpoint is installed.
    """
    models = available_models()
    choices = [(f"{info.name}: {info.modality}", info.name) for info in models]
    shown = [example for example in EXAMPLES if example.model in {info.name for info in models}]
    with gr.Blocks(title="Fusion Hub", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown(INTRODUCTION)
        strip = gr.Column()  # the examples go here, above the inputs that they fill
        with gr.Row(equal_height=True):
            visible = _input("Visible (or CT, PET, SPECT)")
            infrared = _input("Infrared (or MRI)")
        with gr.Row(equal_height=True):
            model = gr.Radio(choices, value=models[0].name, label="Model", scale=3)
            button = gr.Button("Fuse", variant="primary", size="lg", scale=1, elem_id="fuse")
        with gr.Row():
            with gr.Column():
                slider = _slider()
                left = gr.Radio(["Visible", "Infrared"], value="Visible", label="On the left")
            with gr.Column():
                result = _result()
                gr.Markdown(NOTES.format(megapixels=MAX_PIXELS / 1e6))
        previews = gr.State(None, time_to_live=3600)
        with strip:
            examples = gr.Examples(
                draw_examples(examples_folder, shown),
                [visible, infrared, model],
                example_labels=[example.label for example in shown],
                label="Examples, drawn by this project: click one to fuse it",
            )

        inputs, outputs = [visible, infrared, model, left], [result, slider, previews]
        event: dict[str, Any] = {"concurrency_id": "fusion", "concurrency_limit": 1}
        button.click(fuse, inputs, outputs, api_name="fuse", **event)
        examples.load_input_event.then(fuse, inputs, outputs, api_visibility="private", **event)
        left.change(compare, [previews, left], slider, api_visibility="private", show_progress="hidden")
    return app.queue(max_size=QUEUE_LENGTH, default_concurrency_limit=1)


def launch(app: gr.Blocks, host: str, port: int | None, block: bool = True) -> None:
    """Serve the page on this machine only, or wherever `host` says; never through a public tunnel.

    Without a port the first free one from 7860 is taken. Returns at once if not `block`.
    """
    app.launch(
        server_name=host,
        server_port=port,
        share=False,
        show_error=False,  # True would show server paths; our own errors are shown anyway
        max_file_size=MAX_FILE_SIZE,
        ssr_mode=False,
        footer_links=["api"],
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        prevent_thread_lock=not block,
        quiet=not block,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Exit code 1 where there is nothing to serve or no port to serve on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="address to serve on")
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")), help="its port")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fusion_hub_examples_") as folder:
        try:
            launch(build_app(Path(folder)), arguments.host, arguments.port)
        except (RuntimeError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def _input(label: str) -> gr.Image:
    image = gr.Image(
        label=label,
        image_mode=None,  # "RGB" would leave 17 of the 4096 levels of a 12-bit image
        type="filepath",
        height=260,
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
    )
    # Gradio would open each upload before our function runs, and what goes wrong there reaches the user as "Error". On
    # the object and not in a subclass: for that Gradio would write a stub file beside this one.
    image.preprocess = _uploaded_path  # type: ignore[method-assign]
    return image


def _uploaded_path(payload: ImageData | None) -> str | None:
    """Where Gradio has put an upload; the file is not opened."""
    return None if payload is None else payload.path


def _slider() -> gr.ImageSlider:
    # Without format="png" it would be lossy WebP.
    return gr.ImageSlider(
        label="Before and after: drag the line",
        format="png",
        type="pil",
        interactive=False,
        max_height=420,
        buttons=["fullscreen"],
    )


def _result() -> gr.Image:
    return gr.Image(
        label="Fused image (PNG)",
        format="png",
        type="pil",
        image_mode=None,
        interactive=False,
        height=420,
        buttons=["download", "fullscreen"],
    )


def _limit() -> str:
    return f"At most {MAX_PIXELS / 1e6:.0f} megapixels are taken here: make it smaller, or use the Python package."


def _preview(image: Image.Image) -> Image.Image:
    """8-bit RGB of at most `PREVIEW_SIDE` pixels; the stored result is not touched."""
    image = _eight_bit(image)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _for_png(image: Image.Image) -> Image.Image:
    """PNG has no floating point: values in [0, 1] get its 16 bits."""
    if image.mode != "F":
        return image
    return Image.fromarray((np.asarray(image) * 65535).round().astype(np.uint16))


if __name__ == "__main__":
    sys.exit(main())
