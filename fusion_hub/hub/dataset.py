"""Publish a folder of pairs as a dataset that streams: check every picture, stage, commit once, read back."""

import csv
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from fusion_hub.data.layouts import METADATA_FILES, SPLIT_NAMES, find_splits, holds_parquet
from fusion_hub.data.paired_dataset import PairedDataset
from fusion_hub.data.pairs import Pair, PairReport, some
from fusion_hub.hub.card_checks import find_license
from fusion_hub.hub.cards import render_dataset_card, validate_card
from fusion_hub.hub.upload import Published, PublishError, check_repo_id, upload
from fusion_hub.image.io import read_header
from fusion_hub.image.sources import read_bytes
from fusion_hub.repositories import first_line

Format = Literal["folder", "parquet"]
Band = Literal["infrared", "visible"]
BANDS: tuple[Band, ...] = ("infrared", "visible")
FOLDER_ENTRIES = 10_000
"""The most files that the Hub allows in one folder."""
SHARD_BYTES = 256 * 2**20
"""The most bytes of pictures in one Parquet file."""

_SPLIT = re.compile(r"\w+(\.\w+)*")  # what `datasets` accepts
_NAME = re.compile(r"\w(?:[\w .,;()+=@~&'!-]{0,198}[\w()+=@~&'!-])?")  # a file name everywhere; no glob, no URL
_GPS = 0x8825  # EXIF
_FAULTS = {
    "missing_infrared": "no infrared picture for {}: add it, or remove the visible one",
    "missing_visible": "no visible picture for {}: add it, or remove the infrared one",
    "ambiguous": "several files with the same stem, {}: keep one of each",
    "repeated_names": "the same name for several pairs, {}: rename them",
    "unequal_sizes": "pictures of different size, {}: register and crop them to one size",
    "unreadable": "files that cannot be read, {}: replace them, or remove the pair",
}
"""Sections of a `PairReport` that prevent publication, and what to do about them."""


@dataclass(frozen=True)
class DatasetInfo:
    """What the card says beyond what the pictures show.

    Attributes:
        licence: id in the Hub's list, such as `cc-by-4.0`, `unknown` or `other`.
        source: where the pictures come from.
        description: what they show.
        licence_name, licence_link: name and address of the license `other`.
        medical: MRI with CT, PET or SPECT.
    """

    licence: str
    source: str = "Not stated by the publisher."
    description: str = "Image pairs for training and evaluating image fusion."
    licence_name: str | None = None
    licence_link: str | None = None
    medical: bool = False


AboutDataset = DatasetInfo
"""The former name."""


@dataclass(frozen=True)
class CheckedDataset:
    """Pairs that can be published, by split.

    Attributes:
        modes: number of pictures of each Pillow mode in each band: `{"infrared": {"I;16": 40}, ...}`.
        notes: what does not prevent publication, but the owner should know.
    """

    folder: Path
    splits: Mapping[str, PairedDataset]
    modes: Mapping[Band, Mapping[str, int]]
    notes: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of pairs in each split."""
        return {name: len(pairs) for name, pairs in self.splits.items()}


# --- checking --------------------------------------------------------------------------------------------------------


def check_card(repo_id: str, info: DatasetInfo) -> None:
    """Check what the card will say, before thousands of pictures are decoded.

    Raises:
        PublishError: the repository's id is not `owner/name`, or the license is not in the Hub's list.
    """
    check_repo_id(repo_id)
    try:
        license_id = find_license(info.licence)
    except ValueError as error:
        raise PublishError(str(error)) from error
    if license_id == "other" and not (info.licence_name and info.licence_link):
        raise PublishError("license 'other' needs its name and a link to its text: give both")


def check_dataset(folder: Path) -> CheckedDataset:
    """Open every split of `folder` and decode every picture.

    Args:
        folder: any layout that `PairedDataset.open` reads, with or without splits. A dataset without splits becomes the
            split that its folder is named after (`test`, `val` ...), otherwise `train`.

    Raises:
        PublishError: the folder holds no pairs; a picture has no partner, another size or cannot be read; a name is not
            a valid file name on every system; two splits share a picture. The message lists all of these.
    """
    splits = _open_splits(folder)
    reports = {name: pairs.check(decode=True) for name, pairs in splits.items()}
    if faults := list(_find_faults(splits, reports)):
        raise PublishError(f"{folder} cannot be published.\n" + "\n".join(f"  {fault}" for fault in faults))
    modes: dict[Band, Counter[str]] = {band: Counter() for band in BANDS}
    located: list[str] = []
    used: set[Path] = set()  # the folders of the pictures, with their parents
    for pair, band in ((pair, band) for pairs in splits.values() for pair in pairs for band in BANDS):
        source = stored_file(pair, band)
        mode, has_position = _read_mode(source)
        modes[band][mode] += 1
        located += [f"{pair.name} ({band})"] if has_position else []
        used |= set(source.parents) if isinstance(source, Path) else set()
    notes = []
    for name, report in reports.items():
        if report.duplicates:
            notes.append(f"{name}: equal pictures within the split: {some(report.duplicates, separator='; ')}")
        if report.unlisted:
            notes.append(f"{name}: not in the metadata, so not published: {some(report.unlisted)}")
    for band, counts in modes.items():
        if len({mode.startswith(("I", "F")) for mode in counts}) > 1:
            shown = ", ".join(f"{count} {mode}" for mode, count in counts.items())
            notes.append(f"the {band} pictures have different depths ({shown}); each is published as it is")
    if located:
        notes.append(f"the EXIF data of {len(located)} files show everyone where they were taken: {some(located)}")
    if not holds_parquet(folder):
        inside = [parent for parent in used if parent == folder or folder in parent.parents]
        entries = {entry for parent in inside for entry in parent.iterdir() if entry.is_dir()} - used
        other = sorted(str(entry.relative_to(folder)) for entry in entries)
        other += sorted(file.name for file in folder.iterdir() if file.is_file() and file.name not in METADATA_FILES)
        if other:
            notes.append(f"not published, because they are not pairs: {some(other)}")
    return CheckedDataset(folder, splits, modes, tuple(notes))


def stored_file(pair: Pair, band: Band) -> Path | Mapping[str, Any]:
    """The encoded picture of a pair that was opened from a folder: a file, or the cell of a table."""
    source = pair.infrared_source if band == "infrared" else pair.visible_source
    if not isinstance(source, Path | Mapping):
        raise TypeError(f"{pair.name}: the {band} picture is no file of its own: only files can be published")
    return source


def _open_splits(folder: Path) -> dict[str, PairedDataset]:
    if not folder.is_dir():
        raise PublishError(f"{folder} is not a folder: give the folder that holds the pairs")
    try:
        if holds_parquet(folder):
            from datasets import load_dataset

            return {str(name): PairedDataset.open(table) for name, table in load_dataset(str(folder)).items()}
        order = {name: number for number, name in enumerate(SPLIT_NAMES)}
        names = sorted(find_splits(folder), key=lambda name: (order.get(name.lower(), len(order)), name))
        if wrong := [name for name in names if not _SPLIT.fullmatch(name)]:
            raise ValueError(f"{some(wrong)} cannot name a split: use letters, digits, underscores and dots only")
        if names:
            return {name.lower(): PairedDataset.open(folder, name) for name in names}
        own_name = folder.resolve().name.lower()
        return {own_name if own_name in SPLIT_NAMES else "train": PairedDataset.open(folder)}
    except (ValueError, OSError) as error:
        raise PublishError(f"{folder} cannot be published. {error}") from error


def _find_faults(splits: Mapping[str, PairedDataset], reports: Mapping[str, PairReport]) -> Iterator[str]:
    """What prevents publication."""
    for split, report in reports.items():
        for section, text in _FAULTS.items():
            if items := getattr(report, section):
                yield f"{split}: {text.format(some(items, separator='; '))}"
    for split, pairs in splits.items():
        names = sorted({pair.name for pair in pairs})
        if wrong := [repr(name) for name in names if not _NAME.fullmatch(name)]:
            yield (
                f"{split}: names that are not valid file names everywhere, {some(wrong)}: use letters, digits, spaces "
                "and . , ; ( ) + = @ ~ & ' ! - _ only"
            )
        counts = Counter(name.casefold() for name in names)
        if same := [name for name in names if counts[name.casefold()] > 1]:
            yield f"{split}: names that differ in case only, {some(same)}: rename them"
    for (first, one), (second, other) in combinations(reports.items(), 2):
        common = [digest for digest in one.digests if digest in other.digests]
        shared = [f"{one.digests[digest][0]} = {other.digests[digest][0]}" for digest in common]
        if shared:
            yield (
                f"{first} and {second} share {len(shared)} pictures, {some(shared, separator='; ')}: remove them from "
                "one of the two, otherwise a model is tested on pictures that it was trained on"
            )


def _read_mode(source: Path | Mapping[str, Any]) -> tuple[str, bool]:
    """Pillow's mode of a picture, and whether its EXIF data hold a position; from the header alone."""
    try:
        opened = Image.open(source if isinstance(source, Path) else BytesIO(read_bytes(source)))
    except UnidentifiedImageError as error:  # the Hub's viewer and `datasets` read with Pillow, too
        header = read_header(source)
        raise PublishError(
            f"{source if isinstance(source, Path) else 'a picture'} holds {header.dtype} samples, which `datasets` "
            "cannot read: save it as 8-bit or 16-bit PNG, or as float32 TIFF"
        ) from error
    with opened as image:
        # `getexif` of a PNG without EXIF in its header would decode the whole file to look behind the pixels.
        has_exif = "exif" in image.info or image.format == "TIFF"
        return image.mode, has_exif and bool(image.getexif().get_ifd(_GPS))


# --- staging ---------------------------------------------------------------------------------------------------------


@contextmanager
def staged_dataset(
    checked: CheckedDataset, repo_id: str, info: DatasetInfo, file_format: Format = "folder"
) -> Iterator[Path]:
    """A temporary folder that holds the repository as it will be on the Hub, card included.

    Args:
        checked: what `check_dataset` returned.
        repo_id: `owner/name`.
        info: for the card.
        file_format: `folder`: the original files, with a `metadata.csv` in each split, which people can browse.
            `parquet`: the same files inside Parquet shards, for large datasets. Both stream.

    Raises:
        PublishError: a split is too large for `folder`, or the card is not valid.
    """
    check_card(repo_id, info)
    with TemporaryDirectory(prefix="fusion_hub_dataset_") as temporary:
        target = Path(temporary)
        data_files, columns = [], {"name": "name of the pair"} if file_format == "parquet" else dict[str, str]()
        columns |= {band: f"image; modes: {', '.join(checked.modes[band])}" for band in BANDS}
        for name, pairs in checked.splits.items():
            if file_format == "parquet":
                write_parquet(pairs, target / "data", name)
            else:
                write_folder(pairs, target / name)
            pattern = f"data/{name}-*.parquet" if file_format == "parquet" else f"{name}/**"
            data_files.append({"split": name, "path": pattern})
        try:
            card = render_dataset_card(
                name=repo_id.split("/")[-1],
                repo_id=repo_id,
                splits=checked.sizes,
                columns=columns,
                configs=[{"config_name": "default", "data_files": data_files}],
                **vars(info),
            )
        except ValueError as error:
            raise PublishError(f"the dataset card cannot be written: {error}") from error
        (target / "README.md").write_text(card, encoding="utf-8")
        if problems := validate_card(card, target, kind="dataset"):
            raise PublishError("the dataset card is not valid: " + "; ".join(problems))
        yield target


def write_folder(pairs: PairedDataset, target: Path) -> None:
    """Write `target/metadata.csv`, `target/infrared/*`, `target/visible/*`: the files of the pairs, byte for byte.

    There is no column of names, because `datasets` would read `00012` as a number. The stem of the file is the name.
    """
    if len(pairs) > FOLDER_ENTRIES:
        raise PublishError(
            f"{target.name} has {len(pairs)} pairs, but the Hub allows {FOLDER_ENTRIES} files in a folder: publish "
            "with --format parquet"
        )
    for band in BANDS:
        (target / band).mkdir(parents=True)
    with (target / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(f"{band}_file_name" for band in BANDS)
        for pair in pairs:
            names = [f"{band}/{pair.name}{_suffix(stored_file(pair, band))}" for band in BANDS]
            for band, name in zip(BANDS, names, strict=True):
                source = stored_file(pair, band)
                if not isinstance(source, Path):
                    (target / name).write_bytes(read_bytes(source))
                    continue
                try:
                    os.link(source.resolve(), target / name)  # resolved, because a hard link to a link is no file
                except OSError:  # on another disk than the temporary folder (TMPDIR), or on one without links
                    shutil.copyfile(source, target / name)
            writer.writerow(names)


def write_parquet(pairs: PairedDataset, target: Path, split: str, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write `target/SPLIT-00000-of-0000N.parquet`: columns name, infrared, visible, with the files byte for byte.

    The number of shards is a power of two, so that 2, 4 or 8 processes get equal numbers of them.
    """
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    def embedded(pair: Pair, band: Band) -> dict[str, Any]:
        source = stored_file(pair, band)
        return {"bytes": read_bytes(source), "path": f"{pair.name}{_suffix(source)}"}

    features = Features({"name": Value("string"), "infrared": ImageFeature(), "visible": ImageFeature()})
    sources = (stored_file(pair, band) for pair in pairs for band in BANDS)
    total = sum(file.stat().st_size if isinstance(file, Path) else len(read_bytes(file)) for file in sources)
    count = 1
    while count * shard_bytes < total and count * 2 <= len(pairs):
        count *= 2
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        shard = pairs[number * len(pairs) // count : (number + 1) * len(pairs) // count]
        rows = [{"name": pair.name, **{band: embedded(pair, band) for band in BANDS}} for pair in shard]
        files.append(target / f"{split}-{number:05d}-of-{count:05d}.parquet")
        Dataset.from_list(rows, features=features).to_parquet(files[-1])
    return files


def _suffix(source: Path | Mapping[str, Any]) -> str:
    return PurePosixPath(str(source if isinstance(source, Path) else source["path"])).suffix.lower()


# --- publishing ------------------------------------------------------------------------------------------------------


def publish_dataset(
    folder: Path | str,
    repo_id: str,
    about: DatasetInfo,
    *,
    file_format: Format = "folder",
    private: bool = False,
    tag: str | None = None,
    token: str | None = None,
) -> Published:
    """Check a folder of pairs and publish it in one commit.

    Args:
        folder: see `check_dataset`.
        repo_id: `owner/name`; created if it does not exist.
        about: license, source and description, for the card.
        file_format: see `staged_dataset`.
        private: create a private repository.
        tag: name of this version.
        token: Hub token; by default that of the login.

    Raises:
        PublishError: the pairs or the card are faulty, or the Hub refuses: nothing is published. Or what is published
            cannot be streamed, or differs from `folder`.
    """
    check_card(repo_id, about)
    checked = check_dataset(Path(folder))
    with staged_dataset(checked, repo_id, about, file_format) as staged:
        return upload_dataset(checked, staged, repo_id, private=private, tag=tag, token=token)


def upload_dataset(
    checked: CheckedDataset, staged: Path, repo_id: str, *, token: str | None = None, **options: Any
) -> Published:
    """Upload what `staged_dataset` made, then stream the first pair of each split and compare it.

    Args: `options` as in `upload`.
    """
    from datasets import load_dataset

    def read_back(published: Published) -> None:
        for name, pairs in checked.splits.items():
            try:
                stream = load_dataset(repo_id, split=name, revision=published.commit, streaming=True, token=token)
                first = next(iter(PairedDataset.open(stream)))
                equal = all(np.array_equal(getattr(first, band), getattr(pairs[0], band)) for band in BANDS)
            except Exception as error:  # of a dozen kinds, as in `PairedDataset.open`
                raise PublishError(
                    f"{repo_id} is published, but its split {name} cannot be streamed: {first_line(error)}"
                ) from error
            if not equal:
                raise PublishError(
                    f"{repo_id} is published, but the first pair of {name} differs from {pairs[0].name} in "
                    f"{checked.folder}"
                )

    message = f"{sum(checked.sizes.values())} pairs"
    options |= {"message": message, "token": token, "verify": read_back}
    return upload(staged, repo_id, repo_type="dataset", **options)
