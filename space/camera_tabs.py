"""The tab Two cameras: a pair that is aligned first, a radiometric file, and a short clip."""

from collections.abc import Iterator
from typing import Any

import clips
import gradio as gr
import style
from cameras import read_thermal, temperatures
from examples import FOLDER
from network import fetch_bounded
from pairs import KEEP, NOW, example_buttons, find_example, pair_tab
from stopping import stoppable
from tabs import GPU, PRIVATE, QUIET, pictures, refusal

from fusion_hub.data import SamplePair
from fusion_hub.image import PALETTES

# In the browser, as in `pairs.py`: the first own file takes the example and its result away, and no result comes late.
FORGET = """(...boxes) =>
    [...boxes.map((file) => (file?.path?.includes("FOLDER") ? null : KEEP)), null, null, "", ""]""".replace(
    "FOLDER", FOLDER
).replace("KEEP", KEEP)
SETTLE = """(first, second, ...outcome) => (first && second ? outcome : [null, null, "", outcome.at(-1)])"""
LANE: dict[str, Any] = {"concurrency_id": "batch", "concurrency_limit": 1}  # with batches, one at a time


def cameras_tab(pair: SamplePair, clip: SamplePair) -> None:
    """Three kinds of material, each in a tab of its own, with the examples of a pair and of a clip."""
    gr.Markdown(style.TWO_CAMERAS)
    with gr.Tabs(elem_id="camera_kinds"):
        with gr.Tab("Two pictures", elem_id="tab_pictures"):
            pair_tab([pair], "cameras")
        with gr.Tab("FLIR file", elem_id="tab_flir"):
            _radiometric()
        with gr.Tab("Clip", elem_id="tab_clip"):
            _clip(clip)


def _radiometric() -> None:
    gr.Markdown(style.RADIOMETRIC)
    with gr.Row(elem_id="flir_parts"):
        with gr.Column(scale=6, min_width=300):
            look: dict[str, Any] = {
                "show_label": False,
                "format": "png",
                "interactive": False,
                "buttons": ["fullscreen"],
            }
            picture = gr.Image(label="Temperatures", type="filepath", elem_id="flir_picture", **look)
            message = gr.HTML("", label="Message", padding=False, elem_id="flir_message")
            text = gr.Markdown("", label="Temperatures", elem_id="flir_text")
            with gr.Row():
                values = gr.DownloadButton("Temperatures (TIFF, °C)", elem_id="flir_values", visible=False)
                fused = gr.DownloadButton("Fused PNG", elem_id="flir_fused", visible=False)
        with gr.Column(scale=5, min_width=300):
            file = gr.File(label="Radiometric JPEG or FFF", height=150, elem_id="flir_file")
            fetch_bounded(file)
            palette = gr.Radio(list(PALETTES), value="iron", label="Colors", elem_id="flir_palette")
            with gr.Row():
                info = "Empty: the file's own"
                one: dict[str, Any] = {"info": info, "min_width": 120, "max_lines": 1}
                emissivity = gr.Textbox("", label="Emissivity", elem_id="flir_emissivity", **one)
                distance = gr.Textbox("", label="Distance, m", elem_id="flir_distance", **one)
            hint = "Such as >37C, <0C or 20..25C"
            highlight = gr.Textbox("", label="Highlight", info=hint, max_lines=1, elem_id="flir_highlight")
            button = gr.Button("Show temperatures", variant="primary", size="lg", elem_id="flir_run")
    gallery = pictures("flir_gallery", "Visible, infrared, fused")
    inputs = [file, palette, emissivity, distance, highlight]
    gr.on([], stoppable(temperatures), inputs, [picture, values, fused, gallery, text], api_name="temperatures", **GPU)

    def show(*given: Any) -> list[Any]:
        try:
            found = read_thermal(*given)
        except gr.Error as error:
            return [*forget()[:-1], refusal(error)]
        downloads = (gr.update(value=path, visible=path is not None) for path in (found.values, found.fused))
        return [found.picture, *downloads, found.pictures, found.text, ""]

    outputs = [picture, values, fused, gallery, text, message]
    run = stoppable(show)
    runs: list[Any] = [
        start(run, inputs, outputs, show_progress_on=picture, **GPU, **PRIVATE)
        for start in (button.click, file.upload, palette.input)
    ]

    def forget() -> list[Any]:
        return [None, gr.update(visible=False), gr.update(visible=False), [], "", ""]

    file.clear(forget, None, outputs, cancels=runs, **QUIET)


def _clip(example: SamplePair) -> None:
    height, width = 1024, clips.MAX_FRAME // 1024
    limits = {"frames": clips.MAX_FRAMES, "width": width, "height": height, "megapixels": clips.MAX_PIXELS / 1e6}
    gr.Markdown(style.CLIP.format(**limits))
    [clicked] = example_buttons([example])
    with gr.Row():
        files = [
            gr.File(label=f"{name} clip", height=130, elem_id=f"clip_{name.lower()}")
            for name in ("Visible", "Infrared")
        ]
    for file in files:
        fetch_bounded(file)
    align = gr.Checkbox(
        True, label="Align the cameras first", info="Not for frames that match already", elem_id="clip_align"
    )
    with gr.Row():
        button = gr.Button("Fuse the clip", variant="primary", elem_id="clip_run", elem_classes="action")
        stop = gr.Button("Cancel", variant="stop", elem_id="clip_cancel", elem_classes="action")
    message = gr.HTML("", label="Message", padding=False, elem_id="clip_message")
    look: dict[str, Any] = {"interactive": False, "min_width": 280, "loop": True, "buttons": ["download"]}
    with gr.Row(elem_id="clip_videos"):
        before = gr.Video(label="Before: visible", elem_id="clip_before", **look)
        after = gr.Video(label="After: fused", elem_id="clip_after", **look)
    text = gr.Markdown("", label="Seconds", elem_id="clip_text")
    inputs = [*files, align]
    gr.on([], stoppable(clips.fuse_clip), inputs, [before, after, text], api_name="fuse_clip", **LANE)

    def run(progress: gr.Progress = gr.Progress(), *given: Any) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        yield None, None, "", ""  # nothing of the clip before
        try:
            find_example([example], *given[:2])
            for result in clips.fuse_all(progress, *given):
                yield (*result, "")
        except gr.Error as error:
            yield None, None, "", refusal(error)

    outputs = [before, after, text, message]
    event = button.click(stoppable(run), inputs, outputs, show_progress_on=after, **LANE, **PRIVATE)
    filled = clicked(lambda: [str(example.visible), str(example.infrared), False], None, inputs, **NOW)
    started = filled.then(stoppable(run), inputs, outputs, show_progress_on=after, **LANE, **PRIVATE)
    for ended in (event, started):
        ended.success(None, [*files, *outputs], outputs, js=SETTLE, **QUIET)
    stop.click(lambda: (None, None, "", ""), None, outputs, cancels=[event, started], **QUIET)
    gr.on([file.upload for file in files], None, files, [*files, *outputs], js=FORGET, **QUIET)
    gr.on([file.upload for file in files], lambda: None, None, None, cancels=[event, started], **NOW)
