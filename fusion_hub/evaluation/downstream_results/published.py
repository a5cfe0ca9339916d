"""What papers print of detection and segmentation on fused images: quoted, never compared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORMAT = "fusion-hub-published-downstream/1"
PUBLISHED = Path(__file__).parents[1] / "published_downstream.json"


@dataclass(frozen=True)
class Published:
    """The row of one paper.

    Attributes:
        values: by the names of our columns, fractions of 1; empty if the paper prints none that could be quoted.
        note: why it is not comparable.
    """

    method: str
    source: str
    values: Mapping[str, float]
    note: str


def read_published(path: Path = PUBLISHED) -> tuple[Published, ...]:
    """All rows of the file.

    Raises:
        ValueError: it has another format, or a value that is no fraction of 1.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise ValueError(f"{path}: its format is {content.get('format')!r}, expected {FORMAT!r}")
    rows = tuple(Published(**row) for row in content["rows"])
    for row in rows:
        if wrong := [name for name, value in row.values.items() if not 0 <= value <= 1]:
            raise ValueError(f"{path}: {row.method} has {row.values[wrong[0]]} as {wrong[0]}: give a fraction of 1")
    return rows
