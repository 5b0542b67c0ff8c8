"""Machines that share a gallery's folder: one writes at a time, and one that was taken over commits nothing more."""

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from spade_index.errors import GalleryLocked, StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog import lease
from spade_index.gallery.catalog.connection import connect
from spade_index.gallery.catalog.meanings import unreadable
from spade_index.gallery.reader import CATALOG
from spade_index.gallery.remote.manifest import State
from spade_index.gallery.remote.replace import put_in_place
from spade_index.gallery.write import lock, opening
from spade_index.gallery.write.shared import is_shared
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images

Folder = Callable[..., Path]


class Machines:
    """Machines whose locks of files do not reach each other, and their clock."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.now = float(int(time.time()))
        patch.setattr(opening, "is_shared", lambda folder: True)
        patch.setattr(lock.fcntl, "flock", lambda *arguments: None)
        patch.setattr(lease.time, "time", lambda: self.now)
        self.at("first")

    def at(self, name: str) -> None:
        """Go on at another machine."""
        self._patch.setattr(lease, "machine", lambda: name)
        self._patch.setattr(lease.socket, "gethostname", lambda: f"{name}.local")


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Two machines; this process is the first."""
    return Machines(monkeypatch)


def stopped(path: Path) -> GalleryWriter:
    """Return a writer whose process does nothing on its own: it renews no lease."""
    writer = GalleryWriter(path)
    writer._lease._ended.set()
    writer._lease._renewing.join()
    return writer


def held(path: Path) -> str | None:
    with closing(sqlite3.connect(path / CATALOG)) as db:
        row = db.execute("SELECT value FROM meta WHERE name = 'lease'").fetchone()
    return row and row[0]


def give(path: Path, value: object) -> None:
    with closing(connect(path / CATALOG)) as db:
        db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('lease', ?)", (value,))


def ids(path: Path) -> list[str]:
    with Gallery(path) as gallery:
        return [image.id for image in gallery.images()]


def test_one_machine_writes_at_a_time(gallery_path: Path, machines: Machines) -> None:
    with GalleryWriter(gallery_path) as writer:
        machines.at("second")
        with pytest.raises(GalleryLocked, match=r"machine first\.local \(pid \d+\).*ends in 90 seconds"):
            GalleryWriter(gallery_path)
        assert len(ids(gallery_path)) == 12  # reading goes on
        writer.remove(["003.png"])
    assert held(gallery_path) is None
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["004.png"])
    with Gallery(gallery_path) as gallery:
        assert len(gallery) == 10
        assert list(gallery.verify()) == []


def test_a_lease_that_is_renewed_goes_on(gallery_path: Path, machines: Machines) -> None:
    with GalleryWriter(gallery_path) as writer:
        machines.now += 80
        assert writer._lease.renew()
        machines.now += 80
        machines.at("second")
        with pytest.raises(GalleryLocked, match="ends in 10 seconds"):
            GalleryWriter(gallery_path)


def test_a_writer_that_was_taken_over_commits_nothing(
    gallery_path: Path, machines: Machines, image_folder: Folder, backbone: Backbone
) -> None:
    more = list(find_images(image_folder(3, seed=50, name="more")))
    late = stopped(gallery_path)
    machines.now += 91
    machines.at("second")
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["003.png"])
        for change in (
            lambda: late.remove(["004.png"]),
            lambda: late.add(more, backbone),
            late.build_index,
            late.compact,
        ):
            with pytest.raises(GalleryLocked, match=r"machine second\.local .* has taken over.*run the same"):
                change()
        assert not late._lease.renew()
        writer.add(more, backbone)
    late.__exit__()
    left = ids(gallery_path)
    assert "003.png" not in left
    assert "004.png" in left
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []


def test_the_end_of_a_writer_that_was_taken_over_deletes_nothing(gallery_path: Path, machines: Machines) -> None:
    late = stopped(gallery_path)
    late.note_shards(2)  # as if it were writing one
    machines.now += 91
    machines.at("second")
    with GalleryWriter(gallery_path) as writer:
        writer.note_shards(2)
        theirs = gallery_path / "shards" / "000002.h5.tmp"
        theirs.write_bytes(b"of the second machine")
        late.__exit__()
        assert theirs.exists()
        assert str(held(gallery_path)).startswith("second/")


def test_a_crash_on_the_same_machine_is_taken_over_at_once(gallery_path: Path, machines: Machines) -> None:
    give(gallery_path, f"first/77/0123456789abcdef first.local {int(machines.now) + 60}")
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["003.png"])
    assert held(gallery_path) is None


def test_a_clock_that_is_ahead_is_told(gallery_path: Path, machines: Machines) -> None:
    give(gallery_path, f"second/77/0123456789abcdef second.local {int(machines.now) + 3690}")
    with pytest.raises(GalleryLocked, match=r"second\.local .* a clock that is 3600 seconds or more ahead"):
        GalleryWriter(gallery_path)


@pytest.mark.parametrize("value", [b"\xff\x00", "", 7, "second 1", "second/77/0123456789abcdef second.local 1e9", None])
def test_what_is_no_lease_binds_nobody(gallery_path: Path, machines: Machines, value: object) -> None:
    if value is not None:
        give(gallery_path, value)
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["003.png"])
    assert len(ids(gallery_path)) == 11


def test_a_pull_does_not_replace_what_another_machine_writes(
    gallery_path: Path, machines: Machines, tmp_path: Path
) -> None:
    give(gallery_path, f"second/77/0123456789abcdef second.local {int(machines.now) + 60}")
    with pytest.raises(GalleryLocked, match=r"second\.local"):
        put_in_place(tmp_path / "pulled", gallery_path, State.here(gallery_path / CATALOG))
    assert len(ids(gallery_path)) == 12


def test_a_gallery_on_a_disk_of_its_own_needs_no_lease(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path):
        assert held(gallery_path) is None


@pytest.mark.parametrize(
    ("kind", "shared"), [("ext4", False), ("overlay", False), ("nfs4", True), ("cifs", True), ("fuse.sshfs", True)]
)
def test_file_systems_of_networks_are_known_by_their_kind(tmp_path: Path, kind: str, shared: bool) -> None:
    device = os.stat(tmp_path).st_dev
    other = "23 29 0:21 / /proc rw shared:1 - nfs server:/x rw"
    line = f"36 29 {os.major(device)}:{os.minor(device)} /a /b\\040c rw,noatime shared:2 - {kind} server:/x rw"
    (tmp_path / "mountinfo").write_text(f"{other}\n{line}\n")
    assert is_shared(tmp_path, tmp_path / "mountinfo") is shared
    assert not is_shared(tmp_path, tmp_path / "missing")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(gallery_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"has no locks \(.*mount it with locks"):
        GalleryWriter(gallery_path)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_RDLOCK])
def test_a_catalog_that_cannot_be_locked_is_told(tmp_path: Path, code: int) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert "mount it with locks" in str(unreadable(tmp_path / CATALOG, error))
