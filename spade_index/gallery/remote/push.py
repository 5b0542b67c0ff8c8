"""Copy a gallery into an object store: files first, the catalog after them, gallery.json last."""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xxhash

from spade_index.errors import GalleryDamaged, InputError, StorageError
from spade_index.gallery.catalog.check import Stamp
from spade_index.gallery.location import Location
from spade_index.gallery.reader import CATALOG, Gallery
from spade_index.gallery.store.files import BLOCK, open_regular

from .failures import Damaged
from .files import OBJECT, NamedFile, catalog_object, copied_catalog, named_files
from .manifest import MOST_BYTES, NAME, State, images_of, require_successor
from .store import Patience, Remote, by_size, in_turn
from .sums import SumsOfBytes, sums_bytes

Progress = Callable[[int], None]
SHOWN = 100  # characters of a name that is not ours


@dataclass(frozen=True)
class Source:
    """A file of this machine that an object will hold."""

    path: Path
    object: str
    digest: str
    bytes: int
    sums: str | None = None  # the object that will hold the digests of its blocks


class Push:
    """One snapshot of a gallery on its way into an object store.

    What a writer commits meanwhile is not part of it; what the snapshot needs is not deleted until this is closed.
    """

    def __init__(self, path: Path, location: Location, patience: Patience | None = None) -> None:
        """Take the snapshot, and compare it with what is there.

        Raises GalleryError, InputError if something else is there, RemoteError if the store cannot be used.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="spade-index-")
        self._gallery = Gallery(path)
        try:
            self._path = path
            self._catalog, stamp = copied_catalog(self._gallery, Path(self._folder.name, CATALOG))
            self.state = State.of(self._catalog, stamp)
            self._remote = Remote(location, patience, make=True)
            self._version = self._require_replaceable()
            self._sources = self._found_sources(stamp)
            there = self._remote.sizes()
            self._missing = {one for one in self._sources if there.get(one.object) != one.bytes}
            self._without_sums = {one for one in self._sources if not _has_sums(one, there)}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Push":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the snapshot."""
        self._gallery.close()
        self._folder.cleanup()

    @property
    def images(self) -> int:
        """The number of images of the snapshot."""
        return images_of(self._catalog)

    @property
    def bytes(self) -> int:
        """The size of the gallery."""
        return sum(one.bytes for one in self._sources)

    @property
    def bytes_to_send(self) -> int:
        """What `send` sends: the size of the objects that are not there."""
        return sum(one.bytes for one in self._missing)

    def send(self, progress: Progress = lambda count: None) -> None:
        """Send what is not there, see that all is, and make it the gallery of the location.

        Interrupted at any moment, it leaves the gallery that was there before. Raises GalleryError.
        """
        *files, catalog = self._sources
        progress = in_turn(progress)
        by_size(lambda source: self._send(source, progress), files, lambda source: source.bytes)
        self._send(catalog, progress)
        there = self._remote.sizes()
        for source in self._sources:
            if there.get(source.object) != source.bytes or not _has_sums(source, there):
                raise Damaged(f"{self._remote.location}/{source.object}: was deleted meanwhile: run this command again")
        self._remote.replace(NAME, self.state.to_json(), self._version)

    def _send(self, source: Source, progress: Progress) -> None:
        """Send a file, and the sums of its blocks, as far as they are not there. Raises GalleryError."""
        sums = SumsOfBytes()
        if source in self._missing:
            self._remote.put(source.object, partial(_checked_blocks, source, progress, sums), source.bytes)
        elif source in self._without_sums:  # it was pushed by an earlier version, or the push was interrupted
            deque(_checked_blocks(source, lambda count: None, sums), maxlen=0)
        if source.sums and source in self._without_sums:
            data = sums.to_bytes(source.digest)
            self._remote.put(source.sums, lambda: [data], len(data))

    def _require_replaceable(self) -> dict[str, object] | None:
        """Return the version of the gallery.json that is there. Raises unless it is of this gallery, and no later."""
        location = self._remote.location
        found = self._remote.small(NAME, MOST_BYTES)
        if found is not None:
            there = State.from_json(found[0], location)
            require_successor(self._catalog, self.state, str(self._path), there, str(location))
            return found[1]
        for name in self._remote.sizes():
            if not OBJECT.fullmatch(name):
                raise InputError(
                    f"{location}: holds something else than a gallery ({name[:SHOWN]!a}): choose another URL"
                )
        return None

    def _found_sources(self, stamp: Stamp) -> list[Source]:
        """Return all files to be sent, the catalog last. Raises GalleryDamaged if one is missing."""
        sources = [self._source(named) for named in named_files(self._catalog)]
        return [*sources, Source(self._catalog.path, catalog_object(stamp.digest), stamp.digest, stamp.bytes)]

    def _source(self, named: NamedFile) -> Source:
        path = self._path / named.path
        try:
            size = path.lstat().st_size
        except OSError as error:
            raise GalleryDamaged(f"{path}: missing; `spade-index verify {self._path} --repair` mends it") from error
        return Source(path, named.object, named.digest, size, named.sums if named.is_read_in_parts else None)


def _has_sums(source: Source, there: dict[str, int]) -> bool:
    """Return whether the sums of an object are there, or it needs none."""
    return source.sums is None or there.get(source.sums) == sums_bytes(source.bytes)


def _checked_blocks(source: Source, progress: Progress, sums: SumsOfBytes) -> Iterator[bytes]:
    """Yield a file's bytes, and make their sums.

    Raises GalleryDamaged at their end if they are not what was committed, StorageError.
    """
    digest = xxhash.xxh3_128()
    sums.begin()
    sent = 0
    try:
        with os.fdopen(open_regular(source.path), "rb", buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
                sums.update(block)
                sent += len(block)
                yield block
                progress(len(block))
    except OSError as error:
        raise StorageError(f"{source.path}: cannot be read ({error.strerror}): run the same command again") from error
    if digest.hexdigest() != source.digest:
        progress(-sent)
        raise GalleryDamaged(
            f"{source.path}: its bytes have changed since it was written; `spade-index verify` says what is damaged"
        )
