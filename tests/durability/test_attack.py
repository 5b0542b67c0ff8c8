"""The campaign of hostile requests with few of them; and that it notices what is wrong."""

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from durability.attack import Campaign, Tally, serve_and_attack
from durability.attack_client import Limits, send
from durability.attack_requests import KINDS, MANNERS, Hostile, hostile
from helpers.service_process import Process

LIMITS = Limits(0.1, 0.1, 0.1, {"bolts": b"secret-bolts"}, b"/srv/root")


def test_nothing_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durability.attack.REST", 2)
    tally = serve_and_attack(tmp_path, 100, seed=7, warm=40)
    assert (tally.crashes, tally.hangs, tally.faults, tally.honest_failed) == (0, 0, [], [])
    assert (tally.errors_logged, tally.left) == (0, [])
    assert tally.honest > 2
    assert tally.memory_after - tally.memory_before < 100
    assert sum(tally.kinds.values()) == sum(tally.statuses.values()) == tally.requests == 100
    assert {"401", "403", "422", "400"} <= tally.statuses.keys()


def test_a_request_is_made_again_by_its_number() -> None:
    assert [hostile(3, number) for number in range(50)] == [hostile(3, number) for number in range(50)]
    made = [hostile(3, number) for number in range(400)]
    assert len({one.kind for one in made}) == len(KINDS)
    assert {one.manner for one in made} == {"whole", *MANNERS}


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """Answer a connection with these bytes, or not at all; yield the port."""
    done = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            if answer is not None:
                client.recv(1000)
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
            done.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        done.set()
        thread.join()


def answer_of(status: int, body: bytes, id: bytes = b"X-Request-Id: 1\r\n") -> bytes:
    return b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, id, len(body), body)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (answer_of(422, b"{}"), None),
        (answer_of(503, b"{}"), None),
        (answer_of(500, b"{}"), "status 500"),
        (answer_of(200, b"secret-bolts-1"), "it tells of gallery bolts"),
        (answer_of(422, b"/srv/root/tiles: no"), "it tells a folder of the server"),
        (answer_of(422, b"two\nlines"), "more than one line of error"),
        (answer_of(422, b"x" * 30_000), "more than one line of error"),
        (answer_of(422, b"{}", b""), "no request id"),
    ],
)
def test_an_answer_that_should_not_be_is_noticed(answer: bytes, fault: str | None) -> None:
    with answering(answer) as port:
        outcome = send(Hostile("head", b"GET / HTTP/1.1\r\n\r\n", "tiles"), port, random.Random(0), LIMITS)
    assert (outcome.status, outcome.fault, outcome.hung) == (int(answer.split()[1]), fault, False)


def test_a_hang_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durability.attack_client.SLACK", 0.5)
    with answering(None) as port:
        assert send(Hostile("head", b"GET / HTTP/1.1\r\n\r\n"), port, random.Random(0), LIMITS).hung


def test_a_crash_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with Process(tmp_path / "root") as process:
        campaign = Campaign(0, tmp_path / "root", process)
        process.kill()
        campaign.look_after()
        assert campaign.tally.crashes == 1
        assert not campaign.tally.well
    assert Tally().well
