"""`spade-index verify`: check a gallery's files, and repair it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spade_index.errors import InputError
from spade_index.wording import number_of

from .cluster_options import OwnClusterOptions
from .options import gallery_argument, takes
from .progress import Progress

if TYPE_CHECKING:  # both take long to import
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.verify import Problem


@click.command()
@gallery_argument
@click.option("--repair", is_flag=True, help="Drop damaged images, name them, and keep the rest usable.")
@takes("cluster", OwnClusterOptions, without=["gpus_per_worker", "replicas"])
def verify(gallery: Path, repair: bool, cluster: OwnClusterOptions) -> None:
    """Check every file of GALLERY against what was committed."""
    from spade_index.gallery.reader import Gallery

    cluster.require()
    if repair:
        _repair(gallery, cluster)
        return
    with Gallery(gallery) as opened:
        if problems := _problems(opened, cluster):
            raise InputError(
                f"{gallery}: {number_of(len(problems), 'problem')}; restore the files from a copy, build it again, or "
                f"`spade-index verify {gallery} --repair` drops what is damaged"
            )
        click.echo(f"{gallery}: {number_of(len(opened), 'image')} at snapshot {opened.snapshot}, no problems")


def _problems(gallery: "Gallery", cluster: OwnClusterOptions) -> list["Problem"]:
    """Find and print all problems."""
    problems = []
    with cluster.checking(gallery) as there, Progress("verify", gallery.bytes_to_check(), unit="B") as progress:
        for problem in gallery.problems(progress, there):
            problems.append(problem)
            progress.say(problem.line)
    return problems


def _repair(path: Path, cluster: OwnClusterOptions) -> None:
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(path) as writer:
        problems = _problems(writer.gallery, cluster)
        images = len(writer.gallery) if any(problem.lost for problem in problems) else 0
        with Progress("repair", images) as progress:
            dropped = writer.repair(problems, progress.say, progress)
        now = f"{number_of(len(writer.gallery), 'image')} at snapshot {writer.gallery.snapshot}"
    repaired = f"{number_of(dropped, 'image')} dropped; " if problems else ""
    click.echo(f"{path}: {repaired}{now}, no problems")
