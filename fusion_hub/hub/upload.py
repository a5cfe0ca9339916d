"""One folder becomes one commit on the Hub, then a tag.

    published = upload(Path("staged"), "me/street", message="Street v1", tag="v1")

The order makes it safe to stop anywhere and to run again: large files first, which the Hub keeps by their hash; then
one commit, refused if somebody else has committed since; then a comparison of what the Hub holds with the folder; the
tag comes last. Whoever loads the tag gets the whole folder or nothing.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

RepoType = Literal["model", "dataset", "space"]
T = TypeVar("T")

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
MADE_BY_THE_HUB = (".gitattributes",)
WAITS = (1.0, 2.0, 4.0)
"""Seconds before the second, third and fourth try; uploads of large files are retried by huggingface_hub itself."""

_TAG = re.compile(r"[A-Za-z0-9][\w.-]*")


class PublishError(Exception):
    """Why something is not published and what to do, in a sentence."""


@dataclass(frozen=True)
class PlannedFile:
    """A file to upload: its path in the repository (with `/`), its size in bytes, its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Published:
    """Where a folder is on the Hub.

    Attributes:
        commit: that holds it.
        tag: on this commit, if one was asked for.
        url: of the repository's page.
        new_tag: whether the tag was made now, not by an earlier run.
    """

    repo_id: str
    repo_type: str
    commit: str
    tag: str | None
    url: str
    new_tag: bool = False


def plan(folder: Path) -> list[PlannedFile]:
    """The files of a folder as they would be uploaded, by path.

    Raises:
        PublishError: there is none, or one that is not to be published: a link, a hidden file, a pickle.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PublishError(f"{name} is a link: put the file itself into the folder")
        if any(part.startswith(".") for part in name.split("/")):
            raise PublishError(f"{name} is hidden: remove it, hidden files are not published")
        if path.suffix.lower() in PICKLES:
            raise PublishError(f"{name} looks like a pickle, which runs code when it is read: save it as safetensors")
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files.append(PlannedFile(name, path.stat().st_size, digest))
    if not files:
        raise PublishError(f"{folder} holds no files: give the folder to publish")
    return files


def hub_url(repo_id: str, repo_type: str = "model") -> str:
    """Address of a repository's page."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{constants.REPO_TYPES_URL_PREFIXES.get(repo_type, '')}{repo_id}"


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
    exact: bool = True,
    progress: bool = False,
) -> Published:
    """Make a repository hold a folder, in one commit, and tag it.

    Nothing is committed if it holds the folder already.

    Args:
        folder: what to upload; see [`plan`].
        repo_id: `owner/name`; made if it does not exist.
        private: for a new repository: only for its owner.
        tag: name of this version.
        message: of the commit.
        token: of the Hub; by default that of the login (`hf auth login`) or of `HF_TOKEN`.
        space_sdk: of a new Space, `"gradio"`.
        exact: delete files of the repository that the folder lacks.
        progress: show bars.

    Raises:
        PublishError: the folder cannot be published, or the Hub refuses or cannot be reached. Then there is no new
            tag, and the same call goes on.
    """
    files = plan(folder)
    repository = HubRepository(repo_id, repo_type, token)
    _check_tag(tag)
    with progress_bars(progress):
        repository.ensure(private, space_sdk)
        earlier = repository.tags().get(tag) if tag is not None else None
        if earlier is not None:
            commit = earlier
            if repository.compare(folder, files, earlier, exact) != ([], []):
                raise PublishError(
                    f"the tag {tag} of {repo_id} is another version, of commit {earlier[:8]}: choose another tag"
                )
        else:
            commit = _commit(repository, folder, files, message, exact)
            if tag is not None:
                repository.make_tag(tag, commit)
    return Published(repo_id, repo_type, commit, tag, repository.url, tag is not None and earlier is None)


def remove_tag(published: Published, token: str | None = None) -> None:
    """Take back the tag of something published; the commit stays.

    Raises:
        PublishError: the Hub refuses or cannot be reached.
    """
    if published.tag is not None:
        HubRepository(published.repo_id, published.repo_type, token).delete_tag(published.tag)


def take_back(published: Published, token: str | None) -> str:
    """Remove the tag of a version that is not as it should be, if this run made it; what became of it, in words."""
    if published.tag is None:
        return "it has no tag; run the same command again"
    if not published.new_tag:
        return f"its tag {published.tag} was there before and stays"
    try:
        remove_tag(published, token)
    except PublishError as error:
        return f"its tag {published.tag} could not be removed ({error}), remove it by hand"
    return f"its tag {published.tag} was removed again; run the same command again"


def _commit(repository: "HubRepository", folder: Path, files: Sequence[PlannedFile], message: str, exact: bool) -> str:
    """The commit that holds the folder: the head if it does so already, else a new one."""
    parent = repository.head()
    difference = repository.compare(folder, files, parent, exact)
    if difference == ([], []):
        return parent
    commit = repository.commit(folder, files, difference, parent, message, exact)
    changed, superfluous = repository.compare(folder, files, commit, exact)
    if changed or superfluous:
        raise PublishError(
            f"the Hub did not store {repository.repo_id} as it was sent ({', '.join(changed + superfluous)} in commit "
            f"{commit[:8]}): it was not tagged, run the same command again"
        )
    return commit


class Difference(NamedTuple):
    """Paths of files that a revision lacks or has otherwise, and of those that it should not have."""

    changed: list[str]
    superfluous: list[str]


class HubRepository:
    """A repository on the Hub. What its methods raise is a `PublishError`; they try again what may pass."""

    def __init__(self, repo_id: str, repo_type: str, token: str | None) -> None:
        from huggingface_hub import HfApi, constants, get_token

        check_repo_id(repo_id)
        if constants.is_offline_mode():
            raise PublishError("HF_HUB_OFFLINE is set, and publishing needs the Hub: unset it")
        token = token or get_token()
        if token is None:
            raise PublishError(
                "there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN to a token that may write"
            )
        self.repo_id, self.repo_type = repo_id, repo_type
        self.api = HfApi(token=token)
        self.url = hub_url(repo_id, repo_type)
        self._where: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}

    def ensure(self, private: bool, space_sdk: str | None) -> None:
        """Make the repository if it is not there."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def is_private() -> bool | None:
            try:
                return bool(self.api.repo_info(**self._where).private)
            except RepositoryNotFoundError:
                return None  # or hidden from this token: making it tells

        found = self._ask(is_private)
        if found is None:
            self._ask(lambda: self.api.create_repo(**self._where, private=private, space_sdk=space_sdk, exist_ok=True))
        elif private and not found:
            raise PublishError(
                f"{self.repo_id} exists and is public: make it private in its settings first, or choose another name"
            )

    def head(self) -> str:
        """Last commit of `main`."""
        return self._ask(lambda: str(self.api.repo_info(**self._where).sha))

    def tags(self) -> dict[str, str]:
        """Commits by tag."""
        refs = self._ask(lambda: self.api.list_repo_refs(**self._where))
        return {tag.name: tag.target_commit for tag in refs.tags}

    def compare(self, folder: Path, files: Sequence[PlannedFile], revision: str, exact: bool) -> Difference:
        """What a revision must change to hold the folder."""
        from huggingface_hub.hf_api import RepoFile

        tree = self._ask(lambda: list(self.api.list_repo_tree(**self._where, recursive=True, revision=revision)))
        stored = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        changed = [file.path for file in files if not _holds(stored.get(file.path), file, folder)]
        superfluous = sorted(stored.keys() - {file.path for file in files} - set(MADE_BY_THE_HUB)) if exact else []
        return Difference(changed, superfluous)

    def commit(
        self,
        folder: Path,
        files: Sequence[PlannedFile],
        difference: Difference,
        parent: str,
        message: str,
        exact: bool,
    ) -> str:
        """Upload the large files, then commit everything on top of `parent`; the new commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [CommitOperationAdd(path, str(folder / path)) for path in difference.changed]
        deletions = [CommitOperationDelete(path) for path in difference.superfluous]

        def send() -> str:
            now = str(self.api.repo_info(**self._where).sha)
            if now != parent and self.compare(folder, files, now, exact) == ([], []):
                return now  # an earlier try made it, and its answer was lost
            commit = self.api.create_commit(
                **self._where, operations=[*additions, *deletions], commit_message=message, parent_commit=parent
            )
            return commit.oid

        self._ask(lambda: self.api.preupload_lfs_files(self.repo_id, additions, repo_type=self.repo_type), waits=())
        return self._ask(send)

    def make_tag(self, tag: str, commit: str) -> None:
        """Name a commit."""

        def send() -> None:
            if self.tags().get(tag) != commit:  # else an earlier try made it, and its answer was lost
                self.api.create_tag(**self._where, tag=tag, revision=commit)

        self._ask(send)

    def delete_tag(self, tag: str) -> None:
        """Take the name away."""
        self._ask(lambda: self.api.delete_tag(**self._where, tag=tag))

    def _ask(self, action: Callable[[], T], waits: Sequence[float] = WAITS) -> T:
        from huggingface_hub.errors import HTTPError

        left = iter(waits)
        while True:
            try:
                return action()
            except (HTTPError, OSError, ValueError, RuntimeError) as error:
                cause, wait = _cause(error), next(left, None)
                if wait is None or not _may_pass(cause):
                    raise PublishError(_sentence(cause, self.repo_id)) from error
            time.sleep(wait)


def _holds(stored: "RepoFile | None", file: PlannedFile, folder: Path) -> bool:
    """Whether a file on the Hub is the one here: by SHA-256 if it is large, else by git's id."""
    from huggingface_hub.utils.sha import git_hash

    if stored is None or stored.size != file.size:
        return False
    if stored.lfs is not None:
        return stored.lfs.sha256 == file.sha256
    return stored.blob_id == git_hash((folder / file.path).read_bytes())


def check_repo_id(repo_id: str) -> None:
    """Raise a `PublishError` if a repository cannot have this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} cannot be the name of a repository ({_first_line(error)})") from error
    if "/" not in repo_id:
        raise PublishError(f"{repo_id!r} lacks the owner: give owner/name, the owner you or an organisation")


def _check_tag(tag: str | None) -> None:
    if tag is not None and (not _TAG.fullmatch(tag) or tag == "main"):
        raise PublishError(f"{tag!r} cannot be a tag: give a name such as v1, of letters, digits, '.', '_' and '-'")


# --- errors ----------------------------------------------------------------------------------------------------------


def _cause(error: BaseException) -> BaseException:
    """What went wrong with a file's upload, which huggingface_hub wraps in a RuntimeError.

    Uploads run side by side, and one that cannot connect closes the client of all: what the others raise then says
    nothing, so of those the wrapper is kept, which names the file.
    """
    from huggingface_hub.errors import HTTPError

    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, HTTPError | OSError | ValueError) else error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_pass(error: BaseException) -> bool:
    """Whether it is worth trying again: a busy Hub, or a connection that ended."""
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    if status is None:
        return isinstance(error, HTTPError | RuntimeError)
    return status in (408, 429) or status >= 500


def _sentence(error: BaseException, repo_id: str) -> str:
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    said = getattr(error, "server_message", None) or _first_line(error)
    if status == 401:
        return (
            f"the Hub does not accept the token for {repo_id} (401): log in with `hf auth login`, or set HF_TOKEN to a "
            "valid token that may write"
        )
    if status == 403:
        return f"the token may not write to {repo_id} (403: {said}): use one with write access, or another owner"
    if status == 404:
        return f"the Hub does not find {repo_id} or a part of it (404: {said}): check the name and the token's rights"
    if status in (409, 412):
        return (
            f"somebody else has changed {repo_id} meanwhile ({status}), so nothing was published: look at what is "
            "there, then run the same command again"
        )
    if status is not None and _may_pass(error):
        return (
            f"the Hub is busy or broken (it answers {status}): run the same command again later, it goes on from here"
        )
    if isinstance(error, HTTPError | RuntimeError) and status is None:
        return f"the connection to the Hub failed ({said}): run the same command again, it goes on from here"
    return f"the Hub refuses {repo_id} ({said})"


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """huggingface_hub's bars, shown or not."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
