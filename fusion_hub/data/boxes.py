"""Pairs with a box around each object: where the files of boxes lie beside the pictures, and how they are read.

Files are COCO JSON, Pascal VOC or YOLO in a folder `boxes/` (or `Annotations/`, `labels/` ...) beside that of the
visible pictures. Several COCO files are several people who drew boxes on the same pictures. People disagree, most of
all where each saw another picture (visible, infrared, fused), so `union_boxes` makes one truth by a stated rule.

A box is left, top, right, bottom in pixels; edges, so a box around one pixel is 1 wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusion_hub.data.coco import CocoFile, read_coco
from fusion_hub.data.generated import DrawnPicture
from fusion_hub.data.layouts import subfolder
from fusion_hub.data.pictures import Pair
from fusion_hub.data.report import some
from fusion_hub.data.voc_yolo import CLASS_LISTS, find_class_list, read_voc, read_yolo
from fusion_hub.image.io import read_header

BOX_NAMES = ("boxes", "annotations", "annotation", "bbox", "bboxes", "labels", "label", "xml")
DRAWN_CLASSES = ("person", "car")  # of `fusion_hub.data.street`
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

    Of files they lie in a folder beside that of the visible pictures (`boxes/`, `Annotations/`, `labels/` ..., also
    with the split below it: `boxes/train/`), or among the pictures: COCO JSON, Pascal VOC XML or YOLO text, whichever
    is there, in this order. Pictures are found by the stem of the visible file, of the infrared one, or by the name of
    the pair. A picture that COCO lists without a box, or that has no YOLO file, has no object. Crowds of COCO are left
    out: they are no single object. Drawn scenes know their own boxes.

    Args:
        classes: names, in the order of the ids of the result, in any case; usual synonyms such as `People` for `person`
            are the same class. Boxes of other classes are left out.
        annotations: the files to use, by stem: `["vis"]`. None: all, made one by `union_boxes`.
        every_class: whether each of the classes has to be known to the files of each folder; else one of them does.

    Raises:
        ValueError: there is no such file, one is broken, none knows a class, or one does not list a picture or lists it
            in another size.
    """
    ids = _class_ids(classes)
    read: dict[Path, list[CocoFile]] = {}
    boxed, missing = [], []
    for pair in pairs:
        source = _source(pair)
        if isinstance(source, DrawnPicture):
            boxed.append(BoxedPair(pair, *_drawn(source, ids)))
            continue
        if source.parent not in read:
            read[source.parent] = _read_folder(source.parent, annotations)
            _check_classes(source.parent, read[source.parent], ids, every_class)
        files = read[source.parent]
        stem = next((name for name in _stems(pair) if all(name in file.pictures for file in files)), None)
        if stem is None:
            missing.append(pair.name)
            continue
        _check_size(source, {size for file in files if (size := file.pictures[stem].size) is not None})
        boxed.append(BoxedPair(pair, *union_boxes([_boxes_of(file, stem, ids) for file in files])))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pairs)} pairs are not listed in each file of boxes: {some(missing)}. Add them to "
            '"images" (with no annotation where there is no object), or leave these pairs out with exclude'
        )
    return boxed


def known_classes(pairs: Sequence[Pair], annotations: Sequence[str] | None = None) -> list[str]:
    """Names of all classes that the boxes of these pairs may have, as the files order and spell them.

    Raises:
        ValueError: as `find_boxes`.
    """
    sources = [_source(pair) for pair in pairs]
    names = list(DRAWN_CLASSES) if any(isinstance(source, DrawnPicture) for source in sources) else []
    for folder in dict.fromkeys(source.parent for source in sources if isinstance(source, Path)):
        for file in _read_folder(folder, annotations):
            names += [name for _, name in sorted(file.classes.items())]
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(same_class(name), name)
    return list(first.values())


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


def _source(pair: Pair) -> Path | DrawnPicture:
    if not isinstance(pair.visible_source, Path | DrawnPicture):
        raise ValueError(f"{pair.name!r} is no file, so it has no folder of boxes: give a folder of files")
    return pair.visible_source


def _drawn(source: DrawnPicture, ids: Mapping[str, int]) -> Boxes:
    boxes: Any = replace(source, band="boxes")()
    wanted = [box for box in boxes if same_class(box.label) in ids]
    corners = np.array([box[1:] for box in wanted], dtype=np.float32).reshape(-1, 4)
    return corners, np.array([ids[same_class(box.label)] for box in wanted], dtype=np.int64)


def _stems(pair: Pair) -> list[str]:
    """The names under which boxes of a pair may be filed."""
    sources = (pair.visible_source, pair.infrared_source)
    return list(dict.fromkeys([*(s.stem for s in sources if isinstance(s, Path)), pair.name]))


def _read_folder(visible: Path, annotations: Sequence[str] | None) -> list[CocoFile]:
    """The files of boxes beside the folder of visible pictures that are asked for."""
    folder, kind = _box_folder(visible)
    found = {file.stem: file for file in sorted(folder.glob(f"*{kind}")) if _holds_boxes(file)}
    if kind != ".json":
        if annotations is not None:
            raise ValueError(f"{folder} holds one file of boxes for each picture: leave the choice of annotations out")
        if kind == ".xml":
            return [read_voc(list(found.values()))]
        classes = find_class_list(folder)
        if classes is None:
            raise ValueError(f"{folder} holds YOLO boxes without names of classes: add one of {', '.join(CLASS_LISTS)}")
        return [read_yolo(list(found.values()), visible, classes)]
    wanted = list(found) if annotations is None else list(dict.fromkeys(annotations))
    if not wanted or (unknown := [name for name in wanted if name not in found]):
        asked = f"{unknown[0]!r}" if wanted else "no file at all"
        raise ValueError(
            f"{folder} has the files of boxes {some(list(found))}, asked for is {asked}: choose some of them"
        )
    return [read_coco(found[name]) for name in wanted]


def _box_folder(visible: Path) -> tuple[Path, str]:
    """The folder with boxes, and the suffix of their files."""
    roots = [(visible.parent, Path()), (visible.parent.parent, Path(visible.name))]
    places = [
        folder / split
        for root, split in roots
        for name in BOX_NAMES
        if (folder := subfolder(root, name)) is not None and (folder / split).is_dir()
    ]
    for place in [*places, visible]:
        for kind in (".json", ".xml", ".txt"):
            if any(_holds_boxes(file) for file in place.glob(f"*{kind}")):
                return place, kind
    raise ValueError(
        f"{visible.parent} has no folder with boxes (COCO JSON, Pascal VOC XML or YOLO text files): name it one of "
        f"{', '.join(BOX_NAMES)}"
    )


def _holds_boxes(file: Path) -> bool:
    return not file.name.startswith(".") and file.name not in CLASS_LISTS


def _check_classes(visible: Path, files: Sequence[CocoFile], ids: Mapping[str, int], every_class: bool) -> None:
    known = {same_class(name) for file in files for name in file.classes.values()}
    strange = [name for name in ids if name not in known]
    if strange and (every_class or len(strange) == len(ids)):
        raise ValueError(
            f"no file of boxes beside {visible} knows the class {strange[0]!r}: use some of {some(sorted(known))}"
        )


def _check_size(file: Path, listed: set[tuple[float, float]]) -> None:
    height, width = read_header(file, "picture").size
    size = (width, height)
    for other_width, other_height in listed - {size}:
        raise ValueError(
            f"{file.name} is {size[0]} x {size[1]}, but a file of boxes lists it with {other_width:g} x "
            f"{other_height:g}: take pictures and boxes from the same place"
        )


def _boxes_of(file: CocoFile, stem: str, ids: Mapping[str, int]) -> Boxes:
    """What a file says of a picture, of the classes that are asked for."""
    wanted = {number: ids[same_class(name)] for number, name in file.classes.items() if same_class(name) in ids}
    drawn = file.pictures[stem]
    kept = np.isin(drawn.class_ids, list(wanted))
    return drawn.boxes[kept], np.array([wanted[int(number)] for number in drawn.class_ids[kept]], dtype=np.int64)
