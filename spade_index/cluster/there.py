"""Open, on a worker's machine, the gallery that the program that asks has opened."""

import hashlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from spade_index.errors import ClusterError, GalleryError, GalleryNotFound, InputError
from spade_index.gallery.catalog.tables import IndexRow
from spade_index.gallery.location import Location
from spade_index.gallery.opening import open_gallery
from spade_index.gallery.reader import Gallery
from spade_index.gallery.remote.cache import CacheSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """A gallery, as the program that asks sees it."""

    path: Path | Location  # absolute
    snapshot: int
    identity: str  # of what is there: see `identity_of`
    index: IndexRow | None


@dataclass(frozen=True)
class ReaderFacts:
    """What is known of a worker that has started, and reads galleries."""

    node: str
    pid: int


class Kept(Generic[T]):
    """What is open for searches, of those used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[Hashable, tuple[Gallery, T]] = OrderedDict()  # the least recently used first

    def get(self, of: Hashable, gallery: Callable[[], Gallery], prepare: Callable[[Gallery], T]) -> T:
        """Return what is open for `of`, or else what `prepare` makes of the gallery. Raises what these two raise."""
        if of not in self._open:
            while len(self._open) >= self._most:
                self.close(next(iter(self._open)))
            opened = gallery()
            try:
                self._open[of] = opened, prepare(opened)
            except BaseException:
                opened.close()
                raise
        self._open.move_to_end(of)
        return self._open[of][1]

    def close(self, of: Hashable) -> None:
        """Close what is open for `of`, if anything is."""
        if of in self._open:
            self._open.pop(of)[0].close()


class Reader:
    """A worker that reads galleries."""

    def node(self) -> str:
        """Return the name of the machine: the worker has started."""
        return socket.gethostname()

    def facts(self) -> ReaderFacts:
        """Return what the program that asks wants to know."""
        return ReaderFacts(self.node(), os.getpid())

    def open(self, path: Path | Location, snapshot: int, identity: str, cache: CacheSettings | None = None) -> Gallery:
        """Open a gallery at a snapshot.

        Raises:
            ClusterError: what has this identity is not here.
            GalleryError: the snapshot was deleted.
        """
        elsewhere = ClusterError(
            f"{path}: the worker on {self.node()} does not see this gallery: put it on a file system that all "
            "machines share, or in an object store"
        )
        try:
            gallery = open_gallery(path, snapshot, cache)
        except GalleryNotFound as error:
            raise elsewhere from error
        except InputError as error:  # no such snapshot
            raise GalleryError(
                f"{path}: snapshot {snapshot} is not there for the worker on {self.node()}: if it was deleted "
                "since it was opened, open the gallery again"
            ) from error
        if identity_of(gallery) != identity:
            gallery.close()
            raise elsewhere
        return gallery


def seen_here(gallery: Gallery) -> Seen:
    """Return what workers are told of a gallery."""
    where = gallery.path if isinstance(gallery.path, Location) else gallery.path.absolute()
    return Seen(where, gallery.snapshot, identity_of(gallery), gallery.index_row)


def identity_of(gallery: Gallery) -> str:
    """Return a digest of what the maps that are searched depend on: settings, snapshot and regions of interest."""
    region, rule = gallery.interest, gallery.region_rule
    of = (
        gallery.settings.to_json(),
        gallery.catalog.snapshot(gallery.snapshot),
        gallery.storage.name,
        region and region.digest,
        rule and rule.digest,
    )
    return hashlib.sha256(repr(of).encode()).hexdigest()
