"""Find image files: folders, single files, text lists, and tar and zip archives."""

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from spade_index.errors import InputError
from spade_index.paths import path_of

from .archive_masks import ArchiveMasks, holds_members
from .files import SUFFIXES, ImageFile, MaskFile, as_text, is_drawn, on_disk, status_of, suffix_of
from .folders import in_folder
from .lists import LIST_SUFFIXES, TextList, in_list, is_stream, read_list
from .pages import with_pages
from .passed_over import PassedOver
from .region_rule import RegionRule, no_mask
from .tars import in_tar, is_tar
from .zips import in_zip

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz")
OTHER_ARCHIVES = (".7z", ".rar", ".zst", ".lz4", ".lz", ".br", ".cab", ".iso", ".dmg")


def find_images(
    source: str | Path | TextList,
    prefix: str = "",
    passed_over: PassedOver | None = None,
    *,
    pages: bool = True,
    rule: RegionRule | None = None,
) -> Iterator[ImageFile]:
    """Yield the images of a folder (recursive, sorted), a tar or zip archive, a text list of paths, or a single file.

    `prefix` is put before each id. The pages of a TIFF after the first are images of their own, as `name#2` and so on,
    unless `pages` is false. `passed_over` says what is left out, and counts it; by default that is hidden files,
    what systems leave behind, and what `query --out` drew. By a `rule` each image has a mask of its own; such masks are
    no images of a folder. A pipe is read as a list. Raises InputError if `source` does not exist, or it or a folder in
    it cannot be read.
    """
    mask = None if rule is None else _masks_of(source, rule)
    for found in _found(source, PassedOver() if passed_over is None else passed_over, rule):
        if mask is not None:
            found = replace(found, region=mask(found.id))
        for file in with_pages(found) if pages else (found,):
            yield replace(file, id=prefix + file.id) if prefix else file


def _masks_of(source: str | Path | TextList, rule: RegionRule) -> Callable[[str], MaskFile]:
    """Return a function that returns the mask of an image, of its path below the source. Raises InputError."""
    if not isinstance(source, TextList) and holds_members(path_of(source, "the path of the images")):
        return ArchiveMasks(source, rule).of
    root = root_of(source)
    return lambda image: MaskFile.at(rule.path_of(image, root))


def root_of(source: str | Path | TextList) -> str:
    """Return the folder that the paths in a source, and a rule for its masks, are relative to."""
    if isinstance(source, TextList):
        return source.folder
    if os.path.isdir(source):
        return os.fspath(source)
    return "" if is_stream(source) else os.path.dirname(source)


def is_archive(name: str) -> bool:
    """Return whether a file is an archive by its name, of a kind that is read or not."""
    return suffix_of(name) in (*ARCHIVES, *OTHER_ARCHIVES)


def _found(
    source: str | Path | TextList, passed_over: PassedOver, rule: RegionRule | None = None
) -> Iterator[ImageFile]:
    if isinstance(source, TextList):
        return in_list(source, passed_over)
    path = path_of(source, "the path of the images")
    if path.is_dir():
        return in_folder(path, passed_over, no_mask if rule is None else rule.masks_below(str(path)))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if not path.is_file() and (not is_stream(path) or is_archive(path.name)):
        raise InputError(f"{as_text(str(path))}: a pipe or a device: name a file or a folder, or a pipe with a list")
    if suffix in OTHER_ARCHIVES:
        raise InputError(f"{path}: archives of this kind are not read: unpack it, or make it a zip or tar.gz archive")
    if suffix in LIST_SUFFIXES or is_stream(path):
        return in_list(read_list(path), passed_over)
    if suffix not in SUFFIXES and is_tar(path):
        return in_tar(path, passed_over, no_mask if rule is None else rule.masks_within())
    if suffix == ".zip" or (suffix not in SUFFIXES and zipfile.is_zipfile(path)):
        return in_zip(path, passed_over, no_mask if rule is None else rule.masks_within())
    return _alone(path, passed_over)


def _alone(path: Path, passed_over: PassedOver) -> Iterator[ImageFile]:
    if not passed_over.excludes(str(path)):
        if is_drawn(str(path)):
            passed_over.take_drawn(str(path))
        yield on_disk(os.fspath(path), path.name, status_of(str(path)), named=True)
