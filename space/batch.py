"""Batch: several images or a zip file in, a zip file with the fused images and a report out."""

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import gradio as gr
from archives import unpack
from fusing import fuse_pair
from gpu import on_gpu
from results import new_folder, save_result
from uploads import Refusal, in_words, open_upload

from fusion_hub.data.layouts import EXTENSIONS, INFRARED_NAMES, VISIBLE_NAMES, safe_name

MAX_PAIRS = 50
MAX_FILES = 2 * MAX_PAIRS
MAX_PIXELS = 100_000_000  # of all visible images of a batch together
_ENDING = re.compile(rf"(?P<stem>.+)[ ._-](?P<kind>{'|'.join((*VISIBLE_NAMES, *INFRARED_NAMES))})", re.IGNORECASE)


@dataclass
class Pairs:
    """What a heap of files holds: pairs by name, and names of the files without a partner."""

    pairs: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)


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
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # how Gradio asks for it
) -> Iterator[str | None]:
    """Fuse up to 50 pairs.

    Pairs are found by their names: `vis/1.png` with `ir/1.png` in a zip file, `street.png` or `street_vis.png` with
    `street_ir.png`. The report says what became of each pair and which files had no partner.

    Args:
        files: images, or one zip file with images.
        model: name of the bundled checkpoint that fuses.

    Returns:
        A zip file with a PNG for each pair in full quality, and `report.csv`.
    """
    with in_words(), TemporaryDirectory(prefix="fusion_hub_batch_") as folder:
        found = pair_up(_collect(check_files(files), Path(folder)))
        _check(found)
        target = new_folder() / "fused.zip"
        rows: list[tuple[str, str]] = [(name, "no partner") for name in found.alone]
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as output:
            for index, (name, pair) in enumerate(found.pairs.items()):
                progress((index, len(found.pairs)), desc=f"Fusing {name}", unit="pairs")
                rows.append((name, _fuse_into(output, name, pair, model, Path(folder))))
                yield None  # here a cancelled run ends
            output.writestr("report.csv", _report(rows))
        failed = [name for name, outcome in rows if outcome != "fused"]
        if failed:
            gr.Warning(f"{len(failed)} not fused: {', '.join(failed[:5])}. report.csv says why.", title="Not all fused")
        yield str(target)


def pair_up(files: Mapping[PurePosixPath, Path]) -> Pairs:
    """Find pairs by the names of folders or the ends of names.

    Args:
        files: the place of each file, by its path as the visitor knows it.
    """
    visible: dict[str, Path] = {}
    infrared: dict[str, Path] = {}
    names: dict[Path, str] = {}
    for path, place in sorted(files.items()):
        if path.suffix.lower() not in EXTENSIONS:
            continue
        key, is_infrared = _role(path)
        side = infrared if is_infrared else visible
        names[place] = path.as_posix()
        if key in side:
            raise Refusal("Two files of one name", f"{path} and another file have the same name: which is meant?")
        side[key] = place
    both = [key for key in visible if key in infrared]
    alone = [names[place] for side in (visible, infrared) for key, place in side.items() if key not in both]
    return Pairs({key: (visible[key], infrared[key]) for key in both}, sorted(alone))


def _role(path: PurePosixPath) -> tuple[str, bool]:
    """What both images of a pair are called, and whether this is the infrared one."""
    folders = list(path.parts[:-1])
    for index in reversed(range(len(folders))):
        kind = folders[index].lower()
        if kind in VISIBLE_NAMES or kind in INFRARED_NAMES:
            rest = [*folders[:index], *folders[index + 1 :], path.stem]
            return "/".join(rest), kind in INFRARED_NAMES
    ending = _ENDING.fullmatch(path.stem)
    stem, kind = (ending["stem"], ending["kind"].lower()) if ending else (path.stem, "")
    return "/".join([*folders, stem]), kind in INFRARED_NAMES


def _collect(files: Sequence[Path], folder: Path) -> dict[PurePosixPath, Path]:
    found: dict[PurePosixPath, Path] = {}
    for index, file in enumerate(files):
        if file.suffix.lower() == ".zip":
            target = folder / f"zip{index}"
            target.mkdir()
            prefix = PurePosixPath(file.stem) if len(files) > 1 else PurePosixPath()
            found |= {prefix / path: target / path for path in unpack(file, target)}
        else:
            found[PurePosixPath(file.name)] = file
    return found


def _check(found: Pairs) -> None:
    if not found.pairs:
        text = "No pair was found. Name the images street.png and street_ir.png, or zip folders vis and ir."
        raise Refusal("No pairs", text)
    if len(found.pairs) > MAX_PAIRS:
        raise Refusal(
            "Too many pairs", f"{len(found.pairs)} pairs were found: at most {MAX_PAIRS} are taken at a time."
        )
    pixels = 0
    for visible, _ in found.pairs.values():
        try:
            with open_upload(visible, "visible") as image:
                pixels += image.width * image.height
        except Refusal:  # it is told in the report
            continue
    if pixels > MAX_PIXELS:
        text = f"The batch has {pixels / 1e6:.0f} megapixels: at most {MAX_PIXELS / 1e6:.0f} are taken at a time."
        raise Refusal("Too large", text)


def _fuse_into(output: zipfile.ZipFile, name: str, pair: tuple[Path, Path], model: str, folder: Path) -> str:
    """Fuse a pair into the zip file; what became of it."""
    try:
        with in_words():
            fusion, _ = fuse_pair(*pair, model)
            file = save_result(fusion.image, folder / "fused.png")
            output.write(file, f"{safe_name(name)}.png")
    except gr.Error as error:
        return str(error.message)
    return "fused"


def _report(rows: Sequence[tuple[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("name", "result"))
    # Names come from strangers: a spreadsheet would take some for formulas.
    writer.writerows((f"'{name}" if name[:1] in "=+-@" else name, result) for name, result in rows)
    return text.getvalue()
