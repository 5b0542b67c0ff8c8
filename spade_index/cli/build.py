"""`spade-index build`: create a gallery."""

from pathlib import Path

import click

from .adding import add_images
from .backbone_options import BackboneOptions
from .options import (
    AddingOptions,
    LoadingOptions,
    device_option,
    gallery_argument,
    images_argument,
    preset_option,
    takes,
)
from .sources import require_images


@click.command()
@images_argument
@gallery_argument
@takes("backbone", BackboneOptions)
@preset_option
@device_option
@takes("loading", LoadingOptions)
@takes("adding", AddingOptions)
def build(
    images: Path,
    gallery: Path,
    backbone: BackboneOptions,
    preset: str | None,
    device: str,
    loading: LoadingOptions,
    adding: AddingOptions,
) -> None:
    """Create GALLERY from normal IMAGES (a folder, a tar archive, a text list or one file), or carry on building it."""
    from spade_index.gallery.reader import CATALOG, Gallery
    from spade_index.gallery.write.writer import GalleryWriter

    require_images([images])
    if (gallery / CATALOG).exists():
        with Gallery(gallery) as begun:
            loaded = backbone.load(device, begun, preset)
    else:
        loaded = backbone.load(device, preset=preset)
    with GalleryWriter(gallery, loaded.settings, backbone.weights) as writer:
        add_images(writer, [images], loaded, loading, adding)
