"""Heads are read in one way: targets, parameters, hosts, lengths and keys that can be read in two are refused."""

from collections.abc import Callable
from urllib.parse import quote

import pytest

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png

pytestmark = pytest.mark.usefixtures("decoding_here")
AT = "/v1/galleries/plain"
NO_WHOLES = ["1.0", "+5", " 5", "5 ", "5e0", "1_0", "05", "0x5", "٣", "５", "5\n", "", "5,5", "true"]
NO_REALS = [
    "+5",
    " 5",
    "5 ",
    "1_0",
    ".",
    "5.",
    "05",
    "٣",
    "5\n",
    "",
    "1e999",
    "inf",
    "-Infinity",
    "NaN",
    "5j",
    "1e1_0",
]
NO_FLAGS = ["1", "0", "yes", "on", "t", "True", "TRUE", "false ", ""]


@pytest.mark.parametrize(
    ("path", "name", "texts"),
    [
        (f"{AT}/images", "limit", NO_WHOLES),
        (f"{AT}/images", "after", NO_WHOLES),
        (f"{AT}/images", "removed", NO_FLAGS),
        (f"{AT}/thumbnail?id=003.png", "snapshot", NO_WHOLES),
        (f"{AT}/audit", "count", NO_WHOLES),
        ("/v1/results/0/overlay.png", "opacity", NO_REALS),
        ("/v1/results/0/match?y=1", "x", NO_WHOLES),
    ],
)
def test_numbers_and_flags_have_one_spelling(shared_server: Server, path: str, name: str, texts: list[str]) -> None:
    for text in texts:
        target = f"{path}{'&' if '?' in path else '?'}{name}={quote(text)}"
        problem(shared_server.http.get(target), 422, name)


@pytest.mark.parametrize("text", NO_REALS)
def test_thresholds_have_one_spelling(shared_server: Server, text: str) -> None:
    before = shared_server.watch.images
    problem(shared_server.http.post(f"{AT}/query?threshold={quote(text)}", content=png(3)), 422, "threshold")
    assert shared_server.watch.images == before


@pytest.mark.parametrize("name", ["replace", "again"])
def test_flags_of_adding_have_one_spelling(shared_server: Server, name: str) -> None:
    for text in NO_FLAGS:
        files = {"images": ("a.png", png(3))}
        problem(shared_server.http.post(f"{AT}/images?{name}={quote(text)}", files=files), 422, name)


def test_the_spelling_of_json_is_taken(shared_server: Server) -> None:
    for text in ("5", "1000"):
        assert shared_server.http.get(f"{AT}/images?limit={text}&after=-1&removed=false").status_code == 200
    for text in ("5", "-0.5", ".5", "1e-3", "2.5E+1"):
        answer = shared_server.http.post(f"{AT}/query?maps=never&threshold={quote(text)}", content=png(3))
        assert answer.json()["results"][0]["threshold"] == float(text)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"{AT}%2Fimages", 404),
        (f"{AT}%2fimages", 404),
        ("/v1%2fgalleries", 404),
        ("/v2/models/plain%2Fstats", 404),
        ("/v2/models/plain%2fversions%2f1", 404),
        ("/v1/galleries/%2e%2e%2fplain", 404),
        ("/v1/galleries/..%2Fplain", 404),
        ("/v1/galleries/%2e%2e", 404),
        ("/v1/galleries/%2e", 404),
        ("/v1/galleries/./plain", 404),
        ("/v1/galleries//plain", 404),
        ("/v1/galleries/plain%00", 404),
        ("/v1/galleries/plain%0a", 404),
        ("/v1/galleries/PLAIN", 404),
        ("/v1/galleries/plain.", 404),
        ("/v1/galleries/%zz", 404),
        ("/v1/galleries/plain%", 404),
        ("/v1/galleries/%ff", 404),
        ("/v1/galleries/%ed%a0%80", 404),
        ("/v1/galleries/%c0%ae%c0%ae", 404),
        (f"{AT}/thumbnail?id=%ff", 400),
        (f"{AT}/thumbnail?id=%zz", 400),
        (f"{AT}/thumbnail?id=003%2", 400),
        ("/v1/galleries/pl%61in", 200),
        (f"{AT}/thumbnail?id=003%2epng", 200),
    ],
)
def test_a_target_is_read_in_one_way(shared_server: Server, target: str, status: int) -> None:
    with shared_server.connect() as connection:
        connection.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.answer().status_code == status
        assert connection.request("GET", "/v1").status_code == 200


@pytest.mark.parametrize("path", ["/v1/galleries/{}", f"{AT}/thumbnail?id={{}}", "/v1/jobs/{}", "/v2/models/{}", "/{}"])
def test_what_was_sent_is_not_told_at_length(shared_server: Server, path: str) -> None:
    answer = shared_server.http.get(path.format("x" * 9000))
    assert answer.status_code == 404
    assert len(answer.content) < 4000


def test_nor_are_ids(shared_server: Server) -> None:
    answer = shared_server.http.post(f"{AT}/remove", json={"ids": ["x" * 500_000]})
    assert answer.status_code == 404
    assert len(answer.content) < 4000


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Host: localhost\r\nContent-Length: 2\r\nContent-Length: 2", 400),
        ("Host: localhost\r\nContent-Length: 2, 2", 400),
        ("Host: localhost\r\nContent-Length: 2\r\ncontent-length: 2", 400),
        ("Host: localhost\r\nContent-Length: +2", 400),
        ("Host: localhost:80:80\r\nContent-Length: 2", 400),
        ("Host: localhost:123456\r\nContent-Length: 2", 400),
        ("Host: localhost:8x\r\nContent-Length: 2", 400),
        ("Host: localhost, localhost\r\nContent-Length: 2", 400),
        ("Host: user@localhost\r\nContent-Length: 2", 400),
        ("Host: localhost/x\r\nContent-Length: 2", 400),
        ("Host: [::1]localhost\r\nContent-Length: 2", 400),
        ("Host: [::1\r\nContent-Length: 2", 400),
        ("Host: localhost\r\nHost: localhost\r\nContent-Length: 2", 400),
        ("Host: localhost\r\nOrigin: http://a\r\nOrigin: http://localhost\r\nContent-Length: 2", 400),
        ("Host: localhost\r\nExpect: 200-ok\r\nContent-Length: 2", 417),
        ("Host: localhost\r\nExpect: 100-Continue\r\nContent-Length: 2", 422),
        ("Host: [::1]:80\r\nContent-Length: 2", 422),
        ("Host: LocalHost:\r\nContent-Length: 2", 422),
    ],
)
def test_a_head_is_read_in_one_way(shared_server: Server, lines: str, status: int) -> None:
    with shared_server.connect() as connection:
        connection.send(f"POST {AT}/query HTTP/1.1\r\n{lines}\r\n\r\n{{}}".encode())
        assert connection.answer().status_code == status


@pytest.mark.parametrize(("version", "status"), [("1.0", 200), ("1.2", 505), ("2.0", 505), ("0.9", 505), ("3.0", 505)])
def test_other_versions_of_http_are_refused(shared_server: Server, version: str, status: int) -> None:
    with shared_server.connect() as connection:
        connection.send(f"GET /v1 HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        assert connection.answer().status_code == status


KEY, OTHER = "a-key-of-plain-012345", "a-key-of-other-012345"


def test_a_request_has_one_key(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{KEY} plain read; {OTHER} other write")
    for first, second in ((KEY, OTHER), (OTHER, KEY), (KEY, KEY)):
        headers = {"Authorization": f"Bearer {first}", "X-Api-Key": second}
        problem(server.http.get(AT, headers=headers), 400, "X-Api-Key")
    proxied = {"Authorization": "Basic eDp5", "X-Api-Key": KEY}  # a proxy's own
    assert server.http.get(AT, headers=proxied).status_code == 200


def test_a_job_of_another_gallery_does_not_tell_its_name(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{KEY} plain write; {OTHER} other read")
    job = server.http.post(f"{AT}/images", files={"images": ("a.png", png(70))}, headers={"X-Api-Key": KEY}).json()
    told = problem(server.http.get(f"/v1/jobs/{job['id']}", headers={"X-Api-Key": OTHER}), 403)
    assert "plain" not in told["detail"]
    assert server.finished(job["id"], headers={"X-Api-Key": KEY})


def test_a_file_of_the_page_that_is_known_is_not_sent_again(shared_server: Server) -> None:
    tag = shared_server.http.get("/page.js").headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        assert shared_server.http.get("/page.js", headers={"If-None-Match": known}).status_code == 304
    for known in ('"other"', tag.strip('"'), ""):
        assert shared_server.http.get("/page.js", headers={"If-None-Match": known}).status_code == 200


def test_ranges_are_not_served(shared_server: Server) -> None:
    whole = shared_server.http.get(f"{AT}/thumbnail?id=003.png").content
    for asked in ("bytes=0-9", "bytes=-1", "bytes=999999-", "bytes=0-1,5-6", "lines=1-2"):
        answer = shared_server.http.get(f"{AT}/thumbnail?id=003.png", headers={"Range": asked})
        assert (answer.status_code, answer.content) == (200, whole)


def test_requests_behind_one_another_have_each_their_own_key(serve: Callable[..., Server]) -> None:
    server = serve(keys=f"{KEY} plain read; {OTHER} other read")
    keys = [f"X-Api-Key: {KEY}\r\n", "", f"Authorization: bearer {OTHER}\r\n", f"x-api-key: {KEY}\r\n"]
    with server.connect() as connection:
        connection.send("".join(f"GET {AT} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n" for key in keys).encode())
        assert [connection.answer().status_code for _ in keys] == [200, 401, 403, 200]


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PUT", "PATCH", "get", "Post", "FOO"])
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/galleries", AT, f"{AT}/query", "/v2/models/plain/infer", "/metrics"])
def test_other_methods_are_refused(shared_server: Server, method: str, path: str) -> None:
    with shared_server.connect() as connection:
        connection.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        answer = connection.answer()
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) <= {"GET", "POST", "DELETE", "HEAD"}
