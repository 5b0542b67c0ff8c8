"""Out of threads, or of memory: refused with 503, and recovered from. Files and disk space are in `test_threads`."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from spade_index.gallery import Gallery
from spade_index.server import engine as engine_module

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png

pytestmark = pytest.mark.usefixtures("decoding_here")


def alive(server: Server) -> bool:
    return server.http.get("/v2/health/ready").json() == {"ready": True}


def test_a_service_without_threads_recovers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of any kind can be started, as at the limit of a user's processes."""

    def fails(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadPoolExecutor(24) as clients:  # more than the threads that are idle

        def asked(number: int) -> int:
            with server.connect() as connection:
                answer = connection.request(*ASKED[number % len(ASKED)])
            assert answer.status_code != 503 or int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        all_begun = threading.Barrier(24)
        list(clients.map(lambda number: all_begun.wait(), range(24)))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fails)
            statuses = set(clients.map(asked, range(96)))
        assert statuses <= {200, 202, 503}
        assert 503 in statuses
        assert set(clients.map(asked, range(48))) <= {200, 202}
    assert alive(server)


NO_MEMORY = {
    "python": MemoryError(),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    "onednn": RuntimeError("could not create a primitive"),
}


@pytest.mark.parametrize("says", NO_MEMORY)
@pytest.mark.parametrize("where", ["backbone", "search", "listing"])
def test_a_service_without_memory_recovers(
    server: Server, monkeypatch: pytest.MonkeyPatch, where: str, says: str
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise NO_MEMORY[says]

    server.query("plain", png(3))
    target: tuple[Any, str] = {
        "backbone": (type(server.watch.backbones[0]), "_come"),
        "search": (engine_module.Engine, "_detect"),
        "listing": (Gallery, "info"),
    }[where]
    asked = "/v1/galleries/plain" + ("" if where == "listing" else "/query")
    with monkeypatch.context() as patch:
        patch.setattr(*target, fails)
        for _ in range(3):
            answer = server.http.request("GET" if where == "listing" else "POST", asked, content=png(4))
            assert int(answer.headers["Retry-After"]) >= 1
            problem(answer, 503)
        assert alive(server)
    assert server.query("plain", png(4))["neighbours"]


ASKED = [
    ("POST", "/v1/galleries/plain/query", png(3)),
    ("GET", "/v1/galleries", b""),
    ("GET", "/v1/galleries/plain/images", b""),
    ("GET", "/v1/galleries/plain/thumbnail?id=000.png", b""),
]
