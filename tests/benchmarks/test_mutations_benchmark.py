"""The benchmark of damaged files runs, and finds nothing wrong in a few."""

import mutations
import pytest


def test_damaged_files_are_refused_or_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(mutations.small_files()) == 30
    assert mutations.main(["--mutations", "300", "--seed", "5"]) == 0
    assert "300 mutations of 30 files" in capsys.readouterr().out
