"""Readers keep their snapshot; what fell out of use is deleted when no reader may need it any more."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import GalleryError, InputError, UnknownImage
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery, generations
from spade_index.gallery.index import build as build_module
from spade_index.gallery.index.search import ImageSearch
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import IndexSettings

from helpers.processes import answers_of, forked
from helpers.tiny import files_of, parts_of, put

QUERIES = np.random.default_rng(3).normal(size=(4, 12)).astype(np.float32)


def change_all(path: Path, remove: tuple[str, ...] = ("000.png", "006.png", "011.png")) -> None:
    """Remove, index and compact, so that no earlier file or row is in use."""
    with GalleryWriter(path) as writer:
        writer.remove(remove)
        writer.build_index()
        writer.compact()


def is_tidy(path: Path) -> bool:
    return files_of(path) == parts_of(path)


def test_a_reader_keeps_its_snapshot_until_it_closes(gallery_path: Path) -> None:
    with Gallery(gallery_path) as used, Gallery(gallery_path) as fresh, Gallery(gallery_path, 2) as early:
        expected, expected_early = answers_of(used), answers_of(early)
        change_all(gallery_path)
        put(gallery_path, used.settings, QUERIES, ["a", "b", "c", "d"])
        change_all(gallery_path, remove=("001.png", "a"))
        assert answers_of(used) == answers_of(fresh) == expected
        assert answers_of(early) == expected_early
        with Gallery(gallery_path) as after:
            assert len(after) == 11
            assert list(after.verify()) == list(used.verify()) == []
        assert not is_tidy(gallery_path)
    with GalleryWriter(gallery_path) as writer:
        assert is_tidy(gallery_path)
        assert writer.delete_unused()


def test_deletion_waits_for_readers(gallery_path: Path) -> None:
    with GalleryWriter(gallery_path) as writer:
        with Gallery(gallery_path):
            writer.remove(["000.png"])
            freed = writer.compact()
            assert freed > 0
            assert not writer.delete_unused()
            assert writer.compact() == 0  # not twice
        assert writer.delete_unused()
        assert is_tidy(gallery_path)


def test_images_removed_before_a_compaction_cannot_be_restored(gallery_path: Path) -> None:
    with Gallery(gallery_path) as reader:
        change_all(gallery_path)
        assert len(reader) == 12
        with pytest.raises(InputError, match="no snapshot 3"):
            Gallery(gallery_path, 3)
        with GalleryWriter(gallery_path) as writer:
            assert writer.gallery.catalog.removed_count() == 0
            assert list(writer.gallery.removed_images()) == []
            assert len(writer.gallery.info()["snapshots"]) == 1
            with pytest.raises(UnknownImage, match="compact"):
                writer.restore(["000.png"])


def test_a_reader_that_moves_releases_its_generation(gallery_path: Path) -> None:
    with Gallery(gallery_path) as reader, Gallery(gallery_path) as other:
        change_all(gallery_path)
        before = answers_of(reader)
        with pytest.raises(InputError, match="no snapshot 2"):
            reader.at(2)
        assert answers_of(reader) == before == answers_of(other)
        reader.at()
        assert len(reader) == 9
        other.close()
        with GalleryWriter(gallery_path):
            assert is_tidy(gallery_path)
        assert len(answers_of(reader)[2]) == 9


def test_an_inexact_index_is_kept_for_readers(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By scanning, or with another index, a reader would find other images than before."""
    monkeypatch.setattr(build_module, "EXACT_LIMIT", 100)
    path = tmp_path / "gallery"
    descriptors = np.random.default_rng(6).normal(size=(300, 12)).astype(np.float32)
    put(path, backbone.settings, descriptors, [f"{number:03d}" for number in range(300)])
    with GalleryWriter(path) as writer:
        assert writer.build_index(IndexSettings("pq", recall=0.3)).kind == "ivf"
    with Gallery(path) as used, Gallery(path) as fresh:
        queries = np.random.default_rng(7).normal(size=(20, 12)).astype(np.float32)
        expected = used.nearest(queries, 10)
        with GalleryWriter(path) as writer:
            writer.build_index(IndexSettings("flat"))
            writer.remove(["007", "123"])
            writer.compact()
            assert writer.index_settings().storage == "flat"
        assert fresh.nearest(queries, 10) == used.nearest(queries, 10) == expected


@pytest.mark.parametrize("step", ["__init__", "_rank", "_distances"])
@pytest.mark.parametrize("locked", [True, False])
def test_a_search_that_is_overtaken_by_compact(
    gallery_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, locked: bool
) -> None:
    """It answers as before, or raises: an answer without images deleted meanwhile would be wrong."""
    if not locked:
        shutil.rmtree(gallery_path / generations.FOLDER)
    with Gallery(gallery_path) as reader, Gallery(gallery_path) as other, GalleryWriter(gallery_path) as writer:
        removed = reader.pooled([reader.image("003.png")])
        expected = other.nearest(removed, 12)
        other.close()
        writer.remove(["003.png"])
        original = getattr(ImageSearch, step)

        def overtaken(*arguments: object) -> object:
            if len(writer.gallery.catalog.snapshots()) > 1:
                writer.compact()
            return original(*arguments)

        monkeypatch.setattr(ImageSearch, step, overtaken)
        if locked:
            assert reader.nearest(removed, 12) == expected
        else:
            with pytest.raises(GalleryError, match="open it again"):
                reader.nearest(removed, 12)


@pytest.mark.parametrize("moment", ["before the lock", "after the lock"])
def test_a_reader_that_opens_while_its_generation_ends(
    gallery_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    hold: Callable = generations.hold
    left = 2

    def overtaken(gallery: Path, generation: int) -> generations.GenerationLock | None:
        nonlocal left
        left -= 1
        held = hold(gallery, generation) if moment == "after the lock" else None
        if left >= 0:
            with monkeypatch.context() as patch:
                patch.setattr(generations, "hold", hold)
                with GalleryWriter(gallery_path) as writer:
                    writer.remove([f"00{left}.png"])
                    writer.compact()
        return held or hold(gallery, generation)

    monkeypatch.setattr(generations, "hold", overtaken)
    with Gallery(gallery_path) as reader:
        assert left < 0
        expected = answers_of(reader)
        assert len(expected[2]) == 10
        change = GalleryWriter(gallery_path)
        change.remove(["011.png"])
        change.compact()
        change.__exit__()
        assert answers_of(reader) == expected


def test_a_forked_child_keeps_what_its_parent_read(gallery_path: Path) -> None:
    reader = Gallery(gallery_path)
    out, into = os.pipe()

    def child() -> None:
        os.close(into)
        os.read(out, 1)

    pid = forked(child)
    change_all(gallery_path)
    reader.close()
    with GalleryWriter(gallery_path) as writer:
        assert not writer.delete_unused()
        os.close(into)
        os.waitpid(pid, 0)
        assert writer.delete_unused()


def test_a_child_that_closes_takes_nothing_from_its_parent(gallery_path: Path) -> None:
    with Gallery(gallery_path) as reader:
        expected = answers_of(reader)
        os.waitpid(forked(reader.close), 0)
        change_all(gallery_path)
        assert answers_of(reader) == expected


def test_galleries_without_generation_locks(gallery_path: Path) -> None:
    shutil.rmtree(gallery_path / generations.FOLDER)
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db, db:
        db.execute("DROP INDEX places")
        db.execute("DELETE FROM meta WHERE name IN ('generation', 'oldest')")
    with Gallery(gallery_path) as reader:
        assert len(answers_of(reader)[2]) == 12
        change_all(gallery_path)
        with pytest.raises(GalleryError, match="open it again"):
            reader.nearest(QUERIES, 1)
        with pytest.raises(GalleryError, match="open it again"):
            list(reader.images())
    assert is_tidy(gallery_path)
    with Gallery(gallery_path) as reader:
        expected = answers_of(reader)
        with GalleryWriter(gallery_path) as writer:
            writer.remove(["001.png"])
            writer.compact()
        assert answers_of(reader) == expected
