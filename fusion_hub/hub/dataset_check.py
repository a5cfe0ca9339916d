"""Is a folder of pairs fit to be published? Every picture is decoded, every fault becomes a sentence."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from fusion_hub.data.layouts import METADATA_FILES, SPLIT_NAMES, find_splits, holds_parquet
from fusion_hub.data.pairs import PairedDataset
from fusion_hub.data.pictures import Pair, read_bytes
from fusion_hub.data.report import PairReport, some
from fusion_hub.hub.upload import PublishError
from fusion_hub.image.io import read_header

Band = Literal["infrared", "visible"]
BANDS: tuple[Band, ...] = ("infrared", "visible")

_SPLIT = re.compile(r"\w+(\.\w+)*")  # what `datasets` takes
_NAME = re.compile(r"\w(?:[\w .,;()+=@~&'!-]{0,198}[\w()+=@~&'!-])?")  # a file's on every system, no glob, no URL
_GPS = 0x8825  # EXIF

_FAULTS = {
    "missing_infrared": "no infrared picture for {}: add it, or remove the visible one",
    "missing_visible": "no visible picture for {}: add it, or remove the infrared one",
    "ambiguous": "several files of one stem, {}: keep one of each",
    "repeated_names": "the same name for several pairs, {}: rename them",
    "unequal_sizes": "pictures of different size, {}: register and crop them to one size",
    "unreadable": "files that cannot be read, {}: replace them, or remove the pair",
}
"""Sections of a `PairReport` that forbid publication, and what to do."""


@dataclass(frozen=True)
class CheckedDataset:
    """Pairs that are fit to be published.

    Attributes:
        folder: where they were found.
        splits: by name.
        modes: how many pictures of each Pillow mode a band has: `{"infrared": {"I;16": 40}, ...}`.
        notes: sentences about what does not forbid publication, but that the owner should know.
    """

    folder: Path
    splits: Mapping[str, PairedDataset]
    modes: Mapping[Band, Mapping[str, int]]
    notes: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Pairs in each split."""
        return {name: len(pairs) for name, pairs in self.splits.items()}


def check_dataset(folder: Path) -> CheckedDataset:
    """Open every split of `folder` and decode every picture.

    Args:
        folder: any layout that `PairedDataset.open` reads, with or without splits. A set without splits becomes the
            split that its folder is named after (`test`, `val` ...), otherwise `train`.

    Raises:
        PublishError: it is no folder of pairs; a picture has no partner, another size or cannot be read; a name cannot
            be a file's on every system; two splits share a picture. All faults at once.
    """
    splits = _open_splits(folder)
    reports = {name: pairs.check(decode=True) for name, pairs in splits.items()}
    faults = [fault for name, report in reports.items() for fault in _report_faults(name, report)]
    faults += [fault for name, pairs in splits.items() for fault in _name_faults(name, [pair.name for pair in pairs])]
    faults += _leaks(reports)
    if faults:
        raise PublishError(f"{folder} cannot be published.\n" + "\n".join(f"  {fault}" for fault in faults))
    modes: dict[Band, Counter[str]] = {band: Counter() for band in BANDS}
    located: list[str] = []
    for pair in (pair for pairs in splits.values() for pair in pairs):
        for band in BANDS:
            mode, has_position = _look(stored_file(pair, band))
            modes[band][mode] += 1
            located += [f"{pair.name} ({band})"] if has_position else []
    notes = (*_report_notes(reports), *_mode_notes(modes), *_position_notes(located), *_left_out(folder, splits))
    return CheckedDataset(folder, splits, modes, notes)


def stored_file(pair: Pair, band: Band) -> Path | Mapping[str, Any]:
    """The encoded picture of a pair that was opened from a folder: a file, or the bytes of a table's cell."""
    source = pair.infrared_source if band == "infrared" else pair.visible_source
    if not isinstance(source, Path | Mapping):
        raise TypeError(f"{pair.name}: the {band} picture is a {type(source).__name__}; only files can be published")
    return source


def _open_splits(folder: Path) -> dict[str, PairedDataset]:
    if not folder.is_dir():
        raise PublishError(f"{folder} is no folder: give the folder that holds the pairs")
    try:
        if holds_parquet(folder):
            from datasets import load_dataset

            return {str(name): PairedDataset.open(table) for name, table in load_dataset(str(folder)).items()}
        names = sorted(find_splits(folder), key=_order)
        if wrong := [name for name in names if not _SPLIT.fullmatch(name)]:
            raise ValueError(f"{some(wrong)} cannot name a split: use letters, digits, underscores and dots only")
        if names:
            return {name.lower(): PairedDataset.open(folder, name) for name in names}
        own_name = folder.resolve().name.lower()
        return {own_name if own_name in SPLIT_NAMES else "train": PairedDataset.open(folder)}
    except (ValueError, OSError) as error:
        raise PublishError(f"{folder} cannot be published. {error}") from error


def _order(split: str) -> tuple[int, str]:
    """train, val, test, then others."""
    known = split.lower() in SPLIT_NAMES
    return (SPLIT_NAMES.index(split.lower()) if known else len(SPLIT_NAMES)), split


# --- faults: nothing is published ------------------------------------------------------------------------------------


def _report_faults(split: str, report: PairReport) -> list[str]:
    found = ((text, getattr(report, section)) for section, text in _FAULTS.items())
    return [f"{split}: {text.format(some(items, separator='; '))}" for text, items in found if items]


def _name_faults(split: str, names: Sequence[str]) -> list[str]:
    faults = []
    if wrong := [repr(name) for name in names if not _NAME.fullmatch(name)]:
        faults.append(
            f"{split}: names that cannot be file names everywhere, {some(wrong)}: use letters, digits, spaces and "
            ". , ; ( ) + = @ ~ & ' ! - _ only"
        )
    alike = Counter(name.casefold() for name in set(names))
    if same := sorted(name for name in set(names) if alike[name.casefold()] > 1):
        faults.append(f"{split}: names that differ in case only, {some(same)}: rename them")
    return faults


def _leaks(reports: Mapping[str, PairReport]) -> list[str]:
    """Pictures that two splits share."""
    faults = []
    names = list(reports)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            ours, theirs = reports[first].digests, reports[second].digests
            shared = [f"{ours[digest][0]} = {theirs[digest][0]}" for digest in ours if digest in theirs]
            if shared:
                faults.append(
                    f"{first} and {second} share {len(shared)} pictures, {some(shared, separator='; ')}: remove them "
                    "from one of the two, or a model is tested on what it has seen"
                )
    return faults


# --- notes: for the owner to know ------------------------------------------------------------------------------------


def _look(source: Path | Mapping[str, Any]) -> tuple[str, bool]:
    """Mode of a picture, and whether its EXIF data tell where it was taken; from the header alone.

    The Hub's viewer and `datasets` read with Pillow: a kind that it does not know cannot be published.
    """
    try:
        opened = Image.open(source if isinstance(source, Path) else BytesIO(read_bytes(source)))
    except UnidentifiedImageError as error:
        header = read_header(source)
        raise PublishError(
            f"{source if isinstance(source, Path) else 'a picture'} holds {header.dtype} samples, which `datasets` "
            "cannot read: save it as 8-bit or 16-bit PNG, or as float32 TIFF"
        ) from error
    with opened as image:
        # `getexif` of a PNG without EXIF in its header would decode the whole file to look behind the pixels.
        has_exif = "exif" in image.info or image.format == "TIFF"
        return image.mode, has_exif and bool(image.getexif().get_ifd(_GPS))


def _report_notes(reports: Mapping[str, PairReport]) -> Iterator[str]:
    for name, report in reports.items():
        if report.duplicates:
            yield f"{name}: equal pictures within the split: {some(report.duplicates, separator='; ')}"
        if report.unlisted:
            yield f"{name}: not in the metadata, so not published: {some(report.unlisted)}"


def _mode_notes(modes: Mapping[Band, Mapping[str, int]]) -> Iterator[str]:
    for band, counts in modes.items():
        if len({mode.startswith(("I", "F")) for mode in counts}) > 1:
            shown = ", ".join(f"{count} {mode}" for mode, count in counts.items())
            yield f"the {band} pictures are of different depths ({shown}); each is published as it is"


def _position_notes(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"the EXIF data of {len(names)} files tell where they were taken, and will tell everyone: {some(names)}"


def _left_out(folder: Path, splits: Mapping[str, PairedDataset]) -> Iterator[str]:
    """What lies beside the pairs: labels, notes, folders that hold no pairs."""
    if holds_parquet(folder):
        return
    sources = (stored_file(pair, band) for pairs in splits.values() for pair in pairs for band in BANDS)
    used = {file.parent for file in sources if isinstance(file, Path)}
    used |= {parent for file in used for parent in file.parents}
    other = sorted(
        str(entry.relative_to(folder))
        for place in used
        if place == folder or folder in place.parents
        for entry in place.iterdir()
        if entry.is_dir() and entry not in used
    )
    other += sorted(file.name for file in folder.iterdir() if file.is_file() and file.name not in METADATA_FILES)
    if other:
        yield f"not published, since they are no pairs: {some(other)}"
