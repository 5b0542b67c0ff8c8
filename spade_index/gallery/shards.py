"""The shards of a gallery, opened when they are first used, and the cache of their layouts.

HDF5 takes milliseconds to say where in a shard's file its values lie, so the catalog keeps that layout for each shard.
All of this cache is here, but for its bytes (`store.layout`) and its table (`catalog`): a layout is recalled when a
shard is opened, stays in memory when the shard is closed again, and is compared with the file by `layout_is_wrong`.
"""

import resource
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.store.layout import ShardLayout
from spade_index.gallery.store.rows import RowsFile
from spade_index.gallery.store.shard import Shard

OPEN_SHARDS = 200  # shards held open at most, of one file descriptor each, or two; a service has several galleries
MORE_OPEN_SHARDS = 1000  # the same where the process may open many files: all shards of two million images
SPARE = 48  # file descriptors that are left for all else


class Shards:
    """The shards that a catalog names, by number."""

    are_elsewhere = False  # and to ask for much at a time is faster

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.folder = folder
        self._catalog = catalog
        self._settings = catalog.settings
        self._open: OrderedDict[int, Shard] = OrderedDict()  # the least recently used first
        self._layouts: dict[int, ShardLayout] = {}  # of all that were ever open

    def get(self, number: int) -> Shard | None:
        """Return a shard, open; None if the catalog does not name it any more. Raises GalleryDamaged, StorageError."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if (path := self.path(number)) is None:
            return None
        while len(self._open) >= most_open():
            self._open.popitem(last=False)
        shard = self._opened(number, path)
        self._layouts[number] = shard.layout
        self._open[number] = shard
        return shard

    def _opened(self, number: int, path: Path) -> Shard:
        with self.in_place():
            layout = self._layouts.get(number) or self.recalled_layout(number, path)
            return Shard(path, self._settings, layout, with_tables=self._catalog.with_tables)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Raise StorageError, whatever else is raised, if what is opened inside is of another gallery with the name."""
        try:
            yield
        finally:
            if not self.are_elsewhere:
                self._catalog.require_in_place()

    def expect(self, places: Iterable[tuple[int, int]], levels: Sequence[int] | None = None) -> None:
        """Prepare for maps of these shards and rows to be read: nothing to do where they are on this machine."""

    def expect_pooled(self, places: Sequence[tuple[int, np.ndarray]]) -> None:
        """Do the same for pooled descriptors, of shards and rows int64 [n]."""

    def open_rows(self, name: str) -> RowsFile | None:
        """Open another file of rows that the catalog names; None: it is opened by its path, on this machine."""
        return None

    def path(self, number: int) -> Path | None:
        """Return a shard's file, or None if the catalog does not name it any more."""
        file = self._catalog.shard_file(number)
        return None if file is None else self.folder / file

    def close(self) -> None:
        """Close all shards."""
        self._open.clear()

    def recalled_layout(self, number: int, path: Path | None) -> ShardLayout | None:
        """Return the layout that the catalog keeps of a shard, if the file looks as it did then, or has no path."""
        kept = self._catalog.layout(number)
        return None if kept is None else ShardLayout.recall(kept, number, path, self._settings)

    def layout_is_wrong(self, number: int, path: Path) -> bool:
        """Return whether the catalog keeps a layout of a shard that is not the one that HDF5 reads from its file."""
        if self._catalog.layout(number) is None:
            return False
        layout = self.recalled_layout(number, path)
        return layout is None or not layout.equals(ShardLayout.read(path, self._settings))


def most_open() -> int:
    """Return the number of shards to hold open: fewer where the process may open few files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MORE_OPEN_SHARDS
    few, many = max(4, (files - SPARE) // 4), (files - SPARE) // 16
    return max(min(OPEN_SHARDS, few), min(MORE_OPEN_SHARDS, many))
