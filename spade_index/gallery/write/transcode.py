"""Store the maps of all images by another codec, or only some levels of them, some at a time.

Decoded values change, and with them scores. So an image is not moved, as other compactions do: it is replaced by
itself, under a new key, in a snapshot that begins a generation. Who reads an earlier one still finds the values that
were there, and their shards are deleted as soon as nobody does. The index and calibrations know images by their keys:
the index is built again at the end, calibrations are forgotten at the beginning. The first commit states how maps are
stored, so that images which are added after an interruption are stored so, and `compact` goes on. From then on no
search may ask for a level that is dropped.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from spade_index.errors import InputError
from spade_index.gallery.catalog.schema import TRANSCODING, TUNED
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.changes import tuned_with_changes
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.codecs import KINDS, MapCodec, codec_named
from spade_index.gallery.store.moments import Totals, maps_moments
from spade_index.gallery.store.quantizer import KIND, UNTRAINED
from spade_index.gallery.store.record import NewImage
from spade_index.gallery.store.shard_writer import ShardWriter, WrittenShard
from spade_index.gallery.store.storage import MapStorage

from .levels import levels_to_keep
from .session import Session
from .train import trained


def wanted_storage(session: Session, codec: str | None, levels: Sequence[int] | None) -> MapStorage:
    """Return how maps are to be stored, by a codec and with some levels; None: as the gallery states.

    Raises InputError for a codec finer than the gallery's, and for levels that it cannot keep (see `levels`).
    """
    gallery = session.gallery
    storage = gallery.storage if codec is None else replace(gallery.storage, codec=_coarser(gallery, codec))
    return storage if levels is None else storage.of_levels(levels_to_keep(gallery, levels), session.settings)


def to_transcode(session: Session, storage: MapStorage) -> dict[int, int]:
    """Return the number of images that are left in each shard whose maps are to be stored otherwise."""
    gallery = session.gallery
    if storage == gallery.storage and not gallery.catalog.transcoding:
        return {}
    live = gallery.catalog.live_counts()
    return {number: images for number, images in live.items() if images and gallery.storage_of(number) != storage}


def transcode(session: Session, storage: MapStorage, progress: Callable[[int], None]) -> int:
    """Store all maps so, or go on with that; return the bytes that become free. Tables that it lacks are trained."""
    gallery = session.gallery
    if storage.codec == UNTRAINED:
        storage = replace(storage, codec=trained(gallery, storage.levels or gallery.stored_levels))
    other = to_transcode(session, storage)
    if storage != gallery.storage or (other and gallery.catalog.calibrations()):  # made after an interruption
        _begin(session, storage)
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


def _coarser(gallery: Gallery, codec: str) -> MapCodec:
    if codec not in KINDS:
        raise InputError(f"maps must be one of {', '.join(KINDS)}, not {codec!r}")
    if KINDS.index(codec) < KINDS.index(gallery.codec):
        raise InputError(
            f"{gallery.path}: its maps are {gallery.codec}: {codec} would take more bytes, and what was lost "
            "stays lost; build another gallery of the same images instead"
        )
    if codec == gallery.codec:
        return gallery.storage.codec
    return UNTRAINED if codec == KIND else codec_named(codec)


def _begin(session: Session, storage: MapStorage) -> None:
    """State how maps are stored, and forget calibrations: what images score, or their keys, are about to change."""
    with session.commit(retires=True) as changes:
        changes.set_storage(storage)
        changes.set_meta(TRANSCODING, storage.name)
        changes.delete_calibrations()


def _replace(session: Session, images: list[ImageRow]) -> int:
    """Replace images by themselves, with maps as the gallery stores them; return the new shard's size in bytes."""
    gallery = session.gallery
    number = gallery.catalog.next_shard()
    session.note_shards(number)
    writer = ShardWriter(session.path / "shards", number, session.settings, gallery.storage)
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
    """Write images as the gallery stores them; return the totals of the gallery with what they then are."""
    gallery, storage = session.gallery, session.gallery.storage
    totals = gallery.totals
    with gallery.in_turn():
        for image in images:
            before = gallery.decoded(image)
            if gallery.storage_of(image.shard).codec == storage.codec:  # codes are never encoded again
                stored = gallery.stored(image).of_levels(storage, session.settings)
            else:
                stored = before.encoded(storage)
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
