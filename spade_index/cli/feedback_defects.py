"""`spade-index feedback --missed` and `--defect KIND`: make the places of images known defects of a gallery."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spade_index.errors import InputError

from .backbone_options import BackboneOptions
from .lines import printable
from .options import LoadingOptions
from .progress import Progress
from .region_rules import limit_sources
from .sources import Sources

if TYPE_CHECKING:
    from spade_index.gallery.store.defect import NewDefect

FOUND = {
    "region": "its regions",
    "box": "where --box says",
    "highest": "the place of its highest score, for it has no region: --box names another",
}


def add_defects(
    path: Path,
    found: Sources,
    backbone: BackboneOptions,
    device: str,
    loading: LoadingOptions,
    roi: Path | None,
    prefix: str,
    said: tuple[str, str, str],
    kind: str,
    boxes: list[tuple[tuple[float, float, float, float], str]],
) -> None:
    """Make the places of images known defects, and print the id of each image.

    `said` are the verdict, who says so, and the note; `kind` is that of all defects, unless there are boxes, each with
    a kind. Raises InputError where an image was left out.
    """
    from spade_index.gallery.store.record import Feedback
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method.named_defects import MOST_PLACES, DefectNamer

    from .batches import Batches

    loading.limit_decoding()
    found.require_images()
    if boxes and sum(1 for _ in found.files()) != 1:
        raise InputError("--box is a place in one image: give one")
    if len(boxes) > MOST_PLACES:
        raise InputError(f"--box is given {len(boxes)} times: {MOST_PLACES} is the most")
    left_out = 0
    with GalleryWriter(path) as writer, Progress("feedback") as progress:
        limit_sources(found, writer.gallery, roi)
        namer = DefectNamer(writer.gallery, backbone.load(device, writer.gallery), kind, boxes)
        batches = Batches(found, writer.settings.preprocessing, loading, progress)
        for batch in batches:
            for named in namer.named(batch):
                id = prefix + named.file.id
                try:
                    writer.add_known_defects(Feedback(*said), id, named.digest, named.defects)
                except InputError as error:
                    left_out += 1
                    progress.say(f"skipped {named.file.path}: {error}")
                else:
                    where = FOUND[named.defects[0].place.found]
                    what = _called(named.defects)
                    click.echo(printable(f"noted as {what}: {id} (`--undo` with this id takes it back); {where}"))
                batches.answered()
    if failed := batches.failed + left_out:
        raise InputError(f"{failed:,} of the images were left out")


def _called(defects: "Sequence[NewDefect]") -> str:
    kinds = list(dict.fromkeys(defect.kind for defect in defects if defect.kind))
    if len(kinds) > 1:
        return f"known defects of the kinds {', '.join(kinds)}"
    return " of kind ".join(["a known defect", *kinds])
