"""Images into a gallery: decoded in parallel with the backbone, committed shard by shard."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .backbone import Backbone
from .catalog import ImageRow, insert_shard, new_snapshot
from .errors import ImageError, storage_errors
from .gallery import image_moments
from .images import DecodedImage, ImageFile, load_all
from .shard import ShardWriter

if TYPE_CHECKING:
    from .writer import GalleryWriter


@dataclass
class AddReport:
    """What became of the images that were handed to `add`."""

    added: int = 0
    replaced: int = 0  # of those added
    unchanged: int = 0  # already there
    copies: int = 0  # there under another id
    changed: int = 0  # there with other contents, and kept as they were
    failed: int = 0  # could not be decoded

    def __str__(self) -> str:
        notes = {
            "replaced": f"{self.replaced:,} of them replaced",
            "unchanged": f"{self.unchanged:,} already there",
            "copies": f"{self.copies:,} skipped as copies",
            "changed": f"{self.changed:,} changed but kept as they were (--replace takes the new ones)",
            "failed": f"{self.failed:,} could not be decoded",
        }
        return ", ".join([f"{self.added:,} added", *(text for name, text in notes.items() if getattr(self, name))])


class Ingest:
    """One call of `GalleryWriter.add`: the shard being filled, and what its commit will put into the catalog."""

    def __init__(
        self,
        writer: "GalleryWriter",
        backbone: Backbone,
        replace: bool,
        strict: bool,
        notice: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        self._writer = writer
        self._gallery = writer.gallery
        self._backbone = backbone
        self._replace = replace
        self._strict = strict
        self._notice = notice
        self._progress = progress
        self._report = AddReport()
        self._start_shard()

    def run(self, files: Iterable[ImageFile], batch_size: int, workers: int) -> AddReport:
        """Add all files. Whatever ends it, committed shards stay."""
        loaded = load_all(
            self._unknown(files),
            self._writer.settings.preprocessing,
            workers=workers,
            ahead=2 * batch_size + workers,
            on_error=self._failed,
        )
        images = filter(self._admit, loaded)
        try:
            for image in images:
                batch.append(image)
                if len(batch) == batch_size:
                    self._extend(batch)
                    batch.clear()
            self._extend(batch)
        except ImageError:
            self._extend(batch)
            self._finish()
            raise
        except KeyboardInterrupt:
            self._finish()
            raise
        except BaseException:
            if self._shard is not None:
                self._shard.abandon()
            raise
        self._finish()
        return self._report

    def _start_shard(self) -> None:
        self._shard: ShardWriter | None = None
        self._images: list[DecodedImage] = []
        self._moments: list[list[list[int]]] = []
        self._ids: dict[str, bytes] = {}  # digests of the images that are admitted and not committed
        self._digests: dict[bytes, str] = {}
        self._outdated: list[ImageRow] = []  # to be removed as those that replace them come

    def _unknown(self, files: Iterable[ImageFile]) -> Iterator[ImageFile]:
        """Leave out files that are there already, by path, size and time, without reading them."""
        for file in files:
            row = self._gallery.catalog.image_by_id(file.id, self._gallery.snapshot)
            if row is not None and (row.path, row.size, row.mtime_ns) == (file.path, file.size, file.mtime_ns):
                self._report.unchanged += 1
                self._progress(1)
            else:
                yield file

    def _admit(self, image: DecodedImage) -> bool:
        """Whether this image is to be added: it is new, or changed and to be replaced."""
        id = image.file.id
        stored = self._gallery.catalog.image_by_id(id, self._gallery.snapshot)
        known = self._ids.get(id) or (stored.digest if stored else None)
        if known == image.digest:
            self._report.unchanged += 1
        elif known is not None and (id in self._ids or not self._replace):
            self._report.changed += 1
            self._notice(f"kept {id} as it was: {image.file.path} has other contents (--replace takes it)")
        elif known is None and (original := self._original(image.digest)) is not None:
            self._report.copies += 1
            self._notice(f"skipped {id}: the same file as {original}")
        else:
            if stored is not None:
                self._outdated.append(stored)
                self._report.replaced += 1
            self._ids[id] = image.digest
            self._digests[image.digest] = id
            self._report.added += 1
            return True
        self._progress(1)
        return False

    def _original(self, digest: bytes) -> str | None:
        """The id of the image that has these contents already."""
        row = self._gallery.catalog.image_by_digest(digest, self._gallery.snapshot)
        return self._digests.get(digest) or (row.id if row else None)

    def _failed(self, error: ImageError) -> None:
        if self._strict:
            raise error
        self._report.failed += 1
        self._notice(f"skipped {error}")
        self._progress(1)

    def _extend(self, batch: list[DecodedImage]) -> None:
        """Compute the features of admitted images and write them."""
        if self._shard is None:
            number = self._gallery.catalog.next_shard()
            self._shard = ShardWriter(self._writer.shard_path(number), self._writer.settings)
        features = self._backbone(np.stack([image.pixels for image in batch]))
        pooled = features.pooled.cpu().numpy()
        pyramid = [level.half().cpu().numpy() for level in features.pyramid]
        for place, image in enumerate(batch):
            maps = [level[place] for level in pyramid]
            self._shard.append(image.file.id, pooled[place], maps, image.thumbnail)
            self._moments.append([image_moments(values) for values in maps])
            self._images.append(image)

    def _commit(self) -> None:
        """Make the shard and its rows part of the gallery: one snapshot."""
        assert self._shard is not None
        digest = self._shard.commit()
        number = int(self._shard.path.stem)
        outdated = [row.key for row in self._outdated]
        count = len(self._gallery) + len(self._images) - len(outdated)
        moments = self._writer.moments(self._moments, minus=map(self._writer.stored_moments, self._outdated))
        with self._gallery.catalog.transaction() as db:
            snapshot = new_snapshot(db, "add", count, moments)
            db.executemany("UPDATE images SET removed = ? WHERE key = ?", [(snapshot, key) for key in outdated])
            insert_shard(db, number, self._shard.path, digest, len(self._images))
            for row, image in enumerate(self._images):
                _insert_image(db, image, number, row, snapshot)
        self._gallery.at(snapshot)
        self._start_shard()

    def _finish(self) -> None:
        with storage_errors(self._writer.path):
            if self._shard is not None:
                self._commit()


def _insert_image(db: sqlite3.Connection, image: DecodedImage, shard: int, row: int, snapshot: int) -> None:
    file, geometry = image.file, image.geometry
    found = (file.path, file.size, file.mtime_ns)
    db.execute(
        "INSERT INTO images (id, shard, row, digest, path, size, mtime_ns, width, height, added) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (file.id, shard, row, image.digest, *found, geometry.width, geometry.height, snapshot),
    )
