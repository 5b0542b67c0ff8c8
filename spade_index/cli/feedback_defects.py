"""`spade-index feedback --missed` and `--defect KIND`: make the places of images known defects of a gallery."""

from pathlib import Path

import click

from spade_index.errors import InputError

from .backbone_options import BackboneOptions
from .lines import printable
from .options import LoadingOptions
from .progress import Progress
from .region_rules import limit_sources
from .sources import Sources

FOUND = {
    "region": "its regions",
    "box": "the box",
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
    box: tuple[float, float, float, float] | None,
) -> None:
    """Make the places of images known defects, and print the id of each image.

    `said` are the verdict, who says so, and the note. Raises InputError where an image was left out.
    """
    from spade_index.gallery.store.record import Feedback
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method.named_defects import DefectNamer

    from .batches import Batches

    loading.limit_decoding()
    found.require_images()
    if box is not None and sum(1 for _ in found.files()) != 1:
        raise InputError("--box is a place in one image: give one")
    left_out = 0
    with GalleryWriter(path) as writer, Progress("feedback") as progress:
        limit_sources(found, writer.gallery, roi)
        namer = DefectNamer(writer.gallery, backbone.load(device, writer.gallery), [] if box is None else [box])
        batches = Batches(found, writer.settings.preprocessing, loading, progress)
        for batch in batches:
            for named in namer.named(batch):
                id = prefix + named.file.id
                try:
                    writer.add_known_defects(Feedback(*said), id, kind, named.digest, named.defects)
                except InputError as error:
                    left_out += 1
                    progress.say(f"skipped {named.file.path}: {error}")
                else:
                    where = FOUND[named.defects[0].place.found]
                    what = f"a known defect of kind {kind}" if kind else "a known defect"
                    click.echo(printable(f"noted as {what}: {id} (`--undo` with this id takes it back); {where}"))
                batches.answered()
    if failed := batches.failed + left_out:
        raise InputError(f"{failed:,} of the images were left out")
