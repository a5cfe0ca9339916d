"""Imports go down only, none hides in a function, and the figure in CONTRIBUTING shows what is there."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
assert _spec is not None and _spec.loader is not None
rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rooms)


def test_every_room_has_a_level() -> None:
    found = {rooms.room_of(rooms.module_name(path)) for path in rooms.sources()}
    assert found - {None} <= set(rooms.LEVEL)


def test_arrows_point_down() -> None:
    upward = {
        f"{importer} -> {imported}"
        for importer, imported in rooms.arrows()
        if rooms.LEVEL[imported] >= rooms.LEVEL[importer]
    }
    assert not upward


def test_an_upward_arrow_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "fusion_hub" / "image" / "wrong.py"
    module.parent.mkdir(parents=True)
    module.write_text("from fusion_hub import FusionPipeline\n")
    (tmp_path / "fusion_hub" / "__init__.pyi").write_text((ROOT / "fusion_hub" / "__init__.pyi").read_text())
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    assert rooms.arrows() == {("image", "pipelines")}


def test_no_function_imports_our_package() -> None:
    hidden = []
    for path in rooms.sources():
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        names = rooms.imported_modules(node, {})
                        hidden += [
                            f"{path.relative_to(ROOT)}:{node.lineno}" for name in names if name.startswith("fusion_hub")
                        ]
    assert not hidden


def test_the_figure_is_current() -> None:
    assert rooms.FIGURE.read_text(encoding="utf-8") == rooms.draw(rooms.arrows()), "run python docs/rooms.py"
