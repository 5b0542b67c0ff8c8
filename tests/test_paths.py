"""Paths that people and programs give: one line names what is none, before anything is made."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spade_index import Gallery, GalleryWriter, find_images, load_backbone, open_gallery
from spade_index.client.images import named_files
from spade_index.errors import InputError, SpadeIndexError, StorageError
from spade_index.gallery.remote.cache import Cache, CacheSettings
from spade_index.images.lists import read_list
from spade_index.images.region_files import read_region
from spade_index.method.layouts import find_datasets
from spade_index.paths import path_of

from helpers.tiny import tiny_backbone

PATHS: dict[str, Any] = {
    "a long name": "x" * 5000,
    "a long part": "/tmp/" + "x" * 300 + "/gallery",
    "many parts": "/" + "folder/" * 1000,
    "a NUL": "gal\0lery",
    "half of a pair": "gal\ud800lery",
    "nothing": "",
    "None": None,
    "a number": 5,
    "bytes": b"gallery",
}
USES: dict[str, Callable[[Any], object]] = {
    "Gallery": Gallery,
    "open_gallery": open_gallery,
    "GalleryWriter": GalleryWriter,
    "a new gallery": lambda path: GalleryWriter(path, tiny_backbone().settings),
    "find_images": lambda path: list(find_images(path)),
    "find_datasets": find_datasets,
    "read_list": read_list,
    "read_region": read_region,
    "weights": lambda path: load_backbone("efficientnet-lite0", weights=path),
    "the cache": lambda path: Cache(CacheSettings(folder=path)),
    "the client": lambda path: named_files([path]),
}
NOT_A_PATH = {("weights", "None"), ("the client", "bytes")}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_path_is_one_line(use: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (use, path) in NOT_A_PATH:
        return
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        USES[use](PATHS[path])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_is_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path in ("new", "loop", "file/below", "ä" * 127):
        assert path_of(tmp_path / path) == path_of(str(tmp_path / path)) == tmp_path / path


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may not be looked into, as if this were no user who may."""
    folder = tmp_path / "closed"
    folder.mkdir()
    stat = os.stat

    def refusing(path: Any, *options: Any, **more: Any) -> os.stat_result:
        if os.fspath(path).startswith(f"{folder}/"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return stat(path, *options, **more)

    monkeypatch.setattr(os, "stat", refusing)
    return folder


def test_a_closed_folder_is_named(closed: Path) -> None:
    for use in (Gallery, GalleryWriter, USES["a new gallery"], USES["find_images"], find_datasets, USES["weights"]):
        with pytest.raises(InputError, match=r"closed/inside: cannot be looked for \(Permission denied\)"):
            use(closed / "inside")


def test_a_gallery_that_is_closed_is_no_damage(closed: Path) -> None:
    with pytest.raises(StorageError, match=r"catalog cannot be looked for \(Permission denied\)"):
        Gallery(closed)
    with pytest.raises(SpadeIndexError, match="Permission denied"):
        GalleryWriter(closed)
