"""Links, pipes, devices and holes in place of a gallery's files, and what SQLite opens beside the catalog."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import pytest

from spade_index.errors import GalleryDamaged, GalleryError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog import check
from spade_index.gallery.index import build as build_module
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration
from spade_index.method.detector import Detector
from spade_index.settings import IndexSettings

from helpers.damage import SEARCH
from helpers.journals import write_journal
from helpers.processes import forked

FILES = (
    "shards/000001.h5",
    "index/*.faiss",
    "index/*.h5",
    "calibrations/*.h5",
    "readers/*",
    "writer.lock",
    "catalog.sqlite",
    "catalog.check",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _built: Path, backbone: Backbone) -> Path:
    """A gallery with scores, and an index that is mapped."""
    path = Path(shutil.copytree(_built, tmp_path_factory.mktemp("lists") / "gallery"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "EXACT_LIMIT", 5)
        patch.setattr(build_module, "LEAST_PER_LIST", 4)
        with GalleryWriter(path) as writer:
            writer.build_index(IndexSettings("flat"))
            calibration.store(writer, SEARCH, calibration.calibrate(writer.gallery, SEARCH))
    return path


def link(path: Path, data: bytes) -> None:
    elsewhere = next(folder for folder in path.parents if folder.name == "root").parent / "elsewhere"
    elsewhere.write_bytes(data)
    path.symlink_to(elsewhere)


def hole(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.truncate(path, 1 << 40)


PUTS: dict[str, Callable[[Path, bytes], object]] = {
    "link": link,
    "device": lambda path, data: path.symlink_to("/dev/zero"),
    "pipe": lambda path, data: os.mkfifo(path),
    "folder": lambda path, data: path.mkdir(),
    "hole": hole,
}


def use(path: Path, backbone: Backbone) -> None:
    """Query, verify and write; an error is one line."""

    def reads() -> None:
        with Gallery(path) as gallery:
            Detector(gallery, backbone, SEARCH).nearest_images(gallery.pooled(gallery.sample(2)))
            for row in gallery.images():
                gallery.thumbnail(row)

    def verify() -> None:
        with Gallery(path) as gallery:
            list(gallery.verify())

    def write() -> None:
        with GalleryWriter(path) as writer:
            writer.repair()

    for action in (reads, verify, write):
        try:
            action()
        except GalleryError as error:
            assert "\n" not in str(error), error  # noqa: PT017


def ended_well(pid: int, seconds: float = 20) -> bool:
    """Return whether a process ends by itself within this time, and without a failure."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("pattern", FILES)
def test_what_is_no_file_is_an_error(whole: Path, tmp_path: Path, backbone: Backbone, pattern: str, put: str) -> None:
    path = shutil.copytree(whole, tmp_path / "root" / "gallery")
    (file,) = path.glob(pattern)
    data = file.read_bytes()
    file.unlink()
    PUTS[put](file, data)
    assert ended_well(forked(lambda: use(path, backbone)))
    if put == "link":
        assert (tmp_path / "elsewhere").read_bytes() == data


def test_a_link_is_no_part_of_a_gallery(whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "root" / "gallery")
    for pattern in FILES[:4]:
        (file,) = path.glob(pattern)
        data = file.read_bytes()
        file.unlink()
        link(file, data)
        with Gallery(path) as gallery:
            assert any(file.name in line for line in gallery.verify()), file
        file.unlink()
        file.write_bytes(data)
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []


def test_a_journal_names_no_other_file(gallery_path: Path, tmp_path: Path) -> None:
    """SQLite deletes the file that it names, also for a reader."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    shutil.copytree(gallery_path, tmp_path / "other")
    journal = write_journal(gallery_path / "catalog.sqlite", precious)
    for opened in (Gallery, GalleryWriter):
        with pytest.raises(GalleryDamaged, match="journal names another file"):
            opened(gallery_path)
    assert precious.read_bytes() == b"precious"
    catalog = write_journal(tmp_path / "other" / "catalog.sqlite", precious).with_name("catalog.sqlite")
    with closing(sqlite3.connect(catalog)) as db:
        db.execute("SELECT * FROM meta")
    assert not precious.exists()  # so this is what the refusal prevents
    journal.unlink()
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_sqlite_writes_through_no_link(gallery_path: Path, tmp_path: Path, suffix: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"\0" * 10)
    (gallery_path / f"catalog.sqlite{suffix}").symlink_to(elsewhere)
    with pytest.raises(GalleryDamaged, match="not a readable catalog"), GalleryWriter(gallery_path) as writer:
        writer.remove(["000.png"])
    assert elsewhere.read_bytes() == b"\0" * 10


def test_a_catalog_of_another_mode_is_refused(gallery_path: Path) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db:
        db.execute("PRAGMA journal_mode = WAL")
    check.write(gallery_path / "catalog.sqlite")
    with pytest.raises(GalleryDamaged, match="another program has changed how it is written"):
        Gallery(gallery_path)
    assert not list(gallery_path.glob("catalog.sqlite-*"))


def test_a_generation_is_begun_through_no_link(gallery_path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x")
    os.utime(elsewhere, (1, 1))
    with Gallery(gallery_path) as gallery:
        following = gallery.catalog.generation() + 1
    (gallery_path / "readers" / str(following)).symlink_to(elsewhere)
    (gallery_path / "readers" / str(following - 1)).unlink()
    (gallery_path / "readers" / str(following - 1)).symlink_to(elsewhere)
    with GalleryWriter(gallery_path) as writer:
        writer.remove(["000.png"])
        writer.compact()
    assert elsewhere.stat().st_mtime == 1
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []


@pytest.mark.parametrize("name", ["id", "checksum", "thumbnail"])
@pytest.mark.parametrize("kind", ["more dimensions", "numbers"])
def test_columns_of_a_shard_are_checked(gallery_path: Path, name: str, kind: str) -> None:
    with h5py.File(gallery_path / "shards" / "000001.h5", "r+") as file:
        dtype, shape = file[name].dtype, file[name].shape
        del file[name]
        file.create_dataset(name, shape if kind == "numbers" else (*shape, 1), "<f4" if kind == "numbers" else dtype)
    with Gallery(gallery_path) as gallery:
        for row in list(gallery.images())[:5]:
            with pytest.raises(GalleryDamaged):
                gallery.stored(row)
        assert any("000001.h5" in line for line in gallery.verify())


def test_images_in_no_shard_are_a_problem_of_the_catalog(gallery_path: Path) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("DELETE FROM shards WHERE shard = 2")
    check.write(gallery_path / "catalog.sqlite")
    with GalleryWriter(gallery_path) as writer:
        snapshots = writer.gallery.catalog.snapshots()
        with pytest.raises(
            GalleryDamaged, match=r"catalog\.sqlite: \d+ images are in no shard; restore it from a copy"
        ):
            writer.compact()
        assert writer.gallery.catalog.snapshots() == snapshots
        assert any("images are in no shard" in line for line in writer.gallery.verify())
