"""Write files whole or not at all, remove the leftovers of killed runs, explain disk errors, find the page's files."""

import errno
import os
import re
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_LEFTOVER = re.compile(r"\..*?\.(?:(?P<host>[0-9a-f]{8})-)?(?P<process>\d+)-[0-9a-f]{8}\.tmp")
_LONGEST_WRITE = 24 * 3600  # seconds, after which a file of a process on another machine counts as left behind
_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_NOT_WRITABLE = {errno.EROFS: "it is read-only", **dict.fromkeys((errno.EACCES, errno.EPERM), "permission is denied")}


def page_folder(package: Path = Path(__file__).parent) -> Path:
    """The files of the page: a folder of the installed package, or `space/` beside the package in a checkout."""
    installed = package / "space"
    return installed if installed.is_dir() else package.parent / "space"


@contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """A temporary path next to `target` that replaces it, a file or a missing folder, unless the block fails.

    Missing folders are created. The temporary name is short, so that it works for any name of `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name[:32]}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield aside
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)


def sweep_leftovers(folder: Path) -> int:
    """Remove the temporary files of dead processes from a folder; return how many."""
    removed = 0
    if not folder.is_dir():
        return 0
    for file in folder.glob(".*.tmp"):
        found = _LEFTOVER.fullmatch(file.name)
        try:
            if found and _is_left_behind(file, found["host"], int(found["process"])):
                file.unlink()
                removed += 1
        except OSError:  # another process was quicker, or it may not be removed
            continue
    return removed


def _is_left_behind(file: Path, host: str | None, process: int) -> bool:
    if time.time() - file.stat().st_mtime > _LONGEST_WRITE:
        return True
    if host not in (None, _HOST) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def disk_trouble(error: BaseException, place: Path) -> str | None:
    """One sentence for an error that means that a place cannot be written; None for other errors."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if cause := _NO_ROOM.get(error.errno):
        return f"{place} cannot be written, {cause}: free some space, or choose another folder"
    if cause := _NOT_WRITABLE.get(error.errno):
        return f"{place} cannot be written, {cause}: choose another folder"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return f"{place} cannot be made, a part of it is a file: choose another folder"
    return None


def check_writable(folder: Path) -> None:
    """Raise an `OSError` if a folder, or its nearest existing parent, is not writable."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OSError(f"{folder} cannot be made, {place} is a file: choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OSError(f"{folder} cannot be written, {place} is read-only: choose another folder")


def plain_cell(text: str) -> str:
    """A CSV cell that no spreadsheet reads as a formula: file names may come from strangers."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
