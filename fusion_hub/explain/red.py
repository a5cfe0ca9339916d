"""RED in pictures: the states of its chain, the clean image that it expects after each step, and the fused one."""

import math

from torch import Tensor

from fusion_hub.explain.pictures import Panel, gray, limits, opposed
from fusion_hub.models.red import REDOutput


def explain_red(output: REDOutput, names: tuple[str, str]) -> list[Panel]:
    """Panels of one pair, float32 on the CPU; `names` are those of its images."""
    white = max(limits(output.fused)[1], 1e-3)  # one scale for all: states are darker than images
    panels = [_start(output, names, white)]
    for k in range(output.steps):
        panels += _step(output, k, names, white)
    return [*panels, _fused(output, white)]


def _start(output: REDOutput, names: tuple[str, str], white: float) -> Panel:
    n, level = output.start, math.sqrt(math.prod(output.coefficients["alphas"][: output.start]))
    if output.coefficients["v"]:
        caption = (
            f"The chain opens with the {names[0]} image at {level:.2f} of its brightness; x_{n + 1}, the {names[1]} "
            "image at the same level, stands beside it."
        )
    else:
        caption = f"The chain opens with the mean of both images at {level:.2f} of its brightness."
    scale = f" All pictures but those of changes are on one scale, where white is {white:.2f}."
    return _panel(f"Start: x_{n}", output.states[0], white, caption + scale, "Start")


def _step(output: REDOutput, k: int, names: tuple[str, str], white: float) -> list[Panel]:
    """The state after step k, the clean image expected then, and what the step changed in that."""
    t, stage = output.start - k, f"Step {k + 1}"
    panels = [_panel(f"State x_{t - 1}", output.states[k + 1], white, _step_caption(output, t, names), stage)]
    if t > 1:  # x_0 is its own clean image
        caption = f"The clean image that the network expects from x_{t - 1}: the state without the predicted noise."
        panels.append(_panel(f"Clean image after step {k + 1}", output.estimates[k], white, caption, stage))
    if k > 0:
        change = (output.estimates[k] - output.estimates[k - 1])[0, 0]
        caption = (
            f"How step {k + 1} changed the expected clean image (blue darker, orange brighter): by "
            f"{float(change.abs().mean()) * 255:.1f} of 255 gray levels on average."
        )
        size = (change.shape[0], change.shape[1])
        image = opposed(change, 0, max(map(abs, limits(change))), 1, size)
        panels.append(Panel(f"Changed by step {k + 1}", image, caption, stage))
    return panels


def _step_caption(output: REDOutput, t: int, names: tuple[str, str]) -> str:
    step = f"DDIM step from x_{t} (learned alpha_{t} = {output.coefficients['alphas'][t - 1]:.2f})"
    if not output.coefficients["v"]:
        return f"A {step}."
    v = output.coefficients["v"][t - 1]
    before = f"x_{t + 1}, the {names[1]} image" if t == output.start else f"x_{t + 1}"
    return f"{1 - v:.2f} of a {step} and {v:.2f} of {before} (learned v_{t})."


def _fused(output: REDOutput, white: float) -> Panel:
    if output.steps < output.start:
        caption = (
            f"The chain was left after {output.steps} of {output.start} steps: its last clean image is the result."
        )
    else:
        last = output.coefficients["lambda"]
        sign = "+" if last <= 1 else "-"
        caption = f"The result is {last:.2f} x_0 {sign} {abs(1 - last):.2f} x_1 (learned lambda = {last:.2f})."
    return _panel("Fused luminance", output.fused, white, caption, "Result")


def _panel(title: str, image: Tensor, white: float, caption: str, stage: str) -> Panel:
    return Panel(title, gray(image[0, 0], 0, white), caption, stage)
