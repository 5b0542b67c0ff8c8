"""Open a gallery for writing: make its folder and catalog, or check that they are as the last writer left them."""

from contextlib import suppress
from pathlib import Path

from spade_index.errors import GalleryDamaged, InputError, SettingsMismatch, StorageError, storage_errors
from spade_index.features.fewer_levels import limited
from spade_index.gallery import generations
from spade_index.gallery.catalog import check
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.lease import Lease
from spade_index.gallery.catalog.schema import leftovers
from spade_index.gallery.reader import CATALOG, Gallery
from spade_index.gallery.store import leave_one_out
from spade_index.gallery.store.codecs import FOR_NEW_GALLERIES, KINDS, MapCodec, codec_named
from spade_index.gallery.store.quantizer import KIND, UNTRAINED, Quantized
from spade_index.gallery.store.storage import MapStorage
from spade_index.settings import ExtractionSettings

from .cleanup import ASIDE, INCOMING, settle_shards
from .lock import LOCK, WriterLock
from .shared import is_shared

FOREIGN = {"lost+found"}  # of the file system
FOLDERS = ("shards", "index", leave_one_out.FOLDER, generations.FOLDER, ASIDE, INCOMING)


def open_for_writing(
    path: Path,
    lock: WriterLock,
    lease: Lease,
    settings: ExtractionSettings | None,
    weights_file: str | None,
    codec: MapCodec | None,
) -> Gallery:
    """Open a gallery as `Session` does, and take its lock and, where machines may share it, its lease.

    A gallery that never held an image takes the settings as its own.

    Raises OSError besides.
    """
    if settings is not None and not (path / CATALOG).exists():
        first = _first_codec(path, codec)
        _make_folder(path)
        lock.take()
        if not (path / CATALOG).exists():
            Catalog.create(path / CATALOG, settings, weights_file, MapStorage(first)).close()
    gallery = Gallery(path)  # before the lock, so that a folder that is no gallery is left alone
    lock.take()
    if settings is not None and not gallery.never_used:
        gallery.settings.require_equal(limited(settings, gallery.settings.levels), str(path))
        _require_codec(gallery, codec)
    _require_own_files(path)
    _require_sound(gallery.catalog)
    if is_shared(path):
        lease.take()
        gallery.catalog.guard = lease.require
    gallery.catalog.complete()
    if settings is not None and gallery.never_used and _differs(gallery, settings, _first_codec(path, codec)):
        with gallery.catalog.transaction() as changes:
            changes.set_settings(settings, weights_file, MapStorage(_first_codec(path, codec)))
        guard = gallery.catalog.guard
        gallery.close()
        gallery = Gallery(path)
        gallery.catalog.guard = guard
    generations.prepare(path, gallery.catalog.generation())
    gallery.at()
    settle_shards(gallery, lock)
    return gallery


def asked_codec(maps: str | Quantized | None) -> MapCodec | None:
    """Return the codec that is asked for by its name, or with tables. Raises InputError if there is none."""
    if maps is None or isinstance(maps, Quantized):
        return maps
    if maps not in KINDS:
        raise InputError(f"maps must be one of {', '.join(KINDS)}, not {maps!r}")
    return UNTRAINED if maps == KIND else codec_named(maps)


def _first_codec(path: Path, codec: MapCodec | None) -> MapCodec:
    """Return how a new gallery stores maps. Raises InputError if that needs tables and has none."""
    if codec == UNTRAINED:
        raise InputError(f"{path}: a new gallery stores maps as {KIND} by tables: give what `trained_on` returns")
    return codec or codec_named(FOR_NEW_GALLERIES)


def _differs(gallery: Gallery, settings: ExtractionSettings, codec: MapCodec) -> bool:
    return gallery.settings.to_json() != settings.to_json() or gallery.storage.codec != codec


def _require_codec(gallery: Gallery, codec: MapCodec | None) -> None:
    if codec is not None and codec.kind != gallery.codec:
        raise SettingsMismatch(
            f"{gallery.path} stores maps as {gallery.codec}, not {codec.kind}: `spade-index compact {gallery.path} "
            f"--maps {codec.kind}` stores them otherwise, if that is smaller"
        )


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    ours = {LOCK, CATALOG, *(file.name for file in leftovers(Path(CATALOG)))}
    strangers = {entry.name for entry in path.iterdir()} - ours - FOREIGN
    if strangers & {"shards", check.CHECK}:  # made after a catalog, which was lost: their images must not be
        raise GalleryDamaged(f"{path}: was a gallery and has no {CATALOG}: restore that, or choose a new folder")
    if strangers:
        raise InputError(f"{path}: the folder holds something else ({min(strangers)}): choose a new one")


def _require_own_files(path: Path) -> None:
    """Raise StorageError for links: what they lead to may be of others. The catalog is the one file that changes."""
    if (path / CATALOG).lstat().st_nlink > 1:
        raise StorageError(
            f"{path / CATALOG}: has another name, too (a hard link), whose file would change with it: copy it, and "
            "put the copy in its place"
        )
    for folder in FOLDERS:
        if (path / folder).is_symlink():
            raise StorageError(f"{path / folder}: is a link: a gallery is written to real folders only; move it whole")


def _require_sound(catalog: Catalog) -> None:
    """Raise GalleryDamaged if the catalog has changed, before this writer notes its bytes as good."""
    with suppress(check.NoteDamaged):
        if catalog.require_unchanged():
            return
    catalog.require_sound()
    note_catalog(catalog)


def note_catalog(catalog: Catalog) -> None:
    """Note the digest of the catalog's bytes, for the next writer to compare with. Raises StorageError."""
    with storage_errors(catalog.path.parent):
        check.write(catalog.path)
