"""Corners of the protocols: names of RFC 5987, compressed bodies, absolute targets, nested elements."""

import base64
import gzip

import pytest

from helpers.adding import IMAGES
from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"


def named(server: Server, parameters: str, path: str = QUERY, image: int = 3):
    head = f'--b\r\nContent-Disposition: form-data; name="images"; {parameters}\r\n\r\n'
    body = head.encode() + png(image) + b"\r\n--b--\r\n"
    return server.http.post(path, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename*=UTF-8''na%C3%AFve%20%E2%82%AC.png", "naïve €.png"),
        ("filename=\"plain.png\"; filename*=utf-8'en'%e2%82%ac.png", "€.png"),
        ("filename*=iso-8859-1''na%EFve.png", "naïve.png"),
        ('filename="plain.png"', "plain.png"),
        ("filename=\"a; filename*=UTF-8''b.png\"", "a; filename*=UTF-8''b.png"),
        ("filename*=UTF-8''..%2F..%2Fetc%0Apasswd", "../../etcpasswd"),
    ],
)
def test_names_of_rfc_5987_are_understood(shared_server: Server, parameters: str, name: str) -> None:
    assert named(shared_server, parameters).json()["results"][0]["image"] == name


@pytest.mark.parametrize(
    "parameters",
    [
        "filename*=UTF-8''%FF.png",
        "filename*=plain.png",
        "filename*=utf-7''a.png",
        "filename*='",
        "filename*=UTF-8''%zz",
    ],
)
def test_names_that_are_not_of_rfc_5987_are_refused(shared_server: Server, parameters: str) -> None:
    problem(named(shared_server, parameters), 422, "images")


def test_an_extended_name_becomes_the_id(server: Server) -> None:
    server.finished(named(server, "filename*=UTF-8''%E2%82%AC.png", IMAGES, 70).json()["id"])
    listed = server.http.get(IMAGES, params={"after": 12}).json()["images"]
    assert [image["id"] for image in listed] == ["€.png"]


@pytest.mark.parametrize("path", [QUERY, "/v1/galleries/plain/score-map", "/v1/galleries/plain/remove", IMAGES])
def test_compressed_bodies_are_said_to_be_that(shared_server: Server, path: str) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
    answer = shared_server.http.post(path, content=gzip.compress(png(3)), headers=headers)
    assert "compressed" in problem(answer, 415, "Content-Encoding")["detail"]
    same = shared_server.http.post(QUERY, content=png(3), headers={"Content-Encoding": "identity"})
    assert same.status_code == 200


def test_absolute_targets_are_answered(shared_server: Server) -> None:
    with shared_server.connect() as connection:
        for target in (f"http://127.0.0.1:{shared_server.port}/v1/galleries/plain", "HTTP://localhost/v1?"):
            connection.send(f"GET {target} HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n".encode())
            assert connection.answer().status_code == 200
        for target in ("http://elsewhere.example/v1", "http://localhost@elsewhere.example/v1"):
            connection.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.answer().status_code in (403, 404)
        connection.send(b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"<html" in connection.answer().content


@pytest.mark.parametrize("nest", [lambda data: [data], lambda data: [[data]], lambda data: [[[data]]]])
def test_elements_may_be_nested(shared_server: Server, nest) -> None:
    data = nest(base64.b64encode(png(3)).decode())
    shape = [1] * str(data).count("[")
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape, "data": data}
    answer = shared_server.http.post("/v2/models/plain/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text


def test_elements_that_are_nested_deeper_than_any_tensor_are_refused(shared_server: Server) -> None:
    data: object = base64.b64encode(png(3)).decode()
    for _ in range(20):
        data = [data]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": data}
    assert shared_server.http.post("/v2/models/plain/infer", json={"inputs": [tensor]}).status_code == 400
