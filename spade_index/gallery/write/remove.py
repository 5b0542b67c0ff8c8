"""Remove images from a gallery, and restore removed ones.

In a gallery of tiles, the id of a picture stands for all of its tiles, and the id of a tile for that one.
"""

from collections.abc import Iterable

from spade_index.errors import InputError, UnknownImage, storage_errors
from spade_index.exact import require_texts
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.images.tiles import picture_of

from .session import Session


def remove(session: Session, ids: Iterable[str]) -> int:
    """See `GalleryWriter.remove`."""
    gallery, ids = session.gallery, require_texts("ids", ids)
    with storage_errors(session.path):
        rows = _distinct(_images(session, id) for id in ids)
        totals = gallery.totals
        with gallery.in_turn():
            for row in rows:
                totals = totals.minus(session.stored_moments(row))
    with session.commit("remove", totals) as changes:
        changes.remove_images(row.key for row in rows)
    return gallery.snapshot


def restore(session: Session, ids: Iterable[str]) -> int:
    """See `GalleryWriter.restore`."""
    gallery, ids = session.gallery, require_texts("ids", ids)
    with storage_errors(session.path):
        rows = _distinct(_removed_images(session, id) for id in ids)
        _require_no_copies(session, rows)
        totals = gallery.totals
        with gallery.in_turn():
            for row in rows:
                totals = totals.plus(session.stored_moments(row))
    with session.commit("restore", totals) as changes:
        for row in rows:  # as new rows: a score names its snapshot, so what earlier snapshots hold must not change
            changes.restore_image(row.key)
    return gallery.snapshot


def _distinct(named: Iterable[list[ImageRow]]) -> list[ImageRow]:
    """Return the images that were named, each once. Raises UnknownImage if there is none."""
    rows = {row.key: row for some in named for row in some}
    if not rows:
        raise UnknownImage("no image id was given")
    return list(rows.values())


def _images(session: Session, id: str) -> list[ImageRow]:
    """Return the image with this id, or all tiles of the picture. Raises UnknownImage."""
    gallery = session.gallery
    if gallery.settings.preprocessing.tile is not None and gallery.catalog.image_by_id(id, gallery.snapshot) is None:
        tiles = gallery.catalog.tiles_of(id, gallery.snapshot)
        if tiles:
            return tiles
    return [gallery.image(id)]


def _removed_images(session: Session, id: str) -> list[ImageRow]:
    """Return the removed image with this id, or all removed tiles of the picture. Raises UnknownImage, InputError."""
    catalog, snapshot = session.gallery.catalog, session.gallery.snapshot
    if catalog.image_by_id(id, snapshot) is not None:
        raise _there(session, id)
    if session.settings.preprocessing.tile is None:
        row = catalog.removed_image(id)
        rows = [] if row is None else [row]
    else:
        rows = catalog.removed_tiles(id) or [row for row in catalog.removed_tiles(picture_of(id)) if row.id == id]
        if not rows and catalog.tiles_of(id, snapshot):
            raise _there(session, id)
    if not rows:
        raise UnknownImage(
            f"{session.path}: no removed image {id!r}; `spade-index list --removed` names them, `compact` forgets them"
        )
    return rows


def _there(session: Session, id: str) -> InputError:
    return InputError(f"{session.path}: image {id!r} is there; `spade-index list --removed` names removed ones")


def _require_no_copies(session: Session, rows: list[ImageRow]) -> None:
    there = session.gallery.catalog.ids_by_digest([row.digest for row in rows], session.gallery.snapshot)
    for row in rows:
        if (other := there.setdefault(row.digest, row.id)) != row.id:
            raise InputError(
                f"{session.path}: image {row.id!r} is the same file as {other!r}, which would be found twice: remove "
                f"{other!r} first, or restore one of them"
            )
