"""Two cameras that do not match: pairs that are aligned before they are fused, and radiometric files."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gradio as gr
import numpy as np
import tifffile
from fuse import Left, Shown, fuse_into, fuse_pictures, quick_model, save_preview, save_result
from gpu import on_gpu
from PIL import Image
from storage import new_folder
from uploads import MAX_PIXELS, Refusal, error_messages, open_upload, read_upload, sentence

from fusion_hub.data.layouts import safe_name
from fusion_hub.image import PALETTES, Picture, draw_temperatures, read_radiometric
from fusion_hub.image.inputs import read_luminance
from fusion_hub.image.io import read_picture
from fusion_hub.rigs import Rig, RigCalibrator, RigError, Warp, edges_over, photo_rig
from fusion_hub.rigs.features import center_fit, shrink

FOV_RATIOS, EMISSIVITIES, DISTANCES = (0.2, 3), (0.01, 1), (0, 10_000)


def align(
    visible: str | None,
    infrared: str | None,
    model: str = "difffusenet-msrs",
    steps: str = "default",
    left: Left = "Edges",
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
    fov_ratio: str | None = "",
) -> tuple[str, str, tuple[str, str], str]:
    """Align and fuse two images of one scene from two cameras that differ in size and field of view.

    Args:
        visible: the image that gives color, size and depth.
        infrared: the other image, of any size.
        model: name of a bundled checkpoint.
        steps: of RED models: "default", "all", a number, or "auto".
        left: what the two pictures are: "Edges", those of the infrared image over the visible one before and after
            the alignment; or "Visible" or "Infrared" with the fused one.
        infrared_range: the values of the infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.
        keep_metadata: write position, date and camera of the visible image into the result.
        fov_ratio: width of the infrared camera's field of view divided by the visible's, such as "0.6", if it is known
            to about 10 %; empty if not.

    Returns:
        The fused image as a PNG file of the size of the visible one; the alignment as a JSON file for
        `fusion-hub fuse --rig`; two pictures; a text with the confidence of the alignment.
    """
    options = infrared_range, visible_range, keep_metadata, fov_ratio
    shown = align_and_show(visible, infrared, model, steps, left, *options)
    return shown.result, shown.rig, shown.slider(left), shown.text


@on_gpu(seconds=30)
@error_messages()
def align_and_show(
    visible: str | None,
    infrared: str | None,
    model: str,
    steps: str = "default",
    left: Left = "Edges",
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
    fov_ratio: str | None = "",
) -> Shown:
    """`align`, as the page keeps it for the visitor."""
    if left not in ("Edges", "Visible", "Infrared"):
        raise Refusal("Unknown pictures", f"The pictures are Edges, Visible or Infrared, not {left!r}.")
    ratio = parse_number(fov_ratio, "ratio of the fields of view", FOV_RATIOS)
    rig, seen, warm = find_rig(visible, infrared, ratio)
    folder = new_folder()
    options = infrared_range, visible_range, keep_metadata
    shown = fuse_into(folder, visible, infrared, model, steps, *options, rig=rig)
    for note in shown.notes:
        gr.Warning(html.escape(note, quote=False), title="Please check", duration=20)
    with Image.open(shown.visible) as picture:
        sizes = (picture.height, picture.width), rig.infrared_size
    small = shrink(seen, sizes[0])
    warps = Warp(center_fit(*sizes), *sizes), rig.at(*sizes)
    edges = [
        save_preview(Image.fromarray(edges_over(small, warm, warp)), folder / f"edges_{name}.png")
        for warp, name in zip(warps, ("before", "after"), strict=True)
    ]
    text = f"{describe(rig)}\n\n{shown.text}"
    return shown._replace(edges=(edges[0], edges[1]), rig=str(rig.save(folder / "rig.json")), text=text)


def find_rig(visible: str | None, infrared: str | None, fov_ratio: float | None) -> tuple[Rig, np.ndarray, np.ndarray]:
    """The alignment of two uploads, and their luminance, `(H, W)` and `(h, w)`.

    Raises:
        Refusal: a picture cannot be read, or the alignment is not sure.
    """
    sources = open_upload(visible, "visible"), open_upload(infrared, "infrared")
    try:
        seen, warm = read_luminance(sources[0], "visible"), read_luminance(sources[1], "infrared")
        calibrator = RigCalibrator(fov_ratio)
        calibrator.add_luminance(seen, warm)
        return calibrator.estimate(), seen, warm
    except RigError as error:
        raise Refusal("Not aligned", sentence(error)) from error
    except (TypeError, ValueError, OSError, SyntaxError) as error:
        raise Refusal("These images cannot be aligned", sentence(error)) from error


def parse_number(text: str | None, what: str, limits: tuple[float, float]) -> float | None:
    """An optional number of a text field; None if it is empty, a `Refusal` if it is none within the limits."""
    if not (text := str(text or "").strip().replace(",", ".")):
        return None
    low, high = limits
    try:
        if low <= (value := float(text)) <= high:
            return value
    except ValueError:
        pass
    raise Refusal("Unknown number", f"The {what} is a number from {low:g} to {high:g}, or empty, not {text[:40]!r}.")


def describe(rig: Rig) -> str:
    """The confidence of an alignment, in Markdown."""
    return f"**Aligned:** {rig.confidence}."


class Thermal(NamedTuple):
    """A radiometric file as the page shows it."""

    picture: str  # files: the temperatures in colors with their scale
    values: str  # the temperatures as TIFF, of the size of the fused image where there is one
    fused: str | None
    pictures: list[tuple[str, str]]  # visible, infrared and fused, with captions; empty without a visible one
    text: str


def temperatures(
    file: str | None,
    palette: str = "iron",
    emissivity: str | None = "",
    distance: str | None = "",
    highlight: str | None = "",
) -> tuple[str, str, str | None, list[tuple[str, str]], str]:
    """Read the temperatures of a radiometric file of a FLIR camera; fuse it with its own visible picture.

    Args:
        file: the JPEG or FFF file as the camera wrote it.
        palette: colors of the temperatures: "iron", "white-hot", "black-hot", "rainbow" or "arctic".
        emissivity: of the surface, "0.01" to "1"; empty for the value in the file.
        distance: to the surface in meters; empty for the value in the file.
        highlight: temperatures to paint in one color, such as ">37C", "<0C" or "20..25C".

    Returns:
        A picture of the temperatures with their scale; the temperatures in degrees C as a TIFF file; the fused image
        as a PNG file, if the file holds a visible picture; the pictures of that fusion; a text.
    """
    return read_thermal(file, palette, emissivity, distance, highlight)


@on_gpu(seconds=30)
@error_messages()
def read_thermal(
    file: str | None, palette: str, emissivity: str | None, distance: str | None, highlight: str | None
) -> Thermal:
    """`temperatures`."""
    source = read_upload(file, "radiometric file")
    if palette not in PALETTES:
        raise Refusal("Unknown palette", f"The palette is {' or '.join(PALETTES)}, not {palette!r}.")
    values = {
        "emissivity": parse_number(emissivity, "emissivity", EMISSIVITIES),
        "distance": parse_number(distance, "distance in meters", DISTANCES),
    }
    given = {name: value for name, value in values.items() if value is not None}
    painted = [highlight.strip()] if highlight and highlight.strip() else []
    rig = fusion = None
    try:
        thermogram = read_radiometric(source, "the file", MAX_PIXELS)
        degrees = thermogram.temperatures(name="the file", **given)
        scene, notes = thermogram.conditions.changed(**given), thermogram.notes("The file", **given)
        if thermogram.visible:
            rig = photo_rig(thermogram)
            inside = {"bytes": thermogram.visible, "path": None}

            def read() -> Iterator[Picture]:
                yield read_picture(inside, "the visible picture in the file", role="visible")
                yield thermogram.picture("the file", **given)

            fusion, _ = fuse_pictures(quick_model(), read, rig=rig)
            degrees = rig.warp(degrees).filled(np.nan)
    except RigError:
        pass  # the text says so
    except (TypeError, ValueError, OSError, SyntaxError) as error:
        raise Refusal("No temperatures", sentence(error)) from error
    try:
        ground = fusion and np.asarray(fusion.image)
        drawn = draw_temperatures(degrees, palette, highlight=painted, picture=ground)
    except ValueError as error:
        raise Refusal("No picture of the temperatures", sentence(error)) from error
    folder, stem = new_folder(), safe_name(Path(source["path"]).stem)[:80]
    height, width = thermogram.counts.shape
    text = f"{width} x {height} pixels, {np.nanmin(degrees):.1f} to {np.nanmax(degrees):.1f} °C, with {scene}."
    if fusion and rig:
        by = "their edges" if rig.frames else "the geometry that the camera states"
        text += f" Fused with the visible picture of the file by {quick_model()}, aligned by {by}."
    elif thermogram.visible:
        text += " The visible picture of the file could not be aligned, so only the temperatures are shown."
    text += "".join(f"\n\n**Please check:** {html.escape(note, quote=False)}." for note in notes)
    target = folder / f"{stem}_temperatures.tif"
    tifffile.imwrite(target, degrees)
    picture = save_preview(drawn, folder / f"{stem}_temperatures.png")
    if not fusion:
        return Thermal(picture, str(target), None, [], text)
    fused = save_result(fusion.image, folder / f"{stem}_fused.png")
    pictures = [
        (save_preview(shown, folder / f"{name.lower()}.png"), name)
        for name, shown in (("Visible", fusion.visible), ("Infrared", fusion.infrared), ("Fused", fusion.fused))
    ]
    return Thermal(picture, str(target), fused, pictures, text)
