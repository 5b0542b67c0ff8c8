"""Give a complete gallery the name of the one that it replaces."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spade_index.errors import GalleryError
from spade_index.gallery import generations
from spade_index.gallery.catalog import check
from spade_index.gallery.catalog.lease import require_free
from spade_index.gallery.reader import CATALOG
from spade_index.gallery.store.names import CALIBRATION, DESCRIPTORS, INDEX, SHARD
from spade_index.gallery.write.lock import LOCK, WriterLock

from .files import FOLDERS
from .manifest import State

OURS = (SHARD, INDEX, DESCRIPTORS, CALIBRATION)


def put_in_place(folder: Path, target: Path, before: State | None) -> None:
    """Rename `folder` to `target`, where the gallery in the state `before` is, or nothing, or an empty folder.

    A crash between the two renames leaves the earlier gallery as `.NAME.before`, and the complete one as `folder`: the
    next pull ends the work. Raises GalleryLocked while a writer has it open, GalleryError if it has changed, OSError.
    """
    aside = target.with_name(f".{target.name}.before")
    if before is None:
        os.rename(folder, target)  # fails if something was made there meanwhile
        _make_names_durable(target)
        _delete_gallery(aside)
        return
    lock = WriterLock(target)
    lock.take()
    try:
        require_free(target / CATALOG)
        if State.here(target / CATALOG) != before:
            raise GalleryError(f"{target}: has changed meanwhile: run the same command again")
        _delete_gallery(aside)
        os.rename(target, aside)
        os.rename(folder, target)
        _make_names_durable(target)
    finally:
        lock.release()
    _delete_gallery(aside)


def _make_names_durable(target: Path) -> None:
    parent = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _delete_gallery(folder: Path) -> None:
    """Delete the files that a writer gives their names, and the folders that are empty then; others stay."""
    for name in FOLDERS:
        _delete(folder / name, lambda name: any(pattern.fullmatch(name) for pattern in OURS))
    _delete(folder / generations.FOLDER, lambda name: generations.NUMBER.fullmatch(name) is not None)
    _delete(folder, lambda name: name in (CATALOG, check.CHECK, LOCK))


def _delete(folder: Path, is_ours: Callable[[str], bool]) -> None:
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.iterdir():
        if is_ours(path.name) and stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    with suppress(OSError):  # it holds something else, which stays
        folder.rmdir()
