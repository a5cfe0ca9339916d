"""A folder of pairs becomes a dataset repository that streams: stage, one commit, read back."""

import csv
import difflib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from fusion_hub.data.pairs import PairedDataset
from fusion_hub.data.pictures import Pair, read_bytes
from fusion_hub.hub.dataset_check import BANDS, Band, CheckedDataset, check_dataset, stored_file
from fusion_hub.hub.upload import Published, PublishError, check_repo_id, upload, withdraw_tag

Format = Literal["folder", "parquet"]

FOLDER_ENTRIES = 10_000
"""Files that the Hub takes in one folder."""

SHARD_BYTES = 256 * 2**20
"""Pictures in one Parquet file, at most."""


@dataclass(frozen=True)
class AboutDataset:
    """What pictures do not say of themselves, for the card.

    Attributes:
        licence: id of the Hub's list, such as `cc-by-4.0`; `unknown` and `other` are in it.
        source: where the pictures come from.
        description: what they show.
        licence_name, licence_link: of the licence `other`.
        medical: MRI with CT, PET or SPECT.
    """

    licence: str
    source: str = "Not stated by who published it."
    description: str = "A set for training and measuring image fusion."
    licence_name: str | None = None
    licence_link: str | None = None
    medical: bool = False


def check_card(repo_id: str, about: AboutDataset) -> None:
    """Refuse what the card cannot say, before thousands of pictures are looked at.

    Raises:
        PublishError: the repository's id is not `owner/name`; the licence is not in the Hub's list, with the nearest.
    """
    from fusion_hub.hub.cards.spec import LICENCES

    check_repo_id(repo_id)
    licence = about.licence.lower()
    if licence not in LICENCES:
        near = difflib.get_close_matches(licence, sorted(LICENCES), n=3)
        advice = f": did you mean {' or '.join(near)}?" if near else ": give one such as cc-by-4.0, other or unknown"
        raise PublishError(f"licence {about.licence!r} is not an id of the Hub's list{advice}")
    if licence == "other" and not (about.licence_name and about.licence_link):
        raise PublishError("licence 'other' needs its name and a link to its text: give both")


@contextmanager
def staged_dataset(
    checked: CheckedDataset, repo_id: str, about: AboutDataset, file_format: Format = "folder"
) -> Iterator[Path]:
    """A temporary folder that holds the repository as it will be on the Hub, card included.

    Args:
        checked: what `check_dataset` returned.
        repo_id: `owner/name`.
        about: for the card.
        file_format: `folder`: the files as they are, with a `metadata.csv` in each split, for sets that people want to
            look at. `parquet`: the same files inside Parquet shards, for large sets. Both stream.

    Raises:
        PublishError: a split is too large for `folder`, or the card is not valid.
    """
    check_card(repo_id, about)
    with TemporaryDirectory(prefix="fusion_hub_dataset_") as temporary:
        target = Path(temporary)
        for name, pairs in checked.splits.items():
            if file_format == "parquet":
                write_parquet(pairs, target / "data", name)
            else:
                write_folder(pairs, target / name)
        _write_card(checked, repo_id, about, file_format, target)
        yield target


def _write_card(checked: CheckedDataset, repo_id: str, about: AboutDataset, file_format: Format, target: Path) -> None:
    from fusion_hub.hub.cards import render_dataset_card, validate_card

    pattern = "data/{}-*.parquet" if file_format == "parquet" else "{}/**"
    files = [{"split": name, "path": pattern.format(name)} for name in checked.splits]
    try:
        card = render_dataset_card(
            name=repo_id.split("/")[-1],
            repo_id=repo_id,
            splits=checked.sizes,
            columns=_columns(checked, file_format),
            configs=[{"config_name": "default", "data_files": files}],
            **vars(about),
        )
    except ValueError as error:
        raise PublishError(f"the dataset card cannot be written: {error}") from error
    (target / "README.md").write_text(card, encoding="utf-8")
    if problems := validate_card(card, target, kind="dataset"):
        raise PublishError("the dataset card is not valid: " + "; ".join(problems))


def write_folder(pairs: PairedDataset, target: Path) -> None:
    """`target/metadata.csv`, `target/infrared/*`, `target/visible/*`: the files of the pairs, byte for byte.

    There is no column of names: `datasets` would read `00012` as a number. The stem of the file is the name.
    """
    if len(pairs) > FOLDER_ENTRIES:
        raise PublishError(
            f"{target.name} has {len(pairs)} pairs and the Hub takes {FOLDER_ENTRIES} files in a folder: publish with "
            "--format parquet"
        )
    rows = []
    for band in BANDS:
        (target / band).mkdir(parents=True)
    for pair in pairs:
        row = {}
        for band in BANDS:
            source = stored_file(pair, band)
            file = f"{band}/{pair.name}{_suffix(source)}"
            _place(source, target / file)
            row[f"{band}_file_name"] = file
        rows.append(row)
    with (target / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [f"{band}_file_name" for band in BANDS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(pairs: PairedDataset, target: Path, split: str, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """`target/SPLIT-00000-of-0000N.parquet`: columns name, infrared, visible; the files lie inside, byte for byte.

    The number of shards is a power of two, so that 2, 4 or 8 processes get equal numbers of them.
    """
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({"name": Value("string"), "infrared": ImageFeature(), "visible": ImageFeature()})
    total = sum(_size(stored_file(pair, band)) for pair in pairs for band in BANDS)
    count = 1
    while count * shard_bytes < total and count * 2 <= len(pairs):
        count *= 2
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        shard = pairs[number * len(pairs) // count : (number + 1) * len(pairs) // count]
        rows = [{"name": pair.name, **{band: _embedded(pair, band) for band in BANDS}} for pair in shard]
        files.append(target / f"{split}-{number:05d}-of-{count:05d}.parquet")
        Dataset.from_list(rows, features=features).to_parquet(files[-1])
    return files


def _embedded(pair: Pair, band: Band) -> dict[str, Any]:
    source = stored_file(pair, band)
    return {"bytes": read_bytes(source), "path": f"{pair.name}{_suffix(source)}"}


def _suffix(source: Path | Mapping[str, Any]) -> str:
    return PurePosixPath(str(source if isinstance(source, Path) else source["path"])).suffix.lower()


def _size(source: Path | Mapping[str, Any]) -> int:
    return source.stat().st_size if isinstance(source, Path) else len(read_bytes(source))


def _place(source: Path | Mapping[str, Any], target: Path) -> None:
    if not isinstance(source, Path):
        target.write_bytes(read_bytes(source))
        return
    try:
        os.link(source.resolve(), target)  # resolved: a link's own link would not be a file
    except OSError:  # another disk than that of the temporary folder (TMPDIR), or one without links
        shutil.copyfile(source, target)


def _columns(checked: CheckedDataset, file_format: Format) -> dict[str, str]:
    columns = {"name": "of the pair"} if file_format == "parquet" else dict[str, str]()
    for band in BANDS:
        columns[band] = f"image; modes: {', '.join(checked.modes[band])}"
    return columns


# --- publishing -------------------------------------------------------------------------------------------------------


def publish_dataset(
    folder: Path | str,
    repo_id: str,
    about: AboutDataset,
    *,
    file_format: Format = "folder",
    private: bool = False,
    tag: str | None = None,
    token: str | None = None,
) -> Published:
    """Check a folder of pairs and publish it in one commit.

    Args:
        folder: see `check_dataset`.
        repo_id: `owner/name`; made if it does not exist.
        about: licence, source and description, for the card.
        file_format: see `staged_dataset`.
        private: for a new repository: only for its owner.
        tag: name of this version.
        token: of the Hub; by default that of the login.

    Raises:
        PublishError: a fault in the pairs or the card, or the Hub refuses: nothing is published. Or what is published
            cannot be streamed, or is not what is in `folder`.
    """
    check_card(repo_id, about)
    checked = check_dataset(Path(folder))
    with staged_dataset(checked, repo_id, about, file_format) as staged:
        return upload_dataset(checked, staged, repo_id, private=private, tag=tag, token=token)


def upload_dataset(
    checked: CheckedDataset,
    staged: Path,
    repo_id: str,
    *,
    private: bool = False,
    tag: str | None = None,
    token: str | None = None,
    progress: bool = False,
) -> Published:
    """Upload what `staged_dataset` made, then stream the first pair of each split and compare it."""
    pairs = sum(checked.sizes.values())
    published = upload(
        staged,
        repo_id,
        repo_type="dataset",
        private=private,
        tag=tag,
        message=f"{pairs} pairs",
        token=token,
        progress=progress,
    )
    try:
        _read_back(checked, published, token)
    except PublishError as error:
        raise PublishError(f"{error}; {withdraw_tag(published, token)}") from error
    return published


def _read_back(checked: CheckedDataset, published: Published, token: str | None) -> None:
    from datasets import load_dataset

    for name, pairs in checked.splits.items():
        try:
            stream = load_dataset(published.repo_id, split=name, revision=published.commit, streaming=True, token=token)
            first = next(iter(PairedDataset.open(stream)))
            equal = all(np.array_equal(getattr(first, band), getattr(pairs[0], band)) for band in BANDS)
        except Exception as error:  # of a dozen kinds, as in `PairedDataset.open`
            raise PublishError(
                f"{published.repo_id} is published, but its split {name} cannot be streamed: {type(error).__name__}: "
                f"{error}"
            ) from error
        if not equal:
            raise PublishError(
                f"{published.repo_id} is published, but the first pair of {name} is not {pairs[0].name} as in "
                f"{checked.folder}"
            )
