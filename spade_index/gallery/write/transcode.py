"""Store the maps of all images by another codec, some at a time.

Decoded values change, and with them scores. So an image is not moved, as other compactions do: it is replaced by
itself, under a new key, in a snapshot that begins a generation. Who reads an earlier one still finds the values that
were there, and their shards are deleted as soon as nobody does. The index and calibrations know images by their keys:
the index is built again at the end, calibrations are forgotten at the beginning. The first commit states the codec, so
that images which are added after an interruption are stored by it, and `compact` goes on.
"""

import json
from collections.abc import Callable
from itertools import islice

from spade_index.errors import InputError
from spade_index.gallery.catalog.schema import TRANSCODING, TUNED
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.changes import tuned_with_changes
from spade_index.gallery.store.codecs import NAMES
from spade_index.gallery.store.moments import Totals, maps_moments
from spade_index.gallery.store.record import NewImage
from spade_index.gallery.store.shard_writer import ShardWriter, WrittenShard

from .session import Session


def to_transcode(session: Session, codec: str | None) -> dict[int, int]:
    """Return the number of images that are left in each shard whose maps are to be stored by a codec.

    With None, that of a transcoding that was interrupted. Raises InputError for a codec finer than the gallery's.
    """
    gallery = session.gallery
    if codec is None and not gallery.catalog.transcoding:
        return {}
    wanted = _require_coarser(session, gallery.codec if codec is None else codec)
    live = gallery.catalog.live_counts()
    return {number: images for number, images in live.items() if images and gallery.codec_of(number) != wanted}


def transcode(session: Session, codec: str | None, progress: Callable[[int], None]) -> int:
    """Store all maps by a codec, or go on with that; return the bytes that become free."""
    gallery = session.gallery
    other = to_transcode(session, codec)
    if codec is not None and codec != gallery.codec:
        _begin(session, codec)
    freed = sum(gallery.catalog.shards()[number].bytes for number in other)
    while part := list(islice((image for image in gallery.images() if image.shard in other), session.shard_rows)):
        session.require_room(len(part))
        freed -= _replace(session, part)
        session.delete_unused()
        progress(len(part))
    if gallery.catalog.transcoding:
        with session.commit() as changes:
            changes.delete_meta(TRANSCODING)
    return freed


def _require_coarser(session: Session, codec: str) -> str:
    if codec not in NAMES:
        raise InputError(f"maps must be one of {', '.join(NAMES)}, not {codec!r}")
    if NAMES.index(codec) < NAMES.index(session.gallery.codec):
        raise InputError(
            f"{session.path}: its maps are {session.gallery.codec}: {codec} would take more bytes, and what was lost "
            "stays lost; build another gallery of the same images instead"
        )
    return codec


def _begin(session: Session, codec: str) -> None:
    """State the codec, and forget calibrations: what images score is about to change."""
    with session.commit(retires=True) as changes:
        changes.set_codec(codec)
        changes.set_meta(TRANSCODING, codec)
        changes.delete_calibrations()


def _replace(session: Session, images: list[ImageRow]) -> int:
    """Replace images by themselves, with maps by the gallery's codec; return the new shard's size in bytes."""
    gallery = session.gallery
    number = gallery.catalog.next_shard()
    session.note_shards(number)
    writer = ShardWriter(session.path / "shards", number, session.settings, gallery.codec)
    try:
        totals = _written(session, writer, images)
        shard = writer.commit()
    except BaseException:
        writer.abandon()
        raise
    _commit(session, shard, images, totals)
    session.note_shards(None)
    return shard.path.stat().st_size


def _written(session: Session, writer: ShardWriter, images: list[ImageRow]) -> Totals:
    """Write images by the gallery's codec; return the totals of the gallery with what they then are."""
    totals = session.gallery.totals
    for image in images:
        before = session.gallery.decoded(image)
        stored = before.encoded(session.gallery.codec)
        writer.append(NewImage(image, stored))
        after = stored.decoded(session.settings)
        totals = totals.minus(maps_moments(before.maps)).plus(maps_moments(after.maps))
    return totals


def _commit(session: Session, shard: WrittenShard, images: list[ImageRow], totals: Totals) -> None:
    gallery = session.gallery
    with session.commit("compact", totals, retires=True) as changes:
        changes.remove_images(image.key for image in images)
        changes.add_shard(shard)
        changes.add_images(shard)
        changes.copy_regions(images, shard.number)
        if (tuned := tuned_with_changes(gallery, changes.snapshot)) is not None:
            changes.set_meta(TUNED, json.dumps(tuned))
        changes.set_meta("oldest", str(changes.snapshot))
