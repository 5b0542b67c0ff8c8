"""A changed byte anywhere in a gallery is found and named, and never raises an unexpected exception."""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryDamaged, GalleryError, SpadeIndexError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog import check as catalog_check
from spade_index.gallery.store.codecs import is_finite
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.tiny import build, files_of, write_images

SEARCH = SearchSettings(gallery_neighbours=3)
Answers = Callable[[Path], object]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """A gallery of three images, one of them removed, with an index and thresholds."""
    folder = tmp_path_factory.mktemp("small")
    build(folder / "gallery", write_images(folder / "images", 4), backbone, shard_rows=3, batch_size=3)
    with GalleryWriter(folder / "gallery") as writer:
        writer.remove(["001.png"])
        thresholds = {"thresholds": {"pooled": 1.5, "map": 2.5, "both": 3.5}, "snapshot": 2, "quantile": 0.99}
        writer.set_calibration(SEARCH.calibration_key(), {**thresholds, "search": SEARCH.calibration_key()})
    return folder / "gallery"


@pytest.fixture
def gallery(small: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small, tmp_path / "gallery")


@pytest.fixture
def answer(backbone: Backbone, decoded: Callable[..., list[DecodedImage]]) -> Answers:
    """Call every method that reads, with one query."""
    (image,) = decoded(1)

    def ask(path: Path) -> object:
        with Gallery(path) as opened:
            (found,) = Detector(opened, backbone, SEARCH).detect([image])
            opened.info()
            for row in opened.images():
                opened.thumbnail(row)
            list(opened.removed_images())
            return found.scores, found.neighbours

    return ask


def flips(path: Path, places: list[int], seed: int = 0) -> Iterator[int]:
    """Change one byte of a file at a time."""
    rng, whole = random.Random(seed), path.read_bytes()
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= rng.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        path.write_bytes(changed)
        yield place
    path.write_bytes(whole)


def problems_of(path: Path, whole: bool = True) -> list[str]:
    """Return the problems that `verify` finds in all files or in the catalog, or the error of opening the gallery."""
    try:
        with Gallery(path) as opened:
            found = list(opened.verify() if whole else opened.catalog.problems())
    except SpadeIndexError as error:
        found = [str(error)]
    assert all("\n" not in line for line in found)
    return found


def check_found(gallery: Path, name: str, places: list[int], answer: Answers, asked: int = 1) -> None:
    """Check that every flip is a problem that names the file; every few flips, also use the gallery."""
    others = files_of(gallery)
    for number, place in enumerate(flips(gallery / name, places)):
        found = problems_of(gallery, whole=name != "catalog.sqlite")
        assert found, place
        assert any(str(gallery) in line for line in found), (place, found)
        if number % asked == 0:
            with suppress(GalleryError):  # a right answer, or that
                answer(gallery)
    assert files_of(gallery) == others
    assert problems_of(gallery) == []


def test_every_byte_of_the_catalog_counts(gallery: Path, answer: Answers) -> None:
    size = (gallery / "catalog.sqlite").stat().st_size
    places = [*range(100), *range(100, size, 211)]
    check_found(gallery, "catalog.sqlite", places, answer, asked=10)


@pytest.mark.parametrize("name", ["catalog.check", "shards/000001.h5", "shards/000002.h5", "faiss", "h5"])
def test_every_byte_of_other_files_counts(gallery: Path, answer: Answers, name: str) -> None:
    if name in ("faiss", "h5"):
        (name,) = (f"index/{path.name}" for path in (gallery / "index").glob(f"*.{name}"))
    size = (gallery / name).stat().st_size
    places = random.Random(1).sample(range(size), min(size, 16))
    check_found(gallery, name, places, answer, asked=2)


def test_files_without_contents_that_matter(gallery: Path) -> None:
    for name in sorted(files_of(gallery)):
        if name == "writer.lock":
            for place in flips(gallery / name, list(range((gallery / name).stat().st_size))):
                assert problems_of(gallery) == [], place
                with GalleryWriter(gallery):
                    pass
        elif name.startswith("readers/"):
            (gallery / name).write_bytes(b"anything")
            assert problems_of(gallery) == []
            with GalleryWriter(gallery) as writer:
                assert len(writer.gallery) == 3
    assert problems_of(gallery) == []


def test_a_journal_without_a_header(gallery: Path, tmp_path: Path) -> None:
    """SQLite writes a journal's header last. Without it the journal is ignored, and a changed byte is no damage."""
    with GalleryWriter(gallery) as writer, writer.gallery.catalog.transaction() as changes:
        changes.set_meta("created", "never")
        killed = shutil.copytree(gallery, tmp_path / "killed")
    journal, catalog = killed / "catalog.sqlite-journal", killed / "catalog.sqlite"
    before, size = catalog.read_bytes(), journal.stat().st_size
    assert size > 4096
    for place in flips(journal, [*[0] * 4, *range(28), *range(28, size, 397)]):
        assert problems_of(killed) == [], place
        assert catalog.read_bytes() == before


def test_sqlite_does_not_check_all_bytes_of_the_test_catalog(gallery: Path) -> None:
    """Otherwise the tests above would show no more than `PRAGMA integrity_check` does."""
    path = gallery / "catalog.sqlite"
    with closing(sqlite3.connect(path)) as db:
        (stored,) = db.execute("SELECT path FROM images LIMIT 1").fetchone()
    data = bytearray(path.read_bytes())
    data[data.index(stored.encode())] ^= 1
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with Gallery(gallery) as opened:
        (line,) = opened.verify()
    assert str(path) in line
    assert "build it again" in line


def test_a_damaged_catalog_is_not_written_to(gallery: Path) -> None:
    """A later note of its bytes would declare them good."""
    for _ in flips(gallery / "catalog.sqlite", [5000]):
        before = {name: (gallery / name).read_bytes() for name in files_of(gallery)}
        with pytest.raises(GalleryDamaged, match=r"catalog\.sqlite.*restore it from a copy"):
            GalleryWriter(gallery)
        assert {name: (gallery / name).read_bytes() for name in files_of(gallery)} == before
    with GalleryWriter(gallery):
        pass


def test_a_writer_that_was_killed_leaves_an_older_note(gallery: Path) -> None:
    note = (gallery / catalog_check.CHECK).read_bytes()
    with GalleryWriter(gallery) as writer:
        writer.remove(["000.png"])
    (gallery / catalog_check.CHECK).write_bytes(note)
    assert problems_of(gallery) == []
    with GalleryWriter(gallery):
        assert (gallery / catalog_check.CHECK).read_bytes() != note
    assert problems_of(gallery) == []


def test_an_older_note_of_a_damaged_catalog(gallery: Path) -> None:
    note = (gallery / catalog_check.CHECK).read_bytes()
    with GalleryWriter(gallery) as writer:
        writer.remove(["000.png"])
    (gallery / catalog_check.CHECK).write_bytes(note)
    path = gallery / "catalog.sqlite"
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'digests'").fetchone()
    data = bytearray(path.read_bytes())
    data[4096 * (page - 1) : 4096 * page] = bytes(4096)
    path.write_bytes(data)
    with pytest.raises(GalleryDamaged, match=r"catalog\.sqlite"):
        GalleryWriter(gallery)


def test_a_catalog_older_than_its_note(gallery: Path) -> None:
    """An earlier copy was put in the catalog's place."""
    before = (gallery / "catalog.sqlite").read_bytes()
    with GalleryWriter(gallery) as writer:
        writer.remove(["000.png"])
    (gallery / "catalog.sqlite").write_bytes(before)
    assert "catalog.sqlite" in problems_of(gallery)[0]


def test_galleries_without_a_note_and_with_a_damaged_one(gallery: Path) -> None:
    note = gallery / catalog_check.CHECK
    whole = note.read_bytes()
    note.unlink()
    assert problems_of(gallery) == []
    with GalleryWriter(gallery):
        assert note.read_bytes() == whole
    for damaged in (b"", b"1 2 3\n", b"\xff" * 60, whole[:-1], whole + b"\n", whole.replace(b" ", b"  ")):
        note.write_bytes(damaged)
        assert str(note) in problems_of(gallery)[0]
        with GalleryWriter(gallery):
            assert note.read_bytes() == whole


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
def test_values_that_are_not_finite(value: float) -> None:
    values = np.array([[0, -65504, 65504], [6e-8, -0.0, 1]], np.float16)
    assert is_finite(values)
    values[1, 2] = value
    assert not is_finite(values)


def test_a_map_with_values_that_are_not_finite(gallery: Path, answer: Answers) -> None:
    with Gallery(gallery) as opened:
        row = opened.image("002.png")
        shard = gallery / "shards" / f"{row.shard:06d}.h5"
        stored = opened.maps([row.key])[1].tobytes()
    data = bytearray(shard.read_bytes())
    data[data.index(stored) + 7] |= 0x7C
    shard.write_bytes(data)
    for use in (answer, lambda path: Gallery(path).maps([row.key])):
        with pytest.raises(GalleryDamaged, match=rf"{shard}.*'002\.png'.*verify {gallery} --repair"):
            use(gallery)


def test_damage_is_not_copied_to_new_files(gallery: Path) -> None:
    """Neither by a compaction, whose new shard would have valid checksums, nor by the moments after a removal."""
    with Gallery(gallery) as opened:
        row = opened.image("002.png")
        stored = opened.maps([row.key])[1].tobytes()
    shard = gallery / "shards" / f"{row.shard:06d}.h5"
    data = bytearray(shard.read_bytes())
    data[data.index(stored) + 6] ^= 1
    shard.write_bytes(data)
    with GalleryWriter(gallery) as writer:
        for change in (writer.compact, lambda: writer.remove(["002.png"])):
            with pytest.raises(GalleryDamaged, match=rf"{shard}.*'002\.png'.*--repair"):
                change()
    assert "002.png" in problems_of(gallery)[0]
