"""A file is the one that was checked, whatever has its name by the time that HDF5 or FAISS opens it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import faiss
import h5py
import numpy as np
import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.index.index import Index, IndexDescription
from spade_index.gallery.store import files
from spade_index.gallery.store.rows import LocalFile


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


def nothing(path: Path) -> None:
    """Leave the name free."""


REPLACED = pytest.mark.parametrize("put", [a_pipe, a_link, a_folder, a_socket, nothing])


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Callable[[Path], None]], None]:
    """Replaces a file as soon as it was checked."""

    def replace(path: Path, put: Callable[[Path], None]) -> None:
        checked = files.require_regular

        def check(fd: int) -> None:
            checked(fd)
            if os.path.samestat(os.fstat(fd), wanted) and path.exists():
                path.unlink()
                put(path)
                monkeypatch.undo()

        wanted = path.stat()
        monkeypatch.setattr(files, "require_regular", check)

    return replace


@REPLACED
def test_faiss_reads_the_index_that_was_checked(tmp_path: Path, replaced, put) -> None:
    path = tmp_path / "000001.faiss"
    index = faiss.IndexIDMap2(faiss.IndexFlatL2(4))
    index.add_with_ids(np.eye(4, dtype="f4"), np.arange(4))
    faiss.write_index(index, str(path))
    replaced(path, put)
    opened = Index(path, IndexDescription("flat", 4))
    assert not path.is_file()
    _, keys = opened.search(np.eye(4, dtype="f4"), 1, np.empty(0, np.int64))
    assert keys.ravel().tolist() == [0, 1, 2, 3]


@REPLACED
def test_hdf5_reads_the_file_that_was_checked(tmp_path: Path, replaced, put) -> None:
    path = tmp_path / "000001.h5"
    with h5py.File(path, "w") as file:
        file["key"] = [1, 2, 3]
    replaced(path, put)
    local = LocalFile(path)
    assert not path.is_file()
    with local.opened() as file:
        assert file["key"][:].tolist() == [1, 2, 3]


@REPLACED
def test_a_gallery_that_is_open_answers_when_its_names_are_taken(gallery_path: Path, put) -> None:
    with Gallery(gallery_path) as gallery:
        queries = gallery.pooled(list(gallery.catalog.images(gallery.snapshot)))
        expected = gallery.nearest(queries, 2)
        for path in [*(gallery_path / "index").iterdir(), *(gallery_path / "shards").iterdir()]:
            path.unlink()
            put(path)
        assert gallery.nearest(queries, 2) == expected
        assert gallery.thumbnail(gallery.image(expected[0][0].id))
