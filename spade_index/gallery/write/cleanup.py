"""What has fallen out of use, and when it can be deleted: see `readers`."""

import sqlite3
from pathlib import Path

from spade_index.gallery import generations as readers
from spade_index.gallery.catalog.changes import forget, set_meta
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.reader import Gallery


def begin_generation(gallery: Gallery, db: sqlite3.Connection) -> None:
    """Inside a transaction that takes something out of use: those who read before it may need that further on."""
    generation = gallery.catalog.generation() + 1
    readers.prepare(gallery.path, generation)
    set_meta(db, "generation", str(generation))


def delete_unused(gallery: Gallery) -> bool:
    """Delete what has fallen out of use, and leftovers of a crash; False if a reader may still need it."""
    catalog = gallery.catalog
    earlier = readers.earlier(gallery.path, catalog.generation())
    if any(map(readers.is_held, earlier)):
        return False
    if earlier:
        with catalog.transaction() as db:
            forget(db, catalog.oldest_snapshot())
    _remove_unnamed(gallery)
    for file in earlier:  # last: they say that there is something to forget
        file.unlink()
    return True


def _remove_unnamed(gallery: Gallery) -> None:
    """Delete files that no commit names: a crash's, or those of an index or a shard that fell out of use."""
    catalog = gallery.catalog
    indexes = [Path(file) for file in catalog.index_files()]
    named = {
        "shards": {row["file"] for row in catalog.shards().values()},
        "index": {path.name for index in indexes for path in (index, descriptors_file(index))},
    }
    for folder, names in named.items():
        for path in (gallery.path / folder).glob("*"):
            if path.name not in names:
                path.unlink()
    for path in readers.later(gallery.path, catalog.generation()):
        path.unlink()
