"""Add images to a gallery that is open for writing, for `build` and `add`."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from spade_index.errors import InputError
from spade_index.wording import number_of

from .counts import counted
from .options import AddingOptions, LoadingOptions
from .progress import Progress
from .sources import Sources

if TYPE_CHECKING:  # all take long to import
    from spade_index.cluster.elsewhere import OnCrew
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.store.record import Feedback
    from spade_index.gallery.write.writer import GalleryWriter

MANY_SHARDS = 200  # small ones, from which on `add` says that there are


def add_images(
    writer: "GalleryWriter",
    sources: Sources,
    backbone: "Backbone",
    loading: LoadingOptions,
    adding: AddingOptions,
    feedback: "Feedback | None" = None,
    elsewhere: "AbstractContextManager[OnCrew | None] | None" = None,
) -> None:
    """Add all images of the sources, rebuild the index if it is stale, and print the report.

    `feedback` is why they are added, `elsewhere` are the workers of a cluster.
    """
    total = sum(1 for _ in sources.files()) if sys.stderr.isatty() else None
    with elsewhere or nullcontext() as workers, Progress(adding_on(workers), total) as progress:
        report = writer.add(
            sources.counted_files(adding.prefix),
            backbone,
            replace=adding.replace,
            strict=adding.strict,
            keep_removed=not adding.again,
            feedback=feedback,
            left_out=sources.leave_out,
            batch_size=loading.batch_size,
            workers=loading.workers,
            elsewhere=workers,
            notice=progress.say,
            progress=progress,
        )
    sources.say_passed_over()
    sources.require_some(report.given)
    if report.failed and not len(writer.gallery):
        raise InputError(f"none of {number_of(report.failed, 'image')} could be decoded")
    if writer.index_is_stale():
        try:
            writer.build_index()
        except InputError as error:  # new images are found without an index
            Progress.say(f"the index was not built again: {error}")
    if (small := writer.small_shards()) >= MANY_SHARDS:
        Progress.say(
            f"searches are slower for {small:,} small shards: `spade-index compact {writer.path}` merges them, and "
            "deletes removed images and earlier snapshots; each `add` merges some"
        )
    click.echo(f"{report}; {counted(writer.gallery)} at snapshot {writer.gallery.snapshot}")


def adding_on(workers: "OnCrew | None") -> str:
    """Return what the progress is of."""
    return "add" if workers is None else f"add, {workers.count} workers"
