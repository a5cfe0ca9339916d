"""A set of fused pictures with boxes in the layout that Ultralytics' `yolo train` reads.

    OUTPUT/data.yaml                     which folders, which classes
    OUTPUT/images/train/00001D.png       one picture for each pair
    OUTPUT/labels/train/00001D.txt       a row for each object: class, centre x, centre y, width, height, in parts of 1
    OUTPUT/fusion-hub.json               what the pictures were made by

Documented at https://docs.ultralytics.com/datasets/detect. `data.yaml` has no `path`: without one the folders in it are
looked for beside it, wherever the set is moved. It is written last, so a set that has it is whole. No code of
Ultralytics is used.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fusion_hub.data.boxes import BoxedPair
from fusion_hub.data.report import some
from fusion_hub.downstream.inputs import PROVENANCE, Inputs, write_picture
from fusion_hub.files import sweep_leftovers, write_aside

PARTS = ("train", "val", "test")
DESCRIPTION = f"{PROVENANCE}.json"


@dataclass(frozen=True, eq=False)
class YoloPicture:
    """One picture to be written.

    Attributes:
        part: one of `PARTS`.
        stem: of its files.
        boxed: pair and boxes.
    """

    part: str
    stem: str
    boxed: BoxedPair


class NotOurs(ValueError):
    """The folder holds something else; the message says what, and what to do."""


def arrange(part: str, sets: Mapping[str, Sequence[BoxedPair]]) -> list[YoloPicture]:
    """The pictures of one part; stems get the name of their set in front where there are several.

    Raises:
        ValueError: two pictures of a set have one name.
    """
    pictures = [
        YoloPicture(part, f"{name}_{pair.name}" if len(sets) > 1 else pair.name, pair)
        for name, boxed in sets.items()
        for pair in boxed
    ]
    stems = [picture.stem for picture in pictures]
    if repeated := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"several pairs of {part} have the name {repeated[0]!r}: rename them")
    return pictures


def export(
    pictures: Sequence[YoloPicture],
    inputs: Inputs,
    classes: Sequence[str],
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Write the set, or go on with one that was begun; returns how many pictures were written now.

    Pictures and labels that are there already and are of the same method, sources and boxes stay as they are.

    Args:
        pictures: of all parts, from `arrange`.
        inputs: what to make of each pair, from `open_inputs`.
        classes: names, in the order of the class ids of the boxes.
        about: more that the set depends on, JSON-able: `{"annotations": ["vis"]}`.
        progress: called after each picture.

    Raises:
        NotOurs: `folder` holds another set, or files that are no part of this one.
        ValueError, OSError: a picture cannot be read or made, or does not fit its boxes.
    """
    settings = {
        "method": inputs.name,
        "fingerprint": inputs.fingerprint,
        "details": dict(inputs.details),
        "classes": list(classes),
        **(about or {}),
    }
    for place in (folder, *folder.glob("images/*"), *folder.glob("labels/*")):
        sweep_leftovers(place)
    _check_folder(folder, settings, pictures)
    _write(folder / DESCRIPTION, json.dumps(settings, indent=2) + "\n")  # first: whose folder this is
    for kind in ("images", "labels"):
        for part in dict.fromkeys(picture.part for picture in pictures):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
    written = 0
    for picture in pictures:
        image = folder / "images" / picture.part / f"{picture.stem}.png"
        written += write_picture(inputs, picture.boxed.pair, image)
        _write(folder / "labels" / picture.part / f"{picture.stem}.txt", _label(picture.boxed, image))
        progress()
    _write(folder / "data.yaml", data_yaml({picture.part for picture in pictures}, inputs.name, classes))
    return written


def data_yaml(parts: Iterable[str], method: str, classes: Sequence[str]) -> str:
    """The file that `yolo train data=...` takes."""
    import yaml

    lines = [f"# Pictures: {method}. Folders are beside this file."]
    values: dict[str, Any] = {part: f"images/{part}" for part in PARTS if part in parts}
    values["names"] = dict(enumerate(classes))
    return "\n".join([*lines, yaml.safe_dump(values, sort_keys=False, allow_unicode=True)])


def label_rows(boxes: np.ndarray, class_ids: np.ndarray, size: tuple[int, int]) -> str:
    """Rows of a label file; none for a picture without objects.

    Args:
        boxes: `(N, 4)`: left, top, right, bottom in pixels.
        class_ids: `(N,)`.
        size: width and height of the picture.
    """
    parts = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) / np.array(size * 2)
    centre, extent = (parts[:, :2] + parts[:, 2:]) / 2, parts[:, 2:] - parts[:, :2]
    rows = np.concatenate([centre, extent], axis=1).clip(0, 1)
    return "".join(
        f"{int(class_id)} {' '.join(f'{value:.6f}' for value in row)}\n"
        for class_id, row in zip(class_ids, rows.tolist(), strict=True)
    )


def _label(boxed: BoxedPair, image: Path) -> str:
    with Image.open(image) as picture:
        size = picture.size
    if (boxed.boxes > np.array(size * 2) + 0.01).any():
        raise ValueError(
            f"{boxed.name}: a box lies outside of the picture of {size[0]} x {size[1]}: give pictures of the size of "
            "their pairs"
        )
    return label_rows(boxed.boxes, boxed.class_ids, size)


def _write(file: Path, text: str) -> None:
    """Only if it says something else: whoever has cached the labels sees that they are the same."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        with write_aside(file) as aside:
            aside.write_text(text, encoding="utf-8")


def _check_folder(folder: Path, settings: Mapping[str, Any], pictures: Sequence[YoloPicture]) -> None:
    """Whether the set can be written into the folder, or into what is there of it."""
    if not any(path.is_file() for path in folder.rglob("*")):  # nothing there, or what a run left that was killed early
        return
    try:
        before = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotOurs(f"{folder} is not empty and holds no set of this command: give another folder") from None
    if differing := [key for key in settings if before.get(key) != json.loads(json.dumps(settings[key]))]:
        key = differing[0]
        raise NotOurs(
            f"{folder} holds a set with another {key} ({_short(before.get(key))}, now {_short(settings[key])}): give "
            "another folder, or remake it with --overwrite"
        )
    expected = {(picture.part, picture.stem) for picture in pictures}
    present = ((file.parent.name, file.stem) for file in folder.glob("images/*/[!.]*.png"))
    if strange := sorted("/".join(one) for one in present if one not in expected):
        raise NotOurs(
            f"{folder} holds {len(strange)} pictures that are not in these sets ({some(strange, 3)}): give another "
            "folder, or remake it with --overwrite"
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
