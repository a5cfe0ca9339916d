"""The tabs Detect and segment, Measure and How it works: closer looks at the pair that was last fused."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import style
from analysis import MEASURED, detect, detector_name, explain, measure, measured_table
from fuse import Shown
from pairs import PairTab
from stopping import stoppable
from tabs import GPU, PRIVATE, QUIET, pictures
from uploads import Refusal


def follow_last(last: gr.State, pairs: Sequence[PairTab]) -> None:
    """Keep in `last` what the visitor last fused on any of these tabs, as a `Shown`; None while none shows a pair.

    It opens with the example of the first tab.
    """
    states = [pair.shown for pair in pairs]
    for index, state in enumerate(states):

        def follow(*shown: Shown | None, own: int = index) -> Any:
            newest = shown[own] or next((one for one in shown if one and not one.opening), None)
            return gr.skip() if own and newest and newest.opening else newest

        for event in (state.change, *pairs[index].fused):  # the page hears of no change by an event outside the queue
            event(follow, states, last, **QUIET)


def detect_tab(pair: PairTab, last: gr.State) -> None:
    """Detections and segmentations in all three pictures."""
    found = bool(detector_name())
    gr.Markdown(style.DETECT if found else style.SEGMENT)
    hint = gr.Markdown(style.DETECT_HINT)
    with gr.Row(equal_height=True):
        label = "Show objects with a score of at least"
        look: dict[str, Any] = {"value": 0.3, "step": 0.05, "visible": found, "elem_id": "detect_threshold"}
        threshold = gr.Slider(0.1, 0.9, label=label, **look)
        name = "Detect and segment" if found else "Segment"
        button = gr.Button(name, variant="primary", elem_id="detect_run", elem_classes="action")
    detected = pictures("detect_gallery", "Detections", visible=found)
    counts = gr.HTML("", elem_id="detect_counts", visible=found)
    segmented = pictures("segment_gallery", "Classes")
    shares = gr.HTML("", elem_id="segment_shares")
    outputs = [detected, counts, segmented, shares]
    # For programs, without the state: Gradio fails when an assistant calls an event that has one.
    gr.on([], stoppable(detect), [*pair.pair, threshold, *pair.ranges, pair.steps], outputs, api_name="detect", **GPU)
    button.click(stoppable(of_shown(detect)), [last, threshold], outputs, show_progress_on=detected, **GPU, **PRIVATE)

    def detect_again(shown: Shown | None, counted: str, score: float) -> Any:
        return of_shown(detect)(shown, score) if counted else [gr.skip()] * len(outputs)

    again: dict[str, Any] = {"show_progress_on": detected, **GPU, **PRIVATE}
    threshold.release(stoppable(detect_again), [last, counts, threshold], outputs, **again)
    clear_when_changed(last, [hint, *outputs], [style.DETECT_HINT, None, "", None, ""])


def measure_tab(pair: PairTab, last: gr.State) -> None:
    """Metrics and guard rails."""
    gr.Markdown(style.MEASURE)
    hint = gr.Markdown(style.HINT)
    button = gr.Button("Measure", variant="primary", elem_id="measure_run", elem_classes="action")
    table = gr.HTML("", elem_id="measure_table")
    notes = gr.Markdown("", elem_id="measure_notes")
    rows = gr.Dataframe(headers=list(MEASURED), type="array", visible=False)  # what programs get

    def show(shown: Shown | None) -> tuple[str, str]:
        values, text = of_shown(measure)(shown)
        return measured_table(values), text

    gr.on([], stoppable(measure), [*pair.pair, *pair.ranges, pair.steps], [rows, notes], api_name="measure", **GPU)
    button.click(stoppable(show), last, [table, notes], show_progress_on=table, **GPU, **PRIVATE)
    clear_when_changed(last, [hint, table, notes], [style.HINT, "", ""])


def how_tab(pair: PairTab, last: gr.State) -> None:
    """Intermediate results of the network."""
    gr.Markdown(style.HOW)
    hint = gr.Markdown(style.HINT)
    button = gr.Button("Look inside", variant="primary", elem_id="how_run", elem_classes="action")
    story = pictures("how_gallery", "Inside the network")
    with gr.Accordion("All steps", open=False, elem_id="how_all"):
        gr.Markdown(style.ALL_STEPS)
        steps = pictures("how_all_gallery", "All steps, in order of computation", columns=4)
    outputs = [story, steps]
    gr.on([], stoppable(explain), [*pair.pair, *pair.ranges, pair.steps], outputs, api_name="explain", **GPU)
    button.click(stoppable(of_shown(explain)), last, outputs, show_progress_on=story, **GPU, **PRIVATE)
    clear_when_changed(last, [hint, *outputs], [style.HINT, None, None])


def of_shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for the pair, ranges and steps of a `Shown`, with other arguments after the model."""

    def call(shown: Shown | None, *others: Any) -> Any:
        if shown is None:
            raise Refusal("No pair yet", "Fuse a pair first, then come back.")
        return function(*shown.call[:3], *others, *shown.call[3:])

    return call


def clear_when_changed(state: gr.State, parts: list[Any], empty: list[Any]) -> None:
    """Clear the results of a tab when another pair is shown; the hint, first of `parts`, names it."""

    def named(shown: Shown | None) -> list[Any]:
        return [f"Pair: {shown.title}." if shown else empty[0], *empty[1:]]

    state.change(named, state, parts, **QUIET)
