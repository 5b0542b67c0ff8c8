"""`spade-index query`: score images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spade_index.errors import InputError

from .answer_files import AnswerFileOptions, AnswerFiles
from .cache_options import local
from .cluster_options import SearchClusterOptions
from .detector_options import DetectorOptions
from .options import any_gallery_argument, many_images_argument, takes
from .outputs import require_writable
from .progress import Progress
from .region_rules import limit_sources
from .sources import SourceOptions, Sources
from .strict import strict_json
from .values import PATH, WHOLE

if TYPE_CHECKING:  # it takes long to import
    from spade_index.gallery.location import Location


@click.command()
@any_gallery_argument
@many_images_argument
@click.option("--out", type=PATH, help="Folder for score maps, heat maps, masks and report.html.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@takes("files", AnswerFileOptions)
@click.option("--snapshot", type=WHOLE, help="Compare with the gallery as of this snapshot [the latest]")
@takes("sources", SourceOptions)
@takes("how", DetectorOptions)
@takes("cluster", SearchClusterOptions)
def query(
    gallery: "Path | Location",
    images: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    files: AnswerFileOptions,
    snapshot: int | None,
    sources: SourceOptions,
    how: DetectorOptions,
    cluster: SearchClusterOptions,
) -> None:
    """Score IMAGES (as in `build`, several) against GALLERY, and show where they are not normal.

    GALLERY may be a folder of galleries: each image is then scored by the one that it belongs to.
    """
    from .answers import answer_images, line_of
    from .routed import query_root

    cluster.require()
    loading = cluster.decoding(how.loading)
    loading.limit_decoding()
    many = isinstance(gallery, Path) and is_root(gallery)
    if many and (out or how.roi or how.threshold is not None or snapshot is not None or cluster.ray is not None):
        raise InputError(
            f"{gallery} is a folder of galleries: --out, --threshold, --snapshot, --roi and --ray need one gallery"
        )
    require_writable(files.files, [out], inputs=[*images, *local(gallery)])
    found = Sources(images, sources)
    found.require_images()
    if isinstance(gallery, Path) and many:
        failed = query_root(gallery, found, how.load, how.detector, how.loading, files, as_json)
        require_decoded(failed)
        return
    with (
        how.cache.open(gallery, snapshot, to_search=True) as opened,
        cluster.searching(how.device, how.kernel, how.cache) as elsewhere,
    ):
        limit_sources(found, opened, how.roi)
        detector = how.detector(opened, how.load(opened), elsewhere)
        if detector.search.maps != "never":
            Progress.note(f"pixel search by {detector.kernel}")

        def show(answer: dict[str, Any]) -> None:
            if not files.to_stdout:
                click.echo(strict_json(answer) if as_json else line_of(answer))

        with AnswerFiles(files) as written:
            failed = answer_images(detector, found, loading, out, written, show)
        cluster.say_travelled(detector)
    require_decoded(failed)


def is_root(path: Path) -> bool:
    """Return whether a folder is no gallery, but holds some."""
    from spade_index.images.folders import CATALOG

    return not (path / CATALOG).exists() and next(path.glob(f"*/{CATALOG}"), None) is not None


def require_decoded(failed: int) -> None:
    """Raise InputError if images could not be decoded."""
    if failed:
        raise InputError(f"{failed:,} of the images could not be decoded")
