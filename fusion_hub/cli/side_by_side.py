"""Work on several pairs at once, in threads of this process.

With a pair for each core, the cores are busier than when they share the work on one pair, and one thread decodes and
saves pictures while another runs the network.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from fusion_hub.allocator import share_arenas

T = TypeVar("T")
R = TypeVar("R")
MAX_WORKERS = 8  # by themselves: each needs memory for a pair


def available_cores() -> int:
    """Cores that this process may use; OMP_NUM_THREADS, which limits PyTorch, counts here as well."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdecimal() else cores


def count_workers(wanted: int | None, pairs: int | None) -> int:
    """How many pairs to work on at once; `pairs` is None for streams."""
    count = min(available_cores(), MAX_WORKERS) if wanted is None else wanted
    return count if pairs is None else max(1, min(count, pairs))


def cores_of_each(workers: int) -> int:
    """Threads that a worker's network may use."""
    return max(1, available_cores() // workers)


@contextmanager
def dividing_cores(workers: int) -> Iterator[Callable[[], object] | None]:
    """Divide the cores of PyTorch among the workers; yields what each of their threads has to call first."""
    if workers == 1:
        yield None
        return
    import torch

    before = torch.get_num_threads()
    share_arenas(1)  # the memory that one worker frees serves the others
    try:
        yield partial(torch.set_num_threads, cores_of_each(workers))
    finally:
        torch.set_num_threads(before)


def map_in_order(
    work: Callable[[T], R], items: Iterable[T], threads: int, start: Callable[[], object] | None = None
) -> Iterator[R]:
    """Results of `work` in the order of `items`, which are taken one after the other in the calling thread.

    With one thread everything runs in the caller. Otherwise each thread begins with `start`, and at most twice as many
    items as threads are taken ahead. An error or an interrupt in the caller leaves after the items that are being
    worked on; no new one begins.
    """
    if threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pair", initializer=start)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
