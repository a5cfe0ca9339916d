"""Keeping freed memory, sharing arenas: done where the C library is glibc, refused elsewhere; nothing breaks by it."""

import platform
import subprocess
import sys
from pathlib import Path

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

# Eight threads at work at the same time; then glibc's own list of its arenas ("heaps").
ARENAS = """
import ctypes, sys, threading
from pathlib import Path
from fusion_hub.allocator import share_arenas
print(sys.argv[1] == "own" or share_arenas(2))
barrier = threading.Barrier(8)
def work():
    held = [bytes(2000) for _ in range(100)]
    barrier.wait()
    held.append(ctypes.CDLL(None).malloc(1000))
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(Path(sys.argv[2]).read_text().count("<heap nr="))
"""


def arenas(kind: str, folder: Path) -> tuple[bool, int]:
    """Whether the setting was done, and how many arenas eight threads have made."""
    command = [sys.executable, "-c", ARENAS, kind, str(folder / f"{kind}.xml")]
    done, count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return done == "True", int(count)


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="the setting is glibc's")
def test_threads_share_arenas(tmp_path: Path) -> None:
    assert arenas("shared", tmp_path) == (True, 2)
    _, count = arenas("own", tmp_path)
    assert count > 2, "otherwise there is nothing to share"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_large_tensors_still_work() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    done, right = found.stdout.split()
    assert done in ("True", "False") and right == "True"


def test_elsewhere_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion_hub import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False and allocator.share_arenas() is False
