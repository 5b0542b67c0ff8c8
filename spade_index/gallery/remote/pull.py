"""Copy a gallery from an object store: into a folder beside the target, which takes the target's name at the end.

An interrupted pull leaves that folder, `.NAME.pull`, and the next one carries on with it.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from spade_index.errors import InputError, StorageError, storage_errors
from spade_index.gallery import generations
from spade_index.gallery.catalog import check
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.location import Location
from spade_index.gallery.reader import CATALOG
from spade_index.gallery.write.lock import WriterLock
from spade_index.paths import path_of

from .download import Progress, download, has_digest
from .failures import Damaged
from .files import FOLDERS, NamedFile, catalog_object, named_files
from .manifest import State, described_catalog, images_of, pushed_state, require_successor
from .replace import put_in_place
from .store import Patience, Remote, by_size, in_turn


class Pull:
    """A gallery on its way from an object store."""

    def __init__(self, location: Location, target: Path, patience: Patience | None = None) -> None:
        """Find the gallery, bring its catalog, and compare it with what is at the target.

        Raises GalleryNotFound, GalleryLocked while another pull goes on, InputError if something else is there,
        GalleryError if a later state is, RemoteError.
        """
        self._target = Path(os.path.abspath(path_of(target, "the gallery")))
        self._remote = Remote(location, patience)
        self.state = pushed_state(self._remote)
        self.before = _state_at(self._target)
        self.folder = self._target.with_name(f".{self._target.name}.pull")
        self._lock = WriterLock(self.folder)
        try:
            with storage_errors(self.folder):
                self._make_folder()
                self._catalog = self._fetched_catalog()
            self._require_replaceable()
            self.images = images_of(self._catalog)
            self._files = named_files(self._catalog)
            self._sizes = self._found_sizes()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Pull":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder, which stays if `fetch` has not come to its end."""
        self._lock.release()

    @property
    def bytes(self) -> int:
        """The size of the files that the catalog names."""
        return sum(self._sizes.values())

    def fetch(self, progress: Progress = lambda count: None) -> int:
        """Bring all files, check them, and put the gallery in place; return the number of bytes that came.

        `progress` is called with bytes, `bytes` in all, also for what was there. Raises GalleryError.
        """
        there = (self.folder, self._target)
        missing = [file for file in self._files if not any((folder / file.path).exists() for folder in there)]
        with storage_errors(self.folder):
            self._require_room(sum(self._sizes[file.object] for file in missing))
            progress = in_turn(progress)
            came = by_size(
                lambda file: self._fetch_file(file, progress), self._files, lambda file: self._sizes[file.object]
            )
            self._delete_others()
            generations.prepare(self.folder, self._catalog.generation())
            check.write(self._catalog.path)
            self._catalog.close()
            put_in_place(self.folder, self._target, self.before)
        return sum(came)

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
            folder.mkdir(exist_ok=True)
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise InputError(f"{folder}: is a link: delete it")
        self._lock.take()

    def _fetched_catalog(self) -> Catalog:
        path, digest = self.folder / CATALOG, self.state.catalog
        if not has_digest(path, digest):
            for leftover in self.folder.glob(f"{CATALOG}*"):
                leftover.unlink()
            self._require_room(self.state.size)
            download(self._remote, catalog_object(digest), path, self.state.size, digest)
        return described_catalog(path, self.state, self._remote.location)

    def _require_room(self, size: int) -> None:
        """Raise StorageError if there is no room for `size` bytes, most of which are still to come."""
        free = shutil.disk_usage(self.folder).free
        if size > free + sum(part.stat().st_size for part in self.folder.rglob("*.part")):
            raise StorageError(f"{self.folder}: {size:,} bytes are to come, and there is room for {free:,}: make room")

    def _require_replaceable(self) -> None:
        if self.before is not None:
            here, there = str(self._target), str(self._remote.location)
            require_successor(self._catalog, self.state, there, self.before, here)

    def _found_sizes(self) -> dict[str, int]:
        """Return the size of each file, by its object. Raises RemoteError if one is missing."""
        there = self._remote.sizes()
        missing = [file.object for file in self._files if file.object not in there]
        if missing:
            raise Damaged(f"{self._remote.location}/{missing[0]}: is missing: push the gallery again")
        return {file.object: there[file.object] for file in self._files}

    def _fetch_file(self, file: NamedFile, progress: Progress) -> int:
        """Bring a file, unless it is here already, or in the gallery that is replaced; return the bytes that came."""
        path, size = self.folder / file.path, self._sizes[file.object]
        if not has_digest(path, file.digest):
            path.unlink(missing_ok=True)
            old = self._target / file.path
            if self.before is None or not has_digest(old, file.digest):
                return download(self._remote, file.object, path, size, file.digest, progress)
            os.link(old, path)
        progress(size)
        return 0

    def _delete_others(self) -> None:
        """Delete what pulls of earlier states left in the folder."""
        named = {self.folder / file.path for file in self._files}
        for folder in FOLDERS:
            for path in (self.folder / folder).iterdir():
                if path not in named:
                    path.unlink()
            with suppress(OSError):
                (self.folder / folder).rmdir()  # where there is nothing of its kind


def _state_at(target: Path) -> State | None:
    """Return the state of the gallery at the target, or None if there is nothing. Raises InputError, GalleryError."""
    if not os.path.lexists(target):
        return None
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"{target}: is not a folder: choose another")
    if not any(target.iterdir()):
        return None
    if not (target / CATALOG).exists():
        raise InputError(f"{target}: the folder holds something else than a gallery: choose a new one")
    with storage_errors(target):
        return State.here(target / CATALOG)
