"""`spade-index list`: name the images of a gallery."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spade_index.wording import number_of

from .cache_options import CacheOptions
from .lines import printable
from .options import any_gallery_argument, takes
from .strict import strict_json
from .values import WHOLE

if TYPE_CHECKING:  # it takes long to import
    from spade_index.gallery.catalog.tables import ImageRow
    from spade_index.gallery.location import Location

SHOWN = ("id", "path", "size", "mtime_ns", "width", "height", "added", "removed")


@click.command(name="list")
@any_gallery_argument
@click.option(
    "--long", "long_", is_flag=True, help="Also size in pixels, number of tiles, snapshot, and path of the original."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@click.option("--snapshot", type=WHOLE, help="As of this snapshot [the latest]")
@click.option("--removed", is_flag=True, help="List removed images that `restore` can take back.")
@click.option("--tiles", is_flag=True, help="Name each tile, in place of the pictures.")
@takes("cache", CacheOptions)
def list_(
    gallery: "Path | Location",
    long_: bool,
    as_json: bool,
    snapshot: int | None,
    removed: bool,
    tiles: bool,
    cache: CacheOptions,
) -> None:
    """Name the images of GALLERY, one a line; of tiles, the pictures that they are cut from."""

    if removed and snapshot is not None:
        raise click.UsageError("--removed cannot be combined with --snapshot: it lists what can be restored now")
    with cache.open(gallery, snapshot) as opened:
        rows = opened.removed_images() if removed else opened.images()
        tiled = opened.settings.preprocessing.tile is not None
        for values in _pictures(rows) if tiled and not tiles else map(_image, rows):
            if as_json:
                click.echo(strict_json(values))
                continue
            line = [values["id"]]
            if long_:
                tiles_of = [number_of(values["tiles"], "tile")] if "tiles" in values else []
                line += [f"{values['width']}x{values['height']}", *tiles_of, str(values["added"]), values["path"]]
            click.echo("\t".join(map(printable, line)))


def _image(row: "ImageRow") -> dict[str, Any]:
    return {name: getattr(row, name) for name in SHOWN} | {"digest": row.digest.hex()}


def _pictures(rows: "Iterable[ImageRow]") -> Iterator[dict[str, Any]]:
    """Yield the pictures that these are tiles of, with their numbers of tiles, in the order of the first ones."""
    from spade_index.images.tiles import picture_of

    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        picture = picture_of(row.id)
        values = found.setdefault(picture, {name: getattr(row, name) for name in SHOWN} | {"id": picture, "tiles": 0})
        values["tiles"] += 1
    yield from found.values()
