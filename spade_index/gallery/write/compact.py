"""Free the space of removed images, shard by shard.

First the index is built without removed images, so that there is one all the time; where the disk has no room for
two, it is built when removed images have made some. The next commit deletes removed images and earlier snapshots, and
remembers what was removed on purpose. Then images move, one new shard at a time, out of shards that are no longer
full; a shard that all images have left is deleted before the next one is written, unless an earlier generation is
being read. A moved row changes nothing for a reader, who finds the same bytes in another place. Last, calibrations
are written again without removed images. An interrupted `compact` continues when it is called again. With a codec or
levels, images whose maps are stored otherwise are stored so after the commit that deletes, under new keys, and the
index is built after them (see `transcode`).
"""

import shutil
from collections.abc import Callable, Sequence
from itertools import islice

from spade_index.errors import StorageError, storage_errors

from .calibrate import drop_removed
from .move import move_images
from .reindex import rebuild_index
from .session import RESERVE, Session
from .transcode import to_transcode, transcode, wanted_storage


def images_to_move(session: Session, codec: str | None = None, levels: Sequence[int] | None = None) -> int:
    """See `GalleryWriter.images_to_move`."""
    other = to_transcode(session, wanted_storage(session, codec, levels))
    return sum(other.values()) + sum(left for number, left in _sparse(session).items() if number not in other)


def compact(
    session: Session,
    progress: Callable[[int], None],
    codec: str | None = None,
    levels: Sequence[int] | None = None,
) -> int:
    """See `GalleryWriter.compact`."""
    gallery, catalog = session.gallery, session.gallery.catalog
    storage = wanted_storage(session, codec, levels)
    other = to_transcode(session, storage)
    rewrite = {number: left for number, left in _sparse(session).items() if number not in other}
    freed = sum(catalog.shards()[number].bytes for number in rewrite)
    catalog.require_sound()  # before anything is forgotten
    with storage_errors(session.path):
        session.require_room(min(sum(rewrite.values()) + sum(other.values()), session.shard_rows))
        # With one snapshot, nothing was removed since the last compaction began, which this carries on.
        if len(catalog.snapshots()) > 1:
            if len(gallery) and not other and not _is_indexed(session):
                _index_first(session)
            indexed = _is_indexed(session)
            with session.commit("compact", retires=True) as changes:
                if indexed:
                    changes.keep_index()
                changes.remember_removed()
                changes.set_meta("oldest", str(changes.snapshot))
            session.delete_unused()
        freed += transcode(session, storage, progress)
        if len(gallery) and catalog.index(gallery.snapshot) is None:
            rebuild_index(session)
        images = (image for image in gallery.images() if image.shard in rewrite)
        while part := list(islice(images, session.shard_rows)):
            session.require_room(len(part))
            freed -= move_images(session, part)
            session.delete_unused()
            progress(len(part))
        return freed + drop_removed(session)


def _index_first(session: Session) -> None:
    """Build the index without removed images, if there is room for it beside all that they take."""
    descriptors = 4 * session.settings.pooled_dim * len(session.gallery)
    if shutil.disk_usage(session.path).free < 2 * descriptors + RESERVE:  # in a file of their own, and in the index
        return
    try:
        rebuild_index(session)
    except StorageError:  # it took more, or others write: what was removed must go first
        session.delete_unused()


def _is_indexed(session: Session) -> bool:
    """Return whether the index is of the latest snapshot."""
    index = session.gallery.catalog.index(session.gallery.snapshot)
    return index is not None and index.snapshot == session.gallery.snapshot


def _sparse(session: Session) -> dict[int, int]:
    """Return the number of images that are left in each shard that is to be rewritten."""
    shards = session.gallery.catalog.shards()
    live = session.gallery.catalog.live_counts()
    found = {number for number, images in live.items() if images < shards[number].rows}
    small = {number for number in live if shards[number].rows < session.shard_rows // 2}
    if len(found | small) > 1:  # a small one by itself gains nothing
        found |= small
    return {number: live[number] for number in found}
