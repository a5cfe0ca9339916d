"""The tabs Fuse and Medical, and the pairs of Two cameras: two images in, one out.

A pair is an example or the visitor's own, never a mixture: the first file that a visitor chooses takes the example out
of both boxes and away from the result. The paths of files tell examples from uploads, so the server needs no memory of
what a visitor did.
"""

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gradio as gr
import style
from cameras import align, align_and_show
from examples import FOLDER, fuse_in_background, introduce, thumbnail
from fuse import (
    MEDICAL,
    RED_MAX_PIXELS,
    TOO_LONG_AGO,
    Colors,
    Left,
    Shown,
    fuse,
    fuse_and_show,
    has_steps,
    move_slider,
    step_choices,
)
from network import fetch_bounded
from stopping import stoppable
from storage import LIFETIME
from tabs import GPU, PRIVATE, QUIET, advanced, model_choice, pictures, refusal
from uploads import FORMATS, MAX_BYTES, MAX_PIXELS, Refusal, error_messages, open_upload

from fusion_hub.data import SamplePair

Kind = Literal["street", "medical", "cameras"]
PREFIXES: dict[Kind, str] = {"street": "", "medical": "medical_", "cameras": "rig_"}
COMPARED = [
    ("Edges before and after alignment", "Edges"),
    ("Visible and fused", "Visible"),
    ("Infrared and fused", "Infrared"),
]
COLORS = [("Fused by the network", "fused"), ("Overlay with a scale", "overlay")]
STREET_NAMES, MEDICAL_NAMES = ("Visible", "Infrared"), ("CT, PET, SPECT", "MRI")
NOW: dict[str, Any] = {"queue": False, **QUIET}  # for what takes no time
# Leaves a component alone. The value that it had would undo what a visitor did meanwhile.
KEEP = """{ __type__: "update" }"""
# These run in the browser, at once: no answer of the server can come late and replace what a visitor chose meanwhile.
FORGET = (
    """(...boxes) => {
    window.lastChoice = Date.now();
    const message = window.chosenFile?.size > MOST ? LARGE : "";
    window.chosenFile = null;
    return [...boxes.map((file) => (file?.path?.includes("FOLDER") ? null : KEEP)), null, "", null, [], message];
}""".replace("FOLDER", FOLDER)
    .replace("MOST", str(MAX_BYTES))
    .replace("KEEP", KEEP)
)
FILL = """(...boxes) => {
    const [root, prefix] = [window.gradio_config.root, window.gradio_config.api_prefix];
    const file = ([path, name]) =>
        ({ path, url: `${root}${prefix}/file=${path}`, orig_name: name, meta: { _type: "gradio.FileData" } });
    return boxes.some(Boolean) ? boxes.map(() => (KEEP)) : [...FILES.map(file), ...MODEL];
}"""
# A fusion that a choice of another file has stopped also counts as failed.
FAILED = """(...outcome) => (Date.now() - (window.lastChoice ?? 0) < 3000 ? outcome : [null, "", null, [], BUSY])"""
# Takes a result away if an own file has emptied a box while it was on its way.
SETTLE = """(first, second, ...outcome) => (first && second ? outcome : [null, "", null, [], outcome.at(-1)])"""
REMOVE = """(message, file) => (message.includes("data-unread=WHAT") ? null : KEEP)""".replace("KEEP", KEEP)


class PairTab(NamedTuple):
    """The components of a tab that fuses, for the tabs in `views.py`: of `pair`, both images and the model."""

    pair: list[Any]
    ranges: Sequence[gr.Dropdown]
    steps: Any
    shown: gr.State  # None while nothing is shown
    fused: Sequence[Callable[..., Any]]  # `.success` of each event that changes `shown`


def pair_tab(rows: Sequence[SamplePair], kind: Kind = "street") -> PairTab:
    """A slider with a result, the inputs and options, all three pictures and the download.

    Args:
        rows: the examples.
        kind: "cameras": the images need not match, they are aligned first.
    """
    medical, unmatched, prefix = kind == "medical", kind == "cameras", PREFIXES[kind]
    names = MEDICAL_NAMES if medical else STREET_NAMES
    compute = align_and_show if unmatched else fuse_and_show
    if medical:
        gr.Markdown(style.MEDICAL)
    clicks = example_buttons(rows)
    with gr.Row():
        with gr.Column(scale=6, min_width=300):
            # A shown label would hide a corner of the picture; the default format is lossy WebP.
            look: dict[str, Any] = {"show_label": False, "format": "png", "type": "filepath", "interactive": False}
            look |= {"max_height": 420, "buttons": ["fullscreen"], "elem_id": f"{prefix}slider"}
            slider = gr.ImageSlider(label="Before and after", **look)
            message = gr.HTML("", label="Message", padding=False, elem_id=f"{prefix}message")
            time = gr.Markdown("", label="Seconds", elem_id=f"{prefix}time")
            sides, label = [(names[0], "Visible"), (names[1], "Infrared")], "Drag the line. Left picture:"
            if unmatched:
                sides, label = COMPARED, "Drag the line. Pictures:"
            left = gr.Radio(sides, value=sides[0][1], label=label, elem_id=f"{prefix}left")
            download = gr.DownloadButton("Download the fused PNG", elem_id=f"{prefix}download")
            alignment = gr.DownloadButton("Download rig.json", visible=unmatched, elem_id=f"{prefix}json")
        with gr.Column(scale=5, min_width=300):
            name = "Align and fuse" if unmatched else "Fuse"
            gr.Markdown(style.OWN_PAIR.format(button=name), elem_classes="hint")
            with gr.Row():
                visible = picture_input(names[0], f"{prefix}visible")
                infrared = picture_input(names[1], f"{prefix}infrared")
            chosen = gr.Button("A file was chosen", visible="hidden", elem_id=f"{prefix}chosen")  # page.js clicks it
            model: Any = gr.State(MEDICAL) if medical else model_choice(f"{prefix}model", streets=unmatched)
            steps: Any = gr.State("default") if medical else step_choice(model, f"{prefix}steps")
            look = {"visible": medical, "elem_id": f"{prefix}colors"}
            colors = gr.Radio(COLORS, value="fused", label="Colors", info=style.COLORS, **look)
            *ranges, metadata = advanced(prefix, names)
            look = {"visible": unmatched, "elem_id": f"{prefix}fov", "info": style.FIELD_OF_VIEW}
            fov_ratio = gr.Textbox("", label="Field of view, infrared / visible", max_lines=1, **look)
            button = gr.Button(name, variant="primary", size="lg", elem_id=f"{prefix}fuse")
    gallery = pictures(f"{prefix}gallery", "The scan, the MRI, fused" if medical else "Visible, infrared, fused")
    if unmatched:
        gr.Markdown(style.CAMERA_NOTES)
    elif not medical:
        gr.Markdown(style.NOTES.format(formats=FORMATS, megapixels=MAX_PIXELS / 1e6, red=RED_MAX_PIXELS / 1e6))
    shown = gr.State(None, time_to_live=LIFETIME)

    boxes, outcome = [visible, infrared], [slider, time, download, gallery, message, shown]
    inputs = [*boxes, model, steps, left, *ranges, metadata, fov_ratio if unmatched else colors]
    # For programs, without the state: Gradio fails when an assistant calls an event that has one.
    if unmatched:
        gr.on([], stoppable(align), inputs, [download, alignment, slider, time], api_name="align", **GPU)
    elif not medical:
        gr.on([], stoppable(fuse), inputs, [download, slider, time], api_name="fuse", **GPU)

    def present(shown: Shown, left: Left) -> list[Any]:
        items = list(zip(shown[:3], (*names, shown.colors.capitalize()), strict=True))
        return [shown.slider(left), shown.text, shown.result, items, "", shown]

    def refused(error: gr.Error) -> list[Any]:
        text = refusal(error)
        return [None, "", None, [], in_medical_words(text) if medical else text, None]

    # A bar for the steps and tiles of RED, in the page of this visitor alone.
    def fuse_here(progress: gr.Progress = gr.Progress(track_tqdm=True), *values: Any) -> list[Any]:  # noqa: B008
        try:
            example = find_example(rows, *values[:2])
            shown = compute(*values)
        except gr.Error as error:
            return refused(error)
        return present(shown.introduced(introduce(example)) if example else shown, values[4])

    busy = refusal(Refusal("The server did not answer", "It may be busy: try again in a minute."))
    failed: dict[str, Any] = {"js": FAILED.replace("BUSY", json.dumps(busy)), **QUIET}
    look = {"show_progress_on": slider, **GPU, **PRIVATE}
    filled = [
        click(None, None, inputs[: 2 if medical else 3], js=fill_script(row, not medical), **QUIET)
        for click, row in zip(clicks, rows, strict=True)
    ]
    starts = button.click, *(event.then for event in filled)
    fusions = [start(stoppable(fuse_here), inputs, outcome, **look) for start in starts]

    def settle(first: str | None, second: str | None, shown: Shown | None) -> Shown | None:
        return shown if first and second else None

    settled = []
    for event in fusions:
        event.success(None, [*boxes, *outcome[:-1]], outcome[:-1], js=SETTLE, **QUIET)
        settled.append(event.success(settle, [*boxes, shown], shown, **QUIET))
        if unmatched:
            event.success(lambda shown: shown and shown.rig, shown, alignment, **QUIET)
        event.failure(None, outcome[:-1], outcome[:-1], **failed)
        event.failure(lambda: None, None, shown, **NOW)

    opened = []
    if rows and not unmatched:
        # Not as values of the components: the server would start later, and values of the inputs would be defaults of
        # the API, so that a program that forgets an image would get the example fused.
        future = fuse_in_background(rows[0])

        def open_with(*seen: Any) -> list[Any]:
            if seen[:2] != (str(rows[0].visible), str(rows[0].infrared)) or any(seen[2:]) or future.exception():
                return [gr.skip()] * len(outcome)
            return present(future.result(), "Visible")

        # Without triggers it runs when the page is opened.
        started = gr.on(None, lambda: None, None, None, **NOW).then(
            None, boxes, boxes, js=fill_script(rows[0]), **QUIET
        )
        waited = started.then(lambda: wait([future]) and None, None, None, **NOW)
        opened = [waited.then(open_with, [*boxes, message, shown], outcome, **QUIET)]

    # Before and after the upload of an own file, which may fail.
    begun = [chosen.click, visible.upload, infrared.upload]
    large = f"A file may have at most {MAX_BYTES >> 20} MiB: save it with fewer bits, or use the Python package."
    script = FORGET.replace("LARGE", json.dumps(refusal(Refusal("File too large", large))))
    gr.on(begun, None, boxes, [*boxes, *outcome[:-1]], js=script, **QUIET)
    # Not after the upload as well: on a busy server that could stop a fusion which the visitor started meanwhile.
    forgotten = chosen.click(lambda: None, None, shown, cancels=[*fusions, *opened], **NOW)
    for box, what in zip(boxes, ("visible", "infrared"), strict=True):

        def check(file: str | None, what: str = what) -> Any:
            try:
                with error_messages():
                    open_upload(file, what)
            except gr.Error as error:
                return refused(error)[-2].replace("<div", f"<div data-unread={what}")
            return gr.skip()  # a message of a fusion that began meanwhile stays

        # An update of the box by the server would make it anew, with Gradio's own checks.
        checked = box.upload(check, box, message, **NOW)
        checked.then(None, [message, box], box, js=REMOVE.replace("WHAT", what), **QUIET)

    left.change(move_slider, [shown, left], slider, **QUIET)
    if medical:

        def recolor(shown: Shown | None, colors: Colors, left: Left) -> list[Any]:
            if not shown or not shown.other or shown.colors == colors:
                return [gr.skip()] * len(outcome)
            if not Path(shown.other.result).is_file():
                return refused(Refusal(*TOO_LONG_AGO))
            return present(shown.other._replace(other=shown._replace(other=None), opening=shown.opening), left)

        # The choice may change while a fusion runs.
        for start in (colors.change, *(event.success for event in (*fusions, *opened))):
            start(recolor, [shown, colors, left], outcome, **QUIET)
    changes = [event.success for event in (*fusions, *settled, forgotten, *opened)]
    return PairTab([*boxes, model], ranges, steps, shown, changes)


def find_example(rows: Sequence[SamplePair], visible: str | None, infrared: str | None) -> SamplePair | None:
    """The example that the boxes hold, None for an own pair; raises a `Refusal` for a mixture of both."""
    for row in rows:
        held = visible == str(row.visible), infrared == str(row.infrared)
        if all(held):
            return row
        if any(held) and visible and infrared:
            own = "first" if held[1] else "second"
            text = f"The {own} image is yours, the other one belongs to the example {row.label}: add your other image."
            raise Refusal("Not one pair", text)
    return None


def fill_script(row: SamplePair, with_model: bool = False) -> str:
    """`FILL` for an example."""
    files = json.dumps([[str(file), file.name] for file in (row.visible, row.infrared)])
    return (
        FILL.replace("FILES", files)
        .replace("KEEP", KEEP)
        .replace("MODEL", json.dumps([row.model] if with_model else []))
    )


def in_medical_words(text: str) -> str:
    """A message with the names of the boxes of the Medical tab."""
    words = {"visible": "scan", "infrared": "MRI", "Visible": "The scan", "Infrared": "The MRI"}
    return re.sub(r"\b(visible|infrared)\b", lambda found: words[found[0]], text, flags=re.IGNORECASE)


def example_buttons(rows: Sequence[SamplePair]) -> list[Callable[..., Any]]:
    """A button with thumbnail, label and sentence for each example; returns `.click` of each.

    Not `gr.Examples`: it makes the inputs anew for each visitor, and those open uploads before our functions do.
    """
    gr.Markdown("**Examples** drawn by this project: click to fuse", elem_classes="hint")
    with gr.Row(elem_classes="examples"):
        texts = [(f"{row.label}\n{row.description}", str(thumbnail(row))) for row in rows]
        return [gr.Button(text, icon=icon, size="sm", elem_classes="example").click for text, icon in texts]


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


def step_choice(model: gr.Radio, elem_id: str) -> gr.Radio:
    """The steps of the chosen model, shown where it has a choice."""
    label, visible = "Diffusion steps: fewer is faster", has_steps(str(model.value))
    steps = gr.Radio(step_choices(), value="default", label=label, visible=visible, elem_id=elem_id)
    model.change(lambda name: gr.update(visible=has_steps(name)), model, steps, **QUIET)
    return steps
