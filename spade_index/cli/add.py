"""`spade-index add`: add images to a gallery."""

from pathlib import Path

import click

from .adding import add_images
from .backbone_options import BackboneOptions
from .cluster_options import ClusterOptions
from .options import AddingOptions, LoadingOptions, device_option, gallery_argument, many_images_argument, takes
from .region_rules import limit_sources, own_roi_option
from .sources import SourceOptions, Sources


@click.command()
@gallery_argument
@many_images_argument
@takes("backbone", BackboneOptions)
@device_option
@takes("sources", SourceOptions)
@takes("loading", LoadingOptions)
@takes("adding", AddingOptions)
@takes("cluster", ClusterOptions)
@own_roi_option
def add(
    gallery: Path,
    images: tuple[Path, ...],
    backbone: BackboneOptions,
    device: str,
    sources: SourceOptions,
    loading: LoadingOptions,
    adding: AddingOptions,
    cluster: ClusterOptions,
    roi: Path | None,
) -> None:
    """Add normal IMAGES (as in `build`, several) to GALLERY."""
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.write.writer import GalleryWriter

    from .judging import keep_calibrated

    cluster.require()
    loading.limit_decoding()
    found = Sources(images, sources)
    found.require_images()
    with Gallery(gallery) as recorded:
        limit_sources(found, recorded, roi)
        loaded = backbone.load(device, recorded)
    with cluster.connected(), GalleryWriter(gallery) as writer:
        weights = str(backbone.weights or "") or writer.gallery.catalog.meta("weights_file")
        add_images(writer, found, loaded, loading, adding, elsewhere=cluster.workers(writer, loaded, weights))
        keep_calibrated(writer, loaded.device, cluster.searching(loaded))
