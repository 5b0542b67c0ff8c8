"""The commands that look at a gallery: list, info, verify."""

import json
from pathlib import Path

import click

from spade_index.errors import InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.gallery.verify import Problem
from spade_index.gallery.write.writer import GalleryWriter

from .describe import described
from .options import Progress, gallery_argument


@click.command(name="list")
@gallery_argument
@click.option("--long", "long_", is_flag=True, help="Also size in pixels, snapshot, and where the image came from.")
@click.option("--snapshot", type=int, help="As of this snapshot [the latest]")
@click.option("--removed", is_flag=True, help="Those that `restore` can take back instead.")
def list_(gallery: Path, long_: bool, snapshot: int | None, removed: bool) -> None:
    """Name the images of GALLERY, one a line."""

    def line(row: ImageRow) -> str:
        return f"{row.id}\t{row.width}x{row.height}\t{row.added}\t{row.path}" if long_ else row.id

    if removed and snapshot is not None:
        raise click.UsageError("--removed has no --snapshot: what can be restored is what is not there now")
    with Gallery(gallery, snapshot) as opened:
        for row in opened.removed_images() if removed else opened.images():
            click.echo(line(row))


@click.command()
@gallery_argument
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(gallery: Path, as_json: bool) -> None:
    """Describe GALLERY: images, settings, index, thresholds, snapshots."""
    with Gallery(gallery) as opened:
        facts = opened.info()
    click.echo(json.dumps(facts, indent=2) if as_json else described(facts))


@click.command()
@gallery_argument
@click.option("--repair", is_flag=True, help="Drop images that are damaged, name them, and keep the rest usable.")
def verify(gallery: Path, repair: bool) -> None:
    """Check every file of GALLERY against what was committed."""
    if repair:
        _repair(gallery)
        return
    with Gallery(gallery) as opened:
        if problems := _problems(opened):
            raise InputError(
                f"{gallery}: {len(problems):,} problems; restore the files from a copy, build it again, or "
                f"`spade-index verify {gallery} --repair` drops what is damaged"
            )
        click.echo(f"{gallery}: {len(opened):,} images at snapshot {opened.snapshot}, no problems")


def _problems(gallery: Gallery) -> list[Problem]:
    """Find and print all problems."""
    problems = []
    with Progress("verify", gallery.bytes_to_check(), unit="B") as progress:
        for problem in gallery.problems(progress):
            problems.append(problem)
            progress.say(problem.line)
    return problems


def _repair(path: Path) -> None:
    with GalleryWriter(path) as writer:
        problems = _problems(writer.gallery)
        images = len(writer.gallery) if any(problem.lost for problem in problems) else 0
        with Progress("repair", images) as progress:
            dropped = writer.repair(problems, progress.say, progress)
        now = f"{len(writer.gallery):,} images at snapshot {writer.gallery.snapshot}"
    click.echo(f"{path}: {f'{dropped:,} images dropped; ' if problems else ''}{now}, no problems")
