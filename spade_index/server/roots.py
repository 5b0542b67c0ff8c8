"""Where the galleries of a service are: under a folder, or one in an object store.

A root tells when a gallery must be opened again: when its `identity` is another.
"""

import logging
import os
import threading
import time
from collections.abc import Hashable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spade_index.errors import InputError, SpadeIndexError
from spade_index.gallery.location import Location
from spade_index.gallery.reader import CATALOG, Gallery

from .settings import ServeSettings

if TYPE_CHECKING:  # it needs the extra `cloud`
    from spade_index.gallery.remote.manifest import State
    from spade_index.gallery.remote.reading import RemoteGallery

LOOK_SECONDS = 10.0  # between two looks for a push

log = logging.getLogger("spade_index.server")


class Root(Protocol):
    """Finds galleries by name. `holds` comes first; what is gone since then raises OSError or GalleryError."""

    @property
    def name(self) -> Path | Location:
        """As errors name it."""

    @property
    def folder(self) -> Path:
        """For jobs."""

    @property
    def read_only(self) -> bool:
        """Whether no gallery can be changed."""

    def names(self) -> list[str]:
        """Return the names of all galleries, sorted."""

    def holds(self, name: str) -> bool:
        """Return whether there is a gallery of this name."""

    def open(self, name: str, snapshot: int | None) -> Gallery:
        """Open a gallery. Raises InputError if there is no such snapshot, GalleryError."""

    def identity(self, name: str) -> Hashable:
        """Return what changes when another gallery takes the name."""

    def written(self, name: str) -> Hashable:
        """Return what changes, too, when the gallery does."""

    def look_again(self) -> None:
        """Look for changes before the time."""


class FolderRoot:
    """A folder that holds galleries, or is one."""

    read_only = False

    def __init__(self, root: Path) -> None:
        """Find the folder. Raises InputError."""
        self.name = self.folder = Path(os.path.abspath(root))
        if not self.folder.is_dir():
            raise InputError(f"{root}: no such folder: name one that holds galleries")

    def names(self) -> list[str]:
        """Return the names of all galleries, sorted."""
        if self._is_gallery:
            return [self.folder.name]
        return sorted(name for name in os.listdir(self.folder) if self._has(name))

    def holds(self, name: str) -> bool:
        """Return whether there is a gallery of this name."""
        return name == self.folder.name if self._is_gallery else self._has(name)

    def _has(self, name: str) -> bool:
        plain = bool(name) and not name.startswith(".") and "/" not in name and name.isprintable()
        with suppress(OSError):  # a name that is too long for one, or a folder that is closed to this user
            return plain and (self.folder / name / CATALOG).is_file()
        return False

    def path(self, name: str) -> Path:
        """Return the folder of a gallery."""
        return self.folder if self._is_gallery else self.folder / name

    def open(self, name: str, snapshot: int | None) -> Gallery:
        """Open a gallery. Raises InputError if there is no such snapshot, GalleryError."""
        return Gallery(self.path(name), snapshot)

    def identity(self, name: str) -> Hashable:
        """Return device and inode of the catalog."""
        status = os.stat(self.path(name) / CATALOG)
        return status.st_dev, status.st_ino

    def written(self, name: str) -> Hashable:
        """Return what tells the catalog from others: an inode may be another file's by now, and a time be set back."""
        status = (self.path(name) / CATALOG).stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def look_again(self) -> None:
        """Do nothing: each look is a new one."""

    @property
    def _is_gallery(self) -> bool:
        return (self.folder / CATALOG).is_file()


class StoreRoot:
    """One gallery in an object store, read there.

    A thread looks for a push, and brings the whole files of the new state before that is served. While the store does
    not answer, the state before is.
    """

    read_only = True

    def __init__(self, location: Location, settings: ServeSettings) -> None:
        """Find the gallery, and bring its whole files. Raises GalleryError, InputError."""
        from spade_index.gallery.remote.cache import CacheSettings
        from spade_index.gallery.remote.manifest import pushed_state
        from spade_index.gallery.remote.store import Remote

        self.name = location
        self._cache = settings.cache or CacheSettings()
        self.folder = self._cache.folder
        self._pushed = lambda: pushed_state(Remote(location))
        self._state = self._brought(None)
        self._looked = time.monotonic()
        self._looking = threading.Lock()

    def names(self) -> list[str]:
        """Return its name."""
        return [self.name.name]

    def holds(self, name: str) -> bool:
        """Return whether it has this name."""
        return name == self.name.name

    def open(self, name: str, snapshot: int | None) -> Gallery:
        """Open it. Raises InputError if there is no such snapshot, GalleryError."""
        return self._opened(self._state, snapshot)

    def identity(self, name: str) -> Hashable:
        """Return the state that is served; look for another in a thread, if it is time to."""
        if time.monotonic() - self._looked > LOOK_SECONDS and self._looking.acquire(blocking=False):
            try:
                threading.Thread(target=self._look, daemon=True).start()
            except RuntimeError as error:  # there are too many: the next use tries again
                self._looking.release()
                log.warning("the gallery stays as it was: %s", error)
        return self._state

    def written(self, name: str) -> Hashable:
        """Return the same."""
        return self.identity(name)

    def look_again(self) -> None:
        """Look for a push at the next use."""
        self._looked = -LOOK_SECONDS

    def _look(self) -> None:
        try:
            self._state = self._brought(self._state)
        except SpadeIndexError as error:
            log.warning("the gallery stays as it was: %s", error)
        except Exception:
            log.exception("the gallery stays as it was")
        finally:
            self._looked = time.monotonic()
            self._looking.release()

    def _brought(self, before: "State | None") -> "State":
        """Return the state that was pushed last, once its whole files are here. Raises GalleryError, InputError."""
        state = self._pushed()
        if state == before:
            return state
        with closing(self._opened(state)) as gallery:
            gallery.bring()
            return gallery.state

    def _opened(self, state: "State", snapshot: int | None = None) -> "RemoteGallery":
        from spade_index.gallery.remote.reading import RemoteGallery

        return RemoteGallery(self.name, snapshot, self._cache, state=state)


def root_of(settings: ServeSettings) -> Root:
    """Return the root of a service. Raises InputError, GalleryError."""
    root = settings.root
    return StoreRoot(root, settings) if isinstance(root, Location) else FolderRoot(root)
