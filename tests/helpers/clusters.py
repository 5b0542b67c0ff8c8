"""Builds and searches by workers of a cluster, and the same builds by one process."""

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from torch import Tensor

from spade_index.cluster.crew import Crew
from spade_index.cluster.elsewhere import workers_of
from spade_index.errors import BackboneError
from spade_index.features.backbone import Backbone
from spade_index.gallery.write.admission import AddReport
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images
from spade_index.settings import Preprocessing, SearchSettings

from helpers.tiny import TinyCNN, files_of, tiny_backbone, write_images
from helpers.waiting import eventually

IMAGES, ROWS, BATCH = 20, 3, 2  # a batch may be in two shards
SEARCH = SearchSettings(gallery_neighbours=6, smoothing=1.0)
WAYS = {
    "plain": SEARCH,
    "window": replace(SEARCH, pixel_neighbours=3, window=0),  # a part may have fewer pixels than are wanted
    "scaled": replace(SEARCH, mode="concat-bilinear", scaling="root", grid=4, pixel_neighbours=2),
    "subtracted": replace(SEARCH, subtract_neighbours=0.5, compared_levels=(0, 2)),
}
TILED = Preprocessing(input_size=(32, 32), tile=20)


class Blended(TinyCNN):
    """Blends the images of a batch, so that features tell which images were in one with theirs."""

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to the last map [B, 12, H/16, W/16]."""
        return super().forward(images + images.mean(0, keepdim=True) / 8)


def blended_backbone() -> Backbone:
    """Return a tiny backbone whose features depend on the batch."""
    return Backbone("blended-0", Blended(0), Preprocessing(input_size=(32, 32)), device="cpu", precision="float32")


def tiled_backbone() -> Backbone:
    """Return a tiny backbone for pictures that are cut into tiles."""
    return Backbone("tiny-0", TinyCNN(0), TILED, device="cpu", precision="float32")


class Overflowing(TinyCNN):
    """Has features that no float16 holds."""

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to the last map [B, 12, H/16, W/16]."""
        return super().forward(images * 1e9)


def overflowing_backbone() -> Backbone:
    """Return a tiny backbone that fails when it is used."""
    return Backbone("large-0", Overflowing(0), Preprocessing(input_size=(32, 32)), device="cpu", precision="float32")


def without_weights() -> Backbone:
    """Fail as a backbone whose weights are missing."""
    raise BackboneError("there are no weights")


def write_sources(folder: Path) -> Path:
    """Write images, one that cannot be decoded and one that is a copy; return the folder."""
    write_images(folder, IMAGES)
    (folder / "004.png").write_bytes(b"not an image")
    (folder / "007.png").write_bytes((folder / "001.png").read_bytes())
    return folder


def build_here(
    path: Path, images: Path, backbone: Callable[[], Backbone] = blended_backbone, **options: Any
) -> AddReport:
    """Build a gallery, or carry on, in this process."""
    loaded = backbone()
    with GalleryWriter(path, loaded.settings) as writer:
        writer.shard_rows = ROWS
        report = writer.add(find_images(images), loaded, batch_size=BATCH, **options)
        writer.build_index()
    return report


def build_there(
    path: Path,
    images: Path,
    address: str = "local",
    *,
    workers: int = 2,
    backbone: Callable[[], Backbone] = blended_backbone,
    there: Callable[[], Backbone] | None = None,
    say: Callable[[str], None] = lambda line: None,
    begun: Callable[[Crew], None] = lambda crew: None,
    **options: Any,
) -> AddReport:
    """Build a gallery, or carry on, by workers of a cluster, whose backbone may be another one, `there`."""
    loaded = backbone()
    with GalleryWriter(path, loaded.settings) as writer:
        writer.shard_rows = ROWS
        with workers_of(writer, there or backbone, address=address, workers=workers, say=say) as elsewhere:
            begun(elsewhere._crew)
            report = writer.add(find_images(images), loaded, batch_size=BATCH, elsewhere=elsewhere, **options)
        writer.build_index()
    return report


def processes(crew: Crew) -> list[psutil.Process]:
    """Return the processes of a crew's workers: those of another crew may still be ending."""
    return [psutil.Process(member.pid) for member in crew._members]


def await_all(crew: Crew) -> None:
    """Wait until the workers that start in place of lost ones are there."""

    def there() -> bool:
        crew._welcome_some(1.0)
        return not crew._coming

    eventually(there)


def rows_of(path: Path) -> dict[str, list[Any]]:
    """Return all rows of a gallery's catalog but for times."""
    with closing(sqlite3.connect(path / "catalog.sqlite")) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        found = {}
        for table in tables:
            columns = [column[1] for column in db.execute(f"PRAGMA table_info({table})")]
            kept = ", ".join(f'"{column}"' for column in columns if column != "created")
            found[table] = [row for row in db.execute(f"SELECT {kept} FROM {table}") if row[0] != "created"]
        return found


def require_same(path: Path, whole: Path) -> None:
    """Check that two galleries have the same files, to the bit, and the same rows."""
    assert files_of(path) == files_of(whole)
    for name in files_of(whole):
        if name.startswith(("shards/", "index/")):
            assert (path / name).read_bytes() == (whole / name).read_bytes(), name
    assert rows_of(path) == rows_of(whole)


def die_after(commits: int) -> Callable[[int], None]:
    """Return a progress that kills this process at a commit."""
    left = [commits]

    def progress(images: int) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), 9)

    return progress


def main() -> None:
    """Build until this process kills itself at a commit; the arguments are GALLERY IMAGES ADDRESS COMMITS."""
    gallery, folder, where, many = sys.argv[1:]
    build_there(Path(gallery), Path(folder), where, workers=1, backbone=tiny_backbone, progress=die_after(int(many)))
