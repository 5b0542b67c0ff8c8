"""Delete what has fallen out of use, once no reader may need it: see `generations`."""

from pathlib import Path

from spade_index.gallery import generations
from spade_index.gallery.catalog.transaction import Transaction
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import FOLDER


def begin_generation(gallery: Gallery, changes: Transaction) -> None:
    """Begin the next generation, in a transaction that takes something out of use."""
    generation = gallery.catalog.generation() + 1
    generations.prepare(gallery.path, generation)
    changes.set_meta("generation", str(generation))


def delete_unused(gallery: Gallery) -> bool:
    """Delete what has fallen out of use, and what a crash left; return False if a reader may still need it."""
    catalog = gallery.catalog
    earlier = generations.earlier(gallery.path, catalog.generation())
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
    named = {
        "shards": {row.file for row in catalog.shards().values()},
        "index": {path.name for index in indexes for path in (index, descriptors_file(index))},
        FOLDER: set(catalog.calibration_files()),
    }
    for folder, names in named.items():
        for path in (gallery.path / folder).glob("*"):
            if path.name not in names:
                path.unlink()
    for path in generations.later(gallery.path, catalog.generation()):
        path.unlink()
