"""Reclaiming the room of removed images, shard by shard.

First one commit that forgets removed images and earlier snapshots, then the index without them. Then images move, one
new shard at a time, out of shards that are no longer full; a shard that is left by all is deleted before the next one
is written, unless somebody reads an earlier generation. That a row moves changes nothing for a reader: it finds the
same bytes elsewhere. Interrupted anywhere, it is carried on by being called again.
"""

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from spade_index.errors import storage_errors
from spade_index.gallery.catalog.changes import insert_shard, move_rows, new_snapshot, set_meta
from spade_index.gallery.catalog.images import ImageRow
from spade_index.gallery.store.layout import layout_to_keep
from spade_index.gallery.store.shard import ShardWriter

if TYPE_CHECKING:
    from .session import GalleryWriter


def sparse(writer: "GalleryWriter") -> dict[int, int]:
    """The shards to be rewritten, and how many images each of them still holds."""
    shards = writer.gallery.catalog.shards()
    live = writer.gallery.catalog.live_counts()
    found = {number for number, images in live.items() if images < shards[number]["rows"]}
    small = {number for number in live if shards[number]["rows"] < writer.shard_rows // 2}
    if len(found | small) > 1:  # a small one by itself gains nothing
        found |= small
    return {number: live[number] for number in found}


def compact(writer: "GalleryWriter", progress: Callable[[int], None]) -> int:
    """See `GalleryWriter.compact`."""
    gallery, catalog = writer.gallery, writer.gallery.catalog
    rewrite = sparse(writer)
    freed = sum(catalog.shards()[number]["bytes"] for number in rewrite)
    with storage_errors(writer.path):
        writer.require_room(min(sum(rewrite.values()), writer.shard_rows))
        if rewrite or len(catalog.snapshots()) > 1:
            with catalog.transaction() as db:
                snapshot = new_snapshot(db, "compact", len(gallery), writer.moments())
                set_meta(db, "oldest", str(snapshot))
                writer.next_generation(db)
            gallery.at(snapshot)
            writer.forget()
        if len(gallery) and catalog.index(gallery.snapshot) is None:
            writer.build_index()
        rows = (row for row in gallery.images() if row.shard in rewrite)
        while part := list(islice(rows, writer.shard_rows)):
            writer.require_room(len(part))
            freed -= move(writer, part)
            writer.forget()
            progress(len(part))
    return freed


def move(writer: "GalleryWriter", rows: list[ImageRow]) -> int:
    """Copy images into a new shard, and let them be read there from now on; its size in bytes.

    Raises GalleryDamaged if one of them is not what was written.
    """
    gallery = writer.gallery
    number = gallery.catalog.next_shard()
    shard = ShardWriter(writer.shard_path(number), writer.settings)
    try:
        for row in rows:
            features = gallery.features(row)
            shard.append(row.id, features.pooled, features.maps, features.thumbnail)
        digest = shard.commit()
    except BaseException:
        shard.abandon()
        raise
    layout = layout_to_keep(number, shard.path, writer.settings)
    with gallery.catalog.transaction() as db:
        insert_shard(db, number, shard.path, digest, len(rows), layout)
        move_rows(db, [(row.shard, row.row) for row in rows], number)
        writer.next_generation(db)
    gallery.at(gallery.snapshot)
    return shard.path.stat().st_size
