"""The cache of what was read of object stores: bounded, shared by processes, never believed."""

import errno
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.remote import cache as cache_module
from spade_index.gallery.remote.cache import Cache, CacheSettings, default_folder
from spade_index.images import DecodedImage

from helpers.remote import URL, answers, opened, push
from helpers.s3_server import S3, Handler
from helpers.warm import Warm, ran

Decode = Callable[..., list[DecodedImage]]
MOST = 1 << 20
DIGESTS = [f"{number:032x}" for number in range(100)]
BLOCK = os.urandom(1 << 16)
READER = """
import sys, xxhash
from spade_index.gallery.opening import open_gallery
from spade_index.gallery.remote.cache import CacheSettings
from pathlib import Path
for _ in range(5):
    with open_gallery(sys.argv[1], cache=CacheSettings(Path(sys.argv[2]), int(sys.argv[3]))) as gallery:
        digest = xxhash.xxh3_64()
        for row in gallery.images():
            for level in gallery.maps([row.key]):
                digest.update(level)
    print(digest.hexdigest())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def size_of(folder: Path) -> int:
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def read(cache: Cache, digest: str, offset: int = 0) -> bytes:
    out = bytearray(len(BLOCK))
    cache.read(digest, memoryview(out), offset)
    return bytes(out)


def test_it_stays_within_its_bytes(folder: Path) -> None:
    cache = Cache(CacheSettings(folder, MOST))
    for digest in DIGESTS:
        cache.write(digest, memoryview(BLOCK), 5 << 20)
        assert size_of(folder) <= MOST
    assert size_of(folder) > MOST / 2
    assert read(cache, DIGESTS[-1], 5 << 20) == BLOCK
    assert read(cache, DIGESTS[0], 5 << 20) == bytes(len(BLOCK))
    again = Cache(CacheSettings(folder, MOST))
    assert read(again, DIGESTS[-1], 5 << 20) == BLOCK
    Cache(CacheSettings(folder, MOST // 4)).write(DIGESTS[0], memoryview(BLOCK), 0)
    assert size_of(folder) <= MOST // 4


def test_several_writers_stay_within_its_bytes(folder: Path) -> None:
    caches = [Cache(CacheSettings(folder, 8 * MOST)) for _ in range(8)]
    for number, digest in enumerate(2 * DIGESTS):
        caches[number % 8].write(digest, memoryview(BLOCK), number << 16)
        assert size_of(folder) <= 8 * MOST


def test_what_was_used_least_recently_goes_first(folder: Path) -> None:
    cache = Cache(CacheSettings(folder, MOST))
    for age, digest in enumerate(DIGESTS[:8]):
        cache.write(digest, memoryview(BLOCK), 0)
        os.utime(folder / "blocks" / digest / "0", (1000 + age, 1000 + age))
    assert read(cache, DIGESTS[0]) == BLOCK  # used
    for digest in DIGESTS[50:60]:
        cache.write(digest, memoryview(BLOCK), 0)
    assert read(cache, DIGESTS[0]) == BLOCK
    assert not (folder / "blocks" / DIGESTS[1]).exists()


def test_files_of_others_and_whole_files_in_use_are_left_alone(folder: Path) -> None:
    cache = Cache(CacheSettings(folder, MOST))
    others = [folder / "files" / "notes.txt", folder / "blocks" / "mine" / "0", folder / "blocks" / DIGESTS[0] / "x.h5"]
    used = cache.file(f"catalog/{DIGESTS[1]}.sqlite")
    unused = cache.file(f"index/000001-{DIGESTS[2]}.faiss")
    for path in (*others, used, unused):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(BLOCK)
        os.utime(path, (0, 0))
    cache.file(used.name)
    for digest in DIGESTS[50:80]:
        cache.write(digest, memoryview(BLOCK), 0)
    assert all(path.exists() for path in (*others, used))
    assert not unused.exists()
    with pytest.raises(InputError, match=r"--cache-bytes to 1,198,373 at least"):
        cache.make_room(MOST)


@pytest.mark.parametrize("most", [130_000, 1 << 30])
def test_a_damaged_cache_changes_no_answer(
    most: int, calibrated: Path, s3: S3, folder: Path, decoded: Decode, backbone: Backbone
) -> None:
    push(calibrated)
    with Gallery(calibrated) as here:
        expected = answers(here, queries := decoded(), backbone)
    changes = [
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes()[::-1]),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: os.truncate(path, 1 << 40),
    ]
    for change in changes:
        with opened(folder, bytes=most) as there:
            assert answers(there, queries, backbone) == expected
            for path in [*folder.glob("blocks/*/*")]:
                if path.is_file():
                    change(path)
            assert answers(there, queries, backbone) == expected
            keys = [row.key for row in there.images()]
            with Gallery(calibrated) as here:
                for ours, theirs in zip(here.maps(keys), there.maps(keys), strict=True):
                    assert (ours == theirs).all()
        for path in folder.glob("files/*"):
            path.write_bytes(path.read_bytes()[::-1])


def test_without_room_on_the_disk_the_answers_are_the_same(
    gallery_path: Path, s3: S3, folder: Path, decoded: Decode, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(gallery_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Gallery(gallery_path) as here, opened(folder) as there:
        expected = answers(here, decoded(), backbone)
        there._searched(lambda search: [])  # the index is brought
        monkeypatch.setattr(cache_module.os, "pwrite", full)
        assert answers(there, decoded(), backbone) == expected


def test_processes_share_it(gallery_path: Path, s3: S3, folder: Path) -> None:
    push(gallery_path)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda most: ran(READER, URL, folder, most), (130_000, 1 << 30, 150_000)))
    assert [one.stderr for one in found] == ["", "", ""]
    assert len({line for one in found for line in one.stdout.split()}) == 1
    assert all(len(one.stdout.split()) == 5 for one in found)


@pytest.mark.parametrize("before", ["nothing", "damaged"])
def test_a_file_that_another_process_has_just_brought_stays(
    before: str, gallery_path: Path, s3: S3, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(gallery_path)
    with opened(folder) as one, opened(folder) as other, ExitStack() as files:
        assert other.index_row is not None
        name, found = f"index/{other.index_row.file}", list[BinaryIO]()
        if before == "damaged":
            one._cache.file(one._named[name].object).write_bytes(b"damaged")

        def late(size: int) -> None:  # when it is known not to be there
            found.append(files.enter_context(open(one.file(name), "rb")))

        monkeypatch.setattr(other._cache, "make_room", late)
        path = other.file(name)
        (in_use,) = found
        assert os.path.samestat(path.stat(), os.fstat(in_use.fileno()))
        assert other.file(name).read_bytes() == (gallery_path / name).read_bytes()


@pytest.mark.parametrize("request_number", [2, 3, 5, 7])
def test_a_reader_may_be_killed_at_any_request(request_number: int, gallery_path: Path, s3: S3, folder: Path) -> None:
    push(gallery_path)
    s3.requests.clear()
    with Warm(READER, URL, folder, 1 << 30) as reader:

        def kill(handler: Handler) -> bool:
            if len(s3.requests) >= request_number:
                reader.kill()
                handler.close_connection = True
            return handler.close_connection

        s3.fault = kill
        assert reader.wait(60) == -signal.SIGKILL
    s3.fault = lambda handler: False
    with Gallery(gallery_path) as here, opened(folder) as there:
        keys = [row.key for row in here.images()]
        assert all(map(np.array_equal, here.maps(keys), there.maps(keys)))
        assert there.nearest(here.pooled(list(here.images())), 3) == here.nearest(here.pooled(list(here.images())), 3)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SPADE_INDEX_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "spade-index"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert default_folder() == tmp_path / ".cache" / "spade-index"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "spade-index"
    monkeypatch.setenv("SPADE_INDEX_CACHE", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
    assert CacheSettings().folder == tmp_path / "own"
