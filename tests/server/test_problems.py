"""Tests of errors: problem details that name the field, and tell nothing of the inside."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spade_index.gallery.write.writer import GalleryWriter

from helpers.http_answers import problem
from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import parts

pytestmark = pytest.mark.usefixtures("decoding_here")
QUERY = "/v1/galleries/plain/query"

LEAVING = [
    "..",
    ".",
    "%2e%2e",
    "..%2f..%2fetc",
    "%2e%2e%2fplain",
    "..%5cplain",
    "%2Fetc",
    "//etc/passwd",
    "plain%2f..%2fplain",
    "plain%00",
    "%00",
    ".spade-index",
    "%ff%fe",
    "%ed%a0%80",
    "%E2%80%AE",
    "%F0%9F%92%A9",
    "a" * 300,
    "a%2f" * 2000,
    "%0d%0aX-Evil:%201",
    "~root",
    "",
]


@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("route", ["", "/images", "/query", "/thumbnail?id=x"])
def test_gallery_names_cannot_leave_the_root(shared_server: Server, name: str, route: str) -> None:
    method, body = ("POST", png(1)) if route == "/query" else ("GET", b"")
    with shared_server.connect() as connection:
        answer = connection.request(method, f"/v1/galleries/{name}{route}", body)
    told = problem(answer, answer.status_code)
    assert told["status"] in (404, 405)
    assert "x-evil" not in answer.headers
    assert str(shared_server.settings.root) not in answer.content.decode()


def test_links_and_files_beside_the_galleries_are_not_galleries(serve, root: Path) -> None:
    (root / "file").write_text("no gallery")
    (root / "empty").mkdir()
    (root / "dangling").symlink_to("/nowhere")
    (root / ".hidden").symlink_to("plain")
    (root / "loop").symlink_to("loop")
    os.mkdir(os.fsencode(root / "no text ") + b"\xff")
    server = serve()
    names = [gallery["name"] for gallery in server.http.get("/v1/galleries").json()["galleries"]]
    assert names == ["calibrated", "cropped", "other", "plain"]
    for name in ("file", "empty", "dangling", ".hidden", "loop"):
        problem(server.http.get(f"/v1/galleries/{name}"), 404, "gallery")


def test_a_folder_that_is_closed_to_the_service_is_no_matter_of_others(
    serve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def refusing(path: Any, *options: Any, **more: Any) -> os.stat_result:
        if isinstance(path, str | Path) and os.fspath(path).startswith(f"{root / 'other'}/"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return stat(path, *options, **more)

    monkeypatch.setattr(os, "stat", refusing)
    server = serve()
    told = server.http.get("/v1/galleries").json()["galleries"]
    assert [gallery["name"] for gallery in told] == ["calibrated", "cropped", "plain"]
    assert server.http.get("/v1").json()["galleries"] == 3
    assert server.http.get("/v1/models").json() == {"models": ["calibrated", "cropped", "plain"]}
    assert len(server.http.post("/v2/repository/index").json()) == 3
    assert server.query("plain", png(1))["score"] > 0
    problem(server.http.get("/v1/galleries/other"), 404, "gallery")


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"maps": "maybe"}, "maps"),
        ({"threshold": "x"}, "threshold"),
        ({"threshold": "nan"}, "threshold"),
        ({"threshold": "inf"}, "threshold"),
        ({"snapshot": "-1"}, "snapshot"),
        ({"snapshot": "9" * 30}, "snapshot"),
        ({"snapshot": "1.5"}, "snapshot"),
        ({"name": "n" * 2000}, "name"),
    ],
)
def test_an_invalid_parameter_is_named(shared_server: Server, parameters: dict, field: str) -> None:
    problem(shared_server.http.post(QUERY, content=png(1), params=parameters), 422, field)


def test_all_invalid_parameters_are_named_together(shared_server: Server) -> None:
    told = problem(shared_server.http.post(QUERY, content=png(1), params={"maps": "no", "threshold": "x"}), 422)
    assert {error["field"] for error in told["errors"]} == {"maps", "threshold"}


def test_an_undecodable_image_is_named_by_its_position(
    shared_server: Server,
) -> None:
    before = shared_server.watch.images
    answer = shared_server.http.post(QUERY, files=parts(("a.png", png(1)), ("b.png", b"no image"), ("c.png", png(2))))
    told = problem(answer, 422, "images[1]")
    assert "b.png" in told["detail"]
    problem(shared_server.http.post(QUERY, content=png(1)[:100]), 422, "images[0]")
    problem(shared_server.http.post(QUERY, content=b""), 422, "images")
    assert shared_server.watch.images == before


def test_an_invalid_form_is_refused(shared_server: Server) -> None:
    http = shared_server.http
    problem(http.post(QUERY, files=parts(("a.png", png(1)), field="image")), 422, "image")
    problem(http.post(QUERY, files={"images": (None, "text")}), 422, "images")
    empty = {"Content-Type": "multipart/form-data; boundary=b"}
    problem(http.post(QUERY, content=b"--b--\r\n", headers=empty), 422, "images")
    problem(http.post(QUERY, content=b"nothing", headers={"Content-Type": "multipart/form-data"}), 400)
    for body in (
        b"garbage",
        b"--b\r\n",
        b"--b\r\n\r\n",
        b"--b\r\nbroken\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nA: " + b"x" * 99_999,
    ):
        answer = http.post(QUERY, content=body, headers=empty)
        assert answer.status_code in (400, 422), answer.content
        problem(answer, answer.status_code)
    cut = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + png(1)
    problem(http.post(QUERY, content=cut, headers=empty), 400)


def test_other_content_types_are_refused(shared_server: Server) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = shared_server.http.post(QUERY, content=png(1), headers={"Content-Type": kind})
        problem(answer, 415, "Content-Type")
    answer = shared_server.http.post(
        "/v1/galleries/plain/images", content=png(1), headers={"Content-Type": "image/png"}
    )
    problem(answer, 415, "Content-Type")


def test_unknown_resources_are_404(shared_server: Server) -> None:
    http = shared_server.http
    problem(http.get("/v1/nothing"), 404)
    problem(http.get("/v1/galleries/nothing"), 404, "gallery")
    problem(http.get("/v1/results/nothing"), 404, "id")
    problem(http.get("/v1/results/nothing/overlay.png"), 404, "id")
    problem(http.get("/v1/jobs/nothing"), 404, "id")
    problem(http.delete("/v1/jobs/nothing"), 404, "id")
    problem(http.post("/v1/jobs/nothing/resume"), 404, "id")
    problem(http.get("/v1/galleries/plain/thumbnail", params={"id": "nothing"}), 404)
    told = problem(http.post("/v1/galleries/plain/remove", json={"ids": ["nothing"]}), 404)
    assert told["instance"] == "/v1/galleries/plain/remove"


def test_ids_can_be_any_valid_text(server: Server) -> None:
    at = "/v1/galleries/plain/remove"
    for body in (
        b'{"ids": ["\\ud800"]}',
        b'{"ids": ["\\u0000"]}',
        b'{"ids": ["' + b"a" * 100_000 + b'"]}',
        b'{"ids": [1]}',
        b'{"ids": "a"}',
        b'{"ids": null}',
        b"[" * 100_000,
        b'{"ids": [' + b'"x",' * 100_000 + b'"x"]}',
        b"\xff\xfe",
        b"",
        b"null",
    ):
        answer = server.http.post(at, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 404, 422), answer.content[:300]
        problem(answer, answer.status_code)


def test_a_valid_request_id_is_adopted(shared_server: Server) -> None:
    http = shared_server.http
    assert http.get("/v1", headers={"X-Request-Id": "line-7.Screen_2"}).headers["x-request-id"] == "line-7.Screen_2"
    told = problem(http.get("/v1/nothing", headers={"X-Request-Id": "mine"}), 404)
    assert told["request_id"] == "mine"
    for odd in ("a" * 65, "a b", "<script>", '"'):
        assert http.get("/v1", headers={"X-Request-Id": odd}).headers["x-request-id"] != odd


def test_unexpected_errors_are_detailed_only_in_the_log(serve, caplog, monkeypatch) -> None:
    server = serve()
    secret = "a secret of the inside: /root/secret"

    def broken(*arguments: object) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr(server.service.galleries, "use", broken)
    answer = server.http.post(QUERY, content=png(1))
    told = problem(answer, 500)
    assert "secret" not in answer.text
    assert told["request_id"] in caplog.text
    assert secret in caplog.text
    monkeypatch.undo()
    assert server.query("plain", png(1))["neighbours"][0]["id"] == "001.png"


def test_errors_do_not_reveal_the_path_of_the_root(serve, root: Path) -> None:
    (root / "plain" / "shards" / "000001.h5").unlink()
    for path in (root / "other" / "index").iterdir():
        path.write_bytes(b"damaged")
    (root / "cropped" / "catalog.sqlite").write_bytes(b"damaged" * 1000)
    server = serve()
    answers = [
        server.http.post(f"/v1/galleries/{name}/{route}", **options)
        for name in ("plain", "other", "cropped")
        for route, options in [
            ("query", {"content": png(3)}),
            ("query", {"content": png(3), "params": {"maps": "auto"}}),
            ("query", {"content": b"no image"}),
            ("remove", {"json": {"ids": ["nope"]}}),
            ("remove", {"json": {"ids": ["003.png"]}}),
            ("restore", {"json": {"ids": ["003.png"]}}),
            ("reload", {}),
            ("images", {"files": parts(("a.png", b"no image"))}),
        ]
    ]
    answers += [server.http.get("/v1/galleries"), server.http.get("/v1/jobs")]
    answers += [server.http.get(f"/v1/galleries/{name}/thumbnail?id=000.png") for name in ("plain", "cropped")]
    whole = serve(root=root / "plain")
    answers += [whole.http.get("/v1/galleries"), whole.http.post(QUERY, content=png(3), params={"maps": "auto"})]
    assert [a for a in answers if a.status_code >= 400]
    for answer in answers:
        assert str(root) not in answer.text
        assert str(root.parent) not in answer.text
        assert "Traceback" not in answer.text


def test_an_unloadable_backbone_is_reported_without_its_path(serve, root: Path) -> None:
    from spade_index.errors import BackboneError

    server = serve()

    def load(gallery: object, device: str) -> None:
        raise BackboneError("/secret/weights.safetensors: no such file: give the weights with --weights")

    server.service.galleries._load = load
    answer = server.http.post(QUERY, content=png(1))
    problem(answer, 500)
    assert "/secret" not in answer.text


def test_image_names_are_shown_as_one_line(shared_server: Server) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="a\x1b[31m\xc2\x85b.png"\r\n\r\n'
        + b"no image\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    told = problem(shared_server.http.post(QUERY, content=body, headers=headers), 422)
    assert told["detail"].isprintable()


def test_a_picture_of_no_pixels_worth_is_no_matter(shared_server: Server) -> None:
    for size in ((1, 1), (1, 5000), (5000, 1), (2, 3)):
        buffer = io.BytesIO()
        Image.new("L", size, 7).save(buffer, "PNG")
        told = shared_server.query("plain", buffer.getvalue())
        assert (told["width"], told["height"]) == size
        for kind in ("overlay", "heat"):
            assert shared_server.http.get(told["score_map"][kind]).status_code == 200
        match = shared_server.http.get(told["score_map"]["match"], params={"x": 0, "y": 0})
        assert match.status_code == 200


def test_a_search_by_levels_that_were_dropped_is_refused(root: Path, serve: Callable[..., Server]) -> None:
    def tune(levels: list[int] | None) -> None:
        writer.set_tuned({"search": {"compared_levels": levels}, "images": 12, "snapshot": writer.gallery.snapshot})

    with GalleryWriter(root / "plain") as writer:
        tune([1, 2])
        writer.compact(levels=[1, 2])
    server = serve()
    assert server.query("plain", png(70))["scores"]
    with GalleryWriter(root / "plain") as writer:
        tune(None)
    server.http.post("/v1/galleries/plain/reload")
    told = problem(server.http.post(QUERY, content=png(70)), 422)
    assert "stores level 0 no more" in told["detail"]
    assert str(root) not in told["detail"]
