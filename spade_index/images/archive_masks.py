"""Regions of interest of images in an archive: masks in the same archive, or else beside it."""

import errno
import os
import zipfile
from functools import partial
from pathlib import Path

from spade_index.errors import InputError

from .files import HELD, SUFFIXES, ImageFile, MaskFile, as_text, suffix_of
from .links import member_path
from .passed_over import PassedOver
from .region_rule import RegionRule
from .tars import in_tar, is_tar
from .zips import in_zip


class ArchiveMasks:
    """The masks that a rule names for the images of an archive."""

    def __init__(self, path: str | Path, rule: RegionRule) -> None:
        """Look through the archive; its masks are read later, those of a compressed tar archive now.

        Raises InputError for a damaged archive, or for more masks than are held in memory.
        """
        self._rule = rule
        self._path = os.path.abspath(path)
        found = find_masks(Path(path), rule) if os.path.exists(path) else []
        self._members = {member_path(file.id): file for file in found}
        held = sum(file.size for file in found if file.held)
        if held > HELD:
            raise InputError(f"{as_text(self._path)}: {held:,} bytes of masks are packed in it: unpack it first")

    def of(self, image: str) -> MaskFile:
        """Return the mask of a member: in the archive, or beside it; what is not there is named when it is read."""
        within = as_text(self._rule.path_of(image, ""))
        if (found := self._members.get(within)) is not None:
            return MaskFile.named(found.path, found.read)
        beside = self._rule.path_of(image, os.path.dirname(self._path))
        if os.path.exists(beside) or not self._members:
            return MaskFile.at(beside)
        name = f"{as_text(self._path)}::{within}"
        return MaskFile.named(name, partial(_missing, name))


def find_masks(path: Path, rule: RegionRule) -> list[ImageFile]:
    """Return the members of an archive that a rule names as masks. Raises InputError."""
    is_mask = rule.masks_within()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES and is_tar(path):
        return list(in_tar(path, PassedOver(), wanted=is_mask))
    if suffix == ".zip" or (suffix not in SUFFIXES and zipfile.is_zipfile(path)):
        return list(in_zip(path, PassedOver(), wanted=is_mask))
    return []


def holds_members(path: Path) -> bool:
    """Return whether a file is an archive that is read."""
    return path.is_file() and suffix_of(path.name) not in SUFFIXES and (zipfile.is_zipfile(path) or is_tar(path))


def _missing(name: str) -> bytes:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
