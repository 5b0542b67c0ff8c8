"""A gallery in an object store, served read-only."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from spade_index.errors import GalleryNotFound, RemoteError
from spade_index.gallery.location import Location
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.gallery.remote.push import Push
from spade_index.server import roots

from helpers.remote import grow
from helpers.s3_server import BUCKET, S3, SECRET
from helpers.serving import Server
from helpers.tiny import png
from helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("decoding_here")
URL = Location.parse(f"s3://{BUCKET}/lines/calibrated")
Serve = Callable[..., Server]


@pytest.fixture
def in_place(root: Path, s3: S3, serve: Serve, tmp_path: Path) -> Server:
    push(root / "calibrated")
    return serve(root=URL, cache=CacheSettings(tmp_path / "cache"))


def push(gallery: Path) -> None:
    with Push(gallery, URL) as pushed:
        pushed.send()


def answer(server: Server) -> dict[str, object]:
    """Return a result, with its drawing in place of the paths that name it."""
    found = server.query("calibrated", png(5), maps="always")
    shown = found.pop("score_map")
    drawing = server.http.get(shown["overlay"]).content
    return {**found, "max": shown["max"], "limits": shown["limits"], "drawing": drawing}


def test_the_answers_are_those_of_the_disk(in_place: Server, serve: Serve) -> None:
    disk = serve()
    assert answer(in_place) == answer(disk)
    for path in ("/v1/galleries/calibrated/images", "/v1/galleries/calibrated/thumbnail?id=000.png"):
        assert in_place.http.get(path).content == disk.http.get(path).content
    here, there = (server.http.get("/v1/galleries/calibrated").json() for server in (disk, in_place))
    assert there == here | {"may_write": False}
    assert [one["name"] for one in in_place.http.get("/v1/galleries").json()["galleries"]] == ["calibrated"]
    assert in_place.http.get("/v2/models/calibrated").status_code == 200


def test_it_cannot_be_changed(in_place: Server, s3: S3) -> None:
    before = dict(s3.objects)
    changes = "/v1/galleries/calibrated"
    answers = [
        in_place.http.post(f"{changes}/remove", json={"ids": ["000.png"]}),
        in_place.http.post(f"{changes}/restore", json={"ids": ["000.png"]}),
        in_place.http.post(f"{changes}/images", files={"images": ("a.png", png(1))}),
    ]
    for refused in answers:
        assert refused.status_code == 403
        assert "in an object store, where it can only be read" in refused.json()["detail"]
    assert in_place.http.post("/v1/galleries/other/query", content=png(1)).status_code == 404
    assert s3.objects == before


def test_a_push_is_taken_up(
    in_place: Server, serve: Serve, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(in_place)["neighbours"]
    grow(root / "calibrated", tmp_path, 1)
    push(root / "calibrated")
    assert in_place.http.get("/v1/galleries/calibrated").json()["images"] == 12
    monkeypatch.setattr(roots, "LOOK_SECONDS", 0.0)

    def images() -> int:
        return in_place.http.get("/v1/galleries/calibrated").json()["images"]

    eventually(lambda: images() == 15)
    assert answer(in_place) == answer(serve())


def test_while_the_store_does_not_answer_the_state_before_is_served(
    in_place: Server, s3: S3, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = answer(in_place)
    s3.fault = lambda handler: handler.fail(403, "AccessDenied") or True
    in_place.http.post("/v1/galleries/calibrated/reload")
    assert answer(in_place) == first
    eventually(lambda: "stays as it was" in caplog.text)
    assert "403 AccessDenied" in caplog.text
    assert SECRET not in caplog.text
    assert answer(in_place) == first


def test_a_map_that_cannot_be_read_is_an_error_of_its_request(in_place: Server, s3: S3) -> None:
    s3.fault = lambda handler: ".h5" in handler.key and (handler.fail(403, "AccessDenied") or True)
    failed = in_place.http.post("/v1/galleries/calibrated/query", content=png(5), params={"maps": "always"})
    assert failed.status_code == 503
    assert "access is refused (403 AccessDenied)" in failed.json()["detail"]
    assert SECRET not in failed.text
    s3.fault = lambda handler: False
    assert answer(in_place)["score"] is not None


def test_a_gallery_that_cannot_be_opened_is_one_line(s3: S3, tmp_path: Path, root: Path) -> None:
    with pytest.raises(GalleryNotFound, match="no gallery there"):
        Server(URL, cache=CacheSettings(tmp_path / "cache"))
    push(root / "calibrated")
    for key in [key for key in s3.objects if "index/" in key]:
        del s3.objects[key]
    with pytest.raises(RemoteError, match="missing"):
        Server(URL, cache=CacheSettings(tmp_path / "cache"))


def test_without_another_thread_the_state_before_is_served(
    in_place: Server, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("can't start new thread")

    first = answer(in_place)
    grow(root / "calibrated", tmp_path, 1)
    push(root / "calibrated")
    monkeypatch.setattr(roots, "LOOK_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(roots, "threading", SimpleNamespace(Thread=fails))
        assert answer(in_place) == first
    eventually(lambda: in_place.http.get("/v1/galleries/calibrated").json()["images"] == 15)


def test_what_nobody_foresaw_ends_no_later_look(
    in_place: Server, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> None:
        raise ValueError("unforeseen")

    first = answer(in_place)
    grow(root / "calibrated", tmp_path, 1)
    push(root / "calibrated")
    monkeypatch.setattr(roots, "LOOK_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(roots.StoreRoot, "_brought", fails)
        assert answer(in_place) == first
        eventually(lambda: "the gallery stays as it was" in caplog.text)
    eventually(lambda: in_place.http.get("/v1/galleries/calibrated").json()["images"] == 15)
