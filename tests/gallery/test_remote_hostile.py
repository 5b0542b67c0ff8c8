"""A store that answers what no store should: costs are bounded, and the answer is one line, or a right one."""

import json
from pathlib import Path

import pytest

from spade_index.errors import RemoteError, StorageError
from spade_index.gallery import Gallery
from spade_index.gallery.remote import store
from spade_index.gallery.remote.store import Remote

from helpers.remote import QUICK, URL, opened, pull, push
from helpers.s3_server import S3, Handler

ENDLESS = 1 << 40  # bytes that an answer announces


def endless(handler: Handler) -> bool:
    """Answer a range with more and more."""
    if handler.command != "GET" or "Range" not in handler.headers:
        return False
    start, _, end = handler.headers["Range"].removeprefix("bytes=").partition("-")
    handler.send_response(206)
    for name, value in {
        **handler._facts(b""),
        "Content-Length": str(ENDLESS),
        "Content-Range": f"bytes {start}-{end}/{ENDLESS}",
    }.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.close_connection = True
    sent.append(0)
    try:
        while True:
            sent[-1] += handler.wfile.write(bytes(1 << 16))
    except OSError:
        return True


sent: list[int] = []


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    sent.clear()


@pytest.mark.parametrize("way", ["pull", "read"])
def test_an_answer_that_is_longer_than_asked_for_is_not_read_on(
    way: str, s3: S3, gallery_path: Path, cache: Path, tmp_path: Path
) -> None:
    push(gallery_path)
    s3.fault = endless
    with pytest.raises(RemoteError, match="more comes of it than was asked for"):
        pull(tmp_path / "pulled") if way == "pull" else opened(cache)
    assert sum(sent) < 64 << 20


def test_one_range_that_is_too_long_among_others(s3: S3) -> None:
    s3.objects[f"{URL.prefix}/object"] = bytes(range(256)) * 4096
    remote = Remote(URL, QUICK)
    wanted = [(900_000, 100), (5, 10), (70_000, 7), (12, 30)]
    assert [bytes(part) for part in remote.ranges("object", wanted)] == [
        s3.objects[f"{URL.prefix}/object"][start : start + length] for start, length in wanted
    ]
    assert [key for method, key in s3.requests if method == "GET"] == [
        f"{URL.prefix}/object"
    ] * 3  # two are close to each other
    s3.fault = endless
    with pytest.raises(RemoteError, match="more comes of it"):
        remote.ranges("object", wanted)
    assert sum(sent) < 64 << 20


def test_a_list_without_end_is_not_read_on(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_OBJECTS", 3000)

    def more(handler: Handler) -> bool:
        number = int(handler.query.get("continuation-token", 0))
        of = "<Size>1</Size><ETag>x</ETag><LastModified>2025-11-01T00:00:00.000Z</LastModified>"
        rows = "".join(f"<Contents><Key>{URL.prefix}/{number}-{one}</Key>{of}</Contents>" for one in range(1000))
        head = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{number + 1}</NextContinuationToken>"
        handler.reply(200, f"<ListBucketResult>{head}{rows}</ListBucketResult>".encode())
        return True

    s3.fault = more
    with pytest.raises(RemoteError, match="more than 3,000 objects"):
        Remote(URL, QUICK).sizes()
    assert len(s3.requests) < 10


def test_there_must_be_room_for_what_is_pulled(
    s3: S3, gallery_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(gallery_path)
    kept = s3.objects[f"{URL.prefix}/gallery.json"]
    s3.objects[f"{URL.prefix}/gallery.json"] = json.dumps(json.loads(kept) | {"size": 2**60}).encode()
    with pytest.raises(StorageError, match="make room"):
        pull(tmp_path / "pulled")
    assert not any(".sqlite" in key for _, key in s3.requests if key == "GET")
    s3.objects[f"{URL.prefix}/gallery.json"] = kept
    pull(tmp_path / "pulled")
    with Gallery(tmp_path / "pulled") as gallery:
        assert len(gallery)
