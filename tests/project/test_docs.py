"""The docs site builds, and the examples in docstrings print what they say."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fusion_hub

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "metrics" / "index.html").is_file()


def test_no_section_is_there_twice() -> None:
    """A merge once left the README with two versions of the same sections."""
    pages = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "model_cards").glob("*.md"),
    ]
    for page in pages:
        above: list[str] = []
        seen = set()
        for line in re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL).splitlines():
            if heading := re.fullmatch(r"(#+) (.+)", line):
                above[len(heading[1]) - 1 :] = [heading[2]]
                assert tuple(above) not in seen, f"{page.name}: {line}"
                seen.add(tuple(above))


def modules(*rooms: str) -> Iterator[ModuleType]:
    for room in rooms:
        package = importlib.import_module(f"{fusion_hub.__name__}.{room}")
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(info.name)


@pytest.mark.parametrize("room", ["image", "metrics", "pipelines"])
def test_examples_in_docstrings(room: str) -> None:
    attempted = 0
    for module in modules(room):
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        assert result.failed == 0, module.__name__
        attempted += result.attempted
    assert attempted > 0
