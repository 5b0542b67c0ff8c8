"""`spade-index feedback`: what a person says of verdicts, noted in the gallery, and undone."""

import getpass
from datetime import UTC, datetime
from pathlib import Path

import click

from spade_index.errors import InputError

from .adding import add_images
from .backbone_options import BackboneOptions
from .counts import counted
from .feedback_defects import add_defects
from .feedback_history import FilterOptions, list_feedback
from .feedback_preview import preview_false_alarm
from .judging import keep_calibrated
from .lines import printable
from .options import AddingOptions, LoadingOptions, device_option, gallery_argument, takes
from .region_rules import limit_sources, own_roi_option
from .sources import SourceOptions, Sources
from .values import PATH, REAL, TEXT

FALSE_ALARM, MISSED, DEFECT = "false_alarm", "missed", "defect"
MOST_NOTE, MOST_NAME = 1000, 200  # characters


@click.command()
@gallery_argument
@click.argument("images", type=PATH, nargs=-1)
@click.option("--false-alarm", is_flag=True, help="IMAGES are fine: add them to the gallery, and note why.")
@click.option("--missed", is_flag=True, help="IMAGES have defects that were not found: know these from now on.")
@click.option(
    "--defect",
    metavar="KIND",
    type=TEXT,
    multiple=True,
    help="IMAGES have defects of this kind: know these from now on; repeatable, once for each --box.",
)
@click.option(
    "--kind",
    type=TEXT,
    multiple=True,
    help="With --missed: of which kind the defects are, repeatable like --defect; with --list: only this kind.",
)
@click.option(
    "--box",
    type=REAL,
    nargs=4,
    multiple=True,
    metavar="X Y WIDTH HEIGHT",
    help="Where a defect of the one image lies, in its pixels; repeatable [its regions, or the place of its highest "
    "score]",
)
@click.option(
    "--preview",
    type=PATH,
    multiple=True,
    metavar="IMAGES",
    help="With --false-alarm: change nothing, and say which verdicts of IMAGES would change; repeatable.",
)
@click.option("--note", type=TEXT, default="", help="Why, in words.")
@click.option("--by", type=TEXT, help="Who says so [the user's name]")
@click.option("--list", "list_", is_flag=True, help="List the feedback, the oldest first.")
@click.option("--json", "as_json", is_flag=True, help="With --list: one JSON object per image.")
@takes("filters", FilterOptions)
@click.option("--undo", metavar="ID", type=TEXT, help="Take the feedback of this id back.")
@takes("backbone", BackboneOptions)
@device_option
@takes("sources", SourceOptions)
@takes("loading", LoadingOptions)
@own_roi_option
def feedback(
    gallery: Path,
    images: tuple[Path, ...],
    false_alarm: bool,
    missed: bool,
    defect: tuple[str, ...],
    kind: tuple[str, ...],
    box: tuple[tuple[float, float, float, float], ...],
    preview: tuple[Path, ...],
    note: str,
    by: str | None,
    list_: bool,
    as_json: bool,
    filters: FilterOptions,
    undo: str | None,
    backbone: BackboneOptions,
    device: str,
    sources: SourceOptions,
    loading: LoadingOptions,
    roi: Path | None,
) -> None:
    """Say that IMAGES are fine, or which defects they have; list such feedback, or undo it.

    With --false-alarm the images become normal images of GALLERY. With --missed and --defect their regions become known
    defects, which later queries name, and which are never compared with as normal. Ids begin with `feedback/` and the
    time. --preview tells beforehand which verdicts --false-alarm would change.
    """
    named = missed or bool(defect)
    if false_alarm + missed + bool(defect) + list_ + (undo is not None) != 1:
        raise click.UsageError("give one of --false-alarm, --missed, --defect KIND, --list and --undo ID")
    if bool(images) != (false_alarm or named):
        raise click.UsageError("IMAGES belong to --false-alarm, --missed and --defect, which need some")
    if filters.given and not list_:
        raise click.UsageError("--contains, --verdict, --who, --since, --until and --undone belong to --list")
    if (kind and not (missed or list_)) or (box and not named):
        raise click.UsageError("--kind belongs to --missed or --list, and --box to --missed or --defect")
    kinds = kind or defect or ("",)
    if len(kinds) > 1 and len(kinds) != len(box):
        raise click.UsageError("give one kind, or one for each --box")
    if preview and not false_alarm:
        raise click.UsageError("--preview belongs to --false-alarm: known defects change no verdict")
    if preview:
        judged = Sources(preview, sources)
        preview_false_alarm(gallery, Sources(images, sources), backbone, device, loading, roi, judged)
    elif list_:
        list_feedback(gallery, filters, kind[0] if kind else None, as_json)
    elif undo is not None:
        _undo(gallery, undo)
    else:
        who = _user() if by is None else by
        _require_short("--note", note, MOST_NOTE)
        _require_short("--by", who, MOST_NAME)
        # A camera names all its images alike, so the time tells them apart. Copies are found by their contents.
        prefix = f"feedback/{datetime.now(UTC):%Y%m%dT%H%M%S.%f}/"
        given = Sources(images, sources), backbone, device, loading, roi, prefix
        if false_alarm:
            _add(gallery, *given, who, note)
            return
        if not all(defect) or not all(map(str.isprintable, kinds)):
            raise InputError("the name of a kind of defect must not be empty, and be printable")
        boxes = list(zip(box, kinds if len(kinds) > 1 else kinds * len(box), strict=True))
        add_defects(gallery, *given, (MISSED if missed else DEFECT, who, note), kinds[0], boxes)


def _add(
    path: Path,
    found: Sources,
    backbone: BackboneOptions,
    device: str,
    loading: LoadingOptions,
    roi: Path | None,
    prefix: str,
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
    adding = AddingOptions(prefix=prefix, replace=False, again=True, strict=False)
    with GalleryWriter(path) as writer:
        add_images(writer, found, loaded, loading, adding, Feedback(FALSE_ALARM, who, note))
        for row in writer.gallery.catalog.feedback():
            if row.id.startswith(prefix):
                click.echo(printable(f"noted as a false alarm: {row.id} (`--undo` with this id takes it back)"))
        keep_calibrated(writer, loaded.device)


def _undo(path: Path, id: str) -> None:
    from spade_index.gallery.write.writer import GalleryWriter

    with GalleryWriter(path) as writer:
        told = writer.gallery.catalog.defects_told(id)
        snapshot = writer.undo_feedback(id)
        if told is not None:
            click.echo(printable(f"{id} is no known defect any more; the normal images are as they were"))
            return
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
