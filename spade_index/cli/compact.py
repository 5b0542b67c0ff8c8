"""`spade-index compact`: free the disk space of removed images, and store maps in fewer bytes, or levels."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .backbone_options import BackboneOptions
from .counts import counted
from .options import device_option, gallery_argument, takes
from .parsing import whole_numbers
from .progress import Progress
from .values import CODEC

if TYPE_CHECKING:  # they take long to import
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method.storage_loss import StorageLoss


@click.command()
@gallery_argument
@click.option(
    "--maps",
    type=CODEC,
    help="Store feature maps so from now on, for good: int8 takes half of the bytes of float16, int4 a quarter, pq a "
    "twentieth. pq is trained on the gallery's own images, and serves the levels best that are stored then: combine it "
    "with --levels tuned.",
)
@click.option(
    "--levels",
    help="Store only these levels of feature maps from now on, for good: comma-separated numbers, 0 the finest, or "
    "`tuned`: those that the gallery was tuned to. No search can use the others any more.",
)
@click.option("--no-measure", is_flag=True, help="Do not measure what --maps loses on synthetic defects.")
@takes("backbone", BackboneOptions, without=["levels"])  # here, they are those to keep
@device_option
def compact(
    gallery: Path,
    maps: str | None,
    levels: str | None,
    no_measure: bool,
    backbone: BackboneOptions,
    device: str,
) -> None:
    """Free the space of removed images and merge small shards. Removed images and earlier snapshots are forgotten.

    A backbone is needed with --maps alone, to measure what is lost.
    """
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(gallery) as writer:
        kept = _levels(writer.gallery, levels)
        moving = writer.images_to_move(maps, kept)
        going_on, before = writer.gallery.catalog.transcoding, writer.gallery.storage
        coarser = going_on or maps not in (None, writer.gallery.codec)
        loss = _measured(writer, backbone, device) if coarser and not no_measure else None
        with Progress("compact", moving) as progress:
            freed = writer.compact(progress, maps=maps, levels=kept)
        when = (
            "freed"
            if writer.delete_unused()
            else "to be freed by the next command that writes after readers have closed"
        )
        click.echo(f"{counted(writer.gallery)} at snapshot {writer.gallery.snapshot}, {freed / 1e6:,.1f} MB {when}")
        if loss is not None:
            click.echo(f"maps as {writer.gallery.codec}: {loss.after(writer.gallery)}")
        if writer.gallery.storage.levels != before.levels:
            stored = ", ".join(map(str, writer.gallery.stored_levels))
            click.echo(f"levels {stored} are stored: searches that compare others need a gallery that is built again")
            if not coarser:  # `levels_to_keep` refuses to drop a level that the gallery is searched by
                click.echo(
                    "nothing is lost: the gallery's own settings compare stored levels alone, and answer as before"
                )
        if going_on or writer.gallery.storage != before:
            scores = "scores have changed" if coarser else "calibrations are forgotten"
            click.echo(f"{scores}: `spade-index calibrate {gallery}` finds the thresholds again")


def _levels(gallery: "Gallery", levels: str | None) -> tuple[int, ...] | None:
    """Return the levels to keep. Raises InputError."""
    from spade_index.gallery.write.levels import tuned_levels

    return None if levels is None else tuned_levels(gallery) if levels == "tuned" else whole_numbers("levels", levels)


def _measured(writer: "GalleryWriter", backbone: BackboneOptions, device: str) -> "StorageLoss | None":
    """Measure how well the gallery does before its maps are stored otherwise; None, and say why, if that cannot be."""
    from spade_index.errors import BackboneError, InputError
    from spade_index.method.storage_loss import StorageLoss

    if writer.gallery.catalog.transcoding:
        Progress.say("the loss is not measured: an interrupted `compact` has stored some maps already")
        return None
    try:
        loaded = backbone.load(device, writer.gallery)
        writer.settings.require_equal(loaded.settings, str(writer.path))
        Progress.note("measuring on synthetic defects")
        return StorageLoss(writer.gallery, loaded)
    except (BackboneError, InputError) as error:
        Progress.say(f"the loss is not measured: {error}")
        return None
