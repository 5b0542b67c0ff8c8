"""No file of a gallery can name another: HDF5 links and external storage, SQLite views and triggers, FAISS lists."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import faiss
import h5py
import numpy as np
import pytest

from spade_index.errors import GalleryDamaged
from spade_index.gallery import Gallery
from spade_index.gallery.index.descriptors import Descriptors
from spade_index.gallery.index.index import Index, IndexDescription
from spade_index.gallery.store.layout import ShardLayout
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.write.writer import GalleryWriter

from helpers.damage import change_catalog

REFUSED = r"link|other files|filters|pooled: "
SECRET = b"a secret of the server" * 1000


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of the gallery, which is a readable HDF5 file, too."""
    path = tmp_path / "secret"
    with h5py.File(path, "w", userblock_size=32768) as file:
        file["stolen"] = np.frombuffer(SECRET, np.uint8)
    with open(path, "r+b") as opened:
        opened.write(SECRET)
    return path


def external(file: h5py.File, name: str, secret: Path) -> None:
    rows = file[name].shape[0]
    del file[name]
    file.create_dataset(name, (rows, 8), np.uint8, external=[(str(secret), 0, 8 * rows)])


def external_link(file: h5py.File, name: str, secret: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(secret), "stolen")


def soft_link(file: h5py.File, name: str, secret: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(secret), "/")
    del file[name]
    file[name] = h5py.SoftLink("/elsewhere/stolen")


def link_within(file: h5py.File, name: str, secret: Path) -> None:
    file.move(name, "moved")
    file[name] = h5py.SoftLink("/moved")


def virtual(file: h5py.File, name: str, secret: Path) -> None:
    rows = file[name].shape[0]
    del file[name]
    layout = h5py.VirtualLayout((rows,), np.uint8)
    layout[:] = h5py.VirtualSource(str(secret), "stolen", (len(SECRET),))[:rows]
    file.create_virtual_dataset(name, layout)


def filtered(file: h5py.File, name: str, secret: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, chunks=True, compression="gzip")


Ruin = Callable[[h5py.File, str, Path], None]
RUINS = [external, external_link, soft_link, link_within, virtual, filtered]


def ruined(path: Path, name: str, ruin: Ruin, secret: Path) -> Path:
    with h5py.File(path, "r+") as file:
        ruin(file, name, secret)
    return path


@pytest.mark.parametrize(
    ("name", "ruin"),
    [
        *((name, ruin) for name in ("thumbnail", "id", "checksum", "pooled", "maps/0") for ruin in RUINS),
        *(("maps", ruin) for ruin in (external_link, soft_link, link_within)),  # a group
    ],
)
def test_a_shard_names_no_other_file(gallery_path: Path, secret: Path, name: str, ruin: Ruin) -> None:
    path = ruined(gallery_path / "shards" / "000001.h5", name, ruin, secret)
    with Gallery(gallery_path) as gallery:
        settings, rows = gallery.settings, list(gallery.images())[:5]
        if name in ("pooled", "maps/0", "maps"):
            with pytest.raises(ValueError, match=REFUSED):
                ShardLayout.read(path, settings)
        elif name == "thumbnail":
            with pytest.raises(GalleryDamaged, match=REFUSED):
                gallery.thumbnail(rows[0])
        else:
            assert Shard(path, settings).damaged_rows() == [0, 1, 2, 3, 4]
        assert any(problem.shard == 1 for problem in gallery.problems())


@pytest.mark.parametrize("ruin", RUINS)
@pytest.mark.parametrize("name", ["key", "scores", "maps"])
def test_a_calibration_names_no_other_file(calibrated: Path, secret: Path, name: str, ruin: Ruin) -> None:
    (path,) = (calibrated / "calibrations").iterdir()
    with pytest.raises(GalleryDamaged, match=REFUSED):
        LeaveOneOut.read(ruined(path, name, ruin, secret))


@pytest.mark.parametrize("ruin", RUINS)
@pytest.mark.parametrize("name", ["key", "pooled"])
def test_descriptors_name_no_other_file(gallery_path: Path, secret: Path, name: str, ruin: Ruin) -> None:
    (path,) = (gallery_path / "index").glob("*.h5")
    with pytest.raises(GalleryDamaged, match=REFUSED):
        Descriptors(ruined(path, name, ruin, secret))


def huge(file: h5py.File, name: str) -> None:
    dtype, dimensions = file[name].dtype, file[name].ndim
    del file[name]
    file.create_dataset(name, (10**10, 1)[:dimensions], dtype, chunks=(1000, 1)[:dimensions])


@pytest.mark.parametrize("name", ["key", "scores", "maps"])
def test_sizes_are_those_of_the_file(calibrated: Path, name: str) -> None:
    (path,) = (calibrated / "calibrations").iterdir()
    with h5py.File(path, "r+") as file:
        huge(file, name)
    with pytest.raises(GalleryDamaged, match="truncated"):
        LeaveOneOut.read(path)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("key", 0, -1), ("key", 1, 0), ("key", 5, 2**62), ("scores", (3, 1), np.nan), ("scores", (0, 0), np.inf)],
)
def test_values_of_a_calibration_are_plausible(calibrated: Path, name: str, place: Any, value: float) -> None:
    (path,) = (calibrated / "calibrations").iterdir()
    with h5py.File(path, "r+") as file:
        file[name][place] = value
    with pytest.raises(GalleryDamaged, match="unexpected keys or scores"):
        LeaveOneOut.read(path)


STATEMENTS = [
    "CREATE VIEW more AS SELECT * FROM images",
    "ALTER TABLE meta RENAME TO real; CREATE VIEW meta AS SELECT * FROM real",
    "CREATE TRIGGER t AFTER INSERT ON snapshots BEGIN DELETE FROM images; END",
    "CREATE TRIGGER t AFTER DELETE ON images BEGIN DELETE FROM images; END",
    "CREATE VIRTUAL TABLE notes USING fts5(text)",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_catalog_runs_no_statements_of_its_own(gallery_path: Path, statement: str) -> None:
    with closing(sqlite3.connect(gallery_path / "catalog.sqlite")) as db:
        db.executescript(statement)
    (gallery_path / "catalog.check").unlink()
    for kind in (Gallery, GalleryWriter):
        with pytest.raises(GalleryDamaged, match="views, triggers or virtual tables"):
            kind(gallery_path)


NAMES = ["/etc/passwd", "../../secret", "000001.h5/../../secret", "", "000002.h5", ".", "secret"]


@pytest.mark.parametrize("table", ["shards", "indexes"])
@pytest.mark.parametrize("name", NAMES)
def test_a_catalog_names_files_of_the_gallery_only(gallery_path: Path, secret: Path, table: str, name: str) -> None:
    change_catalog(gallery_path, f"UPDATE {table} SET file = ? WHERE rowid = (SELECT min(rowid) FROM {table})", name)
    with pytest.raises(GalleryDamaged, match="unexpected name"), Gallery(gallery_path) as gallery:
        gallery.nearest(gallery.pooled(gallery.sample(1)), 3)
    with pytest.raises(GalleryDamaged, match="unexpected name"):
        GalleryWriter(gallery_path)
    assert secret.exists()


def test_inverted_lists_in_another_file_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 8)).astype(np.float32)
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(8), 8, 4)
    index.train(values)
    index.add(values)
    lists: Any = faiss.OnDiskInvertedLists(4, index.code_size, str(tmp_path / "lists"))
    lists.merge_from(index.invlists, 0)
    index.replace_invlists(lists)
    path = tmp_path / "000001.faiss"
    faiss.write_index(index, str(path))
    with suppress(AttributeError):
        lists.this.disown()
    description = IndexDescription("ivf", 400, 4, 4)
    with pytest.raises(GalleryDamaged, match="not an index that was built here"):
        Index(path, description)
    with pytest.raises(GalleryDamaged, match="not an index that was built here"):
        Index(path, IndexDescription("flat", 400))
