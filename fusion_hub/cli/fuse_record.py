"""The record that `fusion-hub fuse` keeps in the hidden folder `.fusion-hub/` of the output.

`run.json` holds everything that the pictures depend on, so that no folder mixes models or options. `done-*.jsonl` has a
line for each picture with the state of its inputs, so that a changed input is fused again. `report.csv` lists the
result of every file.
"""

import csv
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusion_hub import data, image
from fusion_hub.cli.common import CommandError, message_of, with_option_names
from fusion_hub.cli.thermal_options import temperatures_file
from fusion_hub.files import disk_trouble, plain_cell, sweep_leftovers, write_aside

FOLDER = ".fusion-hub"
FORMAT = "fusion-hub-fuse/2"
REMEDY = "give another folder, or fuse all of it again with --overwrite"
SUFFIXES = (".png", ".tif")
WHOLE = 1 << 26  # bytes of an input that are read to know it again


@dataclass(frozen=True)
class Done:
    """One picture that was written, and the warnings about its pair."""

    name: str
    output: str  # file name in the output folder
    bytes: int
    inputs: list[Any] | None  # see `input_state`
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

    def lock(self, run: ExitStack) -> None:
        """Keep other runs out of the folder until `run` ends. For the first process.

        Raises:
            CommandError: another run writes to it, or the folder cannot be written.
        """
        from filelock import FileLock, Timeout  # of huggingface_hub

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            run.enter_context(FileLock(self.folder / "lock", timeout=0))
        except Timeout:
            raise CommandError(f"another run writes to {self.output}: wait for it, or give another folder") from None
        except NotImplementedError:  # a file system without locks
            return
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                return
            raise CommandError(disk_trouble(error, self.output) or message_of(error)) from error

    def open(self, overwrite: bool) -> None:
        """Start or resume; with `overwrite` no picture counts as done. For the first process, before the others write.

        Raises:
            CommandError: the folder cannot be written.
            ValueError: since it was checked, a run with other options has begun there.
        """
        if not overwrite and (self.folder / "run.json").is_file():
            self._check_settings()
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

    def find(self, pair: "data.Pair", keep: bool = False) -> Done | None:
        """The finished picture of a pair, if it is complete and its inputs have not changed; with `keep` also if they
        have.

        Raises:
            ValueError: the picture was made from other files of the same names, which would replace it.
        """
        done = self.done.get(pair.name)
        if done is None or not self._is_whole(done):
            return None
        if keep or _is_unchanged(done.inputs, pair):
            return done
        if _is_elsewhere(done.inputs, pair):
            raise ValueError(
                f"{self.output} holds {done.output}, made from other files of that name: give another folder, or "
                "replace it with --overwrite"
            )
        return None

    def _is_whole(self, done: Done) -> bool:
        file = self.output / done.output
        beside = [temperatures_file(file)] if self.settings.get("save_temperatures") else []
        try:
            image.check_complete(file)
            return file.stat().st_size == done.bytes and all(other.is_file() for other in beside)
        except (OSError, ValueError):
            return False

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
    """Size, modification time, and digests of place and content of both files; None where one is in memory."""
    files = _files(pair)
    if files is None:
        return None
    return [[*_status(file), _place(file), _content(file, *_status(file))] for file in files]


def _files(pair: "data.Pair") -> list[Path] | None:
    files = [data.source_file(source) for _, source in pair.bands()]
    return [file for file in files if file is not None] if None not in files else None


def _status(file: Path) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def _place(file: Path) -> str:
    return hashlib.blake2b(str(file.resolve()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


@lru_cache(maxsize=8)  # of two videos, once for all frames
def _content(file: Path, size: int, modified: int) -> str:
    """Digest of a file; of one that is larger than `WHOLE`, of its beginning and end."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with file.open("rb") as stream:
        digest.update(stream.read(WHOLE))
        if size > WHOLE:
            stream.seek(max(WHOLE, size - WHOLE))
            digest.update(stream.read(WHOLE))
    return digest.hexdigest()


def _is_unchanged(recorded: Any, pair: "data.Pair") -> bool:
    """Whether the files of a pair are those of its record: at the same place as they were, or with the same content."""
    files = _files(pair)
    if files is None or not isinstance(recorded, list) or len(recorded) != len(files):
        return files is recorded is None
    for file, before in zip(files, recorded, strict=True):
        status = _status(file)
        if list(status) == before:  # of a version that recorded no more
            continue
        same_file = before[:3] == [*status, _place(file)]
        same_content = before[:1] == [status[0]] and before[3:] == [_content(file, *status)]
        if not same_file and not same_content:
            return False
    return True


def _is_elsewhere(recorded: Any, pair: "data.Pair") -> bool:
    """Whether the record names files at other places, not earlier states of these."""
    places = [_place(file) for file in _files(pair) or []]
    return isinstance(recorded, list) and any(
        isinstance(before, list) and len(before) == 4 and before[2] != place
        for before, place in zip(recorded, places, strict=False)
    )


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
