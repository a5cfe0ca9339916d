"""The benchmark of damaged files runs, and finds nothing wrong in a few."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "mutations.py"


def test_damaged_files_are_refused_or_read(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("mutations", FILE)
    assert spec is not None and spec.loader is not None
    mutations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutations)
    assert len(mutations.small_files()) == 30
    assert mutations.main(["--mutations", "300", "--seed", "5"]) == 0
    assert "300 mutations of 30 files" in capsys.readouterr().out
