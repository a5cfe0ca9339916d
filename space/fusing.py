"""Fusing one pair: the checkpoints, one shared pipeline for each, one fusion at a time."""

import html
import json
import re
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gradio as gr
import numpy as np
import torch
from gpu import current_device, on_gpu
from PIL import Image
from results import new_folder, preview, save_preview, save_result
from uploads import MAX_PIXELS, Refusal, in_words, open_upload, sentence

from fusion_hub import FusionPipeline, InputWarning, PretrainedInfo, list_models
from fusion_hub.data.layouts import safe_name
from fusion_hub.image import luminance
from fusion_hub.image.io import read_picture
from fusion_hub.image.luminance import ValueRange, quantize

MEDICAL = "difffusenet-medical"
RED_MAX_PIXELS = 4_000_000  # more would keep all other visitors waiting for minutes
LANE = threading.Lock()
"""Held while a network runs, so that memory holds one fusion whatever number of visitors wait."""

_loading = threading.Lock()

Left = Literal["Visible", "Infrared"]


class Fusion(NamedTuple):
    """One fused pair.

    Attributes:
        image: the fused image in the size, colour and depth of the visible one.
        visible, infrared, fused: how the page shows the three: 8-bit RGB, at most `PREVIEW_SIDE` pixels.
        seconds: from the decoded pair to the fused image.
        sources: 8-bit luminance of the visible and the infrared image, each `(H, W)` uint8, as the network got them.
        notes: what is questionable about the pair, one sentence each.
    """

    image: Image.Image
    visible: Image.Image
    infrared: Image.Image
    fused: Image.Image
    seconds: float
    sources: tuple[np.ndarray, np.ndarray]
    notes: tuple[str, ...]


class Shown(NamedTuple):
    """Files of the three pictures that the page shows, and what they are of; kept for each visitor."""

    visible: str
    infrared: str
    fused: str
    title: str

    def beside(self, left: Left) -> tuple[str, str]:
        """What stands on the left of the slider, and the fused picture."""
        return (self.visible if left == "Visible" else self.infrared), self.fused


# --- checkpoints -----------------------------------------------------------------------------------------------------


def available_models() -> list[PretrainedInfo]:
    """Checkpoints whose weights are installed, those for streets first.

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
    return sorted(models, key=lambda info: info.name == MEDICAL)


def has_steps(model: str) -> bool:
    """Whether the visitor can choose the number of steps of this model: of RED."""
    return any(info.name == model and info.pipeline_class == "REDPipeline" for info in list_models())


def step_choices() -> list[tuple[str, str]]:
    """What can be chosen where there is a choice, `(label, value)`."""
    configs = [_config(info.folder) for info in list_models() if info.available and has_steps(info.name)]
    most = max((config["num_steps"] for config in configs), default=1)
    counts = [(str(count), str(count)) for count in range(1, most + 1)]
    return [("All", "all"), ("Automatic", "auto"), *counts]


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))


def load_pipeline(name: str) -> FusionPipeline:
    """A checkpoint, ready to use; one for all visitors, kept in memory."""
    with _loading:
        return _load(name, current_device())


@lru_cache
def _load(name: str, device: str) -> FusionPipeline:
    # In float32, the precision of the published numbers: the same picture on every machine, with all of its 16 bits.
    pipeline = FusionPipeline.from_pretrained(name, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def forget_pipelines() -> None:
    """Free the loaded checkpoints."""
    _load.cache_clear()


# --- one pair --------------------------------------------------------------------------------------------------------


def fuse_pair(
    visible: str | Path | None,
    infrared: str | Path | None,
    model: str,
    steps: str = "all",
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    **options: Any,
) -> tuple[Fusion, Any]:
    """Fuse two uploads.

    Args:
        visible, infrared: where they lie.
        model: name of a checkpoint.
        steps, infrared_range, visible_range: as in `fuse`.
        options: more for the pipeline's call.

    Returns:
        The fusion, and the intermediates where `options` ask for them.

    Raises:
        Refusal: for images that cannot be fused.
    """
    pipeline = load_pipeline(model)
    count, limit = parse_steps(model, steps), RED_MAX_PIXELS if has_steps(model) else MAX_PIXELS
    ranges: dict[str, Any] = {
        "infrared_range": parse_range(infrared_range, "infrared"),
        "visible_range": parse_range(visible_range, "visible"),
    }
    sources = open_upload(visible, "visible", limit), open_upload(infrared, "infrared", limit)
    with LANE:
        try:
            first, second = read_picture(sources[0], "visible"), read_picture(sources[1], "infrared")
            visible_plane, infrared_plane, contexts = pipeline.image_processor.preprocess(first, second, **ranges)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)  # the page shows them itself
                output = pipeline(first, second, num_inference_steps=count, **ranges, **options)
            seconds = time.perf_counter() - start
        except (TypeError, ValueError, OSError, SyntaxError) as error:
            raise Refusal("These images cannot be fused", sentence(error)) from error
        # The visible image as it was read: upright, of a plain mode.
        shown: Any = pipeline.image_processor.postprocess(visible_plane, contexts)[0]
    planes = quantize(visible_plane[0, 0].numpy()), quantize(infrared_plane[0, 0].numpy())
    image, notes = output.images[0], tuple(sentence(note) for note in contexts[0].notes)
    previews = preview(shown), preview(Image.fromarray(planes[1])), preview(image)
    return Fusion(image, *previews, seconds, planes, notes), output.intermediates


def parse_steps(model: str, steps: str) -> int | Literal["auto"] | None:
    """Steps as the pipeline takes them. Models without a choice take their own number.

    Raises:
        Refusal: for steps that no model has.
    """
    if steps not in ("all", "auto") and not steps.isdecimal():
        raise Refusal("Unknown steps", "Steps are all, auto or a number.")
    if steps == "all" or not has_steps(model):
        return None
    return "auto" if steps == "auto" else int(steps)


def parse_range(text: str | None, what: str) -> ValueRange:
    """A range as the pipeline takes it: the name of a rule, or two numbers from `LOW,HIGH`. Nothing is `auto`.

    Raises:
        Refusal: for anything else.
    """
    try:
        return luminance.parse_range(re.sub(r"[,;\s]+", ",", str(text or "auto").strip()), what)
    except ValueError as error:
        words = "auto, dtype, minmax, percentile, or two rising numbers LOW,HIGH such as 2600,2800"
        raise Refusal("Unknown range", f"The {what} range is {words}.") from error


def fuse(
    visible: str | None,
    infrared: str | None,
    model: str,
    steps: str = "all",
    left: Left = "Visible",
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
) -> tuple[str, tuple[str, str], str]:
    """Fuse two registered images of one scene and one size into one.

    Args:
        visible: the image that gives color, size and depth: PNG, JPEG, TIFF, WebP, BMP, GIF, PGM, JPEG 2000 or AVIF.
            CT, PET and SPECT go in here.
        infrared: the other image, of the same size. MRI goes in here.
        model: name of a bundled checkpoint.
        steps: of a RED model: "all", a number, or "auto" for as many as change something. Others take their own.
        left: what stands on the left of the slider, "Visible" or "Infrared".
        infrared_range: what becomes black and white in the infrared image: "auto", "dtype" (full scale), "minmax",
            "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.
        keep_metadata: write position, date and camera of the visible image into the result.

    Returns:
        The fused image as a PNG file in the kind of the visible one; both pictures of the slider; a text with the time
        and with what is questionable about the pair.
    """
    return fuse_and_show(visible, infrared, model, steps, left, infrared_range, visible_range, keep_metadata)[:3]


@on_gpu(seconds=20)
@in_words()
def fuse_and_show(
    visible: str | None,
    infrared: str | None,
    model: str,
    steps: str = "all",
    left: Left = "Visible",
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
) -> tuple[str, tuple[str, str], str, Shown]:
    """As `fuse`, and what the page keeps of it for the visitor."""
    options = {"steps": steps, "infrared_range": infrared_range, "visible_range": visible_range}
    result, shown, text, notes = fuse_into(new_folder(), visible, infrared, model, keep_metadata, **options)
    for note in notes:
        gr.Warning(html.escape(note, quote=False), title="Please check", duration=20)
    return result, shown.beside(left), text, shown


def fuse_into(
    folder: Path,
    visible: str | None,
    infrared: str | None,
    model: str,
    keep_metadata: bool = False,
    **options: Any,
) -> tuple[str, Shown, str, tuple[str, ...]]:
    """Fuse a pair with the files in the given folder: the result, what is shown, the text, what is questionable."""
    fusion, _ = fuse_pair(visible, infrared, model, **options)
    names = [Path(str(path)).name for path in (visible, infrared)]
    # Whether the page can show the result itself.
    same = type(fusion.image) is Image.Image and fusion.image.mode == "RGB" and fusion.image.size == fusion.fused.size
    target = folder / f"{safe_name(Path(names[0]).stem)[:80]}_fused.png"
    with ThreadPoolExecutor() as pool:  # compressing is most of the time after the network's
        saved = pool.submit(save_result, fusion.image, target, keep_metadata)
        visible_file = pool.submit(save_preview, fusion.visible, folder / "visible.png")
        infrared_file = pool.submit(save_preview, fusion.infrared, folder / "infrared.png")
        fused_file = saved if same else pool.submit(save_preview, fusion.fused, folder / "shown.png")
    title = f"{names[0]} and {names[1]}, fused by {model}"
    shown = Shown(visible_file.result(), infrared_file.result(), fused_file.result(), title)
    width, height = fusion.image.size
    text = f"{width} x {height} pixels fused in {fusion.seconds:.2f} s by {model}."
    text += "".join(f"\n\n**Please check:** {html.escape(note, quote=False)}" for note in fusion.notes)
    return saved.result(), shown, text, fusion.notes


def compare(shown: Shown | None, left: Left) -> tuple[str, str] | None:
    """The slider for another choice of what stands on the left."""
    if shown is None:
        return None
    if not Path(shown.fused).is_file():
        raise Refusal("Too long ago", "The result was deleted after an hour: fuse the pair again.")
    return shown.beside(left)
