"""Thread pools in which each thread runs torch's operations by itself."""

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
    """Call a function for every item, in threads that each run torch's operations by themselves.

    Threads that synchronise once for some maps, instead of in each of hundreds of operations, cost less, and much less
    when another program uses the cores.
    """
    if threads == 1:
        for item in items:
            function(item)
    else:
        for _ in _pool(threads).map(function, items):
            pass


def pipelined(function: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R]:
    """Yield a function's result for every item, in order, computed in threads like those of `spread`.

    Items are taken in the caller's thread, at most `threads` + 1 ahead of the results: one more than the threads work
    on, so that none waits while the caller uses a result. An error of an item, or of taking it, is raised after the
    results before it. However the generator ends, no thread is left at work.
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
            # The setting is also the default of later threads: restore it.
            torch.set_num_threads(before)
        return _pools[threads]


def _be_one_thread(started: threading.Barrier) -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # adopts the setting now, not at the first operation
    started.wait()
