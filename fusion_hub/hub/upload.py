"""Publish a folder on the Hub, in one commit and then a tag: `upload(Path("staged"), "me/street", message="Street")`.

The order makes it safe to stop at any point and to run again. The Hub stores large files by their hash first. One
commit follows, which the Hub refuses if somebody else has committed since. The Hub's copy is then compared with the
folder, and the tag comes last: whoever loads the tag gets the whole folder or nothing.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)
from huggingface_hub.utils.sha import git_hash

from fusion_hub.pipelines import checkpoints, run_note

RepoType = Literal["model", "dataset", "space"]
T = TypeVar("T")

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each new attempt."""

_TAG = re.compile(r"(?!main$)[A-Za-z0-9][\w.-]*")


class PublishError(Exception):
    """Why something is not published, and what to do about it."""


@dataclass(frozen=True)
class PlannedFile:
    """A file to upload: its path in the repository (with `/`), its size in bytes, its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Published:
    """A folder on the Hub.

    Attributes:
        commit: the commit that holds it.
        tag: the tag of this commit, if one was requested.
        url: address of the repository's page.
        new_tag: whether this run made the tag.
    """

    repo_id: str
    repo_type: str
    commit: str
    tag: str | None
    url: str
    new_tag: bool = False


def plan(folder: Path) -> list[PlannedFile]:
    """The files of a folder that would be uploaded, sorted by path.

    Raises:
        PublishError: the folder is empty, or holds a link, a hidden file or a pickle.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PublishError(f"{name} is a link: put the file itself into the folder")
        if any(part.startswith(".") for part in name.split("/")):
            raise PublishError(f"{name} is hidden: remove it, hidden files are not published")
        if path.suffix.lower() in PICKLES:
            raise PublishError(f"{name} looks like a pickle, which can run code when it is loaded: use safetensors")
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files.append(PlannedFile(name, path.stat().st_size, digest))
    if not files:
        raise PublishError(f"{folder} holds no files: give the folder to publish")
    return files


def hub_url(repo_id: str, repo_type: str = "model") -> str:
    """Address of a repository's page."""
    return f"{constants.ENDPOINT}/{constants.REPO_TYPES_URL_PREFIXES.get(repo_type, '')}{repo_id}"


def check_repo_id(repo_id: str) -> None:
    """Raise a `PublishError` unless the name is a valid `owner/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is not a valid repository name ({_one_line(error)})") from error
    if "/" not in repo_id:
        raise PublishError(f"{repo_id!r} lacks the owner: give owner/name, where the owner is you or an organization")


def find_checkpoint(checkpoint: str | os.PathLike[str]) -> tuple[Path, checkpoints.PretrainedInfo | None]:
    """Folder of a checkpoint; its entry in the table if it is a bundled one. `PublishError` if it is none."""
    name = os.fspath(checkpoint)
    if name in checkpoints.PRETRAINED:
        try:
            return checkpoints.resolve(name) or Path(name), checkpoints.PRETRAINED[name]
        except FileNotFoundError as error:
            raise PublishError(str(error)) from error
    folder = Path(name)
    if (folder / "model_index.json").is_file():
        return folder, None
    if note := run_note(folder):
        raise PublishError(note)
    raise PublishError(
        f"{name} is not a checkpoint, it has no model_index.json: give the pipeline folder of a finished run, or a "
        f"bundled name ({', '.join(checkpoints.PRETRAINED)})"
    )


def upload(
    folder: Path,
    repo_id: str,
    *,
    repo_type: RepoType = "model",
    private: bool = False,
    tag: str | None = None,
    message: str,
    token: str | None = None,
    space_sdk: str | None = None,
    progress: bool = False,
    verify: Callable[[Published], None] | None = None,
) -> Published:
    """Make a repository equal to a folder in one commit, and tag that commit.

    Files that the folder lacks are deleted. If the repository is equal already, nothing is committed.

    Args:
        folder: what to upload; see [`plan`].
        repo_id: `owner/name`; created if it does not exist.
        private: create a private repository.
        tag: name of this version.
        message: commit message.
        token: Hub token; by default that of `hf auth login` or `HF_TOKEN`.
        space_sdk: SDK of a new Space, `"gradio"`.
        progress: show progress bars.
        verify: a test of what is on the Hub. If it raises a `PublishError`, a new tag is deleted again.

    Raises:
        PublishError: the folder cannot be published, or the Hub refuses it or cannot be reached. No new tag exists
            then, and the same call resumes.
    """
    files = plan(folder)
    check_repo_id(repo_id)
    if tag is not None and not _TAG.fullmatch(tag):
        raise PublishError(f"{tag!r} is not a valid tag: use a name such as v1, of letters, digits, '.', '_' and '-'")
    if constants.is_offline_mode():
        raise PublishError("HF_HUB_OFFLINE is set, and publishing needs the Hub: unset it")
    if not (token := token or get_token()):
        raise PublishError(
            "there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN to a token with write access"
        )
    api = HfApi(token=token)
    where: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}

    def find_or_create() -> Any:
        try:
            return api.repo_info(**where)
        except RepositoryNotFoundError:  # or it is hidden from this token; creating it fails then
            api.create_repo(**where, private=private, space_sdk=space_sdk, exist_ok=True)
            return api.repo_info(**where)

    def tags() -> dict[str, str]:
        return {ref.name: ref.target_commit for ref in api.list_repo_refs(**where).tags}

    def commit_folder() -> str:
        # A repeated attempt whose first answer was lost finds nothing to commit and returns the head.
        settings: dict[str, Any] = {"commit_message": message, "parent_commit": head.sha, "delete_patterns": "*"}
        return api.upload_folder(**where, folder_path=folder, **settings).oid

    def make_tag() -> None:
        if tags().get(tag or "") != commit:  # otherwise an earlier attempt made it and its answer was lost
            api.create_tag(**where, tag=tag or "", revision=commit)

    with progress_bars(progress):
        head = _ask(repo_id, find_or_create)
        if private and not head.private:
            raise PublishError(
                f"{repo_id} exists and is public: make it private in its settings first, or choose another name"
            )
        earlier = _ask(repo_id, tags).get(tag or "")
        commit = earlier or _ask(repo_id, commit_folder)
        differences = _differences(api, where, folder, files, commit)
        if differences and earlier:
            raise PublishError(
                f"the tag {tag} of {repo_id} marks another version, commit {commit[:8]}: choose another tag"
            )
        if differences:
            raise PublishError(
                f"the Hub did not store {repo_id} as it was sent ({', '.join(differences)} in commit {commit[:8]}): it "
                "was not tagged, run the same command again"
            )
        new_tag = tag is not None and earlier is None
        if new_tag:
            _ask(repo_id, make_tag)
        published = Published(repo_id, repo_type, commit, tag, hub_url(repo_id, repo_type), new_tag)
        try:
            if verify is not None:
                verify(published)
        except PublishError as error:
            raise PublishError(f"{error}; {_withdraw_tag(api, where, published)}") from error
    return published


def _withdraw_tag(api: HfApi, where: dict[str, Any], published: Published) -> str:
    """Delete the tag of a faulty version if this run made it. Returns what happened, for an error message."""
    tag = published.tag
    if tag is None:
        return "it has no tag; run the same command again"
    if not published.new_tag:
        return f"its tag {tag} existed before and stays"
    try:
        _ask(published.repo_id, lambda: api.delete_tag(**where, tag=tag))
    except PublishError as error:
        return f"its tag {tag} could not be removed ({error}), remove it by hand"
    return f"its tag {tag} was removed again; run the same command again"


def _differences(
    api: HfApi, where: dict[str, Any], folder: Path, files: Sequence[PlannedFile], revision: str
) -> list[str]:
    """Paths that a revision lacks, holds with another content, or should not hold."""
    tree = _ask(where["repo_id"], lambda: list(api.list_repo_tree(**where, recursive=True, revision=revision)))
    stored = {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path != ".gitattributes"}
    planned = {file.path: file for file in files}

    def is_equal(path: str) -> bool:
        if path not in stored or path not in planned:
            return False
        if (lfs := stored[path].lfs) is not None:
            return lfs.sha256 == planned[path].sha256
        return stored[path].blob_id == git_hash((folder / path).read_bytes())

    return sorted(path for path in stored.keys() | planned.keys() if not is_equal(path))


# --- errors ----------------------------------------------------------------------------------------------------------


def _ask(repo_id: str, action: Callable[[], T]) -> T:
    """Result of a request; tries again while the Hub is busy, and raises a `PublishError` for any failure."""
    for wait in (*WAITS, None):
        try:
            return action()
        except (HTTPError, OSError, ValueError, RuntimeError) as error:
            # huggingface_hub has repeated the upload of a large file already before it raises a RuntimeError.
            if wait is None or isinstance(error, RuntimeError) or not _is_transient(error):
                raise PublishError(explain(error, repo_id)) from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_transient(error: BaseException) -> bool:
    status = _status(error)
    return isinstance(error, HTTPError | RuntimeError) if status is None else status in (408, 429) or status >= 500


def explain(error: BaseException, repo_id: str) -> str:
    """What a failed request means, and what to do."""
    # Uploads run in parallel, and one that cannot connect closes the client of all. What the others raise then means
    # nothing, so the wrapper is kept, which names the file.
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPError | OSError | ValueError):
        error = error.__cause__
    status = _status(error)
    details = getattr(error, "server_message", None) or _one_line(error)
    if status == 401:
        return (
            f"the Hub does not accept the token for {repo_id} (401): log in with `hf auth login`, or set HF_TOKEN to a "
            "valid token with write access"
        )
    if status == 403:
        return f"the token may not write to {repo_id} (403: {details}): use one with write access, or another owner"
    if status == 404:
        return f"the Hub does not find {repo_id} or a part of it (404: {details}): check the name and the token's scope"
    if status in (409, 412):
        return (
            f"somebody else changed {repo_id} in the meantime ({status}), so nothing was published: look at what is "
            "there, then run the same command again"
        )
    if _is_transient(error) and status is None:
        return f"the connection to the Hub failed ({details}): run the same command again to resume"
    if _is_transient(error):
        return f"the Hub is busy or broken (status {status}): run the same command again later to resume"
    return f"the Hub refuses {repo_id} ({details})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Show or hide the progress bars of huggingface_hub, and hide those of diffusers."""
    from diffusers.utils import logging

    hides_hub, hides_diffusers = not shown and not are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    if hides_hub:
        disable_progress_bars()
    if hides_diffusers:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hides_hub:
            enable_progress_bars()
        if hides_diffusers:
            logging.enable_progress_bar()
