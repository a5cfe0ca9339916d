"""The tabs of the page: their components and events."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
import style
from analysis import HEADERS, detect, explain, measure
from batch import MAX_PAIRS, batch
from examples import Row, fuse_in_background
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
from gradio.data_classes import ImageData
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
    ("Smallest to largest value", "minmax"),
    ("Percentiles 0.5 to 99.5", "percentile"),
]
STREET_NAMES, MEDICAL_NAMES = ("Visible", "Infrared"), ("CT, PET, SPECT", "MRI")


class PairTab(NamedTuple):
    """The components of the tab Fuse that the other tabs use."""

    visible: gr.Image
    infrared: gr.Image
    model: gr.Radio | gr.State
    ranges: Sequence[gr.Dropdown]
    shown: gr.State
    fused: Sequence[Callable[..., Any]]  # `.success` of each event that fuses

    @property
    def pair(self) -> list[Any]:
        """The inputs of every function that takes a pair."""
        return [self.visible, self.infrared, self.model]


# --- Fuse and Medical ------------------------------------------------------------------------------------------------


def pair_tab(rows: Sequence[Row], medical: bool = False) -> PairTab:
    """A slider with a result, the inputs and options, all three pictures and the download."""
    prefix, names = ("medical_", MEDICAL_NAMES) if medical else ("", STREET_NAMES)
    if medical:
        gr.Markdown(style.MEDICAL)
    with gr.Row():
        with gr.Column(scale=6, min_width=300):
            slider = gr.ImageSlider(
                label="Before and after",
                show_label=False,  # it would hide a corner of the picture
                format="png",  # otherwise lossy WebP
                type="filepath",
                interactive=False,
                max_height=420,
                buttons=["fullscreen"],
                elem_id=f"{prefix}slider",
            )
            left = gr.Radio(
                [(names[0], "Visible"), (names[1], "Infrared")],
                value="Visible",
                label="Drag the line. Left picture:",
                elem_id=f"{prefix}left",
            )
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
            *ranges, metadata = advanced(prefix, names)
            button = gr.Button("Fuse", variant="primary", size="lg", elem_id=f"{prefix}fuse")
    gallery = pictures(f"{prefix}gallery", "The scan, the MRI, fused" if medical else "Visible, infrared, fused")
    if not medical:
        gr.Markdown(style.NOTES.format(formats=FORMATS, megapixels=MAX_PIXELS / 1e6, red=RED_MAX_PIXELS / 1e6))
    shown = gr.State(None, time_to_live=LIFETIME)
    with strip:
        examples = example_buttons(rows, [visible, infrared] if medical else [visible, infrared, model])

    inputs, outputs = [visible, infrared, model, steps, left, *ranges, metadata], [download, slider, time, shown]
    if not medical:
        # For programs, without the state: Gradio fails when an assistant calls an event that has one.
        gr.on([], fuse, inputs, [download, slider, time], api_name="fuse", **GPU)
    starts = [button.click, *examples]
    events = [start(fuse_and_show, inputs, outputs, show_progress_on=slider, **GPU, **PRIVATE) for start in starts]
    events += first_example(rows, [visible, infrared, *outputs])
    for event in events:
        event.success(partial(gallery_items, names=names), shown, gallery, **QUIET)
    left.change(move_slider, [shown, left], slider, **QUIET)
    return PairTab(visible, infrared, model, ranges, shown, [event.success for event in events])


def gallery_items(shown: Shown | None, names: tuple[str, str]) -> list[tuple[str, str]]:
    """The three pictures with their captions."""
    if shown is None:
        return []
    return [(shown.visible, names[0]), (shown.infrared, names[1]), (shown.fused, "Fused")]


def example_buttons(rows: Sequence[Row], inputs: Sequence[Any]) -> list[Callable[..., Any]]:
    """A button for each example that fills the inputs; returns `.then` of each event.

    Not `gr.Examples`: it makes the inputs anew for each visitor, and those open uploads before our functions do.
    """
    gr.Markdown("Examples, generated by this project: click one to fuse it", elem_classes="hint")
    with gr.Row(elem_classes="examples"):
        buttons = [gr.Button(row.label, size="sm", min_width=80) for row in rows]

    values = [[row.visible, row.infrared, row.model][: len(inputs)] for row in rows]
    clicks = [button.click for button in buttons]
    return [
        click(lambda found=found: found, None, list(inputs), **QUIET).then
        for click, found in zip(clicks, values, strict=True)
    ]


def first_example(rows: Sequence[Row], outputs: Sequence[Any]) -> list[Any]:
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
    return [gr.on(None, load, None, list(outputs), queue=False, **QUIET)]


# --- See more, Measure, How it works ---------------------------------------------------------------------------------


def more_tab(pair: PairTab) -> None:
    """Detections and segmentations in all three pictures."""
    gr.Markdown(style.MORE)
    hint = gr.Markdown(style.HINT)
    with gr.Row(equal_height=True):
        threshold = gr.Slider(
            0.1, 0.9, value=0.3, step=0.05, label="Threshold: lowest score that counts", elem_id="more_threshold"
        )
        button = gr.Button("See more", variant="primary", elem_id="more_run", elem_classes="action")
    summary = gr.Markdown("", elem_id="more_summary")
    gallery = pictures("more_gallery", "Detections and classes")
    inputs = [*pair.pair, threshold, *pair.ranges]
    button.click(detect, inputs, [gallery, summary], api_name="detect", **GPU)
    threshold.release(detect_again, [gallery, *inputs], [gallery, summary], **GPU, **PRIVATE)
    clear_when_changed(pair, hint, [gallery, summary], [None, ""])


def detect_again(shown: Any, *inputs: Any) -> tuple[Any, Any]:
    """Detect with another threshold, if detections are shown already."""
    return detect(*inputs) if shown else (gr.skip(), gr.skip())


def measure_tab(pair: PairTab) -> None:
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
        column_widths=["142px", "75px", "85px", "95px", "738px"],  # percentages would cut numbers off on a phone
        elem_id="measure_table",
    )
    button.click(measure, [*pair.pair, *pair.ranges], [table, notes], api_name="measure", **GPU)
    clear_when_changed(pair, hint, [table, notes], [None, ""])


def how_tab(pair: PairTab) -> None:
    """Intermediate results of the network."""
    gr.Markdown(style.HOW)
    hint = gr.Markdown(style.HINT)
    button = gr.Button("Look inside", variant="primary", elem_id="how_run", elem_classes="action")
    gallery = pictures("how_gallery", "Inside the network, in the order of the computation", columns=4)
    button.click(explain, [*pair.pair, *pair.ranges], gallery, api_name="explain", **GPU)
    clear_when_changed(pair, hint, [gallery], [None])


def clear_when_changed(pair: PairTab, hint: gr.Markdown, parts: Sequence[Any], empty: Sequence[Any]) -> None:
    """Clear the results of a tab when another pair is chosen; once it is fused, the hint names it."""

    def named(shown: Shown | None) -> tuple[Any, ...]:
        return (f"The pair: {shown.title}." if shown else style.HINT, *empty)

    changed = [part.input for part in (*pair.pair, *pair.ranges)]
    gr.on(changed, lambda: (style.HINT, *empty), None, [hint, *parts], **QUIET)
    for success in pair.fused:
        success(named, pair.shown, [hint, *parts], **QUIET)


# --- Batch -----------------------------------------------------------------------------------------------------------


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
    options = advanced("batch_", STREET_NAMES)
    with gr.Row():
        button = gr.Button("Fuse all", variant="primary", elem_id="batch_run", elem_classes="action")
        stop = gr.Button("Cancel", variant="stop", elem_id="batch_cancel", elem_classes="action")
    result = gr.File(label="Fused images", interactive=False, height=120, elem_id="batch_zip")
    # Not a tool for assistants, to which Gradio cannot describe lists of files.
    setattr(batch, "_mcp_type", "none")  # noqa: B010  # mypy knows no such attribute
    event = button.click(
        batch, [files, model, *options], result, api_name="batch", concurrency_id="batch", concurrency_limit=1
    )
    # With an output of its own, or the page would show the canceled run as an error.
    stop.click(lambda: None, None, result, cancels=event, **QUIET)


# --- components ------------------------------------------------------------------------------------------------------


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
    image.preprocess = _uploaded_path  # type: ignore[method-assign]
    fetch_bounded(image)
    return image


def _uploaded_path(payload: ImageData | None) -> str | None:
    return None if payload is None else payload.path


def model_choice(elem_id: str) -> gr.Radio:
    """All installed checkpoints."""
    models = available_models()
    pace = {True: "slower", False: "quick"}
    choices = [(f"{info.name}: {info.modality}, {pace[has_steps(info.name)]}", info.name) for info in models]
    return gr.Radio(choices, value=models[0].name, label="Model", elem_id=elem_id)


def step_choice(model: gr.Radio) -> gr.Radio:
    """The steps of the chosen model, shown where it has a choice."""
    label, visible = "Diffusion steps: fewer are faster", has_steps(str(model.value))
    steps = gr.Radio(step_choices(), value="all", label=label, visible=visible, elem_id="steps")
    model.change(lambda name: gr.update(visible=has_steps(name)), model, steps, **QUIET)
    return steps


def advanced(prefix: str, names: tuple[str, str]) -> tuple[gr.Dropdown, gr.Dropdown, gr.Checkbox]:
    """The ranges of the second and the first image, and whether to keep the metadata of the first."""
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
                for name, kind in ((names[1], "infrared"), (names[0], "visible"))
            )
        label = "Keep position, date and camera in the result"
        metadata = gr.Checkbox(False, label=label, elem_id=f"{prefix}keep_metadata")
    return infrared, visible, metadata


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
