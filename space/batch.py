"""Batch: several images or a zip file in, a zip file with the fused images and a report out."""

import csv
import html
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import gradio as gr
from archives import unpack
from fusing import fuse_pair
from gpu import on_gpu
from results import new_folder, save_result
from storage import root
from uploads import Refusal, in_words, open_upload, pixels_of

from fusion_hub.data.layouts import safe_name
from fusion_hub.data.pairing import Named, file_role, fold_name, pair_files
from fusion_hub.data.tables import plain_cell
from fusion_hub.image.io import EXTENSIONS

MAX_PAIRS = 50
MAX_FILES = 2 * MAX_PAIRS
MAX_PIXELS = 100_000_000  # of all visible images of a batch together
REPORT = "report.csv"
LONGEST = 120  # bytes of the name of a result


class Row(NamedTuple):
    """A line of the report: a pair or a file, what became of it, its name in the zip file, what is questionable."""

    name: str
    result: str
    file: str = ""
    notes: str = ""


@dataclass
class Pairs:
    """What a heap of files holds: pairs by name, files without a partner, and files that are no picture."""

    pairs: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@in_words()
def check_files(files: Sequence[str] | None) -> list[Path]:
    """Refuse nothing at all, and more than a batch takes."""
    if not files:
        raise Refusal("No files", "Add images or a zip file first.")
    if len(files) > MAX_FILES:
        raise Refusal("Too many files", f"{len(files)} files were sent: at most {MAX_PAIRS} pairs are taken at a time.")
    return [Path(file) for file in files]


@on_gpu(seconds=90)
def batch(
    files: list[str] | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # how Gradio asks for it
) -> Iterator[str | None]:
    """Fuse up to 50 pairs.

    Pairs are found by their names: `vis/1.png` with `ir/1.png` in a zip file, `street.png` or `street_vis.png` with
    `street_ir.png`. The report says what became of each pair and which files had no partner.

    Args:
        files: images, or one zip file with images.
        model: name of the bundled checkpoint that fuses.
        infrared_range: what becomes black and white in each infrared image: "auto", "dtype" (full scale), "minmax",
            "percentile", or two values of the files such as "2600,2800", for images that shall be comparable.
        visible_range: the same for the visible images.
        keep_metadata: write position, date and camera of the visible images into the results.

    Returns:
        A zip file with a PNG for each pair in full quality, and `report.csv`.
    """
    root().mkdir(parents=True, exist_ok=True)
    with in_words(), TemporaryDirectory(prefix="fusion_hub_batch_", dir=root()) as folder:
        collected = _collect(check_files(files), Path(folder))
        found = pair_up(collected)
        _check(found, collected)
        target = new_folder() / "fused.zip"
        rows = [Row(name, "no partner") for name in found.alone]
        taken = {fold_name(REPORT)}
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as output:
            for index, (name, (visible, infrared)) in enumerate(found.pairs.items()):
                progress((index, len(found.pairs)), desc=f"Fusing {name}", unit="pairs")
                try:
                    with in_words():
                        fusion, _ = fuse_pair(visible, infrared, model, "all", infrared_range, visible_range)
                        file = save_result(fusion.image, Path(folder) / "fused.png", keep_metadata)
                        member = _free_name(name, taken)
                        output.write(file, member)
                    rows.append(Row(name, "fused", member, " ".join(fusion.notes)))
                except gr.Error as error:
                    rows.append(Row(name, html.unescape(str(error.message))))
                yield None  # here a cancelled run ends
            output.writestr(REPORT, _report([*rows, *(Row(name, "no picture that is read") for name in found.others)]))
        _warn("Not all fused", "not fused", [row.name for row in rows if not row.file])
        _warn("Please check", "fused, but questionable", [row.name for row in rows if row.notes])
        yield str(target)


def pair_up(files: Mapping[PurePosixPath, Path]) -> Pairs:
    """Find pairs by the names of folders and files, by the rules of all other parts of Fusion Hub.

    Args:
        files: the place of each file, by its path as the visitor knows it.

    Raises:
        Refusal: two files have one name, so that nobody can say which is meant.
    """
    sides: dict[str, list[Named]] = {"visible": [], "infrared": []}
    others = []
    for path in sorted(files):
        if path.suffix.lower() in EXTENSIONS:
            name, role = file_role(path)
            sides[role or "visible"].append(Named(name, path))
        else:
            others.append(path.as_posix())
    found = pair_files(sides["visible"], sides["infrared"])
    if found.ambiguous:
        first, second, *_ = (named.file for named in found.ambiguous[0])
        raise Refusal("Two files of one name", f"{first} and {second} have the same name: which is meant?")
    alone = sorted(named.file.as_posix() for named in (*found.visible, *found.infrared))
    pairs = sorted((name, (files[visible], files[infrared])) for name, visible, infrared in found.pairs)
    return Pairs(dict(pairs), alone, others)


def _collect(files: Sequence[Path], folder: Path) -> dict[PurePosixPath, Path]:
    """The place of each file, by its path as the visitor knows it."""
    found: dict[PurePosixPath, Path] = {}
    for index, file in enumerate(files):
        inside = {PurePosixPath(file.name): file}
        if file.suffix.lower() == ".zip":
            target = folder / f"zip{index}"
            target.mkdir()
            prefix = PurePosixPath(file.stem) if len(files) > 1 else PurePosixPath()
            inside = {prefix / path: target / path for path in unpack(file, target)}
        twice = next((path for path in inside if path in found), None)
        if twice is not None:
            text = f"Two files are named {str(twice)!r}: rename one, or send them one after the other."
            raise Refusal("Two files of one name", text)
        found |= inside
    return found


def _check(found: Pairs, collected: Mapping[PurePosixPath, Path]) -> None:
    if not found.pairs:
        text = "No pair was found. Name the images street.png and street_ir.png, or zip folders vis and ir."
        inner = next((path for path in collected if path.suffix.lower() == ".zip"), None)
        if inner is not None:
            text = f"No pair was found, and the zip file {inner.name!r} inside the zip file is not opened: unpack it."
        raise Refusal("No pairs", text)
    if len(found.pairs) > MAX_PAIRS:
        raise Refusal(
            "Too many pairs", f"{len(found.pairs)} pairs were found: at most {MAX_PAIRS} are taken at a time."
        )
    pixels = 0
    for visible, _ in found.pairs.values():
        try:
            pixels += pixels_of(open_upload(visible, "visible"))
        except Refusal:  # the report says it
            continue
    if pixels > MAX_PIXELS:
        text = f"The batch has {pixels / 1e6:.0f} megapixels: at most {MAX_PIXELS / 1e6:.0f} are taken at a time."
        raise Refusal("Too large", text)


def _free_name(name: str, taken: set[str]) -> str:
    """A name in the zip file that no other has, not even on systems that take upper and lower case for the same."""
    stem = re.sub(r'[<>:"|?*]', "_", safe_name(name)).rstrip(" .")
    stem = stem.encode()[:LONGEST].decode(errors="ignore") or "_"
    free, number = f"{stem}.png", 2
    while fold_name(free) in taken:
        free, number = f"{stem}-{number}.png", number + 1
    taken.add(fold_name(free))
    return free


def _warn(title: str, what: str, names: Sequence[str]) -> None:
    if names:
        text = f"{len(names)} {what}: {', '.join(names[:5])}. {REPORT} says why."
        gr.Warning(html.escape(text, quote=False), title=title)


def _report(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Row._fields)
    writer.writerows([plain_cell(cell) for cell in row] for row in rows)
    return text.getvalue()
