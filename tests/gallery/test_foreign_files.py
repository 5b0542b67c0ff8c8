"""A writer deletes nothing but files of its own, and writes nothing through a link."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_index.errors import GalleryError, StorageError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import calibration
from spade_index.settings import SearchSettings

from helpers.calls import die_at
from helpers.processes import forked, killed
from helpers.tiny import build, files_of, image_file, parts_of, png, tiny_backbone

FOREIGN = [
    "shards/000001.h5.bak",
    "shards/000001.h5~",
    "shards/1.h5",
    "shards/00001.h5",
    "shards/0000001.h5x",
    "shards/000001.H5",
    "shards/notes.txt",
    "shards/.nfs0001",
    "shards/lost+found/inside",
    "shards/000002.h5.d/inside",
    "index/000001.faiss.bak",
    "index/notes.txt",
    "index/lost+found/inside",
    "calibrations/000001.h5.bak",
    "calibrations/thresholds.csv",
    "readers/notes.txt",
    "readers/9.bak",
    "readers/9/inside",
    "incoming/notes.txt",
    "incoming/mine/000001.h5",
    f"incoming/{'0f' * 16}/notes.txt",
    "lost+found/inside",
    "notes.txt",
]


def change(path: Path) -> None:
    """Do everything that deletes files."""
    with GalleryWriter(path) as writer:
        writer.shard_rows = 5
        writer.add([image_file("new.png", png(70))], tiny_backbone())
        writer.remove(["003.png"])
        search = SearchSettings(gallery_neighbours=3)
        calibration.store(writer, search, calibration.calibrate(writer.gallery, search))
        writer.build_index()
        writer.compact()
        writer.repair()
    with GalleryWriter(path):
        pass


def test_foreign_files_stay(gallery_path: Path) -> None:
    for name in FOREIGN:
        (gallery_path / name).parent.mkdir(parents=True, exist_ok=True)
        (gallery_path / name).write_text("mine")
    change(gallery_path)
    for name in FOREIGN:
        assert (gallery_path / name).read_text() == "mine"
    with Gallery(gallery_path) as gallery:
        files = {f"calibrations/{file}" for file in gallery.catalog.calibration_files()}
        assert list(gallery.verify()) == []
    assert files_of(gallery_path) - set(FOREIGN) - files == parts_of(gallery_path)


def test_shards_that_other_processes_left_are_deleted(gallery_path: Path) -> None:
    folder = gallery_path / "incoming" / ("0f" * 16)
    folder.mkdir(parents=True)
    for name in ("000003.h5", "000004.h5.tmp"):
        (folder / name).write_text("left")
    with GalleryWriter(gallery_path):
        pass
    assert not folder.parent.exists()


@pytest.mark.parametrize("name", ["shards/000001.h5", "shards/000099.h5.tmp", "index/000001.faiss", "readers/77"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_not_deleted_as_one(gallery_path: Path, tmp_path: Path, name: str, kind: str) -> None:
    with GalleryWriter(gallery_path) as writer:  # so that these numbers are out of use
        writer.remove(["000.png"])
        writer.build_index()
        writer.compact()
    path = gallery_path / name
    assert not path.exists()
    (tmp_path / "elsewhere").write_text("mine")
    {"link": lambda: path.symlink_to(tmp_path / "elsewhere"), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[
        kind
    ]()
    change(gallery_path)
    assert os.path.lexists(path)
    assert (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.parametrize("folder", ["shards", "index", "readers", "calibrations", "set-aside", "incoming"])
def test_a_linked_folder_is_read_and_not_written_to(gallery_path: Path, tmp_path: Path, folder: str) -> None:
    target = tmp_path / "elsewhere"
    if (gallery_path / folder).exists():
        (gallery_path / folder).rename(target)
    target.mkdir(exist_ok=True)
    (target / "000099.h5").write_text("somebody else's")
    (target / "99").write_text("somebody else's")
    before = files_of(target)
    (gallery_path / folder).symlink_to(target)
    with Gallery(gallery_path) as gallery:
        assert len(gallery.nearest(gallery.pooled(gallery.sample(1)), 3)[0]) == 3
    with pytest.raises(StorageError, match=f"{folder}: is a link"):
        GalleryWriter(gallery_path)
    assert files_of(target) == before


@pytest.mark.parametrize(
    "name",
    ["writer.lock", "catalog.check.tmp", "shards/000004.h5.tmp", "index/000002.faiss.tmp", "index/000002.h5.tmp"],
)
def test_nothing_is_written_through_a_linked_file(gallery_path: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (gallery_path / name).unlink(missing_ok=True)
    (gallery_path / name).symlink_to(target)
    try:
        change(gallery_path)
    except StorageError:
        assert name == "writer.lock"
    assert target.read_text() == "mine"


def restored(path: Path, backbone: Backbone, more: Callable[[GalleryWriter], object]) -> set[str]:
    """Copy a gallery's catalog, change the gallery, and put the catalog back; return the names of newer shards."""
    copies = [(path / name, path.parent / name) for name in ("catalog.sqlite", "catalog.check")]
    for file, copy in copies:
        shutil.copy(file, copy)
    before = set(os.listdir(path / "shards"))
    with GalleryWriter(path) as writer:
        writer.shard_rows = 2
        more(writer)
    for file, copy in copies:
        shutil.copy(copy, file)
    return set(os.listdir(path / "shards")) - before


def test_newer_shards_of_a_restored_gallery_are_set_aside(
    gallery_path: Path, backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    def more(writer: GalleryWriter) -> None:
        writer.add([image_file(f"new-{number}.png", png(70 + number)) for number in range(5)], backbone)

    newer = restored(gallery_path, backbone, more)
    assert len(newer) == 3
    contents = {name: (gallery_path / "shards" / name).read_bytes() for name in newer}
    with GalleryWriter(gallery_path):
        pass
    aside = gallery_path / "set-aside"
    assert {file.name: file.read_bytes() for file in aside.iterdir()} == contents
    assert "set aside" in caplog.text
    assert restored(gallery_path, backbone, more) == newer  # they take the same names
    with GalleryWriter(gallery_path) as writer:
        writer.add([image_file("other.png", png(90))], backbone)
    assert set(os.listdir(aside)) == newer | {f"{name}-2" for name in newer}
    with Gallery(gallery_path) as gallery:
        assert len(gallery) == 13
        assert list(gallery.verify()) == []


UNKNOWN = ["shards/000099.h5", "index/000099.faiss", "index/000099-2.h5", "calibrations/000099.h5", "readers/99"]


def test_files_of_numbers_that_the_catalog_never_issued_stay(gallery_path: Path) -> None:
    """They are set aside, where a writer would give their names to files of its own."""
    for name in UNKNOWN:
        (gallery_path / name).parent.mkdir(exist_ok=True)
        (gallery_path / name).write_text(name)
    change(gallery_path)
    aside = gallery_path / "set-aside"
    assert {file.name: file.read_text() for file in aside.iterdir()} == {
        "000099.h5": "shards/000099.h5",
        "index-000099.faiss": "index/000099.faiss",
        "index-000099-2.h5": "index/000099-2.h5",
        "calibrations-000099.h5": "calibrations/000099.h5",
    }
    assert (gallery_path / "readers" / "99").read_text() == "readers/99"
    with Gallery(gallery_path) as gallery:
        assert list(gallery.verify()) == []


def test_shards_that_a_killed_writer_began_are_deleted(gallery_path: Path, backbone: Backbone) -> None:
    files = [image_file(f"new-{number}.png", png(70 + number)) for number in range(6)]

    def run() -> None:
        die_at((Transaction, "add_shard"), 2)
        with GalleryWriter(gallery_path) as writer:
            writer.shard_rows = 2
            writer.add(files, backbone)

    assert killed(forked(run))
    assert len(os.listdir(gallery_path / "shards")) > 4
    for _ in range(2):
        with GalleryWriter(gallery_path) as writer:
            assert len(writer.gallery) == 14
    assert not (gallery_path / "set-aside").exists()
    assert files_of(gallery_path) - {"catalog.sqlite-journal"} == parts_of(gallery_path)


def test_a_writer_that_failed_leaves_its_shards_to_the_next(
    gallery_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "add_images", fails)
        with pytest.raises(GalleryError), GalleryWriter(gallery_path) as writer:
            writer.add([image_file("new.png", png(70))], backbone)
    with GalleryWriter(gallery_path) as writer:
        assert len(writer.gallery) == 12
    assert files_of(gallery_path) == parts_of(gallery_path)


def test_a_gallery_is_made_at_the_root_of_a_file_system(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    assert build(tmp_path / "disk", image_folder(3), tiny_backbone()).added == 3
