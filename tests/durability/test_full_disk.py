"""Writes that fail raise one StorageError and lose nothing; the same command continues when there is room."""

import errno
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery, generations
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.index.build import build_index
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.store.shard_writer import ShardWriter
from spade_index.gallery.write import reindex
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images

from helpers.calls import Target, fail_from
from helpers.tiny import build, files_of, parts_of

Folder = Callable[..., Path]


def held(path: Path) -> int:
    """Check all files of a gallery; return the number of its images."""
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        return sum(1 for _ in gallery.images())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_really_fills_up(
    small_disk: Path, image_folder: Folder, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, images = small_disk / "gallery", image_folder(60)
    monkeypatch.setattr(GalleryWriter, "require_room", lambda self, images: None)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(800 << 10))
    for _ in range(2):
        with pytest.raises(StorageError, match=str(path)) as raised:
            build(path, images, backbone, shard_rows=4, batch_size=4)
        assert "\n" not in str(raised.value)
    before = held(path)
    assert 0 < before < 60
    ballast.unlink()
    report = build(path, images, backbone, shard_rows=4, batch_size=4)
    assert (report.unchanged, report.added) == (before, 60 - before)
    assert held(path) == 60


def test_it_stops_before_the_disk_is_full(small_disk: Path, image_folder: Folder, backbone: Backbone) -> None:
    with pytest.raises(StorageError, match=r"disk is full.*make room"):
        build(small_disk / "gallery", image_folder(3), backbone)
    assert list(small_disk.rglob("*.h5*")) == []
    assert held(small_disk / "gallery") == 0


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FAILURES = [
    ((ShardWriter, "append"), FULL, 6),
    ((ShardWriter, "append"), OSError("Can't write data (No space left on device)"), 5),
    (
        (ShardWriter, "append"),
        OSError(errno.EFBIG, "Can't write data\n(File too large)"),
        5,
    ),
    ((ShardWriter, "commit"), FULL, 2),
    ((ShardWriter, "commit"), FULL, 3),  # of the last shard
    ((os, "fsync"), OSError(errno.EIO, os.strerror(errno.EIO)), 3),
    ((os, "rename"), OSError(errno.EROFS, os.strerror(errno.EROFS)), 2),
    ((Transaction, "add_shard"), sqlite3.OperationalError("database or disk is full"), 2),
    ((Transaction, "add_images"), sqlite3.OperationalError("disk I/O error"), 2),
    ((reindex, "make_durable"), FULL, 1),
    ((Transaction, "replace_index"), sqlite3.OperationalError("database or disk is full"), 1),
]


@pytest.mark.parametrize(("target", "error", "call"), FAILURES)
def test_a_write_that_fails(
    tmp_path: Path, image_folder: Folder, backbone: Backbone, target: Target, error: Exception, call: int
) -> None:
    path, images = tmp_path / "gallery", image_folder(10)
    build(path, image_folder(2, seed=5, name="first"), backbone)
    first = held(path)
    with pytest.MonkeyPatch.context() as patch:
        fail_from(patch, target, call, error)
        with pytest.raises(StorageError, match=str(path)) as raised:
            build(path, images, backbone, shard_rows=4, batch_size=2, replace=True)
    assert "\n" not in str(raised.value)
    before = held(path)
    assert before >= first
    build(path, images, backbone, shard_rows=4, batch_size=2, replace=True)
    assert held(path) == 10
    assert files_of(path) == parts_of(path)


@pytest.mark.parametrize("limit", [0, 100, 600])
def test_an_index_that_does_not_fit(gallery_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its last bytes, which FAISS writes as it closes its file."""
    before = sorted((gallery_path / "index").iterdir())
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*arguments: Any) -> IndexDescription:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            return build_index(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

    with GalleryWriter(gallery_path) as writer:
        writer.remove(["003.png"])
        monkeypatch.setattr(reindex, "build_index", limited)
        with pytest.raises(StorageError, match=str(gallery_path)) as raised:
            writer.build_index()
        assert "\n" not in str(raised.value)
    assert held(gallery_path) == 11
    assert sorted((gallery_path / "index").iterdir()) == before
    with Gallery(gallery_path) as gallery:
        (row, *_) = gallery.images()
        assert gallery.nearest(gallery.pooled([row]), 1)[0][0].id == row.id


@pytest.mark.parametrize(
    ("target", "error", "call"),
    [
        ((ShardWriter, "append"), FULL, 2),
        ((ShardWriter, "commit"), FULL, 1),
        ((Transaction, "add_shard"), sqlite3.OperationalError("database or disk is full"), 1),
        ((Transaction, "forget_before"), sqlite3.OperationalError("database or disk is full"), 1),
        ((generations, "prepare"), FULL, 1),
        ((reindex, "make_durable"), FULL, 1),
        ((Transaction, "add_snapshot"), sqlite3.OperationalError("database is locked"), 1),
    ],
)
def test_a_compaction_that_fails(gallery_path: Path, target: Target, error: Exception, call: int) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["003.png", "008.png"])
        with pytest.MonkeyPatch.context() as patch:
            fail_from(patch, target, call, error)
            with pytest.raises(StorageError, match=str(gallery_path)):
                writer.compact()
        assert held(gallery_path) == 10
        writer.compact()
        assert held(gallery_path) == 10
        assert writer.gallery.catalog.removed_count() == 0


def test_a_removal_that_fails(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        with pytest.MonkeyPatch.context() as patch:
            fail_from(patch, (Transaction, "add_snapshot"), 1, sqlite3.OperationalError("disk I/O error"))
            with pytest.raises(StorageError, match="disk I/O error"):
                writer.remove(["003.png"])
        assert held(gallery_path) == 12
        writer.remove(["003.png"])
    assert held(gallery_path) == 11


def test_the_writer_that_failed_can_carry_on(gallery_path: Path, image_folder: Folder, backbone: Backbone) -> None:
    files = list(find_images(image_folder(6, seed=7, name="more"), prefix="more/"))
    with GalleryWriter(gallery_path) as writer:
        writer.shard_rows = 2
        with pytest.MonkeyPatch.context() as patch:
            fail_from(patch, (Transaction, "add_shard"), 2, sqlite3.OperationalError("disk is full"))
            with pytest.raises(StorageError):
                writer.add(files, backbone, batch_size=2)
        report = writer.add(files, backbone, batch_size=2)
        assert (report.unchanged, report.added) == (2, 4)
    assert held(gallery_path) == 18
