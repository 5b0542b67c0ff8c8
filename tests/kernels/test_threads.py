"""A pipeline of threads: results in order, no more in work than was said, and nothing left at work."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from spade_index.kernels.threads import pipelined, spread

THREADS = [1, 2, 3]


class Work:
    """A function of some milliseconds, which keeps a count of its calls."""

    def __init__(self, deadly: int = -1) -> None:
        self.begun: list[int] = []
        self.at_once = self.most = 0
        self._deadly = deadly
        self._lock = threading.Lock()

    def __call__(self, item: int) -> tuple[int, int]:
        with self._lock:
            self.begun.append(item)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.002 * (1 + item % 3))
        with self._lock:
            self.at_once -= 1
        if item == self._deadly:
            raise ArithmeticError(item)
        return item, torch.get_num_threads()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_results_come_in_order_from_threads_that_run_torch_alone(threads: int, count: int) -> None:
    work = Work()
    found = list(pipelined(work, range(count), threads))
    assert [item for item, _ in found] == list(range(count))
    assert {number for _, number in found} <= {1}
    assert work.most <= threads


@pytest.mark.parametrize("threads", THREADS)
def test_items_are_taken_in_the_callers_thread_a_few_ahead(threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            assert threading.current_thread() is caller
            taken.append(item)
            yield item

    caller = threading.current_thread()
    for asked, _ in enumerate(pipelined(Work(), items(), threads), start=1):
        assert len(taken) <= asked + threads


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("deadly", [0, 1, 5])
def test_an_error_comes_after_the_results_before_it(threads: int, deadly: int) -> None:
    work = Work(deadly)
    found: list[tuple[int, int]] = []
    with pytest.raises(ArithmeticError):
        found.extend(pipelined(work, range(20), threads))
    assert [item for item, _ in found] == list(range(deadly))
    assert work.at_once == 0
    assert len(work.begun) <= deadly + 1 + threads


@pytest.mark.parametrize("threads", THREADS)
def test_an_error_of_taking_an_item_comes_after_the_results_before_it(threads: int) -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        raise ArithmeticError

    found: list[tuple[int, int]] = []
    with pytest.raises(ArithmeticError):
        found.extend(pipelined(Work(), items(), threads))
    assert [item for item, _ in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("interrupted", [False, True])
def test_no_thread_is_left_at_work(threads: int, interrupted: bool) -> None:
    def items() -> Iterator[int]:
        yield from range(6)
        if interrupted:
            raise KeyboardInterrupt
        yield from range(6, 20)

    work = Work()
    stream = pipelined(work, items(), threads)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            list(stream)
    else:
        next(stream)
        stream.close()
    assert work.at_once == 0
    begun = len(work.begun)
    time.sleep(0.02)
    assert len(work.begun) == begun


def test_two_pipelines_and_a_spread_share_the_threads() -> None:
    results: list[list[int]] = []

    def pipeline() -> None:
        results.append([item for item, _ in pipelined(Work(), range(30), 2)])

    both = [threading.Thread(target=pipeline) for _ in range(2)]
    for thread in both:
        thread.start()
    done: list[int] = []
    for _ in range(5):
        spread(done.append, range(10), 2)
    for thread in both:
        thread.join()
    assert results == [list(range(30))] * 2
    assert sorted(done) == sorted(list(range(10)) * 5)
