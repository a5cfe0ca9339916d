"""The record that `fusion-hub fuse` keeps in the hidden folder `.fusion-hub/` of the output.

`run.json` holds everything that the pictures depend on, so that no folder mixes models or options. `done-*.jsonl` has a
line for each picture with the state of its inputs, so that a changed input is fused again. `report.csv` lists the
result of every file.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusion_hub import data, image
from fusion_hub.cli.common import CommandError, message_of, with_option_names
from fusion_hub.files import disk_trouble, plain_cell, sweep_leftovers, write_aside

FOLDER = ".fusion-hub"
FORMAT = "fusion-hub-fuse/2"
REMEDY = "give another folder, or fuse all of it again with --overwrite"
SUFFIXES = (".png", ".tif")


@dataclass(frozen=True)
class Done:
    """One picture that was written, and the warnings about its pair."""

    name: str
    output: str  # file name in the output folder
    bytes: int
    inputs: list[Any] | None  # size and modification time of both; None for pictures in memory
    notes: list[str]


@dataclass(frozen=True)
class Row:
    """A line of the report. `result` is fused, already there, failed or left out; `notes` are warnings or causes."""

    name: str
    result: str
    output: str = ""
    notes: tuple[str, ...] = ()


class FolderRecord:
    """The record of one output folder, as one of several processes sees it."""

    def __init__(self, output: Path, settings: Mapping[str, Any], process: int) -> None:
        self.output, self.folder, self.process = output, output / FOLDER, process
        self.settings = {"format": FORMAT, **json.loads(json.dumps(dict(settings)))}
        self.done: dict[str, Done] = {}

    @staticmethod
    def engine_of(output: Path) -> Any:
        """The engine of the pictures in a folder; None without a readable record."""
        try:
            return json.loads((output / FOLDER / "run.json").read_bytes()).get("engine", "torch")
        except (OSError, ValueError, AttributeError):
            return None

    def check(self, names: Iterable[str]) -> None:
        """Refuse a folder that holds pictures of other options, or of unknown origin, with a `ValueError`."""
        if (self.folder / "run.json").is_file():
            self._check_settings()
            return
        candidates = ((name, self.output / f"{name}{end}") for name in names for end in SUFFIXES)
        if known := {name: file for name, file in candidates if file.exists()}:
            raise ValueError(
                f"{self.output} holds {len(known)} pictures of these names ({next(iter(known))!r}) that no run has "
                f"recorded there: {REMEDY}"
            )

    def open(self, overwrite: bool) -> None:
        """Start or resume; with `overwrite` no picture counts as done. For the first process, before the others write.

        Raises:
            CommandError: the folder cannot be written.
        """
        try:
            for file in self.folder.glob("done-*.jsonl") if overwrite else ():
                file.unlink()
            sweep_leftovers(self.output)
            with write_aside(self.folder / "run.json") as aside:
                aside.write_text(json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(disk_trouble(error, self.output) or message_of(error)) from error

    def read(self) -> None:
        """Load the pictures of earlier runs; damaged lines count as not done."""
        for file in sorted(self.folder.glob("done-*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if (done := _parse(line)) is not None:
                    self.done[done.name] = done

    def find(self, pair: "data.Pair") -> Done | None:
        """The finished picture of a pair, if it is complete and its inputs have not changed."""
        done = self.done.get(pair.name)
        if done is None or done.inputs != input_state(pair):
            return None
        file = self.output / done.output
        try:
            image.check_complete(file)
            return done if file.stat().st_size == done.bytes else None
        except (OSError, ValueError):
            return None

    def add(self, pair: "data.Pair", output: Path, notes: Sequence[str]) -> None:
        """Record a new picture, and remove one that an earlier run wrote under another suffix."""
        before = self.done.get(pair.name)
        if before is not None and before.output != output.name:
            (self.output / before.output).unlink(missing_ok=True)
        done = Done(pair.name, output.name, output.stat().st_size, input_state(pair), list(notes))
        with (self.folder / f"done-{self.process}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(done)) + "\n")

    def write_report(self, rows: Sequence[Row]) -> Path:
        """Write `report.csv`. Names may come from strangers, so no cell can be a spreadsheet formula."""
        file = self.folder / "report.csv"
        with write_aside(file) as aside, aside.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("name", "result", "output", "note"))
            for row in rows:
                note = with_option_names("; ".join(row.notes))
                writer.writerow(map(plain_cell, (row.name, row.result, row.output, note)))
        return file

    def _check_settings(self) -> None:
        file = self.folder / "run.json"
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            if before["format"] != FORMAT:
                raise ValueError(before["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged or of another version: {REMEDY}") from error
        before.setdefault("engine", "torch")  # runs of version 0.1 had no other
        if differing := [key for key, now in self.settings.items() if key != "version" and before.get(key) != now]:
            key = min(differing, key=lambda key: key == "weights")  # the name of a model says more than its hash
            option = key if key == "weights" else f"--{key.replace('_', '-')}"
            raise ValueError(
                f"{self.output} holds pictures made with {option} {_short(before.get(key))}; it is now "
                f"{_short(self.settings[key])}: {REMEDY}"
            )


def input_state(pair: "data.Pair") -> list[Any] | None:
    """Size and modification time of both files; None where one is in memory."""
    inputs = [data.source_file(source) for source in (pair.visible_source, pair.infrared_source)]
    found = [os.stat(file) for file in inputs if file is not None]
    return [[status.st_size, status.st_mtime_ns] for status in found] if len(found) == len(inputs) else None


def _parse(line: str) -> Done | None:
    """A line of the record; None if it is damaged, or names a file outside the output folder."""
    try:
        done = Done(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (done.name, done.output, *done.notes) if isinstance(done.notes, list) else (None,)
    if not all(isinstance(text, str) for text in texts) or not done.output.endswith(SUFFIXES):
        return None
    return done if Path(done.output).name == done.output and "\0" not in done.output else None


def _short(value: Any) -> str:
    text = "by default" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
