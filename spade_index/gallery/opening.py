"""Open a gallery to read: a folder, or the URL of one in an object store."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .location import Location
from .reader import Gallery

if TYPE_CHECKING:  # it needs the extra `cloud`
    from .remote.cache import CacheSettings

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def open_gallery(
    address: str | Path | Location,
    snapshot: int | None = None,
    cache: "CacheSettings | None" = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Gallery:
    """Open a gallery at its latest snapshot, or at an earlier one.

    Args:
        address: a folder, or s3://BUCKET/PREFIX, gs://, az:// or file:///FOLDER, as `spade-index push` takes it.
        snapshot: of those that the gallery keeps.
        cache: where to keep what is read of an object store, and how much of it.
        progress: called with the number of bytes of each part of a whole file that comes from an object store.

    Raises:
        InputError: the URL is none, there is no such snapshot, or obstore is not installed.
        GalleryError: the gallery cannot be read.
    """
    if isinstance(address, str) and URL.match(address):
        address = Location.parse(address)
    if not isinstance(address, Location):
        return Gallery(address, snapshot)
    from .remote.reading import RemoteGallery

    return RemoteGallery(address, snapshot, cache, progress=progress)
