"""Masks of a folder, found by the names of their images."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from spade_index.images.files import SUFFIXES, one_spelling
from spade_index.images.folders import walk
from spade_index.images.passed_over import is_debris


class Masks:
    """The masks below a folder, and its folders, which may be folders of masks."""

    def __init__(self, folder: Path) -> None:
        """Look through a folder, which need not be there. Raises InputError if one cannot be read."""
        self._found: dict[str, list[Path]] = defaultdict(list)
        for parent, folders, names in walk(folder) if folder.is_dir() else ():
            here = Path(parent)
            folders[:] = [name for name in folders if not is_debris(name)]
            for name in folders:
                self._found[_alike((here / name).relative_to(folder).as_posix())].append(here / name)
            for path in (here / name for name in names):
                if path.suffix.lower() in SUFFIXES:
                    self._found[_alike(_stem(path.relative_to(folder)))].append(path)

    def of(self, image: Path, endings: Iterable[str]) -> Path | None:
        """Return the mask of an image, of its path below the folder: its name, and one of the endings.

        Capitals, Unicode's normal forms and suffixes do not matter, unless several masks differ by them alone.
        """
        for ending in endings:
            named = _stem(image) + ending
            if found := self._found.get(_alike(named)):
                return min(found, key=lambda path: _distance(path, named, image))
        return None


def _distance(path: Path, named: str, image: Path) -> tuple[object, ...]:
    """Return what a mask differs in from the one that is looked for, the most important first."""
    stem = path.name if path.is_dir() else path.stem
    suffix = path.suffix.lower()
    return (
        path.is_file(),
        stem != os.path.basename(named),
        one_spelling(stem) != one_spelling(os.path.basename(named)),
        suffix != image.suffix.lower(),
        suffix != ".png",
        path.name,
    )


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _alike(path: str) -> str:
    """Return what spellings of a path have in common."""
    return one_spelling(path).casefold()
