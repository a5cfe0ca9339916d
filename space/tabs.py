"""What tabs share, and the tab Batch: components and events."""

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr
import style
from batch import MAX_PAIRS, batch, fuse_all
from fuse import MEDICAL, available_models, has_steps
from network import fetch_bounded
from stopping import stoppable

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


def batch_tab() -> None:
    """Many pairs in, a zip file out."""
    gr.Markdown(style.BATCH.format(pairs=MAX_PAIRS))
    kinds: dict[str, Any] = {"file_count": "multiple", "file_types": ["image", *sorted(EXTENSIONS), ".zip"]}
    files = gr.File(label="Images or one zip file", height=180, elem_id="batch_files", **kinds)
    fetch_bounded(files)
    model = model_choice("batch_model")
    options = advanced("batch_", ("Visible", "Infrared"))
    with gr.Row():
        button = gr.Button("Fuse all", variant="primary", elem_id="batch_run", elem_classes="action")
        stop = gr.Button("Cancel", variant="stop", elem_id="batch_cancel", elem_classes="action")
    message = gr.HTML("", label="Message", padding=False, elem_id="batch_message")
    result = gr.File(label="Fused images", interactive=False, height=120, elem_id="batch_zip")
    # Not a tool for assistants, to which Gradio cannot describe lists of files.
    setattr(batch, "_mcp_type", "none")  # noqa: B010  # mypy knows no such attribute
    inputs = [files, model, *options]
    lane: dict[str, Any] = {"concurrency_id": "batch", "concurrency_limit": 1}
    gr.on([], stoppable(batch), inputs, result, api_name="batch", **lane)

    def run(progress: gr.Progress = gr.Progress(), *values: Any) -> Iterator[tuple[str | None, str]]:  # noqa: B008
        yield None, ""  # nothing of the batch before
        try:
            for file, text in fuse_all(progress, *values):
                yield file, html.escape(text, quote=False)
        except gr.Error as error:
            yield None, refusal(error)

    event = button.click(stoppable(run), inputs, [result, message], show_progress_on=result, **lane, **PRIVATE)
    # With outputs of its own, or the page would show the canceled run as an error.
    stop.click(lambda: (None, ""), None, [result, message], cancels=event, **QUIET)


def model_choice(elem_id: str, streets: bool = False) -> gr.Radio:
    """All installed checkpoints, or those for streets."""
    models = [info for info in available_models() if not streets or info.name != MEDICAL]
    paces = ["slower" if has_steps(info.name) else "fast" for info in models]
    choices = [(f"{info.name}: {info.modality}, {pace}", info.name) for info, pace in zip(models, paces, strict=True)]
    return gr.Radio(choices, value=models[0].name, label="Model", elem_id=elem_id)


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


def refusal(error: gr.Error) -> str:
    """The title and the sentence of a refusal, as HTML that screen readers read at once."""
    return f'<div class="refusal" role="alert"><strong>{html.escape(str(error.title))}</strong> {error.message}</div>'


def pictures(elem_id: str, label: str, columns: int = 3, visible: bool = True) -> gr.Gallery:
    """Pictures side by side."""
    look: dict[str, Any] = {"show_label": False, "format": "png", "columns": columns, "height": "auto"}
    look |= {"interactive": False, "buttons": ["fullscreen", "download"], "visible": visible}
    return gr.Gallery(label=label, elem_id=elem_id, elem_classes="pictures", **look)
