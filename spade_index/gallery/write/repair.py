"""Making a damaged gallery usable again, without what is damaged.

What is whole in a damaged shard moves to a new one first; what is not is dropped in one commit, with the earlier
snapshots that held it, which cannot be shown any more. Interrupted anywhere, it is carried on by being called again.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from spade_index.errors import GalleryDamaged, storage_errors
from spade_index.gallery.catalog.changes import lose_images, new_snapshot, set_index_aside, set_layout
from spade_index.gallery.catalog.images import ImageRow
from spade_index.gallery.store.layout import layout_to_keep
from spade_index.gallery.verify import Problem

from .compact import move

if TYPE_CHECKING:
    from .session import GalleryWriter


def repair(
    writer: "GalleryWriter", problems: Iterable[Problem], say: Callable[[str], None], progress: Callable[[int], None]
) -> int:
    """See `GalleryWriter.repair`."""
    problems = list(problems)
    for problem in problems:
        if problem.shard is None and problem.layout is None and not problem.index:
            raise GalleryDamaged(problem.line)
    lost: list[ImageRow] = []
    with storage_errors(writer.path):
        for problem in problems:
            if problem.shard is not None:
                lost += problem.lost
                _move_whole(writer, problem.shard, {image.key for image in problem.lost}, say)
            if problem.layout is not None:
                _keep_layout(writer, problem.layout, say)
        dropped = _drop(writer, lost, say, progress) if lost else 0
        if _needs_index(writer) or any(problem.index for problem in problems):
            say(f"the index is built again: {writer.build_index()}")
        writer.forget()
    return dropped


def _needs_index(writer: "GalleryWriter") -> bool:
    """Whether the index was set aside, now or before this was interrupted."""
    catalog = writer.gallery.catalog
    there = catalog.latest_index() is not None and catalog.index(writer.gallery.snapshot) is None
    return there and len(writer.gallery) > 0


def _move_whole(writer: "GalleryWriter", shard: int, lost: set[int], say: Callable[[str], None]) -> None:
    """Move the whole images of a damaged shard, also removed ones, to a new one."""
    images = {image.row: image for image in writer.gallery.catalog.images_in(shard) if image.key not in lost}
    if images:
        writer.require_room(len(images))
        path = writer.path / "shards" / (writer.gallery.catalog.shard_file(shard) or "")
        move(writer, list(images.values()))
        say(f"{path}: {len(images):,} whole images are in a new shard now")


def _keep_layout(writer: "GalleryWriter", shard: int, say: Callable[[str], None]) -> None:
    """Keep the layout of a shard that is whole."""
    path = writer.path / "shards" / (writer.gallery.catalog.shard_file(shard) or "")
    with writer.gallery.catalog.transaction() as db:
        set_layout(db, shard, layout_to_keep(shard, path, writer.settings))
    say(f"{path}: where its values lie is noted anew")


def _drop(
    writer: "GalleryWriter", lost: list[ImageRow], say: Callable[[str], None], progress: Callable[[int], None]
) -> int:
    """Let the gallery go on without images that cannot be read; how many were not removed before."""
    gallery = writer.gallery
    live = {image.key for image in lost if image.removed is None}
    moments = writer.moments()
    if live:  # what they contributed cannot be known from what is left of them
        rest = (image for image in gallery.images() if image.key not in live)
        moments = writer.moments_of(rest, progress)
    with gallery.catalog.transaction() as db:
        if live:
            new_snapshot(db, "repair", len(gallery) - len(live), moments)
        lose_images(db, [image.key for image in lost])
        set_index_aside(db)
        writer.next_generation(db)
    gallery.at()
    for image in lost:
        say(f"dropped {'' if image.key in live else 'the removed '}{image.id}: it is damaged")
    return len(live)
