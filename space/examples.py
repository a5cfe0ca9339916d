"""Pairs that are drawn at start-up: no data set is published with the page."""

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
    """A drawn example: its files, and the checkpoint that is made for it."""

    label: str
    visible: str
    infrared: str
    model: str
    says: str


def draw_examples(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[Row]:
    """Draw pairs as PNG files into `folder`."""
    rows = []
    for example in examples:
        scene = generate_scene(example.seed, example.height, example.width, example.kind)
        visible, infrared = folder / f"{example.kind}.png", folder / f"{example.kind}_infrared.png"
        Image.fromarray(scene.visible).save(visible)
        Image.fromarray(scene.infrared).save(infrared)
        rows.append(Row(example.label, str(visible), str(infrared), example.model, example.says))
    return rows
