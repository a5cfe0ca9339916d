"""The demo page as a Space: `space/*` at its root, the package beside it, one commit."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fusion_hub
from fusion_hub.hub.upload import Published, PublishError, check_repo_id, upload
from fusion_hub.pretrained import list_models

ROOT = Path(fusion_hub.__file__).resolve().parents[1]
"""The checkout, if the package runs from one."""

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*")


@contextmanager
def staged_space(root: Path = ROOT) -> Iterator[Path]:
    """A temporary folder that holds the Space as it will be on the Hub.

    Args:
        root: the checkout, with `space/` and `fusion_hub/`.

    Raises:
        PublishError: this is no checkout, a bundled checkpoint is missing, or the Space's README or requirements are
            not valid.
    """
    space, package = root / "space", root / "fusion_hub"
    if not (space / "app.py").is_file():
        raise PublishError(
            f"the Space's files are not part of the installed package: {space} holds no app.py. Clone the repository, "
            "`pip install --editable .` there, and run this command again"
        )
    folders = [package / "pretrained" / info.name for info in list_models()]
    if missing := [folder.name for folder in folders if not list(folder.glob("model/*.safetensors"))]:
        raise PublishError(f"the weights of {', '.join(missing)} are missing from {package}: restore them with git")
    with TemporaryDirectory(prefix="fusion_hub_space_") as temporary:
        target = Path(temporary)
        try:
            shutil.copytree(space, target, ignore=_LEFT_OUT, dirs_exist_ok=True)
            shutil.copytree(package, target / package.name, ignore=_LEFT_OUT)
            shutil.copyfile(root / "LICENSE", target / "LICENSE")
            problems = _problems(target)
        except OSError as error:
            raise PublishError(f"the Space cannot be put together: {error}. Restore the file with git") from error
        if problems:
            raise PublishError("the Space cannot be published: " + "; ".join(problems))
        yield target


def _problems(folder: Path) -> list[str]:
    from fusion_hub.hub.cards import validate_card

    problems = validate_card((folder / "README.md").read_text(encoding="utf-8"), folder, kind="space")
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for name in ("gradio", "torchvision"):
        if any(line.lower().startswith(name) for line in requirements):
            why = "sdk_version in README.md gives it" if name == "gradio" else "where it is broken nothing else loads"
            problems.append(f"requirements.txt names {name}: remove it, {why}")
    return problems


def check_hardware(name: str) -> None:
    """Refuse hardware that does not exist.

    Raises:
        PublishError: with the names that can be used.
    """
    from huggingface_hub import SpaceHardware

    known = [str(kind.value) for kind in SpaceHardware]
    if name not in known:
        raise PublishError(f"hardware {name!r} is not known; choose one of {', '.join(known)}")


def publish_space(
    repo_id: str,
    *,
    private: bool = False,
    hardware: str | None = None,
    token: str | None = None,
    root: Path = ROOT,
) -> Published:
    """Publish the demo page in one commit.

    Args:
        repo_id: `owner/name`; made if it does not exist.
        private: for a new Space: only for its owner.
        hardware: what to run it on, such as `cpu-basic`; whatever costs money is billed to the owner. By default it
            stays as it is, `cpu-basic` for a new Space.
        token: of the Hub; by default that of the login.
        root: the checkout.

    Raises:
        PublishError: a file is missing or not valid, or the Hub refuses; a sentence for each.
    """
    check_repo_id(repo_id)
    if hardware is not None:
        check_hardware(hardware)
    with staged_space(root) as staged:
        return upload_space(staged, repo_id, private=private, hardware=hardware, token=token)


def upload_space(
    staged: Path,
    repo_id: str,
    *,
    private: bool = False,
    hardware: str | None = None,
    token: str | None = None,
    progress: bool = False,
) -> Published:
    """Upload what `staged_space` made, then ask for the hardware."""
    published = upload(
        staged,
        repo_id,
        repo_type="space",
        private=private,
        message=f"Fusion Hub {fusion_hub.__version__}",
        token=token,
        space_sdk="gradio",
        progress=progress,
    )
    if hardware is not None:
        _request_hardware(repo_id, hardware, token)
    return published


def _request_hardware(repo_id: str, hardware: str, token: str | None) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        HfApi(token=token).request_space_hardware(repo_id, hardware)  # type: ignore[arg-type]
    except (HTTPError, OSError) as error:
        said = getattr(error, "server_message", None) or str(error).split("\n")[0]
        raise PublishError(
            f"{repo_id} is published, but the Hub does not give it the hardware {hardware} ({said}): choose it in the "
            "Space's settings"
        ) from error
