"""Opening a gallery for writing: its folder and catalog are made, or found to be as the last writer left them."""

from contextlib import suppress
from pathlib import Path

from spade_index.errors import GalleryDamaged, InputError, storage_errors
from spade_index.gallery import generations as readers
from spade_index.gallery.catalog import check as catalog_check
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.schema import leftovers
from spade_index.gallery.reader import CATALOG, Gallery
from spade_index.settings import ExtractionSettings

from .lock import LOCK, WriterLock


def open_for_writing(
    path: Path, lock: WriterLock, settings: ExtractionSettings | None, weights_file: str | None
) -> Gallery:
    """See `GalleryWriter`; takes the lock. Raises OSError besides."""
    if settings is not None and not (path / CATALOG).exists():
        _make_folder(path)
        lock.take()
        if not (path / CATALOG).exists():
            Catalog.create(path / CATALOG, settings, weights_file).close()
    gallery = Gallery(path)  # before the lock: a folder that is no gallery is left alone
    lock.take()
    if settings is not None:
        gallery.settings.require_equal(settings, str(path))
    _require_sound(gallery.catalog)
    gallery.catalog.complete()
    readers.prepare(path, gallery.catalog.generation())
    gallery.at()
    return gallery


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    ours = {LOCK, CATALOG, *(file.name for file in leftovers(Path(CATALOG)))}
    strangers = {entry.name for entry in path.iterdir()} - ours
    if strangers & {"shards", catalog_check.CHECK}:  # they are made after a catalog: it was lost, they must not be
        raise GalleryDamaged(f"{path}: was a gallery and has no {CATALOG}: restore that, or choose a new folder")
    if strangers:
        raise InputError(f"{path}: the folder holds something else ({min(strangers)}): choose a new one")


def _require_sound(catalog: Catalog) -> None:
    """Raise GalleryDamaged if the catalog is not as it was left: a later note of its bytes must not say it is."""
    with suppress(catalog_check.NoteDamaged):
        if catalog.require_unchanged():
            return
    for problem in catalog.own_problems():
        raise GalleryDamaged(f"{problem}; {catalog_check.REMEDY}")
    note_catalog(catalog)


def note_catalog(catalog: Catalog) -> None:
    """Note what the catalog's bytes are, for whoever opens it next."""
    with storage_errors(catalog.path.parent):
        catalog_check.write(catalog.path)
