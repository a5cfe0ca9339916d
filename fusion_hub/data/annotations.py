"""Boxes and class maps of pairs: where the files lie beside the pictures, and how they are read.

Boxes are COCO JSON (Lin et al. 2014), Pascal VOC XML or YOLO text files in a folder `boxes/` (or `Annotations/`,
`labels/` ...) beside that of the visible pictures. Several COCO files are the annotations of several people for the
same pictures. People disagree, most of all where each saw another picture (visible, infrared, fused), so `union_boxes`
merges their boxes by a fixed rule. A box is left, top, right, bottom in pixels, measured at edges: a box around one
pixel is 1 wide.

A class map is a picture of class numbers in a folder `label/` (or `labels/`, `masks/` ...).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from fusion_hub.data.layouts import folder_beside, images_in, subfolder
from fusion_hub.data.pairs import READ_ERRORS, ImageSource, Pair, load_picture, some
from fusion_hub.data.synthetic import SCENE_CLASSES, ScenePicture
from fusion_hub.image.io import EXTENSIONS, read_header

BOX_FOLDERS = ("boxes", "annotations", "annotation", "bbox", "bboxes", "labels", "label", "xml")
LABEL_FOLDERS = ("label", "labels", "segmentation", "segmentation_labels", "seg", "mask", "masks", "annotations")
CLASS_LISTS = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml", "data.yml")
"""Files in which YOLO sets keep the names of their classes, in order."""
IGNORED = 255
"""Value of the pixels in a class map that count neither in training nor in a score."""
SAME_OBJECT = 0.5
"""Intersection over union from which the boxes of two people are the same object."""

_ROUNDING = 1.0  # pixels by which a box may leave its picture
_MOST_XML_BYTES = 16 << 20
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_SYNONYMS = {"people": "person", "pedestrian": "person", "bike": "bicycle", "motorbike": "motorcycle"}
_SYNONYMS |= {"automobile": "car", "light": "lamp"}

Boxes = tuple[np.ndarray, np.ndarray]
"""Boxes `(N, 4)` and the class of each `(N,)`."""


@dataclass(frozen=True, eq=False)
class BoxedPair:
    """A pair of pictures and the objects in it.

    Attributes:
        boxes: `(N, 4)` float32: left, top, right, bottom in pixels, within the picture.
        class_ids: `(N,)` int64, index into the requested classes.
    """

    pair: Pair
    boxes: np.ndarray
    class_ids: np.ndarray

    @property
    def name(self) -> str:
        """Name of the pair."""
        return self.pair.name


@dataclass(frozen=True)
class LabeledPair:
    """A pair of pictures and the class of each of their pixels."""

    pair: Pair
    label_source: ImageSource

    @property
    def name(self) -> str:
        """Name of the pair."""
        return self.pair.name

    def label(self, classes: int) -> np.ndarray:
        """The class of each pixel, `(H, W)` uint8, below `classes` or `IGNORED`.

        Raises:
            ValueError: the file cannot be read, has colors instead of class numbers, or has other values.
        """
        try:
            picture = load_picture(self.label_source)
        except READ_ERRORS as error:
            raise ValueError(f"the class map of {self.name!r} cannot be read: {error}") from error
        where = f"the class map of {self.name!r} has the"
        if isinstance(picture, Image.Image) and picture.mode not in ("L", "P", "1", "I;16", "I"):
            raise ValueError(f"{where} mode {picture.mode}: give one channel of class numbers")
        values = np.asarray(picture)
        if wrong := [int(v) for v in np.unique(values) if v != IGNORED and not 0 <= v < classes]:
            advice = f"give classes 0 to {classes - 1}, and {IGNORED} for pixels to ignore"
            raise ValueError(f"{where} value {wrong[0]}: {advice}")
        return values.astype(np.uint8)


class PictureBoxes(NamedTuple):
    """The objects of one picture in one file."""

    boxes: np.ndarray  # (N, 4) float64
    class_ids: np.ndarray  # (N,) int64, as the file numbers them
    size: tuple[float, float] | None  # width and height, where the file gives them


class BoxFile(NamedTuple):
    """The content of a COCO file, or of all the VOC or YOLO files of a folder."""

    classes: Mapping[int, str]  # names by id
    pictures: Mapping[str, PictureBoxes]  # by stem


def find_labels(pairs: Sequence[Pair]) -> list[LabeledPair]:
    """The class maps that belong to pairs.

    For files they lie in a folder beside that of the visible pictures (`label/`, `labels/`, `masks/` ..., also with the
    split below it: `label/train/`), under the same stem. Synthetic scenes bring their own.

    Raises:
        ValueError: a pair has no class map, or several.
    """
    folders: dict[Path, dict[str, list[Path]]] = {}
    labeled, missing = [], []
    for pair in pairs:
        source = pair.visible_source
        if isinstance(source, ScenePicture):
            labeled.append(LabeledPair(pair, replace(source, band="classes")))
            continue
        if not isinstance(source, Path):
            raise ValueError(f"{pair.name!r} is not a file, so it has no folder of labels: give a folder of files")
        if source.parent not in folders:
            stems = folders[source.parent] = {}
            for file in images_in(folder_beside(source.parent, LABEL_FOLDERS, "with the class of each pixel")):
                stems.setdefault(file.stem, []).append(file)
        files = folders[source.parent].get(source.stem, [])
        if len(files) > 1:
            raise ValueError(f"{files[0].parent} has several files named {source.stem!r}: keep one of them")
        if files:
            labeled.append(LabeledPair(pair, files[0]))
        else:
            missing.append(pair.name)
    if missing:
        where = f"{len(missing)} of {len(pairs)} pairs have no class map: {some(missing)}"
        raise ValueError(f"{where}. Add the maps, or leave these pairs out with exclude")
    return labeled


def find_boxes(
    pairs: Sequence[Pair], classes: Sequence[str], annotations: Sequence[str] | None = None, *, every_class: bool = True
) -> list[BoxedPair]:
    """The boxes that belong to pairs.

    For files they lie in a folder beside that of the visible pictures (`boxes/`, `Annotations/`, `labels/` ..., also
    with the split below it: `boxes/train/`), or among the pictures, as COCO JSON, Pascal VOC XML or YOLO text: the
    first of these that exists. Pictures are found by the stem of the visible file, of the infrared one, or by the name
    of the pair. A picture that COCO lists without a box, or that has no YOLO file, has no object. COCO crowds are left
    out: they are not single objects. Synthetic scenes bring their own boxes.

    Args:
        classes: names, in the order of the ids of the result, in any case; usual synonyms such as `People` for `person`
            are the same class. Boxes of other classes are left out.
        annotations: the files to use, by stem: `["vis"]`. None: all of them, merged by `union_boxes`.
        every_class: whether the files of each folder must know every class; otherwise one class is enough.

    Raises:
        ValueError: there is no such file, one is broken, none knows a class, or one does not list a picture or lists it
            with another size.
    """
    ids = {same_class(name): number for number, name in enumerate(classes)}
    if not classes or len(ids) < len(classes):
        raise ValueError(f"the classes are {some(list(classes))}: give at least one, and each once")
    read: dict[Path, list[BoxFile]] = {}
    boxed, missing = [], []
    for pair in pairs:
        source = _annotated_source(pair)
        if isinstance(source, ScenePicture):
            wanted = [box for box in source.scene().boxes if same_class(box.label) in ids]
            corners = np.array([box[1:] for box in wanted], dtype=np.float32).reshape(-1, 4)
            boxed.append(BoxedPair(pair, corners, np.array([ids[same_class(box.label)] for box in wanted], np.int64)))
            continue
        if source.parent not in read:
            read[source.parent] = _read_folder(source.parent, annotations)
            known = {same_class(name) for file in read[source.parent] for name in file.classes.values()}
            unknown = [name for name in ids if name not in known]
            if unknown and (every_class or len(unknown) == len(ids)):
                where = f"no file of boxes beside {source.parent} knows the class {unknown[0]!r}"
                raise ValueError(f"{where}: use some of {some(sorted(known))}")
        files = read[source.parent]
        names = [s.stem for s in (source, pair.infrared_source) if isinstance(s, Path)] + [pair.name]
        stem = next((name for name in names if all(name in file.pictures for file in files)), None)
        if stem is None:
            missing.append(pair.name)
            continue
        height, width = read_header(source, "picture").size
        for size in (file.pictures[stem].size for file in files):
            if size not in (None, (width, height)):
                listed = f"but a file of boxes lists it with {size[0]:g} x {size[1]:g}"
                raise ValueError(f"{source.name} is {width} x {height}, {listed}: use images and boxes of one set")
        boxed.append(BoxedPair(pair, *union_boxes([_selected(file, stem, ids) for file in files])))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pairs)} pairs are not listed in each file of boxes: {some(missing)}. Add them to "
            '"images" (without annotations where there is no object), or leave these pairs out with exclude'
        )
    return boxed


def has_boxes(pairs: Sequence[Pair], classes: Sequence[str]) -> bool:
    """Whether every pair has files of boxes that know all the classes: what these do not list is not there.

    Raises:
        ValueError: a file of boxes is broken.
    """
    sources = [pair.visible_source for pair in pairs]
    folders = {source.parent for source in sources if isinstance(source, Path)}
    if not all(isinstance(source, Path | ScenePicture) for source in sources) or not all(map(_box_files, folders)):
        return False
    return {same_class(name) for name in classes} <= {same_class(name) for name in known_classes(pairs)}


def known_classes(pairs: Sequence[Pair], annotations: Sequence[str] | None = None) -> list[str]:
    """Names of all classes that the boxes of these pairs may have, in the order and spelling of the files.

    Raises:
        ValueError: as `find_boxes`.
    """
    sources = [_annotated_source(pair) for pair in pairs]
    names = list(SCENE_CLASSES) if any(isinstance(source, ScenePicture) for source in sources) else []
    for folder in dict.fromkeys(source.parent for source in sources if isinstance(source, Path)):
        for file in _read_folder(folder, annotations):
            names += [name for _, name in sorted(file.classes.items())]
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(same_class(name), name)
    return list(first.values())


def union_boxes(annotators: Sequence[Boxes], same_object: float = SAME_OBJECT) -> Boxes:
    """Merge the boxes that several people annotated in one picture.

    Within each class, boxes of different people whose intersection over union is `same_object` or more are one object:
    the largest overlaps are merged first, and an object has at most one box of each person. Its box is the mean of
    theirs. A box of only one person stays as it is: an object that is visible only in infrared counts too. The order
    of the people does not matter.

    Args:
        annotators: of each person boxes `(N, 4)` and class ids `(N,)`.

    Returns:
        Boxes `(M, 4)` float32 and class ids `(M,)` int64, sorted by class, then from left to right.
    """
    boxes = np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _ in annotators)])
    class_ids = np.concatenate([np.zeros(0, np.int64), *(class_ids for _, class_ids in annotators)]).astype(np.int64)
    person = np.repeat(np.arange(len(annotators)), [len(boxes) for boxes, _ in annotators])
    order = np.lexsort([person, *boxes.T[::-1], class_ids])  # so that ties do not depend on the order of the people
    boxes, class_ids, person = boxes[order], class_ids[order], person[order]
    overlap = iou(boxes, boxes)
    overlap[(class_ids[:, None] != class_ids[None]) | (person[:, None] == person[None])] = 0
    first, second = np.nonzero(np.triu(overlap) >= max(same_object, 1e-9))
    members = {index: [index] for index in range(len(boxes))}  # of the object that a box belongs to
    for match in np.argsort(-overlap[first, second], kind="stable"):
        one, other = members[int(first[match])], members[int(second[match])]
        if one is not other and not {person[i] for i in one} & {person[i] for i in other}:
            merged = sorted(one + other)
            members.update(dict.fromkeys(merged, merged))
    objects = [group for index, group in members.items() if group[0] == index]
    means = np.array([boxes[group].mean(axis=0) for group in objects]).reshape(-1, 4)
    mean_ids = np.array([class_ids[group[0]] for group in objects], dtype=np.int64)
    order = np.lexsort([*means.T[::-1], mean_ids])
    return means[order].astype(np.float32), mean_ids[order]


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `(N, 4)` with boxes `(M, 4)`: `(N, M)` in [0, 1]; 0 where both are empty."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def same_class(name: str) -> str:
    """One spelling for all names of a class: `People` and `pedestrian` are `person`."""
    plain = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
    return _SYNONYMS.get(plain, plain)


# --- files of boxes --------------------------------------------------------------------------------------------------


def _annotated_source(pair: Pair) -> Path | ScenePicture:
    if not isinstance(pair.visible_source, Path | ScenePicture):
        raise ValueError(f"{pair.name!r} is not a file, so it has no folder of boxes: give a folder of files")
    return pair.visible_source


def _selected(file: BoxFile, stem: str, ids: Mapping[str, int]) -> Boxes:
    """The boxes of a picture that have one of the requested classes."""
    wanted = {number: ids[same_class(name)] for number, name in file.classes.items() if same_class(name) in ids}
    boxes, class_ids, _ = file.pictures[stem]
    kept = np.isin(class_ids, list(wanted))
    return boxes[kept], np.array([wanted[int(number)] for number in class_ids[kept]], dtype=np.int64)


def _read_folder(visible: Path, annotations: Sequence[str] | None) -> list[BoxFile]:
    """The requested files of boxes beside the folder of visible pictures."""
    files = _box_files(visible)
    if not files:
        raise ValueError(
            f"{visible.parent} has no folder with boxes (COCO JSON, Pascal VOC XML or YOLO text files): name it one of "
            f"{', '.join(BOX_FOLDERS)}"
        )
    folder, kind, found = files[0].parent, files[0].suffix, {file.stem: file for file in files}
    if kind != ".json":
        if annotations is not None:
            raise ValueError(f"{folder} holds one file of boxes for each picture: leave the choice of annotations out")
        if kind == ".xml":
            return [_read_voc(files)]
        return [_read_yolo(found, visible, _class_list(folder))]
    wanted = list(found) if annotations is None else list(dict.fromkeys(annotations))
    if not wanted or (unknown := [name for name in wanted if name not in found]):
        requested = f"{unknown[0]!r} was requested" if wanted else "none was requested"
        raise ValueError(f"{folder} has the files of boxes {some(list(found))}, but {requested}: choose some of them")
    return [_read_coco(found[name]) for name in wanted]


def _box_files(visible: Path) -> list[Path]:
    """The files of one kind in the folder with boxes; none without such a folder."""
    folders = [
        folder / split
        for root, split in ((visible.parent, Path()), (visible.parent.parent, Path(visible.name)))
        for name in BOX_FOLDERS
        if (folder := subfolder(root, name)) is not None and (folder / split).is_dir()
    ]
    for folder in [*folders, visible]:
        for kind in ("json", "xml", "txt"):
            files = [f for f in folder.glob(f"*.{kind}") if not f.name.startswith(".") and f.name not in CLASS_LISTS]
            if files:
                return sorted(files)
    return []


def _read_coco(file: Path) -> BoxFile:
    """Crowds (`iscrowd`) and boxes without an area are left out: they are not single objects."""
    try:
        content = json.loads(file.read_bytes())  # UTF-8, UTF-16 or UTF-32, with or without a byte order mark
        classes = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        images = {}
        for entry in content["images"]:  # a dot before no known extension belongs to the stem
            path = PurePosixPath(entry["file_name"].replace("\\", "/"))
            stem = path.stem if path.suffix.lower() in EXTENSIONS else path.name
            images[entry["id"]] = stem, (float(entry["width"]), float(entry["height"]))
        annotations = [
            (entry["image_id"], entry["category_id"], np.array(entry["bbox"], dtype=np.float64).reshape(4))
            for entry in content["annotations"]
            if not entry.get("iscrowd")
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} is not a COCO file of boxes: give JSON with categories (id, name), images (id, file_name, "
            "width, height) and annotations (image_id, category_id, bbox)"
        ) from error
    rows: dict[str, list[tuple[int, np.ndarray]]] = {stem: [] for stem, _ in images.values()}
    if len(rows) < len(images):
        raise ValueError(f"{file} lists pictures of one stem twice: list each once")
    for image_id, class_id, (left, top, width, height) in annotations:
        if image_id not in images or class_id not in classes:
            where = f"{file} has a box of image {image_id!r} and category {class_id!r}"
            raise ValueError(f"{where}, but does not list them: add them, or remove the box")
        stem, size = images[image_id]
        if width < 0 or height < 0:
            raise ValueError(f"{file} has a box of the size {width:g} x {height:g} in {stem!r}: correct it")
        box = _clipped(np.array([left, top, left + width, top + height]), size, file, stem)
        if box[2] > box[0] and box[3] > box[1]:
            rows[stem].append((class_id, box))
    return BoxFile(classes, {stem: _collected(rows[stem], size) for stem, size in images.values()})


def _collected(rows: Sequence[tuple[int, np.ndarray]], size: tuple[float, float] | None) -> PictureBoxes:
    boxes = np.array([box for _, box in rows], dtype=np.float64).reshape(-1, 4)
    return PictureBoxes(boxes, np.array([class_id for class_id, _ in rows], np.int64), size)


def _clipped(box: np.ndarray, size: tuple[float, float], file: Path, stem: str) -> np.ndarray:
    """A box clipped to its picture, which it may leave only by a rounding error."""
    shown = ", ".join(f"{value:g}" for value in box)
    if not np.isfinite(box).all():
        raise ValueError(f"{file} has the box {shown} in {stem!r}: give finite numbers")
    inside = np.clip(box, 0, np.array(size * 2))
    if np.abs(inside - box).max() > _ROUNDING:
        left, top, right, bottom = box
        corners = left < right - left <= size[0] and top < bottom - top <= size[1]
        advice = "write left, top, width, height, not two corners" if corners else "correct it"
        raise ValueError(
            f"{file} has the box {shown} (left, top, right, bottom) in {stem!r}, which leaves the picture of "
            f"{size[0]:g} x {size[1]:g}: {advice}"
        )
    return inside


def _read_voc(files: Sequence[Path]) -> BoxFile:
    """Pascal VOC files, each named like its picture."""
    classes: dict[str, int] = {}
    pictures = {}
    for file in files:
        root = _parse_xml(file)
        try:
            width, height = (float(root.findtext(f"size/{side}", "0") or 0) for side in ("width", "height"))
            found = [
                (str(entry.findtext("name")).strip(), [float(entry.findtext(f"bndbox/{edge}", "")) for edge in _EDGES])
                for entry in root.iter("object")
            ]
        except ValueError as error:
            needs = f"each object needs a name and a bndbox of {', '.join(_EDGES)}"
            raise ValueError(f"{file} is not a Pascal VOC file of boxes: {needs}") from error
        size = (width, height) if width > 0 and height > 0 else None
        rows = []
        for name, (left, top, right, bottom) in found:
            if left > right or top > bottom:
                ends = f"x {left:g} to {right:g} and y {top:g} to {bottom:g}"
                raise ValueError(f"{file} has a box from {ends}: exchange its ends")
            box = np.array([left, top, right, bottom])
            box = _clipped(box, size, file, file.stem) if size else box
            rows.append((classes.setdefault(name, len(classes)), box))
        pictures[file.stem] = _collected(rows, size)
    return BoxFile({number: name for name, number in classes.items()}, pictures)


def _parse_xml(file: Path) -> ElementTree.Element:
    try:
        text = file.read_bytes()
        if len(text) > _MOST_XML_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities may expand endlessly
            limit = _MOST_XML_BYTES >> 20
            raise ValueError(f"{file} has a document type or over {limit} MiB: boxes need neither, remove it")
        try:
            root = ElementTree.fromstring(text)
        except ValueError as error:  # an encoding that the parser does not know
            raise ValueError(f"{file} has an unknown encoding: save it as UTF-8") from error
    except (ElementTree.ParseError, OSError, LookupError) as error:
        raise ValueError(f"{file} is damaged XML: export the boxes again") from error
    if root.tag != "annotation":
        raise ValueError(f"{file} is not a Pascal VOC file of boxes: its root is {root.tag!r}, not 'annotation'")
    return root


def _read_yolo(files: Mapping[str, Path], visible: Path, classes: Sequence[str]) -> BoxFile:
    """YOLO text files; a picture without a file has no object.

    A line has a class number and, in [0, 1], a box (center x, center y, width, height), which a score or key points may
    follow, or the corners of an outline.
    """
    pictures = {}
    for picture in images_in(visible):
        size, file, rows = read_header(picture, "picture").size[::-1], files.get(picture.stem, picture), []
        for number, line in enumerate([] if file is picture else _text(file).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                class_id, *numbers = (float(word) for word in line.split())
                if len(numbers) >= 6 and len(numbers) % 2 == 0:
                    box = np.array([f(numbers[start::2]) for f in (min, max) for start in (0, 1)])
                else:
                    x, y, width, height = numbers[:4]
                    box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            except ValueError as error:
                raise ValueError(
                    f"{where} is not a YOLO box: write class, center x, center y, width, height"
                ) from error
            if not class_id.is_integer() or not 0 <= class_id < len(classes):
                raise ValueError(f"{where} has the class {class_id:g}: there are 0 to {len(classes) - 1}")
            rows.append((int(class_id), _clipped(box * np.array(size * 2), size, file, file.stem)))
        pictures[picture.stem] = _collected(rows, size)
    return BoxFile(dict(enumerate(classes)), pictures)


def _text(file: Path) -> str:
    data = file.read_bytes()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")


def _class_list(folder: Path) -> list[str]:
    """The names of the classes of YOLO files, from a list in their folder or up to two folders above it."""
    files = (above / name for above in (folder, folder.parent, folder.parent.parent) for name in CLASS_LISTS)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(f"{folder} holds YOLO boxes without names of classes: add one of {', '.join(CLASS_LISTS)}")
    text = _text(file)
    if file.suffix not in (".yaml", ".yml"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names: Any = yaml.safe_load(text)["names"]
        return [str(name) for name in ([names[key] for key in sorted(names)] if isinstance(names, Mapping) else names)]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{file} lists no classes: add an entry names with a list of strings") from error
