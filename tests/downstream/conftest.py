"""Small scenes for the tests of training."""

from pathlib import Path

import pytest

from tests.support.downstream_runs import write_scenes


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))
