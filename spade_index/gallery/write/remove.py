"""Remove images from a gallery, and restore removed ones."""

from collections.abc import Iterable

from spade_index.errors import InputError, UnknownImage, storage_errors
from spade_index.gallery.catalog.tables import ImageRow

from .session import Session


def remove(session: Session, ids: Iterable[str]) -> int:
    """See `GalleryWriter.remove`."""
    gallery = session.gallery
    with storage_errors(session.path):
        rows = [gallery.image(id) for id in dict.fromkeys(ids)]
        if not rows:
            raise UnknownImage("no image id was given")
        totals = gallery.totals
        for row in rows:
            totals = totals.minus(session.stored_moments(row))
    with session.commit("remove", totals) as changes:
        changes.remove_images(row.key for row in rows)
    return gallery.snapshot


def restore(session: Session, ids: Iterable[str]) -> int:
    """See `GalleryWriter.restore`."""
    gallery = session.gallery
    with storage_errors(session.path):
        rows = [_removed_image(session, id) for id in dict.fromkeys(ids)]
        if not rows:
            raise UnknownImage("no image id was given")
        _require_no_copies(session, rows)
        totals = gallery.totals
        for row in rows:
            totals = totals.plus(session.stored_moments(row))
    with session.commit("restore", totals) as changes:
        for row in rows:  # as new rows: a score names its snapshot, so what earlier snapshots hold must not change
            changes.restore_image(row.key)
    return gallery.snapshot


def _removed_image(session: Session, id: str) -> ImageRow:
    catalog = session.gallery.catalog
    if catalog.image_by_id(id, session.gallery.snapshot) is not None:
        raise InputError(f"{session.path}: image {id!r} is there; `spade-index list --removed` names removed ones")
    row = catalog.removed_image(id)
    if row is None:
        raise UnknownImage(
            f"{session.path}: no removed image {id!r}; `spade-index list --removed` names them, `compact` forgets them"
        )
    return row


def _require_no_copies(session: Session, rows: list[ImageRow]) -> None:
    there = session.gallery.catalog.ids_by_digest([row.digest for row in rows], session.gallery.snapshot)
    for row in rows:
        if (other := there.setdefault(row.digest, row.id)) != row.id:
            raise InputError(
                f"{session.path}: image {row.id!r} is the same file as {other!r}, which would be found twice: remove "
                f"{other!r} first, or restore one of them"
            )
