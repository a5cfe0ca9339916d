"""`fusion-hub sample`: what it prints is there, and a refusal is one sentence. Help texts of all commands."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion_hub import cli


def test_sample(tmp_path: Path) -> None:
    folder = tmp_path / "first steps"
    result = CliRunner().invoke(cli.app, ["sample", str(folder)])
    assert result.exit_code == 0, result.output
    *listed, following = result.stdout.splitlines()
    assert all(Path(line.split("  ")[0]).is_dir() for line in listed) and len(listed) == 5
    _, _, command, visible, infrared, *_ = shlex.split(following)
    assert command == "fuse" and Path(visible).is_file() and Path(infrared).is_file()

    (folder / "street" / "day.jpg").write_bytes(b"mine")
    refused = CliRunner().invoke(cli.app, ["sample", str(folder)])
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1 and "day.jpg exists" in refused.stderr
    assert CliRunner().invoke(cli.app, ["sample", str(folder / "street" / "day.jpg")]).exit_code == 2


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_no_python_types(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [command, "--help"], terminal_width=200).stdout
    assert "Usage: " in shown and not re.search(r"<(bool|str|int|float|path)|list\[", shown)


def test_help_shows_examples_as_they_are_typed() -> None:
    shown = CliRunner().invoke(cli.app, ["fuse", "--help"]).stdout
    assert "  fusion-hub fuse 'night/*_vis.png' 'night/*_ir.png' --output fused/\n" in shown
    assert "--num-inference-steps" in shown and "…" not in shown
