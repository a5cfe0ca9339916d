"""Pairing of files by folder names and by the ends or starts of file names, in any case and Unicode form.

Command line, datasets and page pair by these functions. Names are compared by the strictest rule first. No two files of
one side are merged: files that a rule cannot distinguish are reported as ambiguous.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, TypeAlias

VISIBLE_NAMES = (
    *("visible", "vis", "vi", "rgb", "color", "colour", "co", "eo", "optical", "crop_lr_visible", "v"),
    *("ct", "pet", "spect"),
)
INFRARED_NAMES = (
    *("infrared", "ir", "inf", "thermal", "therm", "th", "lwir", "mwir", "tir", "nir", "previewdata", "cropinfrared"),
    *("t", "i", "mri", "mr"),
)
_CAMERAS = ("w", "z")  # at the end of a name only: DJI writes _V, or _W (wide) and _Z (zoom), beside _T

Role: TypeAlias = Literal["visible", "infrared"]
_ROLES: dict[str, Role] = {
    **dict.fromkeys((*VISIBLE_NAMES, *_CAMERAS), "visible"),
    **dict.fromkeys(INFRARED_NAMES, "infrared"),
}
_WORDS = "|".join(sorted((*VISIBLE_NAMES, *INFRARED_NAMES), key=len, reverse=True))
_MARKS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<key>.+?)[ ._-]+(?P<mark>{_WORDS}|{'|'.join(_CAMERAS)})",  # street_ir, DJI_0001_T
        rf"(?P<key>.*\d)(?P<mark>{_WORDS})",  # 0001ir, 0001v
        rf"(?P<mark>{_WORDS})[ ._-]+(?P<key>.+)",  # IR_01
        rf"(?P<mark>{_WORDS})(?P<key>\d.*)",  # ir01
        rf"(?P<key>)(?P<mark>{_WORDS})",  # ir
    )
)


class Marked(NamedTuple):
    """A name without the mark of its role, the role or None, and the mark in lower case."""

    key: str
    role: Role | None
    mark: str = ""


class Named(NamedTuple):
    """A file and the name to pair it by: its stem, after the folders that distinguish pairs."""

    name: str
    file: Any


@dataclass
class Pairing:
    """The result of pairing."""

    visible: list[Named]  # files without a partner
    infrared: list[Named]
    pairs: list[tuple[str, Any, Any]] = field(default_factory=list)  # name, visible and infrared file
    ambiguous: list[list[Named]] = field(default_factory=list)  # files that the names do not distinguish


def find_mark(name: str) -> Marked:
    """The role in a file name: `street_ir` is the infrared image of `street`."""
    folder, slash, stem = name.rpartition("/")
    for pattern in _MARKS:
        if found := pattern.fullmatch(stem):
            mark = found["mark"].lower()
            return Marked(f"{folder}{slash}{found['key']}", _ROLES[mark], mark)
    return Marked(name, None)


def folder_role(name: str) -> Role | None:
    """The role in the name of a folder."""
    return None if name.lower() in _CAMERAS else _ROLES.get(name.lower())


def file_role(path: PurePath) -> tuple[str, Role | None]:
    """The name that both files of a pair share, and the role of this one, by its folders or by its own name."""
    folders = list(path.parts[:-1])
    for index in reversed(range(len(folders))):
        if role := folder_role(folders[index]):
            return "/".join([*folders[:index], *folders[index + 1 :], path.stem]), role
    name = "/".join([*folders, path.stem])
    return name, find_mark(name).role


def pair_files(visible: Iterable[Named], infrared: Iterable[Named]) -> Pairing:
    """Pair the files of two sides.

    Names must be equal; else equal but for case and Unicode form; else equal without the mark of their own side. Names
    that occur twice on a side are ambiguous, and are not paired by a looser reading.
    """
    result = Pairing(list(visible), list(infrared))
    groups = [g for side in (result.visible, result.infrared) for g in _grouped(side, lambda file: file.name).values()]
    result.ambiguous += [group for group in groups if len(group) > 1]
    repeated = {group[0].name for group in result.ambiguous}
    result.visible = [file for file in result.visible if file.name not in repeated]
    result.infrared = [file for file in result.infrared if file.name not in repeated]
    for reading in (lambda name, role: name, lambda name, role: fold_name(name), _unmarked):
        _match(result, reading)
    return result


def split_by_role(files: Iterable[Named]) -> tuple[list[Named], list[Named]]:
    """Visible and infrared files of one folder, by their marks; a file without a mark counts as visible."""
    sides: tuple[list[Named], list[Named]] = ([], [])
    for file in files:
        sides[find_mark(file.name).role == "infrared"].append(file)
    return sides


def fold_name(name: str) -> str:
    """A name without the differences of case and Unicode form that some systems ignore."""
    return unicodedata.normalize("NFC", name).casefold()


def _unmarked(name: str, role: Role) -> str:
    marked = find_mark(name)
    return fold_name(marked.key if marked.role == role else name)


def _grouped(files: Iterable[Named], key: Callable[[Named], str]) -> dict[str, list[Named]]:
    groups: dict[str, list[Named]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return groups


def _match(result: Pairing, reading: Callable[[str, Role], str]) -> None:
    visible = _grouped(result.visible, lambda file: reading(file.name, "visible"))
    infrared = _grouped(result.infrared, lambda file: reading(file.name, "infrared"))
    matched: set[int] = set()
    taken = {name for name, _, _ in result.pairs}
    for key in [key for key in visible if key in infrared]:
        ours, theirs = _preferred(visible[key]), _preferred(infrared[key])
        matched |= {id(file) for file in ours + theirs}
        if len(ours) > 1 or len(theirs) > 1:
            result.ambiguous += [group for group in (ours, theirs) if len(group) > 1]
            continue
        name = ours[0].name
        short = find_mark(name).key if reading is _unmarked else name
        if short and not short.endswith("/") and short not in taken:
            name = short
        taken.add(name)
        result.pairs.append((name, ours[0].file, theirs[0].file))
    result.visible = [file for file in result.visible if id(file) not in matched]
    result.infrared = [file for file in result.infrared if id(file) not in matched]


def _preferred(group: list[Named]) -> list[Named]:
    """The wide picture of a wide and a zoomed one of the same moment: its view is closer to the thermal camera's."""
    marks, order = {find_mark(file.name).mark: file for file in group}, ("v", *_CAMERAS)
    if len(marks) == len(group) and set(marks) <= set(order):
        return [next(marks[letter] for letter in order if letter in marks)]
    return group
