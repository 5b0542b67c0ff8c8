"""Errors of SQLite are told apart: damage, a gallery that is closed, and a machine that cannot do it now."""

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from spade_index.errors import GalleryDamaged, GalleryError, InputError, StorageError
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.meanings import unreadable
from spade_index.gallery.write.writer import GalleryWriter

SOUND = "build it again"  # is not to be said of a sound gallery


def interrupted(gallery: Path, copy: Path) -> Path:
    """Copy a gallery in the middle of a commit, as a crash of the machine leaves it."""
    with closing(sqlite3.connect(gallery / "catalog.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.execute("UPDATE images SET path = hex(randomblob(3000))")  # more than the cache: some of it is written
        shutil.copytree(gallery, copy)
        db.execute("ROLLBACK")
    assert (copy / "catalog.sqlite-journal").stat().st_size > 512
    return copy


@pytest.fixture
def read_only(gallery_path: Path, tmp_path: Path) -> Iterator[Path]:
    """An interrupted gallery on a file system that cannot be written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems can be mounted by root only")
    try:
        path = interrupted(gallery_path, disk / "gallery")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield path
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_interrupted_commit_on_a_read_only_disk_is_no_damage(read_only: Path) -> None:
    for kind in (Gallery, GalleryWriter):
        with pytest.raises(StorageError, match=r"interrupted.*where it can be written") as raised:
            kind(read_only)
        assert SOUND not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_an_interrupted_commit_is_undone_where_that_can_be_written(gallery_path: Path, tmp_path: Path) -> None:
    with Gallery(interrupted(gallery_path, tmp_path / "copy")) as gallery:
        assert len(list(gallery.images())) == 12
        assert list(gallery.verify()) == []


def test_a_closed_gallery_is_no_damage(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        rows = gallery.sample(2)
    for ask in (
        lambda: list(gallery.images()),
        lambda: gallery.image("003.png"),
        lambda: gallery.nearest(gallery.pooled(rows), 3),
        gallery.info,
        gallery.at,
    ):
        with pytest.raises(GalleryError, match="closed") as raised:
            ask()
        assert not isinstance(raised.value, GalleryDamaged)
        assert SOUND not in str(raised.value)


def test_a_closed_writer_is_no_damage(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        pass
    with pytest.raises(GalleryError, match="closed") as raised:
        writer.remove(["003.png"])
    assert not isinstance(raised.value, GalleryDamaged)
    with Gallery(gallery_path) as gallery:
        assert len(gallery) == 12


CODES = {name: value for name, value in vars(sqlite3).items() if name.startswith("SQLITE_") and isinstance(value, int)}
BROKEN = ("CORRUPT", "NOTADB", "ERROR", "FORMAT", "EMPTY", "MISMATCH", "CONSTRAINT", "TOOBIG")
PASSING = (
    "BUSY",
    "LOCKED",
    "IOERR",
    "CANTOPEN",
    "FULL",
    "READONLY",
    "PERM",
    "AUTH",
    "NOMEM",
    "INTERRUPT",
    "PROTOCOL",
    "NOLFS",
)


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_code_has_its_meaning(name: str, tmp_path: Path) -> None:
    kind = name.removeprefix("SQLITE_").split("_")[0]
    if kind not in BROKEN + PASSING:
        return  # of something else than a result, or never returned
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = CODES[name]
    expected = GalleryDamaged if kind in BROKEN else StorageError
    assert type(unreadable(tmp_path / "catalog.sqlite", error)) is expected


def test_no_descriptors_left_is_no_damage(gallery_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StorageError, match="few files are open"):
            Gallery(gallery_path)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    Gallery(gallery_path).close()


@pytest.mark.parametrize("snapshot", [10**30, 2**63, -1, -(10**30)])
def test_a_snapshot_that_cannot_be_is_named(gallery_path: Path, snapshot: int) -> None:
    with pytest.raises(InputError, match=f"no snapshot {snapshot}"):
        Gallery(gallery_path, snapshot)
