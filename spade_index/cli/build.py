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
    tune_option,
)
from .pixel_options import PixelOptions
from .sources import files_of, require_images


@click.command()
@images_argument
@gallery_argument
@takes("backbone", BackboneOptions)
@takes("pixels", PixelOptions)
@preset_option
@device_option
@takes("loading", LoadingOptions)
@takes("adding", AddingOptions)
@tune_option
def build(
    images: Path,
    gallery: Path,
    backbone: BackboneOptions,
    pixels: PixelOptions,
    preset: str | None,
    device: str,
    loading: LoadingOptions,
    adding: AddingOptions,
    no_tune: bool,
) -> None:
    """Create GALLERY from normal IMAGES (a folder, a tar archive, a text list or one file), or carry on building it.

    It ends with `tune` and `calibrate`, from 20 images on.
    """
    from spade_index.gallery.reader import CATALOG, Gallery
    from spade_index.gallery.write.writer import GalleryWriter

    from .judging import judge_gallery, sized_backbone

    require_images([images])
    if (gallery / CATALOG).exists():
        with Gallery(gallery) as begun:
            pixels.require_equal(begun)
            loaded = backbone.load(device, begun, preset)
    else:
        found = pixels.found_in(files_of([images]))
        if no_tune or preset is not None or not backbone.leaves_size_open:
            loaded = backbone.load(device, preset=preset, pixels=found)
        else:
            loaded = sized_backbone(backbone, device, files_of([images]), found)
    with GalleryWriter(gallery, loaded.settings, backbone.weights) as writer:
        add_images(writer, [images], loaded, loading, adding)
        if not no_tune and preset is None:
            judge_gallery(writer, loaded)
