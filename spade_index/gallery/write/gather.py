"""Gather images of small adds into larger shards, some at a time, as images are added.

Every add leaves a shard, however few its images. As soon as many shards are about equally small, or would fill one
together, their images move into a new one: removed images, too, so that nothing is forgotten. An image moves once or
twice in its life, and no add waits for more than one full shard.
"""

import math
from collections import defaultdict
from contextlib import suppress

from spade_index.errors import GalleryDamaged, StorageError, storage_errors

from .move import move_images, places
from .session import Session

ALIKE = 32  # small shards of about the same size, or images of the smallest


def small_shards(session: Session) -> dict[int, int]:
    """Return the number of rows of each shard that is to be merged with others."""
    return session.gallery.catalog.shards_below(session.shard_rows // 2)


def gather(session: Session) -> int:
    """Merge some small shards, the oldest first, if there are many; return the number of images that have moved.

    What was added is committed, and stays, if a shard is damaged or the disk full: then the next add tries again.
    """
    chosen = _chosen(session)
    with suppress(GalleryDamaged, StorageError), storage_errors(session.path):
        try:
            return _merge(session, chosen)
        except GalleryDamaged:
            return _merge(session, [shard for shard in chosen if _is_whole(session, shard)])
    return 0


def _chosen(session: Session) -> list[int]:
    """Return shards of about the same size that together fit into one; none unless they are many.

    None, either, while maps are being stored by another codec: `compact`, which goes on with that, merges shards.
    """
    if session.gallery.catalog.transcoding:
        return []
    alike: dict[int, dict[int, int]] = defaultdict(dict)
    for shard, rows in small_shards(session).items():
        alike[int(math.log(max(1, rows), ALIKE))][shard] = rows
    for size in sorted(alike):
        if len(alike[size]) >= ALIKE or sum(alike[size].values()) >= session.shard_rows:
            chosen, left = [], session.shard_rows
            for shard, rows in alike[size].items():
                left -= rows
                if left < 0:
                    break
                chosen.append(shard)
            return chosen
    return []


def _merge(session: Session, shards: list[int]) -> int:
    if len(shards) < 2:
        return 0
    images = [image for shard in shards for image in places(session, shard)]
    session.require_room(len(images))
    move_images(session, images)
    session.delete_unused()
    return len(images)


def _is_whole(session: Session, shard: int) -> bool:
    try:
        with session.gallery.in_turn():
            for image in places(session, shard):
                session.gallery.stored(image)
    except GalleryDamaged:
        return False
    return True
