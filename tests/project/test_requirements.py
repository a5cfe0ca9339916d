"""The lock file pins everything that the package and its tests import, and agrees with the ranges for users."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
NOT_LOCKED = re.compile(r"nvidia-|cuda-|triton$")  # what torch's build for GPUs adds by itself


def pins(file: str) -> dict[str, tuple[str, Marker | None]]:
    found = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            found[canonicalize_name(requirement.name)] = (specifier.version, requirement.marker)
    return found


def test_every_package_that_is_installed_for_us_is_pinned() -> None:
    """All that our own requirements and those of our requirements ask for, on this machine."""
    locked, seen = pins("requirements.txt"), set()
    waiting = [("fusion-hub", frozenset({"dev", "train", "demo", "evaluate", "downstream"}))]
    while waiting:
        name, extras = waiting.pop()
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if requirement.marker is not None and not any(requirement.marker.evaluate(env) for env in environments):
                continue
            needed = canonicalize_name(requirement.name)
            key = (needed, frozenset(requirement.extras))
            if key in seen or NOT_LOCKED.match(needed):
                continue
            seen.add(key)
            if needed != "fusion-hub":
                assert needed in locked, f"{needed}, which {name} needs, is not pinned: make lock"
                installed = Version(metadata.version(needed)).public
                assert installed == locked[needed][0], f"{needed} {installed} is installed: make env"
            waiting.append((needed, frozenset(requirement.extras) or frozenset({""})))
    assert len(seen) > 80


@pytest.mark.parametrize("file", ["requirements.in", "space/requirements.txt"])
def test_direct_versions_agree_with_the_lock(file: str) -> None:
    locked = pins("requirements.txt")
    assert {name: version for name, (version, _) in pins(file).items()} == {
        name: locked[name][0] for name in pins(file)
    }


def test_ranges_for_users_hold_the_tested_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = pins("requirements.txt")
    for text in [*project["dependencies"], *(t for extra in project["optional-dependencies"].values() for t in extra)]:
        requirement = Requirement(text)
        if requirement.name != "fusion-hub":
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)][0]), text


def test_the_lock_names_no_machine() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert "://" not in text and "file:" not in text and not re.search(r"^-", text, flags=re.MULTILINE)
    assert not [line for line in text.splitlines() if NOT_LOCKED.match(line.split("=")[0])]


def test_the_wheel_has_every_package() -> None:
    """They are listed by hand, as setuptools cannot find some and map others from elsewhere."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "fusion_hub").rglob("__init__.py")}
    assert found | set(settings["package-dir"]) == set(settings["packages"])
    assert all((ROOT / folder).is_dir() for folder in settings["package-dir"].values())
