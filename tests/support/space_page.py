"""The page of the Space in a process of its own, as tests see it."""

import time

from space_load import Page


def wait_for_examples(page: Page) -> None:
    """Wait until the first examples of both tabs are fused, so that their memory and files count for no test."""
    for _ in range(600):
        if len([*page.files.rglob("fusion_hub_examples_*/*/*_fused.png")]) == 2:
            time.sleep(0.5)  # their previews
            return
        time.sleep(0.1)
    raise TimeoutError(page.log.read_text(errors="replace"))
