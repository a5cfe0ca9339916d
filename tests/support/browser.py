"""A real Chromium for the tests of pages: found on this machine, never fetched."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright
from playwright.sync_api import Error as PlaywrightError

VARIABLE = "FUSION_HUB_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# As root, in a container with little shared memory, without a display.
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")


def chromium_candidates(playwright: Playwright) -> list[str]:
    """Paths that may be a Chromium, best first: the one the variable names, or those on PATH and playwright's own."""
    if named := os.environ.get(VARIABLE):
        return [named]
    found = [path for name in NAMES if (path := shutil.which(name))]
    own = playwright.chromium.executable_path
    return [*found, own] if Path(own).is_file() else found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser, closed at the end. Skips the test, and says what was looked for, where none is found.

    Raises:
        LookupError: one was named or found, and none starts.
    """
    with sync_playwright() as playwright:
        candidates = chromium_candidates(playwright)
        if not candidates:
            pytest.skip(
                f"no Chromium: neither {VARIABLE}, nor {', '.join(NAMES)} on PATH, nor playwright's own "
                "(apt-get install chromium, or python -m playwright install chromium)"
            )
        browser = _first_that_starts(playwright, candidates)
        try:
            yield browser
        finally:
            browser.close()


def _first_that_starts(playwright: Playwright, candidates: list[str]) -> Browser:
    failures = []
    for path in candidates:
        try:
            return playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except PlaywrightError as error:  # for example a stub that only tells how to install a snap
            failures.append(f"{path}: {str(error).splitlines()[0]}")
    raise LookupError(f"no Chromium starts ({'; '.join(failures)}); name one that does in {VARIABLE}")
