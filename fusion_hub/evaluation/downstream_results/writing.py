"""The files of a table; each appears under its name only when it is complete."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusion_hub.evaluation.downstream_results.report import differences_csv, markdown, numbers_csv
from fusion_hub.evaluation.downstream_results.table import Results
from fusion_hub.files import write_aside


def write(results: Results, folder: Path) -> list[Path]:
    """Write `summary.json`, `report.md`, `numbers.csv`, `differences.csv`, `figure.png` and `figure.svg`.

    Returns:
        The files. The figure needs matplotlib (`pip install "fusion-hub[evaluate]"`) and is left out without it.
    """
    texts = {
        "summary.json": json.dumps(results.as_json(), indent=1, allow_nan=False) + "\n",
        "report.md": markdown(results),
        "numbers.csv": numbers_csv(results),
        "differences.csv": differences_csv(results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in texts.items():
        files.append(_aside(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8")))  # type: ignore[misc]
    try:
        from fusion_hub.evaluation.downstream_results.figure import draw

        figure = draw(results)
    except ImportError:
        return files
    for kind in ("png", "svg"):
        save = lambda path, kind=kind: figure.savefig(path, format=kind, dpi=160)  # noqa: E731
        files.append(_aside(folder / f"figure.{kind}", save))
    return files


def _aside(file: Path, make: Callable[[Path], Any]) -> Path:
    with write_aside(file) as aside:
        make(aside)
    return file
