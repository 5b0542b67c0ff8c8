"""Images of Label Studio's tasks: fetched from the one that the operator names, with its token, and nowhere else."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.server import limits
from spade_index.server.label_studio import images
from spade_index.server.label_studio.address import Address, name_of, read_token
from spade_index.server.label_studio.images import TaskImages
from spade_index.server.settings import ServeSettings

from helpers.cli_runs import refused
from helpers.http_answers import problem
from helpers.label_studio import asking, in_the_task
from helpers.label_studio_files import LEGACY, PERSONAL, Files, task_files
from helpers.serving import Server
from helpers.tiny import png

PATH = "/data/upload/1/ab-teil_1_%C3%BC.png"
PREDICT = "/label-studio/plain/predict"
MOST = 1 << 20


@pytest.fixture
def studio() -> Iterator[Files]:
    """A Label Studio that has one image."""
    with task_files() as server:
        server.files[PATH] = png(3)
        yield server


def of(studio: Files, token: str | None = LEGACY, most: int = MOST, base: str = "") -> TaskImages:
    return TaskImages(Address.of(studio.url + base, token), most)


@pytest.mark.parametrize("token", [LEGACY, PERSONAL], ids=["legacy", "personal"])
def test_an_image_is_fetched_with_the_token(studio: Files, token: str) -> None:
    source = of(studio, token)
    for reference in (PATH, studio.url + PATH):
        found = source.get(reference)
        assert (found.name, found.data) == ("ab-teil_1_ü.png", png(3))
    assert studio.asked.count("/api/token/refresh") == (token == PERSONAL)  # its answer is kept


@pytest.mark.parametrize(
    "answer",
    [
        *(b"null", b"[]", b"{}", b"\xff", b"[" * 10_000, b"9" * 5000, b'{"access": null}', b'{"access": {}}'),
        *(b'{"access": ""}', b'{"access": "a\\r\\nX-Other: b"}', b'{"access": "\\ud800"}'),
    ],
    ids=lambda answer: repr(answer)[:30],
)
def test_an_answer_without_a_token_is_told(studio: Files, answer: bytes) -> None:
    studio.access = answer
    with pytest.raises(InputError, match="answers the personal access token with no other one"):
        of(studio, PERSONAL).get(PATH)


def test_an_image_is_fetched_below_the_path_of_label_studio(studio: Files) -> None:
    studio.files[f"/studio{PATH}"] = png(4)
    for reference in (PATH, f"/studio{PATH}"):
        assert of(studio, base="/studio/").get(reference).data == png(4)


def test_predictions_are_of_fetched_images(serve: Callable[..., Server], studio: Files) -> None:
    server = serve(label_studio=studio.url, label_studio_token=LEGACY)
    told = server.http.post(PREDICT, json=asking(PATH, "/data/upload/2/gone.png", in_the_task(png(3)))).json()
    assert [bool(one) for one in told["results"]] == [True, False, True]
    assert "no such file" in told["notices"][0]


@pytest.mark.parametrize(
    "reference",
    [
        "http://127.0.0.1:1/data/upload/1/a.png",
        "http://localhost:{port}/data/upload/1/a.png",
        "https://127.0.0.1:{port}/data/upload/1/a.png",
        "//127.0.0.1:1/data/upload/1/a.png",
        "http://x@127.0.0.1:{port}/data/upload/1/a.png",
        "http://127.0.0.1:{port}@127.0.0.2/data/upload/1/a.png",
        "http://127.0.0.1:99999/data/upload/1/a.png",
        "http://[::1/data/upload/1/a.png",
        "file:///data/upload/1/a.png",
        "ftp://127.0.0.1/data/upload/1/a.png",
        "s3://data/upload/1/a.png",
        "/api/projects/1/export",
        "/data/../api/projects/1/export",
        "/data/%2e%2e/api/projects/1/export",
        "/data/upload\\..\\..\\api/export",
        "/dataset/a.png",
        "data/upload/1/a.png",
        "upload.png",
        "/",
        "",
    ],
)
def test_nothing_else_is_asked_for(studio: Files, reference: str) -> None:
    with pytest.raises(InputError, match="the image is not"):
        of(studio).get(reference.format(port=studio.server_address[1]))
    assert studio.asked == []


@pytest.mark.parametrize("to", ["/data/upload/1/other.png", "http://127.0.0.1:1/data/a.png"])
def test_redirects_are_not_followed(studio: Files, to: str) -> None:
    studio.redirects[PATH] = to
    with pytest.raises(InputError, match="answers 302"):
        of(studio).get(PATH)
    assert studio.asked == [PATH]


def test_line_breaks_do_not_reach_the_request(studio: Files) -> None:
    with pytest.raises(InputError, match="no such file"):
        of(studio).get("/data/upload/1/a.png?x= HTTP/1.1\r\nX-Other: 1\r\n\r\n")
    assert len(studio.asked) == 1


def test_an_image_larger_than_a_query_is_refused(studio: Files) -> None:
    assert of(studio, most=len(png(3))).get(PATH).data == png(3)
    with pytest.raises(InputError, match="larger than the limit"):
        of(studio, most=len(png(3)) - 1).get(PATH)


def test_limit_fetch_seconds(studio: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.FETCH_SECONDS == images.FETCH_SECONDS
    assert of(studio).get(PATH).data == png(3)
    monkeypatch.setattr(images, "FETCH_SECONDS", 0.3)
    studio.pause = 0.05  # each byte comes in time, all of them do not
    with pytest.raises(InputError, match=r"within 0\.3 seconds|cannot be asked"):
        of(studio).get(PATH)


def test_limit_fetches(serve: Callable[..., Server], studio: Files) -> None:
    studio.files["/data/a"] = b"x" * 5
    studio.pause, studio.awaited = 0.02, limits.FETCHES
    server = serve(label_studio=studio.url, label_studio_token=LEGACY)
    told = server.http.post(PREDICT, json=asking(*["/data/a"] * 12)).json()
    assert len(told["notices"]) == 12
    assert studio.most == limits.FETCHES


@pytest.mark.parametrize("token", [None, "another-0123456789", "header.another.signature"])
def test_a_wrong_token_is_told(studio: Files, token: str | None) -> None:
    with pytest.raises(InputError, match="refuses the token"):
        of(studio, token).get(PATH)


def test_a_label_studio_that_is_away_is_told(studio: Files) -> None:
    source = of(studio)
    studio.shutdown()
    studio.server_close()
    with pytest.raises(InputError, match="cannot be asked"):
        source.get(PATH)


def test_a_file_is_named_by_its_address() -> None:
    assert name_of("/data/upload/1/part.png") == "part.png"
    assert name_of("/data/local-files/?d=line%201/part.png") == "part.png"
    assert name_of("/tasks/5/resolve/?fileuri=czM6") == "resolve"


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://a", "http://", "http://a:b@c", "http://a/?x=1", "http://ä"]
)
def test_an_address_that_is_none_prevents_the_start(root: Path, url: str) -> None:
    assert "--label-studio" in refused("serve", root, "--port", "0", "--label-studio", url)


def test_a_token_comes_from_a_private_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{LEGACY}\n")
    file.chmod(0o600)
    assert read_token(file, {}) == LEGACY
    assert read_token(None, {"SPADE_INDEX_LABEL_STUDIO_TOKEN": PERSONAL}) == PERSONAL
    assert read_token(None, {}) is None
    assert LEGACY not in repr(ServeSettings(tmp_path, label_studio_token=LEGACY))
    file.chmod(0o644)
    with pytest.raises(InputError, match="chmod"):
        read_token(file, {})
    file.chmod(0o600)
    for text in ("", "two words", "short", "line\r\nX: 1", "x" * 5000):
        file.write_text(text)
        with pytest.raises(InputError, match="no token"):
            read_token(file, {})
    with pytest.raises(InputError, match="missing"):
        read_token(tmp_path / "missing", {})


def test_the_image_of_a_task_is_read_in_base64_only(studio: Files) -> None:
    assert TaskImages(None, MOST).get(in_the_task(png(3))).data == png(3)
    for reference in ("data:image/png;base64,%%%", "data:,x", "DATA:image/png,x"):
        with pytest.raises(InputError, match="base64"):
            TaskImages(None, MOST).get(reference)
    with pytest.raises(InputError, match="--label-studio"):
        TaskImages(None, MOST).get(PATH)


def test_a_label_studio_is_asked_by_predictions_alone_with_a_key(serve: Callable[..., Server], studio: Files) -> None:
    server = serve(keys="a-key-that-only-reads plain read", label_studio=studio.url, label_studio_token=LEGACY)
    problem(server.http.post(PREDICT, json=asking(PATH)), 401)
    assert studio.asked == []
    assert server.http.post(PREDICT, json=asking(PATH), auth=("x", "a-key-that-only-reads")).status_code == 200
