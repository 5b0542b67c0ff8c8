"""`spade-index feedback --false-alarm --preview IMAGES`: which verdicts would change, found out on a copy."""

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

if TYPE_CHECKING:  # both take long to import
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.reader import Gallery

VERDICTS = {True: "anomalous", False: "normal", None: "without a verdict"}


def preview_false_alarm(
    path: Path,
    found: Sources,
    backbone: BackboneOptions,
    device: str,
    loading: LoadingOptions,
    roi: Path | None,
    judged: Sources,
) -> None:
    """Add images to a copy of a gallery, judge others by both, and print the verdicts that differ.

    Raises InputError if the gallery gives no verdicts, or an image cannot be decoded.
    """
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.trial import trial_copy
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method.judgement import carry_on
    from spade_index.method.tuned import calibration_for, tuned_search

    loading.limit_decoding()
    found.require_images()
    judged.require_images()
    with Gallery(path) as gallery:
        if calibration_for(gallery, search := tuned_search(gallery)) is None:
            raise InputError(f"{path}: not calibrated, so it gives no verdicts: `spade-index calibrate {path}`")
        limit_sources(found, gallery, roi)
        limit_sources(judged, gallery, None)
        loaded = backbone.load(device, gallery)
        with trial_copy(path, path.resolve().parent) as copy:
            with GalleryWriter(copy) as writer, Progress("preview") as progress:
                report = writer.add(
                    found.counted_files("preview/"),
                    loaded,
                    keep_removed=False,
                    batch_size=loading.batch_size,
                    workers=loading.workers,
                    notice=progress.say,
                    progress=progress,
                )
                carry_on(writer, search, device=loaded.device)
            click.echo(f"on a copy: {report}")
            with Gallery(copy) as changed:
                _compare(gallery, changed, loaded, judged, loading)


def _compare(
    before: "Gallery", after: "Gallery", backbone: "Backbone", judged: Sources, loading: LoadingOptions
) -> None:
    from spade_index.method.detection import Question
    from spade_index.method.detector import Detector
    from spade_index.method.replay import judged_by_each

    from .batches import Batches

    detectors = [Detector(gallery, backbone) for gallery in (before, after)]
    total = differing = 0
    with Progress("replay") as progress:
        batches = Batches(judged, before.settings.preprocessing, loading, progress)
        judgements = judged_by_each(detectors, batches, lambda detector, image: Question())
        for picture, (first, second) in judgements:
            total += 1
            if first.anomalous != second.anomalous:
                differing += 1
                verdicts = f"{VERDICTS[first.anomalous]} now, {VERDICTS[second.anomalous]} afterwards"
                click.echo(printable(f"{picture.file.path}: {verdicts} (score {first.score:.4g}, {second.score:.4g})"))
            batches.answered()
    click.echo(f"{differing:,} of {total:,} verdicts would change; nothing was changed: without --preview it is done")
    if batches.failed:
        raise InputError(f"{batches.failed:,} of the images could not be decoded")
