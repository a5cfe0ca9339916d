"""Uploaded zip files: checked by their directory before anything is unpacked, then unpacked within limits."""

import re
import stat
import struct
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from uploads import Refusal


class Limits(NamedTuple):
    """What a zip file may hold."""

    entries: int  # files
    unpacked: int  # bytes, all files together
    entry: int  # bytes of a file


IMAGES = Limits(200, 256 * 2**20, 32 * 2**20)
MAX_DIRECTORY = 2**20  # bytes of the central directory, which Python reads at once
MAX_NAME = 255  # bytes, the limit of most file systems
_END = struct.Struct("<4s4H2LH")  # end of central directory record
_END64 = struct.Struct("<4sQ2H2L4Q")  # its zip64 form, followed by a locator of 20 bytes
_LOCATOR = 20
_UTF8, _ENCRYPTED = 0x800, 1  # flags of an entry
_FOLDER = 0x10  # DOS attribute
_DRIVE = re.compile("[A-Za-z]:")
_JAPANESE = re.compile(r"[\x00-\x7f\u3000-\u30ff\u4e00-\u9fff\uff01-\uff60]+")
_HIDDEN = re.compile(r"/\.|/__MACOSX(/|$)|/Thumbs\.db$")
_INSIDE_A_WORD = re.compile(r"[A-Za-z][^\x00-\x7f]")
_PIECE = 2**20  # bytes that are unpacked at once


def unpack(archive: Path, target: Path, limits: Limits = IMAGES) -> list[PurePosixPath]:
    """Unpack a zip file into an existing folder; returns the paths below `target` of its files, without hidden ones.

    Raises:
        Refusal: the file is not a zip file, is damaged or encrypted, holds links or unsafe names, or is too large.
    """
    _check_directory_size(archive, limits)
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [(_safe_path(entry), entry) for entry in opened.infolist() if not _is_folder(entry)]
            # Hidden files are those that operating systems add.
            entries = [(path, entry) for path, entry in found if not _HIDDEN.search(f"/{path}")]
            _check_entries(entries, limits)
            for path, entry in entries:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as stream, (target / path).open("wb") as file:
                    for start in range(0, entry.file_size, _PIECE):  # never more than the directory says
                        file.write(stream.read(min(_PIECE, entry.file_size - start)))
            return [path for path, _ in entries]
    except Refusal:  # a ValueError too
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        text = "The zip file is damaged or uses an unknown compression: zip it again."
        raise Refusal("Not a zip file", text) from error


def _check_directory_size(archive: Path, limits: Limits) -> None:
    """Check the announced number of entries first: zipfile makes an object of every entry when it opens a file."""
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
    if entries > 4 * limits.entries or size > MAX_DIRECTORY:
        raise Refusal("Too many files", f"The zip file holds too many files: at most {limits.entries} are allowed.")


def _safe_path(entry: zipfile.ZipInfo) -> PurePosixPath:
    r"""The checked path of an entry, with `/` also for the `\` of Windows programs."""
    parts = _name_parts(entry)
    last = repr(parts[-1])
    text = ""
    if ".." in (part.strip() for part in parts) or parts[0] == "" or _DRIVE.match(parts[0]):
        text = f"names that lead out of it ({last}): zip the folder again."
    elif any(":" in part for part in parts):
        text = f"a name with a colon ({last}), which not every computer can store: rename the file."
    elif any(len(part.encode(errors="replace")) > MAX_NAME for part in parts):
        text = f"a name of more than {MAX_NAME} bytes ({last[:40]}...): rename the file."
    elif stat.S_ISLNK(entry.external_attr >> 16):
        text = f"links ({last}): put the files themselves into it."
    elif entry.flag_bits & _ENCRYPTED:
        text = "encrypted files: zip them without a password."
    # Windows removes dots and blanks at the end of a name.
    parts = [part.rstrip(" .") for part in parts if part not in ("", ".")]
    if not text and not all(parts):
        text = "a name of only dots or blanks: rename the file."
    if text:
        raise Refusal("Unsafe zip file", f"The zip file holds {text}")
    return PurePosixPath(*parts)


def _name_parts(entry: zipfile.ZipInfo) -> list[str]:
    r"""The parts of an entry's name, decoded as it was written.

    `\` separates folders as `/` does, but in East Asian encodings the same byte is the second half of some letters.
    """
    name = entry.orig_filename.partition("\0")[0]
    if not entry.flag_bits & _UTF8 and not name.isascii():
        raw = name.encode("cp437")  # Python's encoding for names without the UTF-8 flag
        name = _decode(raw) or re.sub(r"(?<=[^\x00-\x7f])\\", "_", name)
    return re.split(r"[/\\]", name)


def _decode(raw: bytes) -> str | None:
    """A name in UTF-8 without its flag, or in Japanese; None if it seems to be neither."""
    with suppress(UnicodeDecodeError):
        return raw.decode()
    with suppress(UnicodeDecodeError):
        name = raw.decode("cp932")
        return name if _JAPANESE.fullmatch(name) and not _INSIDE_A_WORD.search(name) else None
    return None


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.orig_filename.endswith(("/", "\\")) or (not entry.file_size and bool(entry.external_attr & _FOLDER))


def _check_entries(entries: list[tuple[PurePosixPath, zipfile.ZipInfo]], limits: Limits) -> None:
    """Refuse too many or too large files, a file twice, and a file that is a folder too."""
    sizes = [entry.file_size for _, entry in entries]
    if len(entries) > limits.entries:
        text = f"The zip file holds {len(entries)} files: at most {limits.entries} are allowed."
        raise Refusal("Too many files", text)
    if max(sizes, default=0) > limits.entry:
        raise Refusal("Too large", f"The zip file holds a file of more than {limits.entry // 2**20} MB.")
    if sum(sizes) > limits.unpacked:
        text = f"The zip file would unpack to more than {limits.unpacked // 2**20} MB: send fewer images at a time."
        raise Refusal("Too large", text)
    counts = Counter(path for path, _ in entries)
    for path, count in counts.items():
        if count > 1:
            text = f"The zip file holds two files named {str(path)!r}: keep one, or rename one."
            raise Refusal("Duplicate name", text)
        if not counts.keys().isdisjoint(path.parents):
            text = f"The zip file holds a file and a folder named {str(path.parent)!r}: rename one."
            raise Refusal("Duplicate name", text)
