"""Tests of the services that the other tests use, `helpers.serving`."""

from pathlib import Path

from helpers.service_process import Process
from helpers.serving import Server
from helpers.tiny import png


def test_a_service_in_this_process_answers(shared_server: Server) -> None:
    assert shared_server.query("plain", png(3))["neighbours"][0] == {"id": "003.png", "distance": 0.0}
    with shared_server.connect() as connection:
        assert connection.request("GET", "/v1").json() == shared_server.http.get("/v1").json()


def test_a_held_backbone_computes_nothing(server: Server) -> None:
    server.query("plain", png(3))
    before = server.watch.images
    with server.watch.held(), server.connect() as connection:
        connection.send(connection.head("POST", "/v1/galleries/plain/query", Content_Length=str(len(png(3)))) + png(3))
        server.watch.wait_until_entered()
        connection.close()
    assert server.watch.images == before + 1


def test_a_service_process_ends_on_sigterm(root: Path) -> None:
    with Process(root) as served:
        assert served.http.get("/v1").json()["galleries"] == 4
        served.terminate()
        assert "Traceback" not in served.log_text()
