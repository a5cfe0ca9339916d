"""The tab Volumes in Medical: two volumes in, one out, with slices to scroll through and windows to move."""

from pathlib import Path
from typing import Any

import gradio as gr
import style
from camera_tabs import LANE
from fuse import has_steps
from network import fetch_bounded
from pairs import NOW, example_buttons
from stopping import stoppable
from storage import LIFETIME
from tabs import PRIVATE, QUIET, refusal
from uploads import Refusal, error_messages
from volume_files import MAX_VOXELS, NAMES, Kept, can_read, keep, parse_window, slider_step, with_modality
from volume_fusion import (
    NOTICE,
    PLANES,
    ROLES,
    Stack,
    count_slices,
    describe,
    draw_middles,
    draw_slices,
    fuse_kept,
    fuse_volume,
    medical_models,
)

from fusion_hub import volumes
from fusion_hub.data import SamplePair

MODALITIES = [("As the file says", ""), *((name, code) for code, name in NAMES.items())]
REGISTRATIONS = [("Automatic", "auto"), ("Rigid", "rigid"), ("Affine", "affine"), ("None", "none")]
ENDS = ("Black", "White")  # of a window
READING: dict[str, Any] = {"concurrency_id": "volumes", "concurrency_limit": 2}
LIVE: dict[str, Any] = {"trigger_mode": "always_last", **NOW}  # of sliders: what is shown is the last position
_EMPTY = "<p class=hint>The slices appear here.</p>"


def volumes_tab(example: SamplePair | None) -> None:
    """Both inputs, the options, the viewer and the downloads; a sentence where the packages are not installed."""
    gr.Markdown(style.VOLUMES.format(megavoxels=MAX_VOXELS / 1e6, notice=NOTICE))
    if not can_read() or example is None:
        gr.Markdown(style.NO_VOLUMES, elem_id="volume_missing")
        return
    [clicked] = example_buttons([example])
    boxes: list[Any] = []
    kinds: list[Any] = []
    infos: list[Any] = []
    with gr.Row():
        for role in ROLES:
            name = role.split()[0]
            with gr.Column(min_width=300):
                boxes.append(gr.File(label=role.capitalize(), height=120, elem_id=f"volume_{name}"))
                fetch_bounded(boxes[-1])
                look: dict[str, Any] = {"value": "", "label": f"Modality of the {role}"}
                kinds.append(gr.Radio(MODALITIES, elem_id=f"volume_{name}_kind", **look))
                infos.append(gr.HTML("", label=f"About the {role}", padding=False, elem_id=f"volume_{name}_info"))
    names = medical_models()
    with gr.Row():
        paces = [(f"{name}: {'slower' if has_steps(name) else 'fast'}", name) for name in names]
        model = gr.Radio(paces, value=names[0], label="Model", elem_id="volume_model")
        registration = gr.Radio(REGISTRATIONS, value="auto", label="Registration", elem_id="volume_registration")
        colors = [("Gray", ""), *((name.capitalize(), name) for name in volumes.COLOR_MAPS)]
        color = gr.Radio(colors, value="", label="Color of PET or SPECT uptake", elem_id="volume_color")
    with gr.Accordion("Advanced: several series, uncertain registrations", open=False, elem_id="volume_advanced"):
        with gr.Row():
            one: dict[str, Any] = {"info": "Such as #2, where a file has several", "max_lines": 1, "min_width": 200}
            series = [
                gr.Textbox("", label=f"Series of the {role}", elem_id=f"volume_{role.split()[0]}_series", **one)
                for role in ROLES
            ]
        unsure = gr.Checkbox(False, label="Fuse even if the registration is not certain", elem_id="volume_unsure")
    with gr.Row():
        button = gr.Button("Fuse the volumes", variant="primary", elem_id="volume_run", elem_classes="action")
        stop = gr.Button("Cancel", variant="stop", elem_id="volume_cancel", elem_classes="action")
    message = gr.HTML("", label="Message", padding=False, elem_id="volume_message")
    slices = gr.HTML(_EMPTY, label="Slices", padding=False, min_height=120, elem_id="volume_slices")
    with gr.Row():
        look = {"buttons": [], "min_width": 300}
        number = gr.Slider(1, 2, 1, step=1, label="Slice", visible=False, elem_id="volume_number", **look)
        plane = gr.Radio(list(PLANES), value=PLANES[0], label="Plane", visible=False, elem_id="volume_plane")
    presets: list[Any] = []
    edges: list[Any] = []
    with gr.Row():
        for role in ROLES:
            name = role.split()[0]
            with gr.Column(min_width=300):
                look = {"allow_custom_value": True, "visible": False, "elem_id": f"volume_{name}_window"}
                presets.append(gr.Dropdown(["default"], value="default", label=f"Window of the {role}", **look))
                for end in ENDS:
                    look = {"visible": False, "elem_id": f"volume_{name}_{end.lower()}", "buttons": []}
                    edges.append(gr.Slider(0, 1, 0, label=edge_label(end, role), **look))
    text = gr.Markdown("", label="About the result", elem_id="volume_text")
    with gr.Row():
        result = gr.DownloadButton("Fused volume (NIfTI)", visible=False, elem_id="volume_result")
        views = gr.DownloadButton("Three views (PNG)", visible=False, elem_id="volume_views")
    kept = [gr.State(None, time_to_live=LIFETIME) for _ in ROLES]
    stack = gr.State(None, time_to_live=LIFETIME)

    given = [*boxes, model, registration, *presets, *kinds, *series, color, unsure]
    # For programs, without the states.
    gr.on([], stoppable(fuse_volume), given, [result, views, text], api_name="fuse_volume", **LANE)

    shown = [stack, number, plane, text, result, views]
    seen = [stack, *kept, plane, number, *edges]
    controls = [[presets[side], *edges[2 * side : 2 * side + 2]] for side in (0, 1)]

    def nothing() -> list[Any]:
        return [None, *(gr.update(visible=False) for _ in (number, plane)), "", *(gr.update(visible=False),) * 2]

    def windows_of(values: Any) -> Any:
        return (values[0], values[1]), (values[2], values[3])

    def view(stack: Stack | None, first: Kept | None, second: Kept | None, plane: str, at: float, *ends: float) -> Any:
        """The slices, and a message for windows that are upside down."""
        try:
            with error_messages():
                windows = check_windows(windows_of(ends), (first, second))
                if stack:
                    return draw_slices(stack, plane, int(at or 1), windows), ""
                return draw_middles((first, second), windows) or _EMPTY, ""
        except gr.Error as error:
            return gr.skip(), refusal(error)

    def look_again(*values: Any) -> Any:
        """The slices alone: a message that is there stays."""
        return view(*values)[0]

    def fuse_here(progress: gr.Progress = gr.Progress(), *values: Any) -> list[Any]:  # noqa: B008
        first, second, model, registration, color, unsure, *ends = values
        try:
            with error_messages():
                windows = check_windows(windows_of(ends), (first, second))
            made = fuse_kept(progress, first, second, model, registration, windows, color, unsure)
            middle = (count_slices(made, PLANES[0]) + 1) // 2
            drawn = draw_slices(made, PLANES[0], middle, windows)
        except gr.Error as error:
            return [*nothing(), look_again(None, first, second, PLANES[0], 1, *ends), refusal(error)]
        downloads = (gr.update(value=file, visible=True) for file in (made.result, made.views))
        scroll = gr.update(maximum=count_slices(made, PLANES[0]), value=middle, visible=True)
        return [made, scroll, gr.update(value=PLANES[0], visible=True), made.text, *downloads, drawn, ""]

    inputs = [*kept, model, registration, color, unsure, *edges]
    outcome = [*shown, slices, message]
    look = {"show_progress_on": slices, **LANE, **PRIVATE}
    runs: list[Any] = [button.click(stoppable(fuse_here), inputs, outcome, **look)]

    def open_example() -> list[Any]:
        files, codes = (str(example.visible), str(example.infrared)), ("MR", "PT")
        try:
            with error_messages():
                read = [
                    keep(file, role, "", code)._replace(example=True)
                    for file, role, code in zip(files, ROLES, codes, strict=True)
                ]
        except gr.Error as error:
            return [*(gr.skip() for _ in range(14)), refusal(error)]
        return [
            *files,
            *codes,
            *read,
            *map(describe, read),
            *control(read[0], ROLES[0]),
            *control(read[1], ROLES[1]),
            "",
        ]

    opened = [*boxes, *kinds, *kept, *infos, *controls[0], *controls[1], message]
    filled = clicked(open_example, None, opened, **READING, **PRIVATE, show_progress="hidden")
    runs.append(filled.success(stoppable(fuse_here), inputs, outcome, **look))

    for side, (box, role) in enumerate(zip(boxes, ROLES, strict=True)):
        other = 1 - side

        def read(file: str | None, one: str, kind: str, beside: Kept | None, role: str = role) -> list[Any]:
            mixed = beside is not None and beside.example
            rest = [*([None, None, "", *hidden()] if mixed else [gr.skip()] * 6), *nothing(), _EMPTY]
            try:
                with error_messages():
                    found = keep(file, role, one, kind)
            except gr.Error as error:
                return [None, "", *hidden(), refusal(error), *rest]
            return [found, describe(found), *control(found, role), "", *rest]

        own = [kept[side], infos[side], *controls[side], message]
        others = [boxes[other], kept[other], infos[other], *controls[other], *shown, slices]
        uploaded = box.upload(
            stoppable(read),
            [box, series[side], kinds[side], kept[other]],
            [*own, *others],
            show_progress_on=infos[side],
            **READING,
            **PRIVATE,
        )
        uploaded.success(look_again, seen, slices, **QUIET)
        gr.on([box.upload, box.clear], lambda: None, None, None, cancels=runs, **NOW)

        def forget(found: Kept | None) -> list[Any]:
            if found:
                Path(found.file).unlink(missing_ok=True)
            return [None, "", *hidden(), "", *nothing(), _EMPTY]

        box.clear(forget, kept[side], [*own, *shown, slices], **QUIET).then(look_again, seen, slices, **QUIET)

        def rename(found: Kept | None, kind: str, role: str = role) -> list[Any]:
            if found is None:
                return [gr.skip()] * 6
            try:
                with error_messages():
                    found = with_modality(found, kind)
            except gr.Error as error:
                return [*[gr.skip()] * 5, refusal(error)]
            return [found, describe(found), *control(found, role), ""]

        kinds[side].input(rename, [kept[side], kinds[side]], own, **READING, **QUIET).then(
            look_again, seen, slices, **QUIET
        )

        def choose(found: Kept | None, wanted: str, role: str = role) -> list[Any]:
            if found is None:
                return [gr.skip()] * 3
            try:
                with error_messages():
                    window = found.windows.get(wanted) or parse_window(wanted, role)
                    if not isinstance(window, tuple):
                        text = f"The {role} has no window {wanted!r}: choose {', '.join(found.windows)} or LOW,HIGH."
                        raise Refusal("Unknown window", text)
            except gr.Error as error:
                return [gr.skip(), gr.skip(), refusal(error)]
            return [*ends_of(found, window, role), ""]

        chosen = presets[side].input(choose, [kept[side], presets[side]], [*controls[side][1:], message], **NOW)
        chosen.then(look_again, seen, slices, **QUIET)

    for part in (number, *edges):
        part.input(view, seen, [slices, message], **LIVE)

    def turn(stack: Stack | None, plane: str) -> Any:
        count = count_slices(stack, plane) if stack else 1
        return gr.update(maximum=count, value=(count + 1) // 2) if stack else gr.skip()

    plane.input(turn, [stack, plane], number, **NOW).then(view, seen, [slices, message], **QUIET)
    # With an output of its own, or the page would show the canceled run as an error.
    stop.click(lambda: "", None, message, cancels=runs, **QUIET)


def check_windows(windows: Any, kept: tuple[Kept | None, Kept | None]) -> Any:
    """Both windows; a `Refusal` where black is not below white."""
    for (low, high), one, role in zip(windows, kept, ROLES, strict=True):
        if one and not (low is not None and high is not None and low < high):
            text = f"Black is {low} and white is {high} for the {role}: move black below white."
            raise Refusal("Empty window", text)
    return windows


def control(kept: Kept, role: str) -> list[Any]:
    """Updates of the choice of a window and of both sliders."""
    choices = [(name.capitalize(), name) for name in kept.windows]
    preset = gr.update(choices=choices, value="default", visible=True)
    return [preset, *ends_of(kept, kept.windows["default"], role)]


def ends_of(kept: Kept, window: tuple[float, float], role: str) -> list[Any]:
    """Updates of both sliders; they reach from the smallest to the largest value, and to the window."""
    step = slider_step(kept.limits)
    low, high = min(kept.limits[0], window[0]), max(kept.limits[1], window[1])
    reach: dict[str, Any] = {"minimum": round(low // step * step, 9), "maximum": round(-(-high // step) * step, 9)}
    values = [round(round(end / step) * step, 9) for end in window]
    return [
        gr.update(value=value, label=edge_label(end, role, kept.unit), visible=True, step=step, **reach)
        for end, value in zip(ENDS, values, strict=True)
    ]


def edge_label(end: str, role: str, unit: str = "") -> str:
    """Of a slider, such as "Black, fixed volume (HU)"."""
    return f"{end}, {role} ({unit})" if unit else f"{end}, {role}"


def hidden() -> list[Any]:
    """Updates of a choice of a window and of both sliders without a volume."""
    return [gr.update(visible=False)] * 3
