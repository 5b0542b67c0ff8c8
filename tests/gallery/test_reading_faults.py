"""Faults of object stores while a gallery is read there: those that pass change nothing, others are one line."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from spade_index.errors import GalleryError, RemoteError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.images import DecodedImage

from helpers.remote import URL, answers, grow, opened, push, require_one_line
from helpers.s3_server import S3, Handler, silent, times

Decode = Callable[..., list[DecodedImage]]


def trickle(handler: Handler) -> None:
    """Announce a body, and send it byte by byte, more slowly than a client waits."""
    handler.cut()
    with suppress(OSError):
        for _ in range(8):
            time.sleep(0.1)
            handler.wfile.write(b"x")


PASSING = [
    pytest.param(lambda handler: handler.fail(500, "InternalError"), id="500"),
    pytest.param(lambda handler: handler.fail(503, "SlowDown"), id="503"),
    pytest.param(lambda handler: handler.cut(), id="cut"),
    pytest.param(lambda handler: setattr(handler, "close_connection", True), id="closed"),
    pytest.param(silent(0.6), id="slow"),
    pytest.param(trickle, id="trickle"),
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def keys_under(s3: S3, part: str) -> list[str]:
    return [key for key in s3.objects if part in key]


def another_byte(data: bytes) -> bytes:
    """Return bytes of which one in each block is another."""
    changed = bytearray(data)
    for place in range(len(data) // 2, len(data), 5000):
        changed[place] ^= 1
    return bytes(changed)


def altered_answer(handler: Handler) -> None:
    """Answer with bytes that are others."""
    key, objects = handler.key, handler.state.objects
    kept = objects[key]
    objects[key] = bytes(value ^ 1 for value in kept)
    handler.answer_get()
    objects[key] = kept


def short_answer(handler: Handler) -> None:
    """Answer with fewer bytes than were asked for."""
    key, objects = handler.key, handler.state.objects
    kept = objects[key]
    objects[key] = kept[: len(kept) - 50]
    handler.answer_get()
    objects[key] = kept


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("part", ["gallery.json", "catalog/", "index/", ".sums", ".h5"])
def test_a_fault_that_passes_changes_nothing(
    fault: Callable[[Handler], None],
    part: str,
    s3: S3,
    calibrated: Path,
    cache: Path,
    decoded: Decode,
    backbone: Backbone,
) -> None:
    push(calibrated)
    s3.fault = times(2, fault, "GET", part)
    with Gallery(calibrated) as here, opened(cache) as there:
        assert answers(there, decoded(), backbone) == answers(here, decoded(), backbone)


def whole_answer(handler: Handler) -> None:
    """Answer with the whole object in place of a range."""
    del handler.headers["Range"]
    handler.answer_get()


@pytest.mark.parametrize("fault", [altered_answer, short_answer, whole_answer])
def test_an_answer_that_is_another_once_is_asked_for_again(
    fault: Callable[[Handler], None], s3: S3, gallery_path: Path, cache: Path, decoded: Decode, backbone: Backbone
) -> None:
    push(gallery_path)
    with Gallery(gallery_path) as here, opened(cache) as there:
        there._searched(lambda search: [])  # the index is brought
        s3.fault = times(1, fault, "GET", ".h5")
        assert answers(there, decoded(), backbone) == answers(here, decoded(), backbone)


@pytest.mark.parametrize("part", ["catalog/", "index/", "shards/", ".sums"])
def test_an_altered_or_missing_object_is_never_an_answer(
    part: str, s3: S3, gallery_path: Path, cache: Path, decoded: Decode, backbone: Backbone
) -> None:
    push(gallery_path)
    kept = dict(s3.objects)
    for key in keys_under(s3, part):
        s3.objects[key] = another_byte(kept[key])
    with (
        pytest.raises(RemoteError, match="is not what was pushed: delete it and push") as raised,
        opened(cache) as gallery,
    ):
        answers(gallery, decoded(), backbone)
    assert "\n" not in str(raised.value)
    for key in keys_under(s3, part):
        del s3.objects[key]
    with pytest.raises(RemoteError, match=r"missing.*push the gallery again"), opened(cache) as gallery:
        answers(gallery, decoded(), backbone)
    s3.objects.update(kept)
    with Gallery(gallery_path) as here, opened(cache) as gallery:
        assert answers(gallery, decoded(), backbone) == answers(here, decoded(), backbone)


@pytest.mark.parametrize("part", ["gallery.json", "catalog/", "index/", ".sums", ".h5"])
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (lambda handler: handler.fail(500, "InternalError"), "fails (500 InternalError) again and again: try later"),
        (lambda handler: handler.fail(403, "AccessDenied"), "refused (403 AccessDenied): check $AWS_"),
        (lambda handler: handler.cut(), "cuts its answers"),
        (silent(0.6), "too slow"),
    ],
    ids=["500", "403", "cut", "slow"],
)
def test_a_fault_that_stays_is_one_line_without_secrets(
    fault: Callable[[Handler], None],
    line: str,
    part: str,
    s3: S3,
    gallery_path: Path,
    cache: Path,
    decoded: Decode,
    backbone: Backbone,
) -> None:
    push(gallery_path)
    s3.fault = times(999, fault, "GET", part)
    with pytest.raises(RemoteError) as raised, opened(cache) as gallery:
        answers(gallery, decoded(), backbone)
    require_one_line(raised.value, line, s3)


def test_a_fault_that_hdf5_meets_is_told_as_it_is(s3: S3, gallery_path: Path, cache: Path) -> None:
    push(gallery_path)
    with opened(cache) as gallery:
        (row, *_) = gallery.images()
        s3.fault = times(999, lambda handler: handler.fail(503, "SlowDown"), "GET", ".h5")
        for read in (gallery.thumbnail, gallery.stored):
            with pytest.raises(RemoteError, match="503 SlowDown"):
                read(row)
        s3.fault = lambda handler: False
        with Gallery(gallery_path) as here:
            assert gallery.thumbnail(row) == here.thumbnail(row)


def test_wrong_credentials_a_missing_bucket_and_a_missing_gallery(
    s3: S3, gallery_path: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, line in {
        "s3://elsewhere/gallery": "no bucket 'elsewhere'",
        str(URL): "no gallery there; `spade-index push GALLERY s3://parts/line 1/gallery` brings one",
        f"file://{tmp_path}/nothing": "no gallery there",
    }.items():
        with pytest.raises(GalleryError, match=line):
            opened(cache, Location.parse(url))
    push(gallery_path)
    opened(cache).close()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDANOTHER")
    with pytest.raises(RemoteError, match=r"403 InvalidAccessKeyId.*AWS_ACCESS_KEY_ID") as raised:
        opened(cache)  # what is in the cache is not read without the right to
    assert "AKIDANOTHER" not in str(raised.value)


def test_a_gallery_that_is_replaced_while_it_is_opened(s3: S3, gallery_path: Path, cache: Path, tmp_path: Path) -> None:
    push(gallery_path)
    before = dict(s3.objects)
    grow(gallery_path, tmp_path, 1)
    push(gallery_path)
    after = dict(s3.objects)
    (old,) = keys_under(S3(objects=before), "catalog/")
    s3.objects.clear()
    s3.objects.update(before)

    def replace(handler: Handler) -> None:
        s3.objects.update(after)
        del s3.objects[old]
        handler.answer_get()

    s3.fault = times(1, replace, "GET", "catalog/")
    with opened(cache) as gallery:
        assert len(gallery) == 15


def test_a_gallery_json_of_another_catalog(s3: S3, gallery_path: Path, cache: Path) -> None:
    push(gallery_path)
    (key,) = keys_under(s3, "gallery.json")
    values = json.loads(s3.objects[key])
    s3.objects[key] = json.dumps({**values, "snapshot": 7}).encode()
    with pytest.raises(RemoteError, match="does not describe its catalog"):
        opened(cache)
