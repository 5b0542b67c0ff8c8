"""Faults of object stores: those that pass change nothing, and those that stay are one line."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from spade_index.errors import GalleryDamaged, InputError, RemoteError
from spade_index.gallery.location import Location
from spade_index.gallery.remote.failures import Replaced
from spade_index.gallery.remote.pull import Pull
from spade_index.gallery.remote.push import Push

from helpers.remote import QUICK, URL, contents, grow, pull, push, require_one_line
from helpers.s3_server import S3, Handler, silent, times


def test_an_interrupted_push_leaves_the_gallery_of_before_and_carries_on(
    gallery_path: Path, s3: S3, tmp_path: Path
) -> None:
    push(gallery_path)
    before = contents(gallery_path)
    grow(gallery_path, tmp_path, 1)
    s3.fault = times(99, lambda handler: handler.fail(503, "SlowDown"), "PUT", "catalog/")
    with pytest.raises(RemoteError, match="503 SlowDown"):
        push(gallery_path)
    s3.fault = lambda handler: False
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == before
    s3.requests.clear()
    push(gallery_path)
    assert not any("shards/" in key for key in s3.sent())
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(gallery_path)


def test_an_interrupted_pull_carries_on(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    whole = push(gallery_path)
    s3.fault = times(99, lambda handler: handler.fail(500, "InternalError"), "GET", "shards/000003")
    with pytest.raises(RemoteError, match="500 InternalError"):
        pull(tmp_path / "back")
    assert not (tmp_path / "back").exists()
    s3.fault = lambda handler: False
    assert 0 < pull(tmp_path / "back") < whole / 2
    assert contents(tmp_path / "back") == contents(gallery_path)


def test_a_part_of_a_file_that_is_damaged_is_fetched_again(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    push(gallery_path)
    with Pull(URL, tmp_path / "back", QUICK) as pulled:
        (file,) = [file for file in pulled._files if file.path == "shards/000001.h5"]
        (pulled.folder / f"{file.path}.{file.digest}.part").write_bytes(b"of another file")
        pulled.fetch()
    assert contents(tmp_path / "back") == contents(gallery_path)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda handler: handler.fail(500, "InternalError"), id="500"),
        pytest.param(lambda handler: handler.fail(503, "SlowDown"), id="503"),
        pytest.param(lambda handler: handler.cut(), id="cut"),
        pytest.param(lambda handler: setattr(handler, "close_connection", True), id="closed"),
        pytest.param(silent(0.6), id="slow"),
    ],
)
@pytest.mark.parametrize("part", ["shards/000002", "gallery.json", "catalog/"])
def test_a_fault_that_passes_changes_nothing(
    request: pytest.FixtureRequest, fault: object, part: str, s3: S3, gallery_path: Path, tmp_path: Path
) -> None:
    if "cut" not in request.node.callspec.id:  # an answer to a PUT has no body
        s3.fault = times(2, fault, "PUT", part)  # type: ignore[arg-type]
    push(gallery_path)
    s3.fault = times(2, fault, "GET", part)  # type: ignore[arg-type]
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(gallery_path)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (lambda handler: handler.fail(500, "InternalError"), "fails (500 InternalError) again and again: try later"),
        (
            lambda handler: handler.fail(403, "SignatureDoesNotMatch"),
            "refused (403 SignatureDoesNotMatch): check $AWS_",
        ),
        (lambda handler: handler.fail(401, "Unauthorized"), "refused (401 Unauthorized): check $AWS_"),
        (lambda handler: handler.fail(301, "PermanentRedirect"), "another region: set $AWS_REGION"),
        (lambda handler: handler.fail(400, "Bad"), "refuses a request (400 Bad)"),
        (lambda handler: handler.cut(), "cuts its answers"),
        (lambda handler: setattr(handler, "close_connection", True), "cannot be reached"),
        (silent(0.6), "too slow"),
    ],
)
def test_a_fault_that_stays_is_one_line_without_secrets(fault: object, line: str, s3: S3, gallery_path: Path) -> None:
    s3.fault = times(999, fault)  # type: ignore[arg-type]
    for use in (lambda: push(gallery_path), lambda: pull(gallery_path.with_name("back"))):
        with pytest.raises(RemoteError) as raised:
            use()
        require_one_line(raised.value, line, s3)
    assert not gallery_path.with_name("back").exists()


def test_a_list_that_is_refused_is_told_as_access_that_is_refused(s3: S3, gallery_path: Path) -> None:
    def refuse(handler: Handler) -> bool:
        if lists := "list-type" in handler.query:
            handler.fail(403, "AccessDenied")
        return lists

    s3.fault = refuse
    with pytest.raises(RemoteError, match=r"access is refused \(403 AccessDenied\): check \$AWS_"):
        push(gallery_path)


def test_wrong_credentials_and_a_missing_bucket(s3: S3, gallery_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RemoteError, match="no bucket 'elsewhere'"):
        push(gallery_path, Location.parse("s3://elsewhere/gallery"))
    with pytest.raises(RemoteError, match="no bucket 'elsewhere'"):
        pull(gallery_path.with_name("back"), Location.parse("s3://elsewhere/gallery"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDANOTHER")
    with pytest.raises(RemoteError, match=r"403 InvalidAccessKeyId.*AWS_ACCESS_KEY_ID") as raised:
        push(gallery_path)
    assert "AKIDANOTHER" not in str(raised.value)


def test_an_object_that_is_not_what_was_pushed_is_refused(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    changes = {"shards/000002": lambda data: data[:-1] + bytes([data[-1] ^ 1]), "catalog/": lambda data: data[::-1]}
    push(gallery_path)
    for number, (name, change) in enumerate(changes.items()):
        (key,) = [key for key in s3.objects if name in key and not key.endswith(".sums")]
        kept = s3.objects[key]
        s3.objects[key] = change(kept)
        with pytest.raises(RemoteError, match="is not what was pushed"):
            pull(tmp_path / f"back-{number}")
        del s3.objects[key]
        with pytest.raises(RemoteError, match="missing"):
            pull(tmp_path / f"back-{number}")
        s3.objects[key] = kept
        assert not (tmp_path / f"back-{number}").exists()


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"{" * 100_000, b"\xff", b'{"format": "spade-index in an object store"}']
)
def test_another_gallery_json_is_refused(text: bytes, gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    s3.objects[f"{URL.prefix}/gallery.json"] = text
    for use in (lambda: push(gallery_path), lambda: pull(tmp_path / "back")):
        with pytest.raises(RemoteError, match=r"gallery\.json"):
            use()


def test_a_damaged_file_is_not_pushed(gallery_path: Path, s3: S3) -> None:
    shard = gallery_path / "shards" / "000002.h5"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(GalleryDamaged, match="bytes have changed"):
        push(gallery_path)
    assert not any("000002" in key or "gallery.json" in key for key in s3.objects)
    shard.unlink()
    with pytest.raises(GalleryDamaged, match="missing"):
        push(gallery_path)


def test_of_two_pushes_at_a_time_the_second_is_refused(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(gallery_path, tmp_path / "copy"))
    grow(copy, tmp_path, 1)
    with Push(gallery_path, URL, QUICK) as first:
        push(copy)
        with pytest.raises(Replaced, match="meanwhile"):
            first.send()
    pull(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(copy)


def test_a_lost_answer_to_the_last_request_is_no_failure(gallery_path: Path, s3: S3) -> None:
    def store_and_close(handler: Handler) -> None:
        s3.objects[handler.key] = handler.body
        handler.close_connection = True

    s3.fault = times(1, store_and_close, "PUT", "gallery.json")
    push(gallery_path)
    assert push(gallery_path) == 0


def test_a_pull_does_not_write_through_a_link(gallery_path: Path, s3: S3, tmp_path: Path) -> None:
    push(gallery_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".back.pull").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link"):
        pull(tmp_path / "back")
    assert not os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "url",
    [
        "gallery",
        "http://host/gallery",
        "s3://",
        "s3:///gallery",
        "s3://user:hunter2@bucket/gallery",
        "s3://bucket/gallery?X-Amz-Signature=hunter2",
        "s3://bucket/a/../b",
        "s3://bucket//b",
        "s3://bucket/a\nb",
        "file://host/folder",
        "file:///",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InputError) as raised:
        Location.parse(url)
    assert "hunter2" not in str(raised.value)


def test_no_thread_is_left(gallery_path: Path, s3: S3) -> None:
    before = set(threading.enumerate())
    push(gallery_path)
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert [name for name in left if "process_request_thread" not in name] == []  # those are the server's
