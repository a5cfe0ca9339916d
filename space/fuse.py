"""Fusion of one pair: the checkpoints, the shared pipelines, the result and the pictures that the page shows."""

import html
import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gradio as gr
import numpy as np
import stopping
import torch
from gpu import current_device, on_gpu
from PIL import Image
from stopping import make_stoppable
from storage import new_folder
from uploads import MAX_PIXELS, Refusal, error_messages, open_upload, sentence

from fusion_hub import FusionPipeline, InputWarning, PretrainedInfo, list_models
from fusion_hub.data.layouts import safe_name
from fusion_hub.image import ColorScale, Picture, luminance, overlay, with_legend
from fusion_hub.image.colors import scan_values
from fusion_hub.image.io import read_picture, save_image
from fusion_hub.image.luminance import ValueRange, quantize
from fusion_hub.rigs import Rig
from fusion_hub.rigs.registration import registration_by

MEDICAL = "difffusenet-medical"
RED_MAX_PIXELS = 4_000_000  # a larger pair would keep all other visitors waiting for minutes
PREVIEW_SIDE = 1280
TOO_LONG_AGO = "Too long ago", "The result was deleted after an hour: fuse the pair again."
LANE = threading.Lock()  # held while a network runs, so that memory holds one fusion however many visitors wait
_loading = threading.Lock()
Left = Literal["Visible", "Infrared", "Edges"]
Colors = Literal["fused", "overlay"]


class Fusion(NamedTuple):
    """One fused pair; `visible`, `infrared`, `fused` are for the page: 8-bit RGB of at most `PREVIEW_SIDE` pixels."""

    image: Image.Image  # in the size, color and depth of the visible one
    visible: Image.Image
    infrared: Image.Image
    fused: Image.Image
    seconds: float  # from the decoded pair to the fused image
    sources: tuple[np.ndarray, np.ndarray]  # luminance as the network got it, visible first, each (H, W) uint8
    scan: np.ndarray | None  # of a medical pair, for the overlay
    notes: tuple[str, ...]  # warnings about the pair, one sentence each


class Shown(NamedTuple):
    """A fused pair as the page shows it; kept for each visitor."""

    visible: str  # files of the three pictures
    infrared: str
    fused: str
    result: str  # the file to download
    text: str  # beside the result
    title: str
    call: tuple[str, ...]  # visible, infrared, model, infrared_range, visible_range, steps: what `analysis` repeats
    notes: tuple[str, ...]  # warnings about the pair
    colors: Colors = "fused"
    other: "Shown | None" = None  # a medical pair in the other colors
    opening: bool = False  # the example with which the page opens
    edges: tuple[str, str] | None = None  # of a pair that was aligned, before and after
    rig: str = ""  # the file of its alignment

    def slider(self, left: Left) -> tuple[str, str]:
        """The left picture of the slider, and the fused one; or the edges before and after the alignment."""
        if left == "Edges" and self.edges:
            return self.edges
        return (self.visible if left == "Visible" else self.infrared), self.fused

    def introduced(self, sentence: str) -> "Shown":
        """With a sentence before the text."""
        other = self.other and self.other._replace(text=f"{sentence} {self.other.text}")
        return self._replace(text=f"{sentence} {self.text}", other=other)


def available_models() -> list[PretrainedInfo]:
    """Checkpoints whose weights are installed, those for streets first; raises a `RuntimeError` if there is none."""
    if models := [info for info in list_models() if info.available]:
        return sorted(models, key=lambda info: info.name == MEDICAL)
    names = ", ".join(info.name for info in list_models())
    raise RuntimeError(
        f"no checkpoint is installed (known: {names}): install fusion-hub again with its bundled weights, or train one "
        "and put its pipeline folder under fusion_hub/pretrained/"
    )


def has_steps(model: str) -> bool:
    """Whether visitors can choose the number of steps: of RED models."""
    return any(info.name == model and info.pipeline_class == "REDPipeline" for info in list_models())


def quick_model() -> str:
    """The checkpoint for videos and radiometric files: the first one for streets that needs no steps."""
    names = [info.name for info in available_models()]
    return next((name for name in names if name != MEDICAL and not has_steps(name)), names[0])


def step_choices() -> list[tuple[str, str]]:
    """`(label, value)` of each choice of steps."""
    names = [info.name for info in list_models() if info.available and has_steps(info.name)]
    most = max(map(all_steps, names), default=1)
    named = [("Default", "default"), ("All", "all"), ("Automatic", "auto")]
    return [*named, *((str(count), str(count)) for count in range(1, most + 1))]


def all_steps(model: str) -> int:
    """The steps that a RED model was trained with."""
    folder = next(info.folder for info in list_models() if info.name == model)
    return int(json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))["num_steps"])


def load_pipeline(name: str) -> FusionPipeline:
    """A checkpoint, ready to use; one for all visitors, kept in memory until `load_once.cache_clear()`."""
    with _loading:
        return load_once(name, current_device())


@lru_cache
def load_once(name: str, device: str) -> FusionPipeline:
    # float32 is the precision of the published numbers and keeps 16 bits.
    pipeline = FusionPipeline.from_pretrained(name, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    make_stoppable(pipeline)
    return pipeline.to(device)


def check_model(model: str) -> None:
    """Raise a `Refusal` that names the models of this server if it is none of them."""
    if model not in (names := [info.name for info in available_models()]):
        raise Refusal("Unknown model", f"There is no model {model!r}: choose {' or '.join(names)}.")


def fuse_pair(
    visible: str | Path | None,
    infrared: str | Path | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    *,
    steps: str = "default",
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> tuple[Fusion, Any]:
    """Fuse two uploads; arguments as in `fuse`.

    Args:
        max_pixels: limit of each image; RED models have a lower one.
        options: of `fuse_pictures`.

    Returns, raises: as `fuse_pictures`.
    """
    check_model(model)
    limit = min(max_pixels, RED_MAX_PIXELS) if has_steps(model) else max_pixels
    ranges: dict[str, Any] = {
        "infrared_range": parse_range(infrared_range, "infrared"),
        "visible_range": parse_range(visible_range, "visible"),
    }
    count = parse_steps(model, steps)
    sources = open_upload(visible, "visible", limit), open_upload(infrared, "infrared", limit)

    def read() -> Iterator[Picture]:
        yield read_picture(sources[0], "visible", role="visible")
        yield read_picture(sources[1], "infrared", role="infrared")

    return fuse_pictures(model, read, num_inference_steps=count, **ranges, **options)


def fuse_pictures(
    model: str,
    read: Callable[[], Iterable[Picture]],
    *,
    rig: Rig | None = None,
    infrared_range: ValueRange = "auto",
    visible_range: ValueRange = "auto",
    **options: Any,
) -> tuple[Fusion, Any]:
    """Fuse the visible and the infrared picture that `read` gives; it is called as soon as the network is free.

    Args:
        rig: how the infrared looks into the visible one; None for pictures that match.
        options: more arguments of the pipeline's call.

    Returns:
        The fusion, and the intermediates where `options` ask for them.

    Raises:
        Refusal: the images cannot be fused.
    """
    ranges: dict[str, Any] = {"infrared_range": infrared_range, "visible_range": visible_range}
    pipeline = load_pipeline(model)
    with LANE:
        stopping.check()
        try:
            first, second = read()
            if rig is None and first.size != second.size:
                sizes = ["{1}x{0}".format(*picture.size) for picture in (first, second)]
                advice = "resample one of them" if model == MEDICAL else "align them on the tab Two cameras"
                text = f"Visible is {sizes[0]} but infrared is {sizes[1]} (width x height): {advice}."
                raise Refusal("Not the same size", text)
            register, processor = registration_by(rig), pipeline.image_processor
            visible_plane, infrared_plane, contexts = processor.preprocess(first, second, register=register, **ranges)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)  # the page shows them itself
                output = pipeline(first, second, rig=rig, **ranges, **options)
            seconds = time.perf_counter() - start
        except (TypeError, ValueError, OSError, SyntaxError) as error:
            raise Refusal("These images cannot be fused", sentence(error)) from error
        # The visible image as it was read: upright, of a plain mode.
        shown: Any = processor.postprocess(visible_plane, contexts)[0]
    planes = quantize(visible_plane[0, 0].numpy()), quantize(infrared_plane[0, 0].numpy())
    scan = scan_values(visible_plane[0, 0].numpy(), contexts[0]) if model == MEDICAL else None
    image, notes = output.images[0], tuple(sentence(note) for note in contexts[0].notes)
    warm = planes[1]
    if rig is not None:  # black where the infrared camera sees nothing
        warm = np.where(rig.at(first.size, second.size).mask, warm, np.uint8(0))
    previews = preview(shown), preview(Image.fromarray(warm)), preview(image)
    return Fusion(image, *previews, seconds, planes, scan, notes), output.intermediates


def parse_steps(model: str, steps: str) -> int | Literal["auto"] | None:
    """Steps as the pipeline takes them; None for the model's own. Raises `Refusal` for other values."""
    if not isinstance(steps, str) or (steps not in ("default", "all", "auto") and not steps.isdecimal()):
        raise Refusal("Unknown steps", "Steps are default, all, auto or a number.")
    if steps == "default" or not has_steps(model):
        return None
    if steps == "all":
        return all_steps(model)
    return "auto" if steps == "auto" else int(steps)


def parse_range(text: str | None, what: str) -> ValueRange:
    """A range as the pipeline takes it: a rule, or two numbers from `LOW,HIGH`. Empty is `auto`, others a `Refusal`."""
    try:
        return luminance.parse_range(re.sub(r"[,;\s]+", ",", str(text or "auto").strip()), what)
    except ValueError as error:
        choices = "auto, dtype, minmax, percentile, or two rising numbers LOW,HIGH such as 2600,2800"
        raise Refusal("Unknown range", f"The {what} range is {choices}.") from error


def fuse(
    visible: str | None,
    infrared: str | None,
    model: str,
    steps: str = "default",
    left: Left = "Visible",
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
    colors: Colors = "fused",
) -> tuple[str, tuple[str, str], str]:
    """Fuse two registered images of one scene and one size into one.

    Args:
        visible: the image that gives color, size and depth: PNG, JPEG, TIFF, WebP, BMP, GIF, PGM, JPEG 2000 or AVIF.
            For medical pairs: CT, PET or SPECT.
        infrared: the other image, of the same size. For medical pairs: MRI.
        model: name of a bundled checkpoint.
        steps: of RED models: "default", "all", a number, or "auto" to stop once more steps change nothing. Other models
            ignore it.
        left: the left picture of the slider, "Visible" or "Infrared".
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.
        keep_metadata: write position, date and camera of the visible image into the result.
        colors: of medical pairs: "fused" by the network, or "overlay": the MRI in gray and, where there is uptake, the
            scan in its own colors, with their scale on the right.

    Returns:
        The fused image as a PNG file with the color and depth of the visible one; both pictures of the slider; a text
        with the time and with warnings about the pair.
    """
    options = infrared_range, visible_range, keep_metadata, colors
    shown = fuse_and_show(visible, infrared, model, steps, left, *options)
    return shown.result, shown.slider(left), shown.text


@on_gpu(seconds=20)
@error_messages()
def fuse_and_show(
    visible: str | None, infrared: str | None, model: str, steps: str = "default", left: Left = "Visible", *options: Any
) -> Shown:
    """`fuse`, as the page keeps it for the visitor; `options` are the last arguments of `fuse`."""
    if left not in ("Visible", "Infrared"):
        raise Refusal("Unknown picture", f"The left picture is Visible or Infrared, not {left!r}.")
    shown = fuse_into(new_folder(), visible, infrared, model, steps, *options)
    for note in shown.notes:
        gr.Warning(html.escape(note, quote=False), title="Please check", duration=20)
    return shown


def fuse_into(
    folder: Path,
    visible: str | None,
    infrared: str | None,
    model: str,
    steps: str = "default",
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
    colors: Colors = "fused",
    rig: Rig | None = None,
) -> Shown:
    """Fuse a pair into files of the given folder, a medical one in both colors."""
    if colors not in ("fused", "overlay") or (colors == "overlay" and model != MEDICAL):
        raise Refusal("Unknown colors", f"Colors are fused or, with {MEDICAL}, overlay, not {colors!r}.")
    fusion, _ = fuse_pair(visible, infrared, model, infrared_range, visible_range, steps=steps, rig=rig)
    names = [Path(str(path)).name for path in (visible, infrared)]
    stem, title = safe_name(Path(names[0]).stem)[:80], f"{names[0]} and {names[1]}, fused by {model}"
    call = (str(visible), str(infrared), model, str(infrared_range), str(visible_range), steps)
    warned = "".join(f"\n\n**Please check:** {html.escape(note, quote=False)}" for note in fusion.notes)

    def save(fusion: Fusion, own: Colors, text: str) -> Shown:
        place = folder / own
        place.mkdir(exist_ok=True)
        # Whether the page can show the result itself.
        plain = type(fusion.image) is Image.Image and fusion.image.mode == "RGB"
        same = plain and fusion.image.size == fusion.fused.size
        with ThreadPoolExecutor() as pool:  # after the network, compression takes most of the time
            saved = pool.submit(save_result, fusion.image, folder / f"{stem}_{own}.png", keep_metadata)
            visible_file = pool.submit(save_preview, fusion.visible, place / "visible.png")
            infrared_file = pool.submit(save_preview, fusion.infrared, place / "infrared.png")
            fused_file = saved if same else pool.submit(save_preview, fusion.fused, place / "shown.png")
        shown, files = fused_file.result(), (visible_file.result(), infrared_file.result())
        return Shown(*files, shown, saved.result(), text + warned, title, call, fusion.notes, own)

    size = "{} x {} pixels".format(*fusion.image.size)
    shown = save(fusion, "fused", f"{size} fused in {fusion.seconds:.2f} s by {model}.")
    if model == MEDICAL:
        other = save(lay_over(fusion), "overlay", f"{size}: the colors of the scan over the MRI, with their scale.")
        shown = shown._replace(other=other) if colors == "fused" else other._replace(other=shown)
    return shown


def lay_over(fusion: Fusion) -> Fusion:
    """The scan over the MRI in place of the fused image, and every picture with a strip for the legend."""
    assert fusion.scan is not None
    image, scale = overlay(fusion.scan, fusion.sources[1])
    own = scale if scale.limits is None else None  # a gray scan is not shown in the colors of the legend

    def wider(picture: Image.Image, legend: ColorScale | None) -> Image.Image:
        return Image.fromarray(with_legend(np.asarray(picture), legend))

    return fusion._replace(
        image=wider(Image.fromarray(image), scale),
        visible=wider(fusion.visible, own),
        infrared=wider(fusion.infrared, None),
        fused=wider(preview(Image.fromarray(image)), scale),
    )


def move_slider(shown: Shown | None, left: Left) -> tuple[str, str] | None:
    """The slider with another picture on the left."""
    if shown and not Path(shown.fused).is_file():
        raise Refusal(*TOO_LONG_AGO)
    return shown and shown.slider(left)


def as_png(image: Image.Image) -> Image.Image:
    """The image as a PNG can hold it: floating-point values in [0, 1] become 16 bits."""
    if image.mode == "F":
        info, image = image.info, Image.fromarray(quantize(np.asarray(image), np.uint16))
        image.info.update(info)
    return image


def save_result(image: Image.Image, path: Path, keep_metadata: bool = False) -> str:
    """Save the fused image at full quality as PNG; without camera, date and position unless they are to be kept."""
    return str(save_image(as_png(image), path, metadata=keep_metadata))


def save_preview(image: Image.Image, path: Path) -> str:
    """Save a picture for the page as PNG, quickly."""
    image.save(path, "PNG", compress_level=1)
    return str(path)


def preview(image: Image.Image, side: int = PREVIEW_SIDE) -> Image.Image:
    """A copy in 8-bit RGB of at most `side` pixels."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(quantize(np.asarray(image)))
    image = image.convert("RGB") if image.mode != "RGB" else image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
