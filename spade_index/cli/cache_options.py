"""Open a command's gallery, which may be in an object store."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from .progress import Progress
from .values import BYTES, PATH

if TYPE_CHECKING:  # they take long to import
    from spade_index.gallery.location import Location
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.remote.cache import CacheSettings

DEFAULT_BYTES = 10_000_000_000  # `CacheSettings.bytes`, which takes long to import


@dataclass(frozen=True)
class CacheOptions:
    """Where to keep what is read of object stores."""

    cache: Annotated[
        Path | None,
        click.option(
            "--cache",
            type=PATH,
            help="Folder for what is read of a gallery in an object store [$SPADE_INDEX_CACHE; ~/.cache/spade-index]",
        ),
    ]
    cache_bytes: Annotated[
        int,
        click.option(
            "--cache-bytes", type=BYTES, default=DEFAULT_BYTES, help=f"Bytes that it may hold [{DEFAULT_BYTES:,}]"
        ),
    ]

    def open(self, gallery: "Path | Location", snapshot: int | None = None, *, to_search: bool = False) -> "Gallery":
        """Open a gallery to read; `to_search` brings its index at once, with a bar. Raises GalleryError, InputError."""
        from spade_index.gallery.opening import open_gallery

        if isinstance(gallery, Path):
            return open_gallery(gallery, snapshot)
        from spade_index.gallery.remote.reading import RemoteGallery

        with Progress("open", unit="B") as progress:
            opened = RemoteGallery(gallery, snapshot, self.settings(), progress=progress)
            try:
                if to_search:
                    opened.bring()
            except BaseException:
                opened.close()
                raise
            return opened

    def settings(self) -> "CacheSettings":
        """Return the settings of the cache."""
        from spade_index.gallery.remote.cache import CacheSettings, default_folder

        return CacheSettings(self.cache or default_folder(), self.cache_bytes)


def local(gallery: "Path | Location | None") -> list[Path]:
    """Return the folder of a gallery that is on this machine, if it is."""
    return [gallery] if isinstance(gallery, Path) else []
