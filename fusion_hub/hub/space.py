"""Publish the demo page as a Space in one commit: the files of the page at its root, the package beside it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, SpaceHardware
from huggingface_hub.errors import HTTPError

import fusion_hub
from fusion_hub.files import page_folder
from fusion_hub.hub.cards import validate_card
from fusion_hub.hub.upload import Published, PublishError, check_repo_id, upload
from fusion_hub.pipelines.checkpoints import list_models

PACKAGE = Path(fusion_hub.__file__).resolve().parent
_LICENSE = PACKAGE / "templates" / "LICENSE.apache-2.0.txt"
_IGNORED = shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*")
_FORBIDDEN = {
    "gradio": "sdk_version in README.md installs it",
    "torchvision": "a broken one keeps the page from loading",
}


@contextmanager
def staged_space(package: Path = PACKAGE) -> Iterator[Path]:
    """A temporary folder that holds the Space as it will be on the Hub.

    Args:
        package: the folder of `fusion_hub`, installed or in a checkout.

    Raises:
        PublishError: the files of the page or the weights of a bundled checkpoint are missing, or the Space's README or
            requirements are not valid.
    """
    space = page_folder(package)
    if not (space / "app.py").is_file():
        raise PublishError(f"the files of the page are missing, {space} holds no app.py: install fusion-hub again")
    folders = [package / "pretrained" / info.name for info in list_models()]
    if missing := [folder.name for folder in folders if not list(folder.glob("model/*.safetensors"))]:
        raise PublishError(f"the weights of {', '.join(missing)} are missing from {package}: install fusion-hub again")
    with TemporaryDirectory(prefix="fusion_hub_space_") as temporary:
        target = Path(temporary)
        try:
            shutil.copytree(space, target, ignore=_IGNORED, dirs_exist_ok=True)
            shutil.copytree(package, target / package.name, ignore=lambda *of: {"space"} | _IGNORED(*of))
            shutil.copyfile(_LICENSE, target / "LICENSE")
            problems = validate_card((target / "README.md").read_text(encoding="utf-8"), target, kind="space")
            requirements = (target / "requirements.txt").read_text(encoding="utf-8").lower().splitlines()
        except OSError as error:
            raise PublishError(f"the Space cannot be assembled: {error}. Install fusion-hub again") from error
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
    package: Path = PACKAGE,
) -> Published:
    """Publish the demo page in one commit.

    Args:
        repo_id: `owner/name`; created if it does not exist.
        private: create a private Space.
        hardware: such as `cpu-basic`; the owner pays for what is not free. By default it stays as it is, `cpu-basic`
            for a new Space.
        token: Hub token; by default that of the login.
        package: the folder of `fusion_hub`, installed or in a checkout.

    Raises:
        PublishError: a file is missing or not valid, or the Hub refuses.
    """
    check_repo_id(repo_id)
    if hardware is not None:
        check_hardware(hardware)
    with staged_space(package) as staged:
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
