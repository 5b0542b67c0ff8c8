"""Datasets in MVTec layout: train/good, test/KIND and ground_truth/KIND."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.find import ImageFile, find_images
from spade_index.images.masks import MASK_SUFFIXES, Marked
from spade_index.settings import BATCH_SIZE, WORKERS

GOOD = "good"
UNLABELLED = ""  # the kind of an image of which nobody says whether it is good


@dataclass(frozen=True)
class Saturation:
    """How much of a defect is enough to have found it (MVTec LOCO)."""

    threshold: float  # pixels of the mask, or a share of the defect
    relative: bool

    def enough(self, marked: Marked) -> float:
        """Return the number of a mask's resized pixels that is enough."""
        share = self.threshold if self.relative else min(self.threshold, marked.area) / max(marked.area, 1)
        return float(share * marked.pixels.sum())


@dataclass(frozen=True)
class LabelledImage:
    """An image of a test set, with its ground truth."""

    file: ImageFile
    kind: str  # "good", or the kind of defect: "crack"
    mask: Path | None  # a file or a folder of files; None for a good image, or where there are no masks
    saturations: Mapping[int, Saturation] | None = None  # by the value of a mask; None: whole defects are to be found

    def enough(self, marked: Marked) -> float | None:
        """Return how many of the pixels of a mask are enough to have found it; None where that is not stated."""
        if self.saturations is None:
            return None
        return self.saturations.get(marked.value, Saturation(1.0, relative=True)).enough(marked)


def find_test_images(dataset: str | Path) -> list[LabelledImage]:
    """Return the test set of a dataset: test/KIND/*, ground_truth/KIND/*_mask.png.

    Raises:
        InputError: there are no good images, no defective ones, or some defective ones have a mask and others not.
    """
    root = Path(dataset)
    kinds = sorted(path for path in (root / "test").glob("*") if path.is_dir())
    found = [
        LabelledImage(file, kind.name, _mask_of(root / "ground_truth" / kind.name, Path(file.id)))
        for kind in kinds
        for file in find_images(kind, prefix=f"{kind.name}/")
    ]
    for wanted, there in (
        ("test/good", any(image.kind == GOOD for image in found)),
        ("test/KIND", any(image.kind != GOOD for image in found)),
    ):
        if not there:
            raise InputError(f"{root}: no images in {wanted}: a dataset in MVTec layout has test/good and test/KIND")
    if any(image.mask is not None for image in found):  # without any, the images are still to be judged
        for image in found:
            if image.kind != GOOD and image.mask is None:
                raise InputError(f"{image.file.path}: has no mask in {root / 'ground_truth' / image.kind}")
    return found


def build_gallery(
    dataset: str | Path,
    path: Path,
    backbone: Backbone,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int = WORKERS,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] = lambda images: None,
) -> Gallery:
    """Build a gallery of a dataset's train/good, with an index; return it open.

    Args:
        dataset: folder of the dataset.
        path: of the gallery.
        backbone: that computes the features.
        batch_size: images per batch.
        workers: decoding threads.
        notice: told of images that cannot be decoded.
        progress: told of the number of images done.

    Raises:
        InputError: the dataset has no train/good, or no image in it.
    """
    normal = require_normal(dataset)
    with GalleryWriter(path, backbone.settings) as writer:
        writer.add(
            find_images(normal), backbone, batch_size=batch_size, workers=workers, notice=notice, progress=progress
        )
        if not len(writer.gallery):
            raise InputError(f"{normal}: no images in it (JPEG, PNG, BMP, TIFF, WebP)")
        writer.build_index()
    return Gallery(path)


def require_normal(dataset: str | Path) -> Path:
    """Return a dataset's folder of normal images. Raises InputError if there is none."""
    normal = Path(dataset) / "train" / "good"
    if not normal.is_dir():
        raise InputError(f"{normal}: no such folder: a dataset in MVTec layout has one (or give --gallery)")
    return normal


def _mask_of(folder: Path, name: Path) -> Path | None:
    def candidates() -> Iterator[Path]:
        relative = Path(*name.parts[1:])  # below the folder of the kind
        there = _names(folder / relative.parent)
        for suffix in [".png", *sorted(MASK_SUFFIXES)]:
            for stem in (f"{name.stem}_mask", name.stem):
                found = there.get(f"{stem}{suffix}".casefold())
                if found is not None:
                    yield folder / relative.with_name(found)

    return next((path for path in candidates() if path.is_file()), None)


def _names(folder: Path) -> dict[str, str]:
    """Return the names in a folder, by what they are without upper case."""
    return {name.casefold(): name for name in sorted(os.listdir(folder))} if folder.is_dir() else {}
