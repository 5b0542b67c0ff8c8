"""Images into a gallery: decoded in parallel with the backbone, committed shard by shard."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .changes import insert_shard, new_snapshot
from .errors import ImageError, StorageError, storage_errors
from .images import DecodedImage, ImageFile, load_all
from .moments import image_moments
from .shard import ShardWriter

if TYPE_CHECKING:
    from .backbone import Backbone
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
        backbone: "Backbone",
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
        try:
            for batch in _batches(filter(self._admit, loaded), batch_size):
                try:
                    self._writer.require_room(len(batch))
                except StorageError:
                    self._finish()  # room for that was reserved
                    raise
                with storage_errors(self._writer.path):
                    self._extend(batch)
                    if len(self._images) >= self._writer.shard_rows:
                        self._commit()
                self._progress(len(batch))
        except (ImageError, KeyboardInterrupt):
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
        self._images: list[tuple[DecodedImage, list[list[int]]]] = []  # and the moments of its maps
        self._ids: dict[str, bytes] = {}  # digests of the images that are admitted and not committed
        self._digests: dict[bytes, str] = {}

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
            self._report.replaced += stored is not None
            self._ids[id] = image.digest
            self._digests[image.digest] = id
            self._report.added += 1
            return True
        self._progress(1)
        return False

    def _original(self, digest: bytes) -> str | None:
        """The id of the image that has these contents already."""
        row = self._gallery.catalog.image_by_digest(digest, self._gallery.snapshot)
        stored = row.id if row and row.id not in self._ids else None  # else it is about to be replaced
        return self._digests.get(digest) or stored

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
            self._images.append((image, [image_moments(values) for values in maps]))

    def _commit(self) -> None:
        """Make the shard and its rows part of the gallery: one snapshot."""
        assert self._shard is not None
        shard, images = self._shard, self._images
        self._start_shard()  # first: what interrupts a commit must not lead to another one of the same shard
        try:
            digest = shard.commit()
        except BaseException:
            shard.abandon()
            raise
        stored = [self._gallery.catalog.image_by_id(image.file.id, self._gallery.snapshot) for image, _ in images]
        outdated = [row for row in stored if row is not None]
        count = len(self._gallery) + len(images) - len(outdated)
        moments = self._writer.moments([m for _, m in images], minus=map(self._writer.stored_moments, outdated))
        with self._gallery.catalog.transaction() as db:
            snapshot = new_snapshot(db, "add", count, moments)
            db.executemany("UPDATE images SET removed = ? WHERE key = ?", [(snapshot, row.key) for row in outdated])
            number = int(shard.path.stem)
            insert_shard(db, number, shard.path, digest, len(images))
            for row, (image, _) in enumerate(images):
                _insert_image(db, image, number, row, snapshot)
        self._gallery.at(snapshot)

    def _finish(self) -> None:
        with storage_errors(self._writer.path):
            if self._images:
                self._commit()
            elif self._shard is not None:
                self._shard.abandon()


def _batches(images: Iterable[DecodedImage], size: int) -> Iterator[list[DecodedImage]]:
    """Images in lists of `size`; those that came before one that raises are a last, shorter list."""
    batch: list[DecodedImage] = []
    try:
        for image in images:
            batch.append(image)
            if len(batch) == size:
                yield batch
                batch = []
    except ImageError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _insert_image(db: sqlite3.Connection, image: DecodedImage, shard: int, row: int, snapshot: int) -> None:
    file, geometry = image.file, image.geometry
    found = (file.path, file.size, file.mtime_ns)
    db.execute(
        "INSERT INTO images (id, shard, row, digest, path, size, mtime_ns, width, height, added) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (file.id, shard, row, image.digest, *found, geometry.width, geometry.height, snapshot),
    )
