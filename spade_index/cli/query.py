"""`spade-index query`: score images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spade_index.errors import InputError
from spade_index.settings import Maps

from .answer_files import AnswerFileOptions, AnswerFiles
from .backbone_options import BackboneOptions
from .cache_options import CacheOptions, local
from .options import (
    KernelOptions,
    LoadingOptions,
    any_gallery_argument,
    device_option,
    false_alarms_option,
    many_images_argument,
    preset_option,
    takes,
)
from .outputs import require_writable
from .progress import Progress
from .region_rules import limit_sources, own_roi_option
from .search_options import SearchOptions, maps_option
from .sources import SourceOptions, Sources
from .strict import strict_json
from .values import PATH, REAL, WHOLE

if TYPE_CHECKING:  # it takes long to import
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.location import Location
    from spade_index.gallery.reader import Gallery
    from spade_index.method.detector import Detector


@click.command()
@any_gallery_argument
@many_images_argument
@click.option("--out", type=PATH, help="Folder for score maps, heat maps, masks and report.html.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@takes("files", AnswerFileOptions)
@click.option("--threshold", type=REAL, help="Call images anomalous above this score [the calibrated one]")
@false_alarms_option
@click.option("--snapshot", type=WHOLE, help="Compare with the gallery as of this snapshot [the latest]")
@own_roi_option
@takes("search", SearchOptions)
@maps_option
@preset_option
@takes("backbone", BackboneOptions)
@device_option
@takes("kernel", KernelOptions)
@takes("sources", SourceOptions)
@takes("loading", LoadingOptions)
@takes("cache", CacheOptions)
def query(
    gallery: "Path | Location",
    images: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    files: AnswerFileOptions,
    threshold: float | None,
    false_alarms: float | None,
    snapshot: int | None,
    roi: Path | None,
    search: SearchOptions,
    maps: Maps | None,
    preset: str | None,
    backbone: BackboneOptions,
    device: str,
    kernel: KernelOptions,
    sources: SourceOptions,
    loading: LoadingOptions,
    cache: CacheOptions,
) -> None:
    """Score IMAGES (as in `build`, several) against GALLERY, and show where they are not normal.

    GALLERY may be a folder of galleries: each image is then scored by the one that it belongs to.
    """
    from spade_index.method.tuned import tuned_search

    from .answers import answer_images, line_of
    from .detecting import detector_of
    from .routed import query_root

    loading.limit_decoding()
    many = isinstance(gallery, Path) and is_root(gallery)
    if many and (out or roi or threshold is not None or snapshot is not None):
        raise InputError(
            f"{gallery} is a folder of galleries: --out, --threshold, --snapshot and --roi need one gallery"
        )
    require_writable(files.files, [out], inputs=[*images, *local(gallery)])
    found = Sources(images, sources)
    found.require_images()
    if isinstance(gallery, Path) and many:

        def made(opened: "Gallery", loaded: "Backbone") -> "Detector":
            settings = search.choice(preset, maps).settings(tuned_search(opened))
            return detector_of(opened, loaded, settings, kernel, false_alarms)

        failed = query_root(
            gallery, found, lambda opened: backbone.load(device, opened, preset), made, loading, files, as_json
        )
        require_decoded(failed)
        return
    with cache.open(gallery, snapshot, to_search=True) as opened:
        limit_sources(found, opened, roi)
        loaded = backbone.load(device, opened, preset)
        settings = search.choice(preset, maps).settings(tuned_search(opened))
        detector = detector_of(opened, loaded, settings, kernel, false_alarms, threshold)
        if settings.maps != "never":
            Progress.note(f"pixel search by {detector.kernel}")

        def show(answer: dict[str, Any]) -> None:
            if not files.to_stdout:
                click.echo(strict_json(answer) if as_json else line_of(answer))

        with AnswerFiles(files) as written:
            failed = answer_images(detector, found, loading, out, written, show)
    require_decoded(failed)


def is_root(path: Path) -> bool:
    """Return whether a folder is no gallery, but holds some."""
    from spade_index.images.folders import CATALOG

    return not (path / CATALOG).exists() and next(path.glob(f"*/{CATALOG}"), None) is not None


def require_decoded(failed: int) -> None:
    """Raise InputError if images could not be decoded."""
    if failed:
        raise InputError(f"{failed:,} of the images could not be decoded")
