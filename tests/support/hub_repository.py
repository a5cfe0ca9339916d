"""What the local Hub of the tests keeps: contents, commits, branches and tags of repositories."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".png", ".jpg", ".zip")
LFS_SIZE = 10 * 2**20
INITIAL_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class HubError(Exception):
    """Becomes an HTTP error; the client chooses its exception by `code`."""

    def __init__(self, status: int, message: str, code: str = "", **extra: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.extra = status, code, extra


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file as git sees it: its content, or with LFS a pointer to it."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        header = "version https://git-lfs.github.com/spec/v1"
        return f"{header}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @cached_property
    def oid(self) -> str:
        return git_id(self.pointer if self.lfs else self.content)

    def describe(self, path: str) -> dict[str, Any]:
        """An entry of a tree."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    blobs: Mapping[str, Blob]


@dataclass
class Repository:
    """History of `main`, oldest first, and tags. `Repository({"a.txt": b"..."})` begins with these files."""

    initial: Mapping[str, bytes] = field(default_factory=dict)
    private: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.commits:
            self.put({**INITIAL_FILES, **self.initial}, "initial commit")

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """Contents at the head of `main`."""
        return {path: blob.content for path, blob in self.head.blobs.items()}

    def put(self, files: Mapping[str, bytes | None], title: str = "changed by the test") -> None:
        """Commit these contents; None deletes."""
        blobs = dict(self.head.blobs) if self.commits else {}
        for path, content in files.items():
            if content is None:
                blobs.pop(path)
            else:
                blobs[path] = Blob(content, is_lfs(path, len(content)))
        self.add(title, blobs)

    def add(self, title: str, blobs: Mapping[str, Blob]) -> Commit:
        content = "".join(f"{path}:{blob.oid}\n" for path, blob in sorted(blobs.items()))
        parent = self.head.oid if self.commits else ""
        oid = hashlib.sha1(f"{parent}\n{len(self.commits)}\n{title}\n{content}".encode()).hexdigest()
        self.commits.append(Commit(oid, title, dict(sorted(blobs.items()))))
        return self.head

    def at(self, revision: str | None) -> Commit:
        oid = self.tags.get(revision or "", revision)
        if revision in (None, "main", "refs/heads/main"):
            return self.head
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def is_lfs(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)


def list_folder(blobs: Mapping[str, Blob], folder: str) -> list[dict[str, Any]]:
    """Files and folders below a folder, at all levels."""
    inside = {path: blob for path, blob in blobs.items() if not folder or path.startswith(f"{folder}/")}
    parents = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", folder}
    parents = {parent for parent in parents if not folder or parent.startswith(f"{folder}/")}
    folders = [{"type": "directory", "path": path, "size": 0, "oid": git_id(path.encode())} for path in parents]
    return sorted([*folders, *(blob.describe(path) for path, blob in inside.items())], key=lambda entry: entry["path"])
