"""Threads that each run torch's operations in one thread."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def spread(function: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call a function for every item, in threads whose torch operations each run in one thread.

    Threads that meet once for some maps, and not in each of their hundreds of operations, cost less, and much less
    when something else wants the cores.
    """
    if threads == 1:
        for item in items:
            function(item)
    else:
        for _ in _pool(threads).map(function, items):
            pass


_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()
# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=_pools.clear)


def _pool(threads: int) -> ThreadPoolExecutor:
    with _pools_lock:
        if threads not in _pools:
            before = torch.get_num_threads()
            started = threading.Barrier(threads + 1)
            pool = ThreadPoolExecutor(threads, "nearest-pixels", _be_one_thread, (started,))
            for _ in range(threads):
                pool.submit(int)
            started.wait()
            _pools[threads] = pool
            # The setting is also the default of threads yet to come: put that back.
            torch.set_num_threads(before)
        return _pools[threads]


def _be_one_thread(started: threading.Barrier) -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # takes up the default, which would otherwise happen at the first operation
    started.wait()
