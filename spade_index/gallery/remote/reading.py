"""A gallery that is read where it was pushed to: whole files by way of the cache, shards by blocks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from spade_index.errors import GalleryError, storage_errors
from spade_index.gallery import generations
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.index.search import ImageSearch, Neighbour
from spade_index.gallery.location import Location
from spade_index.gallery.reader import Gallery
from spade_index.gallery.shards import Shards
from spade_index.gallery.store.leave_one_out import FOLDER
from spade_index.gallery.store.names import shard_name
from spade_index.gallery.store.rows import RowsFile
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.verify import Checks, Problem

from .blocks import AT_ONCE, RemoteFile, Run, bring
from .cache import Cache, CacheSettings
from .download import Progress, download, has_digest
from .failures import Damaged
from .files import NamedFile, catalog_object, named_files
from .manifest import State, described_catalog, pushed_state
from .store import Patience, Remote, at_once

R = TypeVar("R")
SMALL = 64 << 20  # bytes of descriptors that come at once


class RemoteGallery(Gallery):
    """A gallery in an object store, as of the push that was the last when it was opened."""

    def __init__(
        self,
        location: Location,
        snapshot: int | None = None,
        cache: CacheSettings | None = None,
        patience: Patience | None = None,
        progress: Progress = lambda count: None,
        state: State | None = None,
    ) -> None:
        """Open it at its latest snapshot, or at an earlier one.

        Args:
            location: where it was pushed to.
            snapshot: of those that it keeps.
            cache: where to keep what is read.
            patience: how long to wait for the store.
            progress: called with the number of bytes of each part of a whole file that comes.
            state: of the gallery, if it is known; else gallery.json is read.

        Raises GalleryNotFound, InputError if there is no such snapshot, RemoteError, StorageError, FormatTooNew.
        """
        self._remote = Remote(location, patience)
        self._cache = Cache(cache or CacheSettings())
        self._progress = progress
        self._in_use: set[str] = set()  # names of whole objects that are open
        self.state, catalog = self._catalog_of(state or pushed_state(self._remote))
        try:
            self._in_use.add(catalog_object(self.state.catalog))
            self._named = {file.path: file for file in named_files(catalog)}
            shards = RemoteShards(self._remote, self._cache, catalog, self._named)
            self._open(location, catalog, shards, snapshot)
        except BaseException:
            catalog.close()
            raise

    def file(self, name: str) -> Path:
        """Return where a whole file is in the cache, and bring it if it is not there. Raises FileNotFoundError.

        What the cache has is compared with its digest before the first use: a damaged file is brought again.
        """
        if name not in self._named:
            raise FileNotFoundError(name)
        named = self._named[name]
        path = self._cache.file(named.object)
        in_use = named.object in self._in_use and path.exists()
        if not in_use and not has_digest(path, named.digest):
            self._bring(named.object, named.digest, self._remote.size(named.object))
        self._in_use.add(named.object)
        return path

    def _searched(self, search: Callable[[ImageSearch], list[list[Neighbour]]]) -> list[list[Neighbour]]:
        for name in self._in_use:
            self._cache.file(name)  # so that others are deleted before it
        return super()._searched(search)

    def _locked(self) -> generations.GenerationLock | None:
        return None  # objects are never replaced

    def bring(self) -> None:
        """Bring what any query at this snapshot needs besides maps. Raises RemoteError, StorageError."""
        for name in self.catalog.calibration_files():
            self.file(f"{FOLDER}/{name}")
        if self.index_row is not None:
            self.file(f"index/{self.index_row.file}")
            with suppress(FileNotFoundError):  # an index of earlier versions has no descriptors
                self._shards.open_rows(f"index/{descriptors_file(Path(self.index_row.file))}")

    def problems(self, progress: Progress = lambda count: None, elsewhere: Checks | None = None) -> Iterator[Problem]:
        """Raise GalleryError: it is checked where it was pushed from, and when it is pulled."""
        raise GalleryError(f"{self.path}: every byte is checked by `spade-index pull {self.path} GALLERY`")

    def _catalog_of(self, state: State) -> tuple[State, Catalog]:
        """Return the catalog, compared with its digest; that of a newer state if this one is not there any more."""
        while True:
            name = catalog_object(state.catalog)
            path = self._cache.file(name)
            try:
                if not has_digest(path, state.catalog, state.size):
                    self._bring(name, state.catalog, state.size)
                return state, described_catalog(path, state, self._remote.location)
            except Damaged:
                before, state = state, pushed_state(self._remote)
                if state == before:  # else it was replaced meanwhile, and what it named deleted
                    raise

    def _bring(self, name: str, digest: str, size: int) -> None:
        self._cache.make_room(size)
        path = self._cache.file(name)
        with storage_errors(path):
            download(self._remote, name, path, size, digest, self._progress)


class RemoteShards(Shards):
    """The shards of a gallery in an object store."""

    are_elsewhere = True

    def __init__(self, remote: Remote, cache: Cache, catalog: Catalog, named: dict[str, NamedFile]) -> None:
        super().__init__(Path(), catalog)
        self._remote = remote
        self._cache = cache
        self._named = named
        self._found: dict[int, RemoteFile] = {}  # whose sums were read, of shards that are about to be opened

    def expect(self, places: Iterable[tuple[int, int]], levels: Sequence[int] | None = None) -> None:
        """Bring the maps of these shards and rows into the cache, as far as they are not there. Raises GalleryError."""
        rows: dict[int, list[int]] = {}
        for number, row in places:
            rows.setdefault(number, []).append(row)
        self._bring(rows, lambda shard, some: [one for row in some for one in shard.ranges(row, levels)])

    def expect_pooled(self, places: Sequence[tuple[int, np.ndarray]]) -> None:
        """Bring pooled descriptors of shards and rows int64 [n] into the cache. Raises GalleryError."""
        self._bring(dict(places), lambda shard, rows: [shard.pooled_range(rows)])

    def _bring(self, rows: dict[int, R], ranges: Callable[[Shard, R], list[tuple[int, int]]]) -> None:
        """Bring the ranges of rows of shards, and before that the sums of shards that are not open."""
        new = [number for number in rows if number not in self._open and self._name(number) in self._named]
        self._found = dict(zip(new, at_once(self._file, new, AT_ONCE), strict=True))
        wanted: list[tuple[RemoteFile, list[Run]]] = []
        for number, some in rows.items():
            shard = self.get(number)
            if shard is not None and isinstance(file := shard.file, RemoteFile):
                wanted.append((file, file.missing(ranges(shard, some))))
        bring(wanted)

    def open_rows(self, name: str) -> RowsFile:
        """Open another file of rows; all of it comes if it is small. Raises FileNotFoundError, RemoteError."""
        if name not in self._named:
            raise FileNotFoundError(name)
        file = RemoteFile(self._remote, self._cache, self._named[name])
        if file.size <= SMALL:
            file.expect([(0, file.size)])
        return file

    def _opened(self, number: int, path: Path) -> Shard:
        file = self._found.pop(number, None) or self._file(number)
        layout = self._layouts.get(number) or self.recalled_layout(number, None)
        return Shard(file.path, self._settings, layout, file, self._catalog.with_tables)

    def _file(self, number: int) -> RemoteFile:
        return RemoteFile(self._remote, self._cache, self._named[self._name(number)])

    def _name(self, number: int) -> str:
        return f"shards/{shard_name(number)}"
