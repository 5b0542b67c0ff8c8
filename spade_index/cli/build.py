"""`spade-index build`: create a gallery."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spade_index.presets import PAPER_MAPS

from .adding import add_images
from .backbone_options import BackboneOptions
from .cluster_options import ClusterOptions
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
from .progress import Progress
from .region_rules import require_same_rule, rule_in
from .roi import found_region, require_new_region, require_region, roi_option, say_turned, set_region
from .sources import SourceOptions, Sources
from .tile_options import TileOptions
from .values import CODEC, TRAINED

if TYPE_CHECKING:  # it takes long to import
    from spade_index.gallery.store.quantizer import Quantized


@click.command()
@images_argument
@gallery_argument
@takes("backbone", BackboneOptions)
@takes("pixels", PixelOptions)
@takes("tiles", TileOptions)
@preset_option
@device_option
@takes("sources", SourceOptions)
@takes("loading", LoadingOptions)
@takes("adding", AddingOptions)
@takes("cluster", ClusterOptions)
@click.option(
    "--maps",
    type=CODEC,
    help="How to store maps [as the gallery does; new: int8, or float16 with --preset]. pq takes a twentieth of "
    "float16; its tables are trained on a sample of IMAGES, at least 20 of them. With fewer, build with int8, and run "
    "`compact --maps pq` when there are more.",
)
@roi_option
@tune_option
def build(
    images: Path,
    gallery: Path,
    backbone: BackboneOptions,
    pixels: PixelOptions,
    tiles: TileOptions,
    preset: str | None,
    device: str,
    sources: SourceOptions,
    loading: LoadingOptions,
    adding: AddingOptions,
    cluster: ClusterOptions,
    maps: str | None,
    roi: Path | None,
    no_tune: bool,
) -> None:
    """Create GALLERY from normal IMAGES (a folder, a tar or zip archive, a text list, - for a list on
    standard input, or one file), or carry on building it.

    It ends with `tune` and `calibrate`, from 20 images on.
    """
    from spade_index.gallery.reader import CATALOG, Gallery
    from spade_index.gallery.write.train import trained_on
    from spade_index.gallery.write.writer import GalleryWriter

    from .judging import judge_gallery, sized_backbone

    cluster.require()
    loading.limit_decoding()
    found = Sources([images], sources)
    stored: str | Quantized | None = maps
    loaded, region, rule = None, require_region(roi), rule_in(roi)
    found.limit_to(rule)
    found.require_images()
    if (gallery / CATALOG).exists():
        with Gallery(gallery) as begun:
            if not begun.never_used:
                pixels.require_equal(begun)
                tiles.require_equal(begun)
                require_new_region(begun, region)
                require_same_rule(begun, rule)
                found.limit_to(begun.region_rule)
                loaded = backbone.load(device, begun, preset)
    if loaded is None:
        stored = maps or (PAPER_MAPS if preset == "paper" else None)
        cut = tiles.given(cropped=preset is not None or backbone.resize is not None)
        of = pixels.found_in(found.files()) | cut
        if no_tune or preset is not None or not backbone.leaves_size_open:
            loaded = backbone.load(device, preset=preset, pixels=of)
        else:
            loaded = sized_backbone(backbone, device, found.files(), of)
        if stored == TRAINED:
            Progress.note(f"training the tables of {TRAINED} on a sample of the images")
            stored = trained_on(found.files(), loaded)
        tiles.say_size(found.files(), loaded.settings, stored)
    weights = None if backbone.weights is None else str(backbone.weights)
    with cluster.connected(), GalleryWriter(gallery, loaded.settings, weights, maps=stored) as writer:
        if writer.gallery.never_used and writer.gallery.is_limited:  # of a build that failed
            writer.set_interest(None)
        if region is not None:
            set_region(writer, region)
        elif rule is not None and writer.gallery.region_rule is None:
            writer.set_region_rule(rule.text)
        elsewhere = cluster.workers(writer, loaded, weights or writer.gallery.catalog.meta("weights_file"))
        add_images(writer, found, loaded, loading, adding, elsewhere=elsewhere)
        if region is not None:
            say_turned(writer.gallery, region)
        if roi is not None and not writer.gallery.is_limited:
            set_region(writer, found_region(writer.gallery))
        if not no_tune and preset is None:
            judge_gallery(writer, loaded, elsewhere=cluster.searching(loaded))
