"""Files that the machine cannot open now are not called damaged: nobody is told to build them again."""

import errno
import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from spade_index.errors import StorageError
from spade_index.gallery import Gallery
from spade_index.gallery.index.descriptors import Descriptors
from spade_index.gallery.store import rows
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.calibration import calibrate, store
from spade_index.settings import SearchSettings

REASONS = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES]
SEARCH = SearchSettings(gallery_neighbours=3)


@pytest.fixture
def calibrated(gallery_path: Path) -> Path:
    """A gallery with an index, and scores of its own images."""
    with GalleryWriter(gallery_path) as writer:
        store(writer, SEARCH, calibrate(writer.gallery, SEARCH))
    return gallery_path


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


@pytest.mark.parametrize("reason", REASONS, ids=errno.errorcode.get)
def test_files_of_hdf5(reason: int, calibrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path) -> int:
        raise OSError(reason, os.strerror(reason), str(path))

    with Gallery(calibrated) as gallery:
        (row,) = gallery.sample(1)
        monkeypatch.setattr(rows, "open_regular", opened)
        for read in (
            lambda: LeaveOneOut.read(first(calibrated, "calibrations/*.h5")),
            lambda: Descriptors(first(calibrated, "index/*.h5")),
            lambda: gallery.maps([row.key]),
        ):
            with pytest.raises(StorageError, match=rf"\.h5: cannot be read \({os.strerror(reason)}\)"):
                read()


@pytest.mark.parametrize("reason", REASONS, ids=errno.errorcode.get)
def test_an_index(reason: int, gallery_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str, flags: int) -> None:
        raise RuntimeError(f"Error in FileIOReader: could not open {path} for reading: {os.strerror(reason)}")

    monkeypatch.setattr(faiss, "read_index", read)
    with (
        Gallery(gallery_path) as gallery,
        pytest.raises(StorageError, match=rf"cannot be read \({os.strerror(reason)}"),
    ):
        gallery.nearest(np.zeros((1, gallery.settings.pooled_dim), np.float32), 2)
