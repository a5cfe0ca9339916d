"""Zip files of strangers: judged by their directory before anything is unpacked, then unpacked within limits."""

import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath

from uploads import Refusal

MAX_ENTRIES = 200
MAX_UNPACKED = 256 * 2**20  # bytes, all files together
MAX_ENTRY = 32 * 2**20
MAX_DIRECTORY = 2**20  # bytes of the list of files; Python reads all of it at once
_END = struct.Struct("<4s4H2LH")  # end of central directory record


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
            entries = [_checked(entry) for entry in opened.infolist() if not entry.is_dir()]
            entries = [entry for entry in entries if not _is_hidden(PurePosixPath(entry.filename))]
            _check_sizes(entries)
            return [_write(opened, entry, target) for entry in entries]
    except Refusal:  # a ValueError too
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise Refusal("Not a zip file", "The zip file is damaged, encrypted or of an unknown kind.") from error


def _check_directory_size(archive: Path) -> None:
    """Read how long the directory claims to be; zipfile would make an object of every entry before it can be asked."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 65536 - _END.size))
        tail = stream.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise Refusal("Not a zip file", "The zip file is damaged or of an unknown kind.")
    _, _, _, _, entries, size, _, _ = _END.unpack_from(tail, place)
    # A zip64 record before it would count in its place: it is for more files than are taken here.
    many = tail[max(0, place - 20) : place].startswith(b"PK\x06\x07")
    if many or entries > 4 * MAX_ENTRIES or size > MAX_DIRECTORY:
        raise Refusal("Too many files", f"The zip file holds too many files: at most {MAX_ENTRIES} are taken.")


def _checked(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
        raise Refusal("Unsafe zip file", "The zip file holds names that lead out of it.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Refusal("Unsafe zip file", "The zip file holds links: put the files themselves into it.")
    if entry.flag_bits & 1:
        raise Refusal("Encrypted zip file", "The zip file is encrypted: send it without a password.")
    return entry


def _is_hidden(path: PurePosixPath) -> bool:
    """Files that operating systems add."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts) or path.name == "Thumbs.db"


def _check_sizes(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise Refusal("Too many files", f"The zip file holds {len(entries)} files: at most {MAX_ENTRIES} are taken.")
    if any(entry.file_size > MAX_ENTRY for entry in entries):
        raise Refusal("Too large", f"The zip file holds a file of more than {MAX_ENTRY // 2**20} MB.")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        text = f"The zip file would unpack to more than {MAX_UNPACKED // 2**20} MB: send fewer images at a time."
        raise Refusal("Too large", text)


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> PurePosixPath:
    path = PurePosixPath(entry.filename)
    place = target / path
    place.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as stream, place.open("wb") as file:
        left = entry.file_size  # more than the directory says is never written
        while left > 0 and (block := stream.read(min(left, 2**20))):
            file.write(block)
            left -= len(block)
    return path
