"""`spade-index feedback`: what a person says of verdicts, noted in the gallery, and undone."""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from spade_index.errors import InputError

from .adding import add_images
from .backbone_options import BackboneOptions
from .counts import counted
from .judging import keep_calibrated
from .lines import printable
from .options import AddingOptions, LoadingOptions, device_option, gallery_argument, takes
from .region_rules import limit_sources, own_roi_option
from .sources import SourceOptions, Sources
from .strict import strict_json
from .values import PATH, TEXT

FALSE_ALARM = "false_alarm"
MOST_NOTE, MOST_NAME = 1000, 200  # characters


@click.command()
@gallery_argument
@click.argument("images", type=PATH, nargs=-1)
@click.option("--false-alarm", is_flag=True, help="IMAGES are fine: add them to the gallery, and note why.")
@click.option("--note", type=TEXT, default="", help="Why, in words.")
@click.option("--by", type=TEXT, help="Who says so [the user's name]")
@click.option("--list", "list_", is_flag=True, help="List the feedback, the oldest first.")
@click.option("--json", "as_json", is_flag=True, help="With --list: one JSON object per image.")
@click.option("--undo", metavar="ID", type=TEXT, help="Remove this image, which feedback added, again.")
@takes("backbone", BackboneOptions)
@device_option
@takes("sources", SourceOptions)
@takes("loading", LoadingOptions)
@own_roi_option
def feedback(
    gallery: Path,
    images: tuple[Path, ...],
    false_alarm: bool,
    note: str,
    by: str | None,
    list_: bool,
    as_json: bool,
    undo: str | None,
    backbone: BackboneOptions,
    device: str,
    sources: SourceOptions,
    loading: LoadingOptions,
    roi: Path | None,
) -> None:
    """Say that IMAGES were called anomalous and are fine; list such feedback, or undo it.

    The images become normal images of GALLERY, under ids that begin with `feedback/` and the time.
    """
    if false_alarm + list_ + (undo is not None) != 1:
        raise click.UsageError("give one of --false-alarm, --list and --undo ID")
    if bool(images) != false_alarm:
        raise click.UsageError("--false-alarm needs IMAGES" if false_alarm else "IMAGES belong to --false-alarm")
    if list_:
        _list(gallery, as_json)
    elif undo is not None:
        _undo(gallery, undo)
    else:
        who = _user() if by is None else by
        _require_short("--note", note, MOST_NOTE)
        _require_short("--by", who, MOST_NAME)
        _add(gallery, Sources(images, sources), backbone, device, loading, roi, who, note)


def _add(
    path: Path,
    found: Sources,
    backbone: BackboneOptions,
    device: str,
    loading: LoadingOptions,
    roi: Path | None,
    who: str,
    note: str,
) -> None:
    """Add images as `add` does, with a note, and print the id of each."""
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.store.record import Feedback
    from spade_index.gallery.write.writer import GalleryWriter

    loading.limit_decoding()
    found.require_images()
    with Gallery(path) as recorded:
        limit_sources(found, recorded, roi)
        loaded = backbone.load(device, recorded)
    # A camera names all its images alike, so the time tells them apart. Copies are found by their contents.
    prefix = f"feedback/{datetime.now(UTC):%Y%m%dT%H%M%S.%f}/"
    adding = AddingOptions(prefix=prefix, replace=False, again=True, strict=False)
    with GalleryWriter(path) as writer:
        add_images(writer, found, loaded, loading, adding, Feedback(FALSE_ALARM, who, note))
        for row in writer.gallery.catalog.feedback():
            if row.id.startswith(prefix):
                click.echo(printable(f"noted as a false alarm: {row.id} (`--undo` with this id takes it back)"))
        keep_calibrated(writer, loaded.device)


def _list(path: Path, as_json: bool) -> None:
    from spade_index.gallery.feedback import is_there
    from spade_index.gallery.reader import Gallery

    with Gallery(path) as opened:
        for row in opened.catalog.feedback():
            values: dict[str, Any] = vars(row) | {"there": is_there(opened, row.id)}
            if as_json:
                click.echo(strict_json(values))
            else:
                state = "in the gallery" if values["there"] else "removed"
                click.echo("\t".join(map(printable, (row.id, row.verdict, row.given, row.who, state, row.note))))


def _undo(path: Path, id: str) -> None:
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(path) as writer:
        snapshot = writer.undo_feedback(id)
        there = f"{counted(writer.gallery)} at snapshot {snapshot}"
        click.echo(printable(f"{id} removed again (`restore` takes it back, until `compact`); {there}"))
        keep_calibrated(writer)  # so that verdicts are those of before


def _user() -> str:
    try:
        return TEXT.convert(getpass.getuser(), None, None)
    except (KeyError, OSError):  # as in a container whose user has no name
        return ""


def _require_short(option: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InputError(f"{option} is longer than {most:,} characters")
