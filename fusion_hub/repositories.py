"""Repositories of the Hub: which names are their ids, whether the Hub answers, and downloads that are checked.

Everything that takes "a path or a Hub id" asks here, so that a mistyped path is never looked up on the Hub.
"""

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONNECT_TIME = 2  # seconds, after which the Hub counts as unreachable
NOT_REACHED = "the Hub cannot be reached, and the cache on this machine does not hold it"
_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?")
_FILE = re.compile(
    r".*\.(png|jpe?g|jp2|j2k|webp|tiff?|bmp|gif|avif|p[bgnp]m|npy|mat|dcm|zip|tar|gz|7z|csv|tsv|jsonl?|ya?ml|txt|parquet"
    r"|safetensors|onnx|pt|pth|ckpt|bin|h5|pkl)",
    re.IGNORECASE,
)


class Unavailable(OSError):
    """Why a repository cannot be loaded, for a sentence that says what to do."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name` of the Hub; a file name does not.

    Examples:
        >>> [is_hub_id(name) for name in ("me/street-v1.0", "vis/street.png", "./me/street", "street")]
        [True, False, False, False]
    """
    valid = _ID.fullmatch(name) is not None and "--" not in name and ".." not in name and not name.endswith(".git")
    return valid and len(name) <= 96 and not _FILE.fullmatch(name)


def check_hub_id(name: str, what: str, wanted: str, kind: type[Exception] = FileNotFoundError) -> None:
    """Refuse a name that is no Hub id, or that begins with something that exists here: it is a mistyped path.

    Args:
        name: of what does not exist here.
        what: it should be, for the message: "pipeline".
        wanted: what to give instead.
        kind: of the error.
    """
    owner = name.split("/")[0]
    if not is_hub_id(name):
        raise kind(f"no {what} named {name!r}: give {wanted}")
    if os.path.lexists(owner):
        raise kind(f"no {what} named {name!r}, and the Hub is not asked because {owner!r} exists here: give {wanted}")


def hub_answers() -> bool:
    """Whether the Hub can be reached, decided within about two seconds: its client would try for half a minute."""
    from huggingface_hub import constants, get_session

    answers: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=CONNECT_TIME)
            answers.append(True)
        except Exception:  # any kind, from no route to no certificate
            answers.append(False)

    if constants.HF_HUB_OFFLINE:
        return False
    thread = threading.Thread(target=ask, daemon=True)  # no timeout of a connection covers the lookup of its name
    thread.start()
    thread.join(CONNECT_TIME + 0.5)
    return bool(answers and answers[0])


def download(
    repo_id: str, patterns: Sequence[str], ignored: Sequence[str] | None = None, *, online: bool = True, **hub: Any
) -> Path:
    """The files of a repository that match one of the patterns, in the cache of huggingface_hub.

    Args:
        repo_id: `"owner/name"` of a model.
        patterns, ignored: of the paths in it.
        online: False takes what the cache has.
        hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, as in huggingface_hub.

    Raises:
        Unavailable: it cannot be reached or read.
        OSError: a file arrived damaged.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    hub = {key: value for key, value in hub.items() if value is not None}
    online = online and not hub.get("local_files_only", False) and hub_answers()
    try:
        folder = Path(
            snapshot_download(
                repo_id,
                allow_patterns=list(patterns),
                ignore_patterns=None if ignored is None else list(ignored),
                **{**hub, "local_files_only": not online},
            )
        )
    except (OSError, ValueError, HTTPError) as error:
        raise Unavailable(first_line(error) if online else NOT_REACHED) from error
    check_snapshot(folder, repo_id)
    return folder


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or else its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_snapshot(snapshot: Path, name: str) -> None:
    """Compare cached files with the Hub's hashes; over HTTP huggingface_hub compares sizes only.

    In the cache a snapshot holds links, and each file they point to is named by its hash: SHA-256 for large files,
    git's for the others. Where links cannot be made there is nothing to compare with.

    Args:
        snapshot: folder of one commit.
        name: of the repository, for the message.

    Raises:
        OSError: a file is damaged; it is removed from the cache, so that it can be downloaded again.
    """
    for link in sorted(path for path in snapshot.rglob("*") if path.is_symlink() and path.is_file()):
        blob = link.parent / os.readlink(link)
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue
        start = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
        with blob.open("rb") as stream:
            found = hashlib.file_digest(stream, start.copy).hexdigest()
        if found != blob.name:
            link.unlink()
            blob.unlink()
            raise OSError(
                f"{link.relative_to(snapshot).as_posix()} of {name!r} is damaged: its hash differs from the Hub's. "
                "It was removed from the cache: load again"
            )
