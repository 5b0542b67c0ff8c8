"""`spade-index remove` and `spade-index restore`: remove images from a gallery, and undo it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .counts import counted
from .options import gallery_argument
from .values import TEXT

if TYPE_CHECKING:  # it takes long to import
    from spade_index.gallery.reader import Gallery

ids_argument = click.argument("ids", metavar="ID...", type=TEXT, nargs=-1, required=True)


@click.command()
@gallery_argument
@ids_argument
def remove(gallery: Path, ids: tuple[str, ...]) -> None:
    """Remove images by ID, all of them or none. They keep their disk space, and can be restored, until `compact`.

    In a gallery of tiles, the ID of a picture removes all of its tiles, PICTURE@LEFT,TOP one.
    """
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(gallery) as writer:
        before = len(writer.gallery)
        snapshot = writer.remove(ids)
        removed = counted_ids(ids, writer.gallery, before - len(writer.gallery))
        there = f"{counted(writer.gallery)} at snapshot {snapshot}"
        click.echo(f"{removed} removed (`restore` takes them back, until `compact`); {there}")


@click.command()
@gallery_argument
@ids_argument
def restore(gallery: Path, ids: tuple[str, ...]) -> None:
    """Restore removed images by ID, all of them or none. `list --removed` names those that can be restored.

    In a gallery of tiles, the ID of a picture restores all of its removed tiles, PICTURE@LEFT,TOP one.
    """
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(gallery) as writer:
        before = len(writer.gallery)
        snapshot = writer.restore(ids)
        restored = counted_ids(ids, writer.gallery, len(writer.gallery) - before)
        click.echo(f"{restored} restored; {counted(writer.gallery)} at snapshot {snapshot}")


def counted_ids(ids: tuple[str, ...], gallery: "Gallery", images: int) -> str:
    """Return how many images were named, and how many tiles they are."""
    named = f"{len(set(ids)):,}"
    return named if gallery.settings.preprocessing.tile is None else f"{named} ({counted(gallery, images)})"
