"""Pairs that are drawn by the page itself: no data set is published with it."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fusion_hub.data.generated import Kind, generate_scene


class Example(NamedTuple):
    """A pair, and the checkpoint that is made for it."""

    label: str
    kind: Kind
    seed: int
    height: int
    width: int
    model: str
    says: str = ""  # what there is to see


EXAMPLES = (
    Example(
        "Night street",
        "night_street",
        4,
        480,
        640,
        "difffusenet-msrs",
        "Look at the people: lost in the dark, bright in the infrared, and in the lit street once fused.",
    ),
    Example(
        "Smoke",
        "smoke",
        2,
        480,
        640,
        "difffusenet-msrs",
        "The smoke hides people from the visible camera, not from the infrared one.",
    ),
    Example(
        "Brain: PET + MRI",
        "brain",
        1,
        384,
        384,
        "difffusenet-medical",
        "PET shows in colour where the tissue is active, MRI its anatomy.",
    ),
)


class Row(NamedTuple):
    """An example: its files, and the checkpoint that is made for it."""

    label: str
    visible: str
    infrared: str
    model: str
    says: str
    example: Example


_drawing = threading.Lock()


def example_rows(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[Row]:
    """Pairs as PNG files in `folder`, which `draw` makes when somebody asks for them."""
    rows = []
    for one in examples:
        visible, infrared = (str(folder / f"{one.kind}{end}.png") for end in ("", "_infrared"))
        rows.append(Row(one.label, visible, infrared, one.model, one.says, one))
    return rows


def draw(row: Row) -> None:
    """Draw a pair, unless it is there."""
    with _drawing:
        if Path(row.infrared).is_file():
            return
        scene = generate_scene(row.example.seed, row.example.height, row.example.width, row.example.kind)
        for path, pixels in ((row.visible, scene.visible), (row.infrared, scene.infrared)):  # the infrared one last
            aside = f"{path}.new"
            Image.fromarray(pixels).save(aside, "PNG", compress_level=1)
            os.replace(aside, path)
