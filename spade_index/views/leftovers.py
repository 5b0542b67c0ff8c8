"""What an earlier run wrote into the same folder, and this one did not write again."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from spade_index.images.files import as_text

SHOWN = 3  # names in a line


def left_over(folder: Path, suffix: str, written: Collection[str]) -> list[str]:
    """Return the files below a folder with this suffix that were not written: paths below it, without the suffix.

    Args:
        folder: that may not be there.
        suffix: of the files, ".npy".
        written: paths below the folder, without the suffix.
    """
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith(suffix):
                path = os.path.relpath(os.path.join(root, name), folder).replace(os.sep, "/").removesuffix(suffix)
                found += [] if path in written else [path]
    return sorted(found)


def few(names: Iterable[str]) -> str:
    """Return the first of some names, and whether there are more."""
    given = [as_text(name) for name in names]
    return ", ".join(given[:SHOWN]) + (", ..." if len(given) > SHOWN else "")
