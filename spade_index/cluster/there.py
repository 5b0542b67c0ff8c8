"""Open, on a worker's machine, the gallery that the program that asks has opened."""

import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path

from spade_index.errors import ClusterError, GalleryError, GalleryNotFound, InputError
from spade_index.gallery.location import Location
from spade_index.gallery.opening import open_gallery
from spade_index.gallery.reader import Gallery
from spade_index.gallery.remote.cache import CacheSettings


@dataclass(frozen=True)
class ReaderFacts:
    """What is known of a worker that has started, and reads galleries."""

    node: str


class Reader:
    """A worker that reads galleries."""

    def node(self) -> str:
        """Return the name of the machine: the worker has started."""
        return socket.gethostname()

    def facts(self) -> ReaderFacts:
        """Return what the program that asks wants to know."""
        return ReaderFacts(self.node())

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
