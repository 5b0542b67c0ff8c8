"""Find the images below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from spade_index.errors import InputError

from .files import ImageFile, has_image_suffix, is_regular, on_disk, status_of
from .passed_over import OWN, SPECIAL, SUFFIX, TWICE, PassedOver

DRAWN = ("score_maps", "heatmaps", "masks")  # folders that `query --out` writes, with these names


def in_folder(folder: Path, passed_over: PassedOver) -> Iterator[ImageFile]:
    """Yield the images below a folder, in sorted order. Raises InputError if a folder cannot be read."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            passed_over.add(TWICE, root)
            folders.clear()
            continue
        seen.add(real)
        below = os.path.relpath(root, folder).replace(os.sep, "/") + "/"
        below = "" if below == "./" else below
        own = DRAWN if "score_maps" in folders and "heatmaps" in folders else ()
        folders[:] = [name for name in sorted(folders) if not _left_out(name, root, below, own, passed_over)]
        for name in sorted(names):
            path = os.path.join(root, name)
            if passed_over.leaves_out(name, below + name, path):
                continue
            if not has_image_suffix(name):
                passed_over.add(SUFFIX, path)
                continue
            status = status_of(path)
            if status is None or is_regular(status):
                yield on_disk(path, below + name, status)
            else:  # reading it would block
                passed_over.add(SPECIAL, path)


def _left_out(name: str, root: str, below: str, own: tuple[str, ...], passed_over: PassedOver) -> bool:
    path = os.path.join(root, name, "")
    if name in own:
        passed_over.add(OWN, path)
        return True
    return passed_over.leaves_out(name, below + name, path)


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: cannot be read ({error.strerror or error}), so its images would be missing: "
        "let it be read, or leave it out with --exclude"
    ) from error
