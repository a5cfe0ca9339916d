"""A snapshot in huggingface_hub's cache, compared with the hashes by which the Hub knows its files."""

import hashlib
import os
import re
from pathlib import Path

_BLOCK = 2**20  # bytes


def check_snapshot(snapshot: Path, name: str) -> None:
    """Compare cached files with the Hub's hashes; over HTTP huggingface_hub compares sizes only.

    In the cache a snapshot holds links, and what they point to is named by that hash: SHA-256 for large files, git's
    for the others. Where links cannot be made there is nothing to compare with.

    Args:
        snapshot: folder of one commit.
        name: of the repository, for the message.

    Raises:
        OSError: a file is damaged; it is removed from the cache, so that it can be downloaded again.
    """
    for link in sorted(path for path in snapshot.rglob("*") if path.is_symlink() and path.is_file()):
        blob = link.parent / os.readlink(link)
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) and _hash(blob) != blob.name:
            link.unlink()
            blob.unlink()
            raise OSError(
                f"{link.relative_to(snapshot).as_posix()} of {name!r} is damaged: its hash is not the one by which the "
                "Hub knows it. It was removed from the cache: load again"
            )


def _hash(blob: Path) -> str:
    """Of the kind that the blob's name is."""
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    with blob.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
