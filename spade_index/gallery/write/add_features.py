"""Add images whose features were computed elsewhere."""

from collections.abc import Callable, Iterable
from functools import partial

from spade_index.errors import InputError
from spade_index.gallery.store.record import NewImage
from spade_index.images.loading import in_lots

from .append import WAITING, Appender, commit_shard
from .session import Session

BATCH = 64  # images that are checked, and then queued, together


def add_features(session: Session, images: Iterable[NewImage], progress: Callable[[int], None]) -> int:
    """See `GalleryWriter.add_features`."""
    seen: set[str] = set()
    with Appender(session, partial(commit_shard, session)) as appender:
        for batch in in_lots(images, BATCH):
            _require_new(session, batch, seen)
            session.require_room(len(batch) * (WAITING + 2))
            appender.put(batch)
            progress(len(batch))
    return len(seen)


def _require_new(session: Session, batch: list[NewImage], seen: set[str]) -> None:
    """Raise InputError unless these images fit the gallery and have ids that are new."""
    there = session.gallery.catalog.images_by_id([image.origin.id for image in batch], session.gallery.snapshot)
    for image in batch:
        image.require_fit(session.settings)
        id = image.origin.id
        if id in seen or id in there:
            raise InputError(f"{session.path}: there is an image {id!r} already: choose another id, or remove it first")
        seen.add(id)
