"""The layouts of paired sets: two folders, one folder, a metadata file, a list. All end as `Pair`s."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from PIL import Image

from fusion_hub.data.pairing import (
    INFRARED_NAMES,
    VISIBLE_NAMES,
    Named,
    Pairing,
    file_role,
    find_mark,
    fold_name,
    folder_role,
    pair_files,
    split_by_role,
)
from fusion_hub.data.pairs import EXCHANGED, Findings, ImageSource, Pair, looks_exchanged, some
from fusion_hub.image.io import EXTENSIONS, read_header, read_picture
from fusion_hub.image.lazy_numpy import np

METADATA_FILES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.json")
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
_BAND_NAMES = VISIBLE_NAMES + INFRARED_NAMES
_PICTURE_FOLDERS = ("jpegimages", "images")  # of sets that keep both images of a pair in one folder
_PARTLY_OPAQUE = 0.5  # share of the fourth channel that is neither 0 nor full, from which it is no transparency
_ENCODINGS = ("cp1252", "mac_roman", "cp850", "cp437", "cp1250", "cp1251", "gb18030", "shift_jis", "euc_kr")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_MOST_TABLE_BYTES = 256 << 20
_EXCHANGED = "{} is used as the first image and {} as the second, as their names say, although given in the other order"

Found = tuple[list[Pair], Findings]


# --- folders ---------------------------------------------------------------------------------------------------------


def open_folder(root: Path, split: str | None) -> tuple[list[Pair], Findings, str]:
    """Pairs below `root`: `root/vis`, `root/SPLIT/vis` or `root/vis/SPLIT`, or the same with a metadata file."""
    if split is None:
        inside = [] if _has_layout(root) else [folder for folder in _folders(root) if _has_layout(folder)]
        if len(inside) > 1:
            raise ValueError(f"{root} has the splits {', '.join(f.name for f in inside)}: choose one with split=")
        return _open_layout(inside[0] if inside else root, None)
    if below := subfolder(root, split):
        return _open_layout(below, None)
    if _has_layout(root) and root.resolve().name.lower() == split.lower():
        return _open_layout(root, None)
    if _folders(root, VISIBLE_NAMES) and _folders(root, INFRARED_NAMES):
        return _open_layout(root, split)
    raise ValueError(f"{root} has no split {split!r}; the folders there: {some([f.name for f in _folders(root)])}")


def find_splits(root: Path) -> list[str]:
    """The splits below `root` that `open_folder` takes; none where `root` is one set by itself.

    A folder with a usual split name counts even if it holds no pairs, so that opening it says what is wrong.
    """
    if not _has_layout(root):
        return [f.name for f in _folders(root) if _has_layout(f) or f.name.lower() in SPLIT_NAMES]
    bands = _folders(root, _BAND_NAMES)
    if _metadata_file(root) or any(images_in(band) for band in bands):
        return []
    return sorted({folder.name for band in bands for folder in _folders(band)})


def holds_parquet(root: Path) -> bool:
    """Whether `root` is a copy of a Hub dataset that keeps its pictures in Parquet files."""
    return not _has_layout(root) and any(any(root.glob(pattern)) for pattern in ("*.parquet", "data/*.parquet"))


def _open_layout(folder: Path, split: str | None) -> tuple[list[Pair], Findings, str]:
    if metadata := _metadata_file(folder):
        return *_pair_metadata(metadata), str(folder)
    if split is None and not _folders(folder, _BAND_NAMES):
        for flat in (folder, *_folders(folder, _PICTURE_FOLDERS)):
            if images_in(flat):
                return *_pair_mixed_folder(flat), str(flat)
    visible, infrared = map(folder.joinpath, choose_names([f.name for f in _folders(folder)], str(folder), "folder"))
    if split is None:
        return *pair_folders(visible, infrared), str(folder)
    visible_split, infrared_split = subfolder(visible, split), subfolder(infrared, split)
    if visible_split is None or infrared_split is None:
        raise ValueError(f"{folder} has no split {split!r}: neither {folder / split} nor {visible / split} exists")
    return *pair_folders(visible_split, infrared_split), str(folder / f"*/{split}")


def pair_folders(visible_dir: Path, infrared_dir: Path) -> Found:
    """Pairs of two folders by name, see [`fusion_hub.data.pairing`]; of one folder twice by the marks of its names.

    Folders whose names say that they were given in the wrong order are exchanged, and the report says so.
    """
    if visible_dir.resolve() == infrared_dir.resolve():
        return _pair_mixed_folder(visible_dir)
    findings = Findings()
    if folder_role(visible_dir.name) == "infrared" and folder_role(infrared_dir.name) == "visible":
        findings.notes.append(_EXCHANGED.format(f"the folder {infrared_dir.name!r}", f"{visible_dir.name!r}"))
        visible_dir, infrared_dir = infrared_dir, visible_dir
    sides: list[list[Named]] = []
    for folder, role, other in ((visible_dir, "visible", "infrared"), (infrared_dir, "infrared", "visible")):
        sides.append([Named(file.stem, file) for file in images_in(folder)])
        _refuse_mixed(folder, role, sides[-1])
        findings.left_out += _other_files(folder)
        if not sides[-1]:
            inside = some([f.name for f in _folders(folder)])
            raise ValueError(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))}). Folders in it: {inside}")
        if folder_role(folder.name) == other or {find_mark(file.name).role for file in sides[-1]} == {other}:
            said = f"{folder.name!r} is given as {role}, but its name or the names of its files say {other}"
            findings.notes.append(f"{said}: exchange the two if they are in the wrong order")
    return _as_pairs(pair_files(*sides), findings), findings


def _refuse_mixed(folder: Path, role: str, files: list[Named]) -> None:
    """Refuse, as one side, a folder of which most files are pairs by themselves: any match with the other would do."""
    pairs = pair_files(*split_by_role(files)).pairs
    if pairs and 4 * len(pairs) >= len(files):
        _, first, second = pairs[0]
        raise ValueError(
            f"{folder} is given as {role}, but holds both images of each pair ({first.name}, {second.name}): give "
            "this folder alone, or two folders with one kind of image each"
        )


def _pair_mixed_folder(folder: Path) -> Found:
    """Pairs of one folder that holds both images of each: by the marks of their names, or in four channels."""
    if not (files := images_in(folder)):
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))})")
    findings = Findings(left_out=_other_files(folder))
    sides = split_by_role([Named(file.stem, file) for file in files])
    result = pair_files(*sides)
    if result.pairs or result.ambiguous:
        return _as_pairs(result, findings), findings
    marked = [next((one.file.name for one in side if find_mark(one.name).role), None) for side in sides]
    if None not in marked:
        raise ValueError(
            f"{folder} holds visible and infrared images, but no two whose names agree up to their marks, such as "
            f"{marked[0]} and {marked[1]}: give the two of a pair the same name before the mark, or two folders"
        )
    sample = files[:: max(1, len(files) // 8)][:8]
    thermal = [_holds_thermal_channel(file) for file in sample]
    if all(thermal):
        note = f"the files of {folder} hold RGB and, as the fourth channel, a thermal image: it is used as infrared"
        findings.notes.append(note)
        return [Pair(f.stem, Channels(f, "RGB"), Channels(f, "fourth")) for f in files], findings
    if any(thermal):
        kinds = f"files with a thermal fourth channel and files without ({sample[thermal.index(False)].name})"
        raise ValueError(f"{folder} holds {kinds}: keep one kind in it")
    holds = f"{len(files)} images ({some([f.name for f in files], most=3)})"
    advice = "visible from infrared: give two folders, or end the names in _vis and _ir"
    raise ValueError(f"{folder} holds {holds} whose names do not distinguish {advice}")


def pair_lists(visible: Sequence[Path], infrared: Sequence[Path] | None = None) -> Found:
    """Pairs of listed files, such as those that patterns match, by the names of their folders and their own.

    Args:
        visible: picture files.
        infrared: those of the other side. None: `visible` lists both, told apart by the names of folders and files, or
            else by their folders where these are two: the first is the visible one.

    Raises:
        ValueError: files that are no pictures or are listed twice, or names that do not tell which is which.
    """
    files = [*visible, *(infrared or ())]
    if others := [str(file) for file in files if file.suffix.lower() not in EXTENSIONS or not file.is_file()]:
        raise ValueError(f"{some(others, most=3)}: give picture files only, or one folder, or two")
    if twice := [str(file) for file, count in Counter(files).items() if count > 1]:
        raise ValueError(f"{some(twice, most=3)} was given twice: give each file once")
    top = Path(os.path.commonpath([file.parent.absolute() for file in files]))
    named = {file: file_role(PurePosixPath(file.absolute().relative_to(top).as_posix())) for file in files}
    roles = {file: role for file, (_, role) in named.items()}
    findings = Findings()
    if infrared is None:
        folders = list(dict.fromkeys(file.parent for file in files))
        if not any(roles.values()) and len(folders) == 2:
            roles = {file: "visible" if file.parent == folders[0] else "infrared" for file in files}
        visible = [file for file in files if roles[file] != "infrared"]
        infrared = [file for file in files if roles[file] == "infrared"]
        if not visible or not infrared:
            holds = f"{len(files)} images ({some([file.name for file in files], most=3)})"
            raise ValueError(f"the names of {holds} do not distinguish visible from infrared: end them in _vis and _ir")
    elif {roles[file] for file in visible} == {"infrared"} and {roles[file] for file in infrared} == {"visible"}:
        findings.notes.append(f"{_EXCHANGED.format(infrared[0].name, visible[0].name)} (and the others likewise)")
        visible, infrared = infrared, visible
    elif "infrared" in {roles[file] for file in visible} or "visible" in {roles[file] for file in infrared}:
        wrong = next(file for file in files if roles[file] == ("infrared" if file in visible else "visible"))
        findings.notes.append(f"the name of {wrong} says {roles[wrong]}, but it is given on the other side")
    sides = [[Named(named[file][0], file) for file in side] for side in (visible, infrared)]
    if all(len({file.parent for file in side}) == 1 for side in (visible, infrared)):
        sides = [[Named(file.stem, file) for file in side] for side in (visible, infrared)]
    return _as_pairs(pair_files(*sides), findings), findings


def file_pair(visible: Path, infrared: Path) -> tuple[list[Pair], list[str]]:
    """The pair of two files, and what was assumed: files whose names say that their order is wrong are exchanged.

    Raises:
        ValueError: both are one file, which does not hold both images.
    """
    if visible.resolve() == infrared.resolve():
        if not _holds_thermal_channel(visible):
            raise ValueError(f"{visible} was given as both images: give the visible and the infrared one")
        note = f"{visible} holds RGB and, as the fourth channel, a thermal image: it is used as infrared"
        return [Pair(safe_name(visible.stem), Channels(visible, "RGB"), Channels(visible, "fourth"))], [note]
    notes = []
    roles = [file_role(PurePosixPath(path.parent.name, path.name))[1] for path in (visible, infrared)]
    if roles == ["infrared", "visible"]:
        notes.append(_EXCHANGED.format(infrared, visible))
        visible, infrared = infrared, visible
    elif roles[0] is not None and roles[0] == roles[1]:
        notes.append(f"the names of {visible} and {infrared} both say {roles[0]}: check that they are one pair")
    keys = [fold_name(find_mark(path.stem).key) for path in (visible, infrared)]
    numbers = [re.findall(r"\d+", key)[-1:] for key in keys]
    if len({re.sub(r"\d+", "0", key) for key in keys}) == 1 and [*map(int, numbers[0])] != [*map(int, numbers[1])]:
        said = f"{visible.name} and {infrared.name} have the numbers {numbers[0][0]} and {numbers[1][0]}"
        notes.append(f"{said}: check that they are one pair")
    pair = Pair(safe_name(visible.stem), visible, infrared)
    return [pair], notes + [EXCHANGED] * looks_exchanged([pair])


@dataclass(frozen=True)
class Channels:
    """The colors, or the thermal fourth channel, of an RGB+thermal file as MFNet stores them."""

    file: Path
    which: Literal["RGB", "fourth"]

    def __call__(self) -> np.ndarray:
        """`(H, W, 3)` or `(H, W)`, samples as stored. Raises `ValueError` for a file without four channels."""
        picture = read_picture(self.file)
        if picture.pixels.ndim != 3 or picture.alpha is None or picture.alpha.min() == picture.alpha.max():
            raise ValueError(f"{self.file} lacks the four channels (RGB and thermal) of the other files in its folder")
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


# --- metadata files --------------------------------------------------------------------------------------------------


def _pair_metadata(file: Path) -> Found:
    rows = read_rows(file)
    if not rows:
        raise ValueError(f"{file} has no rows: list the pairs in it, or remove it so that the folders are read")
    columns = list(dict.fromkeys(key for row in rows for key in row if key is not None))
    visible, infrared = choose_names(columns, str(file), "column")
    name = find_name_column(columns)
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
        findings.unlisted += sorted(str(f.relative_to(file.parent)) for f in images_in(folder) if f not in listed)
    _refuse_repeated(pairs, f"{file}: add a name column with different names")
    return pairs, findings


def _inside(folder: Path, value: Any, where: str) -> Path:
    """`folder/value`, which must stay inside the folder (metadata may come from strangers), in any Unicode form."""
    text = str(value or "")
    parts = PurePosixPath(text.replace("\\", "/"))
    if not text or parts.is_absolute() or PureWindowsPath(text).drive or ".." in parts.parts:
        raise ValueError(f"{where}: {text!r} must be a path below {folder}, without '..' and not absolute")
    file = folder / parts
    forms = (file.parent / unicodedata.normalize(form, file.name) for form in ("NFC", "NFD"))
    return next((form for form in (file, *forms) if form.exists()), file)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a `.csv`, `.tsv`, `.jsonl` or `.json` file as dictionaries.

    The encoding is that of a byte order mark, or UTF-8, or else the one in which most of the listed files exist beside
    the table. CSV may be separated by commas, semicolons, tabs or bars. A JSON array counts as JSON lines.

    Raises:
        ValueError: it is not such a table; one sentence that names the file and the line.
    """
    try:
        size = file.stat().st_size
        if size > _MOST_TABLE_BYTES:
            raise ValueError(f"{file} has {size >> 20} MiB, the limit is {_MOST_TABLE_BYTES >> 20}: split the table")
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    parse = _parse_csv if file.suffix.lower() in (".csv", ".tsv") else _parse_json
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        return parse(data.decode(encoding), file)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{file} is damaged text: save it again as UTF-8") from error

    def candidates() -> Iterator[list[dict[str, Any]]]:
        for encoding in _ENCODINGS:
            with suppress(UnicodeDecodeError):
                yield parse(data.decode(encoding), file)

    def existing(rows: list[dict[str, Any]]) -> int:
        values = (value for row in rows for value in row.values() if isinstance(value, str))
        return sum((file.parent / value).exists() for value in values if 0 < len(value) < 255 and "\0" not in value)

    best = max(candidates(), key=existing, default=None)
    if best is None:
        raise ValueError(f"{file} is not text in a known encoding: save it as UTF-8")
    return best


def _parse_csv(text: str, file: Path) -> list[dict[str, Any]]:
    lines = text.splitlines()
    delimiter = ","
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:  # Excel's own first line
        delimiter, text = lines[0][4], text.split("\n", 1)[-1]
    elif lines:
        delimiter = max(",;\t|", key=lines[0].count)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{file} is not a CSV table: save it again as CSV in UTF-8") from error
    plain = [{(key or "").strip(): value for key, value in row.items() if key is not None} for row in rows]
    return [row for row in plain if any(value for value in row.values())]  # Excel leaves rows of commas


def _parse_json(text: str, file: Path) -> list[dict[str, Any]]:
    rows: list[Any] = []
    array = text.lstrip().startswith("[")
    for number, part in enumerate([text.strip()] if array else text.splitlines(), start=1):
        try:
            rows += json.loads(part) if array else [json.loads(part)] if part.strip() else []
        except (json.JSONDecodeError, RecursionError) as error:
            line = getattr(error, "lineno", 1) if array else number
            kind = (
                "a JSON array: write one JSON object for each pair"
                if array
                else "JSON: write one JSON object in each line"
            )
            raise ValueError(f"{file}, line {line} is not {kind}") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{file}, entry {number} is no JSON object: write one for each pair")
    return rows


# --- lists -----------------------------------------------------------------------------------------------------------


def list_pairs(items: Sequence[Any]) -> list[Pair]:
    """Pairs of a list of `(visible, infrared)`, of dictionaries with these keys, or of `Pair`s."""
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
    if repeated := [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]:
        raise ValueError(f"the same name for several pairs: {some(repeated)}. In {where}")


# --- names and folders -----------------------------------------------------------------------------------------------


def choose_names(seen: Sequence[str], where: str, kind: str) -> list[str]:
    """The visible and the infrared one of the folders or columns `seen`."""
    chosen = []
    for role, understood in (("visible", VISIBLE_NAMES), ("infrared", INFRARED_NAMES)):
        matches = [name for name in seen if name.lower().removesuffix("_file_name") in understood]
        if len(matches) > 1:
            advice = "give the two folders" if kind == "folder" else "rename or remove all but one"
            raise ValueError(f"{where}: several {kind}s may be the {role} one: {', '.join(matches)}; {advice}")
        if not matches:
            suffix = " (or each with _file_name)" if kind == "column" else ""
            raise ValueError(
                f"{where}: no {role} {kind}. Seen: {some(seen)}. Understood, in any case: "
                f"visible: {', '.join(VISIBLE_NAMES)}; infrared: {', '.join(INFRARED_NAMES)}{suffix}. Rename it"
                + (", or give the two folders" if kind == "folder" else "")
            )
        chosen += matches
    return chosen


def find_name_column(columns: Sequence[str]) -> str | None:
    """The column that names the pairs, if any."""
    return next((column for column in columns if column.lower() in ("name", "id", "stem")), None)


def subfolder(folder: Path, name: str) -> Path | None:
    """The folder of this name, in any case."""
    return next(iter(_folders(folder, (name.lower(),))), None)


def folder_beside(visible: Path, names: Sequence[str], what: str) -> Path:
    """`ROOT/NAME` of `ROOT/vis`, or `ROOT/NAME/SPLIT` of `ROOT/vis/SPLIT`: NAME is one of `names` in any case.

    Args:
        visible: folder of the visible pictures.
        what: description of its content for messages: "of labels".

    Raises:
        ValueError: there is none, or several.
    """
    for root, split in ((visible.parent, Path()), (visible.parent.parent, Path(visible.name))):
        folders = [folder for folder in _folders(root, names) if (folder / split).is_dir()]
        if len(folders) > 1:
            raise ValueError(f"{root} has several folders {what}: {some([f.name for f in folders])}; keep one of them")
        if folders:
            return folders[0] / split
    raise ValueError(f"{visible.parent} has no folder {what}: name it one of {', '.join(names)}")


def images_in(folder: Path) -> list[Path]:
    """The picture files of a folder, sorted; hidden ones are skipped."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
    return sorted(f for f in files if f.is_file())


def safe_name(name: str) -> str:
    """A name that is a plain file stem: results are written as `<name>.png`, and the name may come from strangers."""
    return re.sub(r"[/\\\x00-\x1f]", "_", name).lstrip(".") or "_"


def _folders(folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """The folders inside, sorted: all of them, or those with one of the lower-case `names`."""
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return inside if names is None else [entry for entry in inside if entry.name.lower() in names]


def _other_files(folder: Path) -> list[str]:
    """Files that are not pictures; hidden ones are skipped."""
    inside = (f for f in folder.iterdir() if not f.name.startswith(".") and f.is_file())
    return sorted(f"{folder.name}/{f.name}" for f in inside if f.suffix.lower() not in EXTENSIONS)


def _metadata_file(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)


def _has_layout(folder: Path) -> bool:
    return bool(_metadata_file(folder) or (_folders(folder, VISIBLE_NAMES) and _folders(folder, INFRARED_NAMES)))


def _natural(name: str) -> list[str | int]:
    """Sort key that puts `2` before `10`: text and numbers alternate, text first."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]
