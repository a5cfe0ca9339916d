"""Which files are one pair: by folder names, by the ends or starts of file names, in any case and Unicode form.

Command line, datasets and page pair by these functions. Names are tried from the strictest reading to the loosest, and
no two files of one side become one: what two readings would merge is reported as ambiguous.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
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
    """A name without the part that tells its role, the role or None, and that part in lower case."""

    key: str
    role: Role | None
    mark: str = ""


class Named(NamedTuple):
    """A file under the name that it is paired by: its stem, behind the folders that tell pairs apart."""

    name: str
    file: Any


@dataclass
class Pairing:
    """What became of the files.

    Attributes:
        pairs: name, visible and infrared file.
        visible, infrared: files without a partner.
        ambiguous: groups of files of which nobody can say which is meant.
    """

    pairs: list[tuple[str, Any, Any]] = field(default_factory=list)
    visible: list[Named] = field(default_factory=list)
    infrared: list[Named] = field(default_factory=list)
    ambiguous: list[list[Named]] = field(default_factory=list)


def find_mark(name: str) -> Marked:
    """The role that a file name tells: `street_ir` is the infrared image of `street`."""
    folder, slash, stem = name.rpartition("/")
    for pattern in _MARKS:
        if found := pattern.fullmatch(stem):
            mark = found["mark"].lower()
            return Marked(f"{folder}{slash}{found['key']}", _ROLES[mark], mark)
    return Marked(name, None)


def folder_role(name: str) -> Role | None:
    """The role that the name of a folder tells."""
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
    left, right = _Side(visible), _Side(infrared)
    result = Pairing()
    _drop_repeated(left, right, result)
    for reading in (_exact, _folded, _unmarked):
        _match(left, right, reading, result)
    result.visible, result.infrared = left.files, right.files
    return result


def split_by_role(files: Iterable[Named]) -> tuple[list[Named], list[Named]]:
    """Visible and infrared files of one heap, by their marks; a file without a mark counts as visible."""
    heap = list(files)
    roles = [find_mark(file.name).role for file in heap]
    infrared = [file for file, role in zip(heap, roles, strict=True) if role == "infrared"]
    return [file for file, role in zip(heap, roles, strict=True) if role != "infrared"], infrared


class _Side:
    def __init__(self, files: Iterable[Named]) -> None:
        self.files = list(files)

    def by(self, reading: Callable[[str, Role], str], role: Role) -> dict[str, list[Named]]:
        groups: dict[str, list[Named]] = {}
        for file in self.files:
            groups.setdefault(reading(file.name, role), []).append(file)
        return groups

    def remove(self, files: Sequence[Named]) -> None:
        gone = {id(file) for file in files}
        self.files = [file for file in self.files if id(file) not in gone]


def _exact(name: str, role: Role) -> str:
    return name


def fold_name(name: str) -> str:
    """A name without the differences of case and Unicode form that some systems do not make."""
    return unicodedata.normalize("NFC", name).casefold()


def _folded(name: str, role: Role) -> str:
    return fold_name(name)


def _unmarked(name: str, role: Role) -> str:
    marked = find_mark(name)
    return _folded(marked.key if marked.role == role else name, role)


def _drop_repeated(left: _Side, right: _Side, result: Pairing) -> None:
    """Leave out names that occur twice on a side, and their partners."""
    repeated: set[str] = set()
    for side in (left, right):
        groups = {name: group for name, group in side.by(_exact, "visible").items() if len(group) > 1}
        result.ambiguous += groups.values()
        repeated |= groups.keys()
    for side in (left, right):
        side.remove([file for file in side.files if file.name in repeated])


def _match(left: _Side, right: _Side, reading: Callable[[str, Role], str], result: Pairing) -> None:
    visible, infrared = left.by(reading, "visible"), right.by(reading, "infrared")
    for key in [key for key in visible if key in infrared]:
        ours, theirs = _preferred(visible[key]), _preferred(infrared[key])
        if len(ours) > 1 or len(theirs) > 1:
            result.ambiguous += [group for group in (ours, theirs) if len(group) > 1]
        else:
            taken = {name for name, _, _ in result.pairs}
            short = find_mark(ours[0].name).key if reading is _unmarked else ours[0].name
            free = short and not short.endswith("/") and short not in taken
            result.pairs.append((short if free else ours[0].name, ours[0].file, theirs[0].file))
        left.remove(ours)
        right.remove(theirs)


def _preferred(group: list[Named]) -> list[Named]:
    """Of a wide and a zoomed picture of one moment the wide one, whose view is nearer to the thermal camera's."""
    marks, order = {find_mark(file.name).mark: file for file in group}, ("v", *_CAMERAS)
    if len(marks) == len(group) and set(marks) <= set(order):
        return [next(marks[letter] for letter in order if letter in marks)]
    return group
