"""A disk without room for a second index: `compact` frees what was removed first, and then builds one."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spade_index.errors import StorageError
from spade_index.gallery import Gallery
from spade_index.gallery.write import compact
from spade_index.gallery.write.writer import GalleryWriter


def compacted(path: Path) -> list[int]:
    """Remove five of twelve images, which fill a shard, and compact; return the numbers of shards at each index."""
    seen: list[int] = []
    real = compact.rebuild_index

    def rebuild(session: Any) -> None:
        seen.append(len(list((path / "shards").iterdir())))
        real(session)

    with pytest.MonkeyPatch.context() as patch, GalleryWriter(path) as writer:
        patch.setattr(compact, "rebuild_index", rebuild)
        writer.remove([row.id for row in list(writer.gallery.images())[:5]])
        writer.compact()
    with Gallery(path) as gallery:
        assert len(gallery) == 7
        assert gallery.index_row is not None
        assert list(gallery.verify()) == []
    return seen


def test_with_room_the_index_is_built_first(gallery_path: Path) -> None:
    assert compacted(gallery_path) == [3]


def test_without_room_removed_images_go_first(gallery_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SimpleNamespace(disk_usage=lambda path: shutil.disk_usage(path)._replace(free=16 << 20))
    monkeypatch.setattr(compact, "shutil", few)
    assert compacted(gallery_path) == [2]


def test_an_index_that_finds_no_room_is_built_later(gallery_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[Path] = []
    real = compact.rebuild_index

    def full(session: Any) -> None:
        times.append(session.path / "index" / "000009.h5.tmp")
        if len(times) == 1:
            times[0].write_bytes(b"half of an index")
            raise StorageError(f"{session.path}: the disk is full")
        assert not times[0].exists(), "what was begun takes no room"
        real(session)

    monkeypatch.setattr(compact, "rebuild_index", full)
    assert compacted(gallery_path) == [3, 2]
