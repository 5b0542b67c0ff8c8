"""The commands that change a gallery: build, add, remove, restore, index, calibrate, compact."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from spade_index.errors import InputError
from spade_index.gallery.reader import CATALOG, Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.find import find_images
from spade_index.images.loading import load_all
from spade_index.settings import STORAGES, IndexSettings

# What needs torch, which takes seconds to import, is imported by the commands that use it.
from .options import (
    Progress,
    adding_options,
    backbone_options,
    device_option,
    files_of,
    gallery_argument,
    images_argument,
    kernel_options,
    loading_options,
    make_backbone,
    make_kernel,
    make_search,
    preset_option,
    require_images,
    search_options,
)

MANY = 500  # images, for which it pays to start decoding processes


@click.command()
@images_argument
@gallery_argument
@backbone_options
@preset_option
@device_option
@loading_options
@adding_options
def build(images: Path, gallery: Path, **options: Any) -> None:
    """Create GALLERY from normal IMAGES (a folder, a tar archive, a text list or one file), or carry on building it."""
    require_images([images])
    there = _open_if_there(gallery)
    weights_file = options["weights"]
    backbone = make_backbone(options, there)
    with GalleryWriter(gallery, backbone.settings, weights_file) as writer:
        _add(writer, [images], backbone, options)


@click.command()
@gallery_argument
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@backbone_options
@device_option
@loading_options
@adding_options
def add(gallery: Path, images: tuple[Path, ...], **options: Any) -> None:
    """Add normal IMAGES to GALLERY."""
    require_images(images)
    with Gallery(gallery) as recorded:
        backbone = make_backbone(options, recorded)
    with GalleryWriter(gallery) as writer:
        _add(writer, images, backbone, options)


@click.command()
@gallery_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def remove(gallery: Path, ids: tuple[str, ...]) -> None:
    """Remove images by ID, all of them or none. Until `compact` they take room, and `restore` takes them back."""
    with GalleryWriter(gallery) as writer:
        snapshot = writer.remove(ids)
        images = f"{len(writer.gallery):,} images at snapshot {snapshot}"
        click.echo(f"{len(set(ids)):,} removed (`restore` takes them back, until `compact`); {images}")


@click.command()
@gallery_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def restore(gallery: Path, ids: tuple[str, ...]) -> None:
    """Take back the removal of images by ID, all of them or none. `list --removed` names those that can be."""
    with GalleryWriter(gallery) as writer:
        snapshot = writer.restore(ids)
        click.echo(f"{len(set(ids)):,} restored; {len(writer.gallery):,} images at snapshot {snapshot}")


@click.command()
@gallery_argument
@click.option(
    "--storage",
    type=click.Choice(STORAGES),
    help="What large galleries' lists hold: float32, float16, 8 bits a value, or a product quantizer's codes "
    "[as before; sq8]. Distances are computed again from the stored descriptors either way.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(0),
    help="Principal components that lists hold of longer descriptors; 0: all values "
    f"[as before; {IndexSettings.dimensions}]",
)
@click.option("--recall", type=float, help=f"Of the 50 nearest images, to reach [as before; {IndexSettings.recall:g}]")
@click.option("--memory", type=click.IntRange(64), help=f"MiB that building may take [{IndexSettings.memory >> 20:,}]")
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    help="Images like those that will be searched for, to reach the recall with [as before; some of the gallery's own]",
)
@backbone_options
@device_option
@loading_options
def index(gallery: Path, queries: Path | None, **options: Any) -> None:
    """Build the FAISS index of GALLERY anew."""
    memory = options.pop("memory")
    changes = {name: options.pop(name) for name in ("storage", "dimensions", "recall")}
    changes["memory"] = memory and memory << 20
    pooled = _pooled(gallery, queries, options) if queries else None
    with GalleryWriter(gallery) as writer:
        changes = {name: value for name, value in changes.items() if value is not None}
        chosen = replace(writer.index_settings(), **changes)
        built = writer.build_index(chosen, pooled, Progress.note)
    click.echo(str(built))
    if built.recall < built.target:
        click.echo(
            f"the recall is below {built.target:g}: take another storage, or fewer neighbours will be found", err=True
        )


@click.command()
@gallery_argument
@search_options
@preset_option
@device_option
@kernel_options
@click.option("--quantile", type=float, default=0.99, show_default=True, help="Of normal images below the threshold.")
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Images to score at most.")
def calibrate(gallery: Path, quantile: float, sample: int, **options: Any) -> None:
    """Choose thresholds from GALLERY's own images: a quantile of their leave-one-out scores."""
    from spade_index.features.backbone import choose_device
    from spade_index.method import calibration

    search = make_search(options)
    where = make_kernel(options) | {"device": choose_device(options.pop("device"))}
    with GalleryWriter(gallery) as writer:
        total = min(sample, len(writer.gallery))
        with Progress("calibrate", total) as progress:
            chosen = calibration.calibrate(
                writer.gallery, search, quantile=quantile, sample=sample, progress=progress, **where
            )
        calibration.store(writer, search, chosen)
    thresholds: Any = chosen["thresholds"]
    click.echo(f"{calibration.RULE} ({chosen['images']} images, quantile {quantile:g})")
    for kind, threshold in thresholds.items():
        click.echo(f"{kind:8} {threshold:.6g}")


@click.command()
@gallery_argument
def compact(gallery: Path) -> None:
    """Reclaim the room of removed images and merge small shards. Removed images and earlier snapshots are forgotten."""
    with GalleryWriter(gallery) as writer:
        with Progress("compact", writer.images_to_move()) as progress:
            freed = writer.compact(progress)
        when = (
            "freed"
            if writer.delete_unused()
            else "to be freed by the next command that writes after readers have closed"
        )
        click.echo(
            f"{len(writer.gallery):,} images at snapshot {writer.gallery.snapshot}, {freed / 1e6:,.1f} MB {when}"
        )


def _open_if_there(path: Path) -> Gallery | None:
    return Gallery(path) if (path / CATALOG).exists() else None


def _add(writer: GalleryWriter, sources: Iterable[Path], backbone: Any, options: dict[str, Any]) -> None:
    sources = list(sources)
    total = sum(1 for _ in files_of(sources)) if sys.stderr.isatty() else None
    with Progress("add", total) as progress:
        report = writer.add(
            files_of(sources, options["prefix"]),
            backbone,
            replace=options["replace"],
            strict=options["strict"],
            batch_size=options["batch_size"],
            workers=options["workers"],
            processes=sum(1 for _ in islice(files_of(sources), MANY)) == MANY,
            notice=progress.say,
            progress=progress,
        )
    if report.failed and not len(writer.gallery):
        raise InputError(f"none of {report.failed:,} images could be decoded")
    if writer.index_is_stale():
        try:
            writer.build_index()
        except InputError as error:  # new images are found without
            Progress.say(f"the index was not built again: {error}")
    click.echo(f"{report}; {len(writer.gallery):,} images at snapshot {writer.gallery.snapshot}")


def _pooled(gallery: Path, images: Path, options: dict[str, Any]) -> np.ndarray:
    """Pooled descriptors of images, float32 [n, D], by the gallery's backbone."""
    require_images([images])
    with Gallery(gallery) as recorded:
        backbone = make_backbone(options, recorded)
        recorded.settings.require_equal(backbone.settings, str(gallery))
    loaded = load_all(
        find_images(images),
        backbone.settings.preprocessing,
        workers=options["workers"],
        ahead=2 * options["batch_size"],
        on_error=lambda error: Progress.say(f"skipped {error}"),
    )
    descriptors = [backbone(np.stack([image.pixels])).pooled.cpu().numpy() for image in loaded]
    if not descriptors:
        raise InputError(f"{images}: none of its images could be decoded")
    return np.concatenate(descriptors)
