"""Threads that each run torch's operations in one thread."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


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


def pipelined(function: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R]:
    """What a function makes of every item, in their order, in threads as those of `spread`.

    Items are asked for in the caller's thread, and no more than `threads` + 1 of them are taken whose results were not
    asked for: one more than are worked on, so that no thread waits while the caller is busy with a result. An error, of
    an item or of asking for it, is raised after the results of those before it. Whatever ends this, no thread works on.
    """
    if threads == 1:
        yield from map(function, items)
        return
    pool = _pool(threads)
    pending: deque[Future[R]] = deque()
    source = iter(items)
    failure: Exception | None = None
    ended = False
    try:
        while True:
            while not ended and len(pending) <= threads:
                try:
                    pending.append(pool.submit(function, next(source)))
                except StopIteration:
                    ended = True
                except Exception as error:
                    ended, failure = True, error
            if not pending:
                break
            result = pending[0].result()
            pending.popleft()
            yield result
        if failure is not None:
            raise failure
    finally:
        wait([future for future in pending if not future.cancel()])


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
