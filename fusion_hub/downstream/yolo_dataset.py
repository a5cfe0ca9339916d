"""Fused images with boxes in the dataset layout of Ultralytics' `yolo train`.

    OUTPUT/data.yaml                     folders and classes
    OUTPUT/images/train/00001D.png       one image for each pair
    OUTPUT/labels/train/00001D.txt       one row for each object: class, center x, center y, width, height, in [0, 1]
    OUTPUT/fusion-hub.json               how the images were made

The layout is documented at https://docs.ultralytics.com/datasets/detect. `data.yaml` has no `path`, so its folders are
relative to the file and the dataset can be moved. It is written last: a dataset that has it is complete. No code of
Ultralytics is used.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from fusion_hub.data import PairedDataset
from fusion_hub.data.annotations import BoxedPair, find_boxes, known_classes
from fusion_hub.data.pairs import Pair, some
from fusion_hub.downstream.inputs import PROVENANCE, Inputs, file_name, write_picture
from fusion_hub.files import sweep_leftovers, write_aside

PARTS = ("train", "val", "test")
DESCRIPTION = f"{PROVENANCE}.json"


class YoloPicture(NamedTuple):
    """One image to be written: one of `PARTS`, the stem of its files, and the pair with its boxes."""

    part: str
    stem: str
    boxed: BoxedPair


class ForeignFolderError(ValueError):
    """The output folder holds something else; the message says what it holds and what to do."""


def open_sets(
    sets: Mapping[str, Sequence[str]], class_names: Sequence[str], annotations: Sequence[str] | None
) -> tuple[list[str], list[YoloPicture]]:
    """The classes, and the images of all parts with their boxes.

    If a part has several sets, their last two folder names, or more where these are equal, are put before each stem.

    Args:
        sets: for each of `PARTS`, `FOLDER` or `FOLDER:SPLIT` of each paired set.
        class_names: classes to export, in the order of their ids; empty: all in the box files.
        annotations: box files to use, by stem; None: all.

    Raises:
        ValueError, OSError: a set or its boxes cannot be read, or two sets or pairs of one part have the same name.
    """
    pairs: dict[str, list[Pair]] = {}
    folders: dict[str, tuple[Path, str | None]] = {}
    for text in (text for texts in sets.values() for text in texts):
        folder, colon, split = text.rpartition(":")
        if not (colon and split and not Path(text).exists() and Path(folder).is_dir()):  # a name may have a colon
            folder, split = text, ""
        folders[text] = Path(folder).resolve(), split or None
        if text not in pairs:
            pairs[text] = list(PairedDataset.open(folder, split or None))
    classes = list(class_names) or known_classes([pair for each in pairs.values() for pair in each], annotations)
    pictures: list[YoloPicture] = []
    for part, texts in sets.items():
        different = {folders[text]: pairs[text] for text in texts}
        prefixes = [f"{label}_" for label in _labels(list(different))] if len(different) > 1 else [""]
        of_part = [
            YoloPicture(part, prefix + boxed.name, boxed)
            for prefix, each in zip(prefixes, different.values(), strict=False)
            for boxed in find_boxes(each, classes, annotations, every_class=False)
        ]
        repeated = [stem for stem, count in Counter(picture.stem for picture in of_part).items() if count > 1]
        if repeated:
            raise ValueError(f"several pairs of {part} have the name {min(repeated)!r}: rename them")
        pictures += of_part
    return classes, pictures


def _labels(folders: Sequence[tuple[Path, str | None]]) -> list[str]:
    """`msrs_train` for `data/msrs/train` and for `data/msrs:train`; more folder names where two are equal."""
    paths = [[*folder.parts, *([split] if split else [])] for folder, split in folders]
    labels: list[str] = []
    for length in range(2, max(map(len, paths)) + 1):
        labels = [file_name("_".join(path[-length:])) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    repeated = Counter(labels).most_common(1)[0][0]
    raise ValueError(f"two sets have the name {repeated!r}: rename one of their folders")


def export(
    pictures: Sequence[YoloPicture],
    inputs: Inputs,
    classes: Sequence[str],
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Write the dataset, or resume one that was interrupted.

    Existing images and labels of the same method, sources and boxes are kept.

    Args:
        pictures: of all parts, from `open_sets`.
        inputs: image of each pair, from `open_inputs`.
        classes: names, in the order of the class ids of the boxes.
        about: further settings of the dataset, JSON-able: `{"annotations": ["vis"]}`.
        overwrite: delete an existing dataset of this function first.
        progress: called after each image.

    Raises:
        ForeignFolderError: `folder` holds another dataset, or files that do not belong to this one.
        ValueError, OSError: an image cannot be read or computed, or does not fit its boxes.
    """
    if overwrite and (folder / DESCRIPTION).is_file():
        (folder / "data.yaml").unlink(missing_ok=True)  # first: a dataset that has it is complete
        for part in ("images", "labels"):
            shutil.rmtree(folder / part, ignore_errors=True)
        (folder / DESCRIPTION).unlink(missing_ok=True)
    settings = {"method": inputs.name, "fingerprint": inputs.fingerprint, "details": dict(inputs.details)}
    settings |= {"classes": list(classes), **(about or {})}
    for subfolder in (folder, *folder.glob("images/*"), *folder.glob("labels/*")):
        sweep_leftovers(subfolder)
    _check_folder(folder, settings, pictures)
    _write(folder / DESCRIPTION, json.dumps(settings, indent=2) + "\n")  # first: marks the folder as ours
    for picture in pictures:
        file = folder / "images" / picture.part / f"{picture.stem}.png"
        write_picture(inputs, picture.boxed.pair, file)
        with Image.open(file) as image:
            size = image.size
        if (picture.boxed.boxes > np.array(size * 2) + 0.01).any():
            raise ValueError(
                f"{picture.boxed.name}: a box lies outside the image of {size[0]} x {size[1]}: give images of the size "
                "of their pairs"
            )
        rows = label_rows(picture.boxed.boxes, picture.boxed.class_ids, size)
        _write(folder / "labels" / picture.part / f"{picture.stem}.txt", rows)
        progress()
    values: dict[str, Any] = {part: f"images/{part}" for part in PARTS if any(one.part == part for one in pictures)}
    text = yaml.safe_dump({**values, "names": dict(enumerate(classes))}, sort_keys=False, allow_unicode=True)
    _write(folder / "data.yaml", f"# Pictures: {inputs.name}. Folders are beside this file.\n{text}")


def label_rows(boxes: np.ndarray, class_ids: np.ndarray, size: tuple[int, int]) -> str:
    """Rows of a label file from boxes `(N, 4)` (left, top, right, bottom) in an image of width and height `size`."""
    parts = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) / np.array(size * 2)
    center, extent = (parts[:, :2] + parts[:, 2:]) / 2, parts[:, 2:] - parts[:, :2]
    rows = np.concatenate([center, extent], axis=1).clip(0, 1)
    return "".join(
        f"{class_id:d} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n"
        for class_id, (x, y, width, height) in zip(class_ids, rows, strict=True)
    )


def _write(file: Path, text: str) -> None:
    """Write the file unless it has this text already: caches of label files compare modification times."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with write_aside(file) as aside:
            aside.write_text(text, encoding="utf-8")


def _check_folder(folder: Path, settings: Mapping[str, Any], pictures: Sequence[YoloPicture]) -> None:
    """Raises `ForeignFolderError` unless the folder has no files or holds a part of this dataset."""
    if not any(path.is_file() for path in folder.rglob("*")):  # new, or from a run that was killed early
        return
    try:
        before = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ForeignFolderError(
            f"{folder} is not empty and holds no dataset of this command: give another folder"
        ) from None
    if differing := [key for key in settings if before.get(key) != json.loads(json.dumps(settings[key]))]:
        key = differing[0]
        raise ForeignFolderError(
            f"{folder} holds a dataset with another {key} ({_short(before.get(key))}, now {_short(settings[key])}): "
            "give another folder, or use --overwrite"
        )
    expected = {(picture.part, picture.stem) for picture in pictures}
    present = ((file.parent.name, file.stem) for file in folder.glob("images/*/[!.]*.png"))
    if strange := sorted("/".join(one) for one in present if one not in expected):
        raise ForeignFolderError(
            f"{folder} holds {len(strange)} images that are not in these sets ({some(strange, 3)}): give another "
            "folder, or use --overwrite"
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
