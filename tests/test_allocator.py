"""Keeping freed memory: done where the C library is glibc, refused elsewhere, and nothing breaks by it."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from fusion_hub.allocator import keep_freed_memory
print(keep_freed_memory())
total = 0.0
for turn in range(4):
    total += torch.ones(16 << 20).sum().item()  # 64 MiB each, above the size that glibc hands back at once
print(total == 4 * (16 << 20))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_large_tensors_still_work() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    done, right = found.stdout.split()
    assert done in ("True", "False") and right == "True"


def test_elsewhere_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion_hub import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
