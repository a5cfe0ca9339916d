"""Pairs with a box around each object: where the files of boxes lie beside the pictures, and how they are read.

Files are COCO JSON in a folder `boxes/` beside that of the visible pictures. Several files are several people who drew
boxes on the same pictures. People disagree, most of all where each saw another picture (visible, infrared, fused), so
`union_boxes` makes one truth of theirs by a stated rule.

A box is left, top, right, bottom in pixels; edges, so a box around one pixel is 1 wide.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fusion_hub.data.generated import DrawnPicture
from fusion_hub.data.layouts import EXTENSIONS, folder_beside
from fusion_hub.data.pictures import Pair
from fusion_hub.data.report import some

BOX_NAMES = ("boxes",)
SAME_OBJECT = 0.5
"""Intersection over union from which boxes of two people are the same object."""

_ALIASES = {
    "people": "person",
    "pedestrian": "person",
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "automobile": "car",
    "light": "lamp",
}

Boxes = tuple[np.ndarray, np.ndarray]
"""Boxes `(N, 4)` and the class of each `(N,)`."""


@dataclass(frozen=True, eq=False)
class BoxedPair:
    """A pair of pictures and the objects in it.

    Attributes:
        boxes: `(N, 4)` float32: left, top, right, bottom in pixels, within the picture.
        class_ids: `(N,)` int64, index into the classes that were asked for.
    """

    pair: Pair
    boxes: np.ndarray
    class_ids: np.ndarray

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.pair.name


def find_boxes(
    pairs: Sequence[Pair],
    classes: Sequence[str],
    annotations: Sequence[str] | None = None,
    *,
    every_class: bool = True,
) -> list[BoxedPair]:
    """The boxes that belong to pairs.

    Of files they are in COCO JSON files in a folder `boxes/` beside that of the visible pictures, also with the split
    below it: `boxes/train/`. Pictures are found by stem. A picture that is listed with no box has no object; crowds
    (`iscrowd`) are no single object and are left out. Drawn scenes know their own boxes.

    Args:
        classes: names, in the order of the ids of the result, in any case; usual synonyms such as `People` for `person`
            are the same class. Boxes of other classes are left out.
        annotations: the files to use, by stem: `["vis"]`. None: all, made one by `union_boxes`.
        every_class: whether each of the classes has to be known to the files of each folder; else one of them does.

    Raises:
        ValueError: there is no such file, one is broken, none knows a class, or one does not list a picture.
    """
    ids = _class_ids(classes)
    read: dict[Path, dict[str, _Annotator]] = {}
    boxed, missing = [], []
    for pair in pairs:
        source = pair.visible_source
        if isinstance(source, DrawnPicture):
            boxed.append(BoxedPair(pair, *_drawn(source, ids)))
            continue
        if not isinstance(source, Path):
            raise ValueError(f"{pair.name!r} is no file, so it has no folder of boxes: give a folder of files")
        if source.parent not in read:
            read[source.parent] = _read_folder(source.parent, ids, annotations, every_class)
        annotators = read[source.parent].values()
        if all(source.stem in annotator for annotator in annotators):
            boxed.append(BoxedPair(pair, *union_boxes([annotator[source.stem] for annotator in annotators])))
        else:
            missing.append(pair.name)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pairs)} pairs are not listed in each file of boxes: {some(missing)}. Add them to "
            '"images" (with no annotation where there is no object), or leave these pairs out with exclude'
        )
    return boxed


def union_boxes(annotators: Sequence[Boxes], same_object: float = SAME_OBJECT) -> Boxes:
    """One truth from the boxes that several people drew on one picture.

    Within each class, boxes of different people that overlap by `same_object` (intersection over union) or more are one
    object: those that overlap most are put together first, and an object takes at most one box from each person. Its
    box is the mean of theirs. What only one person drew stays as it is: an object that the infrared picture alone shows
    is one too. The order of the people does not matter.

    Args:
        annotators: of each person boxes `(N, 4)` and class ids `(N,)`.

    Returns:
        Boxes `(M, 4)` float32 and class ids `(M,)` int64, sorted by class, then from left to right.
    """
    boxes = np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _ in annotators)])
    class_ids = np.concatenate([np.zeros(0, np.int64), *(class_ids for _, class_ids in annotators)]).astype(np.int64)
    person = np.repeat(np.arange(len(annotators)), [len(boxes) for boxes, _ in annotators])
    order = np.lexsort([person, *boxes.T[::-1], class_ids])  # of equal overlaps the same goes first in any order
    boxes, class_ids, person = boxes[order], class_ids[order], person[order]
    objects = _group(boxes, class_ids, person, same_object)
    merged = np.array([boxes[members].mean(axis=0) for members in objects]).reshape(-1, 4)
    merged_ids = np.array([class_ids[members[0]] for members in objects], dtype=np.int64)
    order = np.lexsort([*merged.T[::-1], merged_ids])
    return merged[order].astype(np.float32), merged_ids[order]


def _group(boxes: np.ndarray, class_ids: np.ndarray, person: np.ndarray, same_object: float) -> list[list[int]]:
    """Which boxes are one object: lists of indices."""
    overlap = iou(boxes, boxes)
    overlap[(class_ids[:, None] != class_ids[None]) | (person[:, None] == person[None])] = 0
    first, second = np.nonzero(np.triu(overlap) >= max(same_object, 1e-9))
    object_of = {index: [index] for index in range(len(boxes))}
    for pair in np.argsort(-overlap[first, second], kind="stable"):
        one, other = object_of[int(first[pair])], object_of[int(second[pair])]
        if one is not other and not {person[i] for i in one} & {person[i] for i in other}:
            together = sorted(one + other)
            object_of.update(dict.fromkeys(together, together))
    return [members for index, members in object_of.items() if members[0] == index]


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `(N, 4)` with boxes `(M, 4)`: `(N, M)` in [0, 1]; 0 where both are empty."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    union = _areas(first)[:, None] + _areas(second)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)


# --- names of classes ------------------------------------------------------------------------------------------------


def same_class(name: str) -> str:
    """The one spelling of names that mean the same class: `People` and `pedestrian` are `person`."""
    plain = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
    return _ALIASES.get(plain, plain)


def _class_ids(classes: Sequence[str]) -> dict[str, int]:
    ids = {same_class(name): number for number, name in enumerate(classes)}
    if not classes or len(ids) < len(classes):
        raise ValueError(f"the classes are {some(list(classes))}: give at least one, and each once")
    return ids


# --- files -----------------------------------------------------------------------------------------------------------

_Annotator = dict[str, Boxes]
"""Boxes of each picture, by stem."""


def _drawn(source: DrawnPicture, ids: Mapping[str, int]) -> Boxes:
    boxes: Any = replace(source, band="boxes")()
    wanted = [box for box in boxes if same_class(box.label) in ids]
    corners = np.array([box[1:] for box in wanted], dtype=np.float32).reshape(-1, 4)
    return corners, np.array([ids[same_class(box.label)] for box in wanted], dtype=np.int64)


def _read_folder(
    visible: Path, ids: Mapping[str, int], annotations: Sequence[str] | None, every_class: bool
) -> dict[str, _Annotator]:
    """What each file beside the folder of visible pictures says, by stem of the file."""
    folder = folder_beside(visible, BOX_NAMES, "with boxes (COCO JSON files)")
    files = {file.stem: file for file in sorted(folder.glob("*.json")) if not file.name.startswith(".")}
    if not files:
        raise ValueError(f"{folder} holds no JSON file: put COCO files of boxes there")
    wanted = list(files) if annotations is None else list(dict.fromkeys(annotations))
    if not wanted or (unknown := [name for name in wanted if name not in files]):
        asked = f"{unknown[0]!r}" if wanted else "no file at all"
        raise ValueError(
            f"{folder} has the files of boxes {some(list(files))}, asked for is {asked}: choose some of them"
        )
    contents = {name: _read_json(files[name]) for name in wanted}
    known = {same_class(name) for content in contents.values() for name in content["classes"].values()}
    if (strange := [name for name in ids if name not in known]) and (every_class or len(strange) == len(ids)):
        raise ValueError(
            f"no file of boxes in {folder} knows the class {strange[0]!r}: use some of {some(sorted(known))}"
        )
    return {name: _by_picture(files[name], content, ids) for name, content in contents.items()}


def _read_json(file: Path) -> dict[str, Any]:
    """A COCO file as `classes` (id -> name), `images` (id -> stem, width, height) and `annotations`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            "classes": {entry["id"]: str(entry["name"]) for entry in content["categories"]},
            "images": {
                entry["id"]: (_stem(entry["file_name"]), float(entry["width"]), float(entry["height"]))
                for entry in content["images"]
            },
            "annotations": [
                (entry["image_id"], entry["category_id"], np.array(entry["bbox"], dtype=np.float64).reshape(4))
                for entry in content["annotations"]
                if not entry.get("iscrowd")
            ],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise ValueError(
            f"{file} is no COCO file of boxes ({reason}): give JSON with categories (id, name), images (id, file_name, "
            "width, height) and annotations (image_id, category_id, bbox)"
        ) from error


def _by_picture(file: Path, content: Mapping[str, Any], ids: Mapping[str, int]) -> _Annotator:
    rows: dict[str, list[tuple[np.ndarray, int]]] = {stem: [] for stem, _, _ in content["images"].values()}
    if len(rows) < len(content["images"]):
        raise ValueError(f"{file} lists pictures of one stem twice: list each once")
    for image_id, category_id, (left, top, width, height) in content["annotations"]:
        if image_id not in content["images"] or category_id not in content["classes"]:
            raise ValueError(
                f"{file} has a box of image {image_id!r} and category {category_id!r}, but does not list them: add "
                "them, or leave the box out"
            )
        stem, *size = content["images"][image_id]
        box = np.array([left, top, left + width, top + height])
        if not np.isfinite(box).all():
            raise ValueError(f"{file} has the box {box.tolist()} in {stem!r}: give finite numbers")
        box = np.clip(box, 0, np.array(size * 2))
        class_id = ids.get(same_class(content["classes"][category_id]))
        if class_id is not None and box[2] > box[0] and box[3] > box[1]:
            rows[stem].append((box, class_id))
    return {
        stem: (np.array([box for box, _ in row]).reshape(-1, 4), np.array([i for _, i in row], dtype=np.int64))
        for stem, row in rows.items()
    }


def _stem(file_name: str) -> str:
    """`00004N` of `00004N`, `00004N.png` or `vis/00004N.png`; a dot that starts no known extension stays."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name
