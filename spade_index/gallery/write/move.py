"""Move stored images into a new shard."""

from collections.abc import Collection

from spade_index.errors import GalleryDamaged
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.record import NewImage
from spade_index.gallery.store.shard_writer import ShardWriter

from .session import Session


def places(session: Session, shard: int) -> Collection[ImageRow]:
    """Return an image for each row of a shard that has any: removed ones, too, and one of those that share a row."""
    return {image.row: image for image in session.gallery.catalog.images_in(shard)}.values()


def move_images(session: Session, images: list[ImageRow]) -> int:
    """Copy images into a new shard, commit that they are read there from now on, and return its size in bytes.

    Raises GalleryDamaged if one of them is not what was written, OSError, or StorageError.
    """
    gallery = session.gallery
    number = gallery.catalog.next_shard()
    session.note_shards(number)
    storage = gallery.storage_of(images[0].shard)
    writer = ShardWriter(session.path / "shards", number, session.settings, storage)
    try:
        with gallery.in_turn():
            for image in images:
                stored = gallery.stored(image)
                if stored.storage != storage:
                    both = f"{storage.name} and {stored.storage.name}"
                    raise GalleryDamaged(f"{gallery.path}: maps as {both}: `compact` stores all alike")
                writer.append(NewImage(image, stored))
        shard = writer.commit()
    except BaseException:
        writer.abandon()
        raise
    with session.commit(retires=True) as changes:
        changes.add_shard(shard)
        changes.move_images(images, shard.number)
    session.note_shards(None)
    return shard.path.stat().st_size
