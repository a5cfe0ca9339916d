"""Uploaded volumes: read within limits, then kept as voxels and geometry alone.

Files of scans hold names, dates and numbers of patients, in their tags and often in their names. An upload is read at
once and deleted. What stays, for the hour of other files, is an array of numbers and its place in space. Messages
repeat no name of a file and no text of a tag.
"""

import gzip
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from archives import Limits, unpack
from storage import EXAMPLES_PREFIX, NoRoom, Room, new_folder, root
from uploads import LOG, Refusal, sentence

from fusion_hub import volumes

MAX_VOXELS = 2**24  # 256 x 256 x 256, or 512 x 512 x 64
MAX_SIDE = 1024  # voxels: some compressed slices unpack to a hundred times their size
MAX_UNPACKED = 160 << 20  # bytes of the files in a zip file together, or of a .nii.gz; 8-byte voxels fit
ZIPPED = Limits(1200, MAX_UNPACKED, MAX_UNPACKED)
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")  # of files other than DICOM; .mhd has its voxels in a second file
NAMES = {"CT": "CT", "MR": "MRI", "PT": "PET", "NM": "SPECT"}
RULES = ("percentile", "uptake", "full")
TOO_LONG_AGO = "Too long ago", "The volumes were deleted after an hour: upload them again."
SECONDS = 60  # to read a volume
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LISTED = 12
_PIECE = 1 << 20


class Kept(NamedTuple):
    """A volume without anything that identifies a person; its values are in a file of the server."""

    file: str  # (S, R, C) float32
    geometry: tuple[tuple[float, ...], ...]  # origin, spacing, direction
    modality: "volumes.Modality | None"
    stated: bool  # whether the file says what it is
    unit: str
    source: str
    notes: tuple[str, ...]
    space: str | None
    limits: tuple[float, float]  # smallest and largest value
    windows: dict[str, tuple[float, float]]  # black and white of each choice, "default" first
    middle: np.ndarray  # the axial slice in the middle, seen from the feet, (R, C) float32
    pixel: tuple[float, float]  # mm, of `middle`: down, across
    example: bool = False

    def volume(self) -> "volumes.Volume":
        """With its values; raises a `Refusal` if they were deleted."""
        try:
            values = np.load(self.file)
        except OSError as error:
            raise Refusal(*TOO_LONG_AGO) from error
        known = {name: getattr(self, name) for name in ("modality", "unit", "source", "notes", "space")}
        return volumes.from_array(values, *self.geometry, **known)

    def text(self) -> str:
        """What it is, in one line."""
        size = " x ".join(map(str, np.load(self.file, mmap_mode="r").shape[::-1]))
        spacing = " x ".join(f"{step:.3g}" for step in self.geometry[1])
        kind = f"{NAMES[self.modality]}, " if self.modality else ""
        low, high = self.limits
        return f"{kind}{self.source}, {size} voxels of {spacing} mm, {low:.5g} to {high:.5g} {self.unit}".strip() + "."


def name_of(modality: str | None, role: str) -> str:
    """What a volume is called on the page: by its modality, else by its role."""
    return NAMES[modality] if modality else role.capitalize()


def can_read() -> bool:
    """Whether the packages that read volumes are installed."""
    return all(importlib.util.find_spec(name) for name in ("SimpleITK", "nibabel", "pydicom"))


def keep(path: str | Path | None, what: str, series: str | None = "", modality: str | None = "") -> Kept:
    """Read an uploaded volume, delete the upload, and keep voxels and geometry.

    Args:
        path: the file.
        what: its name in messages, such as `fixed volume`.
        series: which one of several; empty for the only one.
        modality: "CT", "MR", "PT" or "NM"; empty for what the file says.

    Raises:
        Refusal: it cannot be read as one volume within the limits.
    """
    if path is None:
        raise Refusal("Nothing to read yet", f"Add the {what} first.")
    if modality and modality not in volumes.MODALITIES:
        raise Refusal("Unknown modality", f"The modality is {', '.join(volumes.MODALITIES)} or empty.")
    root().mkdir(parents=True, exist_ok=True)
    file = Path(path)
    try:
        with _refusals(what), TemporaryDirectory(prefix="fusion_hub_volume_", dir=root()) as folder:
            if not file.is_file():
                raise Refusal("Too long ago", f"The {what} was deleted: upload it again.")
            with Room(MAX_UNPACKED):
                place = _unpacked(file, Path(folder), what)
                found = _read(place, what, str(series or "").strip(), modality or None)
            return _kept(found)
    finally:
        _discard(file)


def with_modality(kept: Kept, modality: str) -> Kept:
    """The same volume as another modality, unless its file says what it is."""
    if kept.stated:
        return kept
    chosen: Any = modality or None
    volume = replace(kept.volume(), modality=chosen, unit="HU" if chosen == "CT" else "")
    return kept._replace(modality=chosen, unit=volume.unit, windows=_windows(volume))


def parse_window(text: str | None, what: str) -> str | tuple[float, float] | None:
    """Black and white as the library takes them: a name, or two numbers from `LOW,HIGH`; None where it is empty."""
    text = str(text or "").strip()
    if text in ("", "auto", "default"):
        return None
    if text in RULES or text in volumes.PRESETS:
        return text
    try:
        low, high = map(float, re.split(r"[,;\s]+", text))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        names = ", ".join([*RULES, *volumes.PRESETS])
        raise Refusal("Unknown window", f"The window of the {what} is LOW,HIGH, two rising numbers, or one of {names}.")
    return low, high


def slider_step(limits: tuple[float, float]) -> float:
    """A power of ten that divides the range into at least 500 steps."""
    return float(10.0 ** math.floor(math.log10((limits[1] - limits[0]) / 500)))


def _unpacked(file: Path, folder: Path, what: str) -> Path:
    """What the library reads: a folder with the files of a zip file, or a file under a name that says nothing."""
    with file.open("rb") as stream:
        start = stream.read(132)
    if not start:
        raise Refusal("Empty file", f"The {what} is empty (0 bytes): upload it again.")
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06") or file.suffix.lower() == ".zip":
        _unzip(file, folder, what)
        return folder
    suffix = next((suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix)), "")
    if start[128:] == b"DICM" or not suffix:
        suffix = ".dcm"
    target = folder / f"volume{suffix.removesuffix('.gz')}"
    if suffix == ".nii.gz":
        _gunzip(file, target, what)
    else:
        shutil.copyfile(file, target)
    return target


def _unzip(file: Path, folder: Path, what: str) -> None:
    try:
        found = unpack(file, folder, ZIPPED)
    except Refusal as error:  # it may name a file
        raise Refusal(str(error.title), re.sub(r" \('.*'\)| named '.*'(?=:)", "", error.text)) from None
    if not any(_is_dicom(folder / path) for path in found):
        names = [path.name.lower() for path in found]
        if any(name.endswith(".zip") for name in names):
            text = f"The zip file of the {what} holds another zip file, which is not opened: zip the folder itself."
        elif any(name.endswith((*SUFFIXES, ".mhd")) for name in names):
            text = f"The zip file of the {what} holds no DICOM files: upload the NIfTI, NRRD or MetaImage file itself."
        else:
            text = f"The zip file of the {what} holds no DICOM files: zip the folder of one series."
        raise Refusal("No volume", text)


def _gunzip(file: Path, target: Path, what: str) -> None:
    """Unpack a .nii.gz, up to a limit whatever its headers say."""
    written = 0
    try:
        with gzip.open(file) as source, target.open("wb") as output:
            while piece := source.read(_PIECE):
                written += len(piece)
                if written > MAX_UNPACKED:
                    limit = MAX_UNPACKED >> 20
                    raise Refusal("Too large", f"The {what} would unpack to more than {limit} MB: crop it.")
                output.write(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal("Not a volume", f"The {what} is cut short or damaged: copy it again.") from error


def _read(place: Path, what: str, series: str, modality: Any) -> "volumes.Volume":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of tags
        if place.is_dir() or place.suffix == ".dcm":
            for file in (path for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()):
                _check_syntax(file, what)
            series = _choose(volumes.find_series(place), what, series)
    return read_apart(place, what, series or None, modality)


def read_apart(place: Path, what: str, series: str | None, modality: Any) -> "volumes.Volume":
    """`read_volume` in a process of its own, which a damaged file may crash."""
    with TemporaryDirectory(prefix="fusion_hub_volume_", dir=root()) as target:
        options = {"place": str(place), "series": series, "modality": modality, "max_voxels": MAX_VOXELS}
        command = [sys.executable, str(Path(__file__).with_name("volume_reader.py"))]
        command.append(json.dumps(options | {"target": target}))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        try:
            ended = subprocess.run(command, env=environment, timeout=SECONDS, check=False, **quiet).returncode
        except subprocess.TimeoutExpired as error:
            raise Refusal("Too slow", f"The {what} takes too long to read: save it without compression.") from error
        if ended != 0:
            LOG.warning("a volume ended its reader with code %d", ended)
            raise Refusal("Not a volume", f"The {what} is damaged, or another kind of file: copy it again.")
        found = json.loads((Path(target) / "volume.json").read_text(encoding="utf-8"))
        if "refused" in found:
            raise volumes.VolumeError(found["refused"])
        geometry, found["notes"] = found.pop("geometry"), tuple(found["notes"])
        return volumes.from_array(np.load(Path(target) / "values.npy"), *geometry, **found)


def _choose(found: "list[volumes.Series]", what: str, wanted: str) -> str:
    """The number in the list of the one series to read, and after a slash that of one of several volumes in it."""
    named = re.fullmatch(r"(?:#?(\d{1,4}))?(/\d{1,4})?", wanted)
    number = int(named[1]) if named and named[1] else 0
    if len(found) == 1 and named and not named[1]:
        number = 1
    if not 1 <= number <= len(found):
        listed = "; ".join(f"#{position} {_summary(one)}" for position, one in enumerate(found[:_LISTED], 1))
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        text = f"The {what} has {len(found)} series, {listed}{more}: type the one to use, such as #1, into Series, "
        raise Refusal("Which series?", f"{text}then upload the file again.")
    chosen = found[number - 1]
    if any(int(header.Rows) > MAX_SIDE or int(header.Columns) > MAX_SIDE for header in chosen.headers):
        raise Refusal("Too large", f"The {what} has slices of more than {MAX_SIDE} x {MAX_SIDE} pixels: crop it.")
    return f"#{number}{(named and named[2]) or ''}"


def _summary(series: "volumes.Series") -> str:
    """Modality and size; nothing that somebody typed."""
    first = series.headers[0]
    name = NAMES.get(str(first.get("Modality")), "another modality")
    images = sum(int(header.get("NumberOfFrames") or 1) for header in series.headers)
    return f"{name}, {images} images of {int(first.Columns)} x {int(first.Rows)}"


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or start[:4] == b"\x08\x00\x05\x00"


def _check_syntax(file: Path, what: str) -> None:
    """Refuse a file that is deflated as a whole: it is inflated before its size is known."""
    from pydicom.filereader import read_file_meta_info

    with file.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return
    if str(read_file_meta_info(file).get("TransferSyntaxUID")) == _DEFLATED:
        text = f"The {what} is deflated as a whole (Deflated Explicit VR): save it with another transfer syntax."
        raise Refusal("Deflated DICOM", text)


def _kept(volume: "volumes.Volume") -> Kept:
    values = volume.array
    with Room(values.nbytes):
        file = new_folder() / "volume.npy"
        np.save(file, values)
    turned = volumes.upright(volume)
    middle = turned.array[len(turned.array) // 2].copy()
    across, down, _ = turned.image.GetSpacing()
    image = volume.image
    return Kept(
        str(file),
        (image.GetOrigin(), image.GetSpacing(), image.GetDirection()),
        volume.modality,
        volume.modality is not None and volume.source.startswith("DICOM"),
        volume.unit,
        volume.source,
        volume.notes,
        volume.space,
        (float(values.min()), float(values.max())),
        _windows(volume),
        middle,
        (down, across),
    )


def _windows(volume: "volumes.Volume") -> dict[str, tuple[float, float]]:
    """Black and white of each choice that fits the volume."""
    presets = list(volumes.PRESETS) if volume.modality == "CT" and volume.unit == "HU" else []
    found = {}
    for name in ("default", *presets, *RULES):
        with suppress(volumes.VolumeError):
            found[name] = volumes.choose_window(volume, None if name == "default" else name)
    return found if "default" in found else {"default": volumes.choose_window(volume, "full"), **found}


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Errors of the library as messages without names of files or values of tags."""
    try:
        yield
    except (gr.Error, NoRoom, MemoryError):
        raise
    except volumes.VolumeError as error:
        text = re.sub(r"\S*fusion_hub_volume_\S*", f"the {what}", str(error))
        text = re.sub(
            r"^(the (series|file|images|slices|(NIfTI|NRRD|MetaImage|DICOM) (file|series)))\b", rf"the {what}: \1", text
        )
        raise Refusal("This volume cannot be read", sentence(text)) from None
    except Exception as error:  # its message may quote a tag, so the log gets its kind alone
        LOG.warning("a volume could not be read: %s", type(error).__name__)
        raise Refusal("Not a volume", f"The {what} is damaged, or another kind of file: copy it again.") from None


def _discard(file: Path) -> None:
    """Delete an upload, and its folder in Gradio's cache; files of examples and of programs stay."""
    with suppress(OSError, ValueError):
        parts = file.resolve().relative_to(root().resolve()).parts
        if not parts[0].startswith(EXAMPLES_PREFIX):
            file.unlink()
            file.parent.rmdir()
