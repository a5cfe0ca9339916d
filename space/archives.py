"""Zip files of strangers: judged by their directory before anything is unpacked, then unpacked within limits."""

import re
import stat
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from uploads import Refusal

MAX_ENTRIES = 200
MAX_UNPACKED = 256 * 2**20  # bytes, all files together
MAX_ENTRY = 32 * 2**20
MAX_DIRECTORY = 2**20  # bytes of the list of files; Python reads all of it at once
_END = struct.Struct("<4s4H2LH")  # end of central directory record
_END64 = struct.Struct("<4sQ2H2L4Q")  # the same with larger numbers, which a locator of 20 bytes follows
_LOCATOR = 20
_UTF8, _ENCRYPTED = 0x800, 1  # flags of an entry
_FOLDER = 0x10  # attribute of DOS
_DRIVE = re.compile("[A-Za-z]:")
_LONGEST = 255  # bytes of a name, on most systems
_JAPANESE = re.compile(r"[\x00-\x7f\u3000-\u30ff\u4e00-\u9fff\uff01-\uff60]+")
_INSIDE_A_WORD = re.compile(r"[A-Za-z][^\x00-\x7f]")


def unpack(archive: Path, target: Path) -> list[PurePosixPath]:
    """Unpack a zip file into a folder.

    Args:
        archive: the file.
        target: existing folder.

    Returns:
        Paths of the files below `target`; hidden ones are left out.

    Raises:
        Refusal: it is none, is damaged or encrypted, holds links or names that lead elsewhere, or is too large.
    """
    _check_directory_size(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [(_checked(entry), entry) for entry in opened.infolist() if not _is_folder(entry)]
            entries = [(path, entry) for path, entry in entries if not _is_hidden(path)]
            _check_sizes([entry for _, entry in entries])
            _check_names([path for path, _ in entries])
            for path, entry in entries:
                _write(opened, entry, target / path)
            return [path for path, _ in entries]
    except Refusal:  # a ValueError too
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise Refusal("Not a zip file", "The zip file is damaged or packed in an unknown way: zip it again.") from error


def _check_directory_size(archive: Path) -> None:
    """Read how long the directory claims to be; zipfile would make an object of every entry before it can be asked."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 65536 - _END.size - _END64.size - _LOCATOR))
        tail = stream.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise Refusal("Not a zip file", "The zip file is damaged, or another kind of file: zip it again.")
    _, _, _, _, entries, size, _, _ = _END.unpack_from(tail, place)
    before = place - _LOCATOR - _END64.size
    if tail[max(0, place - _LOCATOR) : place].startswith(b"PK\x06\x07"):  # zip64: its record counts
        if before < 0 or tail[before : before + 4] != b"PK\x06\x06":
            raise Refusal("Not a zip file", "The zip file is damaged: zip it again.")
        *_, entries, size, _ = _END64.unpack_from(tail, before)
    if entries > 4 * MAX_ENTRIES or size > MAX_DIRECTORY:
        raise Refusal("Too many files", f"The zip file holds too many files: at most {MAX_ENTRIES} are taken.")


# --- names -----------------------------------------------------------------------------------------------------------


def _checked(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The path of an entry, with `/` for the `\\` of Windows programs."""
    parts = _parts(entry)
    last = repr(parts[-1]) if parts else "''"
    if ".." in (part.strip() for part in parts) or parts[0] == "" or _DRIVE.match(parts[0]):
        raise Refusal(
            "Unsafe zip file", f"The zip file holds names that lead out of it ({last}): zip the folder again."
        )
    if any(":" in part for part in parts):
        text = f"The zip file holds a name with a colon ({last}), which not every computer can store: rename the file."
        raise Refusal("Unsafe zip file", text)
    if any(len(part.encode(errors="replace")) > _LONGEST for part in parts):
        text = f"The zip file holds a name of more than {_LONGEST} bytes ({last[:40]}...): rename the file."
        raise Refusal("Long name", text)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Refusal("Unsafe zip file", f"The zip file holds links ({last}): put the files themselves into it.")
    if entry.flag_bits & _ENCRYPTED:
        raise Refusal("Encrypted zip file", "The zip file is encrypted: send it without a password.")
    # Windows takes dots and blanks at the end of a name away.
    parts = [part.rstrip(" .") for part in parts if part not in ("", ".")]
    if not all(parts):
        raise Refusal("Unsafe zip file", "The zip file holds a name of dots or blanks alone: rename the file.")
    return PurePosixPath(*parts)


def _parts(entry: zipfile.ZipInfo) -> list[str]:
    r"""The name of an entry in its parts, in the encoding that it was written in.

    `\` separates folders as `/` does. But in encodings of East Asia the same byte is the second half of some letters.
    """
    name = entry.orig_filename.partition("\0")[0]
    if not entry.flag_bits & _UTF8 and not name.isascii():
        raw = name.encode("cp437")  # as Python reads names that are not said to be UTF-8
        name = _decoded(raw) or re.sub(r"(?<=[^\x00-\x7f])\\", "_", name)
    return re.split(r"[/\\]", name)


def _decoded(raw: bytes) -> str | None:
    """A name in UTF-8 without its flag, or in Japanese; None if it seems to be neither."""
    for encoding in ("utf-8", "cp932"):
        try:
            name = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or (_JAPANESE.fullmatch(name) and not _INSIDE_A_WORD.search(name)):
            return name
    return None


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.orig_filename.endswith(("/", "\\")) or (not entry.file_size and bool(entry.external_attr & _FOLDER))


def _is_hidden(path: PurePosixPath) -> bool:
    """Files that operating systems add."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts) or path.name == "Thumbs.db"


def _check_names(paths: Sequence[PurePosixPath]) -> None:
    """No file twice, and none that is a folder too."""
    seen: set[PurePosixPath] = set()
    for path in paths:
        if path in seen:
            text = f"The zip file holds two files named {str(path)!r}: leave one, or rename one."
            raise Refusal("Two files of one name", text)
        seen.add(path)
    for path in paths:
        if not seen.isdisjoint(path.parents):
            text = f"The zip file holds a file and a folder named {str(path.parent)!r}: rename one."
            raise Refusal("Two files of one name", text)


# --- sizes -----------------------------------------------------------------------------------------------------------


def _check_sizes(entries: Sequence[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise Refusal("Too many files", f"The zip file holds {len(entries)} files: at most {MAX_ENTRIES} are taken.")
    if any(entry.file_size > MAX_ENTRY for entry in entries):
        raise Refusal("Too large", f"The zip file holds a file of more than {MAX_ENTRY // 2**20} MB.")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        text = f"The zip file would unpack to more than {MAX_UNPACKED // 2**20} MB: send fewer images at a time."
        raise Refusal("Too large", text)


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as stream, place.open("wb") as file:
        left = entry.file_size  # more than the directory says is never written
        while left > 0 and (block := stream.read(min(left, 2**20))):
            file.write(block)
            left -= len(block)
