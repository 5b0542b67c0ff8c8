"""Decoding processes: their limits, what they answer, and how they end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import ImageError
from spade_index.images import ImageFile
from spade_index.images.plain import loading
from spade_index.images.workers import Asker, Call, DecoderPool, DecodersEnded, Held, NoDecoder
from spade_index.images.workers.calls import read_answer
from spade_index.images.workers.messages import receive, send
from spade_index.settings import DecodeLimits, Preprocessing

from helpers.decoder_work import allocate, die, fail, sleep, told, write
from helpers.tiny import image_file, png
from helpers.waiting import PATIENCE, eventually

MIB = 1 << 20
HOW = Preprocessing(input_size=(16, 16))
LIMITS = DecodeLimits(memory=64 * MIB, seconds=1)


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(LIMITS)
    yield pool
    pool.end()


def call(work: Any, *arguments: Any, data: bytes = b"") -> Call:
    return Call(work, "image", Held(data), arguments)


def test_processes_are_light_and_kept(pool: DecoderPool) -> None:
    first, second = pool.answer(call(told, data=b"a")), pool.answer(call(told, data=b"b"))
    assert (first.facts["told"], second.facts["told"]) == ("a", "b")
    assert first.parts == [bytes(5)]
    assert first.facts["pid"] == second.facts["pid"] != os.getpid()
    assert not {"torch", "faiss", "h5py", "starlette", "scipy"} & set(first.facts["modules"])


def test_the_system_ends_them_before_other_programs(pool: DecoderPool) -> None:
    pid = pool.answer(call(told)).facts["pid"]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"


def test_memory_is_limited_and_the_process_goes_on(pool: DecoderPool) -> None:
    assert pool.answer(call(allocate, 40 * MIB)).facts["size"] == 40 * MIB
    with pytest.raises(ImageError, match="image: decoding it takes more than 64 MiB of memory"):
        pool.answer(call(allocate, 100 * MIB))
    assert pool.answer(call(allocate, 40 * MIB)).facts["size"] == 40 * MIB
    assert (pool.died, pool.late) == (0, 0)


def test_a_file_larger_than_the_memory_is_refused(pool: DecoderPool) -> None:
    with pytest.raises(ImageError, match="image: "):
        pool.answer(call(told, data=bytes(200 * MIB)))
    assert pool.answer(call(told, data=b"b")).facts["told"] == "b"


def test_time_is_limited(pool: DecoderPool) -> None:
    pool.answer(call(told))
    begun = time.monotonic()
    with pytest.raises(ImageError, match="image: decoding it takes more than 1 seconds"):
        pool.answer(call(sleep, 2 * PATIENCE))
    assert time.monotonic() - begun < PATIENCE
    assert (pool.died, pool.late) == (0, 1)
    assert pool.answer(call(told)).parts


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_an_image_that_kills_its_process_costs_no_other(pool: DecoderPool, number: int) -> None:
    answers = pool.answers([call(told, data=b"a"), call(die, number), call(told, data=b"b")])
    assert [getattr(answer, "facts", {}).get("told") for answer in answers] == ["a", None, "b"]
    assert str(answers[1]) == f"image: the process that decoded it died (signal {number})"
    assert pool.died == 2


def test_a_process_can_write_no_file(pool: DecoderPool, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="OSError"):
        pool.answer(call(write, str(tmp_path / "file")))
    assert not (tmp_path / "file").exists() or not (tmp_path / "file").stat().st_size


def test_a_fault_of_ours_is_one_line(pool: DecoderPool) -> None:
    with pytest.raises(ImageError, match=r"image: cannot be decoded .KeyError: 'a fault of ours'"):
        pool.answer(call(fail))
    assert pool.answer(call(told)).parts


def test_a_read_that_fails_here_is_that_image_s(pool: DecoderPool) -> None:
    def gone() -> bytes:
        raise OSError(5, "Input/output error")

    files = [image_file("a.png", png(1)), ImageFile("b", "/nowhere/b", 1, 0, gone), image_file("c.png", png(2))]
    answers = pool.answers([loading(file, HOW, 10**6) for file in files])
    assert [isinstance(answer, ImageError) for answer in answers] == [False, True, False]
    assert str(answers[1]) == "/nowhere/b: cannot be read (Input/output error)"


MAIN = """
from spade_index.images import ImageFile
from spade_index.images.plain import loading
from spade_index.images.workers import shared_pool
from spade_index.settings import Preprocessing

def read():
    return open({path!r}, "rb").read()

answer = shared_pool().answer(loading(ImageFile("a", "a", 1, 0, read), Preprocessing(), 10**6))
print(answer.facts["width"])
"""


def test_functions_of_the_main_program_read_files(tmp_path: Path) -> None:
    """A program without `if __name__ == "__main__"`, too."""
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "main.py").write_text(MAIN.format(path=str(tmp_path / "a.png")))
    ran = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("40\n", "")


def test_who_leaves_waits_for_nothing() -> None:
    pool, asker, ended = DecoderPool(DecodeLimits(seconds=10 * PATIENCE)), Asker(), threading.Event()

    def ask() -> None:
        with suppress(DecodersEnded):
            pool.answers([call(sleep, 9 * PATIENCE)] * 8, asker)
        ended.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    eventually(lambda: pool._busy)
    pool.leave(asker)
    assert ended.wait(PATIENCE)
    assert pool.answer(call(told)).parts
    pool.end()


def test_an_ended_pool_is_one_error(pool: DecoderPool) -> None:
    pool.answer(call(told))
    (pid,) = pool.pids
    pool.end()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(DecodersEnded):
        pool.answer(call(told))


def test_processes_that_do_not_start_are_one_error(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spade_index.images.workers.process.START", "raise SystemExit(3)")
    with pytest.raises(NoDecoder, match=r"do not start \(status 3\)"):
        pool.answer(call(told))


ORPHAN = """
import os, sys
from spade_index.images.workers import DecoderPool
pool = DecoderPool()
pool.start(2)
print(*pool.pids, flush=True)
input()
"""


def test_processes_end_when_their_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = parent.stdout.readline().split()
    parent.kill()
    parent.communicate()
    assert len(pids) == 2
    eventually(lambda: not any(_lives(pid) for pid in pids), 20)


def _lives(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_message_of_another_shape_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs, [b"abc", b"", bytes(1000)])
        assert receive(ours, 2000) == [b"abc", b"", bytes(1000)]
        send(theirs, [bytes(1000)])
        with pytest.raises(ValueError, match="too large"):
            receive(ours, 999)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\xff" * 8)
        with pytest.raises(ValueError, match="too many parts"):
            receive(ours, 999, time.monotonic() + 1)


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b"7", b"[" * 100_000, b"9" * 10_000, b"\xff"], ids=lambda b: b[:4])
def test_an_answer_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"answer|digits|decode|Expecting"):
        read_answer([bytearray(body)], "image", 0)
