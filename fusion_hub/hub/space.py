"""Publish the demo page as a Space in one commit: `space/*` at its root, the package beside it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, SpaceHardware
from huggingface_hub.errors import HTTPError

import fusion_hub
from fusion_hub.hub.cards import validate_card
from fusion_hub.hub.upload import Published, PublishError, check_repo_id, upload
from fusion_hub.pipelines.checkpoints import list_models

ROOT = Path(fusion_hub.__file__).resolve().parents[1]
"""The checkout, if the package runs from one."""

_IGNORED = shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*")
_FORBIDDEN = {
    "gradio": "sdk_version in README.md installs it",
    "torchvision": "a broken one keeps the page from loading",
}


@contextmanager
def staged_space(root: Path = ROOT) -> Iterator[Path]:
    """A temporary folder that holds the Space as it will be on the Hub.

    Args:
        root: the checkout, with `space/` and `fusion_hub/`.

    Raises:
        PublishError: this is not a checkout, the weights of a bundled checkpoint are missing, or the Space's README or
            requirements are not valid.
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
            shutil.copytree(space, target, ignore=_IGNORED, dirs_exist_ok=True)
            shutil.copytree(package, target / package.name, ignore=_IGNORED)
            shutil.copyfile(root / "LICENSE", target / "LICENSE")
            problems = validate_card((target / "README.md").read_text(encoding="utf-8"), target, kind="space")
            requirements = (target / "requirements.txt").read_text(encoding="utf-8").lower().splitlines()
        except OSError as error:
            raise PublishError(f"the Space cannot be assembled: {error}. Restore the file with git") from error
        for name, why in _FORBIDDEN.items():
            if any(line.startswith(name) for line in requirements):
                problems.append(f"requirements.txt names {name}: remove it, {why}")
        if problems:
            raise PublishError("the Space cannot be published: " + "; ".join(problems))
        yield target


def check_hardware(name: str) -> None:
    """Raise a `PublishError` that lists the valid names, unless the Hub offers this hardware."""
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
        repo_id: `owner/name`; created if it does not exist.
        private: create a private Space.
        hardware: such as `cpu-basic`; the owner pays for what is not free. By default it stays as it is, `cpu-basic`
            for a new Space.
        token: Hub token; by default that of the login.
        root: the checkout.

    Raises:
        PublishError: a file is missing or not valid, or the Hub refuses.
    """
    check_repo_id(repo_id)
    if hardware is not None:
        check_hardware(hardware)
    with staged_space(root) as staged:
        return upload_space(staged, repo_id, private=private, hardware=hardware, token=token)


def upload_space(
    staged: Path, repo_id: str, *, hardware: str | None = None, token: str | None = None, **options: Any
) -> Published:
    """Upload what `staged_space` made, then request the hardware; `options` as in `upload`."""
    options |= {"message": f"Fusion Hub {fusion_hub.__version__}", "space_sdk": "gradio", "token": token}
    published = upload(staged, repo_id, repo_type="space", **options)
    if hardware is not None:
        try:
            HfApi(token=token).request_space_hardware(repo_id, SpaceHardware(hardware))
        except (HTTPError, OSError) as error:
            details = getattr(error, "server_message", None) or str(error).split("\n")[0]
            raise PublishError(
                f"{repo_id} is published, but the Hub does not give it the hardware {hardware} ({details}): choose it "
                "in the Space's settings"
            ) from error
    return published
