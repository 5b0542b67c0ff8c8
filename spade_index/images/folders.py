"""Find the images below a folder."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from spade_index.errors import InputError

from .files import ImageFile, has_image_suffix, is_regular, on_disk, status_of
from .passed_over import GALLERY, MASK, OWN, SPECIAL, SUFFIX, TWICE, PassedOver
from .region_rule import no_mask

DRAWN = ("score_maps", "heatmaps", "masks")  # folders that `query --out` writes, with these names
CATALOG, SHARDS = "catalog.sqlite", "shards"  # in the folder of a gallery


def in_folder(folder: Path, passed_over: PassedOver, is_mask: Callable[[str], bool] = no_mask) -> Iterator[ImageFile]:
    """Yield the images below a folder, in sorted order. Raises InputError if a folder cannot be read.

    `is_mask` says of a path below the folder whether it is that of an image's region of interest, which is no image.
    """
    for root, folders, names in walk(folder, lambda again: passed_over.add(TWICE, again)):
        below = os.path.relpath(root, folder).replace(os.sep, "/") + "/"
        below = "" if below == "./" else below
        if CATALOG in names and SHARDS in folders and below:
            passed_over.add(GALLERY, os.path.join(root, ""))
            folders.clear()
            continue
        own = DRAWN if "score_maps" in folders and "heatmaps" in folders else ()
        folders[:] = [name for name in folders if not _left_out(name, root, below, own, passed_over)]
        for name in names:
            path = os.path.join(root, name)
            if passed_over.leaves_out(name, below + name, path):
                continue
            if not has_image_suffix(name):
                passed_over.add(SUFFIX, path)
                continue
            if is_mask(below + name):
                passed_over.add(MASK, path)
                continue
            status = status_of(path)
            if status is None or is_regular(status):
                yield on_disk(path, below + name, status)
            else:  # reading it would block
                passed_over.add(SPECIAL, path)


def walk(
    folder: str | Path, twice: Callable[[str], object] = lambda again: None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder below and with this one, and the names of its folders and of its files, sorted.

    Folders are followed that the caller leaves in the list, links too; `twice` is told of those that links lead to
    again. Unlike `os.walk`, this raises InputError for a folder that cannot be read, and takes folders of any depth.
    """
    waiting = [os.fspath(folder)]
    seen = set()
    while waiting:
        root = waiting.pop()
        status = status_of(root)
        place = root if status is None else (status.st_dev, status.st_ino)
        if place in seen:  # a link to a folder above
            twice(root)
            continue
        seen.add(place)
        folders: list[str] = []
        names: list[str] = []
        try:
            with os.scandir(root) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else names).append(entry.name)
        except OSError as error:
            raise InputError(
                f"{error.filename or root}: cannot be read ({error.strerror or error}), so its images would be "
                "missing: let it be read, or leave it out with --exclude"
            ) from error
        folders.sort()
        names.sort()
        yield root, folders, names
        waiting += (os.path.join(root, name) for name in reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder. A link that leads to itself is none, as one that leads nowhere."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _left_out(name: str, root: str, below: str, own: tuple[str, ...], passed_over: PassedOver) -> bool:
    path = os.path.join(root, name, "")
    if name in own:
        passed_over.add(OWN, path)
        return True
    return passed_over.leaves_out(name, below + name, path)
