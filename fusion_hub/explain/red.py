"""RED in pictures: the states of its chain, the clean image that it expects after each step, and the fused one."""

import math

from torch import Tensor

from fusion_hub.explain.pictures import Panel, gray, limits, opposed
from fusion_hub.models.red import REDOutput


def explain_red(output: REDOutput, names: tuple[str, str]) -> list[Panel]:
    """Panels of one pair, float32 on the CPU; `names` are those of its images."""
    white = max(limits(output.fused)[1], 1e-3)  # one scale for all: states are darker than images
    alphas, v, start = output.coefficients["alphas"], output.coefficients["v"], output.start

    def panel(title: str, image: Tensor, caption: str, stage: str, plain: str = "") -> Panel:
        return Panel(title, gray(image[0, 0], 0, white), caption, stage, plain)

    level = f"at {math.sqrt(math.prod(alphas[:start])):.2f} of its brightness"
    if v:
        caption = (
            f"The chain opens with x_{start}, the {names[0]} image {level}; x_{start + 1}, the {names[1]} image at the "
            "same level, stands beside it."
        )
        plain = f"The network starts with the {names[0]} image, darkened."
    else:
        caption = f"The chain opens with x_{start}, the mean of both images {level}."
        plain = "The network starts with the mean of both images, darkened."
    scale = f" All pictures but those of changes are on one scale, where white is {white:.2f}."
    panels = [panel("Start", output.states[0], caption + scale, "Start", plain)]

    for k in range(output.steps):
        t, stage, last = start - k, f"Step {k + 1}", k == output.steps - 1
        step = f"DDIM step from x_{t} (learned alpha_{t} = {alphas[t - 1]:.2f})"
        before = f"x_{t + 1}, the {names[1]} image" if k == 0 else f"x_{t + 1}"
        caption = f"The state x_{t - 1} is a {step}."
        if v:
            caption = (
                f"The state x_{t - 1} is {1 - v[t - 1]:.2f} of a {step} and {v[t - 1]:.2f} of {before} (learned v_{t})."
            )
        plain = ""
        if k == 0:
            plain = f"One step of the diffusion{f', which adds the {names[1]} image' if v else ''}."
        elif last:
            plain = "The last step refines it."
        panels.append(panel(f"After step {k + 1}", output.states[k + 1], caption, stage, plain))
        if t > 1:  # x_0 is its own clean image
            caption = f"The clean image that the network expects from x_{t - 1}: the state without the predicted noise."
            plain = "The result that the network expects at this point." if k == 0 else ""
            panels.append(panel(f"Expected after step {k + 1}", output.estimates[k], caption, stage, plain))
        if k > 0:
            change = (output.estimates[k] - output.estimates[k - 1])[0, 0]
            caption = (
                f"How step {k + 1} changed the expected clean image (blue darker, orange brighter): by "
                f"{float(change.abs().mean()) * 255:.1f} of 255 gray levels on average."
            )
            plain = "What the last step changed: orange became brighter, blue darker." if last else ""
            image = opposed(change, 0, max(map(abs, limits(change))), 1, (change.shape[0], change.shape[1]))
            panels.append(Panel(f"Changed by step {k + 1}", image, caption, stage, plain))

    weight = output.coefficients["lambda"]
    caption = f"The result is {weight:.2f} x_0 {'+' if weight <= 1 else '-'} {abs(1 - weight):.2f} x_1 "
    caption += f"(learned lambda = {weight:.2f})."
    if output.steps < start:
        caption = f"The chain was left after {output.steps} of {start} steps: its last clean image is the result."
    plain = f"The result; the colors of the {names[0]} image are added last."
    return [*panels, panel("Fused luminance", output.fused, caption, "Result", plain)]
