"""`spade-index remove` and `spade-index restore`: remove images from a gallery, and undo it."""

from pathlib import Path

import click

from .options import gallery_argument
from .values import TEXT

ids_argument = click.argument("ids", metavar="ID...", type=TEXT, nargs=-1, required=True)


@click.command()
@gallery_argument
@ids_argument
def remove(gallery: Path, ids: tuple[str, ...]) -> None:
    """Remove images by ID, all of them or none. They keep their disk space, and can be restored, until `compact`."""
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(gallery) as writer:
        snapshot = writer.remove(ids)
        images = f"{len(writer.gallery):,} images at snapshot {snapshot}"
        click.echo(f"{len(set(ids)):,} removed (`restore` takes them back, until `compact`); {images}")


@click.command()
@gallery_argument
@ids_argument
def restore(gallery: Path, ids: tuple[str, ...]) -> None:
    """Restore removed images by ID, all of them or none. `list --removed` names those that can be restored."""
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(gallery) as writer:
        snapshot = writer.restore(ids)
        click.echo(f"{len(set(ids)):,} restored; {len(writer.gallery):,} images at snapshot {snapshot}")
