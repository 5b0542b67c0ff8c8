"""Add images to a gallery: decoding, backbone and writing overlap; each shard is committed when it is complete."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spade_index.errors import ImageError, InputError, StorageError, storage_errors
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.record import ImageOrigin, NewImage, StoredImage
from spade_index.gallery.store.stream import StreamedShard
from spade_index.images.decode import DecodedImage
from spade_index.images.find import ImageFile
from spade_index.images.loading import in_lots, load_all

from .append import WAITING, commit_shard, shard_stream
from .session import Session

if TYPE_CHECKING:  # it loads torch, which `spade-index list` and the like do without
    from spade_index.features.backbone import Backbone, Features

SWITCH_INTERVAL = 5e-4  # seconds
LOOKED_UP = 64  # files that are looked up in the catalog at once


@dataclass
class AddReport:
    """The number of images that `add` was given, by what became of them."""

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
    """One call of `GalleryWriter.add`.

    Images are decoded in other processes or threads, become features here, and are written by a thread; each waits
    when the next has too much to do. A shard that is complete is committed here, so that one thread uses the catalog.
    """

    def __init__(
        self,
        session: Session,
        backbone: "Backbone",
        *,
        replace: bool,
        strict: bool,
        notice: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        self._session = session
        self._gallery = session.gallery
        self._backbone = backbone
        self._replace = replace
        self._strict = strict
        self._notice = notice
        self._progress = progress
        self._report = AddReport()
        self._before = session.gallery.snapshot
        self._ids: dict[str, bytes] = {}  # digests of the images that are admitted and not committed
        self._digests: dict[bytes, str] = {}
        self._outdated: dict[str, ImageRow] = {}  # what they replace
        self._in_work: deque[list[DecodedImage]] = deque()  # admitted, without features yet
        self._no_room: StorageError | None = None

    def run(self, files: Iterable[ImageFile], *, batch_size: int, workers: int, processes: bool) -> AddReport:
        """Add all files. Whatever ends it, committed shards stay."""
        lanes = self._backbone.lanes(batch_size)
        self._stream = shard_stream(self._session, WAITING * lanes)
        loaded = load_all(
            self._unknown(files),
            self._session.settings.preprocessing,
            workers=workers,
            processes=processes,
            ahead=4 * batch_size,
            on_error=self._failed,
        )
        try:
            with closing(loaded), _frequent_switches():
                self._add(loaded, batch_size // lanes, lanes)
        except (InputError, KeyboardInterrupt):
            self._finish()
            raise
        except BaseException:
            self._stream.abandon()
            raise
        self._finish()
        if self._no_room is not None:
            raise self._no_room
        return self._report

    def _add(self, loaded: Iterator[DecodedImage], lot: int, lanes: int) -> None:
        """Compute the features of the images that are to be added, `lot` at a time, and have them written."""
        in_writing = (1 + WAITING * lanes) * lot
        with closing(self._backbone.stream(self._pixels(in_lots(loaded, lot), in_writing), lanes)) as stream:
            for features in stream:
                self._write(self._in_work.popleft(), features)

    def _pixels(self, lots: Iterable[list[DecodedImage]], in_writing: int) -> Iterator[np.ndarray]:
        """Yield batches uint8 [B, H, W, 3] of the images that are to be added, which are in work from then on."""
        for lot in lots:
            if admitted := self._admitted(lot):
                self._in_work.append(admitted)
                try:
                    self._session.require_room(sum(map(len, self._in_work)) + in_writing)
                except StorageError as error:  # there was room for what is in work
                    self._in_work.pop()
                    self._no_room = error
                    return
                yield np.stack([image.pixels for image in admitted])

    def _write(self, batch: list[DecodedImage], features: "Features") -> None:
        with storage_errors(self._session.path):
            self._stream.put(_new_images(batch, features))
            for shard in self._stream.written():
                self._commit(shard)
        self._progress(len(batch))

    def _unknown(self, files: Iterable[ImageFile]) -> Iterator[ImageFile]:
        """Yield the files that are not there already, by path, size and time; none of them is read."""
        for some in in_lots(files, LOOKED_UP):
            known = self._gallery.catalog.images_by_id([file.id for file in some], self._gallery.snapshot)
            for file in some:
                row = known.get(file.id)
                if row is not None and (row.path, row.size, row.mtime_ns) == (file.path, file.size, file.mtime_ns):
                    self._report.unchanged += 1
                    self._progress(1)
                else:
                    yield file

    def _admitted(self, batch: list[DecodedImage]) -> list[DecodedImage]:
        """Return the images that are to be added: new ones, and changed ones that replace others."""
        catalog, snapshot = self._gallery.catalog, self._gallery.snapshot
        stored = catalog.images_by_id([image.file.id for image in batch], snapshot)
        originals = catalog.ids_by_digest([image.digest for image in batch], snapshot)
        return [image for image in batch if self._admit(image, stored.get(image.file.id), originals.get(image.digest))]

    def _admit(self, image: DecodedImage, stored: ImageRow | None, original: str | None) -> bool:
        """Return whether to add an image; `stored` has its id in the catalog, and `original` its contents."""
        id = image.file.id
        known = self._ids.get(id) or (stored.digest if stored else None)
        if original in self._ids:  # and is about to be replaced
            original = None
        original = self._digests.get(image.digest) or original
        added_now = id in self._ids or (stored is not None and stored.added > self._before)
        if known == image.digest:
            self._report.unchanged += 1
        elif known is not None and (added_now or not self._replace):
            self._report.changed += 1
            self._notice(f"kept {id} as it was: {image.file.path} has other contents (--replace takes it)")
        elif known is None and original is not None:
            self._report.copies += 1
            self._notice(f"skipped {id}: the same file as {original}")
        else:
            self._report.added += 1
            self._ids[id] = image.digest
            self._digests[image.digest] = id
            if stored is not None:
                self._report.replaced += 1
                self._outdated[id] = stored
            return True
        self._progress(1)
        return False

    def _failed(self, error: ImageError) -> None:
        if self._strict:
            raise error
        self._report.failed += 1
        self._notice(f"skipped {error}")
        self._progress(1)

    def _commit(self, shard: StreamedShard) -> None:
        """Commit a shard, and let go of what was noted of its images."""
        images = shard.shard.images
        outdated = [self._outdated.pop(image.id) for image in images if image.id in self._outdated]
        commit_shard(self._session, shard, outdated)
        for image in images:
            self._ids.pop(image.id)
            self._digests.pop(image.digest, None)  # of two that replace, one

    def _finish(self) -> None:
        with storage_errors(self._session.path):
            for shard in self._stream.close():
                self._commit(shard)


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let Python's threads take turns more often.

    The backbone asks for the interpreter's lock at each of its operations, and waits whole turns of the thread that
    writes: 5 ms by default.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _new_images(batch: list[DecodedImage], features: "Features") -> Iterator[NewImage]:
    """Yield the images of a batch with their features.

    Features are copied from the backbone's device when the first image is asked for: by the thread that writes.
    """
    pooled = features.pooled.cpu().numpy()  # [B, D]
    pyramid = [level.cpu().numpy() for level in features.pyramid]  # [B, H*W, C]
    for place, image in enumerate(batch):
        stored = StoredImage(pooled[place], [level[place] for level in pyramid], image.thumbnail)
        yield NewImage(_origin(image), stored)


def _origin(image: DecodedImage) -> ImageOrigin:
    file, geometry = image.file, image.geometry
    return ImageOrigin(
        id=file.id,
        digest=image.digest,
        path=file.path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        width=geometry.width,
        height=geometry.height,
    )
