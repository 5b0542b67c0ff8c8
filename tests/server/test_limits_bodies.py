"""Each limit of bodies and of what is in them, as docs/serve.md names it, from both sides."""

import base64
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from spade_index.server import limits
from spade_index.server.settings import ServeSettings

from helpers.adding import IMAGES, add, new_images
from helpers.http_answers import problem
from helpers.limit_table import status
from helpers.serving import Server
from helpers.tiny import png, random_image
from helpers.uploads import encoded, parts
from helpers.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"
REMOVE = "/v1/galleries/plain/remove"
INFER = "/v2/models/plain/infer"
PNG = png(3)
USUAL = ServeSettings(Path())


def protocol_error(answer: httpx.Response, code: int) -> str:
    """Check that an answer is an error of the Open Inference Protocol in one line; return it."""
    assert answer.status_code == code, answer.content
    (told,) = answer.json().values()
    assert told
    assert "\n" not in told
    assert len(told) < 1000
    return str(told)


def test_limit_body_bytes(serve: Callable[..., Server]) -> None:
    assert serve(body_bytes=len(PNG)).query("plain", PNG)["neighbours"]
    server = serve(body_bytes=len(PNG) - 1)
    assert f"{len(PNG) - 1:,} bytes" in problem(server.http.post(QUERY, content=PNG), status("body_bytes"))["detail"]
    problem(server.http.post(QUERY, content=iter([PNG])), status("body_bytes"))  # in chunks, without a length
    assert "bytes" in protocol_error(server.http.post(INFER, content=PNG), status("body_bytes"))


def form_of(server: Server, files: list) -> bytes:
    return server.http.build_request("POST", IMAGES, files=files).read()


def test_limit_add_bytes(serve: Callable[..., Server]) -> None:
    size = len(form_of(serve(), new_images(2)))
    server = serve(add_bytes=size, body_bytes=1000)
    server.finished(add(server, new_images(2)))
    server = serve(add_bytes=size - 1)
    problem(server.http.post(IMAGES, files=new_images(2)), status("add_bytes"))
    assert "receiving" not in [job["state"] for job in server.http.get("/v1/jobs").json()["jobs"]]


@pytest.mark.parametrize("action", ["remove", "restore"])
def test_limit_ids_bytes(serve: Callable[..., Server], action: str) -> None:
    body = json.dumps({"ids": ["nobody"]}).encode()
    headers = {"Content-Type": "application/json"}
    path = f"/v1/galleries/plain/{action}"
    within = serve(ids_bytes=len(body)).http.post(path, content=body, headers=headers)
    problem(within, 404)
    problem(serve(ids_bytes=len(body) - 1).http.post(path, content=body, headers=headers), status("ids_bytes"))


def test_limit_held_bytes(serve: Callable[..., Server]) -> None:
    server = serve(held_bytes=len(PNG) + 1000)
    with server.connect() as slow:
        slow.send(slow.head("POST", QUERY, Content_Length="5000") + b"x" * 1000)
        eventually(lambda: server.middleware_held() == 1000)
        assert server.query("plain", PNG)["neighbours"]
        slow.send(b"x")
        eventually(lambda: server.middleware_held() == 1001)
        answer = server.http.post(QUERY, content=PNG)
        problem(answer, status("held_bytes"))
        assert int(answer.headers["retry-after"]) >= 1
    eventually(lambda: server.middleware_held() == 0)


def test_limit_staged_bytes(serve: Callable[..., Server], root: Path) -> None:
    size = sum(len(file[1]) for _, file in new_images(3))
    server = serve(staged_bytes=size)
    server.query("plain", PNG)
    with server.watch.held():
        first = add(server, new_images(1))
        server.watch.wait_until_entered()
        second = add(server, new_images(2, 101))  # all of the room
        answer = server.http.post(IMAGES, files=parts(("more.png", b"x")))
        problem(answer, status("staged_bytes"))
        assert int(answer.headers["retry-after"]) >= 1
        server.service.jobs.stop()
    for job in (first, second):  # what was left is counted after a restart
        path = root / ".spade-index" / "jobs" / job / "job.json"
        eventually(lambda path=path: json.loads(path.read_text())["state"] in ("queued", "done"))
    again = serve(staged_bytes=size)
    for job in (first, second):
        again.finished(job)
    again.finished(add(again, new_images(3, 200)))
    problem(again.http.post(IMAGES, files=new_images(4, 300)), status("staged_bytes"))
    assert again.service.jobs.files.staged._bytes == {}


def test_limit_body_seconds(serve: Callable[..., Server]) -> None:
    with serve(body_seconds=PATIENCE).connect() as slow, serve(body_seconds=0.2).connect() as silent:
        for connection in (slow, silent):
            connection.send(connection.head("POST", QUERY, Content_Length=str(len(PNG))) + PNG[:100])
        time.sleep(0.3)
        slow.send(PNG[100:])
        assert slow.answer().status_code == 200
        problem(silent.answer(), status("body_seconds"))
        assert silent.is_closed()


@pytest.mark.parametrize("fast", [True, False])
def test_limit_body_rate(serve: Callable[..., Server], fast: bool) -> None:
    server = serve(body_seconds=0.4, body_rate=2000)
    with server.connect() as connection:
        connection.send(connection.head("POST", QUERY, Content_Length="60000"))  # which may take 30 seconds more
        stop = threading.Event()
        pieces = iter([b"x" * (6000 if fast else 10)] * (10 if fast else 999))

        def drip() -> None:
            while not stop.wait(0.1) and (piece := next(pieces, None)):
                connection.send(piece)

        with ThreadPoolExecutor(1) as pool:
            dripping = pool.submit(drip)
            problem(connection.answer(), 422 if fast else status("body_rate"))
            stop.set()
            assert fast == (dripping.exception() is None and next(pieces, None) is None)


def formed(server: Server, boundary: str = "b", heads: str = "", name: str = "a.png", path: str = QUERY) -> Any:
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n{heads}\r\n'.encode()
    body += png(3) + f"\r\n--{boundary}--\r\n".encode()
    return server.http.post(path, content=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})


def test_limit_boundary_length(shared_server: Server) -> None:
    exact = "b" * limits.BOUNDARY_LENGTH
    assert formed(shared_server, exact).status_code == 200
    problem(formed(shared_server, exact + "b"), status("boundary_length"), "Content-Type")


def test_limit_part_headers(shared_server: Server) -> None:
    more = "X-More: 1\r\n"
    assert formed(shared_server, heads=more * (limits.PART_HEADERS - 1)).status_code == 200
    problem(formed(shared_server, heads=more * limits.PART_HEADERS), status("part_headers"))


def test_limit_part_header_bytes(shared_server: Server) -> None:
    exact = "X-More: " + "a" * (limits.PART_HEADER_BYTES - len("X-More: "))
    assert formed(shared_server, heads=exact + "\r\n").status_code == 200
    problem(formed(shared_server, heads=exact + "a\r\n"), status("part_header_bytes"))


def test_limit_name_length(shared_server: Server) -> None:
    exact = "n" * limits.NAME_LENGTH
    for path in (QUERY, "/v1/galleries/plain/score-map"):
        assert shared_server.http.post(path, params={"name": exact}, content=PNG).status_code == 200
        problem(shared_server.http.post(path, params={"name": exact + "n"}, content=PNG), status("name_length"), "name")
    assert formed(shared_server, name=exact + "n").json()["results"][0]["image"] == exact


def test_limit_prefix_length(server: Server) -> None:
    exact = "p" * limits.PREFIX_LENGTH
    server.finished(add(server, new_images(1), prefix=exact))
    over = server.http.post(IMAGES, params={"prefix": exact + "p"}, files=new_images(1))
    problem(over, status("prefix_length"), "prefix")


def test_limit_note_length(server: Server) -> None:
    exact = "n" * limits.NOTE_LENGTH
    said = server.http.post("/v1/galleries/plain/feedback", params={"note": exact}, files=new_images(1))
    assert server.finished(said.json()["id"])["note"] == exact
    over = server.http.post("/v1/galleries/plain/feedback", params={"note": exact + "n"}, files=new_images(1))
    problem(over, status("note_length"), "note")


def binary(images: list[bytes], **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of an inference of files."""
    data = b"".join(len(image).to_bytes(4, "little") + image for image in images)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)]}
    tensor |= {"parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "score"}], **more}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def infer(server: Server, body: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.http.post(INFER, content=content, headers=headers)


def test_limit_request_images(serve: Callable[..., Server]) -> None:
    server = serve(request_images=3)
    files = [(f"{seed}.png", png(seed)) for seed in range(4)]
    assert len(server.http.post(QUERY, files=parts(*files[:3])).json()["results"]) == 3
    assert "3" in problem(server.http.post(QUERY, files=parts(*files)), status("request_images"), "images")["detail"]
    assert infer(server, *binary([PNG] * 3)).status_code == 200
    assert "3" in protocol_error(infer(server, *binary([PNG] * 4)), 400)
    assert "3" in protocol_error(infer(server, *binary([b""] * 100_000)), 400)
    in_json = {"name": "image", "datatype": "BYTES", "shape": [4], "data": [""] * 4}
    assert "3" in protocol_error(infer(server, {"inputs": [in_json]}), 400)


def test_limit_add_images(serve: Callable[..., Server]) -> None:
    server = serve(add_images=3)
    problem(server.http.post(IMAGES, files=new_images(4)), status("add_images"), "images")
    server.finished(add(server, new_images(3)))


def test_limit_image_pixels(serve: Callable[..., Server]) -> None:
    server = serve(image_pixels=40 * 36)
    assert server.query("plain", PNG)["neighbours"]
    over = encoded(random_image(3, (41, 36)))
    assert "1,440" in problem(server.http.post(QUERY, content=over), status("image_pixels"), "images[0]")["detail"]
    assert infer(server, pixels((1, 36, 40, 3))).status_code == 200
    assert "1,440" in protocol_error(infer(server, pixels((1, 36, 41, 3))), status("image_pixels"))


def pixels(shape: tuple[int, ...], **more: Any) -> dict[str, Any]:
    data = np.zeros(shape, np.uint8).ravel().tolist()
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(shape), "data": data}
    return {"inputs": [tensor], "outputs": [{"name": "score"}], **more}


def test_limit_most_ids(shared_server: Server) -> None:
    exact = ["x"] * limits.MOST_IDS
    problem(shared_server.http.post(REMOVE, json={"ids": exact}), 404)
    problem(shared_server.http.post(REMOVE, json={"ids": [*exact, "x"]}), status("most_ids"), "ids")


def test_limit_json_elements(serve: Callable[..., Server]) -> None:
    question = pixels((1, 10, 10, 3), outputs=[{"name": "score_map"}])
    text = json.dumps(question).encode()
    elements = sum(map(text.count, (b",", b"[", b"{")))
    assert infer(serve(json_elements=max(elements, 32 * 32)), question).status_code == 200
    assert f"{elements - 1:,}" in protocol_error(infer(serve(json_elements=elements - 1), question), 400)
    few = serve(json_elements=32 * 32 - 1)
    small = json.dumps(pixels((1, 3, 3, 3), outputs=[{"name": "score_map"}]))
    assert "binary_data" in protocol_error(infer(few, json.loads(small)), 400)
    assert infer(few, json.loads(small) | {"parameters": {"binary_data_output": True}}).status_code == 200
    ids = {"ids": ["nobody"] * 10}  # ten commas and brackets, and two more
    for server, code in ((serve(json_elements=11), 404), (serve(json_elements=10), status("json_elements"))):
        problem(server.http.post(REMOVE, json=ids), code)


def test_limit_tensor_rank(shared_server: Server) -> None:
    file = base64.b64encode(PNG).decode()
    for rank, code in ((limits.TENSOR_RANK, 200), (limits.TENSOR_RANK + 1, status("tensor_rank"))):
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1] * rank, "data": [file]}
        assert infer(shared_server, {"inputs": [tensor]}).status_code == code


def test_limit_tensor_id_length(shared_server: Server) -> None:
    exact = "i" * limits.TENSOR_ID_LENGTH
    assert infer(shared_server, *binary([PNG], id=exact)).json()["id"] == exact
    protocol_error(infer(shared_server, *binary([PNG], id=exact + "i")), status("tensor_id_length"))


@pytest.mark.parametrize(
    "data",
    [["x" * 20_000] + [""] * 3000, [[]] * 100_000, [1] * 50 + ["x" * 50_000], [True] * 12, [1.0] * 12, [None], {}, ""],
    ids=lambda data: f"{type(data).__name__} of {len(data)}",
)
def test_a_tensor_of_other_values_takes_little(shared_server: Server, data: Any) -> None:
    """NumPy makes strings of all values if one is a string, each as long as the longest: 31 KB took 228 MB."""
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": data}
    begun = time.process_time()
    protocol_error(infer(shared_server, {"inputs": [tensor]}), 400)
    assert time.process_time() - begun < 5


def test_many_tensors_take_little_time(shared_server: Server) -> None:
    """Each that was cut off copied the rest of the body."""
    tensors = [
        {"name": str(number), "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 1}}
        for number in range(20_000)
    ]
    head = json.dumps({"inputs": tensors}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    begun = time.process_time()
    assert "`inputs`" in protocol_error(infer(shared_server, head + bytes(30 << 20), headers), 400)
    assert "`outputs`" in protocol_error(infer(shared_server, {"outputs": [{}] * 100_000}), 400)
    assert time.process_time() - begun < 10
