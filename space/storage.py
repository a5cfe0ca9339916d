"""Where the files of visitors lie: in a folder of this server alone, for an hour, and within a bound.

`claim` makes a folder that nobody else writes to, below `GRADIO_TEMP_DIR` or the system's folder for temporary files.
Gradio puts uploads and its cache into it, we put results and unpacked batches. A thread deletes what is older than
`LIFETIME`, also in folders that a killed server has left; a server that is stopped deletes its folder.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

LIFETIME = 3600  # seconds
SWEEPING = 60  # seconds between two looks
PREFIX = "fusion_hub_page_"
EXAMPLES_PREFIX = "fusion_hub_examples_"  # folders that stay as long as their server runs
DISK_VARIABLE, UPLOAD_VARIABLE = "FUSION_HUB_DISK_MIB", "FUSION_HUB_UPLOAD_MIB"
MARGIN = 256 << 20  # bytes of the disk that stay free

_claimed: Path | None = None
_lock = threading.Lock()
_promised = 0  # bytes that requests in progress may still write


def mebibytes(variable: str, default: int) -> int:
    """Bytes that a variable of the environment gives in MiB. Ends the program where it holds something else."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) == 0:
        sys.exit(f"error: {variable} must be a whole number of MiB above 0, got {text!r}")
    return int(text) << 20


MAX_UPLOAD = mebibytes(UPLOAD_VARIABLE, 256)  # bytes of one upload, all its files together
MAX_DISK = mebibytes(DISK_VARIABLE, 2048)  # bytes of all files that are kept


# --- the folder ------------------------------------------------------------------------------------------------------


def claim() -> dict[str, str]:
    """Make this server's folder, readable for nobody else; the variables that make Gradio use it.

    Gradio reads them while it is imported. Ends the program where no folder can be made.
    """
    global _claimed
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _claimed = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    except OSError as error:
        sys.exit(f"error: no folder for uploads can be made in {parent} ({error.strerror}): set GRADIO_TEMP_DIR")
    return {"GRADIO_TEMP_DIR": str(_claimed)}


def claimed() -> Path | None:
    """The folder of this server; None in programs that serve no page."""
    return _claimed


def root() -> Path:
    """Where Gradio keeps and serves files."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def give_up() -> None:
    """Delete this server's folder: the server ends."""
    if _claimed is not None:
        shutil.rmtree(_claimed, ignore_errors=True)


# --- an hour ---------------------------------------------------------------------------------------------------------


def start_sweeping() -> None:
    """Sweep now and then until the program ends, where there is a folder to sweep."""
    if _claimed is None:
        return
    sweep(_claimed)

    def run() -> None:
        while _claimed.is_dir():
            time.sleep(SWEEPING)
            sweep(_claimed)

    threading.Thread(target=run, name="sweeping", daemon=True).start()


def sweep(own: Path, lifetime: float = LIFETIME) -> None:
    """Delete what is older than `lifetime` seconds in this server's folder and in those of other servers beside it.

    A server that runs keeps its folder young, so an old one is of a server that was killed: it goes as a whole. Links
    are never followed, and folders of other users are left alone.
    """
    _touch(own)
    oldest = time.time() - lifetime
    for folder in own.parent.glob(f"{PREFIX}*"):
        try:
            found = folder.lstat()
        except OSError:  # another server was quicker
            continue
        if folder.is_symlink() or not folder.is_dir() or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            continue
        if found.st_mtime < oldest and folder != own:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            _delete_old(folder, oldest)


def _delete_old(folder: Path, oldest: float) -> None:
    for entry in folder.iterdir():
        if entry.name.startswith(EXAMPLES_PREFIX):
            continue
        if entry.is_dir() and not entry.is_symlink():
            for place, folders, files in os.walk(entry, topdown=False):  # does not follow links
                _delete(place, [*files, *folders], oldest)
        _delete(str(folder), [entry.name], oldest)


def _delete(place: str, names: list[str], oldest: float) -> None:
    for name in names:
        path = Path(place, name)
        try:
            found = path.lstat()
            if found.st_mtime >= oldest:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()  # fails where something younger is in it
            else:
                path.unlink()
        except OSError:
            continue


def _touch(folder: Path) -> None:
    try:
        os.utime(folder)
    except OSError:  # it was deleted: the server is ending
        return


# --- a bound ---------------------------------------------------------------------------------------------------------


class NoRoom(Exception):
    """The server keeps as many files as it may."""

    def __init__(self) -> None:
        super().__init__("This server holds as many files as it may for now: try again in some minutes.")


class Room:
    """Space on the disk for files that are about to come, kept until they are written.

    Raises:
        NoRoom: they could exceed `MAX_DISK`, or fill the disk.
    """

    def __init__(self, size: int) -> None:
        global _promised
        with _lock:
            if used() + _promised + size > MAX_DISK or _free() < _promised + size + MARGIN:
                raise NoRoom
            _promised += size
        self.left = size

    def written(self, size: int) -> None:
        """So many bytes are on the disk by now, where they are counted themselves."""
        global _promised
        with _lock:
            size = min(size, self.left)
            self.left -= size
            _promised -= size

    def __enter__(self) -> "Room":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.written(self.left)


def used() -> int:
    """Bytes of all files that are kept."""
    total = 0
    for place, _, files in os.walk(root()):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # deleted meanwhile
                continue
    return total


def _free() -> int:
    place = root()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
