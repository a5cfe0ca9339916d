"""Files of visitors: in a folder of this server alone, for an hour, and within a size limit.

`claim` makes a private folder below `GRADIO_TEMP_DIR` or the system's temporary folder. Gradio keeps uploads and its
cache there, the page its results and unpacked batches. A thread deletes files older than `LIFETIME`, including those
of killed servers; a server that stops deletes its folder.
"""

import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

LIFETIME = 3600  # seconds
SWEEP_INTERVAL = 60  # seconds
PREFIX = "fusion_hub_page_"
EXAMPLES_PREFIX = "fusion_hub_examples_"  # folders that stay as long as their server runs
DISK_VARIABLE, UPLOAD_VARIABLE = "FUSION_HUB_DISK_MIB", "FUSION_HUB_UPLOAD_MIB"
MARGIN = 256 << 20  # bytes of the disk that stay free

_lock = threading.Lock()
_reserved = 0  # bytes that requests in progress may still write


def mebibytes(variable: str, default: int) -> int:
    """Bytes that an environment variable gives in MiB. Exits where it is not a whole number."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) == 0:
        sys.exit(f"error: {variable} must be a whole number of MiB above 0, got {text!r}")
    return int(text) << 20


MAX_UPLOAD = mebibytes(UPLOAD_VARIABLE, 256)  # bytes of one upload, all its files together
MAX_DISK = mebibytes(DISK_VARIABLE, 2048)  # bytes of all files that are kept


def claim() -> dict[str, str]:
    """Make this server's private folder; returns the environment variables that Gradio reads while it is imported.

    Exits where no folder can be made.
    """
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    except OSError as error:
        sys.exit(f"error: no folder for uploads can be made in {parent} ({error.strerror}): set GRADIO_TEMP_DIR")
    return {"GRADIO_TEMP_DIR": folder}


def root() -> Path:
    """The folder that Gradio keeps and serves files in."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def new_folder() -> Path:
    """An empty folder with an unguessable name for the results of one request; raises `NoRoom` on a full server."""
    if used() > MAX_DISK:
        raise NoRoom
    folder = root() / "fusion_hub_results" / secrets.token_urlsafe(18)
    folder.mkdir(parents=True)
    return folder


def start_sweeping(own: Path) -> None:
    """Sweep now, and once a minute until the program ends."""
    sweep(own)

    def run() -> None:
        while own.is_dir():
            time.sleep(SWEEP_INTERVAL)
            sweep(own)

    threading.Thread(target=run, name="sweeping", daemon=True).start()


def sweep(own: Path, lifetime: float = LIFETIME) -> None:
    """Delete files older than `lifetime` seconds in this server's folder and in those of other servers beside it.

    A running server keeps its folder young, so an old folder belongs to a killed server and is deleted as a whole.
    Links are never followed, and folders of other users are left alone.
    """
    with suppress(OSError):  # the folder was deleted: the server is ending
        os.utime(own)
    oldest = time.time() - lifetime
    for folder in own.parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another server was quicker
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
                continue
            if found.st_mtime < oldest and folder != own:
                shutil.rmtree(folder, ignore_errors=True)
            for place, folders, files in os.walk(folder, topdown=False):  # does not follow links
                for path in (Path(place, name) for name in (*files, *folders)):
                    if not path.relative_to(folder).parts[0].startswith(EXAMPLES_PREFIX):
                        _delete_if_old(path, oldest)


def _delete_if_old(path: Path, oldest: float) -> None:
    with suppress(OSError):  # deleted meanwhile, or a folder with younger files
        found = path.lstat()
        if found.st_mtime < oldest:
            path.rmdir() if stat.S_ISDIR(found.st_mode) else path.unlink()


class NoRoom(Exception):
    """The server keeps as many files as it may."""

    def __init__(self) -> None:
        super().__init__("This server is full for now: try again in some minutes.")


class Room:
    """Disk space reserved for files that are about to be written.

    Raises:
        NoRoom: they could exceed `MAX_DISK`, or fill the disk.
    """

    def __init__(self, size: int) -> None:
        global _reserved
        place = next(place for place in (root(), *root().absolute().parents) if place.exists())
        with _lock:
            needed = _reserved + size
            if used() + needed > MAX_DISK or shutil.disk_usage(place).free < needed + MARGIN:
                raise NoRoom
            _reserved = needed
        self.left = size

    def written(self, size: int) -> None:
        """Release space for bytes that are on the disk by now, where `used` counts them."""
        global _reserved
        with _lock:
            size = min(size, self.left)
            self.left -= size
            _reserved -= size

    def __enter__(self) -> "Room":
        return self

    def __exit__(self, *_: object) -> None:
        self.written(self.left)


def used() -> int:
    """Bytes of all files that are kept."""
    total = 0
    for place, _, files in os.walk(root()):
        for name in files:
            with suppress(OSError):  # deleted meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total
