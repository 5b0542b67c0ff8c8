"""Galleries of tiles: pictures are added, replaced, removed and restored as wholes, whatever interrupts it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spade_index.errors import InputError, StorageError, UnknownImage
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images
from spade_index.images.decode import load_parts
from spade_index.images.tiles import picture_of

from helpers.calls import fail_from
from helpers.damage import damage, repaired
from helpers.tiled import SIZES, failing_backbone, picture, tiled_settings, tiles
from helpers.tiny import tiny_backbone, write_images

BACKBONE = tiny_backbone()
SETTINGS = tiled_settings()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[GalleryWriter]:
    with GalleryWriter(tmp_path / "gallery", SETTINGS) as opened:
        opened.shard_rows = 4
        yield opened


def ids(writer: GalleryWriter) -> list[str]:
    return [row.id for row in writer.gallery.images()]


def test_each_tile_is_a_row_with_its_place_and_the_size_of_its_picture(writer: GalleryWriter) -> None:
    told: list[int] = []
    report = writer.add([picture("a", 0), picture("b", 1)], BACKBONE, progress=told.append)
    assert (report.added, report.tiles, sum(told)) == (2, len(tiles("a", 0) + tiles("b", 1)), 2)
    assert str(report) == f"2 added as {report.tiles} tiles"
    assert ids(writer) == tiles("a", 0) + tiles("b", 1)
    for row, tile in zip(writer.gallery.images(), load_parts(picture("a", 0), SETTINGS.preprocessing), strict=False):
        assert (row.width, row.height, row.path, row.digest) == (*SIZES[0], "/nowhere/a", tile.digest)
        assert writer.gallery.thumbnail(row) == tile.thumbnail


def test_pictures_that_are_there_are_not_read_again(writer: GalleryWriter) -> None:
    writer.add([picture("a", 0), picture("b", 2)], BACKBONE)
    writer.remove([tiles("a", 0)[0]])

    def unread() -> bytes:
        raise AssertionError("a picture was read again")

    files = [
        type(file)(file.id, file.path, file.size, file.mtime_ns, unread) for file in (picture("a", 0), picture("b", 2))
    ]
    report = writer.add(files, BACKBONE, keep_removed=True)
    assert (report.unchanged, report.removed, report.given) == (2, 0, 2)
    writer.remove(["a"])
    report = writer.add(files, BACKBONE, keep_removed=True)
    assert (report.unchanged, report.removed, report.given) == (1, 1, 2)


def test_copies_are_named_once_a_picture(writer: GalleryWriter) -> None:
    said: list[str] = []
    told: list[int] = []
    copy = picture("b", 0)
    report = writer.add([picture("a", 0), copy], BACKBONE, notice=said.append, progress=told.append)
    report = writer.add([copy, picture("c", 0)], BACKBONE, notice=said.append, progress=told.append)
    assert (report.added, report.copies, sum(told)) == (0, 2, 4)
    assert said == ["skipped b: the same file as a"] * 2 + ["skipped c: the same file as a"]
    assert ids(writer) == tiles("a", 0)


def test_a_picture_of_another_size_replaces_all_tiles_of_the_one_before(writer: GalleryWriter) -> None:
    writer.add([picture("a", 0), picture("a@1,2", 0, seed=1)], BACKBONE)
    said: list[str] = []
    assert writer.add([picture("a", 2)], BACKBONE, notice=said.append).changed == 1
    assert said == ["kept a as it was: /nowhere/a has other contents (--replace takes it)"]
    report = writer.add([picture("a", 2)], BACKBONE, replace=True)
    assert str(report) == "1 added as 2 tiles, 1 of them replaced"
    assert ids(writer) == tiles("a@1,2", 0) + tiles("a", 2)
    assert list(writer.gallery.removed_images()) == []  # tiles of another version could not stand beside these
    with pytest.raises(UnknownImage):
        writer.restore([tiles("a", 0)[-1]])


def test_an_interrupted_addition_is_completed(tmp_path: Path) -> None:
    files = list(find_images(write_images(tmp_path / "pictures", 3, size=(150, 90))))
    for batches in (0, 3, 7, 12, 30):
        with GalleryWriter(tmp_path / f"gallery-{batches}", SETTINGS) as writer:
            writer.shard_rows = 4
            with suppress(InputError):
                writer.add(files, failing_backbone(batches), batch_size=1, workers=1)
            there = len(writer.gallery)
            report = writer.add(files, BACKBONE)
            assert (there + report.tiles, report.added + report.unchanged) == (len(writer.gallery), 3)
            assert len({*ids(writer)}) == len(writer.gallery) == 3 * len(load_parts(files[0], SETTINGS.preprocessing))


def test_an_interrupted_replacement_has_retired_all_old_tiles_and_is_completed(writer: GalleryWriter) -> None:
    writer.add([picture("a", 0)], BACKBONE)
    with pytest.raises(InputError):
        writer.add([picture("a", 1)], failing_backbone(5), batch_size=1, replace=True)
    assert ids(writer) == tiles("a", 1)[:5]
    report = writer.add([picture("a", 1)], BACKBONE)
    assert str(report) == f"1 added as {len(tiles('a', 1)) - 5} tiles"
    assert ids(writer) == tiles("a", 1)


def test_a_disk_that_is_full_in_the_middle_of_a_picture_leaves_what_fits(
    writer: GalleryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_from(patch, (GalleryWriter, "require_room"), 6, StorageError("the disk is full"))
        with pytest.raises(StorageError, match="full"):
            writer.add([picture("a", 0)], BACKBONE, batch_size=1)
    assert ids(writer) == tiles("a", 0)[:5]
    assert str(writer.add([picture("a", 0)], BACKBONE)) == f"1 added as {len(tiles('a', 0)) - 5} tiles"
    assert ids(writer) == tiles("a", 0)


def test_a_damaged_tile_is_dropped_and_added_again(tmp_path: Path) -> None:
    path, files, damaged = tmp_path / "gallery", [picture("a", 0), picture("b", 1)], tiles("a", 0)[1]
    with GalleryWriter(path, SETTINGS, maps="float16") as writer:
        writer.add(files, BACKBONE)
    damage(path, damaged)
    assert repaired(path)[0] == 1
    with GalleryWriter(path) as writer:
        assert damaged not in ids(writer)
        assert str(writer.add(files, BACKBONE)) == "1 added as 1 tile, 1 already there"
        assert sorted(ids(writer)) == sorted(tiles("a", 0) + tiles("b", 1))


def test_a_picture_that_was_half_added_and_removed_stays_out(writer: GalleryWriter) -> None:
    with pytest.raises(InputError):
        writer.add([picture("a", 0)], failing_backbone(5), batch_size=1)
    assert len(writer.gallery) == 5
    writer.remove(["a"])
    again = picture("a", 0)
    touched = type(again)(again.id, again.path, again.size, 77, again.read)
    assert str(writer.add([again, touched], BACKBONE, keep_removed=True)) == (
        "0 added, 2 were removed before and stay out (--again takes them)"
    )
    assert str(writer.add([again], BACKBONE)) == f"1 added as {len(tiles('a', 0))} tiles"


def test_pictures_and_tiles_are_removed_and_restored_by_their_ids(writer: GalleryWriter) -> None:
    writer.add([picture("a", 0), picture("b", 1)], BACKBONE)
    first, *others = tiles("a", 0)
    writer.remove([first, "b"])
    assert ids(writer) == others
    with pytest.raises(UnknownImage):
        writer.remove(["b"])
    with pytest.raises(InputError, match="is there"):
        writer.restore([others[0]])
    writer.restore(["a"])
    assert ids(writer) == [*others, first]
    with pytest.raises(InputError, match="is there"):
        writer.restore(["a"])
    writer.restore([*tiles("b", 1)[:2]])
    writer.restore(["b"])
    assert sorted(ids(writer)) == sorted(tiles("a", 0) + tiles("b", 1))
    writer.remove(["a", first])
    assert sorted(ids(writer)) == sorted(tiles("b", 1))
    with pytest.raises(UnknownImage):
        writer.remove(["c"])


NAMES = st.sampled_from(["a", "b", "a@1,2"])
VERSIONS = st.integers(0, len(SIZES) - 1)


class Pictures(RuleBasedStateMachine):
    """A gallery of tiles beside a dictionary of pictures."""

    @initialize(shard_rows=st.integers(1, 5))
    def create(self, shard_rows: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.writer = GalleryWriter(self.folder / "gallery", SETTINGS)
        self.writer.shard_rows = shard_rows
        self.there: dict[str, tuple[int, set[str]]] = {}  # version and tiles
        self.removed: dict[tuple[str, int], set[str]] = {}  # on purpose, by picture and version
        self.lost: set[tuple[int, str]] = set()  # of them, versions and tiles that can no longer be restored

    @rule(
        versions=st.dictionaries(NAMES, VERSIONS, min_size=1),
        replace=st.booleans(),
        again=st.booleans(),
        interrupted=st.none() | st.integers(0, 12),
    )
    def add(self, versions: dict[str, int], replace: bool, again: bool, interrupted: int | None) -> None:
        files = [picture(id, version, "ab@".index(id[-1]) if len(id) == 1 else 2) for id, version in versions.items()]
        options = {"replace": replace, "keep_removed": not again, "batch_size": 1}
        if interrupted is not None:
            with suppress(InputError):
                self.writer.add(files, failing_backbone(interrupted), **options)
            self.tiles_are_of_one_version()
        report = self.writer.add(files, BACKBONE, **options)
        assert report.given == len(files)
        for id, version in versions.items():
            known, tiles_there = self.there.get(id, (None, set[str]()))
            gone = set() if again else self.removed.get((id, version), set())
            wanted = {*tiles(id, version)} - gone
            if known == version:
                self.there[id] = version, tiles_there | wanted
            elif (known is not None and replace and wanted) or (known is None and not gone):
                self.there[id] = version, wanted
            if self.there.get(id, (None,))[0] == version:
                self.removed.get((id, version), set()).difference_update(self.there[id][1])

    @rule(id=NAMES)
    def remove_picture(self, id: str) -> None:
        if id in self.there:
            self.writer.remove([id])
            version, gone = self.there.pop(id)
            self.removed.setdefault((id, version), set()).update(gone)
            self.lost -= {(version, tile) for tile in gone}
        else:
            with pytest.raises(UnknownImage):
                self.writer.remove([id])

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def remove_tile(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.there)))
        version, there = self.there[id]
        tile = data.draw(st.sampled_from(sorted(there)))
        self.writer.remove([tile])
        there.discard(tile)
        self.lost.discard((version, tile))
        self.removed.setdefault((id, version), set()).add(tile)
        if not there:
            del self.there[id]

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def restore_what_is_missing(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.there)))
        version, there = self.there[id]
        missing = {tile for tile in tiles(id, version) if tile not in there and (version, tile) not in self.lost}
        if missing:
            self.writer.restore([id])
            self.there[id] = version, there | missing
            self.removed[(id, version)] -= missing
        else:
            with pytest.raises(InputError):
                self.writer.restore([id])

    @rule()
    def compact(self) -> None:
        self.writer.compact()
        self.lost = {(version, tile) for (_, version), gone in self.removed.items() for tile in gone}

    @invariant()
    def tiles_are_of_one_version(self) -> None:
        sizes: dict[str, set[tuple[int, int]]] = {}
        for row in self.writer.gallery.images():
            sizes.setdefault(picture_of(row.id), set()).add((row.width, row.height))
        assert all(len(of) == 1 for of in sizes.values())

    @invariant()
    def holds_what_the_model_says(self) -> None:
        assert sorted(ids(self.writer)) == sorted(tile for _, there in self.there.values() for tile in there)

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            assert list(self.writer.gallery.verify()) == []
            self.writer.__exit__()
            shutil.rmtree(self.folder)


Pictures.TestCase.settings = settings(
    max_examples=30, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPictures = Pictures.TestCase


def test_a_gallery_of_tiles_is_read_back(writer: GalleryWriter, tmp_path: Path) -> None:
    writer.add([picture("a", 0)], BACKBONE)
    with Gallery(tmp_path / "gallery") as gallery:
        assert (gallery.settings, len(gallery)) == (SETTINGS, len(tiles("a", 0)))
        assert gallery.settings.preprocessing.tile == 32
        assert gallery.catalog.picture_count(gallery.snapshot) == 1
