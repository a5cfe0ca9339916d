"""Boxes in the JSON files of COCO (Lin et al. 2014): what one file says of each picture, checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from fusion_hub.data.layouts import EXTENSIONS

BEYOND = 1.0
"""Pixels by which a box may leave its picture."""


class Drawn(NamedTuple):
    """What one file says of one picture.

    Attributes:
        boxes: `(N, 4)` float64: left, top, right, bottom in pixels, within the picture.
        class_ids: `(N,)` int64, categories as the file numbers them.
        size: width and height of the picture; None where the file does not say.
    """

    boxes: np.ndarray
    class_ids: np.ndarray
    size: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A file of boxes.

    Attributes:
        classes: the names of its categories, by id.
        pictures: what it says of each picture, by stem; those without a box too.
    """

    classes: Mapping[int, str]
    pictures: Mapping[str, Drawn]


def read_coco(file: Path) -> CocoFile:
    """Read a file.

    Crowds (`iscrowd`) and boxes without an area are left out: they are no single object.

    Raises:
        ValueError: it is no such file, contradicts itself, or has a box that leaves its picture by more than a pixel.
    """
    try:
        content = json.loads(file.read_bytes())  # UTF-8, UTF-16 or UTF-32, with a byte order mark or without
        classes = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        images = {
            entry["id"]: (_stem(entry["file_name"]), (float(entry["width"]), float(entry["height"])))
            for entry in content["images"]
        }
        boxes = [
            (entry["image_id"], entry["category_id"], np.array(entry["bbox"], dtype=np.float64).reshape(4))
            for entry in content["annotations"]
            if not entry.get("iscrowd")
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} is no COCO file of boxes: give JSON with categories (id, name), images (id, file_name, "
            "width, height) and annotations (image_id, category_id, bbox)"
        ) from error
    return CocoFile(classes, _by_picture(file, classes, images, boxes))


def _by_picture(
    file: Path,
    classes: Mapping[int, str],
    images: Mapping[Any, tuple[str, tuple[float, float]]],
    boxes: list[tuple[Any, Any, np.ndarray]],
) -> dict[str, Drawn]:
    rows: dict[str, list[tuple[np.ndarray, int]]] = {stem: [] for stem, _ in images.values()}
    if len(rows) < len(images):
        raise ValueError(f"{file} lists pictures of one stem twice: list each once")
    for image_id, class_id, (left, top, width, height) in boxes:
        if image_id not in images or class_id not in classes:
            raise ValueError(
                f"{file} has a box of image {image_id!r} and category {class_id!r}, but does not list them: add them, "
                "or leave the box out"
            )
        stem, size = images[image_id]
        if width < 0 or height < 0:
            raise ValueError(f"{file} has a box of the size {width:g} x {height:g} in {stem!r}: correct it")
        box = within(np.array([left, top, left + width, top + height]), size, file, stem)
        if box[2] > box[0] and box[3] > box[1]:
            rows[stem].append((box, class_id))
    sizes = dict(images.values())
    return {
        stem: Drawn(np.array([b for b, _ in row]).reshape(-1, 4), np.array([i for _, i in row], np.int64), sizes[stem])
        for stem, row in rows.items()
    }


def within(box: np.ndarray, size: tuple[float, float], file: Path, stem: str) -> np.ndarray:
    """A box (left, top, right, bottom) clipped to its picture, which it may leave by a rounding error.

    Raises:
        ValueError: it leaves the picture by more than a pixel, or is not finite.
    """
    shown = ", ".join(f"{value:g}" for value in box)
    if not np.isfinite(box).all():
        raise ValueError(f"{file} has the box {shown} in {stem!r}: give finite numbers")
    inside = np.clip(box, 0, np.array(size * 2))
    if np.abs(inside - box).max() > BEYOND:
        left, top, right, bottom = box
        corners = left < right - left <= size[0] and top < bottom - top <= size[1]
        cure = "write left, top, width, height, not two corners" if corners else "correct it"
        raise ValueError(
            f"{file} has the box {shown} (left, top, right, bottom) in {stem!r}, which leaves the picture of "
            f"{size[0]:g} x {size[1]:g}: {cure}"
        )
    return inside


def _stem(file_name: str) -> str:
    """`00004N` of `00004N`, `00004N.png` or `vis/00004N.png`; a dot that starts no known extension stays."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name
