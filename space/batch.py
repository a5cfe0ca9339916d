"""Batch: several images or a zip file in, a zip file with the fused images and a report out."""

import csv
import html
import io
import math
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import gradio as gr
from archives import unpack
from fuse import check_model, fuse_pair, save_result
from gpu import on_gpu
from storage import new_folder, root
from uploads import NO_LIMIT, Refusal, error_messages, open_upload

from fusion_hub.data.layouts import safe_name
from fusion_hub.data.pairing import Named, file_role, fold_name, pair_files
from fusion_hub.files import plain_cell
from fusion_hub.image.io import EXTENSIONS, read_header

MAX_PAIRS = 50
MAX_PIXELS = 100_000_000  # of all visible images of a batch together
REPORT = "report.csv"
MAX_NAME = 120  # bytes of the name of a result


class Row(NamedTuple):
    """A line of the report: a pair or file, its result, the file in the zip file, and warnings."""

    name: str
    result: str
    file: str = ""
    notes: str = ""


def batch(
    files: list[str] | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
    keep_metadata: bool = False,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio's way to ask for it
) -> Iterator[str | None]:
    """Fuse up to 50 pairs.

    Pairs are found by their names: `vis/1.png` with `ir/1.png` in a zip file, `street.png` or `street_vis.png` with
    `street_ir.png`. The report lists the result of each pair and the files without a partner.

    Args:
        files: images, or one zip file with images.
        model: name of the bundled checkpoint that fuses.
        infrared_range: the values of each infrared image that become black and white: "auto", "dtype" (full scale),
            "minmax", "percentile", or two values of the files such as "2600,2800" for comparable images.
        visible_range: the same for the visible images.
        keep_metadata: write position, date and camera of the visible images into the results.

    Returns:
        A zip file with a PNG for each pair at full quality, and `report.csv`.
    """
    for file, _ in fuse_all(progress, files, model, infrared_range, visible_range, keep_metadata):
        yield file


@on_gpu(seconds=90)
def fuse_all(
    progress: gr.Progress,
    files: list[str] | None,
    model: str,
    infrared_range: str | None,
    visible_range: str | None,
    keep_metadata: bool,
) -> Iterator[tuple[str | None, str]]:
    """`batch`, and a text that says what became of the pairs."""
    root().mkdir(parents=True, exist_ok=True)
    with error_messages(), TemporaryDirectory(prefix="fusion_hub_batch_", dir=root()) as folder:
        if not files:
            raise Refusal("No files", "Add images or a zip file first.")
        check_model(model)
        if len(files) > 2 * MAX_PAIRS:
            text = f"{len(files)} files were sent: at most {MAX_PAIRS} pairs are allowed at a time."
            raise Refusal("Too many files", text)
        collected = _collect([Path(file) for file in files], Path(folder))
        pairs, alone, others = pair_up(collected)
        _check_pairs(pairs, collected)
        target, begun = new_folder() / "fused.zip", time.monotonic()
        rows = [Row(name, "no partner") for name in alone]
        taken = {fold_name(REPORT)}
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as output:
            for index, (name, (visible, infrared)) in enumerate(pairs.items()):
                left = (time.monotonic() - begun) / index * (len(pairs) - index) if index else 0
                description = f"Fusing {name}" + (f", about {math.ceil(left)} s left" if index else "")
                progress((index, len(pairs)), desc=description, unit="pairs")
                try:
                    with error_messages():
                        fusion, _ = fuse_pair(visible, infrared, model, infrared_range, visible_range)
                        file = save_result(fusion.image, Path(folder) / "fused.png", keep_metadata)
                        member = _free_name(name, taken)
                        output.write(file, member)
                    rows.append(Row(name, "fused", member, " ".join(fusion.notes)))
                except gr.Error as error:
                    rows.append(Row(name, html.unescape(str(error.message))))
                yield None, ""  # a canceled run ends here
            unread = [Row(name, "not an image that can be read") for name in others]
            with io.TextIOWrapper(output.open(REPORT, "w"), "utf-8", newline="") as stream:
                csv.writer(stream).writerows(map(plain_cell, row) for row in (Row._fields, *rows, *unread))
        counts = f"{len(taken) - 1} of {len(pairs)} pairs fused in {time.monotonic() - begun:.0f} s."
        failed, noted = [row.name for row in rows if not row.file], [row.name for row in rows if row.notes]
        yield str(target), " ".join((counts, *_listed("Not fused", failed), *_listed("Please check", noted)))


def _listed(title: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"{title}: {', '.join(names[:5])}{more} ({REPORT} says why)."


def pair_up(files: Mapping[PurePosixPath, Path]) -> tuple[dict[str, tuple[Path, Path]], list[str], list[str]]:
    """Find pairs by the names of folders and files, as `PairedDataset` does.

    Returns pairs by name, files without a partner, and files that are no pictures. Raises `Refusal` if two files of
    one side have the same name.
    """
    sides: dict[str, list[Named]] = {"visible": [], "infrared": []}
    for path in (path for path in sorted(files) if path.suffix.lower() in EXTENSIONS):
        name, role = file_role(path)
        sides[role or "visible"].append(Named(name, path))
    others = [path.as_posix() for path in sorted(files) if path.suffix.lower() not in EXTENSIONS]
    found = pair_files(sides["visible"], sides["infrared"])
    if found.ambiguous:
        first, second, *_ = (named.file for named in found.ambiguous[0])
        raise Refusal("Duplicate name", f"{first} and {second} have the same name: keep one, or rename one.")
    alone = sorted(named.file.as_posix() for named in (*found.visible, *found.infrared))
    pairs = sorted((name, (files[visible], files[infrared])) for name, visible, infrared in found.pairs)
    return dict(pairs), alone, others


def _collect(files: Sequence[Path], folder: Path) -> dict[PurePosixPath, Path]:
    """The place of each file by its path as the visitor knows it; zip files are unpacked into `folder`."""
    found: dict[PurePosixPath, Path] = {}
    for index, file in enumerate(files):
        inside = {PurePosixPath(file.name): file}
        if file.suffix.lower() == ".zip":
            target = folder / f"zip{index}"
            target.mkdir()
            prefix = PurePosixPath(file.stem) if len(files) > 1 else PurePosixPath()
            inside = {prefix / path: target / path for path in unpack(file, target)}
        if repeated := next((path for path in inside if path in found), None):
            text = f"Two files are named {str(repeated)!r}: rename one, or send them one after the other."
            raise Refusal("Duplicate name", text)
        found |= inside
    return found


def _check_pairs(pairs: Mapping[str, tuple[Path, Path]], collected: Mapping[PurePosixPath, Path]) -> None:
    """Refuse files without a pair, and more pairs or pixels than a batch may have."""
    if not pairs:
        text = "No pair was found. Name the images street.png and street_ir.png, or zip folders vis and ir."
        if inner := next((path for path in collected if path.suffix.lower() == ".zip"), None):
            text = f"No pair was found, and the zip file {inner.name!r} inside the zip file is not opened: unpack it."
        raise Refusal("No pairs", text)
    if len(pairs) > MAX_PAIRS:
        text = f"{len(pairs)} pairs were found: at most {MAX_PAIRS} are allowed at a time."
        raise Refusal("Too many pairs", text)
    pixels = 0
    for visible, _ in pairs.values():
        with suppress(Refusal):  # goes into the report
            pixels += math.prod(read_header(open_upload(visible, "visible"), max_pixels=NO_LIMIT).size)
    if pixels > MAX_PIXELS:
        text = f"The batch has {pixels / 1e6:.0f} megapixels: at most {MAX_PIXELS / 1e6:.0f} are allowed at a time."
        raise Refusal("Too large", text)


def _free_name(name: str, taken: set[str]) -> str:
    """A name that no other file in the zip file has, not even on systems that ignore case."""
    stem = re.sub(r'[<>:"|?*]', "_", safe_name(name)).rstrip(" .")
    stem = stem.encode()[:MAX_NAME].decode(errors="ignore") or "_"
    free, number = f"{stem}.png", 2
    while fold_name(free) in taken:
        free, number = f"{stem}-{number}.png", number + 1
    taken.add(fold_name(free))
    return free
