"""DiffFuseNet in pictures: features, denoising, shared and specific parts, bands, attention, and the fusion itself."""

import torch
from torch import Tensor

from fusion_hub.explain.pictures import Panel, PrincipalColors, energy, gray, heat, limits, opposed
from fusion_hub.models.difffusenet import DiffFuseNetOutput

Pair = tuple[Tensor, Tensor]
Names = tuple[str, str]
CONSTANT = 0.02  # of full brightness, or of a gate: a map that varies less is the same everywhere, and is left out


def explain_difffusenet(output: DiffFuseNetOutput, names: Names) -> list[Panel]:
    """Panels of one pair, float32 on the CPU; `names` are those of its images.

    What is the same at every pixel shows nothing of the pair and is left out, such as the residual of a clean image.
    """
    return [panel for stage in (_features, _decoupling, _bands, _attention, _fusion) for panel in stage(output, names)]


def _features(output: DiffFuseNetOutput, names: Names) -> list[Panel]:
    """Features before and after denoising, with one set of colors."""
    pixels, channels = f"{output.patch_size} x {output.patch_size} pixels", output.shallow[0].shape[1]
    colors = _colors(output, *output.shallow, *output.enhanced)
    caption = (
        f"Two layers of convolutions describe each {pixels} of the {{name}} image by {channels} numbers, of which the "
        "three main directions are drawn as brightness and hue; like colors mean like descriptions in both pictures."
    )
    panels = _painted(output, colors, output.shallow, names, "Features", caption, "Features")
    if output.noisy is None or output.residual is None:
        return panels
    stage, noisy = "Diffusion", any(not torch.equal(*pair) for pair in zip(output.noisy, output.shallow, strict=True))
    if noisy:
        caption = "The features of the {name} image with the noise that was added to them."
        panels += _painted(output, colors, output.noisy, names, "With noise", caption, stage)
    given = "" if noisy else " (no noise was added, so that the result is deterministic)"
    caption = f"The denoiser's estimate of the clean features of the {{name}} image{given}."
    if output.noise_level is not None:
        found = " and ".join(
            f"{255 * level:.1f} in {name}" for level, name in zip(output.noise_level, names, strict=True)
        )
        caption += f" The noise of each image sets the diffusion step: {found}, of 255 gray levels."
    panels += _painted(output, colors, output.enhanced, names, "Denoised", caption, stage)
    changes = [energy(after[0] - before[0]) for after, before in zip(output.enhanced, output.shallow, strict=True)]
    top = limits(*changes)[1]
    for change, name, before in zip(changes, names, output.shallow, strict=True):
        variation = energy(before[0] - before[0].mean(dim=(1, 2), keepdim=True))
        share = float(change.square().mean().sqrt() / variation.square().mean().sqrt().clamp(min=1e-12))
        caption = (
            f"Bright where the denoiser changed the features of the {name} image, on average by {share:.0%} of "
            "their own variation over the image."
        )
        image = heat(change, 0, top, output.patch_size, _size(output))
        panels.append(Panel(f"Changed by denoising, {name}", image, caption, stage))
    reach = max(abs(bound) for residual in output.residual for bound in limits(residual[0]))
    for residual, titles in zip(output.residual, _residual_titles(output, names), strict=True):
        low, high = limits(residual[0])
        if high - low < CONSTANT:
            continue
        title, added = titles
        caption = f"{added} (blue darkens, orange brightens): {_span(residual[0])} of full brightness."
        panels.append(Panel(title, opposed(residual[0], 0, reach, 1, _size(output)), caption, stage))
    return panels


def _residual_titles(output: DiffFuseNetOutput, names: Names) -> list[tuple[str, str]]:
    """Title and caption of each residual."""
    assert output.residual is not None
    if len(output.residual) == 1:
        added = "The denoised features add this to the luminance of both images before their bands are taken"
        return [("Added to both images", added)]
    added = "What the denoiser removed from the features of the {name} image changes its luminance by this"
    return [(f"Noise removed from {name}", added.format(name=name)) for name in names]


def _decoupling(output: DiffFuseNetOutput, names: Names) -> list[Panel]:
    stage, size = "Shared and specific", _size(output)
    decoupled = not torch.equal(output.specific[0], output.enhanced[0])  # equal where the network has no EDFD
    derived = "Features derived from both images" if decoupled else "The mean of the features of both images"
    image = _colors(output, output.shared).paint(output.shared[0], output.patch_size, size)
    panels = [Panel("Shared by both sensors", image, f"{derived}; like colors mean like features.", stage)]
    for features, name in zip(output.specific, names, strict=True):
        caption = (
            f"Features of the {name} image once the shared ones are taken away."
            if decoupled
            else f"The features of the {name} image as they are: this network does not take the shared ones away."
        )
        # Each image has its own layers, and so its own colors.
        image = _colors(output, features).paint(features[0], output.patch_size, size)
        panels.append(Panel(f"Specific to {name}", image, caption, stage))
    return panels


def _bands(output: DiffFuseNetOutput, names: Names) -> list[Panel]:
    if output.low is None or output.high is None:
        return []
    stage, cell = "Frequency bands", 2 * output.patch_size
    caption = "The low band of the {name} image, averages of 2 x 2 cells of its features and pixels: coarse structure."
    panels = _painted(output, _colors(output, *output.low), output.low, names, "Low band", caption, stage, cell)
    details = [energy(high[0]) for high in output.high]
    top = limits(*details)[1]
    for detail, name in zip(details, names, strict=True):
        caption = (
            f"The three high bands of the {name} image together: bright where neighboring cells differ, at edges "
            "and in texture."
        )
        plain = f"Bright where the {name} image has edges and texture, which the fused image should keep."
        panels.append(Panel(f"Edges, {name}", heat(detail, 0, top, cell, _size(output)), caption, stage, plain))
    return panels


def _attention(output: DiffFuseNetOutput, names: Names) -> list[Panel]:
    stage, cell, size = "Cross-frequency attention", 2 * output.patch_size, _size(output)
    panels = []
    for gates, title, action in (
        (output.spatial_gate, "Attention to detail", "low band multiplies the high bands"),
        (output.channel_gate, "Attention to structure", "high bands multiply the low band"),
    ):
        if gates is None:
            continue
        means = [gate[0].mean(dim=0) for gate in gates]
        low, high = limits(*means)  # one scale for both images
        if high - low < CONSTANT:
            continue
        for mean, name in zip(means, names, strict=True):
            caption = (
                f"By how much the {action} of the {name} image, from {low:.2f} (dark) to {high:.2f} (bright) as a mean "
                "over channels; 1 would change nothing."
            )
            panels.append(Panel(f"{title}, {name}", heat(mean, low, high, cell, size), caption, stage))
    return panels


def _fusion(output: DiffFuseNetOutput, names: Names) -> list[Panel]:
    stage, size = "Fusion", _size(output)
    fused, share, correction = output.fused[0, 0], output.share[0, 0], output.correction[0, 0]
    first, second = names
    shares = (
        f"The share s of each pixel: blue pixels are from the {first} image, {float(share.mean()):.0%} on average, "
        f"orange ones from the {second} image, dark ones from both."
    )
    added = f"The correction r of the mixture (blue darkens, orange brightens): {_span(correction)} of full brightness."
    reach = max(map(abs, limits(correction)))
    story = (
        f"The network decides at each pixel which image to take: blue means {first}, orange {second}, dark both.",
        "Both images, mixed by these shares.",
        "What the network then adds: orange brightens, blue darkens, black stays as it is.",
        f"Mixture and correction together; the colors of the {first} image are added last.",
    )
    return [
        Panel("Share of each image", opposed(1 - share, 0.5, 0.5, 1, size), shares, stage, story[0]),
        Panel("Mixture", gray(fused - correction), "The sum of both images, weighted by s and 1 - s.", stage, story[1]),
        Panel("Correction", opposed(correction, 0, reach, 1, size), added, stage, story[2]),
        Panel("Fused luminance", gray(fused), "The mixture and the correction.", stage, story[3]),
    ]


def _painted(
    output: DiffFuseNetOutput,
    colors: PrincipalColors,
    features: Pair,
    names: Names,
    title: str,
    caption: str,
    stage: str,
    cell: int | None = None,
) -> list[Panel]:
    """One panel for each image; `{name}` in the caption is its name."""
    return [
        Panel(
            f"{title}, {name}",
            colors.paint(one[0], cell or output.patch_size, _size(output)),
            caption.format(name=name),
            stage,
        )
        for one, name in zip(features, names, strict=True)
    ]


def _colors(output: DiffFuseNetOutput, *features: Tensor) -> PrincipalColors:
    return PrincipalColors([one[0] for one in features], output.fused[0])


def _span(values: Tensor) -> str:
    """Phrase for the range of 98 % of the values."""
    low, high = (round(limit, 2) + 0.0 for limit in limits(values))
    return f"{low:.2f} almost everywhere" if low == high else f"mostly between {low:.2f} and {high:.2f}"


def _size(output: DiffFuseNetOutput) -> tuple[int, int]:
    return output.fused.shape[-2], output.fused.shape[-1]
