"""`spade-index list`: name the images of a gallery."""

from pathlib import Path

import click

from .options import gallery_argument
from .strict import strict_json
from .values import WHOLE

SHOWN = ("id", "path", "size", "mtime_ns", "width", "height", "added", "removed")


@click.command(name="list")
@gallery_argument
@click.option("--long", "long_", is_flag=True, help="Also size in pixels, snapshot, and path of the original.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@click.option("--snapshot", type=WHOLE, help="As of this snapshot [the latest]")
@click.option("--removed", is_flag=True, help="List removed images that `restore` can take back.")
def list_(gallery: Path, long_: bool, as_json: bool, snapshot: int | None, removed: bool) -> None:
    """Name the images of GALLERY, one a line."""
    from spade_index.gallery.reader import Gallery

    if removed and snapshot is not None:
        raise click.UsageError("--removed cannot be combined with --snapshot: it lists what can be restored now")
    with Gallery(gallery, snapshot) as opened:
        for row in opened.removed_images() if removed else opened.images():
            if as_json:
                click.echo(strict_json({name: getattr(row, name) for name in SHOWN} | {"digest": row.digest.hex()}))
                continue
            click.echo(f"{row.id}\t{row.width}x{row.height}\t{row.added}\t{row.path}" if long_ else row.id)
