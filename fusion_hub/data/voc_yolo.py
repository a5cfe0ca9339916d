"""Boxes in one file for each picture: Pascal VOC (XML) and YOLO (text), read into the form of a COCO file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml

from fusion_hub.data.coco import CocoFile, Drawn, within
from fusion_hub.image.io import EXTENSIONS, read_header

CLASS_LISTS = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml", "data.yml")
"""Where YOLO sets keep the names of their classes, in order."""
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_MOST_BYTES = 16 << 20


def read_voc(files: Sequence[Path]) -> CocoFile:
    """Pascal VOC files, one for each picture, named like it.

    Raises:
        ValueError: a file is not of that form, or a box leaves its picture; one sentence that names the file.
    """
    classes: dict[str, int] = {}
    pictures = {}
    for file in files:
        root = _parse_xml(file)
        try:
            width, height = (float(root.findtext(f"size/{side}", "0") or 0) for side in ("width", "height"))
            found = [
                (
                    str(entry.findtext("name")).strip(),
                    np.array([float(entry.findtext(f"bndbox/{edge}", "")) for edge in _EDGES]),
                )
                for entry in root.iter("object")
            ]
        except ValueError as error:
            raise ValueError(
                f"{file} is no Pascal VOC file of boxes: each object needs a name and a bndbox of {', '.join(_EDGES)}"
            ) from error
        size = (width, height) if width > 0 and height > 0 else None
        for _, (left, top, right, bottom) in found:
            if left > right or top > bottom:
                raise ValueError(
                    f"{file} has a box from x {left:g} to {right:g} and y {top:g} to {bottom:g}: exchange its ends"
                )
        boxes = [within(box, size, file, file.stem) if size else box for _, box in found]
        ids = [classes.setdefault(name, len(classes)) for name, _ in found]
        pictures[file.stem] = Drawn(np.array(boxes).reshape(-1, 4), np.array(ids, np.int64), size)
    return CocoFile({number: name for name, number in classes.items()}, pictures)


def _parse_xml(file: Path) -> ElementTree.Element:
    try:
        text = file.read_bytes()
        if len(text) > _MOST_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities may expand without end
            raise ValueError(
                f"{file} has a document type or over {_MOST_BYTES >> 20} MiB: boxes need neither, remove it"
            )
        try:
            root = ElementTree.fromstring(text)
        except ValueError as error:  # an encoding that the parser does not know
            raise ValueError(f"{file} has an encoding that is not read: save it as UTF-8") from error
    except (ElementTree.ParseError, OSError, LookupError) as error:
        raise ValueError(f"{file} is damaged XML: export the boxes again") from error
    if root.tag != "annotation":
        raise ValueError(f"{file} is no Pascal VOC file of boxes: its root is {root.tag!r}, not 'annotation'")
    return root


def read_yolo(files: Sequence[Path], pictures_folder: Path, classes: Sequence[str]) -> CocoFile:
    """YOLO text files: in each line a class number and the box as center x, center y, width, height in [0, 1].

    Pictures without a file have no object, as YOLO has it.

    Raises:
        ValueError: a line is not of that form; one sentence that names file and line.
    """
    texts = {file.stem: file for file in files}
    pictures = {}
    for picture in sorted(pictures_folder.iterdir()):
        if picture.suffix.lower() not in EXTENSIONS or picture.name.startswith("."):
            continue
        height, width = read_header(picture, "picture").size
        file = texts.get(picture.stem)
        rows = [] if file is None else _yolo_rows(file, (width, height), len(classes))
        boxes, ids = np.array([box for _, box in rows]).reshape(-1, 4), np.array([i for i, _ in rows], np.int64)
        pictures[picture.stem] = Drawn(boxes, ids, (width, height))
    return CocoFile(dict(enumerate(classes)), pictures)


def _yolo_rows(file: Path, size: tuple[int, int], classes: int) -> list[tuple[int, np.ndarray]]:
    rows = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            class_id, *numbers = (float(word) for word in line.split())
            x, y, w, h = _yolo_box(numbers)
        except ValueError as error:
            raise ValueError(
                f"{file}, line {number} is no YOLO box: write class, center x, center y, width, height"
            ) from error
        if not class_id.is_integer() or not 0 <= class_id < classes:
            raise ValueError(f"{file}, line {number} has the class {class_id:g}: there are 0 to {classes - 1}")
        scale = np.array(size * 2, dtype=np.float64)
        corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * scale
        rows.append((int(class_id), within(corners, size, file, file.stem)))
    return rows


def _yolo_box(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    """Center and size, of a row with a box (and perhaps a score or key points), or with the corners of an outline."""
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        x, y = numbers[::2], numbers[1::2]
        return (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)
    x_center, y_center, width, height = numbers[:4]
    return x_center, y_center, width, height


def _text(file: Path) -> str:
    data = file.read_bytes()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")


def find_class_list(folder: Path) -> list[str] | None:
    """The names of the classes, from a list in the folder or up to two folders above it; None without any.

    Raises:
        ValueError: the list is damaged.
    """
    for place in (folder, folder.parent, folder.parent.parent):
        for name in CLASS_LISTS:
            if (place / name).is_file():
                return _class_names(place / name)
    return None


def _class_names(file: Path) -> list[str]:
    text = _text(file)
    if file.suffix not in (".yaml", ".yml"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = yaml.safe_load(text)["names"]
        if isinstance(names, Mapping):
            names = [names[key] for key in sorted(names)]
        return [str(name) for name in names]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{file} lists no classes: give it an entry names, a list of strings") from error
