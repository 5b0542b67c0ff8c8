"""Delete what has fallen out of use, once no reader may need it: see `generations`.

Only regular files of a name that a writer gives are ever deleted, of a number that the catalog has issued, or that a
writer which was killed had begun. One with a later number is of a later state of the gallery, whose catalog was
restored from a copy, or of somebody else: it is set aside, since the next file would take its name.
"""

import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from spade_index.gallery import generations
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import FOLDER
from spade_index.gallery.store.names import CALIBRATION, DESCRIPTORS, INDEX, MAKER, SHARD

from .lock import WriterLock

ASIDE = "set-aside"
INCOMING = "incoming"  # shards that other processes make, in a folder of each

log = logging.getLogger("spade_index.gallery")


def begin_generation(gallery: Gallery, changes: Transaction) -> None:
    """Begin the next generation, in a transaction that takes something out of use."""
    generation = gallery.catalog.generation() + 1
    generations.prepare(gallery.folder, generation)
    changes.set_meta("generation", str(generation))


def settle_shards(gallery: Gallery, lock: WriterLock) -> None:
    """Delete the shards that a writer began and no commit names, and set files aside that the catalog lacks.

    Nothing else may be writing shards. Raises OSError.
    """
    begun = lock.unfinished
    for path in _later(gallery.folder / "shards", SHARD, gallery.catalog.next_shard()):
        if begun is not None and int(path.stem) >= begun:
            path.unlink()
        else:
            _set_aside(path, path.name)
    following = gallery.catalog.latest_snapshot() + 1
    for folder, pattern in (("index", INDEX), ("index", DESCRIPTORS), (FOLDER, CALIBRATION)):
        for path in _later(gallery.folder / folder, pattern, following):
            _set_aside(path, f"{folder}-{path.name}")
    lock.note(None)


def _later(folder: Path, pattern: re.Pattern[str], following: int) -> Iterator[Path]:
    """Yield the files of a folder whose names have this number, or one beyond it."""
    for path in _files(folder):
        found = pattern.fullmatch(path.name)
        if found is not None and int(found[1]) >= following:
            yield path


def delete_unused(gallery: Gallery) -> bool:
    """Delete what has fallen out of use, and what a crash left; return False if a reader may still need it."""
    catalog = gallery.catalog
    earlier = generations.earlier(gallery.folder, catalog.generation())
    if any(map(generations.is_held, earlier)):
        return False
    if earlier:
        with catalog.transaction() as changes:
            changes.forget_before(catalog.oldest_snapshot())
    _delete_unnamed(gallery)
    for file in earlier:  # last: as long as they are there, the next writer does all of this again
        file.unlink()
    return True


def _delete_unnamed(gallery: Gallery) -> None:
    """Delete files that no commit names: a crash left them, or they were an index or a shard that fell out of use."""
    catalog = gallery.catalog
    indexes = [Path(file) for file in catalog.index_files()]
    following = catalog.next_shard()
    named = {
        "shards": {row.file for row in catalog.shards().values()},
        "index": {path.name for index in indexes for path in (index, descriptors_file(index))},
        FOLDER: set(catalog.calibration_files()),
    }
    for folder, names in named.items():
        for path in _files(gallery.folder / folder):
            if path.name not in names and _is_ours(folder, path.name, following):
                path.unlink()
    delete_incoming(gallery.folder)
    for path in generations.later(gallery.folder, catalog.generation()):
        path.unlink()


def delete_incoming(gallery: Path) -> None:
    """Delete the shards that other processes have made, or begun, and that were not taken. Raises OSError."""
    for folder in (gallery / INCOMING).glob("*"):
        if MAKER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            for path in _files(folder):
                if SHARD.fullmatch(path.name.removesuffix(".tmp")):
                    path.unlink()
            with suppress(OSError):  # something else is in it
                folder.rmdir()
    with suppress(OSError):
        (gallery / INCOMING).rmdir()


def _is_ours(folder: str, name: str, following: int) -> bool:
    """Return whether a writer gives this name to a file that may be deleted; `following` is the next shard."""
    if folder == "shards":
        found = SHARD.fullmatch(name.removesuffix(".tmp"))
        return found is not None and (name.endswith(".tmp") or int(found[1]) < following)
    if folder == "index":
        name = name.removesuffix(".tmp")
        return bool(INDEX.fullmatch(name) or DESCRIPTORS.fullmatch(name))
    if name.endswith(".tmp"):
        name = f"{name.removesuffix('.tmp')}.h5"
    return CALIBRATION.fullmatch(name) is not None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the regular files of a folder."""
    for path in sorted(folder.glob("*")):
        if stat.S_ISREG(path.lstat().st_mode):
            yield path


def _set_aside(path: Path, name: str) -> None:
    folder = path.parent.parent / ASIDE
    folder.mkdir(exist_ok=True)
    free = next(name for name in _names(name) if not os.path.lexists(folder / name))
    path.rename(folder / free)
    log.warning("%s: the catalog does not know this file: set aside as %s", path, folder / free)


def _names(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
