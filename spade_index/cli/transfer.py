"""`spade-index push` and `pull`: copy a gallery to an object store, and back."""

from pathlib import Path

import click

from spade_index.wording import number_of

from .options import gallery_argument
from .progress import Progress
from .values import TEXT

url_argument = click.argument("url", type=TEXT)


@click.command()
@gallery_argument
@url_argument
def push(gallery: Path, url: str) -> None:
    """Copy the last commit of GALLERY to URL: s3://BUCKET/PREFIX, gs://, az:// or file:///FOLDER.

    What is there already is not sent again, and readers see the gallery of before until all is there. Credentials are
    those of the environment.
    """
    from spade_index.gallery.location import Location
    from spade_index.gallery.remote.push import Push

    location = Location.parse(url)
    with Push(gallery, location) as push:
        sent = push.bytes_to_send
        with Progress("push", sent, unit="B") as progress:
            push.send(progress)
        kept = push.bytes - sent
        click.echo(
            f"{location}: {number_of(push.images, 'image')} at snapshot {push.state.snapshot}, "
            f"{sent / 1e6:,.1f} MB sent, {kept / 1e6:,.1f} MB there already"
        )


@click.command()
@url_argument
@gallery_argument
def pull(url: str, gallery: Path) -> None:
    """Copy the gallery at URL to the new folder GALLERY, or over an earlier state of it there.

    Every byte is checked. An interrupted pull is carried on by the same command.
    """
    from spade_index.gallery.location import Location
    from spade_index.gallery.remote.pull import Pull

    with Pull(Location.parse(url), gallery) as pull:
        with Progress("pull", pull.bytes, unit="B") as progress:
            came = pull.fetch(progress)
        kept = pull.bytes - came
        click.echo(
            f"{gallery}: {number_of(pull.images, 'image')} at snapshot {pull.state.snapshot}, "
            f"{came / 1e6:,.1f} MB received, {kept / 1e6:,.1f} MB there already"
        )
