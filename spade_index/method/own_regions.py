"""Regions of interest that a rule names, for images that a gallery holds already and for those of a dataset."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from pathlib import PurePosixPath

from spade_index.errors import ImageError, InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.images.archive_masks import ArchiveMasks
from spade_index.images.files import ImageFile, MaskFile, as_path, is_regular, read_any, status_of
from spade_index.images.find import find_images
from spade_index.images.geometry import Geometry
from spade_index.images.interest import PackedRegion
from spade_index.images.mask_pixels import orientation_of
from spade_index.images.pages import without_page
from spade_index.images.region_files import own_region
from spade_index.images.region_rule import RegionRule
from spade_index.images.tiles import picture_of

from .labelled import Dataset, LabelledImage

NAMED = 3  # images without a mask that are named


def regions_by_rule(
    gallery: Gallery, rule: RegionRule, progress: Callable[[int], None] = lambda images: None
) -> dict[int, PackedRegion | None]:
    """Return the regions of all images of a gallery, also of removed ones that can be restored, by key.

    The rule is relative to the folder that the id of an image begins in. Raises InputError naming images whose mask is
    missing or does not fit.
    """
    found: dict[int, PackedRegion | None] = {}
    wrong: list[str] = []
    archives: dict[str, _Archive] = {}
    last: tuple[tuple[str, int, int], PackedRegion | None] | None = None  # of the picture before: tiles share it
    for row in chain(gallery.images(), gallery.removed_images()):
        picture = row.path, row.width, row.height
        if last is None or last[0] != picture:
            try:
                last = picture, _region_of(gallery, row, rule, archives)
            except ImageError as error:
                wrong.append(str(error))
                last = picture, None
        found[row.key] = last[1]
        progress(1)
    if wrong:
        more = f"; {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
        raise InputError(f"{'; '.join(wrong[:NAMED])}{more}: nothing was changed")
    return found


class _Archive:
    """An archive that images of a gallery were added from."""

    def __init__(self, path: str, rule: RegionRule) -> None:
        self.masks = ArchiveMasks(path, rule)
        self._path = path

    def orientation(self, image: str) -> int:
        """Return EXIF's orientation of an image in it, 1 to 8; 1 if it is not there any more."""
        return self._orientations[image]() if image in self._orientations else 1

    @cached_property
    def _orientations(self) -> dict[str, Callable[[], int]]:
        """How to find the orientation of each image; those of a packed archive are read once, one by one."""
        found: dict[str, Callable[[], int]] = {}
        for file in find_images(self._path, pages=False) if os.path.exists(self._path) else ():
            turned = partial(_orientation, file)
            found[file.path] = partial(int, turned()) if file.held else turned
        return found


def _orientation(file: ImageFile) -> int:
    try:
        return orientation_of(file.read())
    except (ImageError, OSError):  # it was not so when it was added
        return 1


def _region_of(gallery: Gallery, row: ImageRow, rule: RegionRule, archives: dict[str, _Archive]) -> PackedRegion | None:
    below, root = place_in_source(
        row.id if gallery.settings.preprocessing.tile is None else picture_of(row.id), row.path
    )
    file = ImageFile(row.id, row.path, row.size, row.mtime_ns, partial(_contents, row.path))
    shown = Geometry.of_size(row.width, row.height)
    archive, inside, _ = row.path.partition("::")
    if inside:
        if archive not in archives:
            archives[archive] = _Archive(as_path(archive), rule)
        file = replace(file, region=archives[archive].masks.of(below))
        turned = partial(archives[archive].orientation, without_page(row.path))
        region = own_region(file, shown, orientation=turned)
    else:
        region = own_region(replace(file, region=MaskFile.at(rule.path_of(below, root))), shown)
    return None if region is None else region.packed


def _contents(path: str) -> bytes:
    """Return the bytes of an image, for its orientation; nothing of one that is gone."""
    path = as_path(without_page(path))
    status = status_of(path)
    return read_any(path) if status is not None and is_regular(status) else b""


def place_in_source(id: str, path: str) -> tuple[str, str]:
    """Return the path of an image below its source, and the folder of that, from its id and path.

    An id is that path after a prefix; which part is the prefix follows from the path.
    """
    archive, inside, member = path.partition("::")
    if inside:
        return member, os.path.dirname(as_path(archive))
    names, parts = PurePosixPath(id).parts, PurePosixPath(path).parts
    common = 1
    while common < min(len(names), len(parts) - 1) and names[-common - 1] == parts[-common - 1]:
        common += 1
    return "/".join(parts[-common:]), as_path(str(PurePosixPath(*parts[:-common])))


def limited(dataset: Dataset, rule: RegionRule | None) -> Dataset:
    """Return a dataset whose images have masks by a rule that is relative to its folder."""
    if rule is None:
        return dataset
    root = os.path.abspath(dataset.path if dataset.path.is_dir() else dataset.path.parent)

    def of(file: ImageFile) -> ImageFile:
        return replace(file, region=MaskFile.at(rule.path_of(os.path.relpath(file.path, root), root)))

    def of_all(images: Iterable[LabelledImage]) -> list[LabelledImage]:
        return [replace(image, file=of(image.file)) for image in images]

    return replace(
        dataset,
        normal=list(map(of, dataset.normal)),
        test=of_all(dataset.test),
        unlabelled=of_all(dataset.unlabelled),
    )
