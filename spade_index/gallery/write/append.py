"""Commit shards of new images, and add images whose features were computed elsewhere."""

from collections.abc import Callable, Iterable, Sequence

from spade_index.errors import InputError, storage_errors
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.record import NewImage
from spade_index.gallery.store.stream import ShardStream, StreamedShard
from spade_index.images.loading import in_lots

from .session import Session

WAITING = 2  # batches between the caller and the disk
BATCH = 64  # images that are checked, and then queued, together


def shard_stream(session: Session, waiting: int) -> ShardStream:
    """Return a stream that writes a session's next shards; `waiting` batches are queued."""
    first = session.gallery.catalog.next_shard()
    return ShardStream(session.path / "shards", session.settings, first, session.shard_rows, waiting)


def commit_shard(session: Session, streamed: StreamedShard, replaced: Sequence[ImageRow] = ()) -> None:
    """Add a shard's images to the gallery, and remove the images that they replace, in one snapshot."""
    shard = streamed.shard
    totals = session.gallery.totals.plus(streamed.moments, len(shard.images))
    for image in replaced:
        totals = totals.minus(session.stored_moments(image))
    with session.commit("add", totals) as changes:
        changes.remove_images(image.key for image in replaced)
        changes.add_shard(shard)
        changes.add_images(shard)


def add_features(session: Session, images: Iterable[NewImage], progress: Callable[[int], None]) -> int:
    """See `GalleryWriter.add_features`."""
    stream = shard_stream(session, WAITING)
    seen: set[str] = set()
    try:
        for batch in in_lots(images, BATCH):
            _require_new(session, batch, seen)
            session.require_room(len(batch) * (WAITING + 2))
            with storage_errors(session.path):
                stream.put(batch)
                _commit_all(session, stream.written())
            progress(len(batch))
    except (InputError, KeyboardInterrupt):
        _finish(session, stream)
        raise
    except BaseException:
        stream.abandon()
        raise
    _finish(session, stream)
    return len(seen)


def _finish(session: Session, stream: ShardStream) -> None:
    with storage_errors(session.path):
        _commit_all(session, stream.close())


def _commit_all(session: Session, shards: Iterable[StreamedShard]) -> None:
    for shard in shards:
        commit_shard(session, shard)


def _require_new(session: Session, batch: list[NewImage], seen: set[str]) -> None:
    """Raise InputError unless these images fit the gallery and have ids that are new."""
    there = session.gallery.catalog.images_by_id([image.origin.id for image in batch], session.gallery.snapshot)
    for image in batch:
        image.require_fit(session.settings)
        id = image.origin.id
        if id in seen or id in there:
            raise InputError(f"{session.path}: there is an image {id!r} already: choose another id, or remove it first")
        seen.add(id)
