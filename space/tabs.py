"""The tabs of the page: their parts, and what happens when one is used."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
import style
from batch import MAX_PAIRS, batch
from examples import Row, draw
from explaining import explain
from fusing import (
    MEDICAL,
    RED_MAX_PIXELS,
    Shown,
    available_models,
    compare,
    fuse,
    fuse_and_show,
    has_steps,
    step_choices,
)
from gradio.data_classes import ImageData
from measuring import HEADERS, measure
from network import fetch_bounded
from opening import prepare
from previews import detect
from storage import LIFETIME
from uploads import FORMATS, MAX_PIXELS

from fusion_hub.image.io import EXTENSIONS

GPU: dict[str, Any] = {"concurrency_id": "fusion", "concurrency_limit": 1}  # one network at a time
RANGES = [
    ("Automatic", "auto"),
    ("Full scale", "dtype"),
    ("Smallest to largest value", "minmax"),
    ("Percentiles 0.5 to 99.5", "percentile"),
]
PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class Street(NamedTuple):
    """The parts of the tab "Fuse" that the other tabs use."""

    visible: gr.Image
    infrared: gr.Image
    model: gr.Radio
    ranges: Sequence[gr.Dropdown]
    shown: gr.State
    fused: Sequence[Callable[..., Any]]  # `.success` of each event that fuses

    @property
    def pair(self) -> list[Any]:
        """The inputs of everything that is done with a pair."""
        return [self.visible, self.infrared, self.model]

    @property
    def changed(self) -> list[Any]:
        """The events in which a visitor chooses another image, model or range."""
        return [part.input for part in (*self.pair, *self.ranges)]


# --- Fuse ------------------------------------------------------------------------------------------------------------


def fuse_tab(rows: Sequence[Row]) -> Street:
    """The slider with a result, inputs, the model and its steps, all three pictures and the download."""
    models = available_models()
    with gr.Row():
        with gr.Column(scale=6, min_width=300):
            slider = before_after("slider")
            left = gr.Radio(
                ["Visible", "Infrared"], value="Visible", label="Drag the line. On its left:", elem_id="left"
            )
            time = gr.Markdown("", label="Seconds", elem_id="time")
            download = download_button("download")
        with gr.Column(scale=5, min_width=300):
            strip = gr.Column()
            gr.Markdown(style.OWN_PAIR, elem_classes="hint")
            with gr.Row():
                visible = picture_input("Visible", "visible")
                infrared = picture_input("Infrared", "infrared")
            model = model_choice("model")
            steps = gr.Radio(
                step_choices(),
                value="all",
                label="Steps of the diffusion: fewer are quicker",
                visible=has_steps(models[0].name),
                elem_id="steps",
            )
            *ranges, metadata = advanced("", ("Visible", "Infrared"))
            button = gr.Button("Fuse", variant="primary", size="lg", elem_id="fuse")
    gallery = pictures("gallery", "Visible, infrared, fused")
    gr.Markdown(style.NOTES.format(formats=FORMATS, megapixels=MAX_PIXELS / 1e6, red=RED_MAX_PIXELS / 1e6))
    state = gr.State(None, time_to_live=LIFETIME)
    with strip:
        examples = example_strip(rows, [visible, infrared, model])

    inputs, outputs = [visible, infrared, model, steps, left, *ranges, metadata], [download, slider, time, state]
    # For programs, without the state: an assistant's call of an event that has one ends in an error of Gradio's.
    gr.on([], fuse, inputs, [download, slider, time], api_name="fuse", **GPU)
    clicked = button.click(fuse_and_show, inputs, outputs, show_progress_on=slider, **GPU, **PRIVATE)
    chosen = [then(fuse_and_show, inputs, outputs, show_progress_on=slider, **GPU, **PRIVATE) for then in examples]
    opened = open_with(rows, [visible, infrared, *outputs])
    fused = [event.success for event in (clicked, *chosen, *opened)]
    for success in fused:
        success(views, state, gallery, show_progress="hidden", **PRIVATE)
    left.change(compare, [state, left], slider, show_progress="hidden", **PRIVATE)
    model.change(offer_steps, model, steps, show_progress="hidden", **PRIVATE)
    return Street(visible, infrared, model, ranges, state, fused)


def views(shown: Shown | None, names: tuple[str, str] = ("Visible", "Infrared")) -> list[tuple[str, str]]:
    """The gallery of the three pictures."""
    if shown is None:
        return []
    return [(shown.visible, names[0]), (shown.infrared, names[1]), (shown.fused, "Fused")]


def offer_steps(model: str) -> Any:
    """Show the choice of steps where the model has one."""
    return gr.update(visible=has_steps(model))


# --- what is done with that pair -------------------------------------------------------------------------------------


def more_tab(street: Street) -> None:
    """Detections and segmentations in all three pictures."""
    gr.Markdown(style.MORE)
    hint = gr.Markdown(style.HINT)
    with gr.Row(equal_height=True):
        threshold = gr.Slider(
            0.1, 0.9, value=0.3, step=0.05, label="Threshold: the least score that counts", elem_id="more_threshold"
        )
        button = gr.Button("See more", variant="primary", elem_id="more_run", elem_classes="action")
    summary = gr.Markdown("", elem_id="more_summary")
    gallery = pictures("more_gallery", "Detections and classes")
    inputs = [*street.pair, threshold, *street.ranges]
    button.click(detect, inputs, [gallery, summary], api_name="detect", **GPU)
    threshold.release(detect_again, [gallery, *inputs], [gallery, summary], **GPU, **PRIVATE)
    forget(street, hint, [gallery, summary], [None, ""])


def detect_again(shown: Any, *inputs: Any) -> tuple[Any, Any]:
    """For another threshold, where detections are shown already."""
    return detect(*inputs) if shown else (gr.skip(), gr.skip())


def measure_tab(street: Street) -> None:
    """Metrics and guard rails."""
    gr.Markdown(style.MEASURE)
    hint = gr.Markdown(style.HINT)
    button = gr.Button("Measure", variant="primary", elem_id="measure_run", elem_classes="action")
    notes = gr.Markdown("", elem_id="measure_notes")
    table = gr.Dataframe(
        headers=list(HEADERS),
        datatype="str",
        type="array",
        interactive=False,
        wrap=True,
        max_height=1600,
        label="Metrics of the fused image",
        column_widths=["142px", "75px", "85px", "95px", "738px"],  # in percent a phone would cut numbers
        elem_id="measure_table",
    )
    button.click(measure, [*street.pair, *street.ranges], [table, notes], api_name="measure", **GPU)
    forget(street, hint, [table, notes], [None, ""])


def how_tab(street: Street) -> None:
    """What the network computed on its way."""
    gr.Markdown(style.HOW)
    hint = gr.Markdown(style.HINT)
    button = gr.Button("Look inside", variant="primary", elem_id="how_run", elem_classes="action")
    gallery = pictures("how_gallery", "Inside the network, in the order of the computation", columns=4)
    button.click(explain, [*street.pair, *street.ranges], gallery, api_name="explain", **GPU)
    forget(street, hint, [gallery], [None])


def forget(street: Street, hint: gr.Markdown, parts: Sequence[Any], empty: Sequence[Any]) -> None:
    """When another pair is chosen what was shown of the former one goes; once it is fused the hint names it."""
    quiet: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
    gr.on(street.changed, lambda: (style.HINT, *empty), None, [hint, *parts], **quiet)
    for success in street.fused:
        success(lambda shown: (pair_hint(shown), *empty), street.shown, [hint, *parts], **quiet)


def pair_hint(shown: Shown | None) -> str:
    """Which pair it is about."""
    return f"The pair: {shown.title}." if shown else style.HINT


# --- Medical and Batch -----------------------------------------------------------------------------------------------


def medical_tab(rows: Sequence[Row]) -> None:
    """Slices of one head, with their own checkpoint and examples."""
    gr.Markdown(style.MEDICAL)
    with gr.Row():
        with gr.Column(scale=6, min_width=300):
            slider = before_after("medical_slider")
            left = gr.Radio(
                [("CT, PET, SPECT", "Visible"), ("MRI", "Infrared")],
                value="Visible",
                label="Drag the line. On its left:",
                elem_id="medical_left",
            )
            time = gr.Markdown("", elem_id="medical_time")
            download = download_button("medical_download")
        with gr.Column(scale=5, min_width=300):
            strip = gr.Column()
            gr.Markdown(style.OWN_PAIR, elem_classes="hint")
            with gr.Row():
                visible = picture_input("CT, PET, SPECT", "medical_visible")
                infrared = picture_input("MRI", "medical_infrared")
            *ranges, metadata = advanced("medical_", ("CT, PET, SPECT", "MRI"))
            button = gr.Button("Fuse", variant="primary", size="lg", elem_id="medical_fuse")
    gallery = pictures("medical_gallery", "The scan, the MRI, fused")
    model, steps = gr.State(MEDICAL), gr.State("all")
    state = gr.State(None, time_to_live=LIFETIME)
    with strip:
        examples = example_strip(rows, [visible, infrared])
    inputs, outputs = [visible, infrared, model, steps, left, *ranges, metadata], [download, slider, time, state]
    clicked = button.click(fuse_and_show, inputs, outputs, show_progress_on=slider, **GPU, **PRIVATE)
    chosen = [then(fuse_and_show, inputs, outputs, show_progress_on=slider, **GPU, **PRIVATE) for then in examples]
    opened = open_with(rows, [visible, infrared, *outputs])
    for event in (clicked, *chosen, *opened):
        event.success(
            partial(views, names=("CT, PET, SPECT", "MRI")), state, gallery, show_progress="hidden", **PRIVATE
        )
    left.change(compare, [state, left], slider, show_progress="hidden", **PRIVATE)


def batch_tab() -> None:
    """Many pairs in, a zip file out."""
    gr.Markdown(style.BATCH.format(pairs=MAX_PAIRS))
    files = gr.File(
        label="Images or one zip file",
        file_count="multiple",
        file_types=["image", *sorted(EXTENSIONS), ".zip"],
        height=180,
        elem_id="batch_files",
    )
    fetch_bounded(files)
    model = model_choice("batch_model")
    options = advanced("batch_", ("Visible", "Infrared"))
    with gr.Row():
        button = gr.Button("Fuse all", variant="primary", elem_id="batch_run", elem_classes="action")
        stop = gr.Button("Cancel", variant="stop", elem_id="batch_cancel", elem_classes="action")
    result = gr.File(label="Fused images", interactive=False, height=120, elem_id="batch_zip")
    # No tool for assistants: Gradio cannot describe lists of files to them. They fuse pair by pair.
    setattr(batch, "_mcp_type", "none")  # noqa: B010  # it has no other name
    event = button.click(
        batch, [files, model, *options], result, api_name="batch", concurrency_id="batch", concurrency_limit=1
    )
    # With a result of its own, or the page would show the cancelled run as an error.
    stop.click(lambda: None, None, result, cancels=event, show_progress="hidden", **PRIVATE)


# --- parts -----------------------------------------------------------------------------------------------------------


def picture_input(label: str, elem_id: str) -> gr.Image:
    """An upload that reaches our functions as a path, unopened."""
    image = gr.Image(
        label=label,
        image_mode=None,  # "RGB" would leave 17 of the 4096 levels of a 12-bit image
        type="filepath",
        height=230,
        min_width=150,
        sources=["upload", "clipboard"],
        buttons=[],  # on a phone they would hide the label; the gallery shows the picture larger
        elem_id=elem_id,
    )
    # Gradio would open each upload before our function runs, and what goes wrong there reaches the user as "Error". On
    # the object and not in a subclass: for that Gradio would write a stub file beside this one. It lasts as long as no
    # event answers with gr.update for this part, for which Gradio makes the part anew.
    image.preprocess = _uploaded_path  # type: ignore[method-assign]
    fetch_bounded(image)
    return image


def _uploaded_path(payload: ImageData | None) -> str | None:
    """Where Gradio has put an upload; the file is not opened."""
    return None if payload is None else payload.path


def model_choice(elem_id: str) -> gr.Radio:
    """All checkpoints that are installed."""
    models = available_models()
    pace = {True: "slower", False: "quick"}
    choices = [(f"{info.name}: {info.modality}, {pace[has_steps(info.name)]}", info.name) for info in models]
    return gr.Radio(choices, value=models[0].name, label="Model", elem_id=elem_id)


def advanced(prefix: str, names: tuple[str, str]) -> tuple[gr.Dropdown, gr.Dropdown, gr.Checkbox]:
    """What few visitors need: the ranges of the second and the first image, and the metadata of the first."""
    with gr.Accordion("Advanced: ranges and metadata", open=False, elem_id=f"{prefix}advanced"):
        gr.Markdown(style.ADVANCED, elem_classes="hint")
        with gr.Row():
            infrared, visible = (
                gr.Dropdown(
                    RANGES,
                    value="auto",
                    allow_custom_value=True,
                    label=f"{name} range",
                    min_width=150,
                    elem_id=f"{prefix}{kind}_range",
                )
                for name, kind in zip(reversed(names), ("infrared", "visible"), strict=True)
            )
        metadata = gr.Checkbox(
            False, label="Keep position, date and camera in the result", elem_id=f"{prefix}keep_metadata"
        )
    return infrared, visible, metadata


def before_after(elem_id: str) -> gr.ImageSlider:
    """A slider between a source and the fused picture."""
    return gr.ImageSlider(
        label="Before and after",
        show_label=False,  # it would hide a corner of the picture
        format="png",  # otherwise lossy WebP
        type="filepath",
        interactive=False,
        max_height=420,
        buttons=["fullscreen"],
        elem_id=elem_id,
    )


def download_button(elem_id: str) -> gr.DownloadButton:
    """The fused image in full quality."""
    return gr.DownloadButton("Download the fused PNG", elem_id=elem_id)


def pictures(elem_id: str, label: str, columns: int = 3) -> gr.Gallery:
    """Pictures side by side."""
    return gr.Gallery(
        label=label,
        show_label=False,
        format="png",
        columns=columns,
        height="auto",
        interactive=False,
        buttons=["fullscreen", "download"],
        elem_id=elem_id,
        elem_classes="pictures",
    )


def example_strip(rows: Sequence[Row], inputs: Sequence[Any]) -> list[Callable[..., Any]]:
    """A button for each example that fills the inputs; the `.then` of each, to go on with.

    Not `gr.Examples`: it would give a visitor inputs of his own, made anew, which open what he uploads after it.
    """
    gr.Markdown("Examples, drawn by this project: click one to fuse it", elem_classes="hint")
    with gr.Row(elem_classes="examples"):
        buttons = [gr.Button(row.label, size="sm", min_width=80) for row in rows]
    fill = [
        button.click(partial(_row_values, row, len(inputs)), None, list(inputs), show_progress="hidden", **PRIVATE)
        for button, row in zip(buttons, rows, strict=True)
    ]
    return [event.then for event in fill]


def _row_values(row: Row, count: int) -> Any:
    draw(row)
    return [row.visible, row.infrared, row.model][:count]


def open_with(rows: Sequence[Row], outputs: Sequence[Any]) -> list[Any]:
    """Give each visitor the first example and its fusion to begin with; the event, if there is an example.

    Not as values of the parts: the server would start later, and values of the inputs would be defaults of the API,
    with which a program that forgets an image would get the example fused.
    """
    if not rows:
        return []
    begun = prepare(rows[0])

    def opening() -> Any:
        # A page without it is still of use; the log says what is wrong.
        return [gr.skip()] * len(outputs) if begun.exception() else begun.result()

    # Without triggers it runs when the page is opened; whoever opens a page takes no place in the queue.
    return [gr.on(None, opening, None, list(outputs), show_progress="hidden", queue=False, **PRIVATE)]
