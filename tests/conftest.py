"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with real pairs and metric references (`FUSION_HUB_DATA`, default `../shared`); skips where absent."""
    root = Path(os.environ.get("FUSION_HUB_DATA", "../shared"))
    if not (root / "data" / "index.csv").is_file():
        pytest.skip(f"no real image pairs at {root}: set FUSION_HUB_DATA to the folder that holds data/index.csv")
    return root
