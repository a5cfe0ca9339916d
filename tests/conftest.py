"""Fixtures shared by all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from space_load import Page

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests start processes that share the cores


# Ctrl-C works in the processes of tests even where the suite runs in the background, with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with real pairs and metric references (`FUSION_HUB_DATA`, default `../shared`); skips where absent."""
    root = Path(os.environ.get("FUSION_HUB_DATA", "../shared"))
    if not (root / "data" / "index.csv").is_file():
        pytest.skip(f"no real image pairs at {root}: set FUSION_HUB_DATA to the folder that holds data/index.csv")
    return root


@pytest.fixture(scope="session")
def space_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    """The page of the Space in a process of its own, on the bundled checkpoints; one for all tests.

    It takes uploads of 48 MiB, and starts beside the old files of a killed server.
    """
    from space_load import serve

    folder = tmp_path_factory.mktemp("space_page")
    killed = folder / "files" / "fusion_hub_page_killed"
    killed.mkdir(parents=True)
    os.utime(killed, (0, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSION_HUB_UPLOAD_MIB", "48")
        with serve(folder) as page:
            yield page
    assert page.process.returncode == 0 and not [*page.files.glob("fusion_hub_page_*")], "SIGTERM deletes all uploads"
