"""Inputs are exact: unknown and repeated parameters are named, numbers are in range, keys are read strictly."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import InputError
from spade_index.server.keys import Keys, read_keys
from spade_index.server.problems import ERRORS, Problem
from spade_index.server.schema import MOST_IDS

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png

pytestmark = pytest.mark.usefixtures("decoding_here")


OLD, NEW = "an-old-key-0123456789", "a-new-key-0123456789"


def known(keys: Keys, key: str) -> bool:
    try:
        keys.of({"x-api-key": key})
    except Problem:
        return False
    return True


def key_file(folder: Path, text: str) -> Path:
    path = folder / "keys"
    path.write_text(text, encoding="utf-8", newline="")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("end", [";", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"])
def test_nothing_but_a_new_line_ends_a_comment(tmp_path: Path, end: str) -> None:
    text = f"{NEW} * read  # before{end}{OLD} * write\n"
    for keys in (read_keys(key_file(tmp_path, text)), read_keys(None, {"SPADE_INDEX_API_KEYS": text})):
        assert known(keys, NEW)
        assert not known(keys, OLD)


def test_lines_may_end_as_on_other_systems(tmp_path: Path) -> None:
    keys = read_keys(key_file(tmp_path, f"{NEW} * read # one\r\n\r\n{OLD} plain write\r\n"))
    assert known(keys, NEW)
    assert known(keys, OLD)


def test_a_semicolon_ends_a_line_of_the_variable_only(tmp_path: Path) -> None:
    text = f"{NEW} * read; {OLD} * write"
    assert known(read_keys(None, {"SPADE_INDEX_API_KEYS": text}), OLD)
    with pytest.raises(InputError, match="line 1"):
        read_keys(key_file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{NEW} * read\n{NEW} plain write", "line 2: this key is there twice"),
        (f"{NEW} plain, read", "GALLERIES"),
        (f"{NEW} , read", "GALLERIES"),
        (f"{NEW} plain,,other read", "GALLERIES"),
        (f"{NEW} *,plain read", "GALLERIES"),
        (f"{NEW} * Read", "read|write"),
        (f"{NEW} * read write", "read|write"),
        (f"{NEW}\x00 * read", "ASCII"),
        (f"\ufeff{NEW} * read", "ASCII"),
        ("short * read", "16"),
    ],
)
def test_an_ambiguous_line_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as raised:
        read_keys(key_file(tmp_path, text))
    assert says in str(raised.value)
    assert NEW not in str(raised.value)


QUERIES = [
    ("POST", "/v1/galleries/plain/query?treshold=40", "treshold"),
    ("POST", "/v1/galleries/plain/query?threshold=1&threshold=40", "threshold"),
    ("POST", "/v1/galleries/plain/query?threshold=40&Threshold=40", "Threshold"),
    ("POST", "/v1/galleries/plain/query?maps=never&maps=never", "maps"),
    ("POST", "/v1/galleries/plain/score-map?format=heat&form=heat", "form"),
    ("GET", "/v1/galleries?limit=3", "limit"),
    ("GET", "/v1/galleries/plain/images?limit=3&limit=5", "limit"),
    ("GET", "/v1/galleries/plain/images?before=3", "before"),
    ("GET", "/v1/galleries/plain/thumbnail?id=003.png&id=004.png", "id"),
    ("GET", "/v1/jobs?state=done", "state"),
    ("GET", "/metrics?name=x", "name"),
    ("GET", "/v1?" + "a" * 5000 + "=1", "a" * 100),
]


@pytest.mark.parametrize(("method", "path", "field"), QUERIES, ids=lambda value: str(value)[:60])
def test_unknown_and_repeated_parameters_are_named(shared_server: Server, method: str, path: str, field: str) -> None:
    before = shared_server.watch.images
    told = problem(shared_server.http.request(method, path, content=png(3) if method == "POST" else None), 422, field)
    assert "unknown" in told["detail"] or "more than once" in told["detail"]
    assert shared_server.watch.images == before


def test_so_are_those_of_the_open_inference_protocol(shared_server: Server) -> None:
    answer = shared_server.http.get("/v2/models/plain?verbose=1")
    assert (answer.status_code, "'verbose'" in answer.json()["error"]) == (422, True)


def test_parameters_of_a_gallery_are_not_told_without_its_key(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{NEW} plain read")
    headers = {"Authorization": f"Bearer {NEW}"}
    problem(server.http.get("/v1/galleries/other?x=1", headers=headers), 403)
    problem(server.http.get("/v1/galleries/plain?x=1"), 401)


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_a_key_is_given_once(serve: Callable[..., Server], header: str) -> None:
    server = serve(keys=f"{NEW} * read; {OLD} plain read")
    scheme = "Bearer " if header == "Authorization" else ""
    headers = [(header, f"{scheme}{NEW}"), (header, f"{scheme}{OLD}")]
    problem(server.http.get("/v1/galleries/plain", headers=headers), 400, header)


MANY = "9" * 5000


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/galleries/plain/query?threshold={MANY}",
        "/v1/galleries/plain/query?threshold=1e999",
        "/v1/galleries/plain/query?threshold=nan",
        f"/v1/galleries/plain/query?snapshot={MANY}",
        "/v1/galleries/plain/query?snapshot=9223372036854775808",
        "/v1/galleries/plain/query?snapshot=-1",
    ],
    ids=lambda path: path[:60],
)
def test_huge_numbers_are_refused(shared_server: Server, path: str) -> None:
    assert shared_server.http.post(path, content=png(3)).status_code in (404, 422)


@pytest.mark.parametrize("name", ["after", "limit"])
@pytest.mark.parametrize("value", [MANY, "-" + MANY, "1e5", "٣", " 1", "0x1", "1_0_0_0_0"])
def test_numbers_of_a_list_are_in_range(shared_server: Server, name: str, value: str) -> None:
    answer = shared_server.http.get("/v1/galleries/plain/images", params={name: value})
    assert answer.status_code in (200, 422)
    if value in (MANY, "1e5", "0x1", "-" + MANY):
        assert answer.status_code == 422


@pytest.mark.parametrize("version", [MANY, "-1", "٣", "1.0", "+1", " 1"])
def test_a_version_is_the_number_of_a_snapshot(shared_server: Server, version: str) -> None:
    assert shared_server.http.get(f"/v2/models/plain/versions/{version}").status_code == 404


@pytest.mark.parametrize("number", [MANY, "-1", "1.0", "+1", "01", "1_0", " 1"])
def test_a_number_in_a_path_is_exact(shared_server: Server, number: str) -> None:
    answer = shared_server.http.get(f"/v1/galleries/plain/defects/{number}/picture")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "number")


@pytest.mark.parametrize(
    "header",
    [
        f"Content-Length: {MANY}",
        "Content-Length: -1",
        "Content-Length: +5",
        "Content-Length: 5, 6",
        "Content-Length: 5\r\nContent-Length: 6",
        f"Inference-Header-Content-Length: {MANY}\r\nContent-Length: 2",
        "Inference-Header-Content-Length: -1\r\nContent-Length: 2",
        "Inference-Header-Content-Length: 5\r\nContent-Length: 2",
        f"Host: localhost:{MANY}\r\nContent-Length: 2",
    ],
    ids=lambda header: header[:40],
)
def test_headers_of_many_digits_are_refused(shared_server: Server, header: str) -> None:
    with shared_server.connect() as connection:
        connection.send(f"POST /v2/models/plain/infer HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n{{}}".encode())
        assert 400 <= connection.answer().status_code < 500


IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png(1)).decode()]}
INPUTS = f'"inputs": [{json.dumps(IMAGE)}]'


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (f'{{{INPUTS}, "parameters": {{"threshold": {"9" * 400}}}}}', 400, "threshold"),
        (f'{{{INPUTS}, "parameters": {{"threshold": {MANY}}}}}', 400, "not JSON"),
        (f'{{{INPUTS}, "parameters": {{"threshold": NaN}}}}', 400, "NaN"),
        (f'{{{INPUTS}, "parameters": {{"threshold": 1e999}}}}', 400, "threshold"),
        (f'{{{INPUTS}, "parameters": {{"treshold": 1}}}}', 422, "treshold"),
        (f'{{{INPUTS}, "parameters": {{"threshold": 1, "threshold": 40}}}}', 422, "twice"),
        (f"{{{INPUTS}, {INPUTS}}}", 422, "twice"),
        (f'{{"inputs": [{json.dumps(IMAGE)}, {json.dumps(IMAGE)}]}}', 422, "twice"),
        (f'{{"inputs": [{json.dumps(IMAGE | {"name": "picture"})}]}}', 422, "picture"),
        (f'{{{INPUTS}, "outputs": [{{"name": "score"}}, {{"name": "score"}}]}}', 422, "twice"),
        (f'{{{INPUTS}, "outputs": [{{"name": "scores"}}]}}', 422, "scores"),
        (f'{{"inputs": [{json.dumps(IMAGE | {"shape": [10**400]})}]}}', 400, "elements"),
        (f'{{"inputs": [{json.dumps(IMAGE | {"parameters": {"binary_data_size": 10**400}})}]}}', 400, "binary_data_s"),
        ("[" * 100_000, 400, "not JSON"),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_requests_for_an_inference_are_exact(shared_server: Server, body: str, status: int, says: str) -> None:
    answer = shared_server.http.post("/v2/models/plain/infer", content=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"ids": ["x"] * MOST_IDS}, 404),
        ({"ids": ["x"] * (MOST_IDS + 1)}, 422),
        ({"ids": [1] * 9000}, 422),
        ({"ids": ["003.png"], "id": "004.png"}, 422),
        ({"ids": ["x" * 2**20]}, 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ids_are_limited_in_number_and_bytes(shared_server: Server, body: dict[str, Any], status: int) -> None:
    answer = shared_server.http.post("/v1/galleries/plain/remove", json=body)
    assert answer.status_code == status
    assert len(answer.content) < 20_000
    assert len(answer.json().get("errors", [])) <= ERRORS


@pytest.mark.parametrize("body", [f'{{"ids": [{MANY}]}}', "[" * 100_000, '{"ids": ["\\ud800"]}', f"{{{MANY}: 1}}"])
def test_ids_that_are_no_text_are_refused(shared_server: Server, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = shared_server.http.post("/v1/galleries/plain/remove", content=body, headers=headers)
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("action", ["remove", "restore"])
@pytest.mark.parametrize("body", ['{"ids": ["003.png"], "ids": ["004.png"]}', '{"ids": [{"a": 1, "a": 2}]}'])
def test_a_name_that_is_twice_in_an_object_is_named(server: Server, action: str, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(f"/v1/galleries/plain/{action}", content=body, headers=headers)
    assert "twice" in problem(answer, 422, "body")["detail"]
    assert server.http.get("/v1/galleries/plain").json()["images"] == 12


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_are_not_json(shared_server: Server, constant: str) -> None:
    headers = {"Content-Type": "application/json"}
    body = f'{{"ids": [{constant}]}}'
    answer = shared_server.http.post("/v1/galleries/plain/remove", content=body, headers=headers)
    assert constant in problem(answer, 422, "body")["detail"]


@pytest.mark.parametrize("blank", ["\u00a0", "\u2003", "\v", "\f", "\x1c", "\x85", "\u3000"])
@pytest.mark.parametrize("place", [0, 1])
def test_words_of_a_key_are_parted_by_blanks_alone(tmp_path: Path, blank: str, place: int) -> None:
    text = f"{NEW}{blank if place == 0 else ' '}*{blank if place == 1 else ' '}write"
    for file, environment in ((key_file(tmp_path, text), {}), (None, {"SPADE_INDEX_API_KEYS": text})):
        with pytest.raises(InputError, match="line 1"):
            read_keys(file, environment)


@pytest.mark.parametrize("text", [" ", "\n", "# none", ";", " ; # x", "\r\n"])
def test_keys_that_are_given_are_there(tmp_path: Path, text: str) -> None:
    for file, environment in ((key_file(tmp_path, text), {}), (None, {"SPADE_INDEX_API_KEYS": text})):
        with pytest.raises(InputError, match=r"there is no key in it|line 1: write KEY"):
            read_keys(file, environment)
    assert not read_keys(None, {"SPADE_INDEX_API_KEYS": ""})


@pytest.mark.parametrize("names", ["a/b", "../plain", "plain,a/b", "pl*", "a\x00b", "/"])
def test_a_key_names_galleries_that_can_be(tmp_path: Path, names: str) -> None:
    with pytest.raises(InputError, match="GALLERIES"):
        read_keys(key_file(tmp_path, f"{NEW} {names} read"))
