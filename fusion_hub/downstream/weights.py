"""Where weights come from: a path, or a repository on the Hub. And the packages that read them."""

import importlib
import os
import re
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

INSTALL = 'pip install "fusion-hub[downstream]"'
_HUB_ADDRESS = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(?:/(?P<file>[\w./ -]+))?")


def require(package: str, purpose: str) -> ModuleType:
    """Import a package that is not installed with the base of fusion-hub.

    Raises:
        ImportError: one sentence with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}, which cannot be imported ({error}): {INSTALL}") from error


def find_weights(name: str | os.PathLike[str], suffix: str, filename: str | None = None, **hub: Any) -> Path:
    """The one weights file that a name stands for.

    Args:
        name: a file; a folder that holds it; a Hub id `"owner/name"`, or `"owner/name/path/in/it.onnx"`.
        suffix: ending of the file, `".onnx"`.
        filename: its path in the folder or repository; needed where there are several.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`, for the Hub.

    Raises:
        ValueError: for a name that is none of these, or that stands for several files.
        OSError: if there is no such file, or the repository cannot be reached or read.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() != suffix:
            raise ValueError(f"{str(path)!r} is no {suffix} file: give one")
        return path
    if path.is_dir():
        return path / _choose(path, suffix, filename)
    text = str(name)
    address = _HUB_ADDRESS.fullmatch(text)
    if address is None or (address["file"] is None and text.endswith(suffix)):
        raise FileNotFoundError(
            f"there is no file {text!r}, and it is no Hub id: give the path of a {suffix} file, or 'owner/name' of a "
            "repository that holds one"
        )
    return _download(address["repo"], suffix, filename or address["file"], hub)


def _choose(folder: Path, suffix: str, filename: str | None) -> str:
    """Path in the folder of the file asked for, or of the only one."""
    if filename is not None:
        if ".." in PurePosixPath(filename).parts:
            raise ValueError(f"filename={filename!r} leads out of the folder: give a path inside it")
        if not (folder / filename).is_file():
            raise FileNotFoundError(f"there is no {filename!r} in {str(folder)!r}")
        return filename
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}"))
    return _only(files, suffix, repr(str(folder)))


def _only(files: list[str], suffix: str, place: str) -> str:
    if not files:
        raise FileNotFoundError(f"there is no {suffix} file in {place}")
    if len(files) > 1:
        shown = ", ".join(files[:8]) + (", ..." if len(files) > 8 else "")
        raise ValueError(f"there are {len(files)} {suffix} files in {place}: choose one with filename= ({shown})")
    return files[0]


def _download(repo_id: str, suffix: str, filename: str | None, hub: dict[str, Any]) -> Path:
    """One file of a repository, in the cache of huggingface_hub; damaged ones are refused."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HTTPError

    from fusion_hub.pipelines.file_checks import check_snapshot

    hub = {key: value for key, value in hub.items() if value is not None}
    offline = hub.get("local_files_only", False) or constants.HF_HUB_OFFLINE
    try:
        if filename is None and not offline:
            listing = HfApi().list_repo_files(repo_id, revision=hub.get("revision"), token=hub.get("token"))
            names = sorted(name for name in listing if PurePosixPath(name).suffix == suffix)
            filename = _only(names, suffix, f"the repository {repo_id!r}")
        folder = Path(snapshot_download(repo_id, allow_patterns=[filename or f"*{suffix}"], **hub))
    except FileNotFoundError as error:
        if type(error) is FileNotFoundError:  # ours; the Hub's errors derive from it
            raise
        raise _unreachable(repo_id, error) from error
    except (OSError, HTTPError) as error:
        raise _unreachable(repo_id, error) from error
    check_snapshot(folder, repo_id)
    return folder / _choose(folder, suffix, filename)


def _unreachable(repo_id: str, error: BaseException) -> OSError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return OSError(
        f"there is no file or folder {repo_id!r} here, and it cannot be loaded from the Hub ({reason}): check the "
        "path, or the id, the revision, the token and the connection"
    )
