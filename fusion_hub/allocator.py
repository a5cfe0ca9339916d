"""Settings of glibc's allocator: speed for large images on CPUs, and the memory of a server."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # of <malloc.h>
TOP_PAD = 1 << 28


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors for the next ones.

    By default glibc hands blocks above 32 MiB back to the kernel at once, and every new activation map of a large image
    pays for fresh, zeroed pages: a RED of 3 M parameters then takes 6 times as long for 1280 x 960 pixels as for
    640 x 480; with kept memory 4 times, in proportion to the pixels. The setting holds for the whole process, so a
    library must not choose it: the command line and the benchmarks do, and your program may.

    Returns:
        Whether the setting was applied: False where the C library is not glibc.
    """
    return _set((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD))


def share_arenas(count: int = 2) -> bool:
    """Serve all threads of the process from `count` arenas.

    By default each thread has its own arena, which keeps the memory that the thread freed, so a server that runs
    requests in changing threads grows by the memory of one fusion per thread. Call this before threads are started.

    Returns:
        Whether the setting was applied: False where the C library is not glibc.
    """
    return _set((M_ARENA_MAX, count))


def _set(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no such function in other C libraries
        return False
    return all(mallopt(name, value) == 1 for name, value in settings)
