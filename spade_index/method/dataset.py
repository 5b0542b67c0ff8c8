"""The test set and the normal images of a dataset, and a gallery of the latter."""

from collections.abc import Callable
from pathlib import Path

from spade_index.errors import ImageError, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.region_rule import RegionRule
from spade_index.settings import BATCH_SIZE, WORKERS

from .labelled import GOOD, UNLABELLED, Dataset, LabelledImage, Saturation
from .layouts import find_datasets

__all__ = [
    "GOOD",
    "UNLABELLED",
    "Dataset",
    "LabelledImage",
    "Saturation",
    "build_gallery",
    "find_dataset",
    "find_test_images",
]


def find_dataset(path: str | Path, layout: str | None = None) -> Dataset:
    """Return the one category at a path; arguments and errors as for `find_datasets`."""
    found = find_datasets(path, layout)
    if found.is_root:
        names = ", ".join(dataset.name for dataset in found.datasets)
        raise InputError(f"{path}: has several categories ({names}): name one of them")
    return found.datasets[0]


def find_test_images(dataset: str | Path) -> list[LabelledImage]:
    """Return the test set of a dataset in any layout, for example test/KIND/*, ground_truth/KIND/*_mask.png.

    Raises:
        InputError: there are no good images, no defective ones, or some defective ones have a mask and others not.
    """
    return find_dataset(dataset).test


def build_gallery(
    dataset: str | Path | Dataset,
    path: Path,
    backbone: Backbone,
    *,
    maps: str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = WORKERS,
    rule: RegionRule | None = None,
    failed: Callable[[ImageError], None] = lambda error: None,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] = lambda images: None,
) -> Gallery:
    """Build a gallery of a dataset's normal images, with an index; return it open.

    Args:
        dataset: a path, or what was found there.
        path: of the gallery.
        backbone: that computes the features.
        maps: the codec of the gallery's maps; None: that of new galleries.
        batch_size: images per batch.
        workers: decoding threads.
        rule: that names the regions of interest of the images, if they have them.
        failed: given the error of each image that cannot be decoded, which is left out.
        notice: told of the same in words, and of other images that are left out, as those that this package drew.
        progress: told of the number of images done.

    Raises:
        InputError: the dataset has no normal images, or none of them can be decoded.
    """
    found = dataset if isinstance(dataset, Dataset) else find_dataset(dataset)
    normal = found.require_normal()
    with GalleryWriter(path, backbone.settings, maps=maps) as writer:
        if rule is not None:
            writer.set_region_rule(rule.text)
        writer.add(
            iter(normal),
            backbone,
            left_out=lambda drawn: notice(f"skipped {drawn}"),
            failed=failed,
            batch_size=batch_size,
            workers=workers,
            notice=notice,
            progress=progress,
        )
        if not len(writer.gallery):
            raise InputError(f"{found.path}: none of the normal images in {found.normal_from} could be decoded")
        writer.build_index()
    return Gallery(path)
