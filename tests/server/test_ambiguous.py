"""What can be read in two ways is refused and named: a proxy, or another parser, may read it in the other way."""

import json

import pytest

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png

QUERY = "/v1/galleries/plain/query"
INFER = "/v2/models/plain/infer"
IMAGE = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [0, 1, 2, 3, 4, 5]}
PART = 'Content-Disposition: form-data; name="images"; filename="a.png"'


@pytest.mark.parametrize(
    "head", ["Content-Length: 4\r\nTransfer-Encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 5"]
)
def test_a_body_of_two_lengths_is_refused_and_the_connection_closed(shared_server: Server, head: str) -> None:
    smuggled = b"0\r\n\r\nGET /v1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with shared_server.connect() as connection:
        connection.send(f"POST {QUERY} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + smuggled)
        told = connection.answer()
        assert (told.status_code, "Content-Length" in told.json()["detail"]) == (400, True)
        assert connection.is_closed()


@pytest.mark.parametrize("name", ["Content-Type", "Content-Encoding", "Inference-Header-Content-Length"])
def test_headers_that_say_how_to_read_a_body_are_there_once(shared_server: Server, name: str) -> None:
    values = {"Content-Type": "image/png", "Content-Encoding": "identity"}
    headers = [(name, values.get(name, "2"))] * 2
    answer = shared_server.http.post(QUERY, content=png(3), headers=headers)
    problem(answer, 400, name)
    assert name in shared_server.http.post(INFER, content=b"{}", headers=headers).json()["error"]
    assert shared_server.http.post(QUERY, content=png(3), headers=headers[:1]).status_code == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (PART, 200),
        (f"{PART}\r\nContent-Transfer-Encoding: binary", 200),
        (f"{PART}\r\nContent-Transfer-Encoding: base64", 415),
        (f"{PART}\r\ncontent-transfer-encoding: Quoted-Printable", 415),
        (f"{PART}\r\n{PART}", 422),
        (PART.replace("form-data", "attachment"), 422),
        (PART.replace("form-data", "FORM-DATA"), 200),
        (f'{PART}; filename="b.png"', 422),
        (f'{PART}; FileName="b.png"', 422),
        (f'{PART}; name="other"', 422),
        (f"{PART}; filename*=UTF-8''b.png; filename*=UTF-8''c.png", 422),
        (f"{PART}; filename*=UTF-8''b.png", 200),
        ('Content-Disposition: form-data; name="images"; filename="a; filename=b; filename=c"', 200),
    ],
)
def test_a_part_of_a_form_has_one_name_and_is_not_encoded(shared_server: Server, head: str, status: int) -> None:
    body = f"--b\r\n{head}\r\n\r\n".encode() + png(3) + b"\r\n--b--\r\n"
    answer = shared_server.http.post(QUERY, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == status, answer.text
    if status != 200:
        problem(answer, status, "images")


@pytest.mark.parametrize("boundaries", ["boundary=b; boundary=c", "boundary=c; boundary=b", 'boundary=b; Boundary="b"'])
def test_a_form_has_one_boundary(shared_server: Server, boundaries: str) -> None:
    body = f"--b\r\n{PART}\r\n\r\n".encode() + png(3) + b"\r\n--b--\r\n"
    kind = f"multipart/form-data; {boundaries}"
    problem(shared_server.http.post(QUERY, content=body, headers={"Content-Type": kind}), 400, "Content-Type")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_json_is_utf_8(shared_server: Server, encoding: str) -> None:
    for path, field in (("/v1/galleries/plain/remove", "body"), (INFER, None)):
        headers = {"Content-Type": f"application/json; charset={encoding}"}
        answer = shared_server.http.post(path, content='{"ids": ["x"]}'.encode(encoding), headers=headers)
        assert (answer.status_code, "not JSON" in answer.text) == (422 if field else 400, True)


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({}, 200, ""),
        ({"parameters": {"timeout": 5, "binary_data_output": False}}, 200, ""),
        ({"model": "other"}, 422, "model"),
        ({"parameters": {"binary_data_output": "yes"}}, 400, "binary_data_output"),
        ({"outputs": [{"name": "score", "data": []}]}, 422, "data"),
        ({"outputs": [{"name": "score", "parameters": {"binary_data": 1}}]}, 400, "binary_data"),
        ({"outputs": [{"name": "score", "parameters": {"classification": 3}}]}, 422, "classification"),
        ({"inputs": [IMAGE | {"parameters": {"shared_memory_region": "x"}}]}, 422, "shared_memory_region"),
        ({"inputs": [IMAGE | {"parameters": {"binary_data_size": 0}}]}, 400, "binary_data_size"),
        ({"inputs": [IMAGE | {"dtype": "FP32"}]}, 422, "dtype"),
        ({"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 2, 3]}]}, 400, "data"),
    ],
)
def test_an_inference_has_no_names_that_are_passed_over(
    shared_server: Server, changes: dict[str, object], status: int, says: str
) -> None:
    answer = shared_server.http.post(INFER, content=json.dumps({"inputs": [IMAGE], **changes}))
    assert answer.status_code == status, answer.text
    assert status == 200 or says in answer.json()["error"]


@pytest.mark.parametrize("threshold", [1e39, -1e39, 10**40, True, "5"])
def test_a_threshold_of_an_inference_is_finite_in_its_output(shared_server: Server, threshold: object) -> None:
    changes = {"parameters": {"threshold": threshold}, "outputs": [{"name": "threshold"}]}
    answer = shared_server.http.post(INFER, content=json.dumps({"inputs": [IMAGE], **changes}))
    assert (answer.status_code, "`threshold`" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": True},
        {"id": 0.5},
        {"id": "\ud800"},
        {"parameters": []},
        {"parameters": False},
        {"parameters": ""},
        {"parameters": {"timeout": [1]}},
        {"parameters": {"priority": {}}},
        {"parameters": {"maps": "\udfff"}},
        {"inputs": {}},
        {"inputs": ""},
        {"outputs": {}},
        {"outputs": False},
        {"outputs": 0},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": "iVBORw0KGgo="}]},
        {"inputs": [IMAGE | {"shape": [1.0, 1, 2, 3]}]},
        {"inputs": [IMAGE | {"shape": [True, 1, 2, 3]}]},
        {"inputs": [IMAGE | {"data": [True, 1, 2, 3, 4, 5]}]},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_values_of_an_inference_have_their_types(shared_server: Server, changes: dict[str, object]) -> None:
    answer = shared_server.http.post(INFER, content=json.dumps({"inputs": [IMAGE], **changes}))
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("ready", ["1", "0", '"true"', '"yes"', '"on"', "1.0", "null", "[]"])
def test_a_flag_in_json_is_true_or_false(shared_server: Server, ready: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = shared_server.http.post("/v2/repository/index", content=f'{{"ready": {ready}}}', headers=headers)
    assert answer.status_code == 422, answer.text
