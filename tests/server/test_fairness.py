"""Clients take turns: one that sends many large images does not hold up another's small one."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from spade_index.server.decoding import Decoders, Upload
from spade_index.server.fairness import FairPlaces, FairThreads, Turns
from spade_index.settings import Preprocessing

from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts
from helpers.waiting import PATIENCE, eventually

QUERY = "/v1/galleries/plain/query"
KEYS = "k-of-the-crowd-0000 * read\nk-of-the-lonely-000 * read"
CROWD, LONELY = ({"X-Api-Key": line.split()[0]} for line in KEYS.splitlines())


def test_each_client_has_its_turn() -> None:
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.put(item[0], item)
    taken = [turns.take() for _ in range(4)]
    turns.put("c", "c2")
    while turns:
        taken.append(turns.take())
    assert taken == ["a1", "b1", "c1", "a2", "b2", "a3", "c2"]


def test_a_small_image_waits_for_one_large_image_of_another_client(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    begun, go = threading.Event(), threading.Event()
    whole = Decoders._whole

    def held(self: Decoders, number: int, upload: Upload, how: Preprocessing) -> object:
        begun.set()
        assert go.wait(PATIENCE)
        done.append(upload.name or "")
        return whole(self, number, upload, how)

    monkeypatch.setattr(Decoders, "_whole", held)
    server = serve(keys=KEYS, decoders=1)
    many = parts(*((f"large-{number}.png", png(number)) for number in range(6)))
    waiting = server.service.decoders._threads._turns._waiting
    with ThreadPoolExecutor(2) as pool:
        crowd = pool.submit(server.http.post, QUERY, files=many, headers=CROWD)
        assert begun.wait(PATIENCE)
        eventually(lambda: sum(map(len, waiting.values())) == 5)
        lonely = pool.submit(server.http.post, QUERY, files=parts(("small.png", png(9))), headers=LONELY)
        eventually(lambda: len(waiting) == 2)
        go.set()
        assert (crowd.result().status_code, lonely.result().status_code) == (200, 200)
    assert done == ["large-0.png", "large-1.png", "small.png", *(f"large-{number}.png" for number in range(2, 6))]


def test_work_that_was_cancelled_is_not_done_and_takes_no_turn() -> None:
    threads, go, done = FairThreads(1, "test"), threading.Event(), []
    first = threads.submit("a", lambda: go.wait(PATIENCE))
    cancelled = [threads.submit("a", lambda: done.append("cancelled")) for _ in range(3)]
    last = threads.submit("a", lambda: done.append("last"))
    assert all(future.cancel() for future in cancelled)
    go.set()
    assert (first.result(PATIENCE), last.result(PATIENCE), done) == (True, None, ["last"])
    failed = threads.submit("a", lambda: {}["error"])
    assert isinstance(failed.exception(PATIENCE), KeyError)
    threads.stop()


def test_a_stop_cancels_what_waits() -> None:
    threads, go, entered = FairThreads(1, "test"), threading.Event(), threading.Event()
    doing = threads.submit("a", lambda: entered.set() or go.wait(PATIENCE))
    waits = threads.submit("b", lambda: None)
    assert entered.wait(PATIENCE)
    stopping = threading.Thread(target=threads.stop)
    stopping.start()
    eventually(waits.cancelled)
    go.set()
    stopping.join(PATIENCE)
    assert doing.result(PATIENCE)
    with pytest.raises(RuntimeError):
        threads.submit("a", lambda: None)


@pytest.mark.parametrize("goes", ["before its turn", "at its turn"])
def test_places_go_to_clients_in_turn_and_are_not_lost_with_clients_that_go(goes: str) -> None:
    async def run() -> list[str]:
        places, taken = FairPlaces(1), []

        async def take(name: str) -> None:
            async with places.place(name[0]):
                taken.append(name)
                await asyncio.sleep(0)

        async with places.place("a"):
            tasks = {name: asyncio.create_task(take(name)) for name in ("a1", "a2", "a3", "b1", "c1")}
            await asyncio.sleep(0)
            if goes == "before its turn":
                tasks["a1"].cancel()
        tasks["a1"].cancel()  # it was given the place, and has not taken it
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks.values())
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert places.free == 1
        return taken

    assert asyncio.run(asyncio.wait_for(run(), PATIENCE)) == ["b1", "c1", "a2", "a3"]
