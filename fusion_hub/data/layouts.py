"""The layouts in which people keep pairs: two folders, one folder, a metadata file, a list. All end as `Pair`s."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from fusion_hub.data.pairing import (
    INFRARED_NAMES,
    VISIBLE_NAMES,
    Named,
    Pairing,
    file_role,
    find_mark,
    folder_role,
    pair_files,
    split_by_role,
)
from fusion_hub.data.pictures import ImageSource, Pair
from fusion_hub.data.report import Findings, some
from fusion_hub.data.tables import read_rows
from fusion_hub.image.io import EXTENSIONS, read_header, read_picture

NAME_COLUMNS = ("name", "id", "stem")
METADATA_FILES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.json")
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
_PICTURE_FOLDERS = ("jpegimages", "images")  # of sets that keep both images of a pair in one folder
_PARTLY_OPAQUE = 0.5  # share of the fourth channel that is neither 0 nor full, from which it is no transparency


# --- folders ---------------------------------------------------------------------------------------------------------


def open_folder(root: Path, split: str | None) -> tuple[list[Pair], Findings, str]:
    """Pairs below `root`: `root/vis`, `root/SPLIT/vis` or `root/vis/SPLIT`, or the same with a metadata file."""
    if split is None:
        if _has_layout(root):
            return _open_layout(root, None)
        inside = [folder for folder in _folders(root) if _has_layout(folder)]
        if len(inside) > 1:
            raise ValueError(f"{root} has the splits {', '.join(f.name for f in inside)}: choose one with split=")
        return _open_layout(inside[0] if inside else root, None)
    below = subfolder(root, split)
    if below is not None:
        return _open_layout(below, None)
    if _has_layout(root) and root.resolve().name.lower() == split.lower():
        return _open_layout(root, None)
    if all(_named(_folders(root), names) for names in (VISIBLE_NAMES, INFRARED_NAMES)):
        return _open_layout(root, split)
    raise ValueError(f"{root} has no split {split!r}; the folders there: {some([f.name for f in _folders(root)])}")


def find_splits(root: Path) -> list[str]:
    """The splits below `root` that `open_folder` takes; none where `root` is one set by itself.

    A folder with a split's usual name counts even if it holds no pairs, so that opening it says what is wrong.
    """
    if not _has_layout(root):
        return [f.name for f in _folders(root) if _has_layout(f) or f.name.lower() in SPLIT_NAMES]
    if any((root / name).is_file() for name in METADATA_FILES):
        return []
    bands = _named(_folders(root), VISIBLE_NAMES + INFRARED_NAMES)
    if any(_images(band) for band in bands):
        return []
    return sorted({folder.name for band in bands for folder in _folders(band)})


def holds_parquet(root: Path) -> bool:
    """Whether `root` is a copy of a Hub dataset that keeps its pictures in Parquet files."""
    return not _has_layout(root) and any(any(root.glob(pattern)) for pattern in ("*.parquet", "data/*.parquet"))


def _open_layout(folder: Path, split: str | None) -> tuple[list[Pair], Findings, str]:
    for file_name in METADATA_FILES:
        if (folder / file_name).is_file():
            return *_pair_metadata(folder / file_name), str(folder)
    inside = _folders(folder)
    names = [f.name for f in inside]
    if split is None and not _named(inside, VISIBLE_NAMES + INFRARED_NAMES):
        for flat in (folder, *_named(inside, _PICTURE_FOLDERS)):
            if _images(flat):
                return *pair_heap(flat), str(flat)
    visible = folder / choose_name(names, VISIBLE_NAMES, "visible", str(folder), "folder")
    infrared = folder / choose_name(names, INFRARED_NAMES, "infrared", str(folder), "folder")
    if split is not None:
        visible_split, infrared_split = subfolder(visible, split), subfolder(infrared, split)
        if visible_split is None or infrared_split is None:
            raise ValueError(f"{folder} has no split {split!r}: neither {folder / split} nor {visible / split} exists")
        visible, infrared = visible_split, infrared_split
    return *pair_folders(visible, infrared), str(folder if split is None else folder / f"*/{split}")


def pair_folders(visible_dir: Path, infrared_dir: Path) -> tuple[list[Pair], Findings]:
    """Pairs of two folders by name, see [`fusion_hub.data.pairing`]; of one folder twice by the marks of its names.

    Folders whose names say that they were given in the wrong order are exchanged, and the report says so.
    """
    if visible_dir.resolve() == infrared_dir.resolve():
        return pair_heap(visible_dir)
    findings = Findings()
    if folder_role(visible_dir.name) == "infrared" and folder_role(infrared_dir.name) == "visible":
        findings.notes.append(
            f"the folder {infrared_dir.name!r} is taken as visible and {visible_dir.name!r} as infrared, as their "
            "names say, although they were given in the other order"
        )
        visible_dir, infrared_dir = infrared_dir, visible_dir
    found: list[list[Named]] = []
    for folder in (visible_dir, infrared_dir):
        found.append([Named(file.stem, file) for file in _images(folder)])
        findings.left_out += _other_files(folder)
        if not found[-1]:
            inside = some([f.name for f in _folders(folder)])
            raise ValueError(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))}). Folders in it: {inside}")
    _warn_of_exchange(visible_dir, infrared_dir, found, findings)
    return _as_pairs(pair_files(*found), findings), findings


def pair_heap(folder: Path) -> tuple[list[Pair], Findings]:
    """Pairs of one folder that holds both images of each: by the marks of their names, or in four channels.

    Raises:
        ValueError: nothing tells which images are infrared.
    """
    files = _images(folder)
    if not files:
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))})")
    findings = Findings(left_out=_other_files(folder))
    visible, infrared = split_by_role([Named(file.stem, file) for file in files])
    result = pair_files(visible, infrared)
    if result.pairs or result.ambiguous:
        return _as_pairs(result, findings), findings
    looked_at = files[:: max(1, len(files) // 8)][:8]
    thermal = [_holds_thermal_channel(file) for file in looked_at]
    if any(thermal) and not all(thermal):
        without = looked_at[thermal.index(False)].name
        raise ValueError(
            f"{folder} holds files with a thermal fourth channel and files without ({without}): keep one kind in it"
        )
    if all(thermal):
        findings.notes.append(
            f"the files of {folder} hold RGB and, as the fourth channel, a thermal image: it is taken as the infrared"
        )
        return [Pair(f.stem, Channels(f, "RGB"), Channels(f, "fourth")) for f in files], findings
    raise ValueError(
        f"{folder} holds {len(files)} images ({some([f.name for f in files], most=3)}) whose names do not tell visible "
        "from infrared: give two folders, or end the names in _vis and _ir"
    )


def file_pair(visible: Path, infrared: Path) -> tuple[list[Pair], list[str]]:
    """The pair of two files, and what was assumed: files whose names say that their order is wrong are exchanged.

    Raises:
        ValueError: both are one file, which does not hold both images.
    """
    if visible.resolve() == infrared.resolve():
        if not _holds_thermal_channel(visible):
            raise ValueError(f"{visible} was given as both images: give the visible and the infrared one")
        note = f"{visible} holds RGB and, as the fourth channel, a thermal image: it is taken as the infrared"
        return [Pair(safe_name(visible.stem), Channels(visible, "RGB"), Channels(visible, "fourth"))], [note]
    notes = []
    roles = [file_role(PurePosixPath(path.parent.name, path.name))[1] for path in (visible, infrared)]
    if roles == ["infrared", "visible"]:
        notes.append(
            f"{infrared} is taken as visible and {visible} as infrared, as their names say, although they were given "
            "in the other order"
        )
        visible, infrared = infrared, visible
    return [Pair(safe_name(visible.stem), visible, infrared)], notes


@dataclass(frozen=True)
class Channels:
    """The colors, or the thermal fourth channel, of an RGB+thermal file as MFNet stores them."""

    file: Path
    which: Literal["RGB", "fourth"]

    def __call__(self) -> np.ndarray:
        """`(H, W, 3)` or `(H, W)`, samples as stored. Raises `ValueError` for a file that has no four channels."""
        picture = read_picture(self.file)
        if picture.pixels.ndim != 3 or picture.alpha is None or picture.alpha.min() == picture.alpha.max():
            raise ValueError(
                f"{self.file} has no four channels (RGB and thermal), as the other files of its folder have"
            )
        return np.ascontiguousarray(picture.pixels if self.which == "RGB" else picture.alpha)


def _holds_thermal_channel(file: Path) -> bool:
    """Whether the fourth channel is a picture: transparency is nearly everywhere none or full."""
    try:
        if read_header(file).channels != 4:
            return False
        picture = read_picture(file)
    except ValueError:
        return False
    assert picture.alpha is not None
    between = (picture.alpha > 0) & (picture.alpha < (picture.white or np.inf))
    return bool(between.mean() > _PARTLY_OPAQUE)


def _as_pairs(result: Pairing, findings: Findings) -> list[Pair]:
    for group in result.ambiguous:
        findings.ambiguous.append(f"{group[0].name} ({', '.join(f.file.name for f in group)})")
    findings.missing_infrared += sorted((f.file.name for f in result.visible), key=_natural)
    findings.missing_visible += sorted((f.file.name for f in result.infrared), key=_natural)
    return sorted((Pair(safe_name(n), v, i) for n, v, i in result.pairs), key=lambda pair: _natural(pair.name))


def _warn_of_exchange(visible: Path, infrared: Path, found: Sequence[Sequence[Named]], findings: Findings) -> None:
    """Say it where folder or file names contradict the order in which they were given."""
    for folder, files, role in ((visible, found[0], "visible"), (infrared, found[1], "infrared")):
        marks = {find_mark(file.name).role for file in files}
        other = "infrared" if role == "visible" else "visible"
        if folder_role(folder.name) == other or marks == {other}:
            findings.notes.append(
                f"{folder.name!r} is given as {role}, but its name or the names of its files say {other}: exchange the "
                "two if they are in the wrong order"
            )


def _other_files(folder: Path) -> list[str]:
    """Files that take no part, hidden ones left out."""
    inside = (f for f in folder.iterdir() if not f.name.startswith(".") and f.is_file())
    return sorted(f"{folder.name}/{f.name}" for f in inside if f.suffix.lower() not in EXTENSIONS)


def _pair_metadata(file: Path) -> tuple[list[Pair], Findings]:
    rows = read_rows(file)
    columns = list(dict.fromkeys(key for row in rows for key in row if key is not None))
    visible = choose_name(columns, VISIBLE_NAMES, "visible", str(file), "column")
    infrared = choose_name(columns, INFRARED_NAMES, "infrared", str(file), "column")
    name = next((c for c in columns if c.lower() in NAME_COLUMNS), None)
    pairs, findings = [], Findings()
    listed: set[Path] = set()
    for number, row in enumerate(rows, start=1):
        files = [_inside(file.parent, row.get(c), f"{file}, row {number}, {c}") for c in (visible, infrared)]
        listed.update(files)
        pair = Pair(safe_name(str((name and row.get(name)) or files[0].stem)), *files)
        if not files[0].is_file():
            findings.missing_visible.append(f"{pair.name} ({row[visible]})")
        if not files[1].is_file():
            findings.missing_infrared.append(f"{pair.name} ({row[infrared]})")
        if files[0].is_file() and files[1].is_file():
            pairs.append(pair)
    for folder in sorted({f.parent for f in listed if f.parent.is_dir()}):
        findings.unlisted += sorted(str(f.relative_to(file.parent)) for f in _images(folder) if f not in listed)
    _refuse_repeated(pairs, f"{file}: add a name column with different names")
    return pairs, findings


def _inside(folder: Path, value: Any, where: str) -> Path:
    """`folder/value`, which must stay inside the folder: metadata may come from strangers."""
    text = str(value or "")
    parts = PurePosixPath(text.replace("\\", "/"))
    if not text or parts.is_absolute() or PureWindowsPath(text).drive or ".." in parts.parts:
        raise ValueError(f"{where}: {text!r} must be a path below {folder}, without '..' and not absolute")
    return _existing(folder / parts)


def _existing(file: Path) -> Path:
    """The file, found in another Unicode form of its name too."""
    if file.exists():
        return file
    forms = (file.parent / unicodedata.normalize(form, file.name) for form in ("NFC", "NFD"))
    return next((form for form in forms if form.exists()), file)


def list_pairs(items: Sequence[Any]) -> list[Pair]:
    pairs = []
    for number, item in enumerate(items):
        where = f"pair {number} of the list"
        if isinstance(item, Pair):
            pairs.append(item)
            continue
        if isinstance(item, Mapping):
            if not {"visible", "infrared"} <= item.keys():
                raise ValueError(f"{where} has the keys {some(list(item))}; it needs 'visible' and 'infrared'")
            visible, infrared, name = item["visible"], item["infrared"], item.get("name")
        elif isinstance(item, list | tuple) and len(item) == 2:
            (visible, infrared), name = item, None
        else:
            raise TypeError(f"{where} is a {type(item).__name__}; give (visible, infrared) or a dict with these keys")
        visible, infrared = _list_source(visible, f"{where}, visible"), _list_source(infrared, f"{where}, infrared")
        stem = visible.stem if isinstance(visible, Path) else f"{number:06d}"
        pairs.append(Pair(safe_name(str(stem if name is None else name)), visible, infrared))
    _refuse_repeated(pairs, "the list: give the pairs as dicts with different 'name's")
    return pairs


def _list_source(value: Any, where: str) -> ImageSource:
    if isinstance(value, str | os.PathLike):
        return Path(value)
    if isinstance(value, Image.Image | np.ndarray) or callable(value):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; give a path, a PIL image or a numpy array")


def _refuse_repeated(pairs: Sequence[Pair], where: str) -> None:
    seen: set[str] = set()
    repeated = [pair.name for pair in pairs if pair.name in seen or seen.add(pair.name)]  # type: ignore[func-returns-value]
    if repeated:
        raise ValueError(f"the same name for several pairs: {some(repeated)}. In {where}")


# --- small things ----------------------------------------------------------------------------------------------------


def choose_name(seen: Sequence[str], understood: Sequence[str], role: str, where: str, kind: str) -> str:
    """The one folder or column among `seen` that plays `role`."""
    matches = [name for name in seen if name.lower().removesuffix("_file_name") in understood]
    if len(matches) == 1:
        return matches[0]
    if matches:
        advice = "give the two folders as a tuple" if kind == "folder" else "rename or remove all but one"
        raise ValueError(f"{where}: several {kind}s may be the {role} one: {', '.join(matches)}; {advice}")
    suffix = " (or each with _file_name)" if kind == "column" else ""
    raise ValueError(
        f"{where}: no {role} {kind}. Seen: {some(seen)}. Understood, in any case: "
        f"visible: {', '.join(VISIBLE_NAMES)}; infrared: {', '.join(INFRARED_NAMES)}{suffix}. "
        + ("Rename it, or give a tuple (visible_dir, infrared_dir)" if kind == "folder" else "Rename it")
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def subfolder(folder: Path, name: str) -> Path | None:
    return next((entry for entry in _folders(folder) if entry.name.lower() == name.lower()), None)


def folder_beside(visible: Path, names: Sequence[str], what: str) -> Path:
    """`ROOT/NAME` of `ROOT/vis`, or `ROOT/NAME/SPLIT` of `ROOT/vis/SPLIT`: NAME is one of `names` in any case.

    Args:
        visible: folder of the visible pictures.
        what: is in the folder, for messages: "of labels".

    Raises:
        ValueError: there is none, or several.
    """
    for root, split in ((visible.parent, Path()), (visible.parent.parent, Path(visible.name))):
        folders = [folder for folder in _named(_folders(root), names) if (folder / split).is_dir()]
        if len(folders) > 1:
            raise ValueError(f"{root} has several folders {what}: {some([f.name for f in folders])}; leave one")
        if folders:
            return folders[0] / split
    raise ValueError(f"{visible.parent} has no folder {what}: name it one of {', '.join(names)}")


def _named(folders: Sequence[Path], understood: Sequence[str]) -> list[Path]:
    return [folder for folder in folders if folder.name.lower() in understood]


def _has_layout(folder: Path) -> bool:
    inside = _folders(folder)
    has_bands = bool(_named(inside, VISIBLE_NAMES) and _named(inside, INFRARED_NAMES))
    return has_bands or any((folder / name).is_file() for name in METADATA_FILES)


def _images(folder: Path) -> list[Path]:
    files = (f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
    return sorted(f for f in files if f.is_file())


def _natural(name: str) -> list[str | int]:
    """Sort key that puts `2` before `10`: text and numbers alternate, text first."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]


def safe_name(name: str) -> str:
    """A name that is a plain file stem: results are written as `<name>.png`, and the name may come from strangers."""
    return re.sub(r"[/\\\x00-\x1f]", "_", name).lstrip(".") or "_"
