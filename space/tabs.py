"""The tabs Fuse, Medical and Batch: their components and events."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr
import style
from batch import MAX_PAIRS, batch
from examples import Example, fuse_in_background
from fuse import (
    MEDICAL,
    RED_MAX_PIXELS,
    Shown,
    available_models,
    fuse,
    fuse_and_show,
    has_steps,
    move_slider,
    step_choices,
)
from network import fetch_bounded
from storage import LIFETIME
from uploads import FORMATS, MAX_PIXELS

from fusion_hub.image.io import EXTENSIONS

GPU: dict[str, Any] = {"concurrency_id": "fusion", "concurrency_limit": 1}  # one network at a time
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
RANGES = [
    ("Automatic", "auto"),
    ("Full scale", "dtype"),
    ("Minimum to maximum", "minmax"),
    ("0.5th to 99.5th percentile", "percentile"),
]
COLORS = [("Fused by the network", "fused"), ("Overlay with a scale", "overlay")]
STREET_NAMES, MEDICAL_NAMES = ("Visible", "Infrared"), ("CT, PET, SPECT", "MRI")


class PairTab(NamedTuple):
    """The components of a tab that fuses, for the tabs in `views.py`: of `pair`, both images and the model."""

    pair: list[Any]
    ranges: Sequence[gr.Dropdown]
    steps: Any
    shown: gr.State  # None while nothing is shown
    fused: Sequence[Callable[..., Any]]  # `.success` of each event that fuses


def pair_tab(rows: Sequence[Example], medical: bool = False) -> PairTab:
    """A slider with a result, the inputs and options, all three pictures and the download."""
    prefix, names = "", STREET_NAMES
    if medical:
        prefix, names = "medical_", MEDICAL_NAMES
        gr.Markdown(style.MEDICAL)
    with gr.Row():
        with gr.Column(scale=6, min_width=300):
            # A shown label would hide a corner of the picture; the default format is lossy WebP.
            look: dict[str, Any] = {"show_label": False, "format": "png", "type": "filepath", "interactive": False}
            look |= {"max_height": 420, "buttons": ["fullscreen"], "elem_id": f"{prefix}slider"}
            slider = gr.ImageSlider(label="Before and after", **look)
            sides, label = [(names[0], "Visible"), (names[1], "Infrared")], "Drag the line. Left picture:"
            left = gr.Radio(sides, value="Visible", label=label, elem_id=f"{prefix}left")
            time = gr.Markdown("", label="Seconds", elem_id=f"{prefix}time")
            download = gr.DownloadButton("Download the fused PNG", elem_id=f"{prefix}download")
        with gr.Column(scale=5, min_width=300):
            strip = gr.Column()
            gr.Markdown(style.OWN_PAIR, elem_classes="hint")
            with gr.Row():
                visible = picture_input(names[0], f"{prefix}visible")
                infrared = picture_input(names[1], f"{prefix}infrared")
            model: Any = gr.State(MEDICAL) if medical else model_choice("model")
            steps: Any = gr.State("all") if medical else step_choice(model)
            look = {"visible": medical, "elem_id": f"{prefix}colors"}
            colors = gr.Radio(COLORS, value="fused", label="Colors", info=style.COLORS, **look)
            *ranges, metadata = advanced(prefix, names)
            button = gr.Button("Fuse", variant="primary", size="lg", elem_id=f"{prefix}fuse")
    gallery = pictures(f"{prefix}gallery", "The scan, the MRI, fused" if medical else "Visible, infrared, fused")
    if not medical:
        gr.Markdown(style.NOTES.format(formats=FORMATS, megapixels=MAX_PIXELS / 1e6, red=RED_MAX_PIXELS / 1e6))
    shown = gr.State(None, time_to_live=LIFETIME)

    def gallery_items(shown: Shown | None) -> list[tuple[str, str]]:
        return list(zip(shown[:3], (*names, shown.result), strict=True)) if shown else []

    pair = [visible, infrared, model]
    with strip:
        examples = example_buttons(rows, pair[:2] if medical else pair)
    inputs, outputs = [*pair, steps, left, *ranges, metadata, colors], [download, slider, time, shown]
    if not medical:
        # For programs, without the state: Gradio fails when an assistant calls an event that has one.
        gr.on([], fuse, inputs, [download, slider, time], api_name="fuse", **GPU)
    starts, options = [button.click, *examples], {"show_progress_on": slider, **GPU, **PRIVATE}
    events = [start(fuse_and_show, inputs, outputs, **options) for start in starts]
    events += first_example(rows, [visible, infrared, *outputs])
    for event in events:
        event.success(gallery_items, shown, gallery, **QUIET)
    left.change(move_slider, [shown, left], slider, **QUIET)
    return PairTab(pair, ranges, steps, shown, [event.success for event in events])


def example_buttons(rows: Sequence[Example], inputs: list[Any]) -> list[Callable[..., Any]]:
    """A button for each example that fills the inputs; returns `.then` of each event.

    Not `gr.Examples`: it makes the inputs anew for each visitor, and those open uploads before our functions do.
    """
    gr.Markdown("Examples, generated by this project: click one to fuse it", elem_classes="hint")
    with gr.Row(elem_classes="examples"):
        clicks = [gr.Button(row.label, size="sm", min_width=80).click for row in rows]
    values = [[row.visible, row.infrared, row.model][: len(inputs)] for row in rows]
    return [click(lambda it=it: it, None, inputs, **QUIET).then for click, it in zip(clicks, values, strict=True)]


def first_example(rows: Sequence[Example], outputs: list[Any]) -> list[Any]:
    """Show each visitor the first example, fused; returns the event, if there is an example.

    Not as values of the components: the server would start later, and values of the inputs would be defaults of the
    API, so that a program that forgets an image would get the example fused.
    """
    if not rows:
        return []
    future = fuse_in_background(rows[0])

    def load() -> Any:
        return [gr.skip()] * len(outputs) if future.exception() else future.result()

    # Without triggers it runs when the page is opened, outside the queue.
    return [gr.on(None, load, None, outputs, queue=False, **QUIET)]


def batch_tab() -> None:
    """Many pairs in, a zip file out."""
    gr.Markdown(style.BATCH.format(pairs=MAX_PAIRS))
    kinds: dict[str, Any] = {"file_count": "multiple", "file_types": ["image", *sorted(EXTENSIONS), ".zip"]}
    files = gr.File(label="Images or one zip file", height=180, elem_id="batch_files", **kinds)
    fetch_bounded(files)
    model = model_choice("batch_model")
    options = advanced("batch_", STREET_NAMES)
    with gr.Row():
        button = gr.Button("Fuse all", variant="primary", elem_id="batch_run", elem_classes="action")
        stop = gr.Button("Cancel", variant="stop", elem_id="batch_cancel", elem_classes="action")
    result = gr.File(label="Fused images", interactive=False, height=120, elem_id="batch_zip")
    # Not a tool for assistants, to which Gradio cannot describe lists of files.
    setattr(batch, "_mcp_type", "none")  # noqa: B010  # mypy knows no such attribute
    lane: dict[str, Any] = {"concurrency_id": "batch", "concurrency_limit": 1}
    event = button.click(batch, [files, model, *options], result, api_name="batch", **lane)
    # With an output of its own, or the page would show the canceled run as an error.
    stop.click(lambda: None, None, result, cancels=event, **QUIET)


def picture_input(label: str, elem_id: str) -> gr.Image:
    """An upload that reaches our functions as a path, unopened."""
    image = gr.Image(
        label=label,
        image_mode=None,  # "RGB" would keep 17 of the 4096 levels of a 12-bit image
        type="filepath",
        height=230,
        min_width=150,
        sources=["upload", "clipboard"],
        buttons=[],  # on a phone they would hide the label; the gallery shows the picture larger
        elem_id=elem_id,
    )
    # Gradio would open each upload before our function runs, and show errors there as "Error". Set on the object, since
    # Gradio would write a stub file beside this one for a subclass. It holds as long as no event returns gr.update for
    # this component, for which Gradio makes it anew.
    image.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
    fetch_bounded(image)
    return image


def model_choice(elem_id: str) -> gr.Radio:
    """All installed checkpoints."""
    models = available_models()
    paces = ["slower" if has_steps(info.name) else "fast" for info in models]
    choices = [(f"{info.name}: {info.modality}, {pace}", info.name) for info, pace in zip(models, paces, strict=True)]
    return gr.Radio(choices, value=models[0].name, label="Model", elem_id=elem_id)


def step_choice(model: gr.Radio) -> gr.Radio:
    """The steps of the chosen model, shown where it has a choice."""
    label, visible = "Diffusion steps: fewer is faster", has_steps(str(model.value))
    steps = gr.Radio(step_choices(), value="all", label=label, visible=visible, elem_id="steps")
    model.change(lambda name: gr.update(visible=has_steps(name)), model, steps, **QUIET)
    return steps


def advanced(prefix: str, names: tuple[str, str]) -> tuple[gr.Dropdown, gr.Dropdown, gr.Checkbox]:
    """The ranges of the second and the first image, and whether to keep the metadata of the first."""
    with gr.Accordion("Advanced: ranges and metadata", open=False, elem_id=f"{prefix}advanced"):
        gr.Markdown(style.ADVANCED, elem_classes="hint")
        with gr.Row():
            options: dict[str, Any] = {"value": "auto", "allow_custom_value": True, "min_width": 150}
            infrared = gr.Dropdown(RANGES, label=f"{names[1]} range", elem_id=f"{prefix}infrared_range", **options)
            visible = gr.Dropdown(RANGES, label=f"{names[0]} range", elem_id=f"{prefix}visible_range", **options)
        label = "Keep location, date and camera metadata"
        metadata = gr.Checkbox(False, label=label, elem_id=f"{prefix}keep_metadata")
    return infrared, visible, metadata


def pictures(elem_id: str, label: str, columns: int = 3, visible: bool = True) -> gr.Gallery:
    """Pictures side by side."""
    look: dict[str, Any] = {"show_label": False, "format": "png", "columns": columns, "height": "auto"}
    look |= {"interactive": False, "buttons": ["fullscreen", "download"], "visible": visible}
    return gr.Gallery(label=label, elem_id=elem_id, elem_classes="pictures", **look)
