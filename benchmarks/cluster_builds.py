"""Builds of a gallery by workers of a cluster or by one process: their figures, and what differs between them."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from spade_index.cluster.crew import Crew
from spade_index.cluster.elsewhere import workers_of
from spade_index.features.backbone import Backbone
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images

from .harness import Figures, timed

Rows = dict[str, tuple[Any, ...]]


@dataclass
class Task:
    """What is built."""

    images: Path
    rows: int  # of a shard
    load: Callable[[], Backbone]  # can be pickled
    warm: int = 0  # images that are added before the clock starts
    travelled: list[int] = field(default_factory=list)  # bytes, of calls

    def build(self, gallery: Path, address: str = "", workers: int = 1) -> Figures:
        """Build a gallery, or carry on, by workers of a cluster or, without an address, here."""
        files, started, backbone = list(find_images(self.images)), time.perf_counter(), self.load()
        with GalleryWriter(gallery, backbone.settings) as writer:
            writer.shard_rows = self.rows
            add = partial(writer.add, backbone=backbone, batch_size=self.rows)
            if not address:
                return self._timed(add, files, started)
            with workers_of(writer, self.load, address=address, workers=workers) as elsewhere:
                return self._timed(partial(add, elsewhere=elsewhere), files, started)

    def _timed(self, add: Callable[[list[ImageFile]], Any], files: list[ImageFile], started: float) -> Figures:
        ready = time.perf_counter()
        _, first = timed(lambda: add(files[: self.warm]))
        self.travelled.clear()
        _, seconds = timed(lambda: add(files[self.warm :]))
        images = len(files) - self.warm
        travelled = sum(self.travelled) / images
        return {"rate": images / seconds, "start_s": ready - started, "first_s": first, "bytes_per_image": travelled}


@contextmanager
def counted(travelled: list[int], pickled: Callable[[object], bytes]) -> Iterator[None]:
    """Note the pickled bytes of the arguments and of the result of each call of a worker."""
    call = Crew.call

    def counting(crew: Crew, what: str, method: str, *arguments: object, **options: Any) -> Any:
        result, member = call(crew, what, method, *arguments, **options)
        travelled.append(len(pickled(arguments)) + len(pickled(result)))
        return result, member

    with patch.object(Crew, "call", counting):
        yield


def rows_of(gallery: Path) -> Rows:
    """Return what is known of each image, by id, with the bytes of its shard's file."""
    with closing(sqlite3.connect(gallery / "catalog.sqlite")) as db:
        rows = db.execute("SELECT id, file, images.* FROM images JOIN shards USING (shard) WHERE removed IS NULL")
        found = rows.fetchall()
    shards = {file: (gallery / "shards" / file).read_bytes() for file in {row[1] for row in found}}
    return {id: (*row, shards[file]) for id, file, *row in found}


def lost_and_different(gallery: Path, whole: Rows) -> tuple[int, int]:
    """Return the number of images that a gallery lacks, and of those that it has otherwise than `whole`."""
    rows = rows_of(gallery)
    return len(whole.keys() - rows), sum(whole.get(id) != row for id, row in rows.items())
