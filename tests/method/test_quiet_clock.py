"""A clock that does not count the time that other programs take."""

from pathlib import Path

import pytest

from spade_index.method import quiet_clock
from spade_index.method.quiet_clock import QuietClock


class Machine:
    """Threads that run and wait, as Linux tells of them, and the time that passes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now = folder, 100.0
        monkeypatch.setattr(quiet_clock, "THREADS", folder)
        monkeypatch.setattr(quiet_clock.time, "perf_counter", lambda: self.now)

    def thread(self, number: int, ran: float, waited: float) -> None:
        file = self.folder / str(number) / "schedstat"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{round(ran * 1e9)} {round(waited * 1e9)} 17\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "task", monkeypatch)


def test_time_that_threads_wait_for_a_processor_does_not_count(machine: Machine) -> None:
    machine.thread(1, ran=50, waited=7)
    clock = QuietClock()
    machine.thread(1, ran=52, waited=9)
    machine.thread(2, ran=2, waited=2)  # it began since
    machine.now += 4
    assert clock.seconds() == pytest.approx(2)  # half of what the threads wanted


def test_an_idle_process_counts_all_its_time(machine: Machine) -> None:
    machine.thread(1, ran=1, waited=1)
    clock = QuietClock()
    machine.thread(1, ran=1.001, waited=1.003)  # it slept: what it waited is not three quarters of the time
    machine.now += 10
    assert clock.seconds() == pytest.approx(10, abs=0.01)


def test_never_slower_than_a_third_of_time(machine: Machine) -> None:
    machine.thread(1, ran=0, waited=0)
    clock = QuietClock()
    machine.thread(1, ran=1, waited=29)
    machine.now += 30
    assert clock.seconds() == pytest.approx(10)


def test_a_thread_that_ended_and_a_system_that_counts_nothing(machine: Machine) -> None:
    machine.thread(1, ran=1, waited=5)
    clock = QuietClock()
    (machine.folder / "1" / "schedstat").unlink()
    machine.now += 2
    assert clock.seconds() == pytest.approx(2)


def test_a_usual_clock_where_there_is_no_such_folder(machine: Machine) -> None:
    clock = QuietClock()
    machine.now += 2
    assert clock.seconds() == pytest.approx(2)
