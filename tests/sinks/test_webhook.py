"""The webhook: signed, in order, tried again, not redirected; what is refused for good is set aside."""

import hmac
import json
import socket
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from spade_index.errors import InputError
from spade_index.sinks.contract import Unreachable
from spade_index.sinks.webhook import VARIABLE, Webhook, read_key

from helpers.receiver import Receiver, receiver
from helpers.watching import images, watched

KEY = b"a key of sixteen bytes or more"


def record(number: int) -> str:
    return json.dumps({"id": str(number), "arrival": "now", "score": number})


def ids(server: Receiver) -> list[str]:
    return [json.loads(body)["id"] for _, _, body in server.got]


def test_each_verdict_is_posted_and_its_signature_is_of_its_bytes(tmp_path: Path) -> None:
    with receiver() as server:
        hook = Webhook(f"http://127.0.0.1:{server.server_port}/in?line=3", KEY, tmp_path / "refused")
        hook.deliver([record(1), record(2)])
        hook.close()
    for number, (path, headers, body) in enumerate(server.got, 1):
        assert path == "/in?line=3"
        assert headers["X-Signature"] == "sha256=" + hmac.new(KEY, body, "sha256").hexdigest()
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == {"id": str(number), "arrival": "now", "delivered_by": "webhook", "score": number}


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_be_mended_is_posted_again(tmp_path: Path, status: int) -> None:
    with receiver(status) as server:
        hook = Webhook(f"http://127.0.0.1:{server.server_port}", None, tmp_path / "refused")
        with pytest.raises(Unreachable, match=f"127.0.0.1: answers {status}"):
            hook.deliver([record(1)])
        hook.deliver([record(1)])
        hook.close()
    assert ids(server) == ["1", "1"]
    assert "X-Signature" not in server.got[0][1]
    assert (tmp_path / "refused").read_text() == ""


@pytest.mark.parametrize("status", [302, 400, 404])
def test_what_is_refused_is_set_aside_and_redirects_are_not_followed(tmp_path: Path, status: int) -> None:
    said: list[str] = []
    with receiver(status) as server:
        hook = Webhook(f"http://127.0.0.1:{server.server_port}/in", KEY, tmp_path / "refused", said.append)
        hook.deliver([record(1)])
        hook.deliver([record(2)])
        hook.close()
    assert [path for path, _, _ in server.got] == ["/in", "/in"]
    aside = json.loads((tmp_path / "refused").read_text())
    assert (aside["id"], aside["status"], aside["delivered_by"]) == ("1", status, "refused")
    (line,) = said
    assert str(status) in line
    assert str(tmp_path / "refused") in line


def test_an_answer_without_an_end_is_not_read(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n")
            with suppress(OSError):
                connection.recv(1)  # until the other side closes

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=lambda: [answer(server.accept()[0]) for _ in range(2)], daemon=True)
        thread.start()
        hook = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}", None, tmp_path / "refused")
        hook.deliver([record(1), record(2)])
        hook.close()
        thread.join()


def test_what_comes_before_an_answer_is_none(tmp_path: Path) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"

    def answer(listener: socket.socket) -> None:
        for status in (b"204 No Content", b"404 Not Found"):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(early + b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=answer, args=[listener])
        thread.start()
        hook = Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}", None, tmp_path / "refused")
        for _ in range(2):  # each of a connection of its own, on which no answer is left
            with pytest.raises(Unreachable, match="answers 103"):
                hook.deliver([record(1)])
        hook.close()
        thread.join()
    assert (tmp_path / "refused").read_text() == ""


def test_a_receiver_that_was_away_gets_all_in_order(tmp_path: Path) -> None:
    folder, said = images(tmp_path / "images", 40), []
    with receiver() as first:
        port = first.server_port
    for _ in range(2):
        hook = Webhook(f"http://127.0.0.1:{port}/in", KEY, tmp_path / "refused")
        assert not watched(folder, tmp_path / "state", [hook], say=said.append)
        hook.close()
    with receiver(503, port=port) as server:
        while True:
            hook = Webhook(f"http://127.0.0.1:{port}/in", KEY, tmp_path / "refused")
            complete = watched(folder, tmp_path / "state", [hook], say=said.append)
            hook.close()
            if complete:
                break
    got = [json.loads(body)["image"] for _, _, body in server.got]
    assert got == ["00000.png", *(f"{number:05d}.png" for number in range(40))]
    assert said == ["webhook at 127.0.0.1: Connection refused"] * 2 + ["webhook at 127.0.0.1: answers 503"]


@pytest.mark.parametrize(
    "url", ["ftp://host/", "host", "http://user:secret@host/", "http://host/a b", "http://host:x/", "http:///a"]
)
def test_a_url_that_is_none_is_refused_unrepeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="--webhook") as error:
        Webhook(url, None, tmp_path / "refused")
    assert "secret" not in str(error.value)


def test_the_key_is_of_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        read_key(path)
    path.chmod(0o600)
    assert read_key(path) == KEY
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(VARIABLE, "short secret")
    with pytest.raises(InputError, match=VARIABLE) as error:
        read_key(None)
    assert "secret" not in str(error.value)
