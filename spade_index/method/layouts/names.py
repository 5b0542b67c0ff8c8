"""What datasets name: folders, whatever the capitals (`Train`, `GROUND_TRUTH`, `ground truth`), and images of lists."""

import os
from dataclasses import replace
from pathlib import Path

from spade_index.errors import InputError
from spade_index.images.files import as_path, as_spelled, as_text, one_spelling
from spade_index.images.find import ImageFile, find_images


def below(folder: Path, *names: str) -> Path:
    """Return the path of these names below a folder, each as it is spelled there; as given where there is none.

    Raises OSError if a folder cannot be read.
    """
    for name in names:
        folder = _spelled(folder, name)
    return folder


def spelled_in(folder: Path, name: str) -> Path:
    """Return the path that a list names, relative to a folder or to `~`, whether it is there or not."""
    return Path(as_spelled(folder, os.path.expanduser(as_path(name))))


def listed(folder: Path, name: str, where: str) -> Path:
    """Return the file or folder that a list names. Raises InputError, by `where` it is named, if it is not there."""
    path = spelled_in(folder, name)
    if not path.exists():
        raise InputError(f"{where}: {path} does not exist")
    return path


def listed_image(folder: Path, name: str, where: str) -> ImageFile:
    """Return the image that a list names, which is its id, too. Raises InputError as `listed`, and for another file."""
    path = listed(folder, name, where)
    file = next(find_images(path, pages=False), None) if path.is_file() else None
    if file is None or file.path != as_text(os.path.abspath(path)):  # that of a list or an archive is of another file
        raise InputError(f"{where}: {path} is not an image")
    return replace(file, id=as_text(as_path(Path(name).as_posix())))


def plain(name: str) -> str:
    """Return what spellings of a name have in common."""
    return one_spelling(name).casefold().replace("_", "").replace("-", "").replace(" ", "")


def _spelled(folder: Path, name: str) -> Path:
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return min((entry for entry in folder.iterdir() if plain(entry.name) == plain(name)), default=exact)
