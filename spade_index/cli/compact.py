"""`spade-index compact`: free the disk space of removed images."""

from pathlib import Path

import click

from .options import gallery_argument
from .progress import Progress


@click.command()
@gallery_argument
def compact(gallery: Path) -> None:
    """Free the space of removed images and merge small shards. Removed images and earlier snapshots are forgotten."""
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(gallery) as writer:
        with Progress("compact", writer.images_to_move()) as progress:
            freed = writer.compact(progress)
        when = (
            "freed"
            if writer.delete_unused()
            else "to be freed by the next command that writes after readers have closed"
        )
        click.echo(
            f"{len(writer.gallery):,} images at snapshot {writer.gallery.snapshot}, {freed / 1e6:,.1f} MB {when}"
        )
