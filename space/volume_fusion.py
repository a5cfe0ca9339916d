"""Two volumes into one on the page: registration, fusion within limits, and the slices to scroll through."""

import base64
import html
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gradio as gr
import numpy as np
from fuse import LANE, RED_MAX_PIXELS, available_models, has_steps, load_pipeline
from gpu import on_gpu
from PIL import Image
from stopping import check
from storage import Room, new_folder
from uploads import Refusal, error_messages, sentence
from volume_files import MAX_VOXELS, TOO_LONG_AGO, Kept, keep, name_of, parse_window

from fusion_hub import volumes
from fusion_hub.image.luminance import quantize

NOTICE = "Derived, not for diagnosis."
REGISTRATIONS = ("auto", "rigid", "affine", "none")
PLANES = ("Axial", "Coronal", "Sagittal")
UPTAKE = "Uptake"
ROLES = ("fixed volume", "moving volume")
SHOWN_SIDE = 512  # pixels of a slice on the page, at most
_NOWHERE = np.float32(-1e30)  # black in any window: where a volume has no data
_SQUARES = 8  # of the checkerboard, along the longer side

Window = tuple[float, float]


class Stack(NamedTuple):
    """A fused pair to scroll through: slices from feet to head, rows from front to back, columns from right to left."""

    folder: str  # fixed.npy and moving.npy in physical units, fused.npy in 8 bits
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  # mm between slices, rows, columns
    names: tuple[str, str]  # of the fixed and the moving volume
    units: tuple[str, str]
    windows: tuple[Window, Window]  # that the fusion was made with
    result: str  # files: the fused volume, the sheet of views, the legend of colors
    views: str
    legend: str | None
    text: str


def medical_models() -> list[str]:
    """Installed checkpoints for scans, the fast one first."""
    names = [info.name for info in available_models() if "MRI" in info.modality]
    return sorted(names, key=has_steps)


def fuse_volume(
    fixed: str | None,
    moving: str | None,
    model: str = "difffusenet-medical",
    registration: str = "auto",
    window: str | None = "",
    moving_window: str | None = "",
    modality: str | None = "",
    moving_modality: str | None = "",
    series: str | None = "",
    moving_series: str | None = "",
    color: str | None = "",
    accept_unsure: bool = False,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio's way to ask for it
) -> tuple[str, str, str]:
    """Fuse two volumes of one person, such as MR with CT, PET or SPECT. For research, not for diagnosis.

    Args:
        fixed: a zip file with the files of one DICOM series, one DICOM file, or a NIfTI (.nii, .nii.gz), NRRD or
            MetaImage (.mha) file, of at most 16.8 million voxels and 32 MiB. It is deleted once it has been read.
        moving: the other volume, which is brought onto the first.
        model: name of a bundled checkpoint for scans.
        registration: "rigid", "affine" or "none"; "auto" is rigid, or none where both volumes share a DICOM frame of
            reference.
        window: the values of the first volume that become black and white: "LOW,HIGH" in its unit, for CT "brain",
            "subdural", "bone", "lung", "soft-tissue", "mediastinum" or "abdomen", or "percentile", "uptake" or "full";
            empty for the modality's default.
        moving_window: the same for the other volume.
        modality: "CT", "MR", "PT" (PET) or "NM" (SPECT) of a first volume whose file does not say it.
        moving_modality: the same for the other volume.
        series: of several series in a zip file or volumes in a file, the position of the one to use, such as "#2".
        moving_series: the same for the other volume.
        color: of the uptake of PET or SPECT: "hot", "iron" or "pet"; empty for gray.
        accept_unsure: fuse even if the registration fails its checks.

    Returns:
        The fused volume as NIfTI; a picture of three views of both volumes, the result and a checkerboard; a text.
    """
    kept: list[Kept] = []
    with error_messages():
        windows = tuple(parse_window(text, role) for text, role in zip((window, moving_window), ROLES, strict=True))
        _check_choices(model, registration, color)
        for upload, role, one, kind in (
            (fixed, ROLES[0], series, modality),
            (moving, ROLES[1], moving_series, moving_modality),
        ):
            kept.append(keep(upload, role, one, kind))
        try:
            stack = fuse_kept(progress, kept[0], kept[1], model, registration, windows, color, accept_unsure)
        finally:
            for read in kept:
                Path(read.file).unlink(missing_ok=True)
        for file in Path(stack.folder).glob("*.npy"):
            file.unlink()
    return stack.result, stack.views, stack.text


@on_gpu(seconds=120)
@error_messages()
def fuse_kept(
    progress: gr.Progress,
    fixed: Kept | None,
    moving: Kept | None,
    model: str,
    registration: str,
    windows: Sequence[str | Window | None],
    color: str | None = "",
    accept_unsure: bool = False,
) -> Stack:
    """Register and fuse two volumes that were read, into files of a new folder."""
    _check_choices(model, registration, color)
    for one, role in zip((fixed, moving), ROLES, strict=True):
        if one is None:
            text = f"Add the {role} first, and wait until its size is shown."
            raise Refusal("Nothing to read yet", text)
    assert fixed is not None and moving is not None
    begun = time.monotonic()
    try:
        progress(0, desc="Reading the volumes")
        first, second = fixed.volume(), moving.volume()
        if color:
            _check_color(first, second)
        transform, lines = _transform(progress, first, second, registration, accept_unsure)
        pair = volumes.align(first, second, transform, window=windows[0], moving_window=windows[1])
        voxels, most = pair.anatomy.size, RED_MAX_PIXELS if has_steps(model) else MAX_VOXELS
        if voxels > most:
            text = f"The result would have {voxels:,} voxels, and {model} takes at most {most:,} here"
            raise Refusal("Too large", f"{text}: choose another model, or use fusion-hub fuse-volume.")
        with Room(voxels * 12):
            fused = _fused(progress, pair, model)
            return _stored(pair, fused, (first, second), transform, model, color, lines, begun)
    except volumes.VolumeError as error:
        raise Refusal("These volumes cannot be fused", sentence(error)) from None


def _check_choices(model: str, registration: str, color: str | None) -> None:
    if model not in (names := medical_models()):
        raise Refusal("Unknown model", f"There is no model {model!r} for volumes: choose {' or '.join(names)}.")
    if registration not in REGISTRATIONS:
        raise Refusal("Unknown registration", f"The registration is {', '.join(REGISTRATIONS)}, not {registration!r}.")
    if color and color not in volumes.COLOR_MAPS:
        raise Refusal("Unknown colors", f"The color is {', '.join(volumes.COLOR_MAPS)} or empty, not {color!r}.")


def _check_color(first: "volumes.Volume", second: "volumes.Volume") -> None:
    if not {first.modality, second.modality} & {"PT", "NM"}:
        text = "Color shows the uptake of PET or SPECT, and neither volume is one: choose gray, or say what it is."
        raise Refusal("No uptake", text)


def _transform(
    progress: gr.Progress, first: "volumes.Volume", second: "volumes.Volume", registration: str, accept_unsure: bool
) -> tuple[Any, list[str]]:
    """The transform from points of the fixed to the moving volume, and what to say about it."""
    shared = first.space is not None and first.space == second.space
    if registration == "none" or (registration == "auto" and shared):
        why = "both volumes share a DICOM frame of reference" if shared else "as chosen"
        return None, [f"Not registered, {why}."]
    kind: Literal["rigid", "affine"] = "affine" if registration == "affine" else "rigid"
    steps = iter(range(5))

    def report(words: str) -> None:
        check()
        progress((next(steps, 4), 5), desc=f"{words[:1].upper()}{words[1:]}")

    found = volumes.register(first.image, second.image, kind, report=report)
    check()
    text = (
        f"**Registered** ({kind}): normalized mutual information {found.quality:.3f}, by chance {found.chance:.3f}; "
        f"two searches agree within {found.disagreement:.1f} mm; overlap {found.overlap:.0%}. Look at the "
        "checkerboard: edges should go on from square to square."
    )
    if found.trustworthy:
        return found.transform, [text]
    if not accept_unsure:
        advice = (
            "check the volumes, choose another registration, or allow an uncertain one and look at the checkerboard"
        )
        raise Refusal("Not registered", f"The registration is not certain, {found.reason}: {advice}.")
    return found.transform, [text, f"**Please check:** The registration is not certain, {found.reason}."]


def _fused(progress: gr.Progress, pair: "volumes.AlignedPair", model: str) -> "volumes.Volume":
    pipeline = load_pipeline(model)
    begun = time.monotonic()

    def advance(done: int, total: int) -> None:
        left = (time.monotonic() - begun) / done * (total - done)
        progress((done, total), desc=f"Fusing, about {math.ceil(left)} s left", unit="slices")
        LANE.release()  # other visitors fuse their pairs in between
        time.sleep(0.01)
        LANE.acquire()

    with LANE:
        check()
        return volumes.fuse_aligned(pair, pipeline, progress=advance)


def _stored(
    pair: "volumes.AlignedPair",
    fused: "volumes.Volume",
    sources: "tuple[volumes.Volume, volumes.Volume]",
    transform: Any,
    model: str,
    color: str | None,
    lines: list[str],
    begun: float,
) -> Stack:
    folder = new_folder()
    levels, legend = volumes.to_levels(fused), None
    if color:
        levels, scale = volumes.color_uptake(fused, pair, color)
        legend = str(volumes.save_legend(scale, folder / "legend.png"))
    result = volumes.write_image(levels, folder / "fused.nii.gz")
    sheet = volumes.draw_views(pair, fused, levels if color else None)
    sheet.save(folder / "views.png")

    kept, other = pair.sources
    mapping = transform if transform is None or pair.grid_side == "fixed" else transform.GetInverse()
    values, covered = volumes.resample(other, pair.grid, mapping)
    geometry = pair.grid.GetOrigin(), pair.grid.GetSpacing(), pair.grid.GetDirection()
    elsewhere = volumes.from_array(np.where(covered, values, _NOWHERE), *geometry)
    own, theirs = ("fixed", "moving") if pair.grid_side == "fixed" else ("moving", "fixed")
    shown = levels if color else volumes.to_levels(fused, np.uint8)
    for name, one in ((own, kept), (theirs, elsewhere), ("fused", volumes.Volume(shown))):
        turned = volumes.upright(one)
        np.save(folder / f"{name}.npy", turned.array)
        shape, spacing = turned.array.shape[:3], turned.image.GetSpacing()[::-1]
    windows = pair.windows if pair.grid_side == "fixed" else pair.windows[::-1]
    names = name_of(sources[0].modality, ROLES[0]), name_of(sources[1].modality, ROLES[1])
    size, seconds = " x ".join(map(str, pair.grid.GetSize())), time.monotonic() - begun
    text = f"{size} voxels fused in {seconds:.0f} s by {model}. {NOTICE}"
    notes = [f"**Please check:** {html.escape(sentence(note), quote=False)}" for note in fused.notes]
    return Stack(
        str(folder),
        shape,
        spacing,
        names,
        (sources[0].unit, sources[1].unit),
        windows,
        str(result),
        str(folder / "views.png"),
        legend,
        "\n\n".join([text, *lines, *notes]),
    )


def count_slices(stack: Stack, plane: str) -> int:
    """How many slices a plane has."""
    return stack.shape[_axis(plane)]


def draw_slices(stack: Stack, plane: str, number: int, windows: tuple[Window, Window]) -> str:
    """One slice of both volumes, their fusion and a checkerboard, as HTML with the pictures in it.

    Args:
        number: of the slice, from 1.
        windows: black and white of the fixed and the moving volume; the fusion stays as it was made.
    """
    axis = _axis(plane)
    at = min(max(int(number), 1), stack.shape[axis]) - 1
    try:
        fixed, moving, fused = (
            _plane(np.load(Path(stack.folder) / f"{name}.npy", mmap_mode="r"), axis, at)
            for name in ("fixed", "moving", "fused")
        )
    except OSError as error:
        raise Refusal(*TOO_LONG_AGO) from error
    down, across = (step for other, step in enumerate(stack.spacing) if other != axis)
    planes = *(volumes.apply_window(one, edges) for one, edges in zip((fixed, moving), windows, strict=True)), fused
    pictures = [picture(plane, down, across) for plane in planes]
    pictures.append(_checkerboard(*pictures[:2]))
    fused_as = "fused" if windows == stack.windows else "fused with earlier windows: fuse again"
    names = [*stack.names, fused_as, "checkerboard"]
    if stack.legend:
        with Image.open(stack.legend) as legend:
            pictures.append(legend.copy())
        names.append(UPTAKE)
    place = f"{plane.lower()} slice {at + 1} of {stack.shape[axis]}"
    return figures([(f"{name[:1].upper()}{name[1:]}", place, one) for name, one in zip(names, pictures, strict=True)])


def draw_middles(kept: Sequence[Kept | None], windows: Sequence[Window]) -> str:
    """The middle slices of the volumes that were read, as HTML; empty if there is none."""
    shown = [
        (
            name_of(one.modality, role),
            "axial slice in the middle",
            picture(volumes.apply_window(one.middle, window), *one.pixel),
        )
        for one, role, window in zip(kept, ROLES, windows, strict=True)
        if one
    ]
    return figures(shown) if shown else ""


def describe(kept: Kept) -> str:
    """What a volume is, as HTML."""
    return "".join(f"<p>{html.escape(line)}</p>" for line in (kept.text(), *map(sentence, kept.notes)))


def picture(plane: np.ndarray, down: float, across: float) -> Image.Image:
    """A slice in its true proportions; values in [0, 1], or 8-bit gray levels or colors.

    Args:
        down, across: mm between rows and between columns.
    """
    levels = plane if plane.dtype == np.uint8 else quantize(plane)
    height, width = levels.shape[0] * down, levels.shape[1] * across
    scale = min(1 / min(down, across), SHOWN_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(np.ascontiguousarray(levels)).resize(size, Image.Resampling.BILINEAR)


def figures(shown: Sequence[tuple[str, str, Image.Image]]) -> str:
    """Pictures with captions and descriptions as HTML that needs no other file."""
    parts = []
    for name, place, one in shown:
        stream = io.BytesIO()
        one.save(stream, "PNG", compress_level=3)
        code = base64.b64encode(stream.getvalue()).decode()
        alt = html.escape(f"{name}, {place}" if name else place)
        caption = f"<figcaption>{html.escape(name)}</figcaption>" if name else ""
        kind = " class=legend" if name == UPTAKE else ""
        parts.append(f'<figure{kind}><img alt="{alt}" src="data:image/png;base64,{code}">{caption}</figure>')
    return f"<div class=slices>{''.join(parts)}</div>"


def _plane(values: np.ndarray, axis: int, at: int) -> np.ndarray:
    plane = np.take(values, at, axis=axis)
    return plane if axis == 0 else plane[::-1]  # the head up


def _checkerboard(first: Image.Image, second: Image.Image) -> Image.Image:
    one, two = np.asarray(first), np.asarray(second)
    side = max(1, -(-max(one.shape) // _SQUARES))
    rows, columns = (np.arange(length) // side for length in one.shape)
    return Image.fromarray(np.where((rows[:, None] + columns) % 2 == 1, two, one))


def _axis(plane: str) -> int:
    if plane not in PLANES:
        raise Refusal("Unknown plane", f"The plane is {', '.join(PLANES)}, not {plane!r}.")
    return PLANES.index(plane)
