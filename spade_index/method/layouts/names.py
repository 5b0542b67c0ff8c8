"""Folders of datasets by their names, whatever the capitals: `Train`, `GROUND_TRUTH`, `ground truth`."""

from pathlib import Path


def below(folder: Path, *names: str) -> Path:
    """Return the path of these names below a folder, each as it is spelled there; as given where there is none.

    Raises OSError if a folder cannot be read.
    """
    for name in names:
        folder = _spelled(folder, name)
    return folder


def plain(name: str) -> str:
    """Return what spellings of a name have in common."""
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")


def _spelled(folder: Path, name: str) -> Path:
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return min((entry for entry in folder.iterdir() if plain(entry.name) == plain(name)), default=exact)
