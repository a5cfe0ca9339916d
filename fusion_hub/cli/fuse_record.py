"""What `fusion-hub fuse` keeps beside its pictures, in the hidden folder `.fusion-hub/` of the output.

`run.json` holds what the pictures depend on, so that no folder mixes models or options; `done-*.jsonl` a line for each
picture with the state of its inputs, so that a changed input is fused again; `report.csv` what became of every file.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusion_hub.data.pictures import Pair, source_file
from fusion_hub.data.tables import plain_cell
from fusion_hub.files import sweep_leftovers, write_aside
from fusion_hub.image.io import check_complete

FOLDER = ".fusion-hub"
FORMAT = "fusion-hub-fuse/1"
CURE = "give another folder, or fuse all of it again with --overwrite"


@dataclass(frozen=True)
class Done:
    """One picture that was written.

    Attributes:
        name: of the pair.
        output: name of the file in the output folder.
        bytes: its size.
        inputs: size and time of change of both inputs; None for pictures that are no files.
        notes: warnings about the pair.
    """

    name: str
    output: str
    bytes: int
    inputs: list[Any] | None
    notes: list[str]


@dataclass(frozen=True)
class Row:
    """A line of the report: `result` is fused, already there, failed or left out."""

    name: str
    result: str
    output: str = ""
    note: str = ""


class FolderRecord:
    """The record of one output folder, as one of several processes sees it."""

    def __init__(self, output: Path, settings: Mapping[str, Any], process: int) -> None:
        self.output, self.folder, self.process = output, output / FOLDER, process
        self.settings = {"format": FORMAT, **json.loads(json.dumps(dict(settings)))}
        self.done: dict[str, Done] = {}

    def open(self, names: Iterable[str], overwrite: bool) -> None:
        """Start or resume, in the first process; `read` in all of them.

        Raises:
            ValueError: the folder holds pictures of other options, or of unknown origin; one sentence.
            OSError: it cannot be written.
        """
        if overwrite and self.folder.is_dir():
            for file in self.folder.glob("done-*.jsonl"):
                file.unlink()
        elif (self.folder / "run.json").is_file():
            self._compare()
        elif not overwrite and (strange := [name for name in names if self._exists(name)]):
            raise ValueError(
                f"{self.output} holds {len(strange)} pictures of these names ({strange[0]!r}) that no run has recorded "
                f"there: {CURE}"
            )
        sweep_leftovers(self.output)
        with write_aside(self.folder / "run.json") as aside:
            aside.write_text(json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def read(self) -> None:
        """Load what earlier runs have done; damaged lines count as not done."""
        for file in sorted(self.folder.glob("done-*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if (done := _parse(line)) is not None:
                    self.done[done.name] = done

    def find(self, pair: Pair) -> Done | None:
        """The finished picture of a pair, if it is whole and its inputs have not changed."""
        done = self.done.get(pair.name)
        if done is None or done.inputs != state_of_inputs(pair):
            return None
        file = self.output / done.output
        try:
            whole = file.stat().st_size == done.bytes
            check_complete(file)
        except (OSError, ValueError):
            return None
        return done if whole else None

    def add(self, pair: Pair, output: Path, notes: Sequence[str]) -> None:
        """Record a picture that was written just now; one that an earlier run wrote under another suffix is removed."""
        before = self.done.get(pair.name)
        if before is not None and before.output != output.name:
            (self.output / before.output).unlink(missing_ok=True)
        done = Done(pair.name, output.name, output.stat().st_size, state_of_inputs(pair), list(notes))
        with (self.folder / f"done-{self.process}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(done)) + "\n")

    def write_report(self, rows: Sequence[Row]) -> Path:
        """Write `report.csv`; names come from files of strangers, so none can be a formula of a spreadsheet."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("name", "result", "output", "note"))
        writer.writerows(tuple(map(plain_cell, (row.name, row.result, row.output, row.note))) for row in rows)
        with write_aside(self.folder / "report.csv") as aside:
            aside.write_text(text.getvalue(), encoding="utf-8-sig")
        return self.folder / "report.csv"

    def _exists(self, name: str) -> bool:
        return any((self.output / f"{name}{suffix}").exists() for suffix in _SUFFIXES)

    def _compare(self) -> None:
        file = self.folder / "run.json"
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            if before["format"] != FORMAT:
                raise ValueError(before["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged or of another version: {CURE}") from error
        differing = [key for key in self.settings if key != "version" and before.get(key) != self.settings[key]]
        if differing:
            key = min(differing, key=lambda key: key == "weights")  # the name of a model says more than its hash
            raise ValueError(
                f"{self.output} holds pictures made with {key} {_short(before.get(key))}, now it is "
                f"{_short(self.settings[key])}: {CURE}"
            )


_SUFFIXES = (".png", ".tif")


def state_of_inputs(pair: Pair) -> list[Any] | None:
    """Size and time of change of both files; None where one is no file."""
    files = [source_file(source) for source in (pair.visible_source, pair.infrared_source)]
    found = [os.stat(file) for file in files if file is not None]
    return [[status.st_size, status.st_mtime_ns] for status in found] if len(found) == len(files) else None


def _parse(line: str) -> Done | None:
    """A line of the record; None if it is damaged, or names a file outside the output folder."""
    try:
        done = Done(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (done.name, done.output, *done.notes) if isinstance(done.notes, list) else (None,)
    if not all(isinstance(text, str) for text in texts) or not done.output.endswith(_SUFFIXES):
        return None
    return done if Path(done.output).name == done.output and "\0" not in done.output else None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
